"""A rollout on its way: from waiting for its workload to Verified, leg by leg, by what each look counts.

A leg is left when its pause is over, `minRequests` were seen, and no check has evidence against the
candidate. The last one is left, and the release Verified, only when every absolute objective is
proven by its always-valid bound: see docs/decisions/0002-when-a-step-is-left.md. An A/B test or a bandit
decides by itself when its leg is over (`trying`), and a person may have to say when the next one begins.
"""

from __future__ import annotations

import msgspec

from tidegate.core import analysis, counts
from tidegate.core.leaving import leave
from tidegate.core.plan import Plan
from tidegate.core.state import Arm, Mark, Note, Phase, Rollout, Seen
from tidegate.core.strategies import Leg, arm_weight, leg_at, legs, traffic_of
from tidegate.core.trying import advance_experiment
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace

EARLY = 0.9  # of an interval: a tick comes a little early or late


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
    ready, late = _up(release, seen), now - rollout.started > plan.progress_deadline
    rollout = replace(rollout, arms=tuple(_arrived(arm, seen, late, notes) for arm in rollout.arms))
    waited = [arm.release for arm in rollout.arms if not arm.out and not _up(arm.release, seen)]
    if ready and release in seen.warmed and not waited:
        planned = legs(plan, rollout.environment, rollout.stable)
        rollout = replace(rollout, phase=Phase.PROGRESSING, reason="")
        if planned[0].manual and not rollout.approved:
            return replace(_enter(rollout, leg_at(planned, -1), -1, notes), phase=Phase.PAUSED)
        return enter(rollout, planned, 0, notes)
    if late:
        silent = "its warm-up never got through" if ready else "its readiness probe never answered"
        reason = f"not ready, {_late(rollout, plan, now)}: {seen.failed.get(release, silent)}"
        return leave(rollout, Verdict.FAIL, reason, notes)
    return replace(rollout, reason=seen.failed.get(release, ""))


def _up(release: str, seen: Seen) -> bool:
    return release in seen.alive and (seen.workloads or {}).get(release, False)


def _arrived(arm: Arm, seen: Seen, late: bool, notes: list[Note]) -> Arm:
    """Go on without another arm that can't be had; the candidate is not to be held up by it for ever."""
    gone = seen.missing.get(arm.release) or (late and not _up(arm.release, seen) and "it never became ready")
    if arm.out or not gone:
        return arm
    notes.append(Note("arm-out", arm.release, f"{arm.release} takes no part: {gone}"))
    return replace(arm, out=str(gone), weight=0)


def enter(
    rollout: Rollout, planned: tuple[Leg, ...], step: int, notes: list[Note], least: int = 0
) -> Rollout:
    """Ask for a leg's weights, `least` at least; it begins when the router confirms them.

    Another strategy begins with its own evidence: its checks and its share of alpha are others.
    """
    leg, before = leg_at(planned, step), leg_at(planned, rollout.step)
    if leg.stage != before.stage and rollout.step >= 0:
        text = f"{rollout.environment}: {before.plan.strategy} is over, {leg.plan.strategy} begins"
        notes.append(Note("stage", rollout.release, text, {"findings": list(rollout.findings)}))
        rollout = replace(rollout, evidence={}, experiment={}, findings=())
    return _enter(rollout, leg, step, notes, least)


def _enter(rollout: Rollout, leg: Leg, step: int, notes: list[Note], least: int = 0) -> Rollout:
    weight = max(leg.weight, least)
    if weight != rollout.weight:
        text = f"{rollout.environment}: weight {rollout.weight} → {weight}"
        notes.append(Note("weight", rollout.release, text, {"weight": weight}))
    if leg.mirror != rollout.traffic.mirror:
        text = f"{rollout.environment}: mirror {rollout.traffic.mirror} → {leg.mirror}%"
        notes.append(Note("mirror", rollout.release, text, {"mirror": leg.mirror}))
    arms = tuple(replace(a, weight=0 if a.out else arm_weight(leg, a.release)) for a in rollout.arms)
    return replace(
        rollout, step=step, weight=weight, arms=arms, traffic=traffic_of(leg), entered=None, seen=0
    )


