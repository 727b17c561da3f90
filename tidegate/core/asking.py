"""What a person asks: pause, resume, approve, abort, roll back; load, unload, switch (`loading`). Pure.

Each returns the new state, what will happen (or why nothing can) and notes; a state that is the same object
means that nothing was done.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tidegate.core import loading
from tidegate.core.asked import Answer, Ask
from tidegate.core.leaving import request_rollback
from tidegate.core.state import ModelState, Note, Phase, Rollout
from tidegate.core.strategies import Leg, following, leg_at, legs_of

replace = msgspec.structs.replace


def ask(verb: str, state: ModelState, asked: Ask) -> Answer:
    """Do what a verb says; one that is not known changes nothing."""
    if verb not in VERBS:
        return state, f"this agent does not know the request {verb}", ()
    return VERBS[verb](state, asked)


def _pause(state: ModelState, asked: Ask) -> Answer:
    rollout, problem = _under_way(state, asked)
    if rollout is None:
        return state, problem, ()
    if rollout.paused:
        return state, f"{rollout.release} is paused already: {rollout.paused}", ()
    said = f"paused by {asked.by}" + (f": {asked.reason}" if asked.reason else "")
    text = f"{rollout.release} stays at {rollout.weight}% until `tidegate resume`; its checks go on"
    return _answer(state, replace(rollout, paused=said), "paused", asked, text)


def _resume(state: ModelState, asked: Ask) -> Answer:
    rollout, problem = _under_way(state, asked)
    if rollout is None:
        return state, problem, ()
    planned = _planned(rollout, asked)
    waits = leg_at(planned, rollout).pause.indefinite and rollout.resumed <= rollout.step
    if rollout.paused:
        text = f"{rollout.release} goes on"
        text += " until the pause of its step, which waits for another `tidegate resume`" if waits else ""
        return _answer(state, replace(rollout, paused=""), "resumed", asked, text)
    if waits:
        text = f"{rollout.release} leaves its step as soon as its checks let it"
        return _answer(state, replace(rollout, resumed=rollout.step + 1), "resumed", asked, text)
    coming = following(planned, rollout)
    hint = "; its next step waits for `tidegate approve`" if _unapproved(rollout, coming) else ""
    return state, f"{rollout.release} is not paused{hint}", ()


def _approve(state: ModelState, asked: Ask) -> Answer:
    rollout, problem = _under_way(state, asked)
    if rollout is None:
        return state, problem, ()
    coming = following(_planned(rollout, asked), rollout)
    if coming is None or not coming.manual:
        return state, f"no step of {rollout.release} waits for an approval now", ()
    if not _unapproved(rollout, coming):
        return state, f"{coming.weight}% of {rollout.release} is approved already", ()
    text = f"{rollout.release} gets {coming.weight}% as soon as its checks let it"
    return _answer(state, replace(rollout, approved=rollout.step + 2), "approved", asked, text)


def _abort(state: ModelState, asked: Ask) -> Answer:
    """Take a rollout back that is under way; one that has settled is rolled back by another word."""
    if state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        return state, f"{state.rollout.release} is being rolled back already", ()
    rollout, problem = _active(state, asked)
    return _roll_back(state, asked) if rollout is not None else (state, problem, ())


def _roll_back(state: ModelState, asked: Ask) -> Answer:
    changed, text = request_rollback(
        state, asked.environment, by=asked.by, reason=asked.reason, now=asked.now, want=asked.want
    )
    if changed is state or changed.rollout is None:
        return state, text, ()
    note = Note("aborted", changed.rollout.release, f"{asked.environment}: {text}: {changed.rollout.reason}")
    return changed, text, (note,)


VERBS: dict[str, Callable[[ModelState, Ask], Answer]] = {
    "pause": _pause,
    "resume": _resume,
    "approve": _approve,
    "abort": _abort,
    "rollback": _roll_back,
    "load": loading.load,
    "unload": loading.unload,
    "switch": loading.switch,
}


# ---------------------------------------------------------------- what is asked about
def _active(state: ModelState, asked: Ask) -> tuple[Rollout | None, str]:
    """Return the rollout of an environment, or None and why there is none to ask anything of."""
    name = asked.environment or "(none named)"
    if asked.want.target(asked.environment) is None:
        return None, f"this plane holds no environment {name}"
    if state.active is None:
        return None, f"no rollout is under way in {name}"
    if state.active.environment != asked.environment:
        other = state.active.environment
        return None, f"no rollout is under way in {name}: {state.active.release} is on its way to {other}"
    return state.active, ""


def _under_way(state: ModelState, asked: Ask) -> tuple[Rollout | None, str]:
    """The same for what only a rollout that still moves can be asked."""
    rollout, problem = _active(state, asked)
    if rollout is not None and rollout.phase is Phase.VERIFIED:
        return None, f"{rollout.release} is verified: no step of it is left to come"
    return rollout, problem


def _planned(rollout: Rollout, asked: Ask) -> tuple[Leg, ...]:
    target = asked.want.target(rollout.environment)
    assert target, "looked for by _active"
    return legs_of(rollout, target.plan)


def _unapproved(rollout: Rollout, coming: Leg | None) -> bool:
    return coming is not None and coming.manual and rollout.approved <= rollout.step + 1


def _answer(state: ModelState, rollout: Rollout, kind: str, asked: Ask, text: str) -> Answer:
    why = f": {asked.reason}" if asked.reason else ""
    told = f"{asked.environment}: {rollout.release} was {kind} by {asked.by}{why}"
    data = {"by": asked.by, "reason": asked.reason, "weight": rollout.weight}
    return replace(state, rollout=rollout), text, (Note(kind, rollout.release, told, data),)
