"""Differences of two sets of predictions of the same rows: intervals, and how many rows they would take."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.core.test_scores import METRICS, of, sample
from tidegate.core import exhibits, paired, scores
from tidegate.core.paired import Difference

AUC, LOSS = METRICS["auc"], METRICS["log_loss"]


def pair(seed: int, rows: int = 2000, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and two sets of probabilities, the second of which knows a little less."""
    labels, p = sample(seed, rows=rows)
    other = p + np.random.default_rng(seed + 1).normal(scale=noise, size=rows)
    return labels, np.clip(p, 0.01, 0.99), np.clip(other, 0.01, 0.99)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"calibration_error"}))
def test_an_interval_is_as_wide_as_a_paired_bootstraps(name: str) -> None:
    """The closed form is within a fifth of the width that resampling rows gives, for every metric."""
    labels, p, other = pair(5)
    metric, random = METRICS[name], np.random.default_rng(6)
    found = paired.difference(metric, of(labels, p), of(labels, other), confidence=0.95)
    draws = []
    for _ in range(300):
        rows = random.integers(0, len(p), len(p))
        draws.append(metric.value(of(labels[rows], p[rows])) - metric.value(of(labels[rows], other[rows])))
    assert found.low < metric.value(of(labels, p)) - metric.value(of(labels, other)) < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.2)


def test_the_calibration_errors_interval_allows_for_its_bias() -> None:
    """Beside one that is well calibrated, chance alone makes one that is off look less far off: still held.

    50,000 rows of a population in which one knows the true probabilities and the other is off by 0.03: a 90%
    interval holds the true difference in at least 90%, and one without the bias would not in a third.
    """
    random = np.random.default_rng(3)
    odds = random.normal(-1.1, 0.9, size=200_000)
    labels = (random.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(int)
    right, off = (1 / (1 + np.exp(-(odds + shift))) for shift in (0.0, 0.2))
    metric = METRICS["calibration_error"]
    truth = metric.value(of(labels, off)) - metric.value(of(labels, right))
    held = 0
    for _ in range(100):
        rows = random.integers(0, len(odds), 50_000)
        found = paired.difference(
            metric, of(labels[rows], off[rows]), of(labels[rows], right[rows]), confidence=0.9
        )
        held += found.low <= truth <= found.high
    assert held >= 90


@pytest.mark.parametrize("name", ["auc", "log_loss", "calibration_error", "recall"])
def test_an_interval_covers_as_often_as_it_says(name: str) -> None:
    """Over samples of a population whose difference is known, a 90% interval holds it in at least 84%."""
    labels, p, other = pair(8, rows=200_000)
    metric, random = METRICS[name], np.random.default_rng(9)
    truth = metric.value(of(labels, p)) - metric.value(of(labels, other))
    held = 0
    for _ in range(200):
        rows = random.integers(0, len(p), 2000)
        found = paired.difference(
            metric, of(labels[rows], p[rows]), of(labels[rows], other[rows]), confidence=0.9
        )
        held += found.low <= truth <= found.high
    assert held >= 168
    assert held <= 192 or metric.bias  # which makes it wider than it need be


@pytest.mark.parametrize("name", sorted(METRICS))
def test_equal_predictions_do_not_differ(name: str) -> None:
    """A candidate that predicts what production does has a difference of 0 inside its interval."""
    labels, p, _ = pair(1)
    found = paired.difference(METRICS[name], of(labels, p), of(labels, p), confidence=0.95)
    assert found.candidate == found.production
    assert found.low <= 0 <= found.high
    shared = METRICS[name].counted is not None
    assert (found.high - found.low > 1e-6) is shared  # no share is known exactly


@pytest.mark.parametrize("name", sorted(METRICS))
def test_swapping_the_two_turns_the_interval_round(name: str) -> None:
    """What is better one way is as much worse the other way."""
    labels, p, other = pair(2)
    one = paired.difference(METRICS[name], of(labels, p), of(labels, other), confidence=0.9)
    back = paired.difference(METRICS[name], of(labels, other), of(labels, p), confidence=0.9)
    assert one.interval == pytest.approx((-back.high, -back.low))


def test_rows_apart_add_their_variances() -> None:
    """Half of the rows beside the other half: an interval as wide as independent samples have."""
    labels, p, _ = pair(4, rows=4000)
    half = of(labels[:2000], p[:2000]), of(labels[2000:], p[2000:])
    found = paired.apart(LOSS, *half, confidence=0.95)
    errors = [scores.row_losses(one).std(ddof=1) / math.sqrt(2000) for one in half]
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.hypot(*errors), rel=1e-3)


@pytest.mark.parametrize("labels", [[], [1], [1, 1, 1]])
def test_what_has_no_value_has_no_interval(labels: list[int]) -> None:
    """No rows, one row or one class: NaN, which the gates call an ERROR."""
    p = [0.2] * len(labels)
    found = paired.difference(AUC, of(labels, p), of(labels, p), confidence=0.95)
    assert all(map(math.isnan, found.interval))
    beside = paired.apart(AUC, of(labels, p), of([0, 1], [0.1, 0.2]), confidence=0.95)
    assert all(map(math.isnan, beside.interval))


def test_more_comparisons_need_more_confidence_each() -> None:
    """Bonferroni; what is no confidence raises."""
    assert paired.each(0.95, 1) == pytest.approx(0.95)
    assert paired.each(0.95, 5) == pytest.approx(0.99)
    for confidence, comparisons in [(1.0, 1), (0.2, 1), (math.nan, 1), (0.95, 0)]:
        with pytest.raises(ValueError):
            paired.each(confidence, comparisons)


@given(
    worse=st.floats(-0.05, 0.05),
    half=st.floats(1e-4, 0.05),
    margin=st.floats(0, 0.03),
    rows=st.integers(100, 10**6),
    higher=st.booleans(),
)
def test_with_the_rows_that_were_asked_for_one_can_tell(
    worse: float, half: float, margin: float, rows: int, higher: bool
) -> None:
    """The interval shrunk to those rows is on one side of the margin; with 1% fewer it is not."""
    middle = -worse if higher else worse
    found = Difference(AUC if higher else LOSS, 0.5 + middle, 0.5, middle - half, middle + half)
    more = paired.more_rows(found, margin, rows)
    said = exhibits.word(found.low, found.high, margin, higher_is_better=higher)
    assume(said == "cannot tell" and more is not None)
    assert more is not None

    def told(count: float) -> str:
        reach = half * math.sqrt(rows / count)
        return exhibits.word(middle - reach, middle + reach, margin, higher_is_better=higher)

    assert more > 0
    assert told((rows + more) * 1.0001) != "cannot tell"
    assert told((rows + more) * 0.99 - 1) == "cannot tell"


def test_at_the_margin_no_number_of_rows_tells() -> None:
    """And the hint says so; elsewhere it names a round number of rows."""
    at = Difference(LOSS, 0.51, 0.5, 0.0, 0.02)
    assert paired.more_rows(at, 0.01, 1000) is None
    assert "no number of rows" in paired.hint(at, 0.01, 1000)
    near = Difference(LOSS, 0.504, 0.5, -0.006, 0.014)
    assert paired.more_rows(near, 0.01, 1000) == 1778
    assert "about 1,800 more rows (now 1,000)" in paired.hint(near, 0.01, 1000)
