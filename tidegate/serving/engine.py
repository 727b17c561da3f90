"""From a checked request to a counted, written-down answer: the same for every protocol."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

from tidegate.serving import answered, measuring
from tidegate.serving.artifact import identity
from tidegate.serving.settings import Settings

Answer = dict[str, Any]  # the model's own fields by name, plain values
Columns = Mapping[str, Any]  # field, `plane.year` for an inner one → n values


class Call(msgspec.Struct, gc=False):
    """What is known of one request beside its rows."""

    id: str
    began: float  # by time.perf_counter
    raw: bytes = b""  # the body as it came, for the log
    protocol: str = "rest"
    warm: bool = False  # none of a caller's: neither counted nor written down
    journaled: bool = False  # the router asks for the answer to be written down, to be compared
    arm: str = ""  # of an experiment, as the router said
    deadline: float = math.inf  # by time.perf_counter


class Recorder(Protocol):
    """Writes predictions down, off the way of the answer; never raises and never waits."""

    def row(self, call: Call, features: Any, answer: Answer, source: str, ms: float) -> None:
        """Write down one prediction; `features` [1, n], `source` is computed, cached or precomputed."""

    def rows(
        self, call: Call, columns: Columns, features: Any, answers: Mapping[str, Any], ms: float
    ) -> None:
        """Write down the predictions of one request of many rows."""

    def close(self) -> None:
        """Write all that is left, at a clean end."""


class Engine:
    """Answers checked requests by a service's instance: features, prediction, what is counted and kept."""

    def __init__(self, service: Any, settings: Settings) -> None:
        inner = service.inner
        self.settings = settings
        self.identity = identity()
        self.names: tuple[str, ...] = tuple(getattr(inner, "feature_names", ()))
        self.measuring = measuring.Measuring(
            service.name, getattr(inner, "score", ""), getattr(inner, "decision", "")
        )
        self.journal = answered.Journal.of_environment()
        self.recorder: Recorder | None = None
        self._service = service

    @property
    def instance(self) -> Any:
        """The author's object, once BentoML has made it."""
        return self._service.instance

    # ---------------------------------------------------------------- one row
    async def one(self, call: Call, request: Any) -> Answer:
        """Return the model's answer to one request; raises ArithmeticError for a number that is none."""
        rows = self.instance.features(request)
        answer = plain(self.instance.predict(rows))
        self._count(call, answer, rows)
        if self.recorder is not None and not call.warm:
            self.recorder.row(call, rows, answer, "computed", 1000 * (time.perf_counter() - call.began))
        return answer

    def _count(self, call: Call, answer: Answer, rows: Any) -> None:
        """Count the prediction just made, and write it down to be compared if the router asks for it."""
        if call.warm:
            return
        self.measuring.count(answer, rows)
        self._note(call, 200, answer)

    def failed(self, call: Call, status: int) -> None:
        """Write down that a request got no prediction."""
        if not call.warm:
            self._note(call, status, {})

    def _note(self, call: Call, status: int, answer: Answer) -> None:
        if self.journal and call.journaled:
            elapsed = 1000 * (time.perf_counter() - call.began)
            self.journal.note(self.measuring, call.id, status, elapsed, answer)

    def features(self, request: Any) -> Answer:
        """Return the features by name; raises ArithmeticError for an infinity, ValueError for other names."""
        values = np.asarray(self.instance.features(request)).reshape(-1).tolist()
        named = dict(zip(self.names, values, strict=True))
        if any(math.isinf(value) for value in values):
            raise ArithmeticError(f"a feature is infinite: {named}")  # JSON would say null, which is NaN
        return {"features": {name: None if math.isnan(value) else value for name, value in named.items()}}

    def close(self) -> None:
        """Write down what is left, when no request is in flight any more."""
        if self.journal:
            self.journal.close()
        if self.recorder is not None:
            self.recorder.close()


def plain(columns: Mapping[str, Any]) -> Answer:
    """Return the first row of a prediction as plain values; raises ArithmeticError for NaN and infinity."""
    answer = {}
    for name, values in columns.items():
        value = values[0]
        value = value.item() if hasattr(value, "item") else value
        if type(value) is float and not math.isfinite(value):
            raise ArithmeticError(f"the model's {name} is {value}")  # JSON would say null
        answer[name] = value
    return answer
