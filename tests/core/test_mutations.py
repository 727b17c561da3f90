"""Requests made of a schema: forbidden ones really are, and each kind of thing is tried at each field."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from services.flight_delay.schema import Delay, Flight
from tests.builders import flight_row
from tidegate.adapters import hypothesis
from tidegate.core import contract, mutations, openapi
from tidegate.core.contract import Answer
from tidegate.core.mutations import Case
from tidegate.core.verdict import Verdict
from tidegate.errors import NoData
from tidegate.serving.description import document

SCHEMA = openapi.request_schema(document("f", "1", Flight, Delay, features=True), "/predict")
ACCEPTS = contract.acceptance()
CASES = list(mutations.cases(SCHEMA, [flight_row()], ACCEPTS))
FIELDS = 25  # of a flight, with those of its plane, its weather and its recent delays


def test_every_field_is_reached() -> None:
    """Each field, nested ones too, gets wrong types, NaN, huge numbers, odd texts and deep nesting."""
    assert len(list(mutations.places(SCHEMA))) == FIELDS
    for kind in ("wrong types", "NaN and infinities", "half characters"):
        assert len({case.field for case in CASES if case.kind == kind}) == FIELDS
    found = Counter(case.kind for case in CASES)
    assert found["missing fields"] == found["nulls"] == len(SCHEMA["required"])
    assert found["extra fields"] == 4 * len(mutations.EXTRA)  # of the flight and the three objects in it
    assert found["out of range"] > 50


def test_what_must_be_refused_is_forbidden_by_the_schema() -> None:
    """What JSON Schema allows is never expected to be refused, and what it forbids never to be answered."""
    for case in CASES:
        if case.kind == "deep nesting":
            continue  # too deep to be told about
        value = json.loads(case.body)
        odd = case.kind in ("half characters", "NaN and infinities")  # JSON Schema has no word for them
        assert ACCEPTS(SCHEMA, value) is case.fine or odd, case.change


def test_ends_of_ranges_are_allowed() -> None:
    """Rows without an optional field, with null for it and at the ends of ranges are all allowed."""
    found = dict(mutations.edges(SCHEMA, [flight_row(weather=None), flight_row()], ACCEPTS))
    assert all(ACCEPTS(SCHEMA, json.loads(body)) for body in found.values())
    assert {"without weather.temp", "weather.temp null", "weather.temp -150", "distance 20000"} <= set(found)
    assert "temp" not in json.loads(found["without weather.temp"])["weather"]


def test_no_row_makes_no_request() -> None:
    """Nothing is made up of nothing, and nothing tried is ERROR."""
    assert list(mutations.cases(SCHEMA, [], ACCEPTS)) == list(mutations.edges(SCHEMA, [], ACCEPTS)) == []
    assert [one.verdict for one in contract.kinds([])] == [Verdict.ERROR]


def test_drawn_requests_are_allowed_and_the_same_again() -> None:
    """Hypothesis draws what the schema allows, by seed."""
    rows = hypothesis.rows(SCHEMA, 40, seed=3)
    assert len(rows) == 40
    assert all(ACCEPTS(SCHEMA, row) for row in rows)
    assert rows == hypothesis.rows(SCHEMA, 40, seed=3) != hypothesis.rows(SCHEMA, 40, seed=4)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "string", "pattern": "("},
        {"enum": []},
        {"type": "integer", "minimum": 3, "not": {}},
    ],
)
def test_a_schema_that_allows_nothing_is_no_data(schema: Any) -> None:
    """A request that can't be drawn is an error, never a list of none."""
    with pytest.raises(NoData):
        hypothesis.rows(schema, 5, seed=1)


FINE, BAD = Case("kind", "change", b"", fine=True), Case("kind", "change", b"", "a.b")


@pytest.mark.parametrize(
    ("case", "answer", "fine"),
    [
        (FINE, Answer(200, {"p": 0.5}), True),
        (FINE, Answer(200, {"p": 2}), False),
        (FINE, Answer(200, {"p": float("nan")}), False),
        (FINE, Answer(200, {"p": 0.5, "more": [1, float("inf")]}), False),
        (FINE, Answer(200, {}), False),
        (FINE, Answer(200, None), False),
        (FINE, Answer(422, {"error": {"field": "a.b"}}), False),
        (FINE, Answer(0), False),
        (BAD, Answer(422, {"error": {"field": "a.b"}}), True),
        (BAD, Answer(422, {"error": {"field": "a.b.c"}}), True),
        (BAD, Answer(422, {"error": {"field": "a.bc"}}), False),
        (BAD, Answer(422, {"error": {"field": None}}), False),
        (BAD, Answer(422, {"detail": "no"}), False),
        (BAD, Answer(404, {"error": {"field": "a.b"}}), False),
        (BAD, Answer(429, {"error": {"field": "a.b"}}), False),
        (BAD, Answer(500, {"error": {"field": "a.b"}}), False),
        (BAD, Answer(200, {"p": 0.5}), False),
        (BAD, Answer(0), False),
    ],
)
def test_answers_are_judged(case: Case, answer: Answer, fine: bool) -> None:
    """An allowed request needs a 200 as promised and finite, a forbidden one a 4xx for its own field."""
    check = contract.checker(
        {"properties": {"p": {"type": "number", "minimum": 0, "maximum": 1}}, "required": ["p"]}
    )
    assert (contract.case_problem(case, answer, check) == "") is fine


@pytest.mark.parametrize(
    ("answers", "release", "verdict"),
    [
        ([{"release": "a"}], "a", Verdict.PASS),
        ([{"release": "a"}], "b", Verdict.FAIL),
        ([{"release": "a"}, {"release": "b"}], "a", Verdict.FAIL),
        ([], "a", Verdict.FAIL),
        ([{"release": "a"}, {"release": "b"}], "", Verdict.FAIL),
        ([{"release": "a"}, {"release": "a"}], "", Verdict.PASS),
        ([None], "", Verdict.FAIL),
    ],
)
def test_the_release_must_be_the_one_that_was_asked_for(
    answers: list[Any], release: str, verdict: Verdict
) -> None:
    """Each answer names the release; none, or another, is a failure."""
    assert contract.who([Answer(200, body) for body in answers], release).verdict is verdict


@pytest.mark.parametrize("statuses", [[200], [500], [0], [405, 200]])
def test_other_methods_are_refused(statuses: list[int]) -> None:
    """Each must get a 4xx; to ask by other content types may be answered, and must not fail."""
    answers = {str(place): Answer(status) for place, status in enumerate(statuses)}
    assert contract.refused("methods", answers).verdict is Verdict.FAIL
    survived = Verdict.PASS if {*statuses} <= {200, 405} else Verdict.FAIL
    assert contract.survived("types", answers).verdict is survived
