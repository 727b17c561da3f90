"""Requests of one turn of the event loop are computed at once: nobody waits for anybody who has not come.

The loop reads all sockets that have something to tell before it does anything else, so what was asked at
about the same time lies there together. One run of a model over these rows costs far less than a run each:
a run's fixed cost is paid once, and the model is fetched into the processor's caches once. One that is alone
is computed alone. `batching` goes further: it holds requests back for others that are expected.

A model that takes its time is asked for no more rows at once than it answers in `SLICE`: so the loop gets
round to its sockets, and to seeing who can't be answered in time any more.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from tidegate.serving.admission import late
from tidegate.serving.metrics import Histogram

Answer = dict[str, Any]  # the model's own fields by name, plain values
EDGES = tuple(2**power for power in range(9))  # rows: 1, 2, 4, … 256
MOST = EDGES[-1]
SLICE = 0.010  # seconds
LEARNING = 0.2  # the weight of the last run


class _Asked(msgspec.Struct, eq=False, gc=False):
    rows: Any
    deadline: float
    answer: asyncio.Future[Answer]


class Turn:
    """Computes what was asked in one turn of the loop; rows that fail together are computed one by one."""

    def __init__(self, predict: Callable[[Any], Mapping[str, Any]]) -> None:
        self._predict = predict
        self._waiting: list[_Asked] = []
        self._pace = SLICE / MOST  # seconds a row, lately
        self.sizes = Histogram(EDGES)

    async def run(self, rows: Any, deadline: float = math.inf) -> Answer:
        """Return the answer to one request's features [1, n].

        Raises what computing them alone raises, and Invalid (504) when it is not begun by `deadline`.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._compute)  # behind all that is ready now
        self._waiting.append(_Asked(rows, deadline, answer))
        return await answer

    def _compute(self) -> None:
        most = max(1, min(MOST, int(SLICE / self._pace)))
        batch, self._waiting = self._waiting[:most], self._waiting[most:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._compute)
        began = time.perf_counter()
        batch = [asked for asked in batch if _wanted(asked, began)]
        if not batch:
            return
        self.sizes.observe(len(batch))
        answers = self._together([asked.rows for asked in batch]) if len(batch) > 1 else []
        if answers:
            for asked, answer in zip(batch, answers, strict=True):
                asked.answer.set_result(answer)
        else:
            for asked in batch:
                self._alone(asked)
        pace = max(time.perf_counter() - began, 1e-9) / len(batch)
        self._pace += LEARNING * (pace - self._pace)

    def _together(self, rows: list[Any]) -> list[Answer]:
        """Return an answer to each of the rows, or nothing when computing them at once fails."""
        try:
            return spread(self._predict(np.concatenate(rows)), len(rows))
        except Exception:  # computed alone, the one that fails tells its own caller
            return []

    def _alone(self, asked: _Asked) -> None:
        try:
            asked.answer.set_result(plain(self._predict(asked.rows)))
        except Exception as error:
            asked.answer.set_exception(error)


def _wanted(asked: _Asked, now: float) -> bool:
    """Tell whether anybody still waits for an answer; who comes too late is told so."""
    if asked.answer.done():  # the caller has gone
        return False
    if now > asked.deadline:
        asked.answer.set_exception(late())
        return False
    return True


def plain(columns: Mapping[str, Any]) -> Answer:
    """Return the first row of a prediction as plain values; raises ArithmeticError for NaN and infinity."""
    answer = {}
    for name, values in columns.items():
        value = values.item(0) if type(values) is np.ndarray and values.ndim == 1 else values[0]
        value = value.item() if hasattr(value, "item") else value
        if type(value) is float and not math.isfinite(value):
            raise ArithmeticError(f"the model's {name} is {value}")  # JSON would say null
        answer[name] = value
    return answer


def spread(columns: Mapping[str, Any], count: int) -> list[Answer]:
    """Return each row of a prediction as plain values; raises as `plain`, ValueError for other lengths."""
    lists = []
    for name, values in columns.items():
        if len(values) != count:
            raise ValueError(f"the model answers {len(values)} times {name} to {count} rows")
        if not isinstance(values, np.ndarray):
            lists.append([plain({name: (value,)})[name] for value in values])
        elif values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ArithmeticError(f"the model's {name} is not finite in every row")
        else:
            lists.append(values.tolist())
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
