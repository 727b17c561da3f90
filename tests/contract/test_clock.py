"""What every Clock promises, asked of the fake and of this machine's."""

from __future__ import annotations

import time

import pytest

from tidegate.adapters.system import SystemClock
from tidegate.testing import FakeClock


@pytest.fixture(params=[FakeClock, SystemClock], ids=["fake", "system"])
def clock(request: pytest.FixtureRequest):
    return request.param()


def test_a_sleep_takes_its_time(clock):
    """After a sleep, at least as much time has passed (to a clock's grain)."""
    before = clock.now()
    clock.sleep(0.05)
    assert clock.now() - before >= 0.049


def test_a_negative_sleep_is_none(clock):
    """A deadline that is over already does not raise, and time does not run backwards."""
    before = clock.now()
    clock.sleep(-5)
    assert 0 <= clock.now() - before < 1


def test_steady_time_passes_as_it_does(clock):
    """What can't be set goes on by as much as was slept."""
    before = clock.steady()
    clock.sleep(0.05)
    assert 0.049 <= clock.steady() - before < 5


def test_steady_time_does_not_notice_that_the_fake_is_set():
    """A clock that somebody sets tells another time, and the same time has passed."""
    clock = FakeClock(100.0)
    clock.moved = -86_400
    assert (clock.now(), clock.steady()) == (100.0 - 86_400, 100.0)


def test_the_system_s_time_is_the_epoch_s():
    """The real clock counts seconds since the epoch, as events and commits do."""
    assert abs(SystemClock().now() - time.time()) < 1


def test_the_fake_lets_the_world_move_while_somebody_sleeps():
    """`during` is called inside each sleep, with the time at which it ends."""
    clock = FakeClock(100.0)
    seen = []
    clock.during = seen.append
    clock.sleep(2)
    clock.advance(1)
    assert (seen, clock.now(), clock.sleeps) == ([102.0], 103.0, [2])
