"""Slices that nobody declared: where, among all combinations of columns, a model's loss is highest.

They are searched for on one half of the rows and judged (`core.slices.judge`) on the other half only, which
had no part in their choice: the worst of many looked at by chance is no worse there than any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tidegate.core import gate
from tidegate.core.slices import Slice, listed, texts

Rule = dict[int, tuple[float, float]]  # column → above, up to


def halves(groups: Any, seed: int) -> Any:
    """Return a mask of about half of the rows; rows of one group are on one side."""
    distinct, place = np.unique(groups, return_inverse=True)
    side = np.zeros(len(distinct), dtype=bool)
    side[np.random.default_rng(seed).permutation(len(distinct))[: len(distinct) // 2]] = True
    half: Any = side[place]
    return half


def search(
    columns: Mapping[str, Any], target: Any, half: Any, *, depth: int, most: int, rows: int, seed: int
) -> list[Slice]:
    """Return the slices, at most `most`, on which `target` (a number a row) is highest in `half` of the rows.

    They are leaves of a shallow regression tree grown on that half, of at least `rows` rows of it, above that
    half's mean; they are to be judged on the other half. Columns of texts are ordered by their values' mean
    target, in the same half. The same rows and seed give the same slices.
    """
    from sklearn.tree import DecisionTreeRegressor

    if half.sum() < 2 * rows:
        return []
    coded = {name: _coded(values, target, half) for name, values in columns.items()}
    matrix = np.column_stack([codes for codes, _ in coded.values()])
    tree = DecisionTreeRegressor(max_depth=depth, min_samples_leaf=rows, random_state=seed)
    tree.fit(matrix[half], target[half])
    leaf_of = tree.apply(matrix)
    means = tree.tree_.value[:, 0, 0]
    leaves = [leaf for leaf in np.unique(leaf_of) if means[leaf] > target[half].mean()]
    leaves.sort(key=lambda leaf: (-means[leaf], leaf))
    rules = _rules(tree.tree_)
    names = list(coded)
    return [Slice(_said(rules[leaf], names, coded), leaf_of == leaf, ~half) for leaf in leaves[:most]]


def _coded(values: Any, target: Any, half: Any) -> tuple[Any, list[str]]:
    """Return a column as numbers, and for texts the values in the order of their codes."""
    array = np.asarray(values)
    with contextlib.suppress(TypeError, ValueError):  # texts of digits, like an hour, are numbers, too
        return array.astype(np.float64), []
    distinct, place = np.unique(texts(array).astype(str), return_inverse=True)
    count = np.bincount(place[half], minlength=len(distinct))
    total = np.bincount(place[half], target[half], len(distinct))
    middle = target[half].mean()
    means = np.where(count > 0, total / np.maximum(count, 1), middle)
    order = np.argsort(means, kind="stable")
    codes = np.empty(len(distinct))
    codes[order] = np.arange(len(distinct))
    return codes[place], [str(name) for name in distinct[order]]


def _rules(tree: Any) -> dict[int, Rule]:
    """Return for each leaf what its rows have in common."""
    found: dict[int, Rule] = {}
    stack: list[tuple[int, Rule]] = [(0, {})]
    while stack:
        node, rule = stack.pop()
        if tree.children_left[node] < 0:
            found[node] = rule
            continue
        column, threshold = int(tree.feature[node]), float(tree.threshold[node])
        low, high = rule.get(column, (-np.inf, np.inf))
        stack.append((int(tree.children_left[node]), {**rule, column: (low, min(high, threshold))}))
        stack.append((int(tree.children_right[node]), {**rule, column: (max(low, threshold), high)}))
    return found


def _said(rule: Rule, names: list[str], coded: Mapping[str, tuple[Any, list[str]]]) -> str:
    parts = []
    for column, (low, high) in sorted(rule.items()):
        name, values = names[column], coded[names[column]][1]
        if values:
            kept = [value for code, value in enumerate(values) if low < code <= high]
            parts.append(f"{name} among {listed(sorted(kept))}")
        elif np.isinf(low):
            parts.append(f"{name} ≤ {gate.show(high)}")
        else:
            parts.append(
                f"{name} > {gate.show(low)}"
                if np.isinf(high)
                else f"{name} {gate.show(low)} to {gate.show(high)}"
            )
    return "found: " + " and ".join(parts)
