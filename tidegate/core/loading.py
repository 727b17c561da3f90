"""Releases that are kept up without traffic, so that a plane can be switched to one of them at once. Pure.

A release is loaded because a person asked for it; it stays until a person lets it go, Git rejects it or
forgets it, or it is what runs. Switching goes the way of a rollback: traffic first, and the commit that makes
Git say so after it. What is left stays loaded, so that the way back is as short.
"""

from __future__ import annotations

import msgspec

from tidegate.core.asked import Answer, Ask
from tidegate.core.leaving import held_back
from tidegate.core.release import original
from tidegate.core.state import ACTIVE, SWITCHED, Loaded, ModelState, Note, Phase, Rollout, Seen, Want

replace = msgspec.structs.replace


# ---------------------------------------------------------------- what a person asks
def load(state: ModelState, asked: Ask) -> Answer:
    """Keep a release's replicas up without traffic."""
    release = asked.release
    problem = _no_environment(asked) or _not_loadable(state, asked) or _no_room(state, asked)
    if problem:
        return state, problem, ()
    retiring = {r: t for r, t in state.retiring.items() if r != release}
    loaded = {**state.loaded, release: Loaded(asked.now, asked.by)}
    note = _note("load", asked, f"{release} is loaded beside what runs")
    text = f"{release} is started and kept up without traffic until `tidegate unload`"
    return replace(state, loaded=loaded, retiring=retiring), text, (note,)


def unload(state: ModelState, asked: Ask) -> Answer:
    """Let a loaded release go."""
    release = asked.release
    if problem := _no_environment(asked):
        return state, problem, ()
    if (asked.seen.weights or {}).get(release) or release in _of_traffic(state):
        return state, f"{release or '(none named)'} has traffic: it can't be unloaded", ()
    if release not in state.loaded:
        return state, f"{release or '(none named)'} is not loaded: there is nothing to let go", ()
    left = {r: held for r, held in state.loaded.items() if r != release}
    note = _note("unloaded", asked, f"{release} is unloaded")
    return replace(state, loaded=left), f"{release} is stopped; nothing waits for it any more", (note,)


def switch(state: ModelState, asked: Ask) -> Answer:
    """Give a loaded release all of the traffic at once; Git is told by a commit, as of a rollback."""
    release = asked.release
    problem = _no_environment(asked) or _not_switchable(state, asked)
    if problem:
        return state, problem, ()
    left = str(state.stable)
    rollout = Rollout(
        asked.environment,
        left,
        release,
        Phase.ROLLING_BACK,
        asked.now,
        verdict=SWITCHED,
        reason=f"{asked.by} asked: {asked.reason}" if asked.reason else f"{asked.by} asked",
        by=asked.by,
    )
    return replace(state, rollout=rollout), f"{left} makes way for {release}", ()


# ---------------------------------------------------------------- what a look does about it
def keep(state: ModelState, want: Want, seen: Seen, notes: list[Note]) -> ModelState:
    """Forget loaded releases that run anyway, or that Git rejected or forgot; note who is up now."""
    kept: dict[str, Loaded] = {}
    for release, held in state.loaded.items():
        gone = (
            "was rejected" if release in want.rejected else "" if release in want.known else "has no record"
        )
        if gone:
            notes.append(Note("unloaded", release, f"{release} is unloaded: it {gone}"))
        elif release != state.stable:
            kept[release] = held
            if not held.ready and _up(release, seen):
                notes.append(Note("loaded", release, f"{release} is loaded: it answers, and has no traffic"))
                kept[release] = replace(held, ready=True)
    return state if kept == state.loaded else replace(state, loaded=kept)


def why(state: ModelState, release: str, now: float) -> str:
    """Return in a few words why a release's processes run."""
    rollout = state.rollout
    if release == state.stable:
        return "runs"
    if rollout and rollout.phase in ACTIVE and release == rollout.release:
        return f"{rollout.environment}, {rollout.phase}"
    if (
        rollout
        and rollout.phase in ACTIVE
        and (original(release) != release or release in [arm.release for arm in rollout.arms])
    ):
        return "compared with"
    if rollout and rollout.phase is Phase.ROLLING_BACK and release == rollout.stable:
        return "taking over"
    if release in state.loaded:
        held = state.loaded[release]
        return f"loaded by {held.by or 'somebody'}" + ("" if held.ready else ", not ready yet")
    left = state.retiring.get(release, 0.0) - now
    return f"kept warm, {left:.0f} s more" if left > 0 else "about to stop"


