"""Drift of the scores: bounds that hold, evidence that seldom lies, edges that never blame."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core import drift
from tidegate.core.counts import SCORE_BINS

few = settings(max_examples=60, deadline=None)
histograms = st.lists(st.integers(0, 40), min_size=SCORE_BINS, max_size=SCORE_BINS).map(tuple)


def histogram(values: np.ndarray) -> drift.Histogram:
    """Return the counts of scores by bin."""
    found, _ = np.histogram(values, SCORE_BINS, (0, 1))
    return tuple(found.tolist())


@given(p=st.floats(0.02, 0.98), low=st.floats(0, 1), high=st.floats(0, 1), n=st.integers(1, 8))
@few
def test_evidence_of_a_higher_mean_never_grows_on_average(p: float, low: float, high: float, n: int) -> None:
    """For values in [0, 1] whose mean is m, the exact mean of the evidence against m is at most 1."""
    m = p * high + (1 - p) * low
    mean = 0.0
    for k in range(n + 1):
        total, squares = k * high + (n - k) * low, k * high**2 + (n - k) * low**2
        mean += math.comb(n, k) * p**k * (1 - p) ** (n - k) * drift.above((n, total, squares), m)
    assert mean <= 1 + 1e-9


@given(p=st.floats(0.02, 0.98), low=st.floats(0, 1), high=st.floats(0, 1), n=st.integers(1, 8))
@few
def test_evidence_of_a_lower_mean_never_grows_on_average(p: float, low: float, high: float, n: int) -> None:
    """The same for the other side, of which the bounds are made."""
    m = p * high + (1 - p) * low
    mean = 0.0
    for k in range(n + 1):
        total, squares = k * high + (n - k) * low, k * high**2 + (n - k) * low**2
        mean += math.comb(n, k) * p**k * (1 - p) ** (n - k) * drift.below((n, total, squares), m)
    assert mean <= 1 + 1e-9


@given(bins=histograms, values=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@few
def test_evidence_is_monotone_in_the_mean_it_is_against(
    bins: drift.Histogram, values: tuple[float, float]
) -> None:
    """What speaks for "above m" speaks more for "above" something smaller: else no bound would hold."""
    low, high = sorted(values)
    moments = drift.low_moments(bins)
    assert drift.above(moments, low) >= drift.above(moments, high) * (1 - 1e-9)
    assert drift.below(moments, low) <= drift.below(moments, high) * (1 + 1e-9)


def test_the_upper_bound_of_a_mean_is_seldom_passed() -> None:
    """Looked at after every batch, a 90% bound is ever below the true mean in no more than a tenth."""
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(150):
        bins = np.zeros(SCORE_BINS, dtype=int)
        for _ in range(40):
            bins += np.histogram(rng.beta(2, 5, rng.integers(1, 30)), SCORE_BINS, (0, 1))[0]
            if drift.upper(drift.high_moments(bins.tolist()), 0.1) < 2 / 7:
                wrong += 1
                break
    assert wrong <= 26


def test_equal_scores_are_seldom_called_moved() -> None:
    """Two arms with one distribution and almost no tolerance reach 10/α-like evidence in at most a tenth."""
    rng, moved, gone = np.random.default_rng(2), 0, 0
    for _ in range(150):
        mine, theirs = np.zeros(SCORE_BINS, dtype=int), np.zeros(SCORE_BINS, dtype=int)
        worst = [0.0, 0.0]
        for _ in range(40):
            mine += np.histogram(rng.beta(2, 5, 20), SCORE_BINS, (0, 1))[0]
            theirs += np.histogram(rng.beta(2, 5, 60), SCORE_BINS, (0, 1))[0]
            one, other = (tuple(mine.tolist()),), tuple(theirs.tolist())
            worst[0] = max(worst[0], drift.mean_moved(one, other, 0.001, 0.1)[0])
            worst[1] = max(worst[1], drift.gap_moved(one, other, 0.001, 0.1)[0])
        moved, gone = moved + (worst[0] >= 20), gone + (worst[1] >= 20)
    assert moved <= 26
    assert gone <= 26


@given(mine=histograms, theirs=histograms)
@few
def test_both_sides_are_treated_alike(mine: drift.Histogram, theirs: drift.Histogram) -> None:
    """Scores turned round are as far apart as before: higher and lower are one test."""
    other = drift.mean_moved((drift.mirrored(mine),), drift.mirrored(theirs), 0.05, 0.01)
    assert drift.mean_moved((mine,), theirs, 0.05, 0.01) == pytest.approx(other)
    assert drift.mean_bound(mine, theirs, 0.05) == pytest.approx(
        drift.mean_bound(drift.mirrored(mine), drift.mirrored(theirs), 0.05)
    )


@given(at=st.integers(0, SCORE_BINS - 2), n=st.integers(1, 100_000))
@few
def test_a_bins_width_is_no_drift(at: int, n: int) -> None:
    """Where scores lie within their bin can't be seen: neighbours are no evidence of a move by a bin."""
    one, next_ = [0] * SCORE_BINS, [0] * SCORE_BINS
    one[at], next_[at + 1] = n, n
    assert drift.mean_moved((tuple(one),), tuple(next_), 1 / SCORE_BINS, 0.01)[0] <= 1


def test_a_clear_move_is_found_and_its_cut_told() -> None:
    """A mean that moved by 0.2 against a limit of 0.05, and a distribution that split with the same mean."""
    rng = np.random.default_rng(3)
    calm, moved = histogram(rng.beta(5, 5, 4000)), histogram(rng.beta(7, 3, 1000))
    split = histogram(np.concatenate([rng.beta(2, 18, 500), rng.beta(18, 2, 500)]))
    assert drift.mean_moved((moved,), calm, 0.05, 0.01)[0] > 1e6
    assert drift.mean_moved((split,), calm, 0.05, 0.01)[0] < 20
    assert drift.gap_moved((split,), calm, 0.1, 0.01)[0] > 1e6
    gap, _ = drift.gap(split, calm)
    assert abs(gap) > 0.3


@given(mine=histograms, theirs=histograms)
@few
def test_the_bounds_lie_above_what_was_seen(mine: drift.Histogram, theirs: drift.Histogram) -> None:
    """An upper bound is never below the estimate, nor above what is possible by more than a bin."""
    moved = abs(drift.mean(mine) - drift.mean(theirs))
    if sum(mine) and sum(theirs):
        assert drift.mean_bound(mine, theirs, 0.05) >= moved - 1e-9
    assert abs(drift.gap(mine, theirs)[0]) - 1e-9 <= drift.gap_bound(mine, theirs, 0.05) <= 1


def test_the_largest_gap_is_the_largest() -> None:
    """By brute force over all cuts."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        mine, theirs = (histogram(rng.beta(*rng.uniform(1, 6, 2), 300)) for _ in range(2))
        ours, stable = (list(itertools.accumulate(one)) for one in (mine, theirs))
        most = max(abs(a / 300 - b / 300) for a, b in zip(ours, stable, strict=True))
        assert abs(drift.gap(mine, theirs)[0]) == pytest.approx(most)
