"""What a thousand predictions cost: measured rates and a price of a machine's hour, compared.

Pure functions. Money is in the currency of the price; NaN where a number does not exist, which
`core.gate` turns into ERROR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tidegate.core import gate
from tidegate.core.exhibits import Comparison
from tidegate.core.verdict import Finding, Verdict

Interval = tuple[float, float]


def number(value: Any) -> float:
    """Return what a report says as a number, NaN for whatever is none."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else math.nan


def of_a_thousand(rate: float, per_hour: float, processes: float, utilisation: float) -> float:
    """Return the price of a thousand predictions.

    `rate` is what one process carries, requests a second; a machine runs `processes` of them and is asked for
    `utilisation` of what it could carry, on average. NaN when one of them is not above zero.
    """
    given = (rate, per_hour, processes, utilisation)
    if not all(math.isfinite(value) and value > 0 for value in given):
        return math.nan
    return 1000 * per_hour / (3600 * rate * processes * utilisation)


def within_budget(name: str, cost: float, budget: float, unit: str, *, at_most: bool, why: str) -> Finding:
    """Does a thousand cost no more than the budget? `why` says what it was reckoned from.

    Where the cost is an upper bound (`at_most`: nobody could ask the service for more), one above the budget
    is INCONCLUSIVE and not FAIL.
    """
    found = gate.at_most(name, cost, budget, unit)
    verdict, reason = found.verdict, f"{found.reason}: {why}"
    if verdict is Verdict.FAIL and at_most:
        verdict, reason = Verdict.INCONCLUSIVE, f"{reason}; it is an upper bound"
    return Finding(name, verdict, found.observed, found.limit, reason)


def beside(
    name: str,
    cost: float,
    ratio: Mapping[str, Any],
    margin: float,
    unit: str,
    *,
    confidence: float,
    inverse: bool,
) -> tuple[Finding, Comparison | None]:
    """Compare a candidate's cost with production's, by a measured `ratio` of candidate ÷ production.

    `inverse` where more of what was measured is cheaper (throughput): then the interval turns over.
    """
    ours, theirs, low, high = (number(ratio.get(key)) for key in ("candidate", "production", "low", "high"))
    if not all(math.isfinite(value) and value > 0 for value in (ours, theirs, low, high)):
        return gate.error(name, f"{name}: the load report has no usable ratio"), None
    middle = theirs / ours if inverse else ours / theirs
    interval: Interval = (1 / high, 1 / low) if inverse else (low, high)
    return gate.beside(
        name,
        cost,
        cost / middle,
        interval,
        margin,
        higher_is_better=False,
        scale="ratio",
        confidence=confidence,
        unit=unit,
    )
