"""From the way of an answer to the disk: a bounded backlog, and one thread that writes; in every Bento.

Whoever answers puts bytes and goes on: no lock, no waiting, no error. A disk that is full, slow or gone costs
what is beyond the bound, which is counted, and never a request.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

GATHER_SECONDS = 0.1  # in which parts are gathered before they are written together
PART_BYTES = 1024 * 1024  # handed to a sink at once, or a single part that is larger

log = logging.getLogger(__name__)


class Sink(Protocol):
    """What writes, in the spool's thread."""

    def write(self, parts: Sequence[bytes]) -> None:
        """Write all of them; after an OSError none of them counts as written."""

    def close(self) -> None:
        """Let go of what is open; never raises."""


class Spool:
    """Bytes on their way to a sink: at most `limit` of them wait, or one larger part; one thread puts.

    `what` names them in the log. After an error the same parts are tried again every `again` seconds, while
    the backlog fills; with 0 they are given up at once. `dropped` and `failed` count what was lost before and
    at the disk, `written` what is there.
    """

    def __init__(self, sink: Sink, limit: int, what: str, *, again: float = 0.0) -> None:
        self.dropped = self.written = self.failed = 0
        self._sink, self._limit, self._what, self._again = sink, limit, what, again
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._put = 0  # bytes ever accepted: the caller's
        self._done = 0  # bytes written or given up: the thread's
        self._awake = self._told = False
        self._called, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Bytes that are not on the disk yet."""
        return self._put - self._done

    def put(self, part: bytes, count: int = 1) -> bool:
        """Accept a part that stands for `count` records; False, and they are dropped, when it's too much."""
        size = len(part)
        waiting = self._put - self._done
        if waiting and waiting + size > self._limit:
            self.dropped += count
            return False
        self._waiting.append((part, count))
        self._put += size
        if not self._awake:
            self._awake = True
            self._call()
        return True

    def close(self, seconds: float) -> None:
        """Write what is left; a disk that does not answer is waited for so long."""
        self._closing.set()
        self._called.set()
        if self._thread is not None:
            self._thread.join(seconds)
            self._thread = None

    def _call(self) -> None:
        if self._thread is None and not self._closing.is_set():
            # A daemon: one that hangs on a dead disk must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=self._what, daemon=True)
            self._thread.start()
        self._called.set()

    # ---------------------------------------------------------------- the thread's
    def _run(self) -> None:
        while True:
            self._called.wait()
            self._called.clear()
            self._closing.wait(GATHER_SECONDS)
            # Before what waits is taken: whatever comes after that calls again.
            self._awake = False
            while self._waiting:
                self._write(*self._take())
            if self._closing.is_set():
                self._sink.close()
                return

    def _take(self) -> tuple[list[bytes], int]:
        """Return the next parts, about `PART_BYTES` of them, and how many records they are."""
        parts, size, count = [], 0, 0
        while self._waiting and size < PART_BYTES:
            part, records = self._waiting.popleft()
            parts.append(part)
            size += len(part)
            count += records
        return parts, count

    def _write(self, parts: list[bytes], count: int) -> None:
        while True:
            try:
                self._sink.write(parts)
                self.written += count
                self._told = False
                break
            except Exception as error:  # also a defect of the sink: the thread must go on
                if not self._told:
                    log.warning("%s are not written down: %s", self._what, error)
                self._told = True
                if self._again <= 0 or self._closing.wait(self._again):
                    self.failed += count
                    break
        self._done += sum(map(len, parts))
