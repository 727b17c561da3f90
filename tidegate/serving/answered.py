"""Where a service writes down its answers for the plane to compare; travels inside every Bento.

Only answers that the router asks for by a header, and off their path: a disk that is full, slow or gone
costs lines of the journal, never a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from tidegate.serving.measuring import Measuring, number

JOURNALED = b"x-tidegate-journal"
FOLDER = "TIDEGATE_ANSWERS"  # the variable that names the folder

FLUSH_SECONDS, FLUSH_BYTES = 0.1, 64 * 1024
BACKLOG = 4 * 1024 * 1024  # bytes that may wait for the disk
FILE_BYTES = 32 * 1024 * 1024  # of one file; one older one is kept
LINE_BYTES = 2048  # of a longer line only score and decision are written
CLOSING_SECONDS = 2.0
KEPT_SECONDS = 2 * 86400.0  # after which a file that no process writes any more is removed

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class Journal:
    """Answers as lines of JSON in `<release>.<pid>.jsonl`; never raises, and loses lines rather than time.

    A thread of its own writes what was gathered for 100 ms or 64 KB; at most `BACKLOG` bytes wait for it.
    """

    def __init__(self, folder: Path, release: str, limit: int = FILE_BYTES) -> None:
        self.path = folder / f"{release}.{os.getpid()}.jsonl"
        self._limit = limit
        self._lines: list[bytes] = []
        self._gathered = self._handed = self._refused = 0  # bytes, bytes, lines: the loop's
        self._written = self._failed = 0  # bytes dealt with, lines lost: the thread's
        self._timer: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._file, self._torn, self._told = -1, False, False

    @staticmethod
    def of_environment() -> Journal | None:
        """Return the journal that the environment asks for; None outside of a plane."""
        folder, release = os.environ.get(FOLDER), os.environ.get("TIDEGATE_RELEASE")
        return Journal(Path(folder), release) if folder and release else None

    @property
    def lost(self) -> int:
        """How many answers could not be written down."""
        return self._refused + self._failed

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
        line = line if 0 < len(line) <= LINE_BYTES else _encode(said) + b"\n"
        if self._gathered + self._handed - self._written > BACKLOG:
            self._refused += 1
            return
        self._lines.append(line)
        self._gathered += len(line)
        if self._gathered >= FLUSH_BYTES:
            self._hand_over()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._hand_over)

    def close(self) -> None:
        """Write what is left; a disk that does not answer is waited for 2 s."""
        self._hand_over()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(CLOSING_SECONDS)
            self._thread = None

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        data, self._lines = b"".join(self._lines), []
        self._handed, self._gathered = self._handed + len(data), 0
        if self._thread is None:
            # A daemon: one that hangs on a dead disk must not keep the process from ending.
            self._thread = threading.Thread(target=self._write_all, name="answers", daemon=True)
            self._thread.start()
        self._queue.put(data)

    # ---------------------------------------------------------------- the thread's
    def _write_all(self) -> None:
        _sweep(self.path.parent)
        while (data := self._queue.get()) is not None:
            try:
                self._write(data)
                self._told = False
            except OSError as error:
                self._failed += data.count(b"\n")
                if not self._told:
                    log.warning("answers are not written down to %s: %s", self.path, error)
                self._told = True
            self._written += len(data)
        self._shut()

    def _write(self, data: bytes) -> None:
        self._open(len(data))
        rest = memoryview(b"\n" + data if self._torn else data)
        while rest:
            self._torn = True  # until all of it is there: what follows must begin a line of its own
            rest = rest[os.write(self._file, rest) :]
        self._torn = False

    def _open(self, more: int) -> None:
        """Have the file open that is to be written to: the named one, below its limit."""
        try:
            found = os.stat(self.path)
            if self._file >= 0 and found.st_ino != os.fstat(self._file).st_ino:
                self._shut()  # somebody put another there
            if found.st_size and found.st_size + more > self._limit:
                os.replace(self.path, f"{self.path}.1")
                self._shut()
        except FileNotFoundError:
            self._shut()
        if self._file < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _shut(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._torn = -1, False


def _sweep(folder: Path) -> None:
    """Remove what processes before have left: the plane does too, but only while it compares answers."""
    with contextlib.suppress(OSError):
        for path in (*folder.glob("*.jsonl"), *folder.glob("*.jsonl.1")):
            if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink()


def _plain(value: Any) -> bool | int | float | str | None:
    return value if isinstance(value, (bool, int, float, str)) else None