def settled(state: ModelState, rollout: Rollout, now: float) -> ModelState:
    """Rest on the release that was switched to, and keep the one before it loaded."""
    old, new = rollout.release, str(rollout.stable)
    others = {r: held for r, held in state.loaded.items() if r != new}
    verified = (*(r for r in state.verified if r not in (old, new)), old, new)
    return replace(state, verified=verified, loaded={**others, old: Loaded(now, rollout.by, ready=True)})


# ---------------------------------------------------------------- why not
def _no_environment(asked: Ask) -> str:
    held = asked.want.target(asked.environment) is not None
    return "" if held else f"this plane holds no environment {asked.environment or '(none named)'}"


def _of_traffic(state: ModelState) -> set[str]:
    """Return the releases that have, or are about to have, a share of the requests."""
    found = {state.stable}
    if state.rollout and (state.active or state.rollout.phase is Phase.ROLLING_BACK):
        found |= {state.rollout.release, state.rollout.stable, *(arm.release for arm in state.rollout.arms)}
    return {release for release in found if release}


def _not_loadable(state: ModelState, asked: Ask) -> str:
    release, want = asked.release, held_back(state, asked.want)
    if release not in want.known:
        return f"{release or '(none named)'} has no record in Git: see `tidegate history`"
    if release in want.rejected:
        return f"{release} was rejected: ask for it again by `tidegate retry`"
    if release in _of_traffic(state):
        return f"{release} runs already: it needs no loading"
    if release in state.loaded:
        return f"{release} is loaded already"
    return ""


def _no_room(state: ModelState, asked: Ask) -> str:
    """Return why there is no room: a new release is taken to be as large as the largest that runs."""
    room, memory = asked.room, asked.seen.memory
    first = next(iter(state.loaded), "")
    if len(state.loaded) >= room.releases:
        hint = f"; let one go: tidegate unload {asked.environment} {asked.model} {first}" if first else ""
        return f"loaded beside what runs: {len(state.loaded)}, and no more than {room.releases} may be{hint}"
    held = sum(memory.get(release, 0) for release in state.loaded)
    more = max(memory.values(), default=0)
    if held + more > room.memory:
        return (
            f"loaded releases take {held / 1e6:,.0f} MB, and one more about {more / 1e6:,.0f} MB, "
            f"of {room.memory / 1e6:,.0f} MB that they may: see workloads.loadedMemoryMb in platform.yaml"
        )
    return ""


def _not_switchable(state: ModelState, asked: Ask) -> str:
    release, where = asked.release or "(none named)", asked.environment
    if where == "canary":
        return "a canary is moved by its rollout; switch the environment that it is a slice of"
    if state.stable is None:
        return f"nothing runs in {where}: the first release comes by `tidegate promote`"
    if release == state.stable:
        return f"{release} is what {where} runs already"
    want = held_back(state, asked.want)
    if release not in want.known:
        return f"{release} has no record in Git: see `tidegate history`"
    if release in want.rejected:
        return f"{release} was rejected: ask for it again by `tidegate retry`"
    if state.rollout and state.rollout.phase is Phase.ROLLING_BACK:
        return f"{state.rollout.release} is just being left: wait for its end, see `tidegate status`"
    if release not in state.verified:
        steps = "canary and production" if where == "production" else where
        return f"{release} never went through {steps}: bring it there by `tidegate promote`, checks and all"
    if state.active:
        other = state.active
        return f"{other.release} is on its way to {other.environment}: end that by `tidegate abort`, or wait"
    if release not in state.loaded:
        return f"{release} is not loaded: tidegate load {where} {asked.model} {release}"
    if not _up(release, asked.seen):
        return f"{release} is loaded and does not answer yet: see `tidegate releases`"
    return ""


def _up(release: str, seen: Seen) -> bool:
    ready = (seen.workloads or {}).get(release, False)
    return ready and release in seen.alive and release in seen.warmed


def _note(kind: str, asked: Ask, text: str) -> Note:
    why = f": {asked.reason}" if asked.reason else ""
    told = f"{asked.environment}: {text}, {asked.by} asked{why}"
    return Note(kind, asked.release, told, {"by": asked.by, "reason": asked.reason})
