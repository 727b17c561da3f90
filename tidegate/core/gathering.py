"""What one look at the counters adds to the evidence, for the candidate and for every other arm. Pure.

Counters only grow, so a look counts what came since the look before (`Rollout.marks`). Checks that others
than the router count for are missing from a look when their source did not answer: their old counts stay,
and what came meanwhile is counted when it answers again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tidegate.core import analysis, counts
from tidegate.core.counts import Counts
from tidegate.core.plan import PAIRED
from tidegate.core.state import Arm, Mark, Note, Rollout, Seen
from tidegate.core.strategies import Leg
from tidegate.core.trying import UNITS, outcome_key
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace

KEPT = 100  # instances whose last counts are kept for a release: a replica that restarts is a new one
BY_THE_ROUTER = frozenset({"error-rate", "latency", "sample-ratio"})
Row = TypeVar("Row", bound=tuple[int, ...])


def asked_of_others(leg: Leg) -> tuple[str, ...]:
    """Return the names that this leg needs counted by somebody else than the router (ports.Measures).

    Where nothing is mirrored there are no pairs: what was counted of them stays as it is.
    """
    nobodys = BY_THE_ROUTER if leg.mirror else BY_THE_ROUTER | PAIRED
    names = [check.name for check in leg.plan.checks if check.metric not in nobodys]
    if leg.experiment and leg.plan.ab_test:
        names += [outcome_key(leg.plan.ab_test.outcome), UNITS]
    if leg.experiment and leg.plan.bandit:
        names.append(outcome_key(leg.plan.bandit.reward))
    return tuple(names)


def unmeasured(leg: Leg, seen: Seen) -> str:
    """Say which counts that this leg decides by could not be had, and why; nothing where all were."""
    shown = {check.name for check in leg.plan.checks if check.dry_run}
    by_reason: dict[str, list[str]] = {}
    for name in asked_of_others(leg):
        if name in seen.unmeasured and name not in shown:
            by_reason.setdefault(seen.unmeasured[name], []).append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())


# ---------------------------------------------------------------- marks
def begin(rollout: Rollout, leg: Leg, seen: Seen, now: float) -> Rollout:
    """Begin a leg whose weights the router has confirmed.

    Counting begins with a strategy's first leg, and goes on without a gap after that.
    """
    rollout = replace(rollout, entered=now, looked=now, blind=0)
    if rollout.marks or seen.counts is None:
        return rollout
    return replace(rollout, marks=_marks(rollout, seen), measured=_measured(leg, seen))


def _marks(rollout: Rollout, seen: Seen) -> dict[str, Mark]:
    """Return all arms' counters; a release that nothing was counted of yet has zeros.

    One that is missing from a look keeps what it had: all of it would be new again when it is back.
    """
    counted, known = seen.counts or {}, rollout.marks
    part = [rollout.release, rollout.stable, *(arm.release for arm in rollout.arms)]
    found = {r: Mark.of(counted[r]) if r in counted else known.get(r, Mark(0, 0)) for r in part if r}
    return {release: _kept(known.get(release), mark) for release, mark in found.items()}


def _kept(old: Mark | None, new: Mark) -> Mark:
    """Keep what was read of instances that are silent now: they may answer again."""
    if old is None:
        return new
    return replace(new, tallies=_newest(old.tallies, new.tallies), bins=_newest(old.bins, new.bins))


def _newest(old: Mapping[str, Row], new: Mapping[str, Row]) -> dict[str, Row]:
    silent = [(key, row) for key, row in old.items() if key not in new]
    return {**dict(silent[-KEPT:]), **new}


def _measured(leg: Leg, seen: Seen) -> tuple[str, ...]:
    return tuple(name for name in asked_of_others(leg) if name not in seen.unmeasured)


# ---------------------------------------------------------------- evidence
@dataclass(frozen=True)
class _Fresh:
    """What is new by release, on which leg; `moved` when the weights changed since the last look."""

    leg: Leg
    seen: Seen
    counts: Mapping[str, Counts]
    moved: bool
    now: float


def weigh(rollout: Rollout, leg: Leg, seen: Seen, now: float) -> Rollout:
    """Pool what each arm did since the last look, compared with stable or with its fresh copy."""
    # As a leg began, or a bandit moved weights within it.
    moved, was = rollout.looked in (rollout.entered, rollout.experiment.get("turned")), rollout.marks
    rollout = replace(rollout, looked=now, blind=0)
    if seen.counts is None:  # only where there is nothing to check
        return rollout
    marks = _marks(rollout, seen)
    known = tuple(dict.fromkeys([*rollout.measured, *_measured(leg, seen)]))
    # What a source says first may be days old: it is what later counts are counted from.
    late = set(known) - set(rollout.measured)
    made = {r: _without(counts.delta(was.get(r), mark), late) for r, mark in marks.items()}
    rollout = replace(rollout, marks=marks, measured=known)
    if rollout.step <= 0 and now - (rollout.entered or now) < leg.plan.initial_delay:
        return rollout
    fresh = _Fresh(leg, seen, made, moved, now)
    return replace(
        rollout,
        evidence=_pooled(rollout, rollout.release, rollout.evidence, fresh),
        arms=tuple(_followed(rollout, arm, fresh) for arm in rollout.arms),
        seen=rollout.seen + made[rollout.release].requests,
    )


def _without(found: Counts, names: Collection[str]) -> Counts:
    if not names:
        return found
    tallies = {name: tally for name, tally in found.tallies.items() if name not in names}
    bins = {name: row for name, row in found.bins.items() if name not in names}
    return Counts(found.requests, found.errors, found.latency, tallies, bins)


def _followed(rollout: Rollout, arm: Arm, fresh: _Fresh) -> Arm:
    """Pool an arm's counts; the fresh copy of stable is compared with, and never judged itself."""
    if arm.out or not arm.weight or arm.release == rollout.compared_with:
        return arm
    return replace(arm, evidence=_pooled(rollout, arm.release, arm.evidence, fresh))


