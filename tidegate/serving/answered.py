"""Where a service writes down its answers for the plane to compare; travels inside every Bento.

Only answers that the router asks for by a header, and off their path: a disk that is full, slow or gone
costs lines of the journal, never a request.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tidegate.serving.measuring import Measuring, number
from tidegate.serving.spool import Spool

JOURNALED = b"x-tidegate-journal"
ARM = b"x-tidegate-arm"
COPY = b"-shadow"  # what Envoy adds to the host of a mirrored request
FOLDER = "TIDEGATE_ANSWERS"  # the variable that names the folder

BACKLOG = 4 * 1024 * 1024  # bytes that may wait for the disk
FILE_BYTES = 32 * 1024 * 1024  # of one file; one older one is kept
LINE_BYTES = 2048  # of a longer line only score and decision are written
CLOSING_SECONDS = 2.0
KEPT_SECONDS = 2 * 86400.0  # after which a file that no process writes any more is removed

_encode = msgspec.json.Encoder().encode


def arm(headers: Mapping[bytes, bytes]) -> str:
    """Return how a request came to this release, as the router says: `20%`, `match`, `apart`, or `copy`."""
    said = headers.get(ARM)
    if said is None:  # asked without a router
        return ""
    host = headers.get(b"host") or headers.get(b":authority", b"")
    return "copy" if COPY in host else said.decode("latin-1")


class Journal:
    """Answers as lines of JSON in `<release>.<pid>.jsonl`; never raises, and loses lines rather than time."""

    def __init__(self, folder: Path, release: str, limit: int = FILE_BYTES) -> None:
        self.path = folder / f"{release}.{os.getpid()}.jsonl"
        self._spool = Spool(Lines(self.path, limit), BACKLOG, "answers")

    @staticmethod
    def of_environment() -> Journal | None:
        """Return the journal that the environment asks for; None outside of a plane."""
        folder, release = os.environ.get(FOLDER), os.environ.get("TIDEGATE_RELEASE")
        return Journal(Path(folder), release) if folder and release else None

    @property
    def lost(self) -> int:
        """How many answers could not be written down."""
        return self._spool.dropped + self._spool.failed

    @property
    def waiting(self) -> int:
        """Bytes that are not on the disk yet."""
        return self._spool.waiting

    def note(
        self, measuring: Measuring, request: str, status: int, ms: float, answer: dict[str, Any]
    ) -> None:
        """Write down one answer; `answer` is the model's, empty for a refusal or a failure."""
        said = {
            "id": request,
            "at": time.time(),
            "score": number(answer.get(measuring.score)),
            "decision": _plain(answer.get(measuring.decision)),
            "status": status,
            "ms": round(ms, 4),
        }
        try:
            line = _encode({**said, "answer": answer}) + b"\n"
        except (TypeError, ValueError):
            line = b""
        self._spool.put(line if 0 < len(line) <= LINE_BYTES else _encode(said) + b"\n")

    def close(self) -> None:
        """Write what is left; a disk that does not answer is waited for 2 s."""
        self._spool.close(CLOSING_SECONDS)


class Lines:
    """`spool.Sink` that appends lines to a file, below its limit, and keeps the one before."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self._limit = path, limit
        self._file, self._torn, self._swept = -1, False, False

    def write(self, parts: Sequence[bytes]) -> None:
        """Append lines."""
        if not self._swept:
            _sweep(self.path.parent)
            self._swept = True
        data = b"".join(parts)
        self._open(len(data))
        rest = memoryview(b"\n" + data if self._torn else data)
        while rest:
            self._torn = True  # until all of it is there: what follows must begin a line of its own
            rest = rest[os.write(self._file, rest) :]
        self._torn = False

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._torn = -1, False

    def _open(self, more: int) -> None:
        """Have the file open that is to be written to: the named one, below its limit."""
        try:
            found = os.stat(self.path)
            if self._file >= 0 and found.st_ino != os.fstat(self._file).st_ino:
                self.close()  # somebody put another there
            if found.st_size and found.st_size + more > self._limit:
                os.replace(self.path, f"{self.path}.1")
                self.close()
        except FileNotFoundError:
            self.close()
        if self._file < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _sweep(folder: Path) -> None:
    """Remove what processes before have left: the plane does too, but only while it compares answers."""
    with contextlib.suppress(OSError):
        for path in (*folder.glob("*.jsonl"), *folder.glob("*.jsonl.1")):
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink()


def _plain(value: Any) -> bool | int | float | str | None:
    return value if isinstance(value, (bool, int, float, str)) else None
