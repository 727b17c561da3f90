"""Parts of the rows on which a model may be worse than elsewhere: declared ones, and ones found by a search.

A slice is judged by metrics on its rows beside the same metrics on all other rows, and beside production's
on the same rows; `judge` makes all intervals hold at once. Found slices come from `core.slice_search`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidegate.core import gate, paired, scores
from tidegate.core.exhibits import Comparison, Table
from tidegate.core.scores import Sample
from tidegate.core.verdict import Finding, Verdict

MISSING = "missing"
OTHERS = "others"
SHOWN = 6  # names of a group that are written out
WORST = 12  # rows of a table


@dataclass(frozen=True)
class Slice:
    """A part of the rows: `inside` marks its own, `among` those that it is judged on (all, or one half)."""

    name: str
    inside: Any
    among: Any

    @property
    def here(self) -> Any:
        """The rows of the slice that are judged, as a mask."""
        return self.inside & self.among

    @property
    def elsewhere(self) -> Any:
        """The rows beside which it is judged, as a mask."""
        return ~self.inside & self.among


@dataclass(frozen=True)
class Support:
    """How much a slice needs to be judged: units in all (rows, or a ranking's groups), rows of each label."""

    rows: int
    each: int

    def __post_init__(self) -> None:
        """Raise ValueError for a support on which no interval stands."""
        if self.rows < 2 or self.each < 2:
            raise ValueError("a slice needs at least 2 rows, and 2 of each label, to be judged")

    def short(self, rows: Sample) -> str:
        """Return what is too little, of rows like these."""
        labels = f", or {self.each} of one label" if rows.support else ""
        return f"under {self.rows:,} {rows.units}{labels}"

    def holds(self, rows: Sample) -> bool:
        """Tell whether these rows are enough."""
        return len(rows) >= self.rows and min(rows.support.values(), default=self.each) >= self.each


# ------------------------------------------------------------ declared
def texts(values: Any, part: tuple[int, int] | None = None) -> Any:
    """Return a column's values as texts, or as those characters of them; what is missing as `missing`."""
    empty = np.array([value is None or value != value for value in values], dtype=bool)
    found = np.array([str(value) for value in values], dtype=object)
    if part:
        found = np.array([text[part[0] : part[1]] for text in found], dtype=object)
    found[empty] = MISSING
    return found


def binned(values: Any, bins: int) -> Any:
    """Return a numeric column as names of its quantile bins; what is missing as `missing`."""
    numbers = np.asarray(values, dtype=np.float64)
    known = np.isfinite(numbers)
    edges = np.unique(np.quantile(numbers[known], np.arange(1, bins) / bins)) if known.any() else np.array([])
    ends = [None, *edges.tolist(), None]
    names = [_between(low, high) for low, high in itertools.pairwise(ends)]
    found = np.array(names, dtype=object)[np.searchsorted(edges, np.where(known, numbers, 0), side="right")]
    found[~known] = MISSING
    return found


def _between(low: float | None, high: float | None) -> str:
    if low is None:
        return "any" if high is None else f"< {gate.show(high)}"
    return f"≥ {gate.show(low)}" if high is None else f"{gate.show(low)} to {gate.show(high)}"


def of_column(name: str, values: Any, rows: Sample, support: Support) -> tuple[list[Slice], str]:
    """Return a slice for each value that has support, and what is left out.

    Values without support are judged together as one slice, `others`, if that has support and is not all
    there is. A value that every row has makes a slice, too: beside production it can be judged.
    """
    count = len(rows.labels)
    everywhere = np.ones(count, dtype=bool)
    found, small = [], []
    for value in sorted(set(values)):
        inside = values == value
        if support.holds(rows.at(inside)):
            found.append(Slice(f"{name} = {value}", inside, everywhere))
        else:
            small.append(value)
    others = np.isin(values, np.array(small, dtype=object)) if small else ~everywhere
    if small and found and support.holds(rows.at(others)):
        found.append(Slice(f"{name} = {OTHERS} ({listed(small)})", others, everywhere))
        return found, ""
    share = f"{others.sum():,} of {count:,} rows"
    return found, f"{name} = {listed(small)}: {share}" if small else ""


def splits(values: Any, rows: Sample) -> bool:
    """Tell whether a column has several values in one group: then its slices are no parts of a ranking."""
    if rows.groups is None:
        return False
    codes = np.unique(texts(values).astype(str), return_inverse=True)[1]
    return len(np.unique(np.column_stack([rows.groups, codes]), axis=0)) > len(rows)


def unsupported(name: str, short: str) -> Finding:
    """Return the finding that says that a column was looked at and no part of it could be judged."""
    text = f"no slice of {name} can be judged: each has {short}"
    return Finding(f"slices of {name}", Verdict.INCONCLUSIVE, 0.0, 1.0, text)


def listed(names: Sequence[Any]) -> str:
    """Return names as a person reads them; of many, the first."""
    shown = ", ".join(str(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


# ------------------------------------------------------------ judged
@dataclass(frozen=True)
class Judged:
    """One metric of one slice, beside the other rows or beside production; `worst` orders them."""

    slice: str
    rows: int
    metric: str
    finding: Finding
    comparison: Comparison | None

    @property
    def worst(self) -> tuple[int, float]:
        """The verdict's place, then how far the interval's worse end reaches, in margins."""
        shown = self.comparison
        if shown is None or shown.low is None or shown.high is None:
            return len(_ORDER), 0.0
        reach = -shown.low if shown.higher_is_better else shown.high
        return _ORDER.index(self.finding.verdict), reach / max(shown.margin or 0.0, 1e-12)


_ORDER = (Verdict.NOT_APPLICABLE, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAIL)


@dataclass(frozen=True)
class Rows:
    """All rows with both models' predictions; production's are None where there is none to compare with."""

    candidate: Sample
    production: Sample | None = None


def judge(
    slices: Sequence[Slice],
    rows: Rows,
    margins: Mapping[str, float],
    beside_production: Mapping[str, float],
    *,
    support: Support,
    confidence: float,
) -> tuple[list[Judged], list[Judged]]:
    """Return how each slice does beside the other rows, and beside production, which may be nothing.

    A slice that leaves too few other rows for `support` is judged beside production only.

    All intervals together hold with `confidence`: a model that is nowhere worse than its margins has any
    slice called worse in at most 1 − confidence of all cases, however many slices are looked at.
    """
    metrics = scores.REGISTRY[rows.candidate.kind]
    theirs = beside_production if rows.production is not None else {}
    count = len(slices) * (len(margins) + len(theirs))
    if not count:
        return [], []
    each = paired.each(confidence, count)
    candidate = scores.whole(rows.candidate)
    before = scores.whole(rows.production) if rows.production is not None else candidate
    rest, production = [], []
    for one in slices:
        own, other = candidate.at(one.here), candidate.at(one.elsewhere)
        for name, margin in margins.items() if support.holds(other) else ():
            found = paired.apart(metrics[name], own, other, confidence=each)
            rest.append(_beside(one, len(own), found, margin, each, "the other rows"))
        for name, margin in theirs.items():
            found = paired.difference(metrics[name], own, before.at(one.here), confidence=each)
            production.append(_beside(one, len(own), found, margin, each, "production"))
    return rest, production


def _beside(
    one: Slice, rows: int, found: paired.Difference, margin: float, confidence: float, other: str
) -> Judged:
    metric = found.metric
    name = f"{metric.name} of {one.name} against {other}"
    finding, shown = paired.beside(name, found, margin, confidence, rows)
    return Judged(one.name, rows, metric.name, finding, shown)


def worst(judged: Sequence[Judged]) -> list[Judged]:
    """Return what a report tells one by one: each that holds a release back, and the worst by metric."""
    ordered = sorted(judged, key=lambda one: one.worst, reverse=True)
    kept, seen = [], set()
    for one in ordered:
        if one.finding.verdict.holds_back or one.metric not in seen:
            kept.append(one)
        seen.add(one.metric)
    return kept


def table(title: str, judged: Sequence[Judged], beside: str) -> Table:
    """Return the worst slices, one a row, worst first."""
    ordered = sorted(judged, key=lambda one: one.worst, reverse=True)[:WORST]
    columns = ("slice", "rows", "metric", "here", beside, "difference, from", "to", "margin", "verdict")
    cells = []
    for one in ordered:
        shown = one.comparison
        numbers: tuple[float | None, ...] = (None,) * 5
        if shown:
            numbers = (shown.candidate, shown.production, shown.low, shown.high, shown.margin)
        told = shown.word if shown else one.finding.verdict.words
        cells.append((one.slice, float(one.rows), one.metric, *map(_short, numbers), told))
    return Table(title, columns, tuple(cells))


def _short(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
