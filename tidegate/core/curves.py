"""What a person looks at to judge predictions, as charts: which ones, the kind of prediction says.

Each takes several sets of predictions of the same rows, by name, and gives each a series of at most `POINTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tidegate.core import scores
from tidegate.core.exhibits import Cell, Chart, Series, Table
from tidegate.core.scores import Sample, multiclass, ranking, regression

POINTS = 40
BINS = 20
DEEPEST = 20  # rows of a ranking's group
Sets = Mapping[str, Sample]


def charts(sets: Sets, classes: Sequence[str] = (), bins: int = BINS) -> tuple[Chart, ...]:
    """Return the charts of predictions of one kind; none of no rows. `classes` name several classes."""
    first = next(iter(sets.values()), None)
    if first is None or not len(first):
        return ()
    if first.kind == "binary":
        return _of_a_probability(sets, bins)
    if first.kind == "multiclass":
        return _of_classes(sets, classes, bins)
    return _of_numbers(sets, bins) if first.kind == "regression" else _of_an_order(sets)


def confusion(rows: Sample, classes: Sequence[str]) -> Table:
    """Return how many rows of each class are called which: a row of the table for each label."""
    called, size = multiclass.called(rows).astype(int), len(classes)
    places = rows.labels.astype(int) * size + called
    counts = np.bincount(places, minlength=size * size).reshape(size, size)
    cells: list[tuple[Cell, ...]] = [
        (name, *(float(count) for count in row)) for name, row in zip(classes, counts, strict=True)
    ]
    return Table("What is called what", ("label", *(f"called {name}" for name in classes)), tuple(cells))


# ------------------------------------------------------------ probabilities
def _of_a_probability(sets: Sets, bins: int) -> tuple[Chart, ...]:
    truth = {name: (one.labels, one.values) for name, one in sets.items()}
    return (
        _roc("ROC on the holdout", truth),
        _calibration("Calibration on the holdout", truth, bins, "mean probability", "rate"),
        _distribution("Share of rows by probability", truth, bins),
    )


def _of_classes(sets: Sets, classes: Sequence[str], bins: int) -> tuple[Chart, ...]:
    each = {name: multiclass.each(one) for name, one in sets.items()}
    rocs = [
        _roc(
            f"ROC on the holdout, {label} against the others",
            {name: (of[k][0], of[k][2]) for name, of in each.items()},
        )
        for k, label in enumerate(classes)
    ]
    top = {name: (multiclass.right(one), multiclass.top(one)) for name, one in sets.items()}
    return (
        *rocs,
        _calibration("Calibration on the holdout", top, bins, "mean probability of what is called", "right"),
        _distribution("Share of rows by the probability of what is called", top, bins),
    )


Pairs = Mapping[str, tuple[Any, Any]]  # name of a set → labels as 0 and 1, values


def _roc(title: str, pairs: Pairs) -> Chart:
    """Return true positive rates at evenly spaced false positive rates, so that the sets share their x."""
    found = []
    for name, (truth, values) in pairs.items():
        order = np.argsort(-values, kind="stable")
        truth, values = truth[order], values[order]
        ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # ties are one step
        caught = np.concatenate([[0.0], np.cumsum(truth)[ends]]) / max(truth.sum(), 1)
        alarms = np.concatenate([[0.0], np.cumsum(1 - truth)[ends]]) / max((1 - truth).sum(), 1)
        x = np.linspace(0, 1, POINTS)
        found.append(Series(name, _rounded(x), _rounded(np.interp(x, alarms, caught))))
    return Chart(title, "line", tuple(found), "false positive rate", "true positive rate")


def _calibration(title: str, pairs: Pairs, bins: int, x_title: str, y_title: str) -> Chart:
    """Return the rate in each bin of equal width that has rows, at the bin's mean probability."""
    found = []
    for name, (truth, values) in pairs.items():
        place = scores.places(values, bins)
        found.append(_means(name, place, values, truth, bins))
    return Chart(title, "line", (*found, Series("perfect", (0.0, 1.0), (0.0, 1.0))), x_title, y_title)


