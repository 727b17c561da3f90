"""The scores that a service counts, in equal bins over the range that its model declares.

No number is taken for a probability: the range is what the answer's Struct promises of the field that `score`
names (`Annotated[float, Meta(ge=0, le=1)]`), else what the model says of its holdout (`range` in its file).
Where neither says anything there are no bins, and what needs them fails by that name.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from tidegate.serving.metrics import Histogram

BINS = 50  # equal ones over the span (core/counts.py says the same)
Span = tuple[float, float]  # the least and the greatest score


class Scores:
    """Scores in `BINS` equal bins over `span`; without one only how many, and their sum.

    One that lies outside counts in the bin at that end, and as one of those `outside`.
    """

    def __init__(self, span: Span | None = None) -> None:
        self.span = span
        self.number = self.outside = 0
        low, high = span or (0.0, 1.0)
        self._low, self._per_bin = low, (high - low) / BINS
        edges = [low + number * self._per_bin for number in range(1, BINS)] if span else []
        # Above the last edge lies only what /metrics calls +Inf.
        self.histogram = Histogram(edges)

    @property
    def counts(self) -> list[int]:
        """How many lie in each bin; none without a span."""
        return self.histogram.counts if self.span else []

    @property
    def width(self) -> float | None:
        """The distance from the least to the greatest score."""
        return self.span[1] - self.span[0] if self.span else None

    def add(self, score: float) -> None:
        """Count one."""
        self.number += 1
        self.histogram.total += score
        if self.span is None:
            self.histogram.counts[0] += 1
            return
        self.outside += not self.span[0] <= score <= self.span[1]
        place = min(max((score - self._low) / self._per_bin, 0.0), BINS - 1)
        self.histogram.counts[int(place)] += 1

    def add_many(self, scores: Any) -> None:
        """Count an array of finite numbers."""
        values = scores.astype(np.float64)
        self.number += len(values)
        self.histogram.total += float(values.sum())
        if self.span is None:
            self.histogram.counts[0] += len(values)
            return
        self.outside += int(((values < self.span[0]) | (values > self.span[1])).sum())
        places = ((np.clip(values, *self.span) - self._low) / self._per_bin).astype(np.int64)
        for place, more in enumerate(np.bincount(np.minimum(places, BINS - 1), minlength=BINS).tolist()):
            self.histogram.counts[place] += more


def promised(response: Any, score: str) -> Span | None:
    """Return the range that an answer's Struct promises of its field `score`; None where it bounds none."""
    if not score or not (isinstance(response, type) and issubclass(response, msgspec.Struct)):
        return None
    shape: Any = msgspec.inspect.type_info(response)
    for field in shape.fields:
        if field.encode_name == score:
            kinds = [_bare(kind) for kind in getattr(_bare(field.type), "types", (field.type,))]
            numeric = (msgspec.inspect.FloatType, msgspec.inspect.IntType)
            ends = [(_first(k.ge, k.gt), _first(k.le, k.lt)) for k in kinds if isinstance(k, numeric)]
            if ends and None not in ends[0]:
                return _span(*ends[0])
    return None


def around(seen: tuple[float, float] | None) -> Span | None:
    """Return a round range well around the scores of a holdout, from its least to its greatest.

    Half as wide again to both sides and rounded outwards to a power of ten, so that a model that is trained
    again mostly declares the same one; never below 0 where no score was.
    """
    if seen is None or _span(*seen) is None:
        return None
    low, high = seen
    step = 10.0 ** math.floor(math.log10(high - low))
    least = step * math.floor((low - (high - low) / 2) / step)
    return _span(max(least, 0.0) if low >= 0 else least, step * math.ceil((high + (high - low) / 2) / step))


def _bare(kind: Any) -> Any:
    """Return a type without what is only said about it: a description."""
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    return kind


def _first(one: float | None, other: float | None) -> float | None:
    return other if one is None else one


def _span(low: float | None, high: float | None) -> Span | None:
    """Return both as a range; None unless they are finite numbers in their order."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
        return None
    return float(low), float(high)
