"""What a person asks of a rollout: done once, or refused with a reason, and never more than asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import A, B
from tests.core.test_rollout import World, canary, plan, settled
from tests.core.test_strategies import SHORT, say, until
from tidegate.core.asking import VERBS, Ask, ask
from tidegate.core.plan import Pause, Step
from tidegate.core.state import Phase


def test_a_paused_rollout_keeps_its_weight_until_it_is_resumed() -> None:
    """Whoever paused it and why stands in its reason; no deadline runs meanwhile."""
    world = canary(5)
    assert say(world, "pause", reason="lunch")[0]
    world.run(500)
    assert (world.rollout.phase, world.rollout.step) == (Phase.PAUSED, 0)
    assert world.rollout.reason == "paused by Ann: lunch"
    assert say(world, "resume") == (True, f"{B} goes on")
    assert until(world, Phase.VERIFIED).router == {A: 50, B: 50}


def test_paused_twice_is_paused_once() -> None:
    """The second time is told who did it first."""
    world = canary(5)
    say(world, "pause", reason="lunch")
    assert say(world, "pause") == (False, f"{B} is paused already: paused by Ann: lunch")


def test_a_breach_of_a_rollout_paused_by_hand_is_left_at_once() -> None:
    """Paused means watched: nobody has to come back from lunch."""
    world = canary(5)
    say(world, "pause")
    world.run(20)
    world.bad[B] = 0.5
    assert until(world, Phase.ROLLING_BACK, seconds=20).router == {A: 100}


def test_paused_while_pending_it_gets_its_first_weight_and_stays_there() -> None:
    """A pause that comes before the workload is up holds at the first step."""
    world = canary(1, starts_ready=False)
    say(world, "pause")
    world.running[B] = True
    world.run(60)
    assert (world.rollout.phase, world.router) == (Phase.PAUSED, {A: 90, B: 10})


def test_a_resume_ends_the_hand_pause_before_the_steps_own() -> None:
    """Two different things were asked for; each is ended by a word of its own, and said so."""
    world = until(canary(canary_plan=plan(steps=(Step(10, Pause(indefinite=True)),))), Phase.PAUSED)
    say(world, "pause")
    done, text = say(world, "resume")
    assert done
    assert "another `tidegate resume`" in text
    world.run(5)
    assert world.rollout.phase is Phase.PAUSED
    assert say(world, "resume")[0]
    until(world, Phase.VERIFIED)


def test_abort_takes_back_what_is_under_way_and_nothing_else() -> None:
    """A canary leaves without a rejection; a settled release is told that nothing is under way."""
    world = canary(5)
    assert say(world, "abort", reason="wrong one") == (True, f"{B} goes back to {A}")
    until(world, Phase.ROLLED_BACK)
    assert (world.canary, world.rejected, world.rollout.verdict) == (A, set(), "ABORTED")
    assert say(settled(), "abort", "production") == (False, "no rollout is under way in production")


def test_abort_of_a_verified_canary_takes_it_back() -> None:
    """It is still under way: it waits for its promotion."""
    world = until(canary(), Phase.VERIFIED)
    assert say(world, "abort")[0]
    assert until(world, Phase.ROLLED_BACK).router == {A: 100}


@pytest.mark.parametrize(
    ("world", "verb", "environment", "said"),
    [
        (settled(), "pause", "canary", "no rollout is under way in canary"),
        (settled(), "approve", "staging", "this plane holds no environment staging"),
        (canary(5), "pause", "production", f"no rollout is under way in production: {B} is on its way to"),
        (canary(5), "resume", "canary", f"{B} is not paused"),
        (canary(5), "approve", "canary", f"no step of {B} waits for an approval now"),
        (until(canary(), Phase.VERIFIED), "pause", "canary", f"{B} is verified: no step of it is left"),
        (canary(5), "dance", "canary", "this agent does not know the request dance"),
    ],
)
def test_what_can_not_be_done_says_why_and_changes_nothing(
    world: World, verb: str, environment: str, said: str
) -> None:
    """A word that means nothing now leaves the state the same object."""
    done, text = say(world, verb, environment)
    assert not done
    assert said in text


def test_a_resume_that_should_be_an_approve_says_so() -> None:
    """Who waits at a gate and says `resume` is told the other word."""
    gated = plan(steps=(Step(10, SHORT), Step(50, SHORT, gate="manual")))
    world = until(canary(canary_plan=gated), Phase.PAUSED)
    assert say(world, "resume") == (
        False,
        f"{B} is not paused; its next step waits for `tidegate approve`",
    )


def test_approved_twice_is_approved_once() -> None:
    """The second word says that it is done already, and lets nothing further through."""
    gated = plan(steps=(Step(10, SHORT), Step(30, SHORT, gate="manual"), Step(50, SHORT, gate="manual")))
    world = until(canary(canary_plan=gated), Phase.PAUSED)
    assert say(world, "approve")[0]
    assert say(world, "approve") == (False, f"30% of {B} is approved already")
    until(world, Phase.PROGRESSING)
    until(world, Phase.PAUSED)
    assert world.router == {A: 70, B: 30}


@given(
    words=st.lists(
        st.tuples(st.sampled_from(sorted(VERBS)), st.sampled_from(["canary", "production"])), max_size=12
    ),
    at=st.integers(0, 15),
)
def test_whatever_is_asked_a_word_is_answered_and_only_a_change_is_told(
    words: list[tuple[str, str]], at: int
) -> None:
    """Any verbs in any order: a text each time, a note exactly when the state changed."""
    world = canary(at)
    for verb, environment in words:
        before = world.state
        asked = Ask(environment, "Ann", "", world.now, world.want)
        world.state, text, notes = ask(verb, before, asked)
        assert text
        assert bool(notes) == (world.state is not before)
        world.run(1)
    assert world.router in ({A: 100}, {A: 90, B: 10}, {A: 50, B: 50})
