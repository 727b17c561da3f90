"""What the agent remembers of one model on one plane, what it sees, and what it can be told to do.

`ModelState` is the whole memory: it is stored before the plane is touched, so what the plane should
look like (`weights`, `needed`) can always be computed again from it. That is why a crash at any
moment resumes to the same end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from tidegate.core.counts import Cumulative
from tidegate.core.plan import Key, Match, Plan
from tidegate.core.release import copy_of


class Phase(StrEnum):
    """Where a rollout is."""

    PENDING = "Pending"  # its workload is being started and warmed; no traffic yet
    PROGRESSING = "Progressing"
    PAUSED = "Paused"  # a person has to say when it goes on; looked at all the same
    VERIFIED = "Verified"  # every step passed; still watched
    HEALTHY = "Healthy"  # settled: this is what the environment runs
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    DEGRADED = "Degraded"


ACTIVE = frozenset({Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED, Phase.VERIFIED})
SERVED = ACTIVE - {Phase.PENDING}
SWITCHED = "SWITCHED"  # the verdict of a release that a person switched away from


class Mark(msgspec.Struct, frozen=True):
    """The router's counters for one release at the last look; JSON has no infinity, so None stands for it."""

    requests: int
    errors: int
    buckets: tuple[tuple[float | None, int], ...] = ()
    tallies: dict[str, tuple[int, int]] = {}
    bins: dict[str, tuple[int, ...]] = {}

    @property
    def latency(self) -> tuple[tuple[float, int], ...]:
        """Cumulative counts by upper bound in ms, the last bound infinite."""
        return tuple((math.inf if bound is None else bound, count) for bound, count in self.buckets)

    @classmethod
    def of(cls, counters: Cumulative) -> Mark:
        """Return the mark of these counters."""
        buckets = tuple((None if math.isinf(bound) else bound, n) for bound, n in counters.latency)
        return cls(counters.requests, counters.errors, buckets, dict(counters.tallies), dict(counters.bins))


class Traffic(msgspec.Struct, frozen=True):
    """How requests reach a candidate beside its weight; stored, so that it can be routed without Git.

    `mirror` is the percent copied to it, `matches` go to it whatever its weight, `affinity` keeps a caller
    on one side, `journal` has requests written down one by one.
    """

    mirror: int = 0
    matches: tuple[Match, ...] = ()
    affinity: Key | None = None
    journal: bool = False


class Arm(msgspec.Struct, frozen=True):
    """Another release that takes part: a bandit's, or the fresh copy of stable; `out` says why it left."""

    release: str
    weight: int = 0
    evidence: dict[str, Any] = {}
    out: str = ""


class Rollout(msgspec.Struct, frozen=True):
    """One release on its way into one environment.

    `stable` is where traffic goes back to (None: nowhere, a first release). `weight` is the percent
    that the candidate is meant to have, `carried` what a promotion brought along: no step goes below it.
    `entered` is when the router confirmed this step's weight. `marks` are the counters at the last look, by
    release, and `measured` the names (of checks) whose counts are in them; `seen` the candidate's requests
    since the step was entered. `step` counts the legs of all strategies (core.strategies), from -1: before
    the first. `paused` says who paused it, `approved` and `resumed` how many legs a person has let through,
    `asked` which question was told last. `experiment` is what an A/B test or a bandit remembers. Times are
    seconds since the epoch; `held` are seconds that don't count against `progressDeadline`.
    """

    environment: str
    release: str
    stable: str | None
    phase: Phase
    started: float
    step: int = 0
    weight: int = 0
    entered: float | None = None
    looked: float = 0.0
    seen: int = 0
    blind: int = 0  # looks in a row that could not be made
    evidence: dict[str, Any] = {}
    marks: dict[str, Mark] = {}
    findings: tuple[dict[str, Any], ...] = ()
    verdict: str = ""
    reason: str = ""
    ended: float | None = None
    reject: bool = False  # write a rejection beside the revert
    by: str = ""  # who asked, when a person did
    traffic: Traffic = Traffic()
    arms: tuple[Arm, ...] = ()
    paused: str = ""
    approved: int = 0
    resumed: int = 0
    experiment: dict[str, Any] = {}
    held: float = 0.0
    carried: int = 0
    asked: int = 0
    measured: tuple[str, ...] = ()

    @property
    def switched(self) -> bool:
        """True for a release that is left for another by a person's `switch`: nothing is wrong with it."""
        return self.verdict == SWITCHED

    @property
    def compared_with(self) -> str | None:
        """The release that the candidate is compared with: the fresh copy of stable, if there is one."""
        copy = copy_of(self.stable) if self.stable else None
        return copy if any(arm.release == copy and arm.weight for arm in self.arms) else self.stable

    @property
    def weights(self) -> dict[str, int]:
        """What each release that takes part is meant to have; the rest is stable's."""
        others = {arm.release: arm.weight for arm in self.arms if arm.weight}
        given = {self.release: self.weight, **others}
        rest = 100 - sum(given.values())
        return given | ({self.stable: rest} if self.stable else {})


class Loaded(msgspec.Struct, frozen=True):
    """Since when, and by whom, a release is kept up without traffic; `ready` once it was up and warm."""

    at: float
    by: str = ""
    ready: bool = False


