"""Releases kept up beside what runs: who may be loaded, what it is switched to, and what a switch leaves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.builders import A, B, C
from tests.core.test_rollout import World, canary, settled
from tidegate.core.asked import Ask, Room
from tidegate.core.asking import ask
from tidegate.core.loading import why
from tidegate.core.state import Loaded, ModelState, Phase, Start, Stop, WriteBack, needed

MB = 1_000_000


def say(world: World, verb: str, release: str, environment: str = "production", **more: Any) -> str:
    """Ask something as Ann; return what was said, beginning with `no: ` when nothing was done."""
    asked = Ask(environment, "Ann", "", world.now, world.want, release, world.seen, **more)
    before = world.state
    world.state, text, notes = ask(verb, before, asked)
    world.told += notes
    world.notes += [note.kind for note in notes]
    return text if world.state is not before else f"no: {text}"


def loaded(release: str = B) -> World:
    """Return a plane that rests on A, where `release` settled before and is loaded."""
    world = settled()
    world.state = msgspec.structs.replace(world.state, verified=(release, A))
    assert say(world, "load", release).startswith(f"{release} is started")
    return world.run(3)


# ---------------------------------------------------------------- load
def test_a_loaded_release_is_up_and_warm_and_has_no_traffic() -> None:
    """It is started, warmed and told of once; nothing of the router's weights changes."""
    world = loaded()
    assert (world.running, world.router) == ({A: True, B: True}, {A: 100})
    assert world.state.loaded[B].ready
    assert world.notes.count("loaded") == 1
    world.run(1000)
    assert (world.running, world.notes.count("loaded")) == ({A: True, B: True}, 1)


def test_a_loaded_release_is_started_again_from_memory_alone() -> None:
    """What is asked for is part of the state: a new agent starts it, and so does a plane that lost it."""
    world = loaded()
    stored = msgspec.convert(msgspec.json.decode(msgspec.json.encode(world.state)), ModelState)
    assert stored == world.state
    assert needed(stored) == (A, B)
    world.running.pop(B)
    assert Start(B) in world.look().actions


