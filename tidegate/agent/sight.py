"""One look at a plane: workloads, router and counters, put together by model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from tidegate.core.state import ModelState, Phase, Seen, needed, traffic, weights
from tidegate.errors import NoData, TidegateError
from tidegate.ports import Counters, Metrics, ReplicaState, Route, Router, RouteTable, Workload, Workloads

V = TypeVar("V")

PATIENCE = 3.0  # seconds that a probe may fail, at two looks at least, until a release counts as dead


@dataclass(frozen=True)
class View:
    """What one look saw; a part is None when it could not be seen, and `problem` says why."""

    workloads: Mapping[tuple[str, str], Workload] | None
    alive: frozenset[tuple[str, str]]
    warmed: frozenset[tuple[str, str]]
    routes: RouteTable | None
    counters: Mapping[tuple[str, str], Counters] | None
    problem: str = ""
    failed: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """True when workloads and routes were both seen: otherwise no route but a `retreat` is written."""
        return self.workloads is not None and self.routes is not None

    @cached_property
    def running(self) -> dict[str, dict[str, Workload]]:
        """What runs, by model and release."""
        return _grouped((self.workloads or {}).items())

    @cached_property
    def _alive(self) -> dict[str, dict[str, bool]]:
        return _grouped((key, True) for key in self.alive)

    @cached_property
    def _warmed(self) -> dict[str, dict[str, bool]]:
        return _grouped((key, True) for key in self.warmed)

    @cached_property
    def _failed(self) -> dict[str, dict[str, str]]:
        return _grouped(self.failed.items())

    @cached_property
    def _counters(self) -> dict[str, dict[str, Counters]]:
        return _grouped((self.counters or {}).items())

    def of(self, model: str) -> Seen:
        """Return one model's part."""
        route = self.routes.get(model, Route()) if self.routes is not None else None
        counts, running = self._counters.get(model, {}), self.running.get(model, {})
        return Seen(
            workloads=None if self.workloads is None else {r: w.ready for r, w in running.items()},
            alive=frozenset(self._alive.get(model, ())),
            warmed=frozenset(self._warmed.get(model, ())),
            failed=self._failed.get(model, {}),
            weights=None if route is None else {r: w for r, w in route.weights.items() if w},
            mirror={} if route is None else route.mirror,
            counts=None if self.counters is None else counts,
            active={r: c.active for r, c in counts.items()},
            memory={r: w.memory for r, w in running.items()},
        )

    def table(self, states: Mapping[str, ModelState]) -> RouteTable | None:
        """Return the routes that these states ask for, or None when the router serves them already."""
        routes = self.routes or {}
        table: dict[str, Route] = {}
        for model, state in states.items():
            mine, alive = self.running.get(model, {}), frozenset(self._alive.get(model, ()))
            served = weights(state, frozenset(mine), alive)
            known = routes.get(model, Route()).endpoints
            keep = [r for r in mine if r in served or r in alive or r in known]
            # A release that nobody needs any more leaves the router before its processes stop.
            wanted = {*needed(state), *state.retiring, *served}
            endpoints = {r: mine[r].endpoints for r in sorted(keep) if r in wanted}
            tried, beside = traffic(state, alive.intersection(endpoints))
            table[model] = Route(
                served,
                endpoints,
                mirror={tried: beside.mirror} if beside.mirror else {},
                matches=tuple((match, tried) for match in beside.matches),
                affinity=beside.affinity,
                salt=tried if beside.affinity else "",
                journal=beside.journal,
            )
        return None if dict(routes) == table else table

    def retreat(self, states: Mapping[str, ModelState]) -> RouteTable | None:
        """Return the routes without what is being left, for when it can't be seen what runs.

        All goes to the release that is routed beside it, at the endpoints that the router knows; the
        rest stays as it is. None when there is nothing to leave, or nowhere to go.
        """
        routes = dict(self.routes or {})
        for model, state in states.items():
            rollout, route = state.rollout, routes.get(model, Route())
            if rollout is None or rollout.phase is not Phase.ROLLING_BACK or state.stable == rollout.release:
                continue
            back = rollout.stable
            release = rollout.release
            tried = any(to == release for _, to in route.matches)
            reached = route.weights.get(release) or route.mirror.get(release) or tried
            if back and route.endpoints.get(back) and reached:
                routes[model] = Route({back: 100}, route.endpoints)
        return None if routes == dict(self.routes or {}) else routes


