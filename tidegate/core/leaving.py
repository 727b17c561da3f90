"""Leaving a release: by a breach, by a deadline or by a person's word; RolledBack once Git says so too."""

from __future__ import annotations

import dataclasses

import msgspec

from tidegate.core.plan import Plan
from tidegate.core.release import is_new
from tidegate.core.state import ModelState, Note, Phase, Rollout, Seen, Want
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace


def leave(rollout: Rollout, verdict: Verdict, reason: str, notes: list[Note]) -> Rollout:
    """Decide to roll back. Stored before anything moves, so that no look can re-apply the release."""
    told = {"environment": rollout.environment, "stable": rollout.stable, "weight": rollout.weight}
    data = {"verdict": str(verdict), "findings": list(rollout.findings), **told}
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


def request_rollback(
    state: ModelState, environment: str, *, by: str, reason: str, now: float, want: Want | None = None
) -> tuple[ModelState, str]:
    """Go back on a person's word; returns the new state and what will happen, or why nothing can.

    An active rollout goes back to its stable release, a first one to nothing; a settled one to the
    last verified release before it that `want` still knows and has not rejected. The state is
    unchanged when there is nothing to go back to.
    """
    if want is not None and want.target(environment) is None:
        return state, f"this plane holds no environment {environment or '(none named)'}"
    if state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        how = "left for another" if state.rollout.switched else "rolled back"
        return state, f"{state.rollout.release} is being {how} already"
    rollout = state.active
    if rollout is not None and rollout.environment == environment:
        back = rollout.stable
    elif environment == "canary":
        return state, "no rollout is under way in canary"
    elif state.stable is None:
        return state, f"nothing runs in {environment}"
    else:
        rollout, back = None, _before(state, want)
    if back is None and rollout is None:
        return state, "there is no verified release to go back to"
    base = rollout or Rollout(environment, str(state.stable), back, Phase.ROLLING_BACK, now)
    leaving = replace(
        base,
        stable=back,
        phase=Phase.ROLLING_BACK,
        weight=0,
        entered=None,  # set once the router reports weight 0
        verdict="ABORTED",
        reason=f"{by} asked: {reason}" if reason else f"{by} asked",
        by=by,
        ended=None,
    )
    return replace(state, rollout=leaving), f"{base.release} goes back to {back or 'nothing'}"


def _before(state: ModelState, want: Want | None) -> str | None:
    """Return the last verified release before the one that runs."""
    earlier = [r for r in reversed(state.verified) if r != state.stable]
    if want is not None:
        rejected = held_back(state, want).rejected
        earlier = [r for r in earlier if r in want.known and r not in rejected]
    return next(iter(earlier), None)


def finish_rollback(
    state: ModelState, rollout: Rollout, plan: Plan, want: Want, seen: Seen, now: float, notes: list[Note]
) -> Rollout:
    """RolledBack once the router reports weight 0 and Git says so too."""
    served = {**(seen.weights or {}), **seen.mirror}.get(rollout.release)
    at_zero = seen.weights is not None and not served
    if at_zero and rollout.entered is None:
        notes.append(Note("weight-zero", rollout.release, f"{rollout.release} has weight 0", {"weight": 0}))
        rollout = replace(rollout, entered=now)
    if rollout.entered is None:
        return _give_up(state, rollout, plan, seen, now, notes)
    if wants(want, rollout) and not _moved_on(want, rollout):
        return rollout
    text = f"{rollout.environment}: {rollout.release} → {rollout.stable or 'nothing'}: {rollout.reason}"
    told = {"environment": rollout.environment, "stable": rollout.stable, "verdict": rollout.verdict}
    if rollout.switched:
        notes.append(Note("switched", str(rollout.stable), text, told))
    else:
        notes.append(Note("rolled-back", rollout.release, text, {**told, "findings": list(rollout.findings)}))
    return replace(rollout, phase=Phase.ROLLED_BACK, ended=now)


def _give_up(
    state: ModelState, rollout: Rollout, plan: Plan, seen: Seen, now: float, notes: list[Note]
) -> Rollout:
    """Stay on a settled release when the one to go back to never comes up: it serves meanwhile."""
    back = rollout.stable
    if state.stable != rollout.release or back is None or back in seen.alive or seen.workloads is None:
        return rollout
    if now - rollout.started <= plan.progress_deadline:
        return rollout
    why = seen.missing.get(back) or seen.failed.get(back) or "it never became ready"
    text = f"{rollout.environment}: stays on {rollout.release}, {back} can't be gone back to: {why}"
    notes.append(Note("gave-up", rollout.release, text))
    return replace(rollout, phase=Phase.HEALTHY, weight=100, verdict="", reason=text, ended=now)


def _moved_on(want: Want, rollout: Rollout) -> bool:
    """Tell whether a person decided anew: something else is named here, or is new in what this rests on.

    Git may lack the rollback for long, e.g. where the agent may not push; people need not wait for that.
    """
    for target in want.targets:
        if target.environment == rollout.environment:
            return target.release != rollout.release
        fresh = target.release in want.known - {rollout.release}
        if fresh and is_new(target.release, rollout.stable, want.rejected):
            return True
    return True


def held_back(state: ModelState, want: Want) -> Want:
    """Return what Git wants with the releases taken for rejected whose rollback it does not know yet."""
    left = {rollout.release for rollout in state.unwritten}
    return dataclasses.replace(want, rejected=want.rejected | left) if left else want


def wants(want: Want, rollout: Rollout) -> bool:
    """Tell whether Git still asks for a release that was left, or lacks its rejection."""
    asked = any(t.release == rollout.release for t in want.targets)
    return asked or (rollout.reject and rollout.release not in want.rejected)
