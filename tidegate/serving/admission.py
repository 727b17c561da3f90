"""What is taken on while the process is busy: a bounded queue, deadlines, and bodies that must arrive.

Predictions are computed one after the other in the event loop, so what waits are the requests whose bytes
were read in the same turn of the loop. They are counted without a queue of our own: a place that was taken
is free again in the turn after the one in which it was given back. What a batch or a store keeps waiting
counts too.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping

from tidegate.serving.request import Invalid
from tidegate.serving.settings import Queue

# What a caller says it will wait for, in milliseconds: an Envoy may tell its route's time-out by the first.
DEADLINES = (b"x-envoy-expected-rq-timeout-ms", b"x-request-timeout-ms")
_SLOW = "the body is slow"


def busy() -> Invalid:
    """Return the refusal of what can't be taken on now."""
    return Invalid(429, "", "too many requests wait here; ask again later")


def late() -> Invalid:
    """Return the refusal of what nobody waits for any more."""
    return Invalid(504, "", "the deadline passed before it was computed")


class Admission:
    """Counts who waits; for one event loop, without a lock."""

    def __init__(self, queue: Queue) -> None:
        self.taken = 0  # places
        self._most = queue.max_waiting
        self._seconds = queue.deadline_ms / 1000
        self._turn_began = 0.0
        self._turning = False
        self._left = 0

    def shown(self, add: Callable[..., None]) -> None:
        """Name what is counted here for /metrics; `add` is Measuring.add."""
        about = "Requests taken on and not answered yet, those that wait included"
        add("tidegate_requests_in_progress", about, "gauge", lambda: self.taken)
        about = "Requests in progress beyond which one more is refused by 429"
        add("tidegate_requests_in_progress_limit", about, "gauge", lambda: self._most)

    def enter(self) -> None:
        """Take a place, to be given back by `leave`; raises Invalid (429) when there is none."""
        if self.taken >= self._most:
            raise busy()
        self.taken += 1

    def leave(self) -> None:
        """Give a place back, which is free from the next turn of the loop on."""
        self._left += 1
        if not self._turning:
            self._turn_begins(time.perf_counter())

    def arrived(self, now: float) -> float:
        """Return when this turn of the loop began: what is asked in it has waited since then, at least."""
        if not self._turning:
            self._turn_begins(now)
        return self._turn_began

    def deadline(self, headers: Mapping[bytes, bytes], arrived: float) -> float:
        """Return when the answer to a request is of no use any more, by `time.perf_counter`."""
        seconds = self._seconds
        for name in DEADLINES:
            told = headers.get(name)
            if told is not None and told.isdigit() and len(told) < 10:
                seconds = min(seconds, int(told) / 1000 or seconds)  # Envoy's 0 is no time-out at all
        return arrived + seconds

    def _turn_begins(self, now: float) -> None:
        self._turning, self._turn_began = True, now
        asyncio.get_running_loop().call_soon(self._turn_ends)

    def _turn_ends(self) -> None:
        self._turning = False
        self.taken -= self._left
        self._left = 0


class Reading:
    """Ends the reading of bodies that take too long, by one timer, and bounds what large ones hold together.

    A body is read before its request has a place in the queue: many callers' would else have no bound.
    """

    def __init__(self, seconds: float, most: float = math.inf) -> None:
        self.held = 0  # bytes of large bodies, from their reading to their requests' end
        self._seconds, self._most = seconds, most
        self._since: dict[asyncio.Task[object], float] = {}  # in the order of their beginning
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[object], now: float) -> None:
        """Watch a task that reads a body, until `end`."""
        self._since[task] = now
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds / 4, self._sweep)

    def end(self, task: asyncio.Task[object]) -> None:
        """Watch a task no longer."""
        self._since.pop(task, None)

    def hold(self, task: asyncio.Task[object], size: int) -> None:
        """Hold so many bytes more until a task is done; raises Invalid (429) when it is too much."""
        if self.held + size > self._most:
            raise busy()
        self.held += size
        task.add_done_callback(lambda done: self._let_go(size))

    def _let_go(self, size: int) -> None:
        self.held -= size

    def ended(self, task: asyncio.Task[object], error: asyncio.CancelledError) -> bool:
        """Tell whether a task was ended here, which then goes on, and not by the server's end."""
        return error.args == (_SLOW,) and task.uncancel() == 0

    def _sweep(self) -> None:
        self._timer = None
        before = time.perf_counter() - self._seconds
        for task, since in list(self._since.items()):
            if since > before:
                break
            task.cancel(_SLOW)
            self.end(task)
        if self._since:
            self._timer = asyncio.get_running_loop().call_later(self._seconds / 4, self._sweep)
