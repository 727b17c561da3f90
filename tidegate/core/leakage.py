"""What each column alone tells of the label: one that tells too much was not known in time, or is the label.

The mean label of each value (numbers in bins) is learnt on one half of the rows and ranks the other half, and
the other way round; the number is the mean of the two concordances: of two rows with different labels, how
often the one with the greater label is ranked higher, ties counted as a half. For labels 0 and 1 that is the
area under the ROC curve; for classes the mean of one class against the others; a ranking's rows are compared
within their groups, of which each half has its own. It goes from 0.5 (nothing) to 1 for every task. What was
never seen together can't be told, so a column of names scores 0.5 and not 1; a column that tells the label by
being empty, or by lying in the middle, is seen as well as one that grows with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 50  # of a number, of equal counts
PRIOR = 10.0  # rows' worth of the overall mean that each value's own mean is drawn towards

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


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


def targets(labels: Any, classes: Sequence[str] = ()) -> list[Floats]:
    """Return what is to be told, as numbers [n]: the label, or for classes one against the others, each.

    An unknown label, or one of no class, is NaN.
    """
    if not classes:
        return [np.asarray(labels, dtype=np.float64)]
    names = np.array([str(one) for one in np.asarray(labels, dtype=object).tolist()], dtype=object)
    known = np.isin(names, list(classes))
    return [np.where(known, names == one, math.nan).astype(np.float64) for one in classes]


def alone(labels: Any, values: Any, seed: int, *, classes: Sequence[str] = (), groups: Any = None) -> float:
    """Return how well one column ranks the label by itself, from 0.5 (not at all) to 1.

    `labels` are numbers, or of `classes`; `groups` (a ranking's) are what rows are compared within. Halves
    are drawn by `seed`. NaN where a label is unknown or a half has one label only.
    """
    if not len(labels):
        return math.nan
    wanted, numbers = targets(labels, classes), codes(values)
    if not all(np.isfinite(one).all() for one in wanted):
        return math.nan
    within = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if within is not None:  # what counts is how a row differs from the others of its group
        wanted = [one - (np.bincount(within, one) / np.bincount(within))[within] for one in wanted]
    unit = np.arange(len(numbers)) if within is None else within
    drawn = np.random.default_rng(seed).permutation(int(unit.max()) + 1)
    first = drawn[unit] < len(drawn) // 2
    found = [
        _learnt(one, numbers, within, *halves)
        for one in wanted
        for halves in ((first, ~first), (~first, first))
    ]
    return max(0.5, float(np.mean(found))) if all(map(math.isfinite, found)) else math.nan


def _learnt(truth: Floats, numbers: Codes, within: Codes | None, seen: Any, unseen: Any) -> float:
    """Return the concordance on the unseen rows of the means that the seen ones had."""
    if not seen.any():
        return math.nan
    size = int(numbers.max()) + 1
    count = np.bincount(numbers[seen], minlength=size)
    total = np.bincount(numbers[seen], weights=truth[seen], minlength=size)
    means = (total + PRIOR * truth[seen].mean()) / (count + PRIOR)
    places = None if within is None else within[unseen]
    return concordance(truth[unseen], means[numbers[unseen]], places)


def concordance(labels: Floats, ranked: Floats, groups: Codes | None = None) -> float:
    """Return how often, of two rows with different labels, the greater one is ranked higher; ties are half.

    Rows of one group only are compared, all where there are no groups. NaN where no two labels differ. It is
    (1 + D) / 2 of Somers' D, by Kendall's tau-b, which counts the same pairs.
    """
    if groups is None:
        return 0.5 * (1 + _somers(labels, ranked)[0])
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    found = [_somers(labels[rows], ranked[rows]) for rows in np.split(order, cuts)]
    pairs = sum(count for _, count in found)
    return 0.5 * (1 + sum(d * count for d, count in found if count) / pairs) if pairs else math.nan


def _somers(labels: Floats, ranked: Floats) -> tuple[float, float]:
    """Return Somers' D and the number of pairs of different labels, of which it is the mean."""
    from scipy.stats import kendalltau  # type: ignore[import-untyped]

    pairs, apart = (_untied(one) for one in (labels, ranked))
    if not pairs:
        return math.nan, 0.0
    if not apart:
        return 0.0, pairs
    return float(kendalltau(ranked, labels).statistic) * math.sqrt(apart / pairs), pairs


def _untied(values: Floats) -> float:
    """Return how many pairs of values differ."""
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    total = float(len(values))
    return (total * (total - 1) - float((counts * (counts - 1)).sum())) / 2


def each_alone(
    labels: Any, columns: Mapping[str, Any], seed: int, *, classes: Sequence[str] = (), groups: Any = None
) -> dict[str, float]:
    """Return column → `alone`, the most telling first."""
    found = {
        name: alone(labels, values, seed, classes=classes, groups=groups) for name, values in columns.items()
    }
    return dict(sorted(found.items(), key=lambda pair: (-pair[1] if math.isfinite(pair[1]) else -2, pair[0])))
