"""A rollout policy run over recorded or simulated traffic, through the very code that decides. Pure, seeded.

The machine is `core.rollout.decide` with a plane of one model simulated around it and a clock that is
counted: steps, pauses, deadlines and evidence are the real ones. A person is never waited for: gates and
indefinite pauses are let through at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from tidegate.core.analysis import Evidence, breached, judge, update
from tidegate.core.counts import Counts, Window
from tidegate.core.plan import Plan
from tidegate.core.recording import Recording
from tidegate.core.release import copy_of
from tidegate.core.rollout import decide
from tidegate.core.rules import Rule, RuledRollout
from tidegate.core.state import ACTIVE, ModelState, Phase, Rollout, Seen, Target, Want, weights
from tidegate.core.strategies import leg_at, legs_of
from tidegate.core.traffic_models import Reading, Recorded, Resampled, Source
from tidegate.core.verdict import Verdict

CONFIRMED = 0.05  # seconds until the router reports a new weight
LEFT = (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
PASSED = (Phase.VERIFIED, Phase.HEALTHY)
LATER = ("abTest", "bandit")
START = 1000.0  # the clock of a simulated rollout; 0 means "never" to some of what is remembered
LET_THROUGH = 10**6  # more legs than any plan has


@dataclass(frozen=True)
class Run:
    """One replayed rollout. Times are seconds since the candidate's first request; None: it never happened.

    `verdict` and `reason` say why it was left, `lost` counts the candidate's failed answers to users until
    its weight was 0 (or to the end).
    """

    left: float | None = None
    verdict: str = ""
    reason: str = ""
    verified: float | None = None
    lost: int = 0
    requests: int = 0
    watched: float = 0.0


Tick = tuple[float, int]  # (when, number of the look; -1 where a weight was confirmed and nothing counted)


def every(interval: float, start: float = START, look: int = 0) -> Iterator[Tick]:
    """Yield a look each interval, for ever."""
    for turn in itertools.count(1):
        yield start + interval * turn, look + turn - 1


@dataclass(frozen=True)
class Course:
    """When a run looks, for how many seconds at most, and at whom."""

    ticks: Iterator[Tick]
    seconds: float
    start: float = START
    candidate: str = "candidate"
    stable: str = "stable"
    even: bool = False  # every tick is a look of the plan's own interval


def unfit(plan: Plan) -> str:
    """Say why a plan can't be replayed; nothing if it can."""
    if any(stage.strategy in LATER for stage in plan.stages):
        return "an abTest or a bandit is decided by outcomes that arrive later, which no request shows"
    return ""


class Machine:
    """One model's plane in memory: it serves what `decide` says, and starts whatever is asked for."""

    def __init__(self, plan: Plan, environment: str, candidate: str, stable: str) -> None:
        self.candidate, self.stable = candidate, stable
        self.releases = (candidate, stable, copy_of(stable))
        before = "production" if environment == "canary" else environment
        resting = [Target(before, stable, plan)] if environment == "canary" else []
        targets = (*resting, Target(environment, candidate, plan))
        self.want = Want(targets, frozenset(), frozenset(self.releases))
        self.state = ModelState(stable=stable)
        self.served: Mapping[str, int] = {stable: 100}
        self.alive = frozenset(self.releases)
        self.readings: dict[str, Reading] = {}

    @property
    def rollout(self) -> Rollout:
        """The candidate's rollout; there is one from the first look on."""
        assert self.state.rollout
        return self.state.rollout

    @property
    def waits(self) -> bool:
        """True while a weight was asked for that the router has not confirmed yet."""
        rollout = self.rollout
        return rollout.phase in ACTIVE and rollout.entered is None

    @property
    def shares(self) -> Mapping[str, float]:
        """Release → its part of the requests, what is mirrored to it included."""
        rollout = self.rollout
        found = {release: percent / 100 for release, percent in self.served.items()}
        mirror = rollout.traffic.mirror if rollout.phase in ACTIVE else 0
        return found | ({self.candidate: found.get(self.candidate, 0) + mirror / 100} if mirror else {})

    def decide(self, now: float, fresh: Mapping[str, Counts]) -> None:
        """Count what came, take one look, and do what was decided."""
        for release, counts in fresh.items():
            self.readings[release] = self.readings.get(release, Reading()).plus(counts)
        rollout = self.state.rollout
        mirror = {self.candidate: rollout.traffic.mirror} if rollout and rollout.traffic.mirror else {}
        seen = Seen(
            workloads=dict.fromkeys(self.releases, True),
            alive=self.alive,
            warmed=self.alive,
            weights=self.served,
            mirror=mirror,
            counts=self.readings,
        )
        self.state = decide(self.state, self.want, seen, now).state
        if self.state.rollout and not self.state.rollout.approved:
            let = msgspec.structs.replace(self.state.rollout, approved=LET_THROUGH, resumed=LET_THROUGH)
            self.state = msgspec.structs.replace(self.state, rollout=let)
        self.served = weights(self.state, self.releases, self.releases)


@dataclass
class _Log:
    """What is noted on the way of one run."""

    began: float | None = None
    last: float = 0.0
    verified: float | None = None
    lost: int = 0
    requests: int = 0

    def note(self, now: float, counts: Counts | None, weight: int) -> None:
        """Add the candidate's part of one look; of mirrored requests no answer is lost."""
        self.last = now
        if counts is not None:
            self.requests += counts.requests
            self.lost += counts.errors if weight else 0

    def run(self, left: bool, verdict: str = "", reason: str = "") -> Run:
        """Return the run as it ended."""
        began = self.began if self.began is not None else self.last
        since = self.last - began
        verified = self.verified - began if self.verified is not None else None
        return Run(since if left else None, verdict, reason, verified, self.lost, self.requests, since)