class ModelState(msgspec.Struct, frozen=True):
    """All that the agent remembers of a model on a plane.

    `stable` is the release that traffic rests on; `verified` those that once were, oldest first;
    `retiring` maps a release that is kept warm to the time when it may be stopped. `unwritten` are
    rollbacks that ended before Git was told: until it is, their releases count as rejected here. `loaded`
    are releases that people asked to be kept up without traffic.
    """

    stable: str | None = None
    rollout: Rollout | None = None
    verified: tuple[str, ...] = ()
    retiring: dict[str, float] = {}
    unwritten: tuple[Rollout, ...] = ()
    loaded: dict[str, Loaded] = {}

    @property
    def active(self) -> Rollout | None:
        """The rollout that is under way, if any."""
        return self.rollout if self.rollout and self.rollout.phase in ACTIVE else None


@dataclass(frozen=True)
class Target:
    """What Git wants of a model in one environment of this plane."""

    environment: str
    release: str | None
    plan: Plan


@dataclass(frozen=True)
class Want:
    """What Git wants of a model on this plane, the environment that rests on it first.

    `rejected` and `known` are release ids: the former failed a rollout, the latter have a record.
    """

    targets: tuple[Target, ...]
    rejected: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()

    def target(self, environment: str) -> Target | None:
        """Return one environment's target."""
        return next((t for t in self.targets if t.environment == environment), None)


@dataclass(frozen=True)
class Seen:
    """What was observed of a model on the plane at one look; None means that it could not be."""

    workloads: Mapping[str, bool] | None = field(default_factory=dict)  # release → all replicas ready
    alive: frozenset[str] = frozenset()  # releases with at least one ready replica
    warmed: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)  # release → why it can't be started
    failed: Mapping[str, str] = field(default_factory=dict)  # release → what its process said
    weights: Mapping[str, int] | None = field(default_factory=dict)
    mirror: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Cumulative] | None = None  # by release; a release not counted has no entry
    unmeasured: Mapping[str, str] = field(default_factory=dict)  # check → why its source says nothing
    active: Mapping[str, int] = field(default_factory=dict)  # requests in flight
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes of each release's processes


@dataclass(frozen=True)
class Start:
    """Start a release's workload."""

    release: str


@dataclass(frozen=True)
class Warm:
    """Send warm-up requests to a release's replicas."""

    release: str


@dataclass(frozen=True)
class Stop:
    """Stop a release's workload."""

    release: str


@dataclass(frozen=True)
class WriteBack:
    """Write the end of a rollout to Git: the old line back, and the rejection if there is one."""

    rollout: Rollout


Action = Start | Warm | Stop | WriteBack


@dataclass(frozen=True)
class Note:
    """Something that happened in a decision and that a person would want to read."""

    kind: str
    release: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


def weights(state: ModelState, present: Collection[str], alive: Collection[str]) -> dict[str, int]:
    """Return the weights that the router should have now, release → percent; {} serves nothing.

    `present` have processes, `alive` have one that is ready. The candidate has its weight only while
    it is alive: if it dies, traffic is meanwhile on stable; so has each other arm. Stable keeps its weight
    as long as it is present: a probe that failed once must not take a plane out, the router's own checks
    know better.
    """
    rollout = state.rollout
    if rollout and rollout.phase is Phase.ROLLING_BACK:
        return _weights_back(state.stable, rollout, present, alive)
    stable, given = state.stable, {}
    if rollout and rollout.phase in ACTIVE:
        stable = rollout.stable
        arms = {arm.release: arm.weight for arm in rollout.arms}
        given = {r: w for r, w in {**arms, rollout.release: rollout.weight}.items() if w and r in alive}
    base, rest = stable if stable in present else None, 100 - sum(given.values())
    if not given:
        return {base: 100} if base else {}
    if rollout and rollout.stable is None:
        return {rollout.release: 100}
    if not rest:
        return given
    # A candidate never gets more than it was given because stable is just being started.
    return {base: rest, **given} if base else {}


def traffic(state: ModelState, alive: Collection[str]) -> tuple[str, Traffic]:
    """Return what the router should do beside the weights now: (for which release, how)."""
    rollout = state.rollout
    if rollout and rollout.phase in ACTIVE and rollout.release in alive:
        return rollout.release, rollout.traffic
    return "", Traffic()


def _weights_back(
    resting: str | None, rollout: Rollout, present: Collection[str], alive: Collection[str]
) -> dict[str, int]:
    """Leaving a release: to stable at once; from one that traffic rests on only when stable answers."""
    back = rollout.stable
    if resting == rollout.release and back not in alive:
        return {resting: 100} if resting in present else {}
    return {back: 100} if back is not None and back in present else {}


def needed(state: ModelState) -> tuple[str, ...]:
    """Return the releases whose workloads must run, the most urgent first."""
    releases: list[str | None] = [state.stable]
    if state.rollout and state.rollout.phase in ACTIVE:
        releases += [state.rollout.stable, state.rollout.release]
        releases += [arm.release for arm in state.rollout.arms if not arm.out]
    elif state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        releases += [state.rollout.stable]
    releases += state.loaded
    return tuple(dict.fromkeys(r for r in releases if r))
