"""Two sets of predictions of the same rows: how sure one can be of a metric's difference.

Intervals are of candidate − production. Those of areas and means are closed forms (DeLong's paired variance,
and that of a paired mean): the difference's influences (`core.scores`) over n, and a normal quantile. The
calibration error has corners where a bin's gap is 0, so it is resampled (`_bootstrap`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from tidegate.core import scores
from tidegate.core.scores import Floats, Metric, Sample

DRAWS = 2000
AT_THE_MARGIN = 1000  # times the rows there are: beyond that, no number of rows is worth naming


@dataclass(frozen=True)
class Difference:
    """A metric of both, and the interval of candidate − production; NaN where there is none."""

    metric: Metric
    candidate: float
    production: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """The interval's two ends."""
        return self.low, self.high


def each(confidence: float, comparisons: int) -> float:
    """Return the confidence of each of several intervals that hold all at once with `confidence`.

    Bonferroni: the chance to miss is split evenly. Raises ValueError for what is no confidence.
    """
    if not 0.5 <= confidence < 1 or comparisons < 1:
        raise ValueError(f"a confidence of {confidence} over {comparisons} comparisons means nothing")
    return 1 - (1 - confidence) / comparisons


def quantile(confidence: float) -> float:
    """Return how many standard errors a two-sided interval of this confidence reaches to each side."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def difference(
    metric: Metric,
    labels: Any,
    candidate: Any,
    production: Any,
    *,
    confidence: float,
    threshold: float = 0.5,
    seed: int = 1,
) -> Difference:
    """Return a metric of both sets of predictions and the interval of their difference, row by row."""
    truth, mine = scores.arrays(labels, candidate)
    _, theirs = scores.arrays(labels, production)
    both = [metric.value(truth, values, threshold) for values in (mine, theirs)]
    if len(truth) < 2 or not all(map(math.isfinite, both)):
        return Difference(metric, both[0], both[1], math.nan, math.nan)
    if metric.method == "paired bootstrap":
        low, high = _bootstrap(truth, mine, theirs, confidence, seed)
        return Difference(metric, both[0], both[1], low, high)
    samples = [(truth, values, threshold) for values in (mine, theirs)]
    gap = metric.influence(samples[0]) - metric.influence(samples[1])
    middle, reach = both[0] - both[1], quantile(confidence) * _error(metric, gap, samples)
    return Difference(metric, both[0], both[1], middle - reach, middle + reach)


def apart(
    metric: Metric, inside: tuple[Any, Any], outside: tuple[Any, Any], *, confidence: float, threshold: float
) -> Difference:
    """Return a metric of some rows beside that of other rows; each is (labels, probabilities).

    The two have no row in common, so their variances add.
    """
    found, variance = [], 0.0
    for labels, probabilities in (inside, outside):
        truth, values = scores.arrays(labels, probabilities)
        found.append(metric.value(truth, values, threshold))
        if len(truth) < 2 or not math.isfinite(found[-1]):
            variance = math.nan
            continue
        sample = (truth, values, threshold)
        variance += _error(metric, metric.influence(sample), [sample]) ** 2
    middle, reach = found[0] - found[1], quantile(confidence) * math.sqrt(variance)
    return Difference(metric, found[0], found[1], middle - reach, middle + reach)


def _error(metric: Metric, influences: Floats, samples: list[Sample]) -> float:
    """Return a standard error; that of a share counts one row more that would differ.

    Two models that called no row differently are not known to be equal: as in Agresti and Min (Statistics
    in Medicine 24, 2005), half a row is added to each side.
    """
    rows = len(influences)
    variance = float(influences.var(ddof=1)) / rows
    if metric.counted:
        variance += 1.0 / min(metric.counted(sample) for sample in samples) ** 2
    return math.sqrt(variance)


def _bootstrap(
    truth: Floats, candidate: Floats, production: Floats, confidence: float, seed: int
) -> tuple[float, float]:
    """Return the interval of calibration_error(candidate) − calibration_error(production).

    The paired multiplier bootstrap: rows are reweighted with normal noise, the same for both sets, and both
    errors computed anew. They depend on the rows only by the sums of their bins, whose draws are normal
    with the covariance of the rows' contributions: so they are drawn from that directly, which is exact
    and takes milliseconds. The interval is the basic one (twice the estimate less the draws' quantiles):
    a resampled |gap| is larger than the gap itself by about as much as the gap is larger than the truth.
    """
    bins, rows = scores.BINS, len(truth)
    where = [scores.places(values, bins) for values in (candidate, production)]
    gaps = [values - truth for values in (candidate, production)]
    sums = np.concatenate([np.bincount(p, g, bins) for p, g in zip(where, gaps, strict=True)]) / rows
    joint = np.bincount(where[0] * bins + where[1], gaps[0] * gaps[1], bins * bins).reshape(bins, bins)
    own = [np.diag(np.bincount(p, g * g, bins)) for p, g in zip(where, gaps, strict=True)]
    second = np.block([[own[0], joint], [joint.T, own[1]]]) / rows
    values, vectors = np.linalg.eigh((second - np.outer(sums, sums)) / rows)
    noise = np.random.default_rng(seed).normal(size=(DRAWS, 2 * bins)) * np.sqrt(np.clip(values, 0, None))
    drawn = np.abs(sums + noise @ vectors.T)
    draws = drawn[:, :bins].sum(axis=1) - drawn[:, bins:].sum(axis=1)
    middle = np.abs(sums[:bins]).sum() - np.abs(sums[bins:]).sum()
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(2 * middle - high), float(2 * middle - low)


def more_rows(found: Difference, margin: float, rows: int) -> int | None:
    """Return how many more rows it takes to tell whether the difference is within the margin, or None.

    An interval's width goes with 1/√rows. It has to end before the margin, or begin beyond it, should the
    difference stay as it was seen. None: it was seen (nearly) at the margin, where no number of rows tells.
    """
    middle = found.candidate - found.production
    worse = -middle if found.metric.higher_is_better else middle
    low, high = (-found.high, -found.low) if found.metric.higher_is_better else found.interval
    distance = abs(margin - worse)
    half = (high - worse) if worse <= margin else (worse - low)
    if not (math.isfinite(distance) and math.isfinite(half)) or half > distance * math.sqrt(AT_THE_MARGIN):
        return None
    return max(math.ceil(rows * (half / distance) ** 2) - rows, 1) if distance else None


def hint(found: Difference, margin: float, rows: int) -> str:
    """Return what it would take to tell, for a person."""
    more = more_rows(found, margin, rows)
    if more is None:
        return "it sits at the margin, so no number of rows would tell"
    return f"if it stays like this, about {_round(more):,} more rows (now {rows:,}) would tell"


def _round(count: int) -> int:
    """Return a count rounded up to two digits: it is an estimate."""
    step: int = 10 ** max(len(str(count)) - 2, 0)
    return math.ceil(count / step) * step
