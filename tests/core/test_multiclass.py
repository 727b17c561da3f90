"""Metrics of one probability each of several classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_scores import of as of_one
from tests.core.test_scores import sample as of_two
from tidegate.core import paired, scores
from tidegate.core.scores import Sample
from tidegate.core.task import Declaration

CLASSES = ("bad", "fair", "good")
DECLARED = Declaration("classification", "mood", CLASSES)
METRICS = scores.of(DECLARED)


def drawn(seed: int, rows: int = 600, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return text labels and probabilities that know something of them, of few distinct values."""
    random = np.random.default_rng(seed)
    places = random.choice(3, rows, p=[0.2, 0.3, 0.5])
    odds = np.round(1.2 * np.eye(3)[places] + random.normal(scale=noise, size=(rows, 3)), 1)
    shares = np.exp(odds)
    return np.array(CLASSES)[places], shares / shares.sum(axis=1, keepdims=True)


def of(labels: Any, p: Any) -> Sample:
    """Return rows of the three classes."""
    return scores.sample(DECLARED, labels, p)


def oracle(name: str, labels: np.ndarray, p: np.ndarray) -> float:
    """What scikit-learn says."""
    from sklearn import metrics

    called = np.array(CLASSES)[p.argmax(axis=1)]
    each = np.stack([labels == name for name in CLASSES], axis=1)
    return float(
        {
            "auc": lambda: metrics.roc_auc_score(labels, p, multi_class="ovr", labels=CLASSES),
            "average_precision": lambda: metrics.average_precision_score(each, p, average="macro"),
            "log_loss": lambda: metrics.log_loss(labels, p, labels=CLASSES),
            "brier": lambda: metrics.brier_score_loss(labels, p, labels=CLASSES, scale_by_half=True),
            "accuracy": lambda: metrics.accuracy_score(labels, called),
            "recall": lambda: metrics.balanced_accuracy_score(labels, called),
            "precision": lambda: metrics.precision_score(labels, called, average="macro"),
            "macro_f1": lambda: metrics.f1_score(labels, called, average="macro"),
        }[name]()
    )


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"excess_loss", "calibration_error"}))
def test_every_metric_agrees_with_scikit_learn(name: str) -> None:
    """Ties included, each is what the reference implementation says."""
    labels, p = drawn(11)
    assert METRICS[name].value(of(labels, p)) == pytest.approx(oracle(name, labels, p))


@pytest.mark.parametrize("name", ["auc", "log_loss", "excess_loss", "brier", "accuracy", "macro_f1"])
def test_two_classes_are_measured_as_one_probability_is(name: str) -> None:
    """One name means the same for both forms: of two classes, that which is 1 is the second's probability."""
    labels, p = of_two(4)
    p = np.where(p == 0.5, 0.49, p)  # of equals, the first is called; a probability at the threshold is a yes
    declared = Declaration("classification", "late", ("0", "1"))
    both = scores.sample(declared, labels.astype(str), np.column_stack([1 - p, p]))
    one = scores.REGISTRY["binary"][name]
    assert scores.of(declared)[name].value(both) == pytest.approx(one.value(of_one(labels, p)))


def test_the_calibration_error_is_that_of_what_is_called() -> None:
    """Rows called with 0.9 that are right in 7 of 10 are off by 0.2, whatever the other classes get."""
    p = np.tile([0.9, 0.06, 0.04], (10, 1))
    labels = ["bad"] * 7 + ["good"] * 3
    assert METRICS["calibration_error"].value(of(labels, p)) == pytest.approx(0.2)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_influence_is_what_a_rows_weight_does(name: str) -> None:
    """Giving one row twice moves a metric by its influence / n, and influences have the mean 0."""
    labels, p = drawn(3, rows=3000)
    p = p**2 / (p**2).sum(axis=1, keepdims=True)  # too sure: no gap of the calibration is about 0
    before, influences = METRICS[name].seen(of(labels, p))
    assert influences.mean() == pytest.approx(0, abs=1e-9)
    for row in range(0, 3000, 500):
        twice = of(np.append(labels, labels[row]), np.append(p, p[[row]], axis=0))
        moved = METRICS[name].value(twice) - before
        assert moved * 3001 == pytest.approx(influences[row], rel=0.03, abs=0.03)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"calibration_error"}))
def test_an_interval_is_as_wide_as_a_paired_bootstraps(name: str) -> None:
    """The closed form is within a fifth of the width that resampling rows gives, for every metric."""
    labels, p = drawn(5, rows=2000)
    random = np.random.default_rng(6)
    other = p * np.exp(random.normal(scale=0.4, size=p.shape))
    other /= other.sum(axis=1, keepdims=True)
    metric = METRICS[name]
    found = paired.difference(metric, of(labels, p), of(labels, other), confidence=0.95)
    draws = []
    for _ in range(200):
        rows = random.integers(0, len(p), len(p))
        draws.append(metric.value(of(labels[rows], p[rows])) - metric.value(of(labels[rows], other[rows])))
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.2)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_equal_predictions_do_not_differ(name: str) -> None:
    """A candidate that predicts what production does has 0 inside its interval; no share is known exactly."""
    labels, p = drawn(1)
    found = paired.difference(METRICS[name], of(labels, p), of(labels, p), confidence=0.95)
    assert found.low <= 0 <= found.high
    assert (found.high - found.low > 1e-6) is (METRICS[name].counted is not None)


def test_an_absent_class_is_nan_where_it_counts() -> None:
    """A mean over classes of which one is not among the labels does not exist; a mean over rows does."""
    labels, p = drawn(2)
    kept = labels != "fair"
    rows = of(labels[kept], p[kept])
    assert all(math.isnan(METRICS[name].value(rows)) for name in ("auc", "recall", "macro_f1"))
    assert math.isfinite(METRICS["log_loss"].value(rows))


def test_a_class_that_is_never_called_has_no_precision() -> None:
    """Not 0 and not 1: NaN, while its F1 is 0."""
    labels, p = drawn(2)
    p = np.where(np.arange(3) == 1, 0.0, p + 0.01)
    assert math.isnan(METRICS["precision"].value(of(labels, p)))
    assert 0 < METRICS["macro_f1"].value(of(labels, p)) < 1


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(CLASSES), st.tuples(*[st.floats(0.0, 1.0)] * 3)), min_size=1, max_size=40
    ),
    name=st.sampled_from(sorted(METRICS)),
)
def test_a_metric_is_a_number_or_nan_whatever_the_rows(rows: list[Any], name: str) -> None:
    """No rows make a metric raise; shares and areas stay between 0 and 1."""
    p = np.array([row[1] for row in rows]) + 1e-9
    found = METRICS[name].value(of([row[0] for row in rows], p / p.sum(axis=1, keepdims=True)))
    if name not in ("log_loss", "excess_loss"):
        assert math.isnan(found) or -1e-12 <= found <= 1 + 1e-12


@pytest.mark.parametrize(
    ("labels", "p", "told"),
    [
        (["bad", "ugly"], np.full((2, 3), 1 / 3), "labels that are no class: ugly"),
        (["bad", "good"], np.full((2, 2), 1 / 2), "must be of one length"),
        (["bad", "good"], np.full(2, 1 / 2), "must be of one length"),
        (["bad"], np.full((2, 3), 1 / 3), "must be of one length"),
    ],
)
def test_what_was_not_declared_is_refused(labels: Any, p: Any, told: str) -> None:
    """A label that is no class, and another number of probabilities than there are classes, raise."""
    with pytest.raises(ValueError, match=told):
        of(labels, p)
