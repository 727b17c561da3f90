"""Metrics of predictions, and how much each row moves them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import scores
from tidegate.core.scores import Sample, binary
from tidegate.core.task import Declaration

PROBABILITY = Declaration("classification", "late", "probability")
METRICS = scores.of(PROBABILITY)


def of(labels: Any, p: Any, threshold: float = 0.5) -> Sample:
    """Return rows with the probability that each label is 1."""
    return scores.sample(PROBABILITY, labels, p, threshold=threshold)


def value(name: str, labels: Any, p: Any) -> float:
    """Return a metric of the probability that each label is 1."""
    return METRICS[name].value(of(labels, p))


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
    assert value("auc", labels, p) == pytest.approx(metrics.roc_auc_score(labels, p))
    assert value("log_loss", labels, p) == pytest.approx(metrics.log_loss(labels, p))


def test_calibration_error_of_a_known_case() -> None:
    """Two bins that are off by 0.1 and 0.3, of equal weight, give 0.2."""
    p = np.array([0.1] * 10 + [0.8] * 10)
    labels = np.array([1] * 2 + [0] * 8 + [1] * 5 + [0] * 5)
    assert binary.calibration(labels.astype(float), p, bins=10)[0] == pytest.approx(0.2)


def test_what_can_not_be_measured_is_nan() -> None:
    """One class only, no rows, or a NaN among the predictions give NaN, never a number."""
    assert math.isnan(value("auc", [1, 1], [0.2, 0.3]))
    assert math.isnan(value("auc", [0, 1], [0.2, math.nan]))
    assert math.isnan(value("log_loss", [], []))
    assert math.isnan(value("log_loss", [0, 1], [0.2, math.nan]))
    assert math.isnan(value("calibration_error", [], []))
    assert math.isnan(value("calibration_error", [0, 1], [0.2, math.nan]))


def oracle(name: str, labels: np.ndarray, p: np.ndarray, threshold: float) -> float:
    """What scikit-learn says."""
    from sklearn import metrics

    called = p >= threshold
    return float(
        {
            "auc": lambda: metrics.roc_auc_score(labels, p),
            "average_precision": lambda: metrics.average_precision_score(labels, p),
            "log_loss": lambda: metrics.log_loss(labels, p),
            "brier": lambda: metrics.brier_score_loss(labels, p),
            "accuracy": lambda: metrics.accuracy_score(labels, called),
            "recall": lambda: metrics.recall_score(labels, called),
            "precision": lambda: metrics.precision_score(labels, called),
            "macro_f1": lambda: metrics.f1_score(labels, called, average="macro"),
        }[name]()
    )


@pytest.mark.parametrize("threshold", [0.3, 0.5])
@pytest.mark.parametrize("name", sorted(set(METRICS) - {"excess_loss", "calibration_error"}))
def test_every_metric_agrees_with_scikit_learn(name: str, threshold: float) -> None:
    """Ties included, each is what the reference implementation says."""
    labels, p = sample(11)
    expected = oracle(name, labels, p, threshold)
    assert METRICS[name].value(of(labels, p, threshold)) == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_influence_is_what_a_rows_weight_does(name: str) -> None:
    """Giving one row twice moves a metric by its influence / n, and influences have the mean 0."""
    labels, p = sample(3, rows=3000)
    metric = METRICS[name]
    influences = metric.seen(of(labels, p))[1]
    assert influences.mean() == pytest.approx(0, abs=1e-9)
    before = metric.value(of(labels, p))
    for row in range(0, 3000, 500):
        moved = metric.value(of(np.append(labels, labels[row]), np.append(p, p[row]))) - before
        assert moved * 3001 == pytest.approx(influences[row], rel=0.02, abs=0.02)


@given(
    rows=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60),
    name=st.sampled_from(sorted(METRICS)),
)
def test_a_metric_is_a_number_or_nan_whatever_the_rows(rows: list[tuple[bool, float]], name: str) -> None:
    """No rows make a metric raise; shares and areas stay between 0 and 1."""
    labels, p = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = METRICS[name].value(of(labels, p))
    if name not in ("log_loss", "excess_loss"):
        assert math.isnan(found) or -1e-12 <= found <= 1 + 1e-12
    if name == "auc" and not math.isnan(found):
        assert found + value("auc", ~labels, p) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_probability_makes_every_metric_nan(name: str, bad: float) -> None:
    """No metric skips a row that it can't use."""
    labels, p = sample(2)
    p[7] = bad
    assert math.isnan(METRICS[name].value(of(labels, p)))
    assert math.isnan(METRICS[name].value(of([], [])))


def test_a_precision_of_nothing_is_nan() -> None:
    """Where no row is called positive there is no precision: not 0, not 1."""
    labels, p = sample(2)
    assert math.isnan(METRICS["precision"].value(of(labels, p, 2.0)))


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"acu": 0.6}, "did you mean `auc`"),
        ({"zzz": 1}, "known: accuracy, auc, average_precision, bias"),
        ({"auc": math.nan}, "not a number from 0"),
        ({"auc": math.inf}, "not a number from 0"),
        ({"auc": -0.1}, "not a number from 0"),
    ],
)
def test_what_can_not_be_compared_with_is_refused(named: dict[str, float], told: str) -> None:
    """An unknown metric, a number that is none, and a negative margin raise, with what to do."""
    with pytest.raises(ValueError, match=told):
        scores.check(named, at_least=0)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    """Nearest rank: the smallest value with at least that share at or below it."""
    assert scores.percentile(list(range(100, 0, -1)), share) == value
    assert math.isnan(scores.percentile([], share))
