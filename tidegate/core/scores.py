"""How good predicted probabilities are: a registry of metrics by name, and how much each row moves one.

All take `labels` (0 or 1) and `probabilities` as arrays of shape [n] and return plain floats; NaN
where the number does not exist (one class only, no rows), which `core.gate` turns into ERROR.

A metric's *influence* is, for each row, how far the metric would move were that row's weight raised
(times n): the influences' mean is 0, and their variance / n is the metric's own. For an area under the ROC
curve this is DeLong's variance; for means the usual one. The difference of two sets of predictions on the
same rows has the difference of their influences, so every comparison is paired (`core.paired`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Sample = tuple[Floats, Floats, float]  # labels as 0.0 and 1.0, probabilities, threshold
Seen = tuple[float, Floats]  # a metric, and each row's influence on it
BINS = 20  # of equal width, of the calibration error
_NORMAL = NormalDist()
_FOLDED = 1 / (math.sqrt(2) - 1)  # (0.80 / 0.33, above all: √(2/π) σ over √(4/π) σ − √(2/π) σ)


def arrays(labels: Any, probabilities: Any) -> tuple[Floats, Floats]:
    """Return both as float arrays; raises ValueError when they are not of one length."""
    truth = np.asarray(labels).astype(bool).astype(np.float64)
    values = np.asarray(probabilities, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"labels {truth.shape} and probabilities {values.shape} must be of one length")
    return truth, values


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


def _auc(sample: Sample) -> Seen:
    truth, values, _ = sample
    placed = placements(truth, *_codes(values))
    positive = truth > 0
    area = placed[positive].mean()
    shares = np.where(positive, positive.mean(), 1 - positive.mean())
    return float(area), (placed - area) / shares


def _codes(values: Floats) -> tuple[Any, int]:
    """Return each row's place among the distinct values, and their number; much quicker than np.unique."""
    order = np.argsort(values)
    ordered = values[order]
    codes = np.empty(len(values), dtype=np.intp)
    codes[order] = np.cumsum(np.concatenate([[0], ordered[1:] > ordered[:-1]]))
    return codes, int(codes[order[-1]]) + 1


def _average_precision(sample: Sample) -> Seen:
    """AP = E[TP(s)/PP(s)] over positives at s; each row moves its own term, and TP and PP of those below."""
    truth, values, _ = sample
    codes, distinct = _codes(values)
    positive = np.bincount(codes, weights=truth, minlength=distinct) / len(truth)
    alarms = np.cumsum(np.bincount(codes, minlength=distinct)[::-1])[::-1] / len(truth)  # at or above
    precision = np.cumsum(positive[::-1])[::-1] / alarms
    up_to = np.cumsum(positive / alarms)[codes]
    weighted = np.cumsum(positive * precision / alarms)[codes]
    mean = precision[codes][truth > 0].mean()
    return float(mean), (truth * (precision[codes] - mean + up_to) - weighted) / truth.mean()


# ------------------------------------------------------------ means over rows
def row_losses(labels: Any, probabilities: Any) -> Floats:
    """Return each row's log loss in nats; probabilities are clipped at 1e-15."""
    truth = np.asarray(labels).astype(bool)
    values = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-15, 1 - 1e-15)
    result: Floats = -np.log(np.where(truth, values, 1 - values))
    return result


def excess_losses(labels: Any, probabilities: Any) -> Floats:
    """Return each row's log loss less what its own probability expects: 0 on average, where that is right."""
    values = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-15, 1 - 1e-15)
    expected = -(values * np.log(values) + (1 - values) * np.log(1 - values))
    result: Floats = row_losses(labels, probabilities) - expected
    return result


def _called(sample: Sample) -> Floats:
    """Return 1.0 for the rows that are called positive: those at or above the threshold."""
    found: Floats = (sample[1] >= sample[2]).astype(np.float64)
    return found


def _right(sample: Sample) -> Floats:
    found: Floats = (_called(sample) == sample[0]).astype(np.float64)
    return found


def _everywhere(sample: Sample) -> Floats:
    return np.ones(len(sample[0]))


@dataclass(frozen=True)
class _Mean:
    """The mean of `of` over the rows where `among` is 1: a plain mean, or a ratio of two counts."""

    of: Callable[[Sample], Floats]
    among: Callable[[Sample], Floats] = _everywhere

    def __call__(self, sample: Sample) -> Seen:
        inside, values = self.among(sample), self.of(sample)
        mean = (values * inside).sum() / inside.sum()
        return float(mean), inside * (values - mean) / inside.mean()

    def counted(self, sample: Sample) -> float:
        return float(self.among(sample).sum())


# ------------------------------------------------------------ calibration
def places(probabilities: Floats, bins: int = BINS) -> Any:
    """Return each row's bin of equal width, from 0."""
    return np.clip((probabilities * bins).astype(int), 0, bins - 1)


def _gaps(truth: Floats, values: Floats, bins: int) -> Floats:
    """Return Σ (probability − label) of each bin, over all rows' number."""
    found: Floats = np.bincount(places(values, bins), weights=values - truth, minlength=bins) / len(values)
    return found


