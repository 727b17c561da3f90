"""How much a model's answers depend on each raw column, and how far such a column may drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[Mapping[str, Any]], NDArray[np.float64]]


def changes(predict: Predict, columns: Mapping[str, Any], *, repeats: int, seed: int) -> dict[str, float]:
    """Return column → the mean absolute change of the answers when its values are shuffled among the rows.

    Permutation importance (Breiman 2001), of the answers and not of the error: it needs no label, and a
    sample of some thousand rows settles it. `predict` gets columns of equal length and returns one number
    a row, or several [n, K] of which the mean change counts; changes are in their unit. Shuffled by `seed`,
    `repeats` times; 0 says that the model does not look at the column.
    """
    known = {name: np.asarray(values) for name, values in columns.items()}
    before = predict(known)
    draw = np.random.default_rng(seed)
    found = {}
    for name, values in known.items():
        moved = [
            float(np.abs(predict({**known, name: values[draw.permutation(len(values))]}) - before).mean())
            for _ in range(repeats)
        ]
        found[name] = float(np.mean(moved))
    return found


def shares(found: Mapping[str, float]) -> dict[str, float]:
    """Return each column's share of the sum, the largest first; NaN for all where nothing changed."""
    total = sum(found.values())
    order = sorted(found, key=lambda name: (-found[name], name))
    return {name: found[name] / total if total > 0 else math.nan for name in order}


def limit(declared: float, share: float, columns: int, weight: float) -> float:
    """Return how far a column may drift: less than declared for one that the model leans on.

    declared / max(1, share × columns) ** weight, where `share` is the column's part of the importance of all
    `columns`, so that share × columns is 1 for a column of average importance. Weight 0 leaves the declared
    limit; with 0.5, a column that counts four times the average may move half as far. A column that counts
    less than the average gets no more room than was declared for it. NaN where the share is not known.
    """
    if not math.isfinite(share):  # max() would take it for little
        return math.nan
    return declared / float(max(1.0, share * columns) ** weight)
