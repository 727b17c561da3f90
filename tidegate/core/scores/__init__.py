"""How good predictions are: metrics by name, chosen by what a model is declared to be (`core.task`).

`of(declaration)` is the registry for a model; one name means the same wherever it is. `sample` brings labels
and predictions together. A metric is NaN where it does not exist (one class only, no rows), which
`core.gate` turns into ERROR. How far each row moves a metric is what comparisons rest on: see `metric`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tidegate.core.scores import binary, multiclass, ranking, regression
from tidegate.core.scores.binary import BINS, places
from tidegate.core.scores.metric import Floats, Kind, Metric, Sample, Seen
from tidegate.core.task import Declaration

REGISTRY: Mapping[Kind, Mapping[str, Metric]] = {
    "binary": {metric.name: metric for metric in binary.METRICS},
    "multiclass": {metric.name: metric for metric in multiclass.METRICS},
    "regression": {metric.name: metric for metric in regression.METRICS},
    "ranking": {metric.name: metric for metric in ranking.METRICS},
}
NAMES = tuple(dict.fromkeys(name for metrics in REGISTRY.values() for name in metrics))


def kind(declared: Declaration) -> Kind:
    """Return by which of the four kinds of metrics a model is measured."""
    if declared.task == "classification":
        return "multiclass" if declared.classes else "binary"
    return declared.task


def of(declared: Declaration) -> Mapping[str, Metric]:
    """Return the metrics of a model by name."""
    return REGISTRY[kind(declared)]


def encoded(declared: Declaration, labels: Any) -> Floats:
    """Return labels as numbers: the class's place of several classes, else the number that is there.

    Raises ValueError for a label that is no class, other than 0 and 1, no finite number, or a rank below 0.
    """
    values = np.asarray(labels)
    if declared.classes:
        known = {name: place for place, name in enumerate(declared.classes)}
        names = [str(value) for value in values.tolist()]
        unknown = sorted(set(names) - set(known))
        if unknown:
            classes = ", ".join(declared.classes)
            raise ValueError(
                f"`{declared.label}` has labels that are no class: {_some(unknown)} (of {classes})"
            )
        return np.array([known[name] for name in names], dtype=np.float64)
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"`{declared.label}` holds what is no number: {problem}") from problem
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"`{declared.label}` holds {int((~np.isfinite(numbers)).sum()):,} that are no number"
        )
    if kind(declared) == "binary" and not np.isin(numbers, (0, 1)).all():
        raise ValueError(f"`{declared.label}` has labels other than 0 and 1")
    if kind(declared) == "ranking" and (numbers < 0).any():
        raise ValueError(f"`{declared.label}` says how good a row is, and holds numbers below 0")
    return numbers


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def sample(
    declared: Declaration, labels: Any, predictions: Any, *, groups: Any = None, threshold: float = 0.5
) -> Sample:
    """Return rows with what was predicted of them, as metrics take them.

    `labels` are as in the data; `predictions` [n], or [n, K] in the order of the declared classes; `groups`
    [n] whatever a ranking's groups are called. Raises ValueError for what is not of one length, and for
    labels that can't be (see `encoded`).
    """
    truth = encoded(declared, labels)
    values = np.asarray(predictions, dtype=np.float64)
    wanted = (len(truth), len(declared.classes)) if declared.classes else (len(truth),)
    if truth.ndim != 1 or values.shape != wanted:
        raise ValueError(f"labels {truth.shape} and predictions {values.shape} must be of one length")
    codes = None
    if kind(declared) == "ranking":
        names = np.asarray(groups)
        if groups is None or names.shape != truth.shape:
            raise ValueError(f"a ranking needs the `{declared.group}` of each row")
        codes = np.unique(names.astype(str), return_inverse=True)[1]
    return Sample(kind(declared), truth, values, threshold, codes)


def whole(rows: Sample) -> Sample:
    """Return the same rows as all that there are: what parts of them are measured by is theirs in all."""
    return replace(rows, scale=regression.deviation(rows.labels)) if rows.kind == "regression" else rows


def row_losses(rows: Sample) -> Floats:
    """Return each row's loss: log loss in nats, absolute error, or 1 − ndcg of the row's group."""
    if rows.kind == "binary":
        return binary.losses(rows.labels, rows.values)
    if rows.kind == "multiclass":
        return multiclass.losses(rows)
    return regression.losses(rows) if rows.kind == "regression" else ranking.losses(rows)


def excess_losses(rows: Sample) -> Floats:
    """Return each row's loss less what the prediction itself expects: 0 on average, where that is right.

    Probabilities expect a loss; a number and an order say nothing of how wrong they are, so that theirs is
    the loss itself.
    """
    if rows.kind == "binary":
        return binary.losses(rows.labels, rows.values) - binary.expected_losses(rows.values)
    if rows.kind == "multiclass":
        return multiclass.losses(rows) - multiclass.expected_losses(rows)
    return row_losses(rows)


def check(
    named: Mapping[str, float | None], *, at_least: float = -math.inf, known: Collection[str] = NAMES
) -> None:
    """Raise ValueError unless each name is known and each number finite and not below `at_least`.

    None is no number, and stands for a metric that is taken away.
    """
    for name, number in named.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            instead = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(sorted(known))}"
            raise ValueError(f"no metric is called `{name}` ({instead})")
        if number is not None and (not math.isfinite(number) or number < at_least):
            wanted = f"a number from {at_least:g}" if math.isfinite(at_least) else "a finite number"
            raise ValueError(f"`{name}: {number}` is not {wanted}")


def kept(named: Mapping[str, float | None]) -> dict[str, float]:
    """Return the metrics that are not taken away by None."""
    return {name: number for name, number in named.items() if number is not None}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value with at least `share` of them at or below it."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else math.nan


__all__ = [
    "BINS",
    "NAMES",
    "REGISTRY",
    "Floats",
    "Kind",
    "Metric",
    "Sample",
    "Seen",
    "check",
    "encoded",
    "excess_losses",
    "kept",
    "kind",
    "of",
    "percentile",
    "places",
    "row_losses",
    "sample",
    "whole",
]
