"""A rollout's decisions: from what is remembered, wanted and seen to what is remembered next and done.

    Pending ──► Progressing ──► Verified ──► Healthy
       │             │             │
       └─────────────┴──────┬──────┘
                            ▼
                      RollingBack ──► RolledBack

A step is left when its pause is over, `minRequests` were seen, and no check has evidence against the
candidate. The last step is left, and the release Verified, only when every absolute objective is
proven by its always-valid bound: see docs/decisions/0002-when-a-step-is-left.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tidegate.core import analysis, counts
from tidegate.core.plan import Pause, Plan, Step
from tidegate.core.release import is_new
from tidegate.core.state import (
    ACTIVE,
    Action,
    Mark,
    ModelState,
    Note,
    Phase,
    Rollout,
    Seen,
    Start,
    Stop,
    Target,
    Want,
    Warm,
    WriteBack,
    needed,
)
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace


@dataclass(frozen=True)
class Decision:
    """What to remember (store it first), then what to do; notes are for people."""

    state: ModelState
    actions: tuple[Action, ...]
    notes: tuple[Note, ...] = ()


def decide(state: ModelState, want: Want, seen: Seen, now: float) -> Decision:
    """Take one look. Pure: the same arguments give the same decision."""
    notes: list[Note] = []
    if seen.workloads is None:  # nothing is known of the plane: change nothing
        return Decision(state, ())
    state = _follow_git(state, want, now, notes)
    rollout = state.rollout
    if rollout is not None:
        plan = _plan(want, rollout)
        if rollout.phase is Phase.PENDING:
            rollout = _start(rollout, plan, seen, now, notes)
        elif rollout.phase in ACTIVE:
            rollout = _look(rollout, plan, seen, now, notes)
        elif rollout.phase is Phase.ROLLING_BACK:
            rollout = _finish_rollback(rollout, want, seen, now, notes)
        state = _settle(replace(state, rollout=rollout), plan, now, notes)
    state, idle = _retire(state, seen, now)
    return Decision(state, (*_actions(state, want, seen), *idle), tuple(notes))


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


def request_rollback(
    state: ModelState, environment: str, *, by: str, reason: str, now: float
) -> tuple[ModelState, str]:
    """Go back on a person's word; returns the new state and what will happen, or why nothing can.

    An active rollout goes back to its stable release; a settled one to the last verified release
    before it. The state is unchanged when there is nothing to go back to.
    """
    if state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        return state, f"{state.rollout.release} is being rolled back already"
    text = f"{by} asked: {reason}" if reason else f"{by} asked"
    rollout = state.active
    if rollout is not None and rollout.environment == environment:
        back = rollout.stable
    else:
        rollout = None
        back = next((r for r in reversed(state.verified) if r != state.stable), None)
    if environment == "canary" and rollout is None:
        return state, "no rollout is under way in canary"
    if back is None:
        return state, "there is no verified release to go back to"
    base = rollout or Rollout(environment, str(state.stable), back, Phase.ROLLING_BACK, now)
    leaving = replace(
        base,
        stable=back,
        phase=Phase.ROLLING_BACK,
        weight=0,
        verdict="ABORTED",
        reason=text,
        by=by,
        ended=None,
    )
    return replace(state, rollout=leaving), f"{base.release} goes back to {back}"


# ---------------------------------------------------------------- what Git says
def _plan(want: Want, rollout: Rollout) -> Plan:
    target = want.target(rollout.environment)
    return target.plan if target else Plan()


def _follow_git(state: ModelState, want: Want, now: float, notes: list[Note]) -> ModelState:
    """Begin, replace or drop a rollout as Git says; a rollback that has begun is always finished."""
    if state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        return state
    active = state.active
    if active:
        wanted = want.target(active.environment)
        if wanted is None or wanted.release != active.release or active.release in want.rejected:
            notes.append(
                Note(
                    "dropped", active.release, f"Git no longer wants {active.release} in {active.environment}"
                )
            )
            state = _retire_release(replace(state, rollout=None), active.release, now)
            active = None
    for target in want.targets:
        if active and active.environment == target.environment:
            return state  # on its way; the environments that rest on this one wait
        if target.release in want.known and is_new(target.release, state.stable, want.rejected):
            return _begin(state, target, active, now, notes)
    resting = want.targets[0] if want.targets else None
    if resting and resting.release is None and state.stable and not active:
        notes.append(Note("removed", state.stable, f"{resting.environment} wants no release any more"))
        return replace(_retire_release(state, state.stable, now), stable=None)
    return state


def _begin(
    state: ModelState, target: Target, active: Rollout | None, now: float, notes: list[Note]
) -> ModelState:
    """Start a rollout; a canary that is promoted keeps its weight, any other one makes way."""
    release = str(target.release)
    rollout = Rollout(target.environment, release, state.stable, Phase.PENDING, now)
    if active and active.release == release:
        planned = steps(target.plan, target.environment, state.stable)
        step = next((i for i, s in enumerate(planned) if s.set_weight >= active.weight), len(planned) - 1)
        rollout = replace(
            rollout, phase=active.phase, step=step, weight=max(planned[step].set_weight, active.weight)
        )
        if active.phase is not Phase.PENDING:
            rollout = replace(rollout, phase=Phase.PROGRESSING)
    elif active:
        state = _retire_release(state, active.release, now)
    retiring = {r: t for r, t in state.retiring.items() if r != release}
    notes.append(Note("started", release, f"rollout of {release} to {target.environment} begins"))
    return replace(state, rollout=rollout, retiring=retiring)


# ---------------------------------------------------------------- pending
def _start(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Wait for the workload; its deadline doesn't run while the release can't be started here."""
    release = rollout.release
    if release in seen.missing:
        reason = seen.missing[release]
        if reason != rollout.reason:
            notes.append(Note("problem", release, reason))
        return replace(rollout, started=now, reason=reason)
    if release in seen.alive and (seen.workloads or {}).get(release) and release in seen.warmed:
        first = steps(plan, rollout.environment, rollout.stable)[0]
        return _enter(replace(rollout, phase=Phase.PROGRESSING, reason=""), 0, first.set_weight, notes)
    if now - rollout.started > plan.progress_deadline:
        detail = seen.failed.get(release, "its readiness probe never answered")
        reason = f"not ready, {_late(rollout, plan, now)}: {detail}"
        return _leave(rollout, Verdict.FAIL, reason, now, notes)
    return replace(rollout, reason=seen.failed.get(release, ""))


