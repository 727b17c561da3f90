"""Timelines: nothing counted is lost in a stretch, and an interval holds what it promises to hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.adapters.recordings import read_lines
from tidegate.core.recording import Recording, parse
from tidegate.core.timeline import courses, lower_bound, steps, stretches, weights

REAL = Path(__file__).parents[1] / "commands" / "recordings"


@pytest.fixture(params=["verified", "rolled-back"])
def recording(request: pytest.FixtureRequest) -> Recording:
    """A real plane's recording."""
    return parse(read_lines(REAL / f"{request.param}.jsonl"))


def test_stretches_hold_all_that_was_counted(recording: Recording) -> None:
    """Looks that say the same are one line, and no request of either arm is missing from the lines."""
    found = stretches(recording)
    counted = [look for look in recording.looks if look.candidate and look.stable]
    assert sum(each.looks for each in found) == len(counted)
    assert len(found) < len(counted)
    for arm in ("candidate", "stable"):
        total = sum(getattr(look, arm).requests for look in counted)
        assert sum(getattr(each, arm).requests for each in found) == total


def test_a_course_has_its_ends_and_each_change(recording: Recording) -> None:
    """However few points are shown, the first, the last and those where a verdict changed are among them."""
    whole, few = courses(recording), courses(recording, points=2)
    assert {each.name for each in few} == {"errors", "errors-vs-stable", "latency", "latency-vs-stable"}
    for all_points, some in zip(whole, few, strict=True):
        assert len(some.points) < len(all_points.points)
        assert (some.points[0], some.points[-1]) == (all_points.points[0], all_points.points[-1])
        assert some.verdict == all_points.verdict
        assert set(some.points) <= set(all_points.points)


def test_weights_follow_the_steps(recording: Recording) -> None:
    """Each weight that was served is there once, in order, and a rollback ends at 0."""
    found = [weight for _, weight, _ in weights(recording)]
    assert found == ([10, 50] if recording.end and recording.end.verdict == "PASS" else [10, 0])
    assert steps(recording) == 2


@given(st.integers(1, 5000), st.integers(0, 5000), st.sampled_from([0.05, 0.01, 0.001]))
def test_a_lower_bound_is_below_what_was_seen(trials: int, events: int, alpha: float) -> None:
    """It is a rate, never above the one observed, and being surer lowers it."""
    events = min(events, trials)
    low = lower_bound(trials, events, alpha)
    assert 0 <= low <= events / trials
    assert lower_bound(trials, events, alpha / 10) <= low + 1e-9


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_a_lower_bound_holds_at_every_look(rate: float) -> None:
    """Looked at forty times, it lies above the true rate in no more than alpha of the rollouts."""
    rng, alpha, runs = np.random.default_rng(3), 0.05, 200
    above = 0
    for _ in range(runs):
        events = np.cumsum(rng.binomial(25, rate, 40))
        above += any(lower_bound(25 * (n + 1), int(k), alpha) > rate for n, k in enumerate(events))
    assert above <= runs * alpha + 2.33 * (runs * alpha * (1 - alpha)) ** 0.5


def test_a_lower_bound_comes_near_with_data() -> None:
    """With much data it is close to the truth, or it would say nothing."""
    assert 0.04 < lower_bound(20_000, 1000, 0.05) < 0.05
