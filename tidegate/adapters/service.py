"""What services count of their own predictions: scores, and features that were missing."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from tidegate.core.counts import SCORE_BINS
from tidegate.core.plan import Plan
from tidegate.core.readings import Readings, Row
from tidegate.errors import NoData, Unreachable
from tidegate.ports import Asked, Measured

PATH = "/measures"
TIMEOUT = 0.3  # seconds for one replica's answer
KEPT = 256  # connections
MOST = 64 * 1024  # bytes of an answer
METRICS = ("prediction-drift", "missing-features")
_REBUILD = "Build it anew: `tidegate package` at its commit makes a Bento that counts, or drop the check."
_DECLARE = (
    "Let its service name a `score`, and bound that field of its answer (Meta(ge=…, le=…)) or say `range` in "
    "holdout.json; or drop the check."
)
_KEEP = (
    "Bound the field that `score` names in the answer (Meta(ge=…, le=…)), so that each release declares the "
    "same; or leave the check out of this rollout."
)

Count = Annotated[int, Meta(ge=0)]


class _Answer(msgspec.Struct, frozen=True):
    """What `GET /measures` answers (tidegate/measuring.py)."""

    instance: Annotated[str, Meta(pattern=r"^[0-9]+-[0-9]+(\.[0-9]+)?$")]
    featured: Count
    missing: Count
    scores: Annotated[list[Count], Meta(max_length=SCORE_BINS)]
    # What the bins are over; those that were built before it was told counted probabilities.
    span: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.missing > self.featured:
            raise ValueError("more predictions miss a feature than there are")
        if len(self.scores) != (SCORE_BINS if self.span else 0):
            raise ValueError(f"{len(self.scores)} bins over the range {self.span}")
        if self.span and not -math.inf < self.span[0] < self.span[1] < math.inf:
            raise ValueError(f"the range {self.span} is none")

    @property
    def started(self) -> float:
        """When the process began to count, seconds since the epoch."""
        return float(self.instance.partition("-")[2])

    @property
    def row(self) -> Row:
        return (self.featured, self.missing, *self.scores)


@dataclass(frozen=True)
class _Silent:
    """Why a replica told nothing; `old` when it answers and knows no such path."""

    why: str
    old: bool = False


class ServiceMeasures:
    """`ports.Measures` of what each replica tells at `GET /measures`.

    A replica that does not answer keeps what it last told. Raises Unreachable when none of the candidate's
    answers, and NoData when its Bento is older than what is asked or its scores can't be compared.
    """

    def __init__(self, timeout: float = TIMEOUT, clock: Callable[[], float] = time.time) -> None:
        self._timeout, self._clock = timeout, clock
        self._began = clock()
        self._readings = Readings(f"{os.getpid():x}-{time.time_ns():x}")
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._at: dict[tuple[Hashable, str], str] = {}  # (rollout, endpoint) → the instance last seen there
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="measures")
        self._lock = threading.Lock()

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the plan's checks of scores and of missing features."""
        return tuple(check.name for check in plan.checks if check.metric in METRICS)

    def read(self, asked: Asked) -> dict[str, Measured]:
        """Return each release's counts, by check and replica."""
        endpoints = sorted({e for found in asked.endpoints.values() for e in found})
        told = dict(zip(endpoints, self._pool.map(self._ask, endpoints), strict=True))
        with self._lock:  # not while asking: a replica that hangs must not hold up other models
            while len(self._connections) > KEPT:
                self._connections.pop(next(iter(self._connections))).close()
            return self._measured(asked, told)

    def _measured(self, asked: Asked, told: dict[str, _Answer | _Silent]) -> dict[str, Measured]:
        _require(asked, asked.release, told)
        drift = any(check.metric == "prediction-drift" for check in asked.plan.checks)
        if drift and asked.stable in asked.endpoints:
            _require(asked, str(asked.stable), told, only_old=True)
        if drift:
            _comparable(asked, told)
        result = {}
        for release, endpoints in asked.endpoints.items():
            rows = [row for e in endpoints if (row := self._counted(asked, e, told[e]))]
            if rows:
                result[release] = self._by_check(asked.plan, rows)
        return result

    def _counted(self, asked: Asked, endpoint: str, answer: _Answer | _Silent) -> tuple[str, Row] | None:
        """Return (instance, what it counted in this rollout); None of one that was never seen."""
        rollout = (asked.model, asked.environment, asked.release, asked.since)
        if isinstance(answer, _Silent):
            instance = self._at.get((rollout, endpoint), "")
            row = self._readings.known(rollout, instance)
            return (instance, row) if row else None
        while len(self._at) > 4 * KEPT:
            del self._at[next(iter(self._at))]
        instance = self._at[rollout, endpoint] = f"{endpoint}/{answer.instance}"
        # Only what began under our eyes, and by a clock that was not moved since, is new as a whole.
        fresh = max(self._began, asked.since) <= answer.started <= self._clock()
        return instance, self._readings.take(rollout, instance, answer.row, fresh=fresh)

    def _by_check(self, plan: Plan, rows: list[tuple[str, Row]]) -> Measured:
        tallies, bins = {}, {}
        for instance, (featured, missing, *scores) in rows:
            for check in plan.checks:
                key = self._readings.key(check.name, instance)
                if check.metric == "missing-features":
                    tallies[key] = (featured, missing)
                elif check.metric == "prediction-drift":
                    bins[key] = tuple(scores)
        return Measured(tallies, bins)

    # ---------------------------------------------------------------- asking
    def _ask(self, endpoint: str) -> _Answer | _Silent:
        """Ask one replica, over the connection of last time if there is one."""
        kept = self._connections.pop(endpoint, None)  # whoever asks at the same time opens another
        if kept is not None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self._get(endpoint, kept)  # it may be one to a former process
        host, _, port = endpoint.rpartition(":")
        try:
            return self._get(endpoint, http.client.HTTPConnection(host, int(port), timeout=self._timeout))
        except (OSError, http.client.HTTPException) as error:
            return _Silent(str(error) or type(error).__name__)

    def _get(self, endpoint: str, connection: http.client.HTTPConnection) -> _Answer | _Silent:
        try:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            body = answer.read(MOST)
            whole = not answer.read(1)  # only when nothing is left may the connection be used again
        except TimeoutError:
            connection.close()
            return _Silent(f"no answer within {self._timeout:g} s")
        except BaseException:
            connection.close()
            raise
        if whole:
            self._connections[endpoint] = connection
        else:
            connection.close()
        return _told(answer.status, body)


