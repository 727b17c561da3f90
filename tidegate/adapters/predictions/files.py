"""Which files of the log count, and how some take the place of others without losing or doubling a record.

A Parquet file is made under a temporary name, synced, and renamed; only then does what it was made of go. A
crash in between leaves both, and the names tell which counts: `part-<segment>` does not while its segment is
there, and a file that a `merged-…` says it replaces does not while that one is there. Whoever works holds
`work.lock`; files change places under `read.lock`, which readers share: nobody reads half of a change.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.core.segments import Segment, parse
from tidegate.errors import PlatformError, Unreachable

SEGMENTS, PART, MERGED, TEMPORARY = "segments", "part-", "merged-", ".making-"
OPEN, CLOSED, DAMAGED = ".open", ".closed", ".damaged"
REPLACES = b"tidegate.replaces"
PATIENCE = 30.0  # seconds for others to end their work, or their reading
GROUP_ROWS = 100_000


@dataclass(frozen=True)
class Part:
    """A Parquet file of one model and day."""

    path: Path

    @property
    def model(self) -> str:
        """Whose predictions they are."""
        return self.path.parent.parent.name.removeprefix("model=")

    @property
    def day(self) -> str:
        """The day (UTC) of its predictions."""
        return self.path.parent.name.removeprefix("day=")

    @property
    def made_of(self) -> str:
        """The name of the segment that it was made of; empty for one of many."""
        return self.path.stem.removeprefix(PART) if self.path.name.startswith(PART) else ""


class Files:
    """The files in `folder`. OSErrors become PlatformError where work begins (`working`, `reading`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ------------------------------------------------------------ locks
    @contextmanager
    def working(self, wait: float = PATIENCE) -> Iterator[None]:
        """Be the only one who changes files; raises Unreachable when another is still at it."""
        with self._held("work.lock", fcntl.LOCK_EX, wait):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See files that stay where they are meanwhile."""
        with ExitStack() as stack:
            with self._held("turn.lock", fcntl.LOCK_SH, PATIENCE):
                stack.enter_context(self._held("read.lock", fcntl.LOCK_SH, PATIENCE))
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change places of files while nobody reads: renames and removals, no more.

        Whoever comes to read meanwhile waits: readers that follow each other would else never end.
        """
        with (
            self._held("turn.lock", fcntl.LOCK_EX, PATIENCE),
            self._held("read.lock", fcntl.LOCK_EX, PATIENCE),
        ):
            yield

    @contextmanager
    def _held(self, name: str, kind: int, wait: float) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        try:
            _lock(handle, kind, wait, self.folder)
            yield
        except (OSError, pa.ArrowException) as error:
            raise _unusable(self.folder, error) from error
        finally:
            os.close(handle)

    # ------------------------------------------------------------ segments
    def segments(self, *, growing: bool = True) -> list[Path]:
        """Return segments, the oldest first; without `growing` only those that are closed."""
        ends = (OPEN, CLOSED) if growing else (CLOSED,)
        found = (path for end in ends for path in (self.folder / SEGMENTS).glob(f"*/*{end}"))
        return sorted(found, key=lambda path: (path.name, path))

    def close(self, before: float) -> None:
        """Close the open segments begun before a moment: their services begin others.

        A service that writes to it this very moment is waited for; what it writes later is elsewhere.
        """
        for path in (self.folder / SEGMENTS).glob(f"*/*{OPEN}"):
            if _begun(path) >= before:
                continue
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # its service has just closed it
            try:
                _lock(handle, fcntl.LOCK_EX, PATIENCE, path)
                if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                    path.rename(path.with_suffix(CLOSED))
            finally:
                os.close(handle)

    def forget_damaged(self, before: float) -> None:
        """Remove what was set aside since it can't be read, of segments begun before a moment."""
        for path in (self.folder / SEGMENTS).glob(f"*/*{DAMAGED}"):
            if _begun(path) < before:
                path.unlink(missing_ok=True)

    def read(self, path: Path) -> Segment | None:
        """Return a segment's content, also of one that has been closed meanwhile; None where it has none."""
        for name in (path, path.with_suffix(CLOSED)):
            try:
                return parse(name.read_bytes())
            except FileNotFoundError:
                continue
        return None

    # ------------------------------------------------------------ Parquet
    def parts(self) -> list[Part]:
        """Return the Parquet files that count."""
        waiting = {path.stem for path in self.segments()}
        found = self._all()
        gone = {part.path.parent / name for part in found for name in _replaced(part.path)}
        return [part for part in found if part.made_of not in waiting and part.path not in gone]

    def _all(self) -> list[Part]:
        return [Part(path) for path in sorted(self.folder.glob("model=*/day=*/*.parquet"))]

    def tidy(self) -> None:
        """Remove what a crash has left: files that don't count, and those that were never finished."""
        for path in self.folder.glob(f"model=*/day=*/{TEMPORARY}*"):
            path.unlink(missing_ok=True)
        # Those of segments that are here are made anew; the others are in the file that replaces them.
        counting = {part.path for part in self.parts()}
        left = [part.path for part in self._all() if part.path not in counting]
        if left:
            self.put((), left)

    def place(self, model: str, day: str) -> Path:
        """Return the folder of a model's day, made where there is none."""
        folder = self.folder / f"model={model}" / f"day={day}"
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def write(self, folder: Path, table: pa.Table, replaces: Sequence[str] = ()) -> Path:
        """Write a table under a temporary name; it is on the disk when this returns."""
        if replaces:
            kept = {**(table.schema.metadata or {}), REPLACES: json.dumps(list(replaces)).encode()}
            table = table.replace_schema_metadata(kept)
        path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            pq.write_table(
                table,
                file,
                row_group_size=GROUP_ROWS,
                compression="zstd",
                # One request among millions: its id is looked for in files that may have it only.
                bloom_filter_options={
                    "request_id": {"ndv": max(1, min(len(table), GROUP_ROWS)), "fpp": 0.01}
                },
            )
            file.flush()
            os.fsync(file.fileno())
        return path

    def put(self, made: Iterable[tuple[Path, Path]], gone: Iterable[Path] = ()) -> None:
        """Give finished files their names, then remove what they replace; in this order on the disk, too."""
        with self.changing():
            folders = set()
            for temporary, path in made:
                os.rename(temporary, path)
                folders.add(path.parent)
            for folder in folders:
                _sync(folder)
            for path in gone:
                path.unlink(missing_ok=True)


def merged_name(names: Sequence[str]) -> str:
    """Return the name of the file that replaces these: the same after a crash."""
    return f"{MERGED}{hashlib.sha256(chr(10).join(sorted(names)).encode()).hexdigest()[:20]}.parquet"


def metadata_of(path: Path) -> dict[bytes, bytes]:
    """Return a Parquet file's own notes."""
    return dict(pq.read_schema(path).metadata or {})


@lru_cache(maxsize=4096)  # a merged file is never written again under its name, but to erase rows of it
def _replaced(path: Path) -> tuple[str, ...]:
    if not path.name.startswith(MERGED):
        return ()
    return tuple(json.loads(metadata_of(path).get(REPLACES, b"[]")))


def _begun(path: Path) -> float:
    stamp = path.name.split("-", 1)[0]
    return int(stamp) / 1000 if stamp.isdigit() else 0.0


def _lock(handle: int, kind: int, wait: float, path: Path) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise Unreachable(f"{path} is in use by another process", "Try again in a minute.") from None
            time.sleep(0.01)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unusable(folder: Path, error: Exception) -> PlatformError:
    return PlatformError(f"the predictions in {folder} can't be used: {error}", "Make room or give access.")
