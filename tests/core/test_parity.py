"""Two computations of the same rows, beside each other."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tidegate.core import parity
from tidegate.core.contract import Answer
from tidegate.core.parity import Served
from tidegate.core.verdict import Verdict, worst

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("pipeline", "service", "apart"),
    [
        (1.0, 1.0, 0),
        (1.0, 1.5, 0.5),
        (NAN, None, 0),
        (NAN, NAN, 0),
        (NAN, 0.0, INF),
        (0.0, None, INF),
        (INF, INF, 0),
        (INF, 1.0, INF),
        (-0.0, 0.0, 0),
    ],
)
def test_unknown_is_the_same_as_unknown_and_nothing_else(
    pipeline: float, service: float | None, apart: float
) -> None:
    """NaN here and null there are the same; a number and neither of them are infinitely apart."""
    assert parity.difference(pipeline, service) == apart


def _served(*values: dict[str, float | None]) -> list[Served]:
    return [Served(f"row {place}", one, {"p": 0.5}) for place, one in enumerate(values)]


def test_the_worst_feature_comes_first_with_its_row() -> None:
    """Of each feature it is told in how many rows it differs, by how much at worst, and where."""
    served = _served({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 5.0}, {"a": 1.0, "b": None})
    first, second = parity.skews(["a", "b"], [[1, 2], [1, 4], [1, NAN]], served, 1e-6)
    assert (first.feature, first.differing, first.worst, first.where) == ("b", 1, 1.0, "row 1")
    assert (first.pipeline, first.service, second.differing) == (4, 5.0, 0)
    findings = parity.feature_findings([first, second])
    assert [one.verdict for one in findings] == [Verdict.FAIL, Verdict.FAIL]
    assert "4 in the pipeline, 5.0 in the service (row 1)" in findings[0].reason
    assert parity.table([first, second]).rows[0][0] == "b"


def test_equal_features_pass_with_one_finding() -> None:
    """Nothing differs: one finding that says of how many values."""
    (found,) = parity.feature_findings(
        parity.skews(["a"], [[1.0], [NAN]], _served({"a": 1.0}, {"a": None}), 0)
    )
    assert found.verdict is Verdict.PASS
    assert "of 2 values" in found.reason


@pytest.mark.parametrize("skews", [[], [parity.Skew("a", 0, 0, 0.0, None, None, "")]])
def test_no_row_and_no_feature_is_an_error(skews: list[parity.Skew]) -> None:
    """Nothing compared is never the same."""
    assert worst(one.verdict for one in parity.feature_findings(skews)) is Verdict.ERROR


@pytest.mark.parametrize(
    ("pipeline", "service", "verdict"),
    [
        ([0.5, 0.25], [0.5, 0.25], Verdict.PASS),
        ([0.5, 0.25], [0.5, 0.25 + 1e-7], Verdict.PASS),
        ([0.5, 0.25], [0.5, 0.25 + 1e-5], Verdict.FAIL),
        ([0.5, 0.25], [0.5, NAN], Verdict.FAIL),
        ([0.5, 0.25], [0.5, None], Verdict.FAIL),
        ([0.5, 0.25], [0.5, "0.25"], Verdict.FAIL),
        ([1.0, 0.25], [True, 0.25], Verdict.FAIL),
        ([NAN, 0.25], [None, 0.25], Verdict.ERROR),
        ([], [], Verdict.ERROR),
        ([0.5], [0.5, 0.25], Verdict.ERROR),
    ],
)
def test_predictions_are_compared(pipeline: list[float], service: list[Any], verdict: Verdict) -> None:
    """Within the tolerance is the same; what is no number differs; nothing to compare is an error."""
    rows = [f"row {place}" for place in range(2)]
    assert parity.predictions("predictions", pipeline, service, rows, 1e-6).verdict is verdict


FEATURES, PREDICTED = Answer(200, {"features": {"a": 1.0}}), Answer(200, {"p": 0.5})


@pytest.mark.parametrize(
    ("features", "predicted", "problem"),
    [
        (FEATURES, PREDICTED, ""),
        (Answer(500, {}), PREDICTED, "/features: status 500"),
        (FEATURES, Answer(0), "/predict: no answer"),
        (Answer(200, {"a": 1.0}), PREDICTED, "/features: there is no `features`"),
        (FEATURES, Answer(200, {"q": 0.5}), "/predict: there is no `p`"),
        (Answer(200, {"features": [1.0]}), PREDICTED, "not all features are numbers or null"),
        (Answer(200, {"features": {"a": "1"}}), PREDICTED, "not all features are numbers or null"),
        (Answer(200, {"features": {"a": INF}}), PREDICTED, "not all features are numbers or null"),
    ],
)
def test_answers_are_read(features: Answer, predicted: Answer, problem: str) -> None:
    """A row without both answers is told with the reason, and counts as unanswered."""
    found = parity.served("row 0", features, predicted, ["p"])
    assert problem in found.problem
    assert bool(found.problem) is bool(problem)
    assert (parity.unanswered([found]).verdict is Verdict.PASS) is not bool(problem)


def test_of_several_fields_each_must_be_there() -> None:
    """An answer without the probability of one class is no answer; with all, each is kept by its name."""
    both = Answer(200, {"bad": 0.25, "good": 0.75, "mood": "good"})
    assert parity.served("row 0", FEATURES, both, ["bad", "good"]).predictions == {"bad": 0.25, "good": 0.75}
    found = parity.served("row 0", FEATURES, both, ["bad", "so so", "good"])
    assert found.problem == "/predict: there is no `so so` in the answer"


@pytest.mark.parametrize(
    ("answered", "verdict"),
    [
        ([{"a": 1.0, "b": 1.0}], Verdict.PASS),
        ([{"b": 1.0, "a": 1.0}], Verdict.PASS),
        ([{"a": 1.0}], Verdict.FAIL),
        ([{"a": 1.0, "b": 1.0, "c": 1.0}], Verdict.FAIL),
        ([{"a": 1.0, "b": 1.0}, {"a": 1.0}], Verdict.FAIL),
        ([{}], Verdict.ERROR),
        ([], Verdict.ERROR),
    ],
)
def test_names_must_be_the_pipelines(answered: list[dict[str, float | None]], verdict: Verdict) -> None:
    """Features are compared by name, so each answer has all of them; without names nothing can be seen."""
    assert parity.names(_served(*answered), ["a", "b"]).verdict is verdict
