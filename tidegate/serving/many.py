"""Requests of many rows: columns in, in JSON or Arrow, and answers by column out, in the same form.

All rows are checked before any is computed, and one that is refused refuses the request. They are computed in
a thread of their own, one request after the other: ONNX Runtime works without the interpreter's lock, so
that single rows are answered meanwhile. A service may say by `features_of_columns` how features are computed
of columns at once; without it they are computed row by row. Rows of many are always computed: neither kept
answers nor those made beforehand are looked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tidegate.serving import arrow
from tidegate.serving.arrays import Array
from tidegate.serving.columns import Form, Rows
from tidegate.serving.online import Lookups
from tidegate.serving.online_many import ManyLookups
from tidegate.serving.request import Invalid

if TYPE_CHECKING:
    from tidegate.serving.engine import Call, Engine

PATH = "/predict/many"
JSON = "application/json"
PROTOCOLS = {"": "columns", JSON: "columns", arrow.TYPE: "arrow"}  # by the content type
_encode = msgspec.json.Encoder().encode


class Many:
    """Answers requests of many rows by an engine's service."""

    def __init__(self, engine: Engine, request: type[msgspec.Struct]) -> None:
        self.form = Form(request)
        self._engine = engine
        self._limits = engine.settings.many
        self._pool: ThreadPoolExecutor | None = None

    async def answer(self, call: Call, content_type: str) -> tuple[bytes, str, int]:
        """Return the answer to `call.raw`, its content type, and how many rows it has.

        Raises Invalid (413, 415, 422, 429, 504), and what a model raises.
        """
        call.protocol = PROTOCOLS.get(content_type.partition(";")[0].strip().lower(), "")
        if not call.protocol:
            raise Invalid(415, "content-type", f"must be {JSON} or {arrow.TYPE}")
        content, count = await self.through(
            call, lambda: self._read(call), lambda found: self._written(call, found)
        )
        return content, arrow.TYPE if call.protocol == "arrow" else JSON, count

    async def through(
        self, call: Call, read: Callable[[], Rows], write: Callable[[dict[str, Array]], Any]
    ) -> tuple[Any, int]:
        """Return what `write` makes of the answers to the rows that `read` finds, and how many those are.

        Both are called off the loop. Raises Invalid (429, 504), and what `read` and a model raise.
        """
        admission = self._engine.admission
        admission.enter()
        try:
            rows = await self._apart(read)
            rows = await self._completed(call, rows)
            features, answers, content = await self._apart(self._answered, call, rows, write)
        finally:
            admission.leave()
        if not call.warm:
            self._engine.measuring.count_many(rows.count, answers, features)
            if self._engine.recorder is not None:
                ms = 1000 * (time.perf_counter() - call.began)
                self._engine.recorder.rows(call, rows.columns, features, answers, ms)
        return content, rows.count

    async def _apart(self, work: Callable[..., Any], *given: Any) -> Any:
        """Do work in the thread for it."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="many")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)

    def _read(self, call: Call) -> Rows:
        _in_time(call)
        most = self._limits.max_rows
        if call.protocol == "columns":
            return self.form.of_json(call.raw, most)
        if arrow.available():
            return arrow.read(self.form, call.raw, most)
        raise Invalid(415, "content-type", f"must be {JSON}: pyarrow is not installed here")

    async def _completed(self, call: Call, rows: Rows) -> Rows:
        """Return the rows with what is looked up online; a warm-up and who is `offline` ask nothing."""
        online = self._engine.online
        if not isinstance(online, Lookups) or call.warm or call.offline:
            return rows
        lookups = ManyLookups(online, self.form)
        wanted = await self._apart(lookups.wanted, rows)
        if wanted is None:
            return rows
        return lookups.filled(rows, wanted, await lookups.found(wanted))

    def _answered(
        self, call: Call, rows: Rows, write: Callable[[dict[str, Array]], Any]
    ) -> tuple[Any, dict[str, Array], Any]:
        """Compute and write one request."""
        _in_time(call)
        features = self.features(rows)
        _in_time(call)
        answers = self._predicted(rows.count, features)
        return features, answers, write(answers)

    def _written(self, call: Call, answers: Mapping[str, Array]) -> bytes:
        told = {**self._engine.identity, "request_id": call.id}
        if call.protocol == "arrow":
            return arrow.write(answers, told)
        columns = {name: values.tolist() for name, values in answers.items()}
        return _encode({"columns": columns, **told})

    def _predicted(self, count: int, features: Any) -> dict[str, Array]:
        """Return the model's answers; raises ArithmeticError for a number that is none.

        Raises ValueError for a service that answers to another number of rows than it was asked.
        """
        answers = {name: np.asarray(values) for name, values in self._instance.predict(features).items()}
        for name, values in answers.items():
            if len(values) != count:
                raise ValueError(f"the model answers {len(values)} times {name} to {count} rows")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ArithmeticError(f"the model's {name} is not finite in every row")
        return answers

    def features(self, rows: Rows) -> Any:
        """Return what the model sees of checked rows."""
        of_columns = getattr(self._instance, "features_of_columns", None)
        if of_columns is None:
            return self._one_by_one(self.form.each(rows))
        features = of_columns(rows.columns)
        if len(features) != rows.count:
            raise ValueError(f"features_of_columns made {len(features)} of {rows.count} rows")
        return features

    def _one_by_one(self, requests: Iterable[Any]) -> Any:
        return np.concatenate([self._instance.features(request) for request in requests])

    @property
    def _instance(self) -> Any:
        return self._engine.instance

    def rehearse(self, examples: Sequence[Mapping[str, Any]]) -> None:
        """Raise RuntimeError unless the service sees in columns what it sees in each row by itself."""
        if getattr(self._instance, "features_of_columns", None) is None:
            return
        requests = [msgspec.convert(row, self.form.request) for row in examples]
        alone, together = self._one_by_one(requests), self.features(self.form.of_requests(requests))
        if alone.dtype != together.dtype or repr(alone.tolist()) != repr(together.tolist()):
            text = "features_of_columns sees another thing in the model's examples than features does"
            raise RuntimeError(text)

    def close(self) -> None:
        """Let the thread end, when no request is in flight any more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def _in_time(call: Call) -> None:
    if time.perf_counter() > call.deadline:
        raise Invalid(504, "", "the deadline passed before it was computed")
