"""Two sets of predictions of the same rows: how sure one can be of a metric's difference.

Intervals are of candidate − production. Those of areas and means are closed forms (DeLong's paired variance,
and that of a paired mean): the difference's influences (`core.scores`) over n, and a normal quantile. They
are as wide as a paired bootstrap's, which a test holds them to, and the same each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from tidegate.core import gate
from tidegate.core.exhibits import Comparison
from tidegate.core.scores import Floats, Metric, Sample
from tidegate.core.verdict import Finding

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


def difference(metric: Metric, candidate: Sample, production: Sample, *, confidence: float) -> Difference:
    """Return a metric of both sets of predictions and the interval of their difference, unit by unit.

    Both are of the same rows, in one order.
    """
    seen = [metric.seen(one) for one in (candidate, production)]
    both = [value for value, _ in seen]
    if len(candidate) < 2 or not all(map(math.isfinite, both)):
        return Difference(metric, both[0], both[1], math.nan, math.nan)
    samples = [candidate, production]
    error = _error(metric, seen[0][1] - seen[1][1], samples)
    return _between(metric, both, quantile(confidence) * error, samples)


def apart(metric: Metric, inside: Sample, outside: Sample, *, confidence: float) -> Difference:
    """Return a metric of some rows beside that of other rows.

    The two have no unit in common, so their variances add.
    """
    samples = [inside, outside]
    seen = [metric.seen(sample) for sample in samples]
    both = [value for value, _ in seen]
    if not all(len(sample) > 1 for sample in samples) or not all(map(math.isfinite, both)):
        return Difference(metric, both[0], both[1], math.nan, math.nan)
    errors = [_error(metric, one[1], [sample]) for one, sample in zip(seen, samples, strict=True)]
    return _between(metric, both, quantile(confidence) * math.hypot(*errors), samples)


def _between(metric: Metric, both: list[float], reach: float, samples: list[Sample]) -> Difference:
    """Return the interval that reaches so far; further, where chance alone raises one of the two more."""
    low = high = both[0] - both[1]
    if metric.bias:
        raised = metric.bias(samples[0]) - metric.bias(samples[1])
        low, high = low - max(raised, 0.0), high - min(raised, 0.0)
    return Difference(metric, both[0], both[1], low - reach, high + reach)


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


def beside(
    name: str, found: Difference, margin: float, confidence: float, rows: int
) -> tuple[Finding, Comparison | None]:
    """Hold a difference over so many units to its margin; see `gate.beside`. Says how many would tell."""
    return gate.beside(
        name,
        found.candidate,
        found.production,
        found.interval,
        margin,
        higher_is_better=found.metric.higher_is_better,
        confidence=confidence,
        unit=found.metric.unit,
        hint=hint(found, margin, rows),
    )


def more_rows(found: Difference, margin: float, rows: int) -> int | None:
    """Return how many more units it takes to tell whether the difference is within the margin, or None.

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
    return (
        f"if it stays like this, about {_round(more):,} more {found.metric.units} (now {rows:,}) would tell"
    )


def _round(count: int) -> int:
    """Return a count rounded up to two digits: it is an estimate."""
    step: int = 10 ** max(len(str(count)) - 2, 0)
    return math.ceil(count / step) * step
