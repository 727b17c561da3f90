"""What labels have to be like, by the model's task: known, of the kind that was declared, and not all one.

Shares of classes for a classification, a mean and a range for a regression, and for a ranking how good rows
are, from 0, within groups of which most must have something to rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidegate.core import gate
from tidegate.core.columns import Range, Share, check_range
from tidegate.core.task import Declaration
from tidegate.core.verdict import Finding


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a split's labels are held to; a task has its own keys, and no other may be said.

    `label_rate`: the share of label 1, or of each class. `label_mean`, `label_within`: in the label's unit.
    `group_rows`: the mean number of rows of a group; `flat_groups`: the largest share of groups whose rows
    all have one label.
    """

    label_rate: Range | Mapping[str, Range] | None = None
    label_mean: Range | None = None
    label_within: Range | None = None
    group_rows: Range | None = None
    flat_groups: Share | None = None

    def __post_init__(self) -> None:
        """Refuse ranges that hold nothing."""
        rates = self.label_rate if isinstance(self.label_rate, Mapping) else {"label_rate": self.label_rate}
        for name, ends in rates.items():
            check_range(name, ends)
        for name in ("label_mean", "label_within", "group_rows"):
            check_range(name, getattr(self, name))


KEYS: Mapping[str, tuple[str, ...]] = {
    "classification": ("label_rate",),
    "regression": ("label_mean", "label_within"),
    "ranking": ("label_within", "group_rows", "flat_groups"),
}


def misfit(expected: Expected, declared: Declaration) -> str:
    """Return what is said of another task's labels, or not said of this one's; or nothing."""
    keys = KEYS[declared.task]
    said = [name for name in Expected.__struct_fields__ if getattr(expected, name) is not None]
    if foreign := [name for name in said if name not in keys]:
        return f"`{foreign[0]}` is nothing of a {declared.task}'s labels"
    if missing := [name for name in keys if name not in said]:
        return f"`{missing[0]}` is missing: labels of a {declared.task} are held to {', '.join(keys)}"
    rate = expected.label_rate
    if declared.task == "classification" and isinstance(rate, Mapping) != bool(declared.classes):
        return f"`label_rate` must be {'a range for each class' if declared.classes else 'one range'}"
    if isinstance(rate, Mapping) and (odd := set(rate) ^ set(declared.classes)):
        return f"`label_rate` and `prediction` do not name the same classes: {', '.join(sorted(odd))}"
    return ""


def findings(
    split: str, labels: Any, groups: Any, declared: Declaration, expected: Expected
) -> list[Finding]:
    """Return the findings on a split's labels: arrays of one length, `groups` None but for a ranking.

    `expected` must fit the task; see `misfit`.
    """
    name = declared.label
    if declared.task == "classification":
        return _classes(split, labels, declared, expected)
    found = numbers(labels)
    unknown = int((~np.isfinite(found)).sum())
    told = [gate.none_of(f"{split}: {name} that is no number", unknown, len(found), "rows")]
    ends = (float(found.min()), float(found.max())) if len(found) else (math.nan, math.nan)
    if expected.label_within is not None:
        told += [
            gate.within(f"{split}: {word} {name}", end, *expected.label_within)
            for word, end in zip(("least", "greatest"), ends, strict=True)
        ]
    told.append(gate.at_least(f"{split}: different {name}", len(np.unique(found[np.isfinite(found)])), 2))
    if declared.task == "ranking":
        return [*told, *_groups(split, found, groups, declared.group, expected)]
    assert expected.label_mean is not None
    mean = float(found.mean()) if len(found) else math.nan
    return [*told, gate.within(f"{split}: mean {name}", mean, *expected.label_mean)]


def numbers(labels: Any) -> NDArray[np.float64]:
    """Return labels as floats; NaN for each that is none."""
    try:
        return np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError):
        return np.full(len(labels), np.nan)


def texts(labels: Any) -> NDArray[Any]:
    """Return labels as text, as classes are declared; nulls are the empty text, which is no class."""
    values = np.asarray(labels, dtype=object)
    known = [not (one is None or (isinstance(one, float) and math.isnan(one))) for one in values.tolist()]
    return np.array([str(one) if k else "" for one, k in zip(values.tolist(), known, strict=True)], dtype=str)


def _classes(split: str, labels: Any, declared: Declaration, expected: Expected) -> list[Finding]:
    rate = expected.label_rate
    if isinstance(rate, Mapping):
        found = texts(labels)
        wrong = int((~np.isin(found, declared.classes)).sum())
        told = [gate.none_of(f"{split}: {declared.label} that is no class", wrong, len(found), "rows")]
        for name, ends in rate.items():
            share = float((found == name).mean()) if len(found) else math.nan
            told.append(gate.within(f"{split}: rate of {name}", share, *ends))
        return told
    assert rate is not None
    flags = numbers(labels)
    wrong = int((~np.isin(flags, (0.0, 1.0))).sum())
    known = flags[np.isfinite(flags)]
    mean = float(known.mean()) if len(known) else None
    return [
        gate.none_of(f"{split}: {declared.label} that is neither 0 nor 1", wrong, len(flags), "rows"),
        gate.within(f"{split}: rate of {declared.label}", mean, *rate),
    ]


def _groups(
    split: str, labels: NDArray[np.float64], groups: Any, name: str, expected: Expected
) -> list[Finding]:
    if groups is None:
        return [gate.error(f"{split}: groups", f"{split}: there is no column `{name}` to group rows by")]
    assert expected.group_rows is not None
    assert expected.flat_groups is not None
    places = np.unique(texts(groups), return_inverse=True)[1]
    count = int(places.max()) + 1 if len(places) else 0
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    with np.errstate(invalid="ignore"):  # an unknown label is told by itself
        np.minimum.at(low, places, labels)
        np.maximum.at(high, places, labels)
    rows = len(labels) / count if count else math.nan
    flat = float((high <= low).mean()) if count else math.nan
    bad = int((~((labels >= 0) & (labels == np.floor(labels)))).sum())
    return [
        gate.none_of(f"{split}: labels that are no whole number from 0", bad, len(labels), "rows"),
        gate.none_of(
            f"{split}: rows without `{name}`", int((texts(groups) == "").sum()), len(labels), "rows"
        ),
        gate.within(f"{split}: rows of a group", rows, *expected.group_rows),
        gate.at_most(f"{split}: groups of one label", flat, expected.flat_groups),
    ]