def _pooled(rollout: Rollout, release: str, stored: dict[str, object], fresh: _Fresh) -> dict[str, object]:
    leg, against = fresh.leg, rollout.compared_with or ""
    found, share = evidence_of(stored, leg), _share(rollout, release, against, fresh.seen)
    if not share:
        return stored
    # While weights change, the larger share: no arm is ever counted as more than its part.
    share = max(share, found.share) if fresh.moved else share
    exact = not fresh.moved and not rollout.traffic.mirror
    window = counts.Window(fresh.counts[release], fresh.counts.get(against, Counts()), share, exact)
    return analysis.update(found, leg.plan.checks, window, leg.plan.alpha, fresh.now).stored()


def _share(rollout: Rollout, release: str, against: str, seen: Seen) -> float:
    """Return a release's part of the requests of it and of what it is compared with."""
    served = dict(seen.weights or {})
    if rollout.traffic.mirror and release == rollout.release:
        served[release] = served.get(release, 0) + rollout.traffic.mirror
    mine, theirs = served.get(release, 0), served.get(against, 0)
    return mine / (mine + theirs) if mine else 0.0


def evidence_of(stored: dict[str, object], leg: Leg) -> analysis.Evidence:
    """Return evidence as it was stored, or that before the first look."""
    return analysis.Evidence.from_dict(stored) if stored else analysis.start(leg.plan.checks)


# ---------------------------------------------------------------- other arms
def throw_out(rollout: Rollout, leg: Leg, notes: list[Note]) -> Rollout:
    """Take another arm's weight away when it breaks an objective; the rollout goes on without it."""
    return replace(rollout, arms=tuple(_kept_in(rollout, leg, arm, notes) for arm in rollout.arms))


def _kept_in(rollout: Rollout, leg: Leg, arm: Arm, notes: list[Note]) -> Arm:
    if arm.out or not arm.evidence or not arm.weight:
        return arm
    results = analysis.Judgement(evidence_of(arm.evidence, leg), leg.plan.checks, leg.plan.alpha)
    if not results.failed:
        return arm
    broken = "; ".join(r.reason for r in results if r.verdict is Verdict.FAIL and not r.dry_run)
    notes.append(Note("arm-out", arm.release, f"{rollout.environment}: {arm.release}: {broken}"))
    return replace(arm, out=broken, weight=0)
