"""What a column may hold, and rows that are there twice."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest

from tidegate.core.columns import Column, broken_rows, is_kind, is_numeric, repeated, shared


def rows(count: int) -> pd.DataFrame:
    """Different rows, a third of whose seats are unknown."""
    number = np.arange(count)
    seats = np.where(number % 3, 100.0 + number, np.nan)
    return pd.DataFrame({"day": [f"d{n}" for n in number], "flight": number, "seats": seats})


def test_a_kind_is_the_stored_type() -> None:
    """Numbers kept as text are text; an int column with nulls is stored as floats; true is no number."""
    assert is_kind(pd.Series([1.0, None, 3.0]), "int")
    assert not is_kind(pd.Series([1.5, 2.0]), "int")
    assert is_kind(pd.Series(["1", "2"]), "text")
    assert not is_kind(pd.Series(["1", "2"]), "number")
    assert not is_kind(pd.Series([True, False]), "number")
    assert is_kind(pd.Series([0, 1]), "flag")
    assert not is_kind(pd.Series([0, 2]), "flag")
    assert is_numeric(pd.Series([True, False]))
    assert not is_numeric(pd.Series(["1"]))


def test_broken_rows_are_counted_once() -> None:
    """A row that breaks two rules of its column counts once; one of another type breaks all of them."""
    frame = rows(30)
    frame.loc[4, "flight"] = -7
    known = {"flight": Column("int", within=(0, 99)), "day": Column("text", pattern="^d", among=("d1", "x"))}
    assert broken_rows(frame, known) == {"flight": 1, "day": 29}
    assert broken_rows(frame, {"day": Column("number")}) == {"day": 30}


@pytest.mark.parametrize(
    "rules",
    [
        {"within": [9, 1]},
        {"mean": [0, float("nan")]},
        {"within": [float("-inf"), 0]},
        {"nulls": -0.1},
        {"nulls": 1.1},
        {"nulls": float("nan")},
        {"types": "int"},
    ],
)
def test_rules_that_let_everything_through_are_refused(rules: dict[str, object]) -> None:
    """A range upside down or without an end, a share beyond 1, and an unknown rule are errors."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "number", **rules}, Column)


def test_repeated_counts_each_row_after_its_first() -> None:
    """Three equal rows are two too many; nulls are equal to each other; a key looks at its columns only."""
    frame = rows(9)
    again = pd.concat([frame, frame.iloc[[0, 0, 4]]], ignore_index=True)
    assert repeated(frame) == 0
    assert repeated(again) == 3
    again["flight"] = np.arange(len(again))
    assert repeated(again) == 0
    assert repeated(again, ("day",)) == 3
    with pytest.raises(KeyError):
        repeated(frame, ("gone",))


def test_shared_counts_rows_of_the_later_frame() -> None:
    """A row known to the earlier frame counts as often as it comes; one that is only there twice does not."""
    earlier, later = rows(9), rows(20).iloc[9:]
    key = tuple(earlier)
    assert shared(earlier, later, key) == 0
    assert shared(earlier, pd.concat([later, later]), key) == 0
    leaked = pd.concat([later, earlier.iloc[[0, 3, 3]]])
    assert shared(earlier, leaked, key) == 3
    assert shared(earlier, leaked.assign(day="x"), key) == 0
    assert shared(earlier, leaked.assign(day="x"), ("flight", "seats")) == 3


def test_shared_takes_columns_of_different_types() -> None:
    """Text in one frame and numbers in the other are different, and no error."""
    earlier, later = rows(9), rows(9).astype({"flight": str})
    assert shared(earlier, later, ("flight",)) == 0


def test_a_texts_length_is_a_rule_of_texts() -> None:
    """Too short and too long each break it, an unknown text does not; a number has no length."""
    texts = pd.DataFrame({"note": ["a", "bb", None, "ccc", "dddd"]})
    assert broken_rows(texts, {"note": Column("text", length=(2, 3))}) == {"note": 2}
    for rule in ({"length": (1, 2)}, {"pattern": "^a"}, {"among": ("a",)}):
        with pytest.raises(ValueError, match=f"`{next(iter(rule))}` is a rule for text"):
            Column("number", **rule)
    with pytest.raises(ValueError, match="lower first"):
        Column("text", length=(3, 2))
