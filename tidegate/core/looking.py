"""A rollout on its way: from waiting for its workload to Verified, step by step, by what each look counts.

A step is left when its pause is over, `minRequests` were seen, and no check has evidence against the
candidate. The last step is left, and the release Verified, only when every absolute objective is
proven by its always-valid bound: see docs/decisions/0002-when-a-step-is-left.md.
"""

from __future__ import annotations

import msgspec

from tidegate.core import analysis, counts
from tidegate.core.leaving import leave
from tidegate.core.plan import Pause, Plan, Step
from tidegate.core.state import Mark, Note, Phase, Rollout, Seen
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace

EARLY = 0.9  # of an interval: a tick comes a little early or late


def steps(plan: Plan, environment: str, stable: str | None) -> tuple[Step, ...]:
    """Return the steps that a rollout takes.

    Outside the canary a rollout ends at 100. Without a stable release there is nothing to split
    with: one step of 100, under the first step's conditions.
    """
    planned = plan.steps
    if stable is None:
        return (Step(set_weight=100, pause=planned[0].pause if planned else Pause()),)
    if environment != "canary" and (not planned or planned[-1].set_weight < 100):
        return (*planned, Step(set_weight=100))
    return planned or (Step(set_weight=100),)


# ---------------------------------------------------------------- pending
def prepare(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Wait for the workload; its deadline doesn't run while the release can't be started here."""
    release = rollout.release
    if release in seen.missing:
        reason = seen.missing[release]
        if reason != rollout.reason:
            notes.append(Note("problem", release, reason))
        # Moved in strides, so that waiting for a Bento doesn't write at every look.
        stride = now - rollout.started > plan.progress_deadline / 10
        return replace(rollout, started=now if stride else rollout.started, reason=reason)
    ready = release in seen.alive and (seen.workloads or {}).get(release, False)
    if ready and release in seen.warmed:
        first = steps(plan, rollout.environment, rollout.stable)[0]
        return enter(replace(rollout, phase=Phase.PROGRESSING, reason=""), 0, first.set_weight, notes)
    if now - rollout.started > plan.progress_deadline:
        silent = "its warm-up never got through" if ready else "its readiness probe never answered"
        reason = f"not ready, {_late(rollout, plan, now)}: {seen.failed.get(release, silent)}"
        return leave(rollout, Verdict.FAIL, reason, notes)
    return replace(rollout, reason=seen.failed.get(release, ""))


def enter(rollout: Rollout, step: int, weight: int, notes: list[Note]) -> Rollout:
    """Ask for a step's weight; the step begins when the router confirms it."""
    if weight != rollout.weight:
        text = f"{rollout.environment}: weight {rollout.weight} → {weight}"
        notes.append(Note("weight", rollout.release, text, {"weight": weight}))
    return replace(rollout, step=step, weight=weight, entered=None, seen=0)


# ---------------------------------------------------------------- looking
def look(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Pool one look's counts, judge, and leave, hold or advance."""
    early = now - rollout.looked < plan.interval * EARLY
    if seen.weights is None or (seen.counts is None and plan.checks):
        return rollout if early else _blind(rollout, plan, now, notes)
    if seen.weights.get(rollout.release, 0) != rollout.weight:
        return _unserved(rollout, plan, seen, now, notes)
    if rollout.entered is None:  # the router serves this step's weight
        # Counting begins with the rollout's first step, and goes on without a gap after that.
        marks = rollout.marks or _marks(rollout, seen) or {}
        return replace(rollout, entered=now, looked=now, blind=0, marks=marks)
    if early:
        return rollout
    before, rollout = rollout.looked, _measure(rollout, plan, seen, now)
    results = analysis.judge(_evidence(rollout, plan), plan.checks, plan.alpha)
    rollout = replace(rollout, findings=tuple(r.as_dict() for r in results))
    broken = [r for r in results if r.verdict is Verdict.FAIL and not r.dry_run]
    if broken:
        return leave(rollout, Verdict.FAIL, "; ".join(r.reason for r in broken), notes)
    if rollout.phase is Phase.VERIFIED:
        return rollout
    if seen.workloads is None:  # evidence counts, and a further step needs somebody to run it
        held = rollout.started + now - before  # the deadline doesn't run meanwhile
        return replace(rollout, started=held, reason="held, it can't be seen what runs")
    return _advance(rollout, plan, results, now, notes)


def _blind(rollout: Rollout, plan: Plan, now: float, notes: list[Note]) -> Rollout:
    """Count a look that could not be made; it is neither for nor against the release."""
    times, limit = rollout.blind + 1, plan.consecutive_error_limit
    rollout = replace(rollout, blind=times, looked=now)
    if times > limit and plan.on_no_data == "rollback":
        reason = f"no measurements {times} times > consecutiveErrorLimit {limit}"
        return leave(rollout, Verdict.ERROR, reason, notes)
    if rollout.phase is Phase.VERIFIED:
        return rollout
    return _overdue(replace(rollout, reason=f"no measurements, {times} times in a row"), plan, now, notes)


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
    since = rollout.looked if rollout.phase is Phase.VERIFIED else rollout.started
    if now - since <= plan.progress_deadline:
        return rollout
    reason = f"{_late(replace(rollout, started=since), plan, now)}: {why}"
    if plan.on_inconclusive == "hold" or (not dead and plan.on_no_data == "hold"):
        return replace(rollout, reason=reason)
    return leave(rollout, Verdict.INCONCLUSIVE, reason, notes)


def _marks(rollout: Rollout, seen: Seen) -> dict[str, Mark] | None:
    """Return both arms' counters; a release that nothing was counted of yet has zeros."""
    if seen.counts is None:
        return None
    arms = [r for r in (rollout.release, rollout.stable) if r]
    return {r: Mark.of(seen.counts[r]) if r in seen.counts else Mark(0, 0) for r in arms}


def _measure(rollout: Rollout, plan: Plan, seen: Seen, now: float) -> Rollout:
    marks = _marks(rollout, seen)
    if marks is None:  # only where there is nothing to check
        return replace(rollout, looked=now, blind=0)
    fresh = {r: counts.delta(rollout.marks.get(r), mark) for r, mark in marks.items()}
    rollout = replace(rollout, marks=marks, looked=now, blind=0)
    if rollout.step == 0 and now - (rollout.entered or now) < plan.initial_delay:
        return rollout
    candidate = fresh[rollout.release]
    stable = fresh.get(rollout.stable or "", counts.Counts())
    window = counts.Window(candidate, stable, rollout.weight / 100)
    pooled = analysis.update(_evidence(rollout, plan), plan.checks, window, plan.alpha)
    return replace(rollout, evidence=pooled.to_dict(), seen=rollout.seen + candidate.requests)


def _evidence(rollout: Rollout, plan: Plan) -> analysis.Evidence:
    if not rollout.evidence:
        return analysis.start(plan.checks)
    return analysis.Evidence.from_dict(rollout.evidence)


# ---------------------------------------------------------------- advancing
def _advance(
    rollout: Rollout, plan: Plan, results: tuple[analysis.CheckResult, ...], now: float, notes: list[Note]
) -> Rollout:
    planned = steps(plan, rollout.environment, rollout.stable)
    step = planned[min(rollout.step, len(planned) - 1)]
    last = rollout.step >= len(planned) - 1
    held = now - (rollout.entered or now)
    waiting = _waiting(rollout, step, results, last, held)
    if waiting:
        return _overdue(replace(rollout, reason=waiting), plan, now, notes)
    if not last:
        following = planned[rollout.step + 1]
        return enter(replace(rollout, reason=""), rollout.step + 1, following.set_weight, notes)
    return _verified(rollout, "every step passed", now, notes)


def _waiting(
    rollout: Rollout, step: Step, results: tuple[analysis.CheckResult, ...], last: bool, held: float
) -> str:
    """Say what this step still waits for, or nothing."""
    if held < step.pause.duration:
        return f"pause {held:.0f} of {step.pause.duration:.0f} s"
    if rollout.seen < step.pause.min_requests:
        return f"{rollout.seen} of {step.pause.min_requests} requests"
    for result in results:
        if not (result.blocking and result.applicable):
            continue
        if result.verdict is Verdict.ERROR:
            return result.reason
        if result.against:
            return f"held, something speaks against it: {result.reason}"
        if last and result.verdict is not Verdict.PASS:
            return f"not proven yet: {result.reason}"
    return ""


def _overdue(rollout: Rollout, plan: Plan, now: float, notes: list[Note]) -> Rollout:
    """Do what `onInconclusive` says once `progressDeadline` is over."""
    if now - rollout.started <= plan.progress_deadline:
        return rollout
    reason = f"{_late(rollout, plan, now)}: {rollout.reason}"
    quiet = rollout.seen == 0 or rollout.blind > 0
    if plan.on_inconclusive == "hold" or (quiet and plan.on_no_data == "hold"):
        return replace(rollout, reason=reason)
    if plan.on_inconclusive == "promote" and not quiet:
        return _verified(rollout, reason, now, notes)
    return leave(rollout, Verdict.INCONCLUSIVE, reason, notes)


def _late(rollout: Rollout, plan: Plan, now: float) -> str:
    return f"{now - rollout.started:.0f} s > progressDeadline ({plan.progress_deadline:.0f} s)"


def _verified(rollout: Rollout, reason: str, now: float, notes: list[Note]) -> Rollout:
    text = f"{rollout.environment}: {rollout.release} is verified, {reason}"
    notes.append(Note("verified", rollout.release, text))
    return replace(rollout, phase=Phase.VERIFIED, verdict=str(Verdict.PASS), reason=reason, ended=now)
