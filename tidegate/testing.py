"""In-memory fakes of every port, shipped, and held to the same contract suite as the real adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tidegate.core.release import ReleaseRecord
from tidegate.core.xds import LATENCY_BOUNDS_MS, fault
from tidegate.errors import NoData, Refused, ReleaseNotFound, Unreachable
from tidegate.ports import Counters, Replica, ReplicaState, Route, RouteTable, Workload


# ---------------------------------------------------------------- planes: router, metrics, workloads
class _Faults:
    """Errors that the next calls raise: a fake's way to be a broken plane."""

    def __init__(self) -> None:
        self.calls: list[str] = []  # every method called, in order
        self._planned: list[tuple[str | None, Exception, bool]] = []

    def fail_next(self, error: Exception, method: str | None = None, *, after: bool = False) -> None:
        """Raise `error` at the next call (of `method`, if named); `after` its effect if asked so."""
        self._planned.append((method, error, after))

    def _called(self, method: str, *, after: bool = False) -> None:
        if not after:
            self.calls.append(method)
        for planned in self._planned:
            if planned[0] in (None, method) and planned[2] is after:
                self._planned.remove(planned)
                raise planned[1]


class FakeRouter(_Faults):
    """A router in memory. `table` is what it serves, `history` every table it came to serve."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Route] = {}
        self.history: list[dict[str, Route]] = []

    def apply(self, table: RouteTable) -> None:
        """Serve `table`; a table that is served already leaves `history` as it is."""
        self._called("apply")
        problem = fault(table)
        if problem:
            raise Refused(problem, "Give every served release an endpoint and weights that sum to 100.")
        wanted = {model: Route(dict(r.weights), dict(r.endpoints)) for model, r in table.items()}
        if wanted != self.table:
            self.table = wanted
            self.history.append(wanted)
        self._called("apply", after=True)

    def read(self) -> RouteTable:
        """Return what is served."""
        self._called("read")
        return dict(self.table)


class FakeMetrics(_Faults):
    """Counters in memory: set `counters`, or count requests with `add`."""

    def __init__(self) -> None:
        super().__init__()
        self.counters: dict[tuple[str, str], Counters] = {}

    def add(self, model: str, release: str, requests: int, errors: int = 0, latency_ms: float = 5.0) -> None:
        """Count `requests` answers of one latency, `errors` of them a 5xx."""
        old = self.counters.get((model, release), Counters(0, 0, ((float("inf"), 0),)))
        old_at = dict(old.latency)
        bounds = sorted({*old_at, *LATENCY_BOUNDS_MS, float("inf")})
        latency, below = [], 0
        for bound in bounds:
            below = old_at.get(bound, below)
            latency.append((bound, below + (requests if latency_ms <= bound else 0)))
        self.counters[model, release] = Counters(
            old.requests + requests, old.errors + errors, tuple(latency), old.active
        )

    def read(self) -> Mapping[tuple[str, str], Counters]:
        """Return a copy of `counters`; raises NoData when there are none."""
        self._called("read")
        if not self.counters:
            raise NoData("no release has been counted", "Send a request through the router.")
        return dict(self.counters)


class FakeWorkloads(_Faults):
    """Workloads in memory. `running` is what was started and not stopped, `warmed` who was warmed.

    `starts_as` is the state that new replicas have; `available` names the releases whose Bento is
    here (None: all of them).
    """

    def __init__(self, starts_as: ReplicaState = ReplicaState.READY) -> None:
        super().__init__()
        self.starts_as = starts_as
        self.available: set[str] | None = None
        self.running: dict[tuple[str, str], Workload] = {}
        self.warmed: list[tuple[str, str]] = []
        self._next_port = 20000

    def start(self, record: ReleaseRecord, replicas: int) -> None:
        """Start replicas, each with an endpoint that no other ever had."""
        self._called("start")
        if self.available is not None and record.id not in self.available:
            raise ReleaseNotFound(f"the Bento of {record.id} is not here", "Run `tidegate package`.")
        if (record.model, record.id) not in self.running:
            made = []
            for _ in range(replicas):
                self._next_port += 1
                made.append(Replica(f"127.0.0.1:{self._next_port}", self.starts_as))
            self.running[record.model, record.id] = Workload(record.model, record.id, tuple(made))
        self._called("start", after=True)

    def set_state(
        self, release: str, state: ReplicaState, detail: str = "", index: int | None = None
    ) -> None:
        """Put a release's replicas (or the one at `index`) in a state."""
        for key, found in self.running.items():
            if key[1] == release:
                self.running[key] = replace(
                    found,
                    replicas=tuple(
                        replace(r, state=state, detail=detail) if index in (None, i) else r
                        for i, r in enumerate(found.replicas)
                    ),
                )

    def stop(self, model: str, release: str) -> None:
        """Forget a release."""
        self._called("stop")
        self.running.pop((model, release), None)
        self._called("stop", after=True)

    def list(self) -> Sequence[Workload]:
        """Return what runs, in the order of model and release."""
        self._called("list")
        return [self.running[key] for key in sorted(self.running)]

    def warm(self, model: str, release: str) -> None:
        """Note that it was warmed; raises Unreachable when it is not all ready."""
        self._called("warm")
        found = self.running.get((model, release))
        if found is None or not found.ready:
            raise Unreachable(f"{model} {release} is not ready", "Wait until its replicas are.")
        self.warmed.append((model, release))
