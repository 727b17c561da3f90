"""A rollout's decisions: from what is remembered, wanted and seen to what is remembered next and done.

                   Paused
                     ▲│
                     │▼
    Pending ──► Progressing ──► Verified ──► Healthy
       │             │             │
       └─────────────┴──────┬──────┘
                            ▼
                      RollingBack ──► RolledBack

Here: what Git says, what settles, and what to do about it. `looking` takes a rollout from Pending to
Verified, `leaving` takes it back, and `asking` does what a person says.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tidegate.core import loading
from tidegate.core.advancing import enter, enter_before
from tidegate.core.leaving import finish_rollback, held_back, request_rollback, wants
from tidegate.core.looking import look, prepare
from tidegate.core.plan import Plan
from tidegate.core.release import is_new, original
from tidegate.core.state import (
    ACTIVE,
    SERVED,
    Action,
    Arm,
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
from tidegate.core.strategies import arms_of, legs

__all__ = ["Decision", "decide", "request_rollback", "wants"]

DRAIN_SECONDS = 5.0  # for answers under way when a release is left

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
    state = _told(state, want)
    if seen.workloads is None:
        return _unseen(state, want, seen, now)
    if state == ModelState():
        state = _adopt(want, seen, notes)
    state = loading.keep(state, want, seen, notes)
    state = _follow_git(state, held_back(state, want), now, notes)
    rollout = state.rollout
    if rollout is not None:
        plan = _plan(want, rollout)
        if rollout.phase in ACTIVE:
            rollout = _known_arms(rollout, want, notes)
        if rollout.phase is Phase.PENDING:
            rollout = prepare(rollout, plan, seen, now, notes)
        elif rollout.phase in ACTIVE:
            rollout = look(rollout, plan, seen, now, notes)
        elif rollout.phase is Phase.ROLLING_BACK:
            rollout = finish_rollback(state, rollout, plan, want, seen, now, notes)
        state = _settle(replace(state, rollout=rollout), plan, want, now, notes)
    state, idle = _retire(state, seen, now)
    return Decision(state, (*_actions(state, want, seen), *idle), tuple(notes))


def _unseen(state: ModelState, want: Want, seen: Seen, now: float) -> Decision:
    """Judge by routes and counters alone while it can't be seen what runs: a breach waits for nobody.

    Nothing is started, stopped, advanced or taken up from Git; only leaving a release goes on.
    """
    notes: list[Note] = []
    rollout = state.rollout
    if rollout is None or rollout.phase not in {*SERVED, Phase.ROLLING_BACK}:
        return Decision(state, _write_backs(state, want))
    plan = _plan(want, rollout)
    if rollout.phase is Phase.ROLLING_BACK:
        rollout = finish_rollback(state, rollout, plan, want, seen, now, notes)
    else:
        rollout = look(rollout, plan, seen, now, notes)
    state = replace(state, rollout=rollout)
    if rollout.phase is Phase.ROLLED_BACK:
        state = _settle(state, plan, want, now, notes)
    return Decision(state, _write_backs(state, want), tuple(notes))


# ---------------------------------------------------------------- what Git says
def _told(state: ModelState, want: Want) -> ModelState:
    """Forget the rollbacks that Git knows of by now."""
    unwritten = tuple(r for r in state.unwritten if wants(want, r))
    return state if unwritten == state.unwritten else replace(state, unwritten=unwritten)


def _plan(want: Want, rollout: Rollout) -> Plan:
    target = want.target(rollout.environment)
    return target.plan if target else Plan()


def _adopt(want: Want, seen: Seen, notes: list[Note]) -> ModelState:
    """Rest on what a plane serves whose memory was lost: what Git wants of it, else the heaviest part."""
    asked = want.targets[0].release if want.targets else None
    served = [
        (release == asked, weight, release)
        for release, weight in (seen.weights or {}).items()
        if weight and release in want.known - want.rejected and release in (seen.workloads or {})
    ]
    if not served:
        return ModelState()
    release = max(served)[2]
    notes.append(Note("adopted", release, f"{release} was found serving, and nothing is remembered of it"))
    return ModelState(stable=release)


def _follow_git(state: ModelState, want: Want, now: float, notes: list[Note]) -> ModelState:
    """Begin, replace or drop a rollout as Git says; a rollback that has begun is always finished."""
    if state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        return state
    active = state.active
    if active:
        wanted = want.target(active.environment)
        unwanted = wanted is None or wanted.release != active.release or active.release in want.rejected
        if unwanted and not _promoted(state, want, active):
            text = f"Git no longer wants {active.release} in {active.environment}"
            notes.append(Note("dropped", active.release, text))
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


def _promoted(state: ModelState, want: Want, active: Rollout) -> bool:
    """Tell whether a canary that its own environment gave up is wanted where it goes on to."""
    return (
        active.environment == "canary"
        and active.release in want.known
        and is_new(active.release, state.stable, want.rejected)
        and any(t.release == active.release and t.environment != "canary" for t in want.targets)
    )


def _begin(
    state: ModelState, target: Target, active: Rollout | None, now: float, notes: list[Note]
) -> ModelState:
    """Start a rollout; a canary that is promoted keeps its weight, any other one makes way."""
    release, promoted = str(target.release), _goes_on(active, target)
    carried = promoted.weight if promoted else 0
    planned = legs(target.plan, target.environment, state.stable, carried)
    named = [arm for arm in arms_of(planned, state.stable) if arm not in (release, state.stable)]
    arms = tuple(Arm(arm) for arm in named)
    rollout = Rollout(target.environment, release, state.stable, Phase.PENDING, now, step=-1, arms=arms)
    notes.append(Note("started", release, f"rollout of {release} to {target.environment} begins"))
    if promoted:
        kept = {"weight": carried, "carried": carried, "traffic": promoted.traffic}
        rollout = replace(rollout, phase=Phase.PROGRESSING, **kept)
        # There may be something to start, or somebody to ask, before the first step.
        before = bool(arms) or planned[0].manual
        rollout = enter_before(rollout, planned, notes) if before else enter(rollout, planned, 0, notes)
    elif active and active.release != release:
        state = _retire_release(state, active.release, now)
    retiring = {r: t for r, t in state.retiring.items() if r != release}
    return replace(state, rollout=rollout, retiring=retiring)


def _goes_on(active: Rollout | None, target: Target) -> Rollout | None:
    """Return the canary that a promotion takes further, if it has begun to be served."""
    same = active is not None and active.release == target.release and active.phase is not Phase.PENDING
    return active if same else None


def _known_arms(rollout: Rollout, want: Want, notes: list[Note]) -> Rollout:
    """Take the weight of arms that Git does not know, or that were rejected meanwhile."""
    arms = []
    for arm in rollout.arms:
        release = original(arm.release)
        gone = "was rejected" if release in want.rejected else "has no record in Git"
        if not arm.out and (release in want.rejected or release not in want.known):
            notes.append(Note("arm-out", arm.release, f"{arm.release} takes no part: it {gone}"))
            arm = replace(arm, out=f"it {gone}", weight=0)
        arms.append(arm)
    return rollout if tuple(arms) == rollout.arms else replace(rollout, arms=tuple(arms))


# ---------------------------------------------------------------- settling
def _settle(state: ModelState, plan: Plan, want: Want, now: float, notes: list[Note]) -> ModelState:
    """Make a verified release stable (not a canary's), or drop one that was left."""
    rollout = state.rollout
    if rollout is None:
        return state
    if rollout.phase is Phase.ROLLED_BACK and (rollout.ended == now):
        untold = (rollout,) if wants(want, rollout) else ()
        state = replace(state, stable=rollout.stable, unwritten=(*state.unwritten, *untold))
        if rollout.switched:
            return loading.settled(state, rollout, now)
        state = _retire_release(state, rollout.release, now)
        return replace(state, verified=tuple(r for r in state.verified if r != rollout.release))
    if rollout.phase is not Phase.VERIFIED or rollout.environment == "canary":
        return state
    if rollout.entered is None or (rollout.blind and any(stage.checks for stage in plan.stages)):
        return state  # it soaks only while it is served and can be watched
    if now - max(rollout.ended or now, rollout.entered) < plan.required_soak_time:
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
        if seen.weights is None or seen.weights.get(release) or seen.mirror.get(release):
            continue
        if seen.active.get(release):
            continue
        stops.append(Stop(release))
    gone = [r for r, t in retiring.items() if now >= t and r not in (seen.workloads or {})]
    retiring = {r: t for r, t in retiring.items() if r not in gone}
    if retiring != state.retiring:
        state = replace(state, retiring=retiring)
    return state, tuple(stops)


def _actions(state: ModelState, want: Want, seen: Seen) -> tuple[Action, ...]:
    """Compare what should be with what is; each is asked for again until the plane shows it."""
    actions: list[Action] = []
    running = seen.workloads or {}
    for release in needed(state):
        if release not in running:
            actions.append(Start(release))
        elif running.get(release) and release not in seen.warmed:
            actions.append(Warm(release))
    return (*actions, *_write_backs(state, want))


def _write_backs(state: ModelState, want: Want) -> tuple[WriteBack, ...]:
    """Tell Git of what was left, once the router has let go of it."""
    rollout = state.rollout
    due = [replace(left, stable=state.stable) for left in state.unwritten]
    if rollout and rollout.phase is Phase.ROLLING_BACK and rollout.entered is not None:
        due.append(rollout)
    return tuple(WriteBack(left) for left in due if wants(want, left))
