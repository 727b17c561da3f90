"""The comparisons that every gate is made of."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import gate
from tidegate.core.verdict import Verdict, worst

PASS, FAIL, ERROR, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE
NOT_NUMBERS = [None, math.nan, math.inf, -math.inf]
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.mark.parametrize(("observed", "verdict"), [(0.9, PASS), (1.0, PASS), (1.1, FAIL)])
def test_at_most_includes_its_limit(observed: float, verdict: Verdict) -> None:
    """A limit is itself allowed, and one step beyond it is not."""
    assert gate.at_most("x", observed, 1.0).verdict is verdict


@pytest.mark.parametrize(("observed", "verdict"), [(0.9, FAIL), (1.0, PASS), (1.1, PASS)])
def test_at_least_includes_its_limit(observed: float, verdict: Verdict) -> None:
    """A limit is itself allowed, and one step below it is not."""
    assert gate.at_least("x", observed, 1.0).verdict is verdict


@pytest.mark.parametrize(("observed", "verdict"), [(0.9, FAIL), (1, PASS), (2, PASS), (2.1, FAIL)])
def test_within_includes_both_ends(observed: float, verdict: Verdict) -> None:
    """A range holds both of its ends."""
    assert gate.within("x", observed, 1, 2).verdict is verdict


@pytest.mark.parametrize("nothing", NOT_NUMBERS)
def test_what_is_no_number_is_an_error(nothing: float | None) -> None:
    """No comparison with a missing, NaN or infinite number on either side is ever PASS or FAIL."""
    found = [
        gate.at_most("x", nothing, 1),
        gate.at_most("x", 1, nothing),
        gate.at_least("x", nothing, 1),
        gate.at_least("x", 1, nothing),
        gate.within("x", nothing, 0, 1),
        gate.within("x", 0, nothing, 1),
        gate.within("x", 0, 0, nothing),
        gate.enough("x", nothing, 1),
        gate.enough("x", 1, nothing),
        gate.none_of("x", nothing, 5, "rows"),
        gate.beside("x", nothing, 1, (0, 0), 1, higher_is_better=True)[0],
        gate.beside("x", 1, nothing, (0, 0), 1, higher_is_better=True)[0],
        gate.beside("x", 1, 1, (0, 0), nothing, higher_is_better=True)[0],
    ]
    assert {finding.verdict for finding in found} == {ERROR}


@pytest.mark.parametrize("interval", [(math.nan, 0.0), (0.0, math.nan), (-math.inf, math.inf), (1.0, 0.0)])
def test_an_unusable_interval_is_an_error(interval: tuple[float, float]) -> None:
    """A difference whose interval is broken decides nothing."""
    found = gate.beside("x", 1, 1, interval, 0.1, higher_is_better=True)[0]
    assert found.verdict is ERROR


@given(finite, finite)
def test_a_reason_carries_both_numbers(observed: float, limit: float) -> None:
    """Whoever reads a reason needs no second tool: observed and limit are in it."""
    found = gate.at_most("x", observed, limit, "ms")
    assert gate.show(observed) in found.reason
    assert f"{gate.show(limit)} ms" in found.reason


@given(finite, finite)
def test_at_most_and_at_least_mirror_each_other(a: float, b: float) -> None:
    """x ≤ y and y ≥ x are the same statement."""
    assert gate.at_most("x", a, b).verdict is gate.at_least("x", b, a).verdict


@pytest.mark.parametrize(("count", "verdict"), [(0, ERROR), (1, INCONCLUSIVE), (9, INCONCLUSIVE), (10, PASS)])
def test_a_small_sample_is_inconclusive_and_none_is_an_error(count: int, verdict: Verdict) -> None:
    """Too few to decide on and nothing to look at are different verdicts, and neither is PASS or FAIL."""
    assert gate.enough("rows", count, 10).verdict is verdict


@pytest.mark.parametrize(("count", "verdict"), [(0, ERROR), (5, INCONCLUSIVE), (10, FAIL)])
def test_a_small_sample_holds_its_comparisons_back(count: int, verdict: Verdict) -> None:
    """Neither PASS nor FAIL is said on a sample that is too small for it."""
    sample = gate.enough("rows", count, 10)
    found = gate.hold_back(sample, [gate.at_most("a", 1, 2), gate.at_most("b", 3, 2)])
    assert worst(f.verdict for f in found) is verdict
    if verdict is not FAIL:
        assert not {f.verdict for f in found} & {PASS, FAIL}


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((-0.01, 0.02), PASS), ((-0.03, 0.01), INCONCLUSIVE), ((-0.05, -0.03), FAIL), ((0.01, 0.02), PASS)],
)
def test_not_worse_needs_the_whole_interval(interval: tuple[float, float], verdict: Verdict) -> None:
    """PASS needs the worse end within the margin, FAIL the better end beyond it."""
    found, _ = gate.beside("auc", 0.70, 0.70, interval, 0.02, higher_is_better=True)
    assert found.verdict is verdict


@pytest.mark.parametrize(("higher", "verdict"), [(True, PASS), (False, FAIL)])
def test_which_side_is_worse_depends_on_the_metric(higher: bool, verdict: Verdict) -> None:
    """A rise is good for an AUC and bad for a loss."""
    found, _ = gate.beside("x", 0.8, 0.6, (0.2, 0.2), 0.1, higher_is_better=higher)
    assert found.verdict is verdict


def test_none_of_nothing_is_an_error() -> None:
    """Zero failures among zero things is not a success."""
    assert gate.none_of("x", 0, 0, "rows").verdict is ERROR
    assert gate.none_of("x", 0, 3, "rows").verdict is PASS
    assert gate.none_of("x", 1, 3, "rows").verdict is FAIL


def test_expected_names_what_is_missing_and_what_is_extra() -> None:
    """A set that differs fails by name; asking for nothing is an error."""
    found = gate.expected("columns", ["a", "leak"], ["a", "b"], "columns")
    assert found.verdict is FAIL
    assert "missing: b" in found.reason
    assert "not known: leak" in found.reason
    assert gate.expected("columns", ["a"], ["a"], "columns").verdict is PASS
    assert gate.expected("columns", ["a"], [], "columns").verdict is ERROR


@pytest.mark.parametrize(
    ("last", "first", "verdict"), [("a", "b", PASS), ("b", "b", FAIL), ("c", "b", FAIL), (None, "b", ERROR)]
)
def test_the_holdout_comes_after_train(last: str | None, first: str, verdict: Verdict) -> None:
    """Rows of one day in both splits are an overlap."""
    assert gate.precedes("order", last, first).verdict is verdict


@pytest.mark.parametrize(
    ("status", "named", "field", "verdict"),
    [
        (422, "origin", "origin", PASS),
        (400, None, "", PASS),
        (422, "dest", "origin", FAIL),
        (422, None, "origin", FAIL),
        (200, "origin", "origin", FAIL),
        (500, "origin", "origin", FAIL),
        (404, None, "", FAIL),
        (429, None, "", FAIL),
        (0, None, "", FAIL),
    ],
)
def test_a_refusal_is_a_4xx_that_blames_the_field(
    status: int, named: str | None, field: str, verdict: Verdict
) -> None:
    """Another field, no field, another kind of 4xx, a success or a crash are not the refusal asked for."""
    assert gate.refusal("case", status, named, field).verdict is verdict


@pytest.mark.parametrize(
    ("observed", "interval", "limit", "verdict"),
    [
        (0.1, (0.05, 0.2), 0.2, Verdict.PASS),
        (0.3, (0.21, 0.4), 0.2, Verdict.FAIL),
        (0.3, (0.2, 0.4), 0.2, Verdict.INCONCLUSIVE),
        (0.1, (0.0, 0.3), 0.2, Verdict.INCONCLUSIVE),
        (math.nan, (0.0, 0.3), 0.2, Verdict.ERROR),
        (0.1, (0.0, math.nan), 0.2, Verdict.ERROR),
        (0.1, (0.0, math.inf), 0.2, Verdict.ERROR),
        (0.1, (0.3, 0.0), 0.2, Verdict.ERROR),
        (0.1, (0.0, 0.1), math.nan, Verdict.ERROR),
        (0.1, (0.0, 0.1), None, Verdict.ERROR),
    ],
)
def test_a_number_with_an_interval_passes_only_with_all_of_it(
    observed: float, interval: tuple[float, float], limit: float | None, verdict: Verdict
) -> None:
    """PASS by the upper end, FAIL by the lower one, INCONCLUSIVE between, ERROR without numbers."""
    assert gate.surely_at_most("x", observed, interval, limit).verdict is verdict