REFUSED = {
    "an unknown release": ("load", "ffffffffffff", "production", "has no record in Git"),
    "no release": ("load", "", "production", "(none named) has no record"),
    "what runs": ("load", A, "production", f"{A} runs already"),
    "what is loaded": ("load", B, "production", f"{B} is loaded already"),
    "a plane without the environment": ("load", C, "staging", "this plane holds no environment staging"),
    "what is not loaded": ("unload", C, "production", f"{C} is not loaded"),
    "unloading what runs": ("unload", A, "production", f"{A} has traffic"),
    "unloading nothing": ("unload", "", "production", "(none named) is not loaded"),
    "switching to nothing": ("switch", "", "production", "(none named) has no record"),
    "switching to what runs": ("switch", A, "production", f"{A} is what production runs already"),
    "switching a canary": ("switch", B, "canary", "a canary is moved by its rollout"),
    "what never settled": ("switch", C, "production", f"{C} never went through canary and production"),
    "an unknown one": ("switch", "ffffffffffff", "production", "has no record in Git"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """Nothing is done, and the answer says why; what to do next where there is something."""
    verb, release, environment, why = REFUSED[name]
    world = loaded()
    said = say(world, verb, release, environment)
    assert said.startswith("no: ")
    assert why in said


@pytest.mark.parametrize("verb", ["load", "switch"])
def test_a_rejected_release_is_refused(verb: str) -> None:
    """The next command is the one that asks for it again."""
    world = loaded()
    world.rejected.add(C)
    world.state = msgspec.structs.replace(world.state, verified=(C, B, A))
    assert f"{C} was rejected: ask for it again by `tidegate retry`" in say(world, verb, C)


def test_what_is_on_its_way_needs_no_loading() -> None:
    """A canary's candidate runs; its rollout says how long."""
    assert f"{B} runs already" in say(canary(5), "load", B)


@pytest.mark.parametrize(
    ("room", "memory", "fits"),
    [
        (Room(2, 1000 * MB), {A: 300 * MB, B: 300 * MB}, True),
        (Room(1, 1000 * MB), {A: 300 * MB, B: 300 * MB}, False),  # B is the one
        (Room(0, 1000 * MB), {}, False),
        (Room(2, 500 * MB), {A: 300 * MB, B: 300 * MB}, False),
        (Room(2, 600 * MB), {A: 300 * MB, B: 300 * MB}, True),
        (Room(2, 600 * MB), {A: 400 * MB, B: 300 * MB}, False),  # a new one may be as large as the largest
        (Room(2, 600 * MB), {}, True),  # nobody can tell: the number alone holds
    ],
)
def test_there_is_room_for_so_many_and_so_much(room: Room, memory: dict[str, int], fits: bool) -> None:
    """Number and memory are bounded, and the answer has both numbers."""
    world = loaded()
    world.memory = memory
    said = say(world, "load", C, room=room)
    assert said.startswith("no: ") is not fits
    if not fits and room.releases < 2:
        assert f"loaded beside what runs: 1, and no more than {room.releases} may be" in said
    elif not fits:
        assert "MB that they may: see workloads.loadedMemoryMb" in said


# ---------------------------------------------------------------- unload, and what Git takes
def test_an_unloaded_release_is_stopped() -> None:
    """Its processes end, nothing else's do."""
    world = loaded()
    assert say(world, "unload", B) == f"{B} is stopped; nothing waits for it any more"
    assert Stop(B) in world.look().actions
    world.run(10)
    assert (world.running, world.router, world.state.loaded) == ({A: True}, {A: 100}, {})


def test_a_release_that_is_rejected_is_unloaded() -> None:
    """What must not run is not kept ready to run."""
    world = loaded()
    world.rejected.add(B)
    world.run(10)
    assert (world.running, world.state.loaded) == ({A: True}, {})
    assert world.told[-1].text == f"{B} is unloaded: it was rejected"


def test_a_loaded_release_can_be_promoted() -> None:
    """Its rollout takes over what is up already; once it is stable it is not loaded any more."""
    world = loaded()
    world.canary = world.production = B
    world.run(60)
    assert (world.state.stable, world.state.loaded, world.router) == (B, {}, {B: 100})


# ---------------------------------------------------------------- switch
def test_a_switch_takes_effect_at_once_and_git_says_so() -> None:
    """The same look that hears of it gives all traffic to the other; Git follows, and nothing is rejected."""
    world = loaded()
    assert say(world, "switch", B) == f"{A} makes way for {B}"
    world.look()
    assert world.router == {B: 100}
    world.run(5)
    assert (world.production, world.rejected, world.state.stable) == (B, set(), B)
    assert world.notes[-1] == "switched"


def test_what_was_left_stays_loaded_and_the_way_back_is_as_short() -> None:
    """Back and forth, as often as wanted: never a moment without all of the traffic somewhere."""
    world = loaded()
    for release, other in ((B, A), (A, B), (B, A)):
        say(world, "switch", release)
        world.run(8)
        assert (world.state.stable, list(world.state.loaded)) == (release, [other])
        assert world.running == {A: True, B: True}
    assert [split for split in world.history if split and sum(split.values()) != 100] == []
    say(world, "unload", A)
    world.run(8)
    assert world.running == {B: True}


def test_a_rollback_after_a_switch_goes_back_to_what_ran_before() -> None:
    """The one that was left is the last verified one: nothing was wrong with it."""
    world = loaded()
    say(world, "switch", B)
    world.run(8)
    assert say(world, "rollback", "") == f"{B} goes back to {A}"


def test_a_switch_goes_on_after_a_crash_and_without_git() -> None:
    """Stored first: traffic moves whatever the remote does, and the commit is asked for until it is there."""
    world = loaded()
    world.git = False
    say(world, "switch", B)
    world.state = msgspec.convert(msgspec.json.decode(msgspec.json.encode(world.state)), ModelState)
    world.run(5)
    assert (world.router, world.production) == ({B: 100}, A)
    assert any(isinstance(action, WriteBack) for action in world.look().actions)
    world.git = True
    world.run(5)
    assert (world.production, world.state.stable, world.notes[-1]) == (B, B, "switched")


@pytest.mark.parametrize("gone", ["process", "warm-up", "agent's look"])
def test_a_release_that_does_not_answer_is_not_switched_to(gone: str) -> None:
    """Loaded is not enough: it has to be up and warm now."""
    world = loaded()
    if gone == "process":
        world.running[B] = False
    elif gone == "warm-up":
        world.warmed.discard(B)
    else:
        world.hidden = True
    assert f"{B} is loaded and does not answer yet" in say(world, "switch", B)


def test_a_release_that_is_not_loaded_is_not_switched_to() -> None:
    """The answer names the command that loads it."""
    world = settled()
    world.state = msgspec.structs.replace(world.state, verified=(B, A))
    assert f"tidegate load production MODEL {B}" in say(world, "switch", B)


def test_nothing_is_switched_while_a_rollout_is_under_way() -> None:
    """Its evidence is a comparison with what runs."""
    world = loaded(C)
    world.state = msgspec.structs.replace(world.state, verified=(C, A))
    world.canary = B
    world.run(5)
    assert f"{B} is on its way to canary: end that by `tidegate abort`" in say(world, "switch", C)


def test_one_switch_at_a_time() -> None:
    """Until Git says so too, neither another switch nor a rollback begins."""
    world = loaded()
    world.git = False
    say(world, "switch", B)
    world.run(3)
    assert f"{A} is just being left" in say(world, "switch", B)
    assert f"{A} is being left for another already" in say(world, "rollback", "")


def test_a_release_that_dies_amid_a_switch_takes_nothing_down() -> None:
    """Traffic stays on what runs until the other answers, and for good when it never does."""
    world = loaded()
    say(world, "switch", B)
    world.running[B] = False
    world.run(10)
    assert world.router == {A: 100}
    world.run(80)
    assert (world.state.stable, world.rollout.phase, world.router) == (A, Phase.HEALTHY, {A: 100})
    assert "gave-up" in world.notes


def test_loaded_says_who_and_since_when() -> None:
    """It is part of what is remembered, for people who wonder."""
    world = loaded()
    assert world.state.loaded[B] == Loaded(world.state.loaded[B].at, "Ann", True)
    assert world.now - 3 <= world.state.loaded[B].at <= world.now


def test_why_a_release_runs_is_said_in_a_few_words() -> None:
    """What runs, what is on its way, what is loaded, kept warm, or about to go."""
    world = loaded()
    assert why(world.state, A, world.now) == "runs"
    assert why(world.state, B, world.now) == "loaded by Ann"
    state = msgspec.structs.replace(world.state, loaded={B: Loaded(1.0, "Ann")}, retiring={C: world.now + 30})
    assert why(state, B, world.now) == "loaded by Ann, not ready yet"
    assert why(state, C, world.now) == "kept warm, 30 s more"
    assert why(state, C, world.now + 31) == "about to stop"
    assert why(canary(5).state, B, 0.0) == "canary, Progressing"
    say(world, "switch", B)
    assert why(world.state, B, world.now) == "taking over"
