"""From a checked request to a counted, written-down answer: the same for every protocol."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

from tidegate.serving import answered, batching, cache, measuring, online, predictions, ready, scores
from tidegate.serving.admission import Admission
from tidegate.serving.artifact import identity
from tidegate.serving.settings import Settings
from tidegate.serving.turn import Answer, Turn, plain

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
    offline: bool = False  # nothing is looked up: the request is all there is
    rows: int = 1
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

    async def run(self, rows: Any, deadline: float) -> Mapping[str, Any]:
        """Return what `predict` says of these rows, by column, computed beside others' rows.

        Raises Invalid (504) when it is not begun by `deadline`.
        """

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
        self.admission.shown(self.measuring.add)
        self.runs = ready.Runs(service, settings, self.measuring.add)
        self.journal = answered.Journal.of_environment()
        # What a model may do without; each costs one look where it is off.
        self.online: Online | None = None
        found = online.lookups(inner, self.identity["release"], settings.online.timeout_ms / 1000)
        if found is not None:
            found.shown(self.measuring.add)
            self.online = found
        self.cache: Cache | None = None
        kept = cache.answers(settings.cache, service.name, self.identity, inner.response)
        if kept is not None:
            kept.shown(self.measuring.add)
            self.cache = kept
        self.turn = Turn(lambda rows: service.instance.predict(rows))
        about = "Rows computed at once, of requests of one turn of the loop"
        self.measuring.add("tidegate_turn_rows", about, "histogram", lambda: self.turn.sizes)
        self.batcher: Batcher | None = None
        gathering = batching.batcher(settings.batching, lambda rows: service.instance.predict(rows))
        if gathering is not None:
            gathering.shown(self.measuring.add)
            self.batcher = gathering
        self.recorder: Recorder | None = None
        written = predictions.of_environment(service.name, self.identity, self.names, settings.log)
        if written is not None:
            written.shown(self.measuring.add)
            self.recorder = written
        self._service = service
        measuring.show_holdout(self.measuring, lambda: getattr(self.instance, "model", None), self.names)

    @property
    def instance(self) -> Any:
        """The author's object, once BentoML has made it."""
        return self._service.instance

    def opened(self) -> None:
        """Take up what is known once the model is loaded: the range of its scores."""
        inner, model = self._service.inner, getattr(self.instance, "model", None)
        seen = getattr(getattr(model, "holdout", None), "range", None)
        declared = scores.promised(inner.response, self.measuring.score)
        self.measuring.over(declared or (scores.around(seen) if self.measuring.score else None))

    # ---------------------------------------------------------------- one row
    async def one(self, call: Call, request: Any) -> Answer:
        """Return the model's answer to one request, counted and written down.

        Raises Invalid for too many that wait (429) and for what would come too late (504), and
        ArithmeticError for a number that is none.
        """
        admission = self.admission
        admission.enter()
        try:
            rows = answer = None
            if self.online is not None:
                request, answer = await self.online.complete(call, request)
                call.source = "computed" if answer is None else "precomputed"
            if answer is None:
                rows = self._service.instance.features(request)
                if self.cache is None:
                    answer = await self._computed(call, rows)
                else:
                    answer = await self._kept(self.cache, call, rows)
            if not call.warm:
                self.measuring.count(answer, rows)
                if call.journaled:
                    self._note(call, 200, answer)
                if self.recorder is not None:
                    ms = 1000 * (time.perf_counter() - call.began)
                    self.recorder.row(call, rows, answer, call.source, ms)
            return answer
        finally:
            admission.leave()

    async def _kept(self, cache: Cache, call: Call, rows: Any) -> Answer:
        """Return the answer to these features that is kept, or compute it and keep it."""
        answer = await cache.get(rows)
        if answer is not None:
            call.source = "cached"
            return answer
        answer = await self._computed(call, rows)
        cache.put(rows, answer)
        return answer

    async def _computed(self, call: Call, rows: Any) -> Answer:
        if self.batcher is None:
            return await self.turn.run(rows, call.deadline)
        return plain(await self.batcher.run(rows, call.deadline))

    def failed(self, call: Call, status: int) -> None:
        """Write down that a request got no prediction."""
        if call.journaled and not call.warm:
            self._note(call, status, {})

    def _note(self, call: Call, status: int, answer: Answer) -> None:
        if self.journal is not None:
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