def _grouped(items: Iterable[tuple[tuple[str, str], V]]) -> dict[str, dict[str, V]]:
    """Return model → release → value; worked out once a look, so that a look's cost grows with its models."""
    found: dict[str, dict[str, V]] = {}
    for (model, release), value in items:
        found.setdefault(model, {})[release] = value
    return found


class Sight:
    """Looks at a plane through its ports, and remembers who was alive a moment ago."""

    def __init__(self, router: Router, metrics: Metrics, workloads: Workloads) -> None:
        self.router, self.metrics, self.workloads = router, metrics, workloads
        self._missed: dict[tuple[str, str], float] = {}  # seconds since its probe last answered
        self._looked: float | None = None
        self._warmed: dict[tuple[str, str], tuple[str, ...]] = {}
        self._endpoints: dict[tuple[str, str], tuple[str, ...]] = {}
        self._words: dict[tuple[str, str], str] = {}

    def warmed(self, model: str, release: str) -> None:
        """Remember that a release's replicas, as they are now, were warmed."""
        key = (model, release)
        self._warmed[key] = self._endpoints.get(key, ())

    def look(self, now: float, stopping: Collection[tuple[str, str]] = ()) -> View:
        """Read everything once; what can't be read is None, never an old value.

        Releases that are `stopping` are not there any more, whatever their probes still say.
        """
        problems: list[str] = []
        workloads: dict[tuple[str, str], Workload] | None = None
        routes: RouteTable | None = None
        counters: Mapping[tuple[str, str], Counters] | None = None
        try:
            found = {(w.model, w.release): w for w in self.workloads.list()}
            workloads = {key: w for key, w in found.items() if key not in stopping}
        except TidegateError as error:
            problems.append(str(error))
        try:
            routes = self.router.read()
        except TidegateError as error:
            problems.append(str(error))
        try:
            counters = self.metrics.read()
        except NoData:
            counters = {}
        except TidegateError as error:
            problems.append(str(error))
        seen = workloads or {}
        return View(
            workloads,
            self._alive(workloads, now),
            frozenset(k for k, w in seen.items() if self._warmed.get(k) == w.endpoints),
            routes,
            counters,
            "; ".join(dict.fromkeys(problems)),
            self._said(workloads),
        )

    def _said(self, workloads: Mapping[tuple[str, str], Workload] | None) -> dict[tuple[str, str], str]:
        """Return the last words of what failed, kept until all is ready: a retry alone mends nothing."""
        for key, workload in (workloads or {}).items():
            words = [r.detail for r in workload.replicas if r.state is ReplicaState.FAILED and r.detail]
            if words:
                self._words[key] = "; ".join(dict.fromkeys(words))
        if workloads is not None:
            ready = {key for key, workload in workloads.items() if workload.ready}
            self._words = {k: text for k, text in self._words.items() if k in workloads and k not in ready}
        return dict(self._words)

    def _alive(
        self, workloads: Mapping[tuple[str, str], Workload] | None, now: float
    ) -> frozenset[tuple[str, str]]:
        # Busy looks come many a second; after a slow one, or an outage, one glitch is still no death.
        waited = min(max(0.0, now - (self._looked or now)), PATIENCE / 2)
        self._looked = now
        if workloads is None:  # not seen is not dead: patience goes on after
            return frozenset()
        alive = set()
        for key, workload in workloads.items():
            self._endpoints[key] = workload.endpoints
            if any(r.state is ReplicaState.READY for r in workload.replicas):
                self._missed[key] = 0
            elif all(r.state is ReplicaState.FAILED for r in workload.replicas):
                self._missed.pop(key, None)  # its processes are gone: no patience
            elif key in self._missed:
                self._missed[key] += waited
            if self._missed.get(key, PATIENCE) < PATIENCE:
                alive.add(key)
        # Gone and come back are new processes: neither alive on trust nor warm.
        self._missed = {key: n for key, n in self._missed.items() if key in workloads}
        self._warmed = {key: e for key, e in self._warmed.items() if key in workloads}
        self._endpoints = {key: e for key, e in self._endpoints.items() if key in workloads}
        return frozenset(alive)