def _calibration_error(sample: Sample) -> Seen:
    """Its influence is that of the sums of the bins, with each bin's sign: too large where a gap may be 0."""
    truth, values, _ = sample
    gaps = _gaps(truth, values, BINS)
    error = np.abs(gaps).sum()
    return float(error), np.sign(gaps)[places(values)] * (values - truth) - error


def _calibration_bias(sample: Sample) -> float:
    """Return by how much chance alone may raise the calibration error.

    A bin's |gap| is above the true one on average. With its standard error σ and no true gap that is 0.80 σ,
    of which the folded normal's mean at the gap that was seen, less that gap, shows 0.33 σ on average; so
    that is taken 2.4 times. With a true gap it is too much: it is the most that there may be.
    """
    truth, values, _ = sample
    rows, place = len(values), places(values)
    gaps = np.abs(_gaps(truth, values, BINS))
    squares = np.bincount(place, weights=(values - truth) ** 2, minlength=BINS) / rows
    errors = np.sqrt(np.maximum(squares - gaps**2, 0) / rows)
    folds = [
        2 * (error * _NORMAL.pdf(gap / error) - gap * _NORMAL.cdf(-gap / error))
        for gap, error in zip(gaps.tolist(), errors.tolist(), strict=True)
        if error > 0
    ]
    return _FOLDED * math.fsum(folds)


# ------------------------------------------------------------ the registry
@dataclass(frozen=True)
class Metric:
    """One metric. `limit` kinds: larger is better → at least, else at most; `method` names its interval.

    `counted` is how many rows a share is of (None: not a share), so that a share that happens to be the
    same in both does not count as known exactly. `bias` is the most by which chance alone raises it.
    """

    name: str
    higher_is_better: bool
    unit: str
    method: str
    look: Callable[[Sample], Seen]
    classes: bool = False  # whether it needs both labels
    counted: Callable[[Sample], float] | None = None
    bias: Callable[[Sample], float] | None = None

    def value(self, labels: Any, probabilities: Any, threshold: float = 0.5) -> float:
        """Return the metric; NaN where it does not exist. Raises ValueError for other lengths."""
        return self.seen(*arrays(labels, probabilities), threshold)[0]

    def seen(self, truth: Floats, values: Floats, threshold: float) -> Seen:
        """Return the metric and each row's influence; NaN and zeros where it does not exist."""
        if not self.exists(truth, values):
            return math.nan, np.zeros(len(truth))
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.look((truth, values, threshold))

    def exists(self, truth: Floats, values: Floats) -> bool:
        """Tell whether there are finite probabilities, of both labels where that is needed."""
        if not len(truth) or not np.isfinite(values).all():
            return False
        return not self.classes or 0 < truth.sum() < len(truth)


def _share(name: str, mean: _Mean, *, classes: bool = False) -> Metric:
    return Metric(name, True, "", "paired rows", mean, classes, mean.counted)


def _mean(name: str, unit: str, of: Callable[[Sample], Floats]) -> Metric:
    return Metric(name, False, unit, "paired rows", _Mean(of))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("auc", True, "", "DeLong", _auc, classes=True),
        Metric("average_precision", True, "", "paired rows", _average_precision, classes=True),
        _mean("log_loss", "nats", lambda sample: row_losses(sample[0], sample[1])),
        _mean("excess_loss", "nats", lambda sample: excess_losses(sample[0], sample[1])),
        _mean("brier", "", lambda sample: (sample[1] - sample[0]) ** 2),
        Metric(
            *("calibration_error", False, "", "paired rows, and the bias of small gaps"),
            _calibration_error,
            bias=_calibration_bias,
        ),
        _share("accuracy", _Mean(_right)),
        _share("recall", _Mean(_called, lambda sample: sample[0]), classes=True),
        _share("precision", _Mean(lambda sample: sample[0], _called), classes=True),
    )
}


def check(
    named: Mapping[str, float], *, at_least: float = -math.inf, known: Collection[str] = METRICS
) -> None:
    """Raise ValueError unless each name is known and each number finite and not below `at_least`."""
    for name, number in named.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            instead = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(sorted(known))}"
            raise ValueError(f"no metric is called `{name}` ({instead})")
        if not math.isfinite(number) or number < at_least:
            wanted = f"a number from {at_least:g}" if math.isfinite(at_least) else "a finite number"
            raise ValueError(f"`{name}: {number}` is not {wanted}")


def auc(labels: Any, probabilities: Any) -> float:
    """Return the area under the ROC curve (Mann-Whitney, ties count half)."""
    return METRICS["auc"].value(labels, probabilities)


def log_loss(labels: Any, probabilities: Any) -> float:
    """Return the mean log loss in nats."""
    return METRICS["log_loss"].value(labels, probabilities)


def calibration_error(labels: Any, probabilities: Any, bins: int = BINS) -> float:
    """Return the expected calibration error over bins of equal width: Σ share·|mean p − rate|."""
    truth, values = arrays(labels, probabilities)
    if not len(values) or not np.isfinite(values).all():
        return math.nan
    return float(np.abs(_gaps(truth, values, bins)).sum())


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value with at least `share` of them at or below it."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else math.nan
