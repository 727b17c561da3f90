"""When a leg of a rollout is left, and what comes after it, up to Verified. Pure.

A leg is left when its pause is over, `minRequests` were seen, and no check has evidence against the
candidate. A strategy's last one is left, and the release Verified, only when every absolute objective is
proven by its always-valid bound; what compares pairs is proven while requests are mirrored, before the next
leg: see docs/decisions/0002-when-a-step-is-left.md. An A/B test or a bandit decides by itself when its leg is
over (`trying`), and a person may have to say when the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tidegate.core.aims import aims_of
from tidegate.core.analysis import CheckResult, Judgement
from tidegate.core.leaving import leave
from tidegate.core.plan import PAIRED, Plan
from tidegate.core.state import Note, Phase, Rollout
from tidegate.core.strategies import Leg, arm_weight, following, leg_at, traffic_of
from tidegate.core.trying import advance_experiment, of_experiment
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace

Results = Iterable[CheckResult]
FOR_RESUME = "its pause lasts until `tidegate resume`"


# ---------------------------------------------------------------- entering
def enter(rollout: Rollout, planned: tuple[Leg, ...], step: int, notes: list[Note]) -> Rollout:
    """Ask for a leg's weights; it begins when the router confirms them.

    Another strategy begins with its own evidence: its checks and its share of alpha are others.
    """
    before = leg_at(planned, rollout)
    rollout = replace(rollout, step=step)
    leg = leg_at(planned, rollout)
    if leg.stage != before.stage:
        text = f"{rollout.environment}: {before.plan.strategy} is over, {leg.plan.strategy} begins"
        notes.append(Note("stage", rollout.release, text, {"findings": list(rollout.findings)}))
        arms = tuple(replace(arm, evidence={}) for arm in rollout.arms)
        rollout = replace(rollout, evidence={}, experiment={}, marks={}, measured=(), arms=arms)
    return _ask_for(rollout, leg, notes)


def enter_before(rollout: Rollout, planned: tuple[Leg, ...], notes: list[Note]) -> Rollout:
    """Wait before the first leg, with what was brought along and the routes that try it by hand."""
    rollout = replace(rollout, step=-1)
    return _ask_for(rollout, leg_at(planned, rollout), notes)


def _ask_for(rollout: Rollout, leg: Leg, notes: list[Note]) -> Rollout:
    if leg.weight != rollout.weight:
        text = f"{rollout.environment}: weight {rollout.weight} → {leg.weight}"
        notes.append(Note("weight", rollout.release, text, {"weight": leg.weight}))
    if leg.mirror != rollout.traffic.mirror:
        text = f"{rollout.environment}: mirror {rollout.traffic.mirror}% → {leg.mirror}%"
        notes.append(Note("mirror", rollout.release, text, {"mirror": leg.mirror}))
    arms = tuple(replace(a, weight=0 if a.out else arm_weight(leg, a.release)) for a in rollout.arms)
    return replace(rollout, weight=leg.weight, arms=arms, traffic=traffic_of(leg), entered=None, seen=0)


# ---------------------------------------------------------------- advancing
def advance(
    rollout: Rollout,
    plan: Plan,
    planned: tuple[Leg, ...],
    results: Judgement,
    now: float,
    since: float,
    notes: list[Note],
) -> Rollout:
    """Hold, leave, or go on to the next leg; `since` are the seconds since the last look."""
    leg, coming = leg_at(planned, rollout), following(planned, rollout)
    if rollout.paused:
        return _paused(rollout, rollout.paused, since)
    waiting = _waiting(rollout, leg, coming, results, now - (rollout.entered or now))
    if results.read:  # what is decided and told goes by the numbers of this look
        rollout = with_numbers(rollout, results)
    if leg.experiment:
        tried = advance_experiment(rollout, leg, now, notes)
        rollout = tried.rollout
        if rollout.phase is Phase.ROLLING_BACK:
            return rollout
        if tried.waiting:  # it has a horizon of its own
            rollout = replace(rollout, held=rollout.held + since)
        waiting = waiting or tried.waiting
    if waiting:
        rollout = replace(rollout, phase=Phase.PROGRESSING, reason=waiting)
        rollout = _overdue(rollout, plan, results, now, notes)
        if rollout.phase is Phase.ROLLING_BACK or not _goes_on_anyway(rollout, plan, results, now):
            return rollout
    if leg.pause.indefinite and rollout.resumed <= rollout.step:
        return _told(rollout, "resume", FOR_RESUME, 2 * rollout.step + 3, since, notes)
    if coming is None:
        return _verified(rollout, rollout.reason if waiting else _passed(results), now, notes)
    if coming.manual and rollout.approved <= rollout.step + 1:
        waits = f"{coming.weight}% waits for `tidegate approve`"
        return _told(rollout, "approve", waits, 2 * rollout.step + 4, since, notes)
    return enter(replace(rollout, phase=Phase.PROGRESSING, reason=""), planned, rollout.step + 1, notes)


def with_numbers(rollout: Rollout, results: Results) -> Rollout:
    """Show every check's numbers, and what the stage's experiment said last."""
    tried = (f for f in rollout.findings if rollout.experiment and of_experiment(f))
    return replace(rollout, findings=(*(result.as_dict() for result in results), *tried))


def _paused(rollout: Rollout, reason: str, since: float) -> Rollout:
    """Hold until a person says so; the deadline doesn't run meanwhile."""
    return replace(rollout, phase=Phase.PAUSED, reason=reason, held=rollout.held + since)