class Watch:
    """A verified canary, that only a breach changes any more: pooled and judged as `decide` does, no more.

    It is what makes half an hour of looks cheap; `tests/core/test_replay.py` holds it to the machine.
    """

    def __init__(self, machine: Machine, plan: Plan) -> None:
        rollout = machine.rollout
        self.leg = leg_at(legs_of(rollout, plan), rollout)
        self.evidence = Evidence.from_dict(rollout.evidence)
        self.arms = (machine.candidate, rollout.compared_with or "")
        mine, theirs = (machine.shares.get(release, 0.0) for release in self.arms)
        self.share = mine / (mine + theirs)
        self.exact = not rollout.traffic.mirror

    def broken(self, now: float, fresh: Mapping[str, Counts]) -> str:
        """Add a look; return why the candidate is left, or nothing."""
        mine, theirs = (fresh.get(release) or Counts() for release in self.arms)
        checks, alpha = self.leg.plan.checks, self.leg.plan.alpha
        window = Window(mine, theirs, self.share, self.exact)
        self.evidence = update(self.evidence, checks, window, alpha, now)
        if not breached(self.evidence, checks, alpha):
            return ""
        results = judge(self.evidence, checks, alpha)
        return "; ".join(r.reason for r in results if r.verdict is Verdict.FAIL and not r.dry_run)


def _watch(machine: Machine, plan: Plan, environment: str, course: Course) -> Watch | None:
    """Return how a verified canary is watched; one that may settle, or has more arms, is not so simple."""
    rollout = machine.rollout
    simple = course.even and environment == "canary" and rollout.phase is Phase.VERIFIED
    counted = rollout.entered is not None and rollout.looked != rollout.entered
    return Watch(machine, plan) if simple and counted and not rollout.arms and rollout.evidence else None


def run(plan: Plan, environment: str, source: Source, course: Course) -> Run:
    """Replay one rollout until it is left, settled, or was looked at for so many seconds."""
    machine = Machine(plan, environment, course.candidate, course.stable)
    log, before = _Log(), course.start
    machine.decide(before, {})
    watch: Watch | None = None
    for now, look in course.ticks:
        if machine.waits and look >= 0:  # the router confirms a weight between two looks
            machine.decide(min(before + CONFIRMED, now), {})
        if log.began is None and machine.rollout.step >= 0:
            log.began = machine.rollout.entered
        weight = machine.rollout.weight
        fresh = source.counted(look, now - before, machine.shares) if look >= 0 else {}
        log.note(now, fresh.get(course.candidate), weight)
        if watch is None:
            machine.decide(now, fresh)
        elif broken := watch.broken(now, fresh):
            return log.run(True, str(Verdict.FAIL), broken)
        before, rollout = now, machine.rollout
        if rollout.phase in LEFT:
            return log.run(True, rollout.verdict, rollout.reason)
        if log.verified is None and rollout.phase in PASSED:
            log.verified = now
        if rollout.phase is Phase.HEALTHY or now - course.start >= course.seconds:
            break
        watch = watch or _watch(machine, plan, environment, course)
    return log.run(False)


def run_rule(rule: Rule, plan: Plan, environment: str, source: Source, course: Course) -> Run:
    """Replay the same steps under a common rule."""
    ruled, log = RuledRollout(rule, plan, environment), _Log(began=course.start)
    before = course.start
    ruled.look(before, Counts(), Counts())
    for now, look in course.ticks:
        if look < 0:
            continue
        shares = {release: percent / 100 for release, percent in ruled.percents.items()}
        fresh = source.counted(look, now - before, shares)
        weight, mine = ruled.legs[ruled.step].weight, fresh.get(ruled.candidate)
        ruled.look(now, mine or Counts(), fresh.get(ruled.stable) or Counts())
        log.note(now, mine, weight)
        before = now
        log.verified = now if ruled.verified and log.verified is None else log.verified
        if ruled.left or now - course.start >= course.seconds:
            break
    return log.run(ruled.left, "FAIL" if ruled.left else "")


# ---------------------------------------------------------------- a recording
def recorded(recording: Recording) -> tuple[list[Recorded], list[Tick]]:
    """Return a recording's looks that counted something, and when each of them, and each new weight, was.

    Looks that could not be made are left out: what came meanwhile is in the next one.
    """
    looks: list[Recorded] = []
    ticks: list[Tick] = []
    before = recording.started
    for look in recording.looks:
        if look.candidate is None or look.stable is None:
            if look.entered:
                before = look.at if not looks else before
                ticks.append((look.at, -1))
            continue
        stable = str(recording.stable)
        compared = look.against or stable
        found = {recording.release: look.candidate, compared: look.stable, **look.arms}
        rest = 100 - look.weight - (look.weight if compared != stable else 0)
        percents = {compared: float(look.weight), stable: float(rest)}
        percents[recording.release] = float(look.weight + look.mirror)
        ticks.append((look.at, len(looks)))
        looks.append(Recorded(look.at - before, found, percents))
        before = look.at
    return looks, ticks


def replay(recording: Recording, plan: Plan, environment: str, seed: int, seconds: float = 0.0) -> Run:
    """Run a policy over a recording. With the weights of then it sees what was seen then.

    At others the recorded looks are resampled (traffic_models.Resampled), and after their end drawn from
    all of them, until `seconds` after the start (0: the recording's own length).
    """
    looks, ticks = recorded(recording)
    source = Resampled(looks, recording.release, seed)
    last = ticks[-1][0]
    further = every(float(plan.interval), last, len(looks)) if seconds else iter(())
    course = Course(
        itertools.chain(ticks, further),
        max(seconds, last - recording.started),
        recording.started,
        recording.release,
        str(recording.stable),
    )
    return run(plan, environment, source, course)
