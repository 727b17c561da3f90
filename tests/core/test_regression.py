"""Metrics of predicted numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import paired, scores
from tidegate.core.scores import Sample
from tidegate.core.task import Declaration

DECLARED = Declaration("regression", "price", "estimate")
METRICS = scores.of(DECLARED)
QUANTILES = {"median_absolute_error", "p90_absolute_error"}


def drawn(seed: int, rows: int = 600, noise: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions that are a little too high."""
    random = np.random.default_rng(seed)
    labels = random.gamma(4.0, 5.0, rows)
    return labels, labels + 0.5 + random.normal(scale=noise, size=rows)


def of(labels: Any, values: Any) -> Sample:
    """Return rows of numbers."""
    return scores.sample(DECLARED, labels, values)


def oracle(name: str, labels: np.ndarray, values: np.ndarray) -> float:
    """What scikit-learn says."""
    from sklearn import metrics

    return float(
        {
            "mae": lambda: metrics.mean_absolute_error(labels, values),
            "rmse": lambda: metrics.root_mean_squared_error(labels, values),
            "r2": lambda: metrics.r2_score(labels, values),
            "relative_error": lambda: 1 - metrics.d2_absolute_error_score(labels, values),
            "bias": lambda: abs(np.mean(values - labels)),
            "median_absolute_error": lambda: metrics.median_absolute_error(labels, values),
            "p90_absolute_error": lambda: np.quantile(np.abs(values - labels), 0.9),
        }[name]()
    )


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_agrees_with_scikit_learn(name: str) -> None:
    """Each is what the reference implementation says, where it has it."""
    labels, values = drawn(11)
    assert METRICS[name].value(of(labels, values)) == pytest.approx(oracle(name, labels, values))


@pytest.mark.parametrize("name", sorted(set(METRICS) - QUANTILES))
def test_an_influence_is_what_a_rows_weight_does(name: str) -> None:
    """Giving one row twice moves a metric by its influence / n, and influences have the mean 0."""
    labels, values = drawn(3, rows=3000)
    before, influences = METRICS[name].seen(of(labels, values))
    assert influences.mean() == pytest.approx(0, abs=1e-9)
    for row in range(0, 3000, 500):
        moved = (
            METRICS[name].value(of(np.append(labels, labels[row]), np.append(values, values[row]))) - before
        )
        assert moved * 3001 == pytest.approx(influences[row], rel=0.03, abs=0.03)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_interval_is_as_wide_as_a_paired_bootstraps(name: str) -> None:
    """The closed form is within a quarter of the width that resampling rows gives, quantiles included."""
    labels, values = drawn(5, rows=4000)
    random = np.random.default_rng(6)
    other = values + random.normal(scale=1.5, size=len(values))
    metric = METRICS[name]
    found = paired.difference(metric, of(labels, values), of(labels, other), confidence=0.95)
    draws = []
    for _ in range(300):
        rows = random.integers(0, len(labels), len(labels))
        pair = [metric.value(of(labels[rows], said[rows])) for said in (values, other)]
        draws.append(pair[0] - pair[1])
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.25)


@pytest.mark.parametrize("name", ["bias", "r2", "relative_error", *sorted(QUANTILES)])
def test_an_interval_covers_as_often_as_it_says(name: str) -> None:
    """Over samples of a population whose difference is known, a 90% interval holds it in at least 84%."""
    labels, values = drawn(8, rows=100_000)
    random = np.random.default_rng(9)
    other = values - 0.45 + random.normal(scale=1.0, size=len(values))  # hardly off on average
    metric = METRICS[name]
    truth = metric.value(of(labels, values)) - metric.value(of(labels, other))
    held = 0
    for _ in range(200):
        rows = random.integers(0, len(labels), 1500)
        found = paired.difference(
            metric, of(labels[rows], values[rows]), of(labels[rows], other[rows]), confidence=0.9
        )
        held += found.low <= truth <= found.high
    assert held >= 168


@pytest.mark.parametrize("name", sorted(METRICS))
def test_equal_predictions_do_not_differ(name: str) -> None:
    """A candidate that predicts what production does has a difference of exactly 0."""
    rows = of(*drawn(1))
    found = paired.difference(METRICS[name], rows, rows, confidence=0.95)
    assert found.low == found.high == 0


def test_a_unit_changes_only_what_has_one() -> None:
    """Prices in cents have a hundred times the error, and the same r2 and relative error."""
    labels, values = drawn(2)
    one, cents = of(labels, values), of(100 * labels, 100 * values)
    for name, metric in METRICS.items():
        times = 1 if name in ("r2", "relative_error") else 100
        assert metric.value(cents) == pytest.approx(times * metric.value(one))


def test_a_part_is_measured_by_the_scale_of_the_whole() -> None:
    """The relative errors of parts are on one scale: their mean, weighted by rows, is that of the whole."""
    whole = scores.whole(of(*drawn(4)))
    low = whole.labels < np.median(whole.labels)
    parts = [whole.at(mask) for mask in (low, ~low)]
    metric = METRICS["relative_error"]
    mean = np.average([metric.value(part) for part in parts], weights=[len(part) for part in parts])
    assert metric.value(whole) == pytest.approx(mean)
    assert metric.value(whole) == pytest.approx(metric.value(replace(whole, scale=math.nan)))


@pytest.mark.parametrize("name", ["r2", "relative_error"])
def test_labels_that_are_all_equal_have_no_share_explained(name: str) -> None:
    """There is nothing to explain: NaN, and not 0, 1 or infinity."""
    assert math.isnan(METRICS[name].value(of(np.ones(50), np.arange(50.0))))


@given(
    rows=st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=40),
    name=st.sampled_from(sorted(METRICS)),
)
def test_a_metric_is_a_number_or_nan_whatever_the_rows(rows: list[Any], name: str) -> None:
    """No rows make a metric raise; errors are not negative, and r2 is at most 1."""
    found, influences = METRICS[name].seen(of([row[0] for row in rows], [row[1] for row in rows]))
    assert math.isnan(found) or (found <= 1 + 1e-9 if name == "r2" else found >= 0)
    assert len(influences) == len(rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_prediction_makes_every_metric_nan(bad: float) -> None:
    """No metric skips a row that it can't use."""
    labels, values = drawn(2)
    values[7] = bad
    assert all(math.isnan(metric.value(of(labels, values))) for metric in METRICS.values())
    assert all(math.isnan(metric.value(of([], []))) for metric in METRICS.values())


@pytest.mark.parametrize("labels", [["dear", "cheap"], [1.0, math.nan]])
def test_a_label_that_is_no_number_is_refused(labels: Any) -> None:
    """Texts and NaN raise; nothing is left out."""
    with pytest.raises(ValueError, match="holds"):
        of(labels, [1.0, 2.0])