def _told(
    rollout: Rollout, verb: str, reason: str, question: int, since: float, notes: list[Note]
) -> Rollout:
    """Hold until a person says so, and tell them: each question once."""
    if rollout.asked < question:
        text = f"{rollout.environment}: {rollout.release}: {reason}"
        data = {"waits": verb, "weight": rollout.weight, "findings": list(rollout.findings)}
        notes.append(Note("paused", rollout.release, text, data))
    return _paused(replace(rollout, asked=max(question, rollout.asked)), reason, since)


def _to_prove(leg: Leg, coming: Leg | None) -> frozenset[str]:
    """Return the checks that must be proven before this leg is left: later nothing more is counted of them.

    With the last leg of a strategy these are all, and with the last one that is mirrored those that compare
    pairs. Where nothing is mirrored any more those have been proven, or never will be.
    """
    after = coming if coming and coming.stage == leg.stage else None
    compared = leg.mirror > 0 and not (after and after.mirror)
    aims = aims_of(leg.plan.checks)
    return frozenset(a.name for a in aims if (compared if a.check.metric in PAIRED else after is None))


def _passed(results: Results) -> str:
    """Say why a release is verified, and what was left unproven on the way because the plan says so."""
    open_ones = [r.reason for r in results if r.blocking and r.applicable and r.verdict is not Verdict.PASS]
    return "; not proven: ".join(["every step passed", *open_ones])


def _waiting(rollout: Rollout, leg: Leg, coming: Leg | None, results: Results, held: float) -> str:
    """Say what this leg still waits for, or nothing."""
    if held < leg.pause.duration:
        return f"pause {held:.0f} of {leg.pause.duration:.0f} s"
    if rollout.seen < leg.pause.min_requests:
        return f"{rollout.seen} of {leg.pause.min_requests} requests"
    if rollout.step < 0 or not (leg.weight or leg.mirror):
        return ""  # nothing reaches it yet: nothing can be proven
    to_prove = _to_prove(leg, coming)
    for result in results:
        if not (result.blocking and result.applicable):
            continue
        if result.verdict is Verdict.ERROR:
            return result.reason
        if result.against:
            return f"held, something speaks against it: {result.reason}"
        if result.name in to_prove and result.verdict is not Verdict.PASS:
            return f"not proven yet: {result.reason}"
    return ""


# ---------------------------------------------------------------- when it takes too long
def blind(rollout: Rollout, plan: Plan, what: str, now: float, notes: list[Note]) -> Rollout:
    """Count a look that could not be made; it is neither for nor against the release."""
    times, limit = rollout.blind + 1, plan.consecutive_error_limit
    since = now - rollout.looked if rollout.looked else 0.0
    rollout = replace(rollout, blind=times, looked=now)
    if times > limit and plan.on_no_data == "rollback":
        reason = f"{what} {times} times > consecutiveErrorLimit {limit}"
        return leave(rollout, Verdict.ERROR, reason, notes)
    if rollout.phase is Phase.VERIFIED:
        return rollout
    rollout = replace(rollout, reason=f"{what}, {times} times in a row")
    if rollout.phase is Phase.PAUSED:
        return replace(rollout, held=rollout.held + since)
    return _overdue(rollout, plan, (), now, notes)


def _overdue(rollout: Rollout, plan: Plan, results: Results, now: float, notes: list[Note]) -> Rollout:
    """Do what `onInconclusive` says once `progressDeadline` is over, `onNoData` where nothing was counted."""
    overdue = late(rollout, plan, now)
    if not overdue:
        return rollout
    rollout, quiet = replace(rollout, reason=f"{overdue}: {rollout.reason}"), _quiet(rollout, results)
    if plan.on_inconclusive == "hold" or (quiet and plan.on_no_data == "hold"):
        return rollout
    if plan.on_inconclusive == "promote" and not quiet:
        return rollout
    return leave(rollout, Verdict.INCONCLUSIVE, rollout.reason, notes)


def _goes_on_anyway(rollout: Rollout, plan: Plan, results: Results, now: float) -> bool:
    """Tell whether `onInconclusive: promote` lets a rollout out of this leg unproven; gates stay shut."""
    anyway = plan.on_inconclusive == "promote" and not _quiet(rollout, results)
    return anyway and bool(late(rollout, plan, now))


def _quiet(rollout: Rollout, results: Results) -> bool:
    """Tell whether something was not counted at all: then nothing is promoted, whatever the plan says."""
    unknown = any(r.blocking and r.applicable and r.verdict is Verdict.ERROR for r in results)
    return rollout.seen == 0 or rollout.blind > 0 or unknown


def late(rollout: Rollout, plan: Plan, now: float, part: float = 1.0) -> str:
    """Say that `progressDeadline`, or a part of it, is over, or nothing."""
    spent = now - rollout.started - rollout.held
    if spent <= plan.progress_deadline * part:
        return ""
    return f"{spent:.0f} s > progressDeadline ({plan.progress_deadline:.0f} s)"


def _verified(rollout: Rollout, reason: str, now: float, notes: list[Note]) -> Rollout:
    text = f"{rollout.environment}: {rollout.release} is verified, {reason}"
    data = {"environment": rollout.environment, "weight": rollout.weight, "findings": list(rollout.findings)}
    notes.append(Note("verified", rollout.release, text, data))
    return replace(rollout, phase=Phase.VERIFIED, verdict=str(Verdict.PASS), reason=reason, ended=now)
