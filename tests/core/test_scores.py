"""Metrics of predictions and the intervals of their differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidegate.core import scores


def sample(seed: int, rows: int = 400, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities that know something of them; rounded, so that there are ties."""
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.3).astype(int)
    return labels, np.round(1 / (1 + np.exp(-(signal * labels + random.normal(size=rows) - 1))), 2)


@pytest.mark.parametrize("seed", range(3))
def test_auc_and_log_loss_agree_with_scikit_learn(seed: int) -> None:
    """Ties included, both are what the reference implementation says."""
    from sklearn import metrics

    labels, p = sample(seed)
    assert scores.auc(labels, p) == pytest.approx(metrics.roc_auc_score(labels, p))
    assert scores.log_loss(labels, p) == pytest.approx(metrics.log_loss(labels, p))


def test_calibration_error_of_a_known_case() -> None:
    """Two bins that are off by 0.1 and 0.3, of equal weight, give 0.2."""
    p = np.array([0.1] * 10 + [0.8] * 10)
    labels = np.array([1] * 2 + [0] * 8 + [1] * 5 + [0] * 5)
    assert scores.calibration_error(labels, p, bins=10) == pytest.approx(0.2)


def test_what_can_not_be_measured_is_nan() -> None:
    """One class only, no rows, or a NaN among the predictions give NaN, never a number."""
    assert math.isnan(scores.auc([1, 1], [0.2, 0.3]))
    assert math.isnan(scores.auc([0, 1], [0.2, math.nan]))
    assert math.isnan(scores.log_loss([], []))
    assert math.isnan(scores.log_loss([0, 1], [0.2, math.nan]))
    assert math.isnan(scores.calibration_error([], []))
    assert math.isnan(scores.calibration_error([0, 1], [0.2, math.nan]))
    assert all(math.isnan(end) for end in scores.auc_difference([1, 0], [0.2, 0.1], [0.2, 0.1]))


def test_equal_predictions_do_not_differ() -> None:
    """A candidate that predicts what production does has a difference of exactly 0."""
    labels, p = sample(1)
    assert scores.auc_difference(labels, p, p) == (0.0, 0.0)
    assert scores.loss_difference(labels, p, p) == (0.0, 0.0)


@pytest.mark.parametrize("what", ["auc", "loss"])
def test_the_interval_covers_as_a_paired_bootstrap_does(what: str) -> None:
    """The closed form is within a fifth of the width that resampling rows gives."""
    labels, p = sample(5, rows=2000)
    random = np.random.default_rng(6)
    other = np.clip(p + random.normal(scale=0.1, size=len(p)), 0.01, 0.99)
    p = np.clip(p, 0.01, 0.99)
    interval, metric = {
        "auc": (scores.auc_difference, scores.auc),
        "loss": (scores.loss_difference, scores.log_loss),
    }[what]
    low, high = interval(labels, p, other)
    draws = []
    for _ in range(400):
        rows = random.integers(0, len(p), len(p))
        draws.append(metric(labels[rows], p[rows]) - metric(labels[rows], other[rows]))
    assert low < metric(labels, p) - metric(labels, other) < high
    assert high - low == pytest.approx(2 * scores.Z99 * np.std(draws), rel=0.2)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    """Nearest rank: the smallest value with at least that share at or below it."""
    assert scores.percentile(list(range(100, 0, -1)), share) == value
    assert math.isnan(scores.percentile([], share))
