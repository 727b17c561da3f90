"""What a thousand predictions cost."""

from __future__ import annotations

import math

import pytest

from tidegate.core import cost
from tidegate.core.verdict import Verdict

RATIO = {"candidate": 90.0, "production": 100.0, "low": 0.85, "high": 0.95}


def test_the_price_of_a_thousand() -> None:
    """100 requests/s a process, two processes, half used: 360,000 an hour for 0.36 is 0.001 a thousand."""
    assert cost.of_a_thousand(100, 0.36, 2, 0.5) == pytest.approx(0.001)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_no_rate_has_no_price(rate: float) -> None:
    """Nothing carried costs no number, and no number is ERROR."""
    thousand = cost.of_a_thousand(rate, 0.36, 2, 0.5)
    assert math.isnan(thousand)
    found = cost.within_budget("c", thousand, 1.0, "USD", at_most=False, why="")
    assert found.verdict is Verdict.ERROR


def test_an_upper_bound_above_the_budget_decides_nothing() -> None:
    """Where nobody could ask the service for more, it may be cheaper than it looks."""
    verdicts = [
        cost.within_budget("c", value, 1.0, "USD", at_most=bound, why="").verdict
        for value, bound in ((0.5, True), (2.0, True), (2.0, False))
    ]
    assert verdicts == [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]


def test_less_throughput_costs_more() -> None:
    """The interval of a throughput turns over; that of CPU time does not."""
    found, shown = cost.beside("c", 1.0, RATIO, 0.10, "USD", confidence=0.99, inverse=True)
    assert shown is not None
    assert (shown.low, shown.high) == pytest.approx((1 / 0.95, 1 / 0.85))
    assert shown.production == pytest.approx(0.9)
    assert found.verdict is Verdict.INCONCLUSIVE
    found, shown = cost.beside("c", 1.0, RATIO, 0.10, "USD", confidence=0.99, inverse=False)
    assert shown is not None
    assert (shown.low, shown.high) == (0.85, 0.95)
    assert shown.word == "better"


@pytest.mark.parametrize("broken", [None, 0, -1, "fast", True, math.nan])
@pytest.mark.parametrize("key", list(RATIO))
def test_a_ratio_that_is_none_is_an_error(key: str, broken: object) -> None:
    """Whatever of it is missing or no number, nothing is compared."""
    found, shown = cost.beside("c", 1.0, {**RATIO, key: broken}, 0.1, "USD", confidence=0.99, inverse=True)
    assert found.verdict is Verdict.ERROR
    assert shown is None
