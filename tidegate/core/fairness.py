"""Are groups of people treated alike? Differences of rates between groups, with intervals.

The measures are fairlearn's: the largest difference between two groups in the share that is called positive
(demographic parity), or in the share of true positives among positives (equal opportunity). The interval of
that largest difference covers those of all pairs at once: Newcombe's hybrid score interval for each pair
(Statistics in Medicine 17, 1998, method 10), at a confidence that is split over the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tidegate.core import gate, paired
from tidegate.core.scores import Sample, binary, multiclass
from tidegate.core.verdict import Finding, Verdict

Counts = Mapping[str, tuple[int, int]]  # group → called positive, of how many
MEASURES = ("demographic_parity", "equal_opportunity")


@dataclass(frozen=True)
class Unlike:
    """The largest difference of a rate between two groups, its interval, and each group's counts.

    `small` are the groups that have too few to count, which are in no difference.
    """

    measure: str
    difference: float
    low: float
    high: float
    counts: Counts
    small: Counts


def decisions(rows: Sample, classes: Sequence[str]) -> dict[str, tuple[Any, Any]] | None:
    """Return what is decided of each row: name → (is it so, was it called so); None where nothing is.

    The one decision of a probability has no name; of several classes there is one each, of being called it.
    """
    if rows.kind == "binary":
        return {"": (rows.labels > 0, binary.called(rows) > 0)}
    if rows.kind == "multiclass":
        return {
            name: (truth > 0, said > 0)
            for name, (truth, said, _) in zip(classes, multiclass.each(rows), strict=True)
        }
    return None


def measure(
    name: str, truth: Any, called: Any, groups: Any, *, least: int, confidence: float, of: str = ""
) -> Unlike:
    """Return one of MEASURES of a decision (`of` which class, if there are several).

    Groups with fewer than `least` to count are left out; with fewer than two others the numbers are NaN.
    """
    from fairlearn import metrics

    measures: dict[str, Callable[..., float]] = {
        "demographic_parity": metrics.demographic_parity_difference,
        "equal_opportunity": metrics.equal_opportunity_difference,
    }
    counted = np.ones(len(truth), dtype=bool) if name == "demographic_parity" else truth
    counts = {}
    for group in sorted(set(groups)):
        inside = counted & (groups == group)
        counts[str(group)] = (int((called & inside).sum()), int(inside.sum()))
    large = {group: pair for group, pair in counts.items() if pair[1] >= max(least, 1)}
    small = {group: pair for group, pair in counts.items() if group not in large}
    named = f"{name} of {of}" if of else name
    if len(large) < 2:
        return Unlike(named, math.nan, math.nan, math.nan, counts, small)
    kept = np.isin(groups, np.array(list(large), dtype=object))
    difference = float(measures[name](truth[kept], called[kept], sensitive_features=groups[kept]))
    return Unlike(named, difference, *largest(large, confidence), counts, small)


def findings(found: Unlike, column: str, limit: float, least: int) -> list[Finding]:
    """Return whether the groups of a column are treated alike, and which are too small to tell."""
    told = gate.surely_at_most(
        f"{found.measure} between groups of {column}", found.difference, (found.low, found.high), limit
    )
    if not found.small:
        return [told]
    names = ", ".join(f"{group} ({of})" for group, (_, of) in found.small.items())
    text = f"{found.measure}: groups of {column} with fewer than {least} to count can't be judged: {names}"
    name = f"{found.measure} of small groups of {column}"
    return [told, Finding(name, Verdict.INCONCLUSIVE, float(len(found.small)), 0.0, text)]


def largest(counts: Counts, confidence: float) -> tuple[float, float]:
    """Return an interval of the largest difference between two groups' rates, whichever two they are."""
    pairs = list(combinations(counts.values(), 2))
    each = paired.each(confidence, len(pairs))
    found = [newcombe(one, other, each) for one, other in pairs]
    found += [(-high, -low) for low, high in found]
    return max(0.0, *(low for low, _ in found)), max(high for _, high in found)


def newcombe(one: tuple[int, int], other: tuple[int, int], confidence: float) -> tuple[float, float]:
    """Return the interval of one rate less another, each given as (positives, of how many)."""
    (p, low, high), (q, under, over) = wilson(*one, confidence), wilson(*other, confidence)
    return p - q - math.hypot(p - low, over - q), p - q + math.hypot(high - p, q - under)


def wilson(positives: int, of: int, confidence: float) -> tuple[float, float, float]:
    """Return a rate and its score interval."""
    z, rate = paired.quantile(confidence), positives / of
    middle = (rate + z * z / (2 * of)) / (1 + z * z / of)
    reach = z / (1 + z * z / of) * math.sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    return rate, max(middle - reach, 0.0), min(middle + reach, 1.0)