def _enter(rollout: Rollout, step: int, weight: int, notes: list[Note]) -> Rollout:
    notes.append(
        Note(
            "weight",
            rollout.release,
            f"{rollout.environment}: weight {rollout.weight} → {weight}",
            {"weight": weight},
        )
    )
    return replace(rollout, step=step, weight=weight, entered=None, seen=0)


# ---------------------------------------------------------------- looking
def _look(rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """Pool one look's counts, judge, and leave, hold or advance."""
    if not _confirmed(rollout, seen):
        return _overdue(replace(rollout, entered=None), plan, now, notes)
    if rollout.entered is None:  # the router serves this step's weight
        return _entered(rollout, plan, seen, now)
    if now - rollout.looked < plan.interval * 0.9:  # a tick comes a little early or late
        return rollout
    rollout = _measure(rollout, plan, seen, now)
    results = analysis.judge(_evidence(rollout, plan), plan.checks, plan.alpha)
    rollout = replace(rollout, findings=tuple(r.as_dict() for r in results))
    broken = [r for r in results if r.verdict is Verdict.FAIL and not r.dry_run]
    if broken:
        return _leave(rollout, Verdict.FAIL, "; ".join(r.reason for r in broken), now, notes)
    if rollout.blind > plan.consecutive_error_limit and plan.on_no_data == "rollback":
        reason = (
            f"no measurements {rollout.blind} times > consecutiveErrorLimit {plan.consecutive_error_limit}"
        )
        return _leave(rollout, Verdict.ERROR, reason, now, notes)
    if rollout.phase is Phase.VERIFIED:
        return rollout
    return _advance(rollout, plan, results, now, notes)


def _confirmed(rollout: Rollout, seen: Seen) -> bool:
    """Tell whether the router itself reports the weight that this step asks for."""
    return seen.weights is not None and seen.weights.get(rollout.release, 0) == rollout.weight


def _marks(rollout: Rollout, seen: Seen) -> dict[str, Mark] | None:
    """Return both arms' counters; a release that nothing was counted of yet has zeros."""
    if seen.counts is None:
        return None
    arms = [r for r in (rollout.release, rollout.stable) if r]
    return {r: Mark.of(seen.counts[r]) if r in seen.counts else Mark(0, 0) for r in arms}


def _entered(rollout: Rollout, plan: Plan, seen: Seen, now: float) -> Rollout:
    """Begin a step. Counting begins with the rollout's first, and goes on without a gap after that."""
    marks = _marks(rollout, seen)
    if marks is None and plan.checks:
        return replace(rollout, blind=rollout.blind + 1)
    return replace(rollout, entered=now, looked=now, blind=0, marks=rollout.marks or marks or {})


def _measure(rollout: Rollout, plan: Plan, seen: Seen, now: float) -> Rollout:
    marks = _marks(rollout, seen)
    if marks is None:
        return replace(rollout, blind=rollout.blind + 1, looked=now)
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
        return _enter(replace(rollout, reason=""), rollout.step + 1, following.set_weight, notes)
    return _verified(rollout, "every step passed", now, notes)


def _waiting(
    rollout: Rollout, step: Step, results: tuple[analysis.CheckResult, ...], last: bool, held: float
) -> str:
    """Say what this step still waits for, or nothing."""
    if held < step.pause.duration:
        return f"pause {held:.0f} of {step.pause.duration:.0f} s"
    if rollout.seen < step.pause.min_requests:
        return f"{rollout.seen} of {step.pause.min_requests} requests"
    if rollout.blind and results:
        return f"no measurements, {rollout.blind} times in a row"
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
    if rollout.phase is Phase.VERIFIED or now - rollout.started <= plan.progress_deadline:
        return rollout
    reason = f"{_late(rollout, plan, now)}: {rollout.reason or 'its weight was not confirmed'}"
    quiet = rollout.seen == 0 or rollout.blind > 0
    if plan.on_inconclusive == "hold" or (quiet and plan.on_no_data == "hold"):
        return replace(rollout, reason=reason)
    if plan.on_inconclusive == "promote":
        return _verified(rollout, reason, now, notes)
    return _leave(rollout, Verdict.INCONCLUSIVE, reason, now, notes)


def _late(rollout: Rollout, plan: Plan, now: float) -> str:
    return f"{now - rollout.started:.0f} s > progressDeadline ({plan.progress_deadline:.0f} s)"


def _verified(rollout: Rollout, reason: str, now: float, notes: list[Note]) -> Rollout:
    notes.append(
        Note("verified", rollout.release, f"{rollout.environment}: {rollout.release} is verified, {reason}")
    )
    return replace(rollout, phase=Phase.VERIFIED, verdict=str(Verdict.PASS), reason=reason, ended=now)


# ---------------------------------------------------------------- leaving
def _leave(rollout: Rollout, verdict: Verdict, reason: str, now: float, notes: list[Note]) -> Rollout:
    """Decide to roll back. Stored before anything moves, so that no look can re-apply the release."""
    data = {"verdict": str(verdict), "findings": list(rollout.findings)}
    notes.append(Note("breach", rollout.release, f"{rollout.environment}: {reason}", data))
    return replace(
        rollout,
        phase=Phase.ROLLING_BACK,
        weight=0,
        verdict=str(verdict),
        reason=reason,
        reject=True,
        entered=None,
    )


def _finish_rollback(rollout: Rollout, want: Want, seen: Seen, now: float, notes: list[Note]) -> Rollout:
    """RolledBack once the router reports weight 0 and Git says so too."""
    at_zero = seen.weights is not None and not seen.weights.get(rollout.release)
    if at_zero and rollout.entered is None:
        notes.append(Note("weight-zero", rollout.release, f"{rollout.release} has weight 0", {"weight": 0}))
        rollout = replace(rollout, entered=now)
    if rollout.entered is None or wants(want, rollout):
        return rollout
    back = rollout.stable or "nothing"
    notes.append(
        Note(
            "rolled-back",
            rollout.release,
            f"{rollout.environment}: {rollout.release} → {back}: {rollout.reason}",
        )
    )
    return replace(rollout, phase=Phase.ROLLED_BACK, ended=now)


def wants(want: Want, rollout: Rollout) -> bool:
    """Tell whether Git still asks for a release that was left, or lacks its rejection."""
    asked = any(t.release == rollout.release for t in want.targets)
    return asked or (rollout.reject and rollout.release not in want.rejected)


# ---------------------------------------------------------------- settling
def _settle(state: ModelState, plan: Plan, now: float, notes: list[Note]) -> ModelState:
    """Make a verified release stable (not a canary's), or drop one that was left."""
    rollout = state.rollout
    if rollout is None:
        return state
    if rollout.phase is Phase.ROLLED_BACK and (rollout.ended == now):
        state = _retire_release(replace(state, stable=rollout.stable), rollout.release, now)
        return replace(state, verified=tuple(r for r in state.verified if r != rollout.release))
    if rollout.phase is not Phase.VERIFIED or rollout.environment == "canary":
        return state
    if now - (rollout.ended or now) < plan.required_soak_time:
        return state
    release, old = rollout.release, state.stable
    notes.append(Note("healthy", release, f"{rollout.environment}: {release} is healthy"))
    retiring = dict(state.retiring)
    if old and old != release:
        retiring[old] = now + plan.scale_down_delay
    return replace(
        state,
        stable=release,
        verified=(*(r for r in state.verified if r != release), release),
        retiring=retiring,
        rollout=replace(rollout, phase=Phase.HEALTHY, reason=""),
    )


DRAIN_SECONDS = 5.0  # for answers under way when a release is left


def _retire_release(state: ModelState, release: str, now: float) -> ModelState:
    return replace(state, retiring={**state.retiring, release: now + DRAIN_SECONDS})


def _retire(state: ModelState, seen: Seen, now: float) -> tuple[ModelState, tuple[Stop, ...]]:
    """Stop what nobody needs any more, once the router has let go of it."""
    keep = set(needed(state))
    if state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        keep.add(state.rollout.release)
    stops = []
    retiring = {r: t for r, t in state.retiring.items() if r not in keep}
    for release in seen.workloads or {}:
        if release in keep or now < retiring.get(release, 0.0):
            continue
        if seen.weights is None or seen.weights.get(release) or seen.active.get(release):
            continue
        stops.append(Stop(release))
    gone = [r for r, t in retiring.items() if now >= t and r not in (seen.workloads or {})]
    retiring = {r: t for r, t in retiring.items() if r not in gone}
    if retiring != state.retiring:
        state = replace(state, retiring=retiring)
    return state, tuple(stops)


def _actions(state: ModelState, want: Want, seen: Seen) -> tuple[Action, ...]:
    """Compare what should be with what is."""
    actions: list[Action] = []
    running = seen.workloads or {}
    for release in needed(state):
        if release not in running and release not in seen.missing:
            actions.append(Start(release))
        elif running.get(release) and release not in seen.warmed:
            actions.append(Warm(release))
    rollout = state.rollout
    if (
        rollout
        and rollout.phase is Phase.ROLLING_BACK
        and rollout.entered is not None
        and wants(want, rollout)
    ):
        actions.append(WriteBack(rollout))
    return tuple(actions)
