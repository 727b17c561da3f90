"""What every metric is made of: rows that were predicted, a metric of them, and each unit's influence on it.

A metric's *influence* is, for each unit, how far the metric would move were that unit's weight raised (times
n): the influences' mean is 0, and their variance / n is the metric's own. For an area under the ROC curve
this is DeLong's variance; for means the usual one. The difference of two sets of predictions of the same
units has the difference of their influences, so every comparison is paired (`core.paired`). A unit is a row;
of a ranking it is a group, since rows that are ranked together are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kind = Literal["binary", "multiclass", "regression", "ranking"]
Seen = tuple[float, Floats]  # a metric, and each unit's influence on it
NORMAL = NormalDist()
FOLDED = 1 / (math.sqrt(2) - 1)  # (0.80 / 0.33, above all: √(2/π) σ over √(4/π) σ − √(2/π) σ)


@dataclass(frozen=True)
class Sample:
    """Rows with what was predicted of them; make one by `scores.sample`.

    `labels` [n] are 0.0 or 1.0; the class's place, from 0; a number; or how good a row is, from 0. `values`
    are [n], or [n, K] of K classes. `threshold` is from where a probability is a yes. `groups` [n] are codes
    from 0 of what is ranked together. `scale` is what `relative_error` divides by, where these rows are
    a part of others: NaN takes their own.
    """

    kind: Kind
    labels: Floats
    values: Floats
    threshold: float = 0.5
    groups: Any = None
    scale: float = math.nan

    def __len__(self) -> int:
        """Return the number of units: rows, or a ranking's groups."""
        if self.groups is None:
            return len(self.labels)
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    @property
    def units(self) -> str:
        """What is counted, and what intervals are over."""
        return "rows" if self.groups is None else "groups"

    def at(self, mask: Any) -> Sample:
        """Return the rows that a mask marks."""
        groups = None if self.groups is None else np.unique(self.groups[mask], return_inverse=True)[1]
        return replace(self, labels=self.labels[mask], values=self.values[mask], groups=groups)

    @property
    def support(self) -> dict[str, int]:
        """How many rows each label has, by its number; of numbers and rankings none."""
        if self.kind not in ("binary", "multiclass"):
            return {}
        classes = 2 if self.kind == "binary" else self.values.shape[1]
        counts = np.bincount(self.labels.astype(np.intp), minlength=classes)
        return {str(place): int(count) for place, count in enumerate(counts)}


@dataclass(frozen=True)
class Metric:
    """One metric. `limit` kinds: larger is better → at least, else at most; `method` names its interval.

    `counted` is how many units a share is of (None: not a share), so that a share that happens to be the
    same in both does not count as known exactly. `bias` is the most by which chance alone raises it.
    """

    name: str
    higher_is_better: bool
    look: Callable[[Sample], Seen] = field(repr=False)
    unit: str = ""
    method: str = "paired rows"
    units: Literal["rows", "groups"] = "rows"
    classes: bool = False  # whether it needs rows of each label
    counted: Callable[[Sample], float] | None = field(default=None, repr=False)
    bias: Callable[[Sample], float] | None = field(default=None, repr=False)

    def value(self, sample: Sample) -> float:
        """Return the metric; NaN where it does not exist."""
        return self.seen(sample)[0]

    def seen(self, sample: Sample) -> Seen:
        """Return the metric and each unit's influence; NaN and zeros where it does not exist."""
        none = math.nan, np.zeros(len(sample))
        if not self.exists(sample):
            return none
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = self.look(sample)
        return found if math.isfinite(found[0]) else none

    def exists(self, sample: Sample) -> bool:
        """Tell whether there are finite labels and predictions, of each label where that is needed."""
        if not len(sample) or not (np.isfinite(sample.values).all() and np.isfinite(sample.labels).all()):
            return False
        return not self.classes or min(sample.support.values()) > 0


@dataclass(frozen=True)
class Mean:
    """The mean of `of` over the units that `among` weighs: a plain mean, or a ratio of two sums."""

    of: Callable[[Sample], Floats]
    among: Callable[[Sample], Floats] | None = None

    def __call__(self, sample: Sample) -> Seen:
        values = self.of(sample)
        return ratio(values, self._inside(sample, values))

    def counted(self, sample: Sample) -> float:
        """Return how many units it is a mean of."""
        return float(self._inside(sample, self.of(sample)).sum())

    def _inside(self, sample: Sample, values: Floats) -> Floats:
        return np.ones(len(values)) if self.among is None else self.among(sample)


def ratio(values: Floats, weights: Floats) -> Seen:
    """Return the weighted mean of values and each one's influence on it; NaN for no weight."""
    known = np.where(weights > 0, values, 0.0)
    mean = (known * weights).sum() / weights.sum()
    return float(mean), weights * (known - mean) / weights.mean()


def average(seen: list[Seen]) -> Seen:
    """Return the plain mean of several numbers with their influences."""
    value = float(np.mean([one for one, _ in seen]))
    return value, np.mean([influences for _, influences in seen], axis=0)


def folds(gaps: Floats, errors: Floats) -> float:
    """Return by how much chance alone may raise a sum of absolute values, given each one's standard error.

    An absolute gap is above the true one on average. With its standard error σ and no true gap that is
    0.80 σ, of which the folded normal's mean at the gap that was seen, less that gap, shows 0.33 σ on
    average; so that is taken 2.4 times. With a true gap it is too much: it is the most that there may be.
    """
    found = [
        2 * (error * NORMAL.pdf(gap / error) - gap * NORMAL.cdf(-gap / error))
        for gap, error in zip(np.abs(gaps).tolist(), errors.tolist(), strict=True)
        if error > 0
    ]
    return FOLDED * math.fsum(found)
