"""What an answer must hold by the model's declaration."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import contract
from tidegate.core.contract import Answer
from tidegate.core.task import Declaration
from tidegate.core.verdict import Verdict

FLAG = Declaration("classification", "late", "p")
MOODS = Declaration("classification", "mood", ("bad", "so so", "good"))
PRICE = Declaration("regression", "price", "guess")
ORDER = Declaration("ranking", "grade", "score", "query")


@pytest.mark.parametrize(
    ("declared", "body", "problem"),
    [
        (FLAG, {"p": 0.25, "late": False}, ""),
        (FLAG, {"p": 0}, ""),
        (FLAG, {"p": 1.5}, "`p` is 1.5, no probability"),
        (FLAG, {"p": -0.1}, "no probability"),
        (FLAG, {"late": True}, "`p` is None, no number"),
        (FLAG, {"p": True}, "no number"),
        (FLAG, {"p": "0.5"}, "no number"),
        (FLAG, [0.5], "no number"),
        (MOODS, {"bad": 0.25, "so so": 0.25, "good": 0.5}, ""),
        (MOODS, {"bad": 0.25, "so so": 0.25, "good": 0.25}, "sum to 0.75"),
        (MOODS, {"bad": 0.5, "good": 0.5}, "`so so` is None"),
        (PRICE, {"guess": -123456.7}, ""),
        (PRICE, {"guess": math.inf}, "`guess` is inf, no number"),
        (PRICE, {"guess": None}, "no number"),
        (ORDER, {"score": -2.5}, ""),
        (ORDER, {"score": math.nan}, "no number"),
    ],
)
def test_an_answer_holds_what_was_declared(declared: Declaration, body: Any, problem: str) -> None:
    """A finite number in each field; a probability from 0 to 1, and those of all classes sum to 1."""
    found = contract.prediction_problem(body, declared)
    assert bool(found) is bool(problem)
    assert problem in found


@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=3))
def test_probabilities_that_sum_to_1_pass_as_floats(values: list[float]) -> None:
    """Rounding is no fault, a class that counts twice is one."""
    shares = {name: value / sum(values) for name, value in zip(MOODS.classes, values, strict=True)}
    assert contract.prediction_problem(shares, MOODS) == ""
    assert contract.prediction_problem({**shares, "bad": shares["bad"] + 0.01}, MOODS)


def test_one_bad_answer_fails_and_none_is_an_error() -> None:
    """The finding counts answers and tells the first that is wrong; no answer at all proves nothing."""
    good, bad = Answer(200, {"p": 0.5}), Answer(200, {"q": 0.5})
    assert contract.predicted([good, good], FLAG).verdict is Verdict.PASS
    found = contract.predicted([good, bad], FLAG)
    assert (found.verdict, "1 of 2 answers" in found.reason) == (Verdict.FAIL, True)
    assert contract.predicted([], FLAG).verdict is Verdict.ERROR