# ---------------------------------------------------------------- looking
def look(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Pool one look's counts, judge, and leave, hold or advance."""
    planned = legs(plan, rollout.environment, rollout.stable)
    leg = leg_at(planned, rollout.step)
    early = now - rollout.looked < leg.plan.interval * EARLY
    if seen.weights is None or (seen.counts is None and leg.plan.checks):
        return rollout if early else _blind(rollout, plan, "no measurements", now, notes)
    if not _as_meant(rollout, seen):
        return _unserved(rollout, plan, seen, now, notes)
    if rollout.entered is None:  # the router serves this leg's weights
        # Counting begins with the rollout's first step, and goes on without a gap after that.
        marks = rollout.marks or _marks(rollout, seen) or {}
        return replace(rollout, entered=now, looked=now, blind=0, marks=marks)
    if early:
        return rollout
    before, was_blind = rollout.looked, rollout.blind
    rollout = _measure(rollout, leg, seen, now)
    results = analysis.judge(_evidence(rollout.evidence, leg), leg.plan.checks, leg.plan.alpha)
    rollout = replace(rollout, findings=tuple(r.as_dict() for r in results))
    broken = [r for r in results if r.verdict is Verdict.FAIL and not r.dry_run]
    if broken:
        return leave(rollout, Verdict.FAIL, "; ".join(r.reason for r in broken), notes)
    rollout = _throw_out(rollout, leg, notes)
    unmeasured = [
        f"{c.name}: {seen.unmeasured[c.name]}" for c in leg.plan.checks if c.name in seen.unmeasured
    ]
    if unmeasured:
        return _blind(replace(rollout, blind=was_blind), plan, "; ".join(unmeasured), now, notes)
    if rollout.phase is Phase.VERIFIED:
        return rollout
    if seen.workloads is None:  # evidence counts, and a further step needs somebody to run it
        held = rollout.started + now - before  # the deadline doesn't run meanwhile
        return replace(rollout, started=held, reason="held, it can't be seen what runs")
    return _advance(rollout, plan, planned, results, now, now - before, notes)


def _as_meant(rollout: Rollout, seen: Seen) -> bool:
    """Tell whether the router serves the candidate as it was told; one without weight must be alive."""
    served = (seen.weights or {}).get(rollout.release, 0) == rollout.weight
    mirrored = seen.mirror.get(rollout.release, 0) == rollout.traffic.mirror
    alive = rollout.weight > 0 or seen.workloads is None or rollout.release in seen.alive
    return served and mirrored and alive


def _blind(rollout: Rollout, plan: Plan, what: str, now: float, notes: list[Note]) -> Rollout:
    """Count a look that could not be made; it is neither for nor against the release."""
    times, limit = rollout.blind + 1, plan.consecutive_error_limit
    rollout = replace(rollout, blind=times, looked=now)
    if times > limit and plan.on_no_data == "rollback":
        reason = f"{what} {times} times > consecutiveErrorLimit {limit}"
        return leave(rollout, Verdict.ERROR, reason, notes)
    if rollout.phase is Phase.VERIFIED:
        return rollout
    return _overdue(replace(rollout, reason=f"{what}, {times} times in a row"), plan, now, notes)


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
    """Return all arms' counters; a release that nothing was counted of yet has zeros."""
    if seen.counts is None:
        return None
    taking_part = [rollout.release, rollout.stable, *(arm.release for arm in rollout.arms)]
    return {r: Mark.of(seen.counts[r]) if r in seen.counts else Mark(0, 0) for r in taking_part if r}


def _measure(rollout: Rollout, leg: Leg, seen: Seen, now: float) -> Rollout:
    """Pool what each arm did since the last look, compared with stable or with its fresh copy."""
    marks, first = _marks(rollout, seen), rollout.looked == rollout.entered
    if marks is None:  # only where there is nothing to check
        return replace(rollout, looked=now, blind=0)
    fresh = {r: counts.delta(rollout.marks.get(r), mark) for r, mark in marks.items()}
    against = rollout.compared_with or ""
    rollout = replace(rollout, marks=marks, looked=now, blind=0)
    if rollout.step <= 0 and now - (rollout.entered or now) < leg.plan.initial_delay:
        return rollout

    def pooled(evidence: dict[str, object], release: str) -> dict[str, object]:
        found, share = _evidence(evidence, leg), _share(rollout, release, against, seen)
        if not share:
            return evidence
        # While weights change, the larger share: no arm is ever counted as more than its part.
        share = max(share, found.share) if first else share
        window = counts.Window(fresh[release], fresh.get(against, counts.Counts()), share)
        return analysis.update(found, leg.plan.checks, window, leg.plan.alpha).to_dict()

    copy = rollout.compared_with != rollout.stable
    arms = tuple(
        arm
        if arm.out or (copy and arm.release == against)
        else replace(arm, evidence=pooled(arm.evidence, arm.release))
        for arm in rollout.arms
    )
    requests = fresh[rollout.release].requests
    evidence = pooled(rollout.evidence, rollout.release)
    return replace(rollout, evidence=evidence, arms=arms, seen=rollout.seen + requests)


def _share(rollout: Rollout, release: str, against: str, seen: Seen) -> float:
    """Return a release's part of the requests of it and of what it is compared with."""
    served = dict(seen.weights or {})
    if rollout.traffic.mirror and release == rollout.release:
        served[release] = served.get(release, 0) + rollout.traffic.mirror
    mine, theirs = served.get(release, 0), served.get(against, 0)
    return mine / (mine + theirs) if mine else 0.0


def _evidence(stored: dict[str, object], leg: Leg) -> analysis.Evidence:
    return analysis.Evidence.from_dict(stored) if stored else analysis.start(leg.plan.checks)


def _throw_out(rollout: Rollout, leg: Leg, notes: list[Note]) -> Rollout:
    """Take another arm's weight away when it breaks an objective; the rollout goes on without it."""
    arms = []
    for arm in rollout.arms:
        if not arm.out and arm.evidence and arm.weight:
            results = analysis.judge(_evidence(arm.evidence, leg), leg.plan.checks, leg.plan.alpha)
            broken = [r.reason for r in results if r.verdict is Verdict.FAIL and not r.dry_run]
            if broken:
                text = "; ".join(broken)
                notes.append(Note("arm-out", arm.release, f"{rollout.environment}: {arm.release}: {text}"))
                arm = replace(arm, out=text, weight=0)
        arms.append(arm)
    return replace(rollout, arms=tuple(arms))


# ---------------------------------------------------------------- advancing
def _advance(
    rollout: Rollout,
    plan: Plan,
    planned: tuple[Leg, ...],
    results: tuple[analysis.CheckResult, ...],
    now: float,
    since: float,
    notes: list[Note],
) -> Rollout:
    leg, last = leg_at(planned, rollout.step), rollout.step >= len(planned) - 1
    if rollout.paused:
        return _paused(rollout, rollout.paused, since)
    rollout = replace(rollout, phase=Phase.PROGRESSING)
    waiting = _waiting(rollout, leg, results, last, now - (rollout.entered or now))
    if leg.experiment:
        tried = advance_experiment(rollout, leg, now, notes)
        rollout = tried.rollout
        if rollout.phase is Phase.ROLLING_BACK:
            return rollout
        waiting = waiting or tried.waiting
    if waiting:
        return _overdue(replace(rollout, reason=waiting), plan, now, notes)
    if leg.pause.indefinite and rollout.resumed <= rollout.step:
        return _paused(rollout, "its pause lasts until `tidegate resume`", since)
    if last:
        return _verified(rollout, "every step passed", now, notes)
    following = planned[rollout.step + 1]
    if following.manual and rollout.approved <= rollout.step + 1:
        return _paused(rollout, f"{following.weight}% waits for `tidegate approve`", since)
    return enter(replace(rollout, reason=""), planned, rollout.step + 1, notes)


def _paused(rollout: Rollout, reason: str, since: float) -> Rollout:
    """Hold until a person says so; the deadline doesn't run meanwhile."""
    return replace(rollout, phase=Phase.PAUSED, reason=reason, started=rollout.started + since)


def _waiting(
    rollout: Rollout, leg: Leg, results: tuple[analysis.CheckResult, ...], last: bool, held: float
) -> str:
    """Say what this leg still waits for, or nothing."""
    if held < leg.pause.duration:
        return f"pause {held:.0f} of {leg.pause.duration:.0f} s"
    if rollout.seen < leg.pause.min_requests:
        return f"{rollout.seen} of {leg.pause.min_requests} requests"
    if not leg.weight and not leg.mirror:
        return ""  # nothing reaches it yet: nothing can be proven
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
    """Do what `onInconclusive` says once `progressDeadline` is over; an experiment has its own horizon."""
    if now - rollout.started <= plan.progress_deadline or rollout.experiment:
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
