"""Counts that others than the router keep, read beside the ticks: a source that hangs holds up no look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tidegate.agent.jobs import Done, Jobs
from tidegate.core.counts import Cumulative
from tidegate.core.gathering import asked_of_others
from tidegate.core.state import ACTIVE, ModelState, Rollout, Seen, Want
from tidegate.core.strategies import Leg, leg_at, legs_of
from tidegate.errors import NoData
from tidegate.ports import Asked, Clock, Counters, Measured, Measures, ReplicaState, Workload

FRESH = 5.0  # seconds, or three intervals: for so long a reading stands for now
EARLY = 0.9  # of an interval: a tick comes a little early or late

Key = tuple[str, str, float, int]  # environment, release, when the rollout began, stage


@dataclass(frozen=True)
class _Reading:
    """What a source said last of a model's rollout; `problem` says why it said nothing.

    `never` is why nothing was ever counted, as the source says: an answer, unless something was before.
    """

    of: Key
    at: float = 0.0
    found: Mapping[str, Measured] | None = None
    problem: str = "it is just being asked"
    never: str = ""


@dataclass(frozen=True)
class _Need:
    """What a rollout wants counted now."""

    of: Key
    rollout: Rollout
    leg: Leg
    names: tuple[str, ...]


class Measuring:
    """Asks all sources about every rollout under way, at most once at a time each."""

    def __init__(self, sources: Sequence[Measures], jobs: Jobs, clock: Clock) -> None:
        self.sources, self.jobs, self.clock = tuple(sources), jobs, clock
        self._readings: dict[tuple[int, str], _Reading] = {}
        self._begun: dict[tuple[int, str], tuple[Key, float]] = {}

    def collect(self) -> None:
        """Take in the readings that are finished."""
        for job in self.jobs.collect():
            source, _, model = job.key.partition("/")
            at = (int(source), model)
            if at not in self._begun:
                continue
            of, begun = self._begun[at]
            if job.error is None:
                key, when, found = job.result
                self._readings[at] = _Reading(key, when, found, "")
            else:
                self._readings[at] = _told(job, of, begun, self._readings.get(at))

    def ask(
        self,
        states: Mapping[str, ModelState],
        wants: Mapping[str, Want],
        workloads: Mapping[str, Mapping[str, Workload]],
        now: float,
    ) -> None:
        """Begin the readings that are due for rollouts under way; forget those of others."""
        if not self.sources:
            return
        under_way = set()
        for model, state in states.items():
            need = _need(state, wants.get(model))
            if need is None:
                continue
            for number, source in enumerate(self.sources):
                if source.names(need.leg.plan):
                    under_way.add((number, model))
                    self._ask(number, source, model, need, workloads.get(model, {}), now)
        self._readings = {at: reading for at, reading in self._readings.items() if at in under_way}
        self._begun = {at: begun for at, begun in self._begun.items() if at in under_way}

    def _ask(
        self,
        number: int,
        source: Measures,
        model: str,
        need: _Need,
        workloads: Mapping[str, Workload],
        now: float,
    ) -> None:
        of, begun = self._begun.get((number, model), (None, 0.0))
        if of == need.of and 0 <= now - begun < need.leg.plan.interval * EARLY:
            return
        asked, clock, key = _asked(model, need, workloads), self.clock, need.of
        if self.jobs.submit(f"{number}/{model}", lambda: (key, clock.now(), source.read(asked))):
            self._begun[number, model] = (key, now)

    def add(self, seen: Seen, model: str, state: ModelState, want: Want, now: float) -> Seen:
        """Return what was seen with the sources' counts in it, and why some of them are missing."""
        need = _need(state, want)
        if need is None:
            return seen
        measured: dict[str, Measured] = {}
        known: set[str] = set()
        problems: dict[str, str] = {}
        for number, source in enumerate(self.sources):
            names = source.names(need.leg.plan)
            if not names:
                continue
            reading = self._readings.get((number, model)) or _Reading(need.of)
            problem = _problem(reading, need, now)
            if problem:
                problems |= dict.fromkeys(names, problem)
                continue
            gone = [name for name in names if reading.never and _counted(need.rollout, name)]
            problems |= dict.fromkeys(gone, reading.never)
            known.update(name for name in names if name not in gone)
            for release, found in (reading.found or {}).items():
                measured[release] = _merged(measured.get(release), found)
        nobody = {name: f"nothing on this plane measures it{_hint(name, need)}" for name in need.names}
        missing = {name: problems.get(name, nobody[name]) for name in need.names if name not in known}
        return replace(seen, unmeasured=missing, counts=_with(seen.counts, measured))


def _need(state: ModelState, want: Want | None) -> _Need | None:
    rollout = state.rollout
    if rollout is None or want is None or rollout.phase not in ACTIVE:
        return None
    target = want.target(rollout.environment)
    if target is None:
        return None
    leg = leg_at(legs_of(rollout, target.plan), rollout)
    of = (rollout.environment, rollout.release, rollout.started, leg.stage)
    return _Need(of, rollout, leg, asked_of_others(leg))


def _asked(model: str, need: _Need, workloads: Mapping[str, Workload]) -> Asked:
    rollout = need.rollout
    part = [rollout.release, rollout.stable, *(arm.release for arm in rollout.arms if not arm.out)]
    endpoints = {
        release: tuple(r.endpoint for r in workloads[release].replicas if r.state is ReplicaState.READY)
        for release in part
        if release and release in workloads
    }
    return Asked(
        model,
        rollout.environment,
        rollout.release,
        rollout.stable,
        rollout.started,
        need.leg.plan,
        endpoints,
    )


def _told(job: Done, of: Key, now: float, before: _Reading | None) -> _Reading:
    """Return what a failed reading says; one that nothing was ever counted is an answer, too."""
    if isinstance(job.error, NoData):
        return _Reading(of, now, {}, "", str(job.error))
    last = before if before is not None and before.of == of else _Reading(of)
    return replace(last, problem=str(job.error))  # what it said before stands for as long as it is fresh


def _problem(reading: _Reading, need: _Need, now: float) -> str:
    if reading.of != need.of:
        return "it is just being asked"
    if reading.found is None:
        return reading.problem
    age, patience = now - reading.at, max(FRESH, 3 * need.leg.plan.interval)
    if -FRESH <= age <= patience:
        return ""
    return reading.problem or f"its source has said nothing for {age:.0f} s"


def _counted(rollout: Rollout, name: str) -> bool:
    """Tell whether a name's counts were read before in this rollout."""
    keys = (key for mark in rollout.marks.values() for key in (*mark.tallies, *mark.bins))
    return any(key.partition("@")[0] == name for key in keys)


def _hint(name: str, need: _Need) -> str:
    metric = next((check.metric for check in need.leg.plan.checks if check.name == name), "")
    return ": set prometheus.url in envs/platform.yaml" if metric == "prometheus" else ""


def _merged(mine: Measured | None, new: Measured) -> Measured:
    if mine is None:
        return new
    return Measured({**mine.tallies, **new.tallies}, {**mine.bins, **new.bins})


def _with(
    counts: Mapping[str, Cumulative] | None, measured: Mapping[str, Measured]
) -> dict[str, Cumulative] | None:
    """Return the router's counters with the other sources' counts; None while the router says nothing."""
    if counts is None:
        return None
    made: dict[str, Cumulative] = dict(counts)
    for release, found in measured.items():
        mine = counts.get(release) or Counters(0, 0)
        made[release] = Counters(
            mine.requests, mine.errors, mine.latency, tallies=found.tallies, bins=found.bins
        )
    return made
