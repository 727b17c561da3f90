"""How good predicted probabilities are, and how sure one can be of a difference between two sets.

All take `labels` (0 or 1) and `probabilities` as arrays of shape [n] and return plain floats; NaN
where the number does not exist (one class only, no rows), which `core.gate` turns into ERROR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z99 = 2.5758293035489004  # two-sided 99%


def _ranks(values: Floats) -> Floats:
    """Return mid-ranks from 1: ties share the mean of their places."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    middle: Floats = (last - (counts - 1) / 2.0)[inverse]
    return middle


def _split(labels: Any, probabilities: Any) -> tuple[Floats, Floats]:
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(probabilities, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"labels {truth.shape} and probabilities {values.shape} must be of one length")
    return values[truth], values[~truth]


def auc(labels: Any, probabilities: Any) -> float:
    """Return the area under the ROC curve (Mann-Whitney, ties count half)."""
    positive, negative = _split(labels, probabilities)
    both = np.concatenate([positive, negative])
    if not (len(positive) and len(negative) and np.isfinite(both).all()):
        return math.nan
    ranks = _ranks(both)[: len(positive)]
    return float((ranks.mean() - (len(positive) + 1) / 2.0) / len(negative))


def row_losses(labels: Any, probabilities: Any) -> Floats:
    """Return each row's log loss in nats; probabilities are clipped at 1e-15."""
    truth = np.asarray(labels).astype(bool)
    values = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-15, 1 - 1e-15)
    result: Floats = -np.log(np.where(truth, values, 1 - values))
    return result


def log_loss(labels: Any, probabilities: Any) -> float:
    """Return the mean log loss in nats."""
    losses = row_losses(labels, probabilities)
    return float(losses.mean()) if len(losses) else math.nan


def calibration_error(labels: Any, probabilities: Any, bins: int = 20) -> float:
    """Return the expected calibration error over bins of equal width: Σ share·|mean p − rate|."""
    truth = np.asarray(labels, dtype=np.float64)
    values = np.asarray(probabilities, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        return math.nan
    place = np.clip((values * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(place, weights=values - truth, minlength=bins)
    return float(np.abs(gaps).sum() / len(values))


def auc_difference(labels: Any, candidate: Any, baseline: Any) -> tuple[float, float]:
    """Return a 99% interval of auc(candidate) − auc(baseline) on the same rows.

    DeLong's paired variance by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 21, 2014).
    """
    parts = [_split(labels, candidate), _split(labels, baseline)]
    positives, negatives = len(parts[0][0]), len(parts[0][1])
    if positives < 2 or negatives < 2:
        return math.nan, math.nan
    by_positive, by_negative = [], []
    for positive, negative in parts:
        ranks = _ranks(np.concatenate([positive, negative]))
        by_positive.append((ranks[:positives] - _ranks(positive)) / negatives)
        by_negative.append(1.0 - (ranks[positives:] - _ranks(negative)) / positives)
    over_positive = by_positive[0] - by_positive[1]
    over_negative = by_negative[0] - by_negative[1]
    middle = float(over_positive.mean())
    variance = float(over_positive.var(ddof=1) / positives + over_negative.var(ddof=1) / negatives)
    return middle - Z99 * math.sqrt(variance), middle + Z99 * math.sqrt(variance)


def loss_difference(labels: Any, candidate: Any, baseline: Any) -> tuple[float, float]:
    """Return a 99% interval of log_loss(candidate) − log_loss(baseline) on the same rows, row by row."""
    gaps = row_losses(labels, candidate) - row_losses(labels, baseline)
    if len(gaps) < 2:
        return math.nan, math.nan
    middle, spread = float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(len(gaps)))
    return middle - Z99 * spread, middle + Z99 * spread


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value with at least `share` of them at or below it."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else math.nan
