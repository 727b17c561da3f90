"""An agent whose machine's clock is set by hand goes on as if it had not been."""

from __future__ import annotations

import pytest

from tests.builders import A, B, Rig

DAY = 86_400.0


@pytest.mark.parametrize("by", [DAY, -DAY], ids=["forward", "back"])
def test_a_clock_that_is_set_changes_nothing_of_a_rollout(by: float) -> None:
    """Set by a day in mid-canary, a promotion goes on in its time and is not given up for being late."""
    rig = Rig()
    rig.settle(A)
    rig.push(canary=B)
    rig.drive(6)
    rig.clock.moved = by
    rig.drive(25)
    assert rig.phase("canary") == "Verified"
    rig.push(canary=B, production=B)
    rig.drive(45)
    assert rig.weights == {B: 100}


@pytest.mark.parametrize("by", [DAY, -DAY], ids=["forward", "back"])
def test_a_breach_is_left_at_once_after_the_clock_was_set(by: float) -> None:
    """A release that turns bad after the clock was set is left within the usual seconds."""
    rig = Rig()
    rig.settle(A)
    rig.push(canary=B)
    rig.drive(6)
    rig.clock.moved = by
    rig.bad[B] = 0.9
    rig.drive(6)
    assert rig.weights == {A: 100}


def test_a_clock_that_was_set_back_while_no_agent_ran_stops_nothing() -> None:
    """Restarted with a clock that is a day behind what is stored, the agent goes on from there."""
    rig = Rig()
    rig.settle(A)
    rig.push(canary=B)
    rig.drive(6)
    rig.clock.moved = -DAY
    rig.restart()
    rig.bad[B] = 0.9
    rig.drive(8)
    assert rig.weights == {A: 100}
