"""A rollout on its way: from waiting for its workload, leg by leg, by what each look counts. Pure.

What is counted is weighed by `gathering`; `advancing` says when a leg is left and what comes after it.
"""

from __future__ import annotations

import msgspec

from tidegate.core import analysis
from tidegate.core.advancing import advance, blind, enter, enter_before, late, with_numbers
from tidegate.core.gathering import begin, evidence_of, throw_out, unmeasured, weigh
from tidegate.core.leaving import leave
from tidegate.core.plan import Plan
from tidegate.core.state import Arm, Note, Phase, Rollout, Seen
from tidegate.core.strategies import Leg, leg_at, legs_of
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace

EARLY = 0.9  # of an interval: a tick comes a little early or late
SOON = 0.2  # of it, in a leg's first interval: a dead release shows by its first answers
UNWATCHED = 60.0  # seconds between two looks from which on nobody looked, or the clock was moved
FOR_ARMS = 0.25  # of `progressDeadline` may pass before a rollout goes on without an arm that doesn't come up
EXPERIMENT_TIMES = ("since", "turned")


# ---------------------------------------------------------------- pending
def prepare(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Wait for the workload; its deadline doesn't run while the release can't be started here."""
    release = rollout.release
    if release in seen.missing:
        reason = seen.missing[release]
        if reason != rollout.reason:
            notes.append(Note("problem", release, reason))
        return replace(_waited(rollout, plan, now, missing=True), reason=reason)
    rollout = _waited(rollout, plan, now, missing=False)
    ready, overdue = _up(release, seen), late(rollout, plan, now)
    rollout = _with_arms(rollout, plan, seen, now, notes)
    if ready and release in seen.warmed and not waits_for_arms(rollout, seen):
        planned = legs_of(rollout, plan)
        rollout = replace(rollout, phase=Phase.PROGRESSING, reason="", step=-1)
        if planned[0].manual and not rollout.approved:
            return enter_before(rollout, planned, notes)
        return enter(rollout, planned, 0, notes)
    if overdue:
        silent = "its warm-up never got through" if ready else "its readiness probe never answered"
        reason = f"not ready, {overdue}: {seen.failed.get(release, silent)}"
        return leave(rollout, Verdict.FAIL, reason, notes)
    return replace(rollout, reason=seen.failed.get(release, ""))


def _waited(rollout: Rollout, plan: Plan, now: float, *, missing: bool) -> Rollout:
    """Note in strides that time passed, so that waiting for a Bento doesn't write at every look."""
    stride = plan.progress_deadline / 10
    since = now - (rollout.looked or rollout.started)
    if 0 <= since <= stride:
        return rollout
    unwatched = not 0 <= since <= max(UNWATCHED, 2 * stride)
    held = rollout.held + (since if unwatched or missing else 0.0)
    return replace(rollout, looked=now, held=held)


def _up(release: str, seen: Seen) -> bool:
    return release in seen.alive and (seen.workloads or {}).get(release, False)


def waits_for_arms(rollout: Rollout, seen: Seen) -> str:
    """Say which other arms are not up yet; nothing when all are, or take no part."""
    return ", ".join(arm.release for arm in rollout.arms if not arm.out and not _warm(arm.release, seen))


def _warm(release: str, seen: Seen) -> bool:
    return _up(release, seen) and release in seen.warmed


def _with_arms(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    overdue = bool(late(rollout, plan, now, FOR_ARMS))
    return replace(rollout, arms=tuple(_arrived(arm, seen, overdue, notes) for arm in rollout.arms))


def _arrived(arm: Arm, seen: Seen, overdue: bool, notes: list[Note]) -> Arm:
    """Go on without another arm that can't be had; the candidate is not to be held up by it for ever."""
    gone = seen.missing.get(arm.release) or (
        overdue and not _warm(arm.release, seen) and "it never became ready"
    )
    if arm.out or not gone:
        return arm
    notes.append(Note("arm-out", arm.release, f"{arm.release} takes no part: {gone}"))
    return replace(arm, out=str(gone), weight=0)


# ---------------------------------------------------------------- looking
def just_begun(rollout: Rollout, leg: Leg, now: float) -> bool:
    """Tell whether the router serves this leg's weights since less than an interval."""
    return rollout.entered is not None and 0 <= now - rollout.entered < leg.plan.interval


def look(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Pool one look's counts, judge, and leave, hold or advance."""
    planned = legs_of(rollout, plan)
    leg = leg_at(planned, rollout)
    plan = leg.plan  # what a strategy of a sequence says of itself
    early = 0 <= now - rollout.looked < leg.plan.interval * EARLY
    if seen.weights is None or (seen.counts is None and leg.plan.checks):
        return rollout if early else blind(_watched(rollout, leg, now), plan, "no measurements", now, notes)
    if not _as_meant(rollout, seen):
        return _unserved(rollout, plan, seen, now, notes)
    if leg.plan.checks and _lost(rollout, seen):
        gone = f"the router counts nothing of {rollout.release} any more"
        return rollout if early else blind(_watched(rollout, leg, now), plan, gone, now, notes)
    if rollout.entered is None:  # the router serves this leg's weights
        return begin(rollout, leg, seen, now)
    if early and not (just_begun(rollout, leg, now) and now - rollout.looked >= leg.plan.interval * SOON):
        return rollout
    rollout = _watched(rollout, leg, now)
    since, was_blind, first = now - rollout.looked, rollout.blind, rollout.looked == rollout.entered
    rollout = weigh(rollout, leg, seen, now)
    results = analysis.Judgement(evidence_of(rollout.evidence, leg), leg.plan.checks, leg.plan.alpha)
    if results.failed or first or _to_show(rollout, leg, now - since, now):
        rollout = with_numbers(rollout, results)
    if results.failed:
        broken = [r for r in results if r.verdict is Verdict.FAIL and not r.dry_run]
        return leave(rollout, Verdict.FAIL, "; ".join(r.reason for r in broken), notes)
    rollout = throw_out(rollout, leg, notes)
    unknown = unmeasured(leg, seen)
    if unknown:
        return blind(replace(rollout, blind=was_blind), plan, unknown, now, notes)
    if rollout.phase is Phase.VERIFIED:
        return rollout
    if seen.workloads is None:  # evidence counts, and a further step needs somebody to run it
        return replace(rollout, held=rollout.held + since, reason="held, it can't be seen what runs")
    if rollout.step < 0:
        rollout = _with_arms(rollout, plan, seen, now, notes)
        waited = waits_for_arms(rollout, seen)
        if waited:
            return replace(rollout, reason=f"waits for {waited}")
    return advance(rollout, plan, planned, results, now, since, notes)


def _to_show(rollout: Rollout, leg: Leg, before: float, now: float) -> bool:
    """Tell whether every check's numbers are wanted: an experiment adds its own to them at every look."""
    due = analysis.shown(rollout.release, before, now) or leg.plan.interval > analysis.SHOWN
    return due or leg.experiment or not rollout.findings


def _watched(rollout: Rollout, leg: Leg, now: float) -> Rollout:
    """Let no deadline, pause or horizon run over a time that nobody looked, or a clock that was moved."""
    since = now - rollout.looked
    if not rollout.looked or 0 <= since <= max(UNWATCHED, 3 * leg.plan.interval):
        return rollout
    shift = since - leg.plan.interval
    times = {key: value + shift for key, value in rollout.experiment.items() if key in EXPERIMENT_TIMES}
    return replace(
        rollout,
        held=rollout.held + shift,
        entered=None if rollout.entered is None else rollout.entered + shift,
        ended=None if rollout.ended is None else rollout.ended + shift,
        looked=rollout.looked + shift,
        experiment={**rollout.experiment, **times},
    )


def _as_meant(rollout: Rollout, seen: Seen) -> bool:
    """Tell whether the router serves the candidate as it was told; one without weight must be alive."""
    served = (seen.weights or {}).get(rollout.release, 0) == rollout.weight
    mirrored = seen.mirror.get(rollout.release, 0) == rollout.traffic.mirror
    alive = rollout.weight > 0 or seen.workloads is None or rollout.release in seen.alive
    return served and mirrored and alive


def _lost(rollout: Rollout, seen: Seen) -> bool:
    """Tell whether the candidate's counters, which the router once had, are gone: none are no zeros."""
    known = rollout.marks.get(rollout.release)
    return known is not None and known.requests > 0 and rollout.release not in (seen.counts or {})


def _unserved(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Hold while the router serves another weight: it was just asked, or the candidate died.

    A candidate that stays dead is not a lack of data: after `progressDeadline` it is left, and one
    that was verified when it has been dead for that long.
    """
    if seen.workloads is None:  # nobody knows whether it is dead
        return replace(rollout, entered=None)
    dead = rollout.release not in seen.alive
    why = "none of its replicas answers" if dead else "its weight is not confirmed"
    rollout = replace(rollout, entered=None, reason=why if dead else rollout.reason)
    verified = rollout.phase is Phase.VERIFIED
    overdue = late(replace(rollout, started=rollout.looked, held=0.0) if verified else rollout, plan, now)
    if not overdue:
        return rollout
    reason = f"{overdue}: {why}"
    if plan.on_inconclusive == "hold" or (not dead and plan.on_no_data == "hold"):
        return replace(rollout, reason=reason)
    return leave(rollout, Verdict.INCONCLUSIVE, reason, notes)
