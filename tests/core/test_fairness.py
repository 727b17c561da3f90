"""Differences of rates between groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidegate.core import fairness
from tidegate.core.verdict import Verdict


def groups(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and three groups that are treated alike."""
    random = np.random.default_rng(2)
    p = random.random(count)
    return (random.random(count) < p).astype(int), p, random.choice(list("abc"), count).astype(object)


def measured(
    name: str, labels: np.ndarray, p: np.ndarray, of: np.ndarray, least: int = 50
) -> fairness.Unlike:
    """Measure at 0.5 and 95%."""
    return fairness.measure(name, labels > 0, p >= 0.5, of, least=least, confidence=0.95)


def test_newcombes_interval_is_the_published_one() -> None:
    """56 of 70 less 48 of 80: 0.0524 to 0.3339 (Newcombe 1998, table II, case a, method 10)."""
    assert fairness.newcombe((56, 70), (48, 80), 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("name", fairness.MEASURES)
def test_groups_treated_alike_pass_and_others_fail(name: str) -> None:
    """A raised probability for one group is seen; the difference is that of the rates that are shown."""
    labels, p, of = groups()
    alike = measured(name, labels, p, of)
    assert [one.verdict for one in fairness.findings(alike, "c", 0.15, 50)] == [Verdict.PASS]
    unlike = measured(name, labels, np.where(of == "a", p + 0.3, p), of)
    assert [one.verdict for one in fairness.findings(unlike, "c", 0.15, 50)] == [Verdict.FAIL]
    rates = [called / count for called, count in unlike.counts.values()]
    assert unlike.difference == pytest.approx(max(rates) - min(rates))
    assert unlike.low <= unlike.difference <= unlike.high


def test_a_few_more_rows_than_none_are_inconclusive() -> None:
    """Between: the interval of few rows reaches over the limit."""
    labels, p, of = groups(400)
    found = measured("demographic_parity", labels, p, of)
    assert fairness.findings(found, "c", 0.1, 50)[0].verdict is Verdict.INCONCLUSIVE


def test_a_small_group_holds_back_and_hides_no_failure() -> None:
    """It is in no difference, INCONCLUSIVE by itself; the large groups are judged all the same."""
    labels, p, of = groups()
    of[:10] = "few"
    found = measured("equal_opportunity", labels, p, of)
    told = fairness.findings(found, "c", 0.15, 50)
    assert [one.verdict for one in told] == [Verdict.PASS, Verdict.INCONCLUSIVE]
    assert "few (" in told[1].reason


def test_one_group_is_an_error() -> None:
    """There is nobody to compare with."""
    labels, p, _ = groups(100)
    found = measured("demographic_parity", labels, p, np.array(["a"] * 100, dtype=object))
    assert math.isnan(found.difference)
    assert fairness.findings(found, "c", 0.1, 50)[0].verdict is Verdict.ERROR


def test_the_interval_holds_the_largest_of_many_differences() -> None:
    """Ten equal groups: the largest difference is above 0 by chance, and 0 is held in at least 93 of 100."""
    random, held = np.random.default_rng(5), 0
    for _ in range(100):
        counts = {str(group): (int(random.binomial(300, 0.3)), 300) for group in range(10)}
        held += fairness.largest(counts, 0.95)[0] == 0
    assert held >= 93
