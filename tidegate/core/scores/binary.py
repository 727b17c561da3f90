"""Metrics of the probability that a label is 1: labels are 0.0 and 1.0, values [n] from 0 to 1.

The functions of plain arrays are what several classes are measured by, too, one class against the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tidegate.core.scores.metric import Floats, Mean, Metric, Sample, Seen, average, folds, ratio

BINS = 20  # of equal width, of the calibration error


# ------------------------------------------------------------ ranks: AUC and average precision
def placements(truth: Floats, codes: Any, distinct: int) -> Floats:
    """Return for each row the share of the other class that it is ranked rightly against; ties count half.

    `codes` are the rows' places, from 0, among `distinct` sorted values. The mean over either class is the
    area under the ROC curve; rows of one class are DeLong's structural components of it.
    """
    positive = np.bincount(codes, weights=truth, minlength=distinct)
    negative = np.bincount(codes, minlength=distinct) - positive
    right_of_positive = np.cumsum(negative) - negative / 2.0
    right_of_negative = positive.sum() - (np.cumsum(positive) - positive / 2.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(
            truth > 0, right_of_positive[codes] / negative.sum(), right_of_negative[codes] / positive.sum()
        )
    return found


def area(truth: Floats, values: Floats) -> Seen:
    """Return the area under the ROC curve, with DeLong's components as influences."""
    placed = placements(truth, *_codes(values))
    positive = truth > 0
    found = placed[positive].mean()
    shares = np.where(positive, positive.mean(), 1 - positive.mean())
    return float(found), (placed - found) / shares


def _codes(values: Floats) -> tuple[Any, int]:
    """Return each row's place among the distinct values, and their number; much quicker than np.unique."""
    order = np.argsort(values)
    ordered = values[order]
    codes = np.empty(len(values), dtype=np.intp)
    codes[order] = np.cumsum(np.concatenate([[0], ordered[1:] > ordered[:-1]]))
    return codes, int(codes[order[-1]]) + 1


def average_precision(truth: Floats, values: Floats) -> Seen:
    """AP = E[TP(s)/PP(s)] over positives at s; each row moves its own term, and TP and PP of those below."""
    codes, distinct = _codes(values)
    positive = np.bincount(codes, weights=truth, minlength=distinct) / len(truth)
    alarms = np.cumsum(np.bincount(codes, minlength=distinct)[::-1])[::-1] / len(truth)  # at or above
    precision = np.cumsum(positive[::-1])[::-1] / alarms
    up_to = np.cumsum(positive / alarms)[codes]
    weighted = np.cumsum(positive * precision / alarms)[codes]
    mean = precision[codes][truth > 0].mean()
    return float(mean), (truth * (precision[codes] - mean + up_to) - weighted) / truth.mean()


# ------------------------------------------------------------ means over rows
def losses(truth: Floats, values: Floats) -> Floats:
    """Return each row's log loss in nats; probabilities are clipped at 1e-15."""
    clipped = np.clip(values, 1e-15, 1 - 1e-15)
    result: Floats = -np.log(np.where(truth > 0, clipped, 1 - clipped))
    return result


def expected_losses(values: Floats) -> Floats:
    """Return the log loss that each row's own probability expects."""
    clipped = np.clip(values, 1e-15, 1 - 1e-15)
    result: Floats = -(clipped * np.log(clipped) + (1 - clipped) * np.log(1 - clipped))
    return result


def called(sample: Sample) -> Floats:
    """Return 1.0 for the rows that are called positive: those at or above the threshold."""
    found: Floats = (sample.values >= sample.threshold).astype(np.float64)
    return found


def f1(truth: Floats, said: Floats) -> Seen:
    """Return F1 of one class: 2 TP over all that are of it or called so; NaN where there is neither."""
    return ratio(2 * truth * said / np.maximum(truth + said, 1.0), truth + said)


def _macro_f1(sample: Sample) -> Seen:
    truth, said = sample.labels, called(sample)
    return average([f1(truth, said), f1(1 - truth, 1 - said)])


# ------------------------------------------------------------ calibration
def places(probabilities: Floats, bins: int = BINS) -> Any:
    """Return each row's bin of equal width, from 0."""
    return np.clip((probabilities * bins).astype(int), 0, bins - 1)


def _gaps(truth: Floats, values: Floats, bins: int) -> Floats:
    """Return Σ (probability − label) of each bin, over all rows' number."""
    found: Floats = np.bincount(places(values, bins), weights=values - truth, minlength=bins) / len(values)
    return found


def calibration(truth: Floats, values: Floats, bins: int = BINS) -> Seen:
    """Return Σ share·|mean p − rate| over bins of equal width.

    Its influence is that of the sums of the bins, with each bin's sign: too large where a gap may be 0.
    """
    gaps = _gaps(truth, values, bins)
    error = np.abs(gaps).sum()
    return float(error), np.sign(gaps)[places(values, bins)] * (values - truth) - error


def calibration_bias(truth: Floats, values: Floats) -> float:
    """Return by how much chance alone may raise the calibration error."""
    rows, gaps = len(values), _gaps(truth, values, BINS)
    squares = np.bincount(places(values), weights=(values - truth) ** 2, minlength=BINS) / rows
    return folds(gaps, np.sqrt(np.maximum(squares - gaps**2, 0) / rows))


# ------------------------------------------------------------ the registry
def _of(look: Callable[[Floats, Floats], Seen]) -> Callable[[Sample], Seen]:
    return lambda sample: look(sample.labels, sample.values)


def _share(name: str, mean: Mean, *, classes: bool = False) -> Metric:
    return Metric(name, True, mean, classes=classes, counted=mean.counted)


def _fewest(sample: Sample) -> float:
    return float(min(sample.support.values()))


METRICS = (
    Metric("auc", True, _of(area), method="DeLong", classes=True),
    Metric("average_precision", True, _of(average_precision), classes=True),
    Metric("log_loss", False, Mean(lambda s: losses(s.labels, s.values)), "nats"),
    Metric(
        "excess_loss", False, Mean(lambda s: losses(s.labels, s.values) - expected_losses(s.values)), "nats"
    ),
    Metric("brier", False, Mean(lambda s: (s.values - s.labels) ** 2)),
    Metric(
        "calibration_error",
        False,
        _of(calibration),
        method="paired rows, and the bias of small gaps",
        bias=lambda s: calibration_bias(s.labels, s.values),
    ),
    _share("accuracy", Mean(lambda s: (called(s) == s.labels).astype(np.float64))),
    _share("recall", Mean(called, lambda s: s.labels), classes=True),
    _share("precision", Mean(lambda s: s.labels, called), classes=True),
    Metric("macro_f1", True, _macro_f1, classes=True, counted=_fewest),
)
