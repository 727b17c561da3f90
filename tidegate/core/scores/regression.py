"""Metrics of numbers: labels and values are [n], both in the label's unit.

`r2` and `relative_error` have no unit: 1 − what is left of the labels' variance, and the mean absolute error
over what it would be if the median were said of every row.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tidegate.core.scores.metric import NORMAL, Floats, Mean, Metric, Sample, Seen, folds

NINETY = 0.9


def errors(sample: Sample) -> Floats:
    """Return prediction − label of each row."""
    found: Floats = sample.values - sample.labels
    return found


def losses(sample: Sample) -> Floats:
    """Return each row's absolute error."""
    return np.abs(errors(sample))


def deviation(labels: Floats) -> float:
    """Return the labels' mean absolute distance from their median; NaN of no rows."""
    return float(np.abs(labels - np.median(labels)).mean()) if len(labels) else math.nan


def _rmse(sample: Sample) -> Seen:
    squares = errors(sample) ** 2
    root = math.sqrt(squares.mean())
    return root, (squares - root**2) / (2 * root) if root else np.zeros(len(squares))


def _r2(sample: Sample) -> Seen:
    squares, apart = errors(sample) ** 2, (sample.labels - sample.labels.mean()) ** 2
    left = squares.mean() / apart.mean()
    return float(1 - left), -(squares - left * apart) / apart.mean()


def _relative(sample: Sample) -> Seen:
    """The median's own movement is left out: it is where the distance is least, so it moves nothing."""
    absolute = losses(sample)
    if math.isfinite(sample.scale):
        found = float(absolute.mean() / sample.scale)
        return found, absolute / sample.scale - found
    apart = np.abs(sample.labels - np.median(sample.labels))
    found = float(absolute.mean() / apart.mean())
    return found, (absolute - found * apart) / apart.mean()


def _bias(sample: Sample) -> Seen:
    off = errors(sample)
    mean = off.mean()
    return float(abs(mean)), np.sign(mean) * (off - mean)


def _bias_of_bias(sample: Sample) -> float:
    off = errors(sample)
    return folds(np.array([off.mean()]), np.array([off.std() / math.sqrt(len(off))]))


def _quantile(share: float) -> Callable[[Sample], Seen]:
    """Return what looks at a quantile of the absolute errors.

    Its influence is (share − [error ≤ quantile]) / density there. The density is Siddiqui's difference
    quotient with the bandwidth of Hall and Sheather (J. R. Stat. Soc. B 50, 1988), made wider where errors
    are equal.
    """

    def look(sample: Sample) -> Seen:
        absolute = losses(sample)
        found = float(np.quantile(absolute, share))
        at, rows = NORMAL.inv_cdf(share), len(absolute)
        shape = 1.5 * NORMAL.pdf(at) ** 2 / (2 * at**2 + 1)
        width = rows ** (-1 / 3) * NORMAL.inv_cdf(0.975) ** (2 / 3) * shape ** (1 / 3)
        low, high, spread = share, share, 0.0
        while spread == 0 and (low > 0 or high < 1):
            low, high, width = max(share - width, 0.0), min(share + width, 1.0), 2 * width
            spread = float(np.subtract(*np.quantile(absolute, (high, low))))
        below = (absolute <= found).astype(np.float64)
        return found, (below.mean() - below) * spread / max(high - low, 1e-12)

    return look


METRICS = (
    Metric("mae", False, Mean(losses)),
    Metric("rmse", False, _rmse),
    Metric("r2", True, _r2),
    Metric("relative_error", False, _relative),
    Metric("bias", False, _bias, method="paired rows, and the bias of a small one", bias=_bias_of_bias),
    Metric("median_absolute_error", False, _quantile(0.5), method="paired rows, by the errors' density"),
    Metric("p90_absolute_error", False, _quantile(NINETY), method="paired rows, by the errors' density"),
)
