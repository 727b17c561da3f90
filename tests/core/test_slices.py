"""Slices: declared ones by value, found ones by search, and what may be said of many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_scores import of
from tidegate.core import scores, slice_search, slices
from tidegate.core.slices import Slice, Support
from tidegate.core.verdict import Verdict

SUPPORT = Support(20, 5)
MARGINS = {"auc": 0.2, "excess_loss": 0.2}


def rows(count: int = 8000, seed: int = 1) -> tuple[Any, Any]:
    """Labels, and probabilities that are right about them."""
    random = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-random.normal(-0.8, 1.2, size=count)))
    return (random.random(count) < p).astype(int), p


def even(labels: Any) -> scores.Sample:
    """Rows of which nothing but the labels counts."""
    return of(labels, np.full(len(labels), 0.5))


def judge(some: list[Slice], labels: Any, p: Any, production: Any = None, **margins: float) -> Any:
    """Judge slices with usual settings."""
    return slices.judge(
        some,
        slices.Rows(of(labels, p), None if production is None else of(labels, production)),
        MARGINS,
        margins or {"log_loss": 0.05},
        support=SUPPORT,
        confidence=0.95,
    )


def called_worse(some: list[Slice], labels: Any, p: Any) -> bool:
    """Tell whether any slice is called worse than the rest where no margin is allowed."""
    found, _ = slices.judge(
        some,
        slices.Rows(of(labels, p)),
        {"excess_loss": 0.0},
        {},
        support=SUPPORT,
        confidence=0.95,
    )
    return any(one.finding.verdict is Verdict.FAIL for one in found)


@given(
    values=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=300),
    least=st.integers(2, 40),
)
def test_every_row_is_judged_once_or_told_as_left_out(values: list[str], least: int) -> None:
    """Slices of a column share no row; what is in none of them is counted in what is left out."""
    column, labels = np.array(values, dtype=object), np.arange(len(values)) % 2
    found, left = slices.of_column("c", column, even(labels), Support(least, 2))
    times = sum((one.here.astype(int) for one in found), np.zeros(len(values), dtype=int))
    assert times.max(initial=0) <= 1
    outside = int((times == 0).sum())
    assert (f"{outside:,} of {len(values):,} rows" in left) if outside else not left
    assert all(Support(least, 2).holds(even(labels).at(one.here)) for one in found)


def test_small_values_are_judged_together() -> None:
    """What is too small by itself is one slice, named by its values, when together it is large enough."""
    column = np.array(["a"] * 100 + ["b"] * 15 + ["c"] * 15, dtype=object)
    found, left = slices.of_column("c", column, even(np.arange(130) % 2), SUPPORT)
    assert [one.name for one in found] == ["c = a", "c = others (b, c)"]
    assert not left


def test_missing_values_are_a_slice() -> None:
    """None and NaN are no reason to leave rows out."""
    assert slices.texts(np.array(["x", None, np.nan], dtype=object)).tolist() == ["x", "missing", "missing"]
    assert slices.texts(np.array(["17:45"], dtype=object), (0, 2)).tolist() == ["17"]
    binned = slices.binned(np.array([1.0, 2.0, 3.0, 4.0, np.nan]), 2).tolist()
    assert binned == ["< 2.5", "< 2.5", "≥ 2.5", "≥ 2.5", "missing"]


@pytest.mark.parametrize(("rows", "each"), [(1, 5), (10, 1), (-5, 5)])
def test_a_support_on_which_nothing_stands_is_refused(rows: int, each: int) -> None:
    """An interval needs two of each."""
    with pytest.raises(ValueError, match="at least 2"):
        Support(rows, each)


def test_one_broken_slice_fails_and_the_others_do_not() -> None:
    """Predictions inverted for one value in ten are called worse there and nowhere else."""
    labels, p = rows()
    column = np.array([f"v{place % 10}" for place in range(len(p))], dtype=object)
    spoiled = np.where(column == "v3", 1 - p, p)
    some, _ = slices.of_column("c", column, of(labels, p), SUPPORT)
    rest, _ = judge(some, labels, spoiled)
    assert {one.slice for one in rest if one.finding.verdict is Verdict.FAIL} == {"c = v3"}
    assert slices.worst(rest)[0].slice == "c = v3"
    assert slices.table("t", rest, "elsewhere").rows[0][0] == "c = v3"


def test_beside_production_the_same_rows_are_compared() -> None:
    """A slice that is as hard for production as for the candidate is no worse; one spoiled since then is."""
    labels, p = rows()
    column = np.array(["a", "b"] * (len(p) // 2), dtype=object)
    some, _ = slices.of_column("c", column, of(labels, p), SUPPORT)
    hard = np.where(column == "a", 0.5, p)
    _, same = judge(some, labels, hard * 0.99, hard)
    assert {one.finding.verdict for one in same} == {Verdict.PASS}
    _, since = judge(some, labels, hard, p)
    told = {one.slice: one.finding.verdict for one in since}
    assert told == {"c = a": Verdict.FAIL, "c = b": Verdict.PASS}


def test_looking_at_many_slices_calls_no_sound_model_worse() -> None:
    """Of 100 sound models, each looked at in 40 slices with a margin of 0, at most 5 are called worse."""
    called = 0
    for seed in range(100):
        labels, p = rows(4000, seed)
        column = np.array([str(place % 40) for place in range(len(p))], dtype=object)
        some, _ = slices.of_column("c", column, of(labels, p), SUPPORT)
        called += called_worse(some, labels, p)
    assert called <= 5


def test_a_slice_that_leaves_no_other_rows_is_judged_beside_production_only() -> None:
    """What every row has is beside nothing; small values that are all there is are no slice together."""
    labels, p = rows(1000)
    some, _ = slices.of_column("c", np.array(["a"] * 1000, dtype=object), of(labels, p), SUPPORT)
    assert judge(some, labels, p) == ([], [])
    rest, production = judge(some, labels, p, p)
    assert (len(rest), len(production)) == (0, 1)
    none, left = slices.of_column("c", np.arange(1000).astype(str).astype(object), of(labels, p), SUPPORT)
    assert not none
    assert "1,000 of 1,000 rows" in left


def test_a_slice_with_one_label_is_an_error_not_a_pass() -> None:
    """An AUC that does not exist in a slice says nothing about it."""
    labels, p = rows(1000)
    inside = (labels == 1) & (np.arange(1000) < 500)
    rest, _ = judge([Slice("ones", inside, np.ones(1000, dtype=bool))], labels, p)
    assert rest[0].finding.verdict is Verdict.ERROR


def found_in(labels: Any, p: Any, columns: dict[str, Any], half: Any) -> list[Slice]:
    """Search with usual settings."""
    target = scores.excess_losses(of(labels, p))
    return slice_search.search(columns, target, half, depth=2, most=3, rows=200, seed=1)


def test_a_search_finds_where_two_columns_meet() -> None:
    """Predictions inverted where a number is high and a text is one of two: found, and judged elsewhere."""
    labels, p = rows(12_000)
    random = np.random.default_rng(4)
    number, text = random.random(12_000), random.choice(list("abcd"), 12_000).astype(object)
    broken = (number > 0.6) & np.isin(text, ["b", "d"])
    spoiled = np.where(broken, 1 - p, p)
    half = slice_search.halves(np.arange(12_000), 1)
    worst = found_in(labels, spoiled, {"number": number, "text": text}, half)[0]
    assert "text among b, d" in worst.name
    assert "number > 0.6" in worst.name
    assert not (worst.here & half).any()
    assert (worst.inside == broken).mean() > 0.99
    rest, _ = judge([worst], labels, spoiled)
    assert {one.finding.verdict for one in rest} == {Verdict.FAIL}


def test_what_a_search_finds_in_a_sound_model_is_not_called_worse() -> None:
    """The worst of many leaves looks bad in the half it was found in, and like any other in the other."""
    called = 0
    for seed in range(60):
        labels, p = rows(3000, seed)
        columns = {"noise": np.random.default_rng(seed).random(3000)}
        half = slice_search.halves(np.arange(3000), seed)
        some = found_in(labels, p, columns, half)
        called += called_worse(some, labels, p)
    assert called <= 3


def test_halves_keep_what_belongs_together() -> None:
    """Rows of one day are all in one half, and each half has about as many days."""
    days = np.repeat(np.arange(60), 50)
    half = slice_search.halves(days, 3)
    assert {len(set(half[days == day])) for day in range(60)} == {1}
    assert half.mean() == pytest.approx(0.5)
    assert (half == slice_search.halves(days, 3)).all()


def test_too_few_rows_are_not_searched() -> None:
    """No slice is found where none could have the support."""
    labels, p = rows(300)
    assert found_in(labels, p, {"n": np.arange(300.0)}, np.arange(300) % 2 == 0) == []
