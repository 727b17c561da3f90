"""From a checked request to a counted, written-down answer: the same for every protocol."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

from tidegate.serving import answered, measuring
from tidegate.serving.admission import Admission
from tidegate.serving.artifact import identity
from tidegate.serving.request import Invalid
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
    source: str = "computed"  # of the answer, once it is known: or cached, or precomputed


class Online(Protocol):
    """Online features and precomputed answers, both in one round trip."""

    async def complete(self, call: Call, request: Any) -> tuple[Any, Answer | None]:
        """Return the request with what the store knows laid into it, and the answer where it is known."""

    def close(self) -> None:
        """Let go of the store."""


class Cache(Protocol):
    """Answers by their features, for this release alone."""

    async def get(self, rows: Any) -> Answer | None:
        """Return what was answered to the same features, plain values, or None."""

    def put(self, rows: Any, answer: Answer) -> None:
        """Keep an answer; never raises and never waits."""

    def close(self) -> None:
        """Let go of the store."""


class Batcher(Protocol):
    """Lets requests wait for each other, to be computed at once."""

    async def run(self, rows: Any) -> Mapping[str, Any]:
        """Return what `predict` says of these rows, by column, computed beside others' rows."""

    def close(self) -> None:
        """Compute what waits."""


class Recorder(Protocol):
    """Writes predictions down, off the way of the answer; never raises and never waits."""

    def row(self, call: Call, features: Any, answer: Answer, source: str, ms: float) -> None:
        """Write down one prediction; `features` [1, n] or None, `source` as in `Call`."""

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
        self.admission = Admission(settings.queue)
        self.identity = identity()
        self.names: tuple[str, ...] = tuple(getattr(inner, "feature_names", ()))
        self.measuring = measuring.Measuring(
            service.name, getattr(inner, "score", ""), getattr(inner, "decision", ""), self.names
        )
        self.journal = answered.Journal.of_environment()
        # What a model may do without; each costs one look where it is off.
        self.online: Online | None = None
        self.cache: Cache | None = None
        self.batcher: Batcher | None = None
        self.recorder: Recorder | None = None
        self._service = service
        measuring.show_holdout(self.measuring, lambda: getattr(self.instance, "model", None), self.names)

    @property
    def instance(self) -> Any:
        """The author's object, once BentoML has made it."""
        return self._service.instance

    # ---------------------------------------------------------------- one row
    async def one(self, call: Call, request: Any) -> Answer:
        """Return the model's answer to one request, counted and written down.

        Raises Invalid for too many that wait (429) and for what would come too late (504), and
        ArithmeticError for a number that is none.
        """
        self.admission.enter()
        try:
            return await self._one(call, request)
        finally:
            self.admission.leave()

    async def _one(self, call: Call, request: Any) -> Answer:
        rows, answer = None, None
        if self.online is not None:
            request, answer = await self.online.complete(call, request)
            call.source = "computed" if answer is None else "precomputed"
        if answer is None:
            rows = self._service.instance.features(request)
            answer = await self._predicted(call, rows)
        if not call.warm:
            self._count(call, answer, rows)
            if self.recorder is not None:
                self.recorder.row(call, rows, answer, call.source, 1000 * (time.perf_counter() - call.began))
        return answer

    async def _predicted(self, call: Call, rows: Any) -> Answer:
        """Return the answer to these features: kept, or computed alone or beside others."""
        if self.cache is not None:
            answer = await self.cache.get(rows)
            if answer is not None:
                call.source = "cached"
                return answer
        if time.perf_counter() > call.deadline:
            raise late()
        if self.batcher is not None:
            answer = plain(await self.batcher.run(rows))
        else:
            answer = plain(self._service.instance.predict(rows))
        if self.cache is not None:
            self.cache.put(rows, answer)
        return answer

    def _count(self, call: Call, answer: Answer, rows: Any) -> None:
        """Count the prediction just made, and write it down to be compared if the router asks for it."""
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
        for part in (self.batcher, self.online, self.cache, self.journal, self.recorder):
            if part is not None:
                part.close()


def late() -> Invalid:
    """Return the refusal of what nobody waits for any more."""
    return Invalid(504, "", "the deadline passed before it was computed")


def plain(columns: Mapping[str, Any]) -> Answer:
    """Return the first row of a prediction as plain values; raises ArithmeticError for NaN and infinity."""
    answer = {}
    for name, values in columns.items():
        value = values.item(0) if type(values) is np.ndarray else values[0]
        if type(value) is float and not math.isfinite(value):
            raise ArithmeticError(f"the model's {name} is {value}")  # JSON would say null
        answer[name] = value
    return answer
