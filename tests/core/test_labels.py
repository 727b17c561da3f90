"""Labels by the model's task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import labels
from tidegate.core.task import Declaration
from tidegate.core.verdict import Verdict, worst

FLAG = Declaration("classification", "late", "probability")
CLASSES = Declaration("classification", "mood", ("bad", "good"))
NUMBER = Declaration("regression", "price", "guess")
GRADES = Declaration("ranking", "grade", "score", "query")
HELD: dict[Declaration, labels.Expected] = {
    FLAG: labels.Expected(label_rate=(0.2, 0.8)),
    CLASSES: labels.Expected(label_rate={"bad": (0.2, 0.8), "good": (0.2, 0.8)}),
    NUMBER: labels.Expected(label_mean=(1, 3), label_within=(0, 4)),
    GRADES: labels.Expected(label_within=(0, 4), group_rows=(2, 3), flat_groups=0.5),
}
GOOD: dict[Declaration, Any] = {
    FLAG: [0, 1, True, False],
    CLASSES: ["bad", "good", "good", "bad"],
    NUMBER: [1, 2.5, 3, 2],
    GRADES: [0, 2, 1, 3],
}
GROUPS = np.array(["a", "a", "b", "b"])


def verdict(declared: Declaration, values: Any, groups: Any = GROUPS) -> Verdict:
    """Return the worst verdict on these labels."""
    found = labels.findings("train", np.array(values, dtype=object), groups, declared, HELD[declared])
    return worst(one.verdict for one in found)


@pytest.mark.parametrize("declared", HELD, ids=lambda one: f"{one.task} {len(one.columns)}")
def test_good_labels_pass(declared: Declaration) -> None:
    """Each task's own labels, within the ranges that are said of them."""
    assert labels.misfit(HELD[declared], declared) == ""
    assert verdict(declared, GOOD[declared]) is Verdict.PASS


@pytest.mark.parametrize("declared", HELD, ids=lambda one: f"{one.task} {len(one.columns)}")
@pytest.mark.parametrize("odd", [None, math.nan, math.inf, "a word", -7])
@given(place=st.integers(0, 3))
def test_one_odd_label_is_never_passed(declared: Declaration, odd: Any, place: int) -> None:
    """Nothing, NaN, infinity, a word and a number that is none of them hold back, wherever they stand."""
    values = list(GOOD[declared])
    values[place] = odd
    assert verdict(declared, values).holds_back


@pytest.mark.parametrize("declared", HELD, ids=lambda one: f"{one.task} {len(one.columns)}")
def test_one_label_for_all_rows_and_no_rows_are_never_passed(declared: Declaration) -> None:
    """There is nothing to learn from a constant, and nothing at all from nothing."""
    first = GOOD[declared][1]
    assert verdict(declared, [first] * 4).holds_back
    assert verdict(declared, [], np.array([])).holds_back


def test_rows_without_a_group_and_no_groups_hold_back() -> None:
    """A ranking's rows are compared within their group, so each must have one."""
    assert verdict(GRADES, GOOD[GRADES], np.array(["a", "a", "b", None], dtype=object)) is Verdict.FAIL
    assert verdict(GRADES, GOOD[GRADES], None) is Verdict.ERROR


@pytest.mark.parametrize("declared", HELD, ids=lambda one: f"{one.task} {len(one.columns)}")
@pytest.mark.parametrize("other", HELD, ids=lambda one: f"{one.task} {len(one.columns)}")
def test_only_what_is_said_of_the_task_fits(declared: Declaration, other: Declaration) -> None:
    """A range for each class is none for a flag, a rate is none for a number; each says which key."""
    said = labels.misfit(HELD[other], declared)
    assert bool(said) is (declared is not other)
    assert ("`" in said) is bool(said)
