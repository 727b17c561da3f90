"""What each column alone tells of the label: one that tells too much was not known in time, or is the label.

A rate of the label is learnt for each value (numbers in bins) on one half of the rows and ranks the other
half, and the other way round; the number is the mean of the two areas under the ROC curve. What was never
seen together can't be told, so a column of names scores 0.5 and not 1; a column that tells the label by
being empty, or by lying in the middle, is seen as well as one that grows with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.core import scores

BINS = 50  # of a number, of equal counts
PRIOR = 10.0  # rows' worth of the overall rate that each value's own rate is drawn towards

Codes = NDArray[np.int64]


def codes(values: Any) -> Codes:
    """Return each value's number from 0: the value itself, or the bin of a number that has many values.

    Missing values (None, NaN) have a number of their own.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        names = np.array([str(value) for value in array.tolist()], dtype=object)
        return np.unique(names, return_inverse=True)[1].astype(np.int64)
    numbers = array.astype(np.float64)
    known = np.isfinite(numbers)
    distinct = np.unique(numbers[known])
    if len(distinct) > BINS:
        inner = np.quantile(numbers[known], np.linspace(0, 1, BINS + 1)[1:-1])
        places = np.searchsorted(np.unique(inner), numbers, side="right")
    else:
        places = np.searchsorted(distinct, numbers)
    return np.where(known, places + 1, 0).astype(np.int64)


def alone(labels: Any, values: Any, seed: int) -> float:
    """Return how well one column ranks the label by itself, from 0.5 (not at all) to 1.

    `labels` are 0 or 1; halves are drawn by `seed`. NaN where a half has one class only.
    """
    truth, numbers = np.asarray(labels, dtype=np.float64), codes(values)
    if not len(truth) or not np.isin(truth, (0.0, 1.0)).all():
        return math.nan
    first = np.random.default_rng(seed).permutation(len(truth)) < len(truth) // 2
    found = [_learnt(truth, numbers, half, ~half) for half in (first, ~first)]
    return max(0.5, float(np.mean(found))) if all(map(math.isfinite, found)) else math.nan


def _learnt(truth: NDArray[np.float64], numbers: Codes, seen: Any, unseen: Any) -> float:
    """Return the AUC on the unseen rows of the rates that the seen ones had."""
    if not seen.any():
        return math.nan
    size = int(numbers.max()) + 1
    count = np.bincount(numbers[seen], minlength=size)
    late = np.bincount(numbers[seen], weights=truth[seen], minlength=size)
    rates = (late + PRIOR * truth[seen].mean()) / (count + PRIOR)
    return scores.auc(truth[unseen], rates[numbers[unseen]])


def each_alone(labels: Any, columns: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Return column → `alone`, the most telling first."""
    found = {name: alone(labels, values, seed) for name, values in columns.items()}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1] if math.isfinite(pair[1]) else -2, pair[0])))
