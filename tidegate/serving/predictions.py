"""The log of predictions, the service's side: what was asked, seen and answered, off the way of the answer.

A record is encoded at once (about a microsecond) and written by a thread into segments, which the toolkit
turns into Parquet: `<folder>/segments/<model>/<name>.open` while it grows, `.closed` after that. A segment is
`MAGIC`, then blocks: length and CRC-32 of its content, both 4 bytes, little-endian, then the content in
msgpack. The first block says who writes (a map), each other one is a list of records, so that whatever a
crash cut short is seen. Whoever holds a segment's lock (flock) and renames it closes it: the service begins
another. core/segments.py reads it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tidegate.serving.artifact import MANIFEST
from tidegate.serving.spool import Spool

if TYPE_CHECKING:
    from tidegate.serving.settings import Log

FOLDER = "TIDEGATE_PREDICTIONS"  # the variable that names the folder
MAGIC = b"TGP1\n"
BLOCK = struct.Struct("<II")  # length and CRC-32 of what follows
ROW, ROWS = 0, 1  # a record's first element: one prediction, or those of one request of many rows
OPEN, CLOSED = ".open", ".closed"

FILE_BYTES = 32 * 1024 * 1024  # of a segment
FILE_SECONDS = 30.0  # after which a segment is closed, at the next record
FREE_BYTES = 256 * 1024 * 1024  # left to others on the disk
AGAIN_SECONDS = 1.0  # between two tries on a disk that refuses
CLOSING_SECONDS = 8.0  # a plane gives a workload 15 to end

_F4 = np.dtype("<f4")
_encode = msgspec.msgpack.Encoder().encode


def of_environment(
    service: str, identity: Mapping[str, str], names: Sequence[str], settings: Log
) -> PredictionLog | None:
    """Return the log that the environment asks for; None outside of a plane, or where it is off."""
    folder = os.environ.get(FOLDER)
    if not folder or not settings.enabled:
        return None
    head = {
        "model": _model(Path(__file__).resolve().parents[2]) or service.replace("_", "-"),
        "release": identity["release"],
        "model_version": identity["model_version"],
        "plane": os.environ.get("TIDEGATE_PLANE", ""),
        "features": list(names),
    }
    return PredictionLog(Path(folder), head, int(settings.max_waiting_mb * 1024 * 1024))


class PredictionLog:
    """`engine.Recorder` that writes segments of one model and release."""

    def __init__(self, folder: Path, head: Mapping[str, Any], limit: int) -> None:
        self._spool = Spool(Segments(folder, head), limit, "predictions", again=AGAIN_SECONDS)
        self._put = self._spool.put
        self._refused = 0  # records that could not be encoded

    @property
    def dropped(self) -> int:
        """Predictions that were not written down since too many waited for the disk."""
        return self._spool.dropped

    @property
    def failed(self) -> int:
        """Predictions that could not be encoded, or were given up at the disk."""
        return self._spool.failed + self._refused

    @property
    def written(self) -> int:
        """Predictions that are in a segment."""
        return self._spool.written

    def shown(self, add: Callable[..., None]) -> None:
        """Name what became of the predictions for /metrics; `add` is Measuring.add."""
        name = "tidegate_predictions_log_{}_total"
        add(name.format("written"), "Predictions written to the log", "counter", lambda: self.written)
        about = "Predictions not logged since too many waited for the disk"
        add(name.format("dropped"), about, "counter", lambda: self.dropped)
        add(name.format("failed"), "Predictions that could not be logged", "counter", lambda: self.failed)
        about = "Bytes of the log that wait for the disk"
        add("tidegate_predictions_log_waiting_bytes", about, "gauge", lambda: self._spool.waiting)

    def row(self, call: Any, features: Any, answer: Mapping[str, Any], source: str, ms: float) -> None:
        """Write down one prediction; `features` [1, n] or None, of words none are kept."""
        try:
            seen = None if features is None else _float_bytes(features)
            told = (call.arm, call.protocol, source)
            self._put(_encode((ROW, call.id, time.time(), call.raw, seen, answer, ms, *told)))
        except Exception:  # a prediction matters more than its record
            self._refused += 1

    def rows(
        self, call: Any, columns: Mapping[str, Any], features: Any, answers: Mapping[str, Any], ms: float
    ) -> None:
        """Write down the predictions of one request of many rows, as one record.

        Of a body that holds the columns itself (JSON or Arrow) the body is kept, of others `columns`.
        """
        count = max((len(values) for values in answers.values()), default=0)
        try:
            seen = None if features is None else _float_bytes(features)
            said = {name: _column(values) for name, values in answers.items()}
            whole = call.protocol in ("columns", "arrow") and call.raw
            given = None if whole else {name: _column(values) for name, values in columns.items()}
            raw = call.raw if whole else b""
            told = (call.arm, call.protocol, "computed")
            self._put(_encode((ROWS, call.id, time.time(), raw, seen, said, ms, *told, count, given)), count)
        except Exception:
            self._refused += count

    def close(self) -> None:
        """Write all that is left; a disk that does not answer is waited for 8 s."""
        self._spool.close(CLOSING_SECONDS)


def _float_bytes(features: Any) -> bytes | None:
    """Return features as float32, row by row; None for words."""
    if getattr(features, "dtype", None) is not _F4:
        try:
            features = np.asarray(features, _F4)
        except (TypeError, ValueError):
            return None
    made: bytes = features.tobytes()
    return made


def _column(values: Any) -> Any:
    """Return n values as msgpack can say them: of numbers (NumPy's type, bytes), of others a list."""
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.dtype.kind in "biuf" and array.ndim == 1:
        return (array.dtype.str, array.tobytes())
    return ("", array.tolist() if array.dtype.kind in "UO" else array.astype(str).tolist())


def _model(root: Path) -> str:
    """Return the model's name as the Bento says it, or "" in a checkout."""
    try:
        return str(json.loads((root / MANIFEST).read_text())["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


# ---------------------------------------------------------------- the thread's
class Segments:
    """`spool.Sink` of one process: appends blocks to a segment, and begins another when it is due."""

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        self._folder = folder / "segments" / str(head["model"])
        self._head = dict(head)
        self._path = Path()
        self._file, self._size, self._began = -1, 0, 0.0

    def write(self, parts: Sequence[bytes]) -> None:
        """Append encoded records as one block; on an error the segment ends where it ended before."""
        # A list's header in front of its elements, each encoded by itself: no second encoding.
        content = b"".join((b"\xdd", struct.pack(">I", len(parts)), *parts))
        self._hold()
        try:
            self._append(_block(content))
        finally:
            if self._file >= 0:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        if self._size >= FILE_BYTES or not 0 <= time.time() - self._began < FILE_SECONDS:
            self.close()

    def close(self) -> None:
        """Close the segment under way."""
        if self._file < 0:
            return
        try:
            os.fsync(self._file)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if self._mine():
                os.rename(self._path, self._path.with_suffix(CLOSED))
        except OSError:
            pass  # it stays open by name: whoever collects it closes it
        finally:
            os.close(self._file)
            self._file = -1

    def _hold(self) -> None:
        """Have a segment open and locked that is still this process's own."""
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if self._mine():
                return
            os.close(self._file)  # somebody closed it
            self._file = -1
        for folder in (self._folder.parents[1], self._folder.parent, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = os.statvfs(self._folder)
        if room.f_bavail * room.f_frsize < FREE_BYTES:
            raise OSError(28, "under 256 MB are left on the disk", str(self._folder))
        now = time.time()
        name = f"{int(now * 1000):013d}-{os.getpid()}-{secrets.token_hex(4)}{OPEN}"
        path = self._folder / name
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._path, self._size, self._began = path, 0, now
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._append(MAGIC + _block(_encode({**self._head, "began": now, "pid": os.getpid()})))

    def _mine(self) -> bool:
        """Tell whether the open file still has its name."""
        try:
            return os.stat(self._path).st_ino == os.fstat(self._file).st_ino
        except FileNotFoundError:
            return False

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            self._undo()
            raise
        self._size += len(data)

    def _undo(self) -> None:
        """Cut off what was half written; where that fails, or nothing is left, another segment is begun."""
        try:
            os.ftruncate(self._file, self._size)
            if self._size:
                return
            os.unlink(self._path)
        except OSError:
            pass
        os.close(self._file)
        self._file = -1


def _block(content: bytes) -> bytes:
    return BLOCK.pack(len(content), zlib.crc32(content)) + content
