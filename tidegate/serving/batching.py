"""Requests that are computed at once: adaptive batching for one event loop.

While a batch is computed, in a thread of its own, those that arrive gather; it is that which makes batches
under load, and costs nobody any time. When nothing is computed, the first that arrives is held back for
others only as far as they are expected: as many as were in flight lately, at the pace at which they came, and
never longer than the cap. One that is alone is computed at once.

In a thread, since ONNX Runtime leaves the interpreter's lock alone: the loop reads, answers and tells its
health meanwhile, and the next batch gathers by itself. Computed in the loop, a batch costs less time of the
processor, but then `turn` has most of the gain already, and nobody is held back. The hop costs about 0.1 ms,
more than a small model takes: this is for models that take longer, and for a machine with a core to spare.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from tidegate.serving.admission import late
from tidegate.serving.metrics import Histogram
from tidegate.serving.settings import Batching

Predict = Callable[[Any], Mapping[str, Any]]
Compute = Callable[[Any], Awaitable[Mapping[str, Any]]]  # the same, off the loop

EDGES = tuple(2**power for power in range(13))  # rows: 1, 2, 4, … 4096
LEARNING = 0.2  # the weight of what was seen last
SLACK = 1.5  # how much later than expected the others may come

log = logging.getLogger(__name__)


class _Asked(msgspec.Struct, eq=False):
    """Rows that wait, and who waits for them."""

    rows: Any
    answer: asyncio.Future[Mapping[str, Any]]
    since: float
    deadline: float  # by time.perf_counter

    @property
    def count(self) -> int:
        return len(self.rows)


class AdaptiveBatcher:
    """Computes rows beside others' rows: at most `most` at once, held back for at most `seconds`.

    Being held back is waiting while nothing is computed; that the batch before takes its time is not counted.
    """

    def __init__(self, compute: Compute, most: int, seconds: float) -> None:
        self._compute, self._most, self._seconds = compute, most, seconds
        self._waiting: deque[_Asked] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None  # the batch that is computed
        self._idle_since = -math.inf
        self._last = -math.inf  # arrival
        self._gap = math.inf  # between arrivals, lately
        self._flying = 1.0  # rows in flight at once, lately
        self.sizes = Histogram(EDGES)
        self.retries = 0  # batches that failed, and were computed request by request

    def shown(self, add: Callable[..., None]) -> None:
        """Show what is counted; `add` is that of a metrics.Registry."""
        about = "Rows computed at once, of requests that were gathered"
        add("tidegate_batch_rows", about, "histogram", lambda: self.sizes)
        about = "Batches that failed, and were computed request by request"
        add("tidegate_batch_retries_total", about, "counter", lambda: self.retries)

    async def run(self, rows: Any, deadline: float = math.inf) -> Mapping[str, Any]:
        """Return what is said of these rows, by column.

        Raises what computing them alone raises, and Invalid (504) when it is not begun by `deadline`.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._arrives(now)
        asked = _Asked(rows, loop.create_future(), now, deadline)
        self._waiting.append(asked)
        if self._task is None:
            self._look(now)
        return await asked.answer

    def close(self) -> None:
        """Hold nobody back any more, and let the thread end."""
        self._seconds = 0.0
        if self._task is None and self._waiting:
            self._start()
        if isinstance(self._compute, Apart):
            self._compute.close()

    def _arrives(self, now: float) -> None:
        gap = now - self._last
        self._last = now
        # A pause says nothing about the pace of what comes together: beyond the cap nobody is waited for.
        gap = min(gap, 2 * self._seconds)
        self._gap = gap if self._gap == math.inf else self._gap + LEARNING * (gap - self._gap)

    def _look(self, now: float) -> None:
        """Begin a batch of those that wait, or see to it that it begins in time."""
        rows = sum(asked.count for asked in self._waiting)
        wanted = min(self._most, round(self._flying)) - rows
        patience = min(self._seconds, SLACK * wanted * self._gap)
        if wanted <= 0 or patience <= 0 or self._gap >= self._seconds:
            self._start()
        elif self._timer is None:
            # Anew for whoever is first now; never moved by those who come later.
            begun = max(self._waiting[0].since, self._idle_since)
            self._timer = asyncio.get_running_loop().call_at(max(begun + patience, now), self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch: list[_Asked] = []
        count = 0
        while self._waiting and (not batch or count + self._waiting[0].count <= self._most):
            asked = self._waiting.popleft()
            if asked.answer.done():  # the caller has gone
                continue
            if time.perf_counter() > asked.deadline:
                asked.answer.set_exception(late())
                continue
            batch.append(asked)
            count += asked.count
        if batch:
            self._task = asyncio.get_running_loop().create_task(self._computed(batch, count))
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("a batch was lost", exc_info=task.exception())
        if self._waiting:
            self._look(self._idle_since)

    async def _computed(self, batch: Sequence[_Asked], count: int) -> None:
        self.sizes.observe(count)
        try:
            await self._together(batch, count)
        finally:
            self._idle_since = asyncio.get_running_loop().time()
            flying = count + sum(asked.count for asked in self._waiting)
            self._flying += LEARNING * (flying - self._flying)
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.cancel()  # the loop ends, or this is a defect: nobody may wait forever

    async def _together(self, batch: Sequence[_Asked], count: int) -> None:
        """Compute a batch and hand out its rows; one that fails is computed request by request."""
        try:
            rows = batch[0].rows if len(batch) == 1 else np.concatenate([asked.rows for asked in batch])
            columns = await self._compute(rows)
            if any(len(values) != count for values in columns.values()):
                raise ValueError(f"the model does not answer {count} times to {count} rows")
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            self.retries += 1
            for asked in batch:
                await self._together([asked], asked.count)
            return
        first = 0
        for asked in batch:
            last = first + asked.count
            if not asked.answer.done():
                asked.answer.set_result({name: values[first:last] for name, values in columns.items()})
            first = last


def _fail(asked: _Asked, error: Exception) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)


class Apart:
    """Computes in one thread beside the loop."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    async def __call__(self, rows: Any) -> Mapping[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._predict, rows)

    def close(self) -> None:
        """Let the thread end after what it computes."""
        self._pool.shutdown(wait=False)


def batcher(settings: Batching, predict: Predict) -> AdaptiveBatcher | None:
    """Return what gathers requests as a model's settings say, or None where that is off."""
    if settings.max_rows <= 1:
        return None
    return AdaptiveBatcher(Apart(predict), settings.max_rows, settings.max_delay_ms / 1000)