def _distribution(title: str, pairs: Pairs, bins: int) -> Chart:
    middles = _rounded((np.arange(bins) + 0.5) / bins)
    found = [
        Series(
            name, middles, _rounded(np.bincount(scores.places(values, bins), minlength=bins) / len(values))
        )
        for name, (_, values) in pairs.items()
    ]
    return Chart(title, "bar", tuple(found), "probability", "share")


# ------------------------------------------------------------ numbers
def _of_numbers(sets: Sets, bins: int) -> tuple[Chart, ...]:
    known = np.concatenate([[one.labels.min(), one.labels.max()] for one in sets.values()])
    ends = (float(known.min()), float(known.max()))
    calibration = [
        _means(name, _quantile_bins(one.values, bins), one.values, one.labels, bins)
        for name, one in sets.items()
    ]
    errors = {name: regression.errors(one) for name, one in sets.items()}
    return (
        Chart(
            "Label by prediction on the holdout",
            "line",
            (*calibration, Series("perfect", _rounded(ends), _rounded(ends))),
            "mean prediction",
            "mean label",
        ),
        _histogram("Share of rows by error", errors, bins),
        Chart(
            "How large absolute errors are",
            "line",
            tuple(_quantiles(name, np.abs(values)) for name, values in errors.items()),
            "absolute error at most",
            "share of rows",
        ),
    )


def _quantile_bins(values: Any, bins: int) -> Any:
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    return np.searchsorted(edges, values, side="right")


def _histogram(title: str, errors: Mapping[str, Any], bins: int) -> Chart:
    """Return shares in common bins, whose outer ones hold the one row in a hundred that is further out."""
    every = np.concatenate(list(errors.values()))
    low, high = np.quantile(every, (0.005, 0.995))
    edges = np.linspace(low, high, bins + 1) if high > low else np.array([low - 0.5, low + 0.5])
    middles = (edges[:-1] + edges[1:]) / 2
    found = []
    for name, values in errors.items():
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        found.append(Series(name, _rounded(middles), _rounded(counts / len(values))))
    return Chart(title, "bar", tuple(found), "prediction − label", "share")


def _quantiles(name: str, values: Any) -> Series:
    shares = np.linspace(0, 1, POINTS)
    return Series(name, _rounded(np.quantile(values, shares)), _rounded(shares))


# ------------------------------------------------------------ orders
def _of_an_order(sets: Sets) -> tuple[Chart, ...]:
    deepest = min(DEEPEST, max(int(np.bincount(one.groups).max()) for one in sets.values()))
    tops = range(1, deepest + 1)
    first = {name: ranking.reciprocal_ranks(one) for name, one in sets.items()}
    return (
        Chart(
            "NDCG of a group's first rows",
            "line",
            tuple(
                Series(name, tuple(map(float, tops)), _rounded([_gain(one, top) for top in tops]))
                for name, one in sets.items()
                if ranking.any_good(one).any()
            ),
            "first rows",
            "mean NDCG",
        ),
        Chart(
            "Groups with a good row among the first",
            "line",
            tuple(
                Series(name, tuple(map(float, tops)), _rounded([(ranks >= 1 / top).mean() for top in tops]))
                for name, ranks in first.items()
            ),
            "first rows",
            "share of groups",
        ),
    )


def _gain(rows: Sample, top: int) -> float:
    return float(np.nanmean(ranking.ndcg(rows, top)))


# ------------------------------------------------------------ both
def _means(name: str, place: Any, x: Any, y: Any, bins: int) -> Series:
    """Return the mean of y at the mean of x, of each bin that has rows."""
    rows = np.bincount(place, minlength=bins)
    kept = rows > 0
    return Series(
        name,
        _rounded(np.bincount(place, x, bins)[kept] / rows[kept]),
        _rounded(np.bincount(place, y, bins)[kept] / rows[kept]),
    )


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
