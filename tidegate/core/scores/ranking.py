"""Metrics of an order: labels [n] say how good a row is (0: not at all), values [n] are scores, best first.

Each is a mean over groups; a group in which no row is any good can't be ranked well or badly, and is left
out. Rows of one score are in no order: for `ndcg` they share their places evenly, for the others each counts
as after all its equals, so that one score for every row is no good ranking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.core.scores.metric import Floats, Mean, Metric, Sample

Places = NDArray[np.intp]
TOP = 10  # rows of a group that `ndcg` looks at


@dataclass(frozen=True)
class _Order:
    """A sample's rows in order of group, then score: each one's group, place in it, and block of equals."""

    group: Places
    gain: Floats
    place: Places  # from 0, in the group
    block: Places  # of equal scores, numbered through
    last: Places  # the place of the block's last row
    ends: Places  # of each block, the row that it ends with


def _ordered(sample: Sample, by: Floats) -> _Order:
    order = np.lexsort((-by, sample.groups))
    group: Places = sample.groups[order]
    score: Floats = by[order]
    first = np.concatenate([[True], group[1:] != group[:-1]])
    starts = np.maximum.accumulate(np.where(first, np.arange(len(group)), 0))
    place: Places = (np.arange(len(group)) - starts).astype(np.intp)
    changes = first | np.concatenate([[True], score[1:] != score[:-1]])
    block: Places = (np.cumsum(changes) - 1).astype(np.intp)
    ends = np.concatenate([np.flatnonzero(np.diff(block)), [len(group) - 1]])
    return _Order(group, sample.labels[order], place, block, place[ends][block], ends)


def _sums(sample: Sample, order: _Order, values: Floats) -> Floats:
    found: Floats = np.bincount(order.group, weights=values, minlength=len(sample)).astype(np.float64)
    return found


def gained(sample: Sample, by: Floats, top: int) -> Floats:
    """Return each group's discounted gain of its first rows by a score; equals share theirs."""
    order = _ordered(sample, by)
    discount = np.where(order.place < top, 1 / np.log2(order.place + 2), 0.0)
    shared: Floats = (np.bincount(order.block, discount) / np.bincount(order.block))[order.block]
    return _sums(sample, order, order.gain * shared)


def ndcg(sample: Sample, top: int = TOP) -> Floats:
    """Return each group's gain over that of the best order; NaN where no row is any good."""
    best = gained(sample, sample.labels, top)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = gained(sample, sample.values, top) / best
    return found


def reciprocal_ranks(sample: Sample) -> Floats:
    """Return for each group 1 / the rank of the first row that is any good; 0 where there is none."""
    order = _ordered(sample, sample.values)
    found = np.zeros(len(sample))
    np.maximum.at(found, order.group, np.where(order.gain > 0, 1 / (order.last + 1), 0.0))
    return found


def average_precisions(sample: Sample) -> Floats:
    """Return for each group the mean, over rows that are any good, of the share of such rows up to there."""
    order = _ordered(sample, sample.values)
    good = (order.gain > 0).astype(np.float64)
    through = np.cumsum(good)
    before = through - good  # of all groups; taken off at each group's first row
    at_start = before[np.arange(len(good)) - order.place]
    precision = (through[order.ends][order.block] - at_start) / (order.last + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = _sums(sample, order, good * precision) / _sums(sample, order, good)
    return found


def any_good(sample: Sample) -> Floats:
    """Return 1.0 for the groups with a row that is any good."""
    counts = np.bincount(sample.groups, weights=sample.labels > 0, minlength=len(sample))
    found: Floats = (counts > 0).astype(np.float64)
    return found


def losses(sample: Sample) -> Floats:
    """Return 1 − ndcg of each row's group; 0 where no row is any good."""
    found: Floats = np.nan_to_num(1 - ndcg(sample), nan=0.0)[sample.groups]
    return found


def _metric(name: str, of: Callable[[Sample], Floats]) -> Metric:
    return Metric(name, True, Mean(of, any_good), method="paired groups", units="groups")


METRICS = (
    _metric("ndcg", ndcg),
    _metric("mrr", reciprocal_ranks),
    _metric("map", average_precisions),
)
