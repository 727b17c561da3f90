"""Requests of one turn of the event loop are computed at once: nobody waits for anybody who has not come.

The loop reads all sockets that have something to tell before it does anything else, so what was asked at
about the same time lies there together. One run of a model over these rows costs far less than a run each:
a run's fixed cost is paid once, and the model is fetched into the processor's caches once. One that is alone
is computed alone. `batching` goes further: it holds requests back for others that are expected.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tidegate.serving.metrics import Histogram

Answer = dict[str, Any]  # the model's own fields by name, plain values
EDGES = tuple(2**power for power in range(9))  # rows: 1, 2, 4, … 256


class Turn:
    """Computes what was asked in one turn of the loop; rows that fail together are computed one by one."""

    def __init__(self, predict: Callable[[Any], Mapping[str, Any]]) -> None:
        self._predict = predict
        self._waiting: list[tuple[Any, asyncio.Future[Answer]]] = []
        self.sizes = Histogram(EDGES)

    async def run(self, rows: Any) -> Answer:
        """Return the answer to one request's features [1, n]; raises what computing them alone raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._compute)  # behind all that is ready now
        self._waiting.append((rows, answer))
        return await answer

    def _compute(self) -> None:
        waiting, self._waiting = self._waiting, []
        self.sizes.observe(len(waiting))
        answers = self._together([rows for rows, _ in waiting]) if len(waiting) > 1 else []
        if answers:
            for (_, future), answer in zip(waiting, answers, strict=True):
                if not future.done():  # else the caller has gone
                    future.set_result(answer)
        else:
            for rows, future in waiting:
                self._alone(rows, future)

    def _together(self, rows: list[Any]) -> list[Answer]:
        """Return an answer to each of the rows, or nothing when computing them at once fails."""
        try:
            return spread(self._predict(np.concatenate(rows)), len(rows))
        except Exception:  # computed alone, the one that fails tells its own caller
            return []

    def _alone(self, rows: Any, future: asyncio.Future[Answer]) -> None:
        if future.done():
            return
        try:
            future.set_result(plain(self._predict(rows)))
        except Exception as error:
            future.set_exception(error)


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