def _told(status: int, body: bytes) -> _Answer | _Silent:
    if status != 200:
        return _Silent(f"{PATH} answered {status}", old=status == 404)
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (ValueError, RecursionError) as error:
        return _Silent(f"{PATH} answered nothing to count ({error})")


def _require(
    asked: Asked, release: str, told: dict[str, _Answer | _Silent], *, only_old: bool = False
) -> None:
    """Raise unless at least one replica of a release told something."""
    silent = {e: told[e] for e in asked.endpoints.get(release, ())}
    if any(isinstance(answer, _Answer) for answer in silent.values()):
        return
    if silent and all(isinstance(answer, _Silent) and answer.old for answer in silent.values()):
        raise NoData(f"the Bento of {asked.model} {release} is older than {PATH}", _REBUILD)
    if only_old:
        return
    said = "; ".join(f"{e}: {a.why}" for e, a in silent.items() if isinstance(a, _Silent))
    raise Unreachable(
        f"no replica of {asked.model} {release} tells what it counted ({said or 'it has none'})",
        "If it does not come back by itself, look at its log in the plane's folder.",
    )


def _comparable(asked: Asked, told: dict[str, _Answer | _Silent]) -> None:
    """Raise NoData unless both arms count their scores over one declared range: the tests need its bounds."""
    spans: dict[str, tuple[float, float]] = {}
    for release in (asked.release, asked.stable):
        for endpoint in asked.endpoints.get(release, ()) if release else ():
            answer = told[endpoint]
            if isinstance(answer, _Silent):
                continue
            if answer.span is None:
                text = f"{asked.model} {release} declares no range of its scores: their drift can't be told"
                raise NoData(text, _DECLARE)
            spans[str(release)] = answer.span
    if len(set(spans.values())) > 1:
        said = ", ".join(f"{r} from {low:g} to {high:g}" for r, (low, high) in spans.items())
        raise NoData(f"the releases of {asked.model} count their scores over other ranges: {said}", _KEEP)
