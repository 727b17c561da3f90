"""What counts as a broken promise between two OpenAPI documents: case by case."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from services.flight_delay.schema import Delay, Flight
from tidegate.core import openapi
from tidegate.core.breaking import breaking
from tidegate.serving.description import document

Node = dict[str, Any]
OLD = document("flight_delay", "1", Flight, Delay, features=True)


def changed(edit: Callable[[Node], Any]) -> Node:
    """Return flight-delay's real document after an edit."""
    new = copy.deepcopy(OLD)
    edit(new)
    return new


def _schema(document: Node, name: str) -> Node:
    found: Node = document["components"]["schemas"][name]
    return found


def _field(document: Node, name: str, inner: str = "") -> Node:
    if not inner:
        return _schema(document, "Flight")["properties"][name]  # type: ignore[no-any-return]
    return _schema(document, name)["properties"][inner]["anyOf"][0]  # type: ignore[no-any-return]


def _answer(document: Node, name: str = "") -> Node:
    found = _schema(document, "DelayAnswer")
    return found["properties"][name] if name else found  # type: ignore[no-any-return]


FLIGHT, ANSWER = "/components/schemas/Flight", "/components/schemas/DelayAnswer"

# What was changed → where the finding points, and what it says.
BROKEN: dict[str, tuple[Callable[[Node], Any], str, str]] = {
    "a path is removed": (
        lambda d: d["paths"].pop("/predict"),
        "/paths/~1predict/post",
        "POST /predict is gone",
    ),
    "a method is removed": (
        lambda d: d["paths"]["/features"].update(get=d["paths"]["/features"].pop("post")),
        "/paths/~1features/post",
        "gone",
    ),
    "a field is required": (
        lambda d: _schema(d, "Flight")["required"].append("tailnum"),
        f"{FLIGHT}/required",
        "`tailnum` is required now",
    ),
    "a new required field": (
        lambda d: (
            _schema(d, "Flight")["properties"].update(gate={"type": "string"}),
            _schema(d, "Flight")["required"].append("gate"),
        ),
        f"{FLIGHT}/required",
        "`gate` is required now",
    ),
    "a nested field is required": (
        lambda d: _schema(d, "Weather")["required"].append("temp"),
        "/components/schemas/Weather/required",
        "`temp` is required now",
    ),
    "a field is removed": (
        lambda d: _schema(d, "Weather")["properties"].pop("visib"),
        "/components/schemas/Weather/properties/visib",
        "`visib` was accepted and is refused now",
    ),
    "null is forbidden": (
        lambda d: _schema(d, "Flight")["properties"].update(plane={"$ref": "#/components/schemas/Plane"}),
        f"{FLIGHT}/properties/plane/anyOf/1",
        "null was accepted and is refused now",
    ),
    "a type is narrowed": (
        lambda d: _field(d, "distance").update(type="integer"),
        f"{FLIGHT}/properties/distance",
        "number was accepted and is refused now",
    ),
    "a type is another": (
        lambda d: d["components"]["schemas"]["Flight"]["properties"].update(flight={"type": "string"}),
        f"{FLIGHT}/properties/flight",
        "integer was accepted and is refused now",
    ),
    "a maximum is lowered": (
        lambda d: _field(d, "distance").update(maximum=5000),
        f"{FLIGHT}/properties/distance/maximum",
        "maximum was 20000 and is 5000",
    ),
    "a minimum is raised": (
        lambda d: _field(d, "Weather", "temp").update(minimum=0),
        "/components/schemas/Weather/properties/temp/anyOf/0/minimum",
        "minimum was -150 and is 0",
    ),
    "a text is shorter": (
        lambda d: _field(d, "tailnum")["anyOf"][0].update(maxLength=6),
        f"{FLIGHT}/properties/tailnum/anyOf/0/maxLength",
        "maxLength was 16 and is 6",
    ),
    "a pattern is another": (
        lambda d: _field(d, "carrier").update(pattern="^[A-Z]{2}$"),
        f"{FLIGHT}/properties/carrier/pattern",
        "pattern was",
    ),
    "a pattern is new": (
        lambda d: _field(d, "tailnum")["anyOf"][0].update(pattern="^N"),
        f"{FLIGHT}/properties/tailnum/anyOf/0/pattern",
        "pattern was none and is ^N",
    ),
    "a format is new": (
        lambda d: _field(d, "sched_dep_time").update(format="time"),
        f"{FLIGHT}/properties/sched_dep_time/format",
        "format was none",
    ),
    "steps are coarser": (
        lambda d: _field(d, "Plane", "year").update(multipleOf=10),
        "/components/schemas/Plane/properties/year/anyOf/0/multipleOf",
        "multipleOf was 1 and is 10",
    ),
    "only some values": (
        lambda d: _field(d, "origin").update(enum=["EWR", "JFK"]),
        f"{FLIGHT}/properties/origin/enum",
        "is refused now",
    ),
    "JSON is no longer taken": (
        lambda d: d["paths"]["/predict"]["post"]["requestBody"].update(content={"text/csv": {}}),
        "/paths/~1predict/post/requestBody/content/application~1json",
        "refused now",
    ),
    "what is not understood": (
        lambda d: _schema(d, "Flight").update({"not": {"required": ["plane"]}}),
        f"{FLIGHT}/not",
        "is not known",
    ),
    "an answer's field is removed": (
        lambda d: (_answer(d)["properties"].pop("late"), _answer(d)["required"].remove("late")),
        f"{ANSWER}/required",
        "`late` is gone",
    ),
    "an answer's field may be missing": (
        lambda d: _answer(d)["required"].remove("late"),
        f"{ANSWER}/required",
        "`late` is no longer always there",
    ),
    "an answer may be null": (
        lambda d: _answer(d, "probability").update(type=["number", "null"]),
        f"{ANSWER}/properties/probability",
        "null was never answered and may be now",
    ),
    "an answer's type is another": (
        lambda d: _answer(d, "late").update(type="string"),
        f"{ANSWER}/properties/late",
        "string was never answered",
    ),
    "an answer's range is wider": (
        lambda d: _answer(d, "probability").update(maximum=100),
        f"{ANSWER}/properties/probability/maximum",
        "maximum was 1 and is 100",
    ),
    "no answer of 200": (
        lambda d: d["paths"]["/predict"]["post"]["responses"].update(
            {"202": d["paths"]["/predict"]["post"]["responses"].pop("200")}
        ),
        "/paths/~1predict/post/responses/200/content/application~1json",
        "are gone",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found_where_it_is(name: str) -> None:
    """Each breaking change of the real document is one or more findings, one at the place of the change."""
    edit, pointer, what = BROKEN[name]
    found = breaking(OLD, changed(edit))
    assert any(one.pointer == pointer and what in one.what for one in found), found


FINE: dict[str, Callable[[Node], Any]] = {
    "nothing": lambda d: None,
    "an optional field": lambda d: _schema(d, "Flight")["properties"].update(gate={"type": "string"}),
    "a path": lambda d: d["paths"].update({"/explain": d["paths"]["/predict"]}),
    "an answer's field": lambda d: _answer(d)["properties"].update(season={"type": "string"}),
    "an answer's field that is always there": lambda d: (
        _answer(d)["properties"].update(season={"type": "string"}),
        _answer(d)["required"].append("season"),
    ),
    "a wider range": lambda d: _field(d, "distance").update(maximum=30000, minimum=0),
    "no range": lambda d: _field(d, "distance").pop("maximum"),
    "a wider type": lambda d: _field(d, "flight").update(type="number"),
    "null is fine now": lambda d: _field(d, "distance").update(type=["number", "null"]),
    "no longer required": lambda d: _schema(d, "Flight")["required"].remove("dest"),
    "no pattern": lambda d: _field(d, "carrier").pop("pattern"),
    "whole steps of a whole number": lambda d: _field(d, "flight").update(multipleOf=1),
    "an answer's range is narrower": lambda d: _answer(d, "probability").update(minimum=0.01),
    "other words": lambda d: _field(d, "dest").update(description="where to", title="Dest"),
    "another name of a schema": lambda d: (
        d["components"]["schemas"].update(Machine=_schema(d, "Plane")),
        _field(d, "plane").update(anyOf=[{"$ref": "#/components/schemas/Machine"}, {"type": "null"}]),
    ),
    "alternatives in another order": lambda d: _field(d, "weather")["anyOf"].reverse(),
}


@pytest.mark.parametrize("name", FINE)
def test_an_addition_breaks_nothing(name: str) -> None:
    """What only allows more of requests, or promises more of answers, is no finding."""
    assert breaking(OLD, changed(FINE[name])) == []


@pytest.mark.parametrize("old", [{}, [], None, {"openapi": "3.1.0", "paths": {}}])
def test_a_document_that_promises_nothing_is_not_kept(old: Any) -> None:
    """Nothing to compare with is an error, never "no breaking change"."""
    with pytest.raises(openapi.Unreadable):
        breaking(old, OLD)


class Tree(msgspec.Struct):
    """A request that contains itself."""

    left: Tree | None = None
    right: Tree | None = None


def test_a_schema_that_contains_itself_ends() -> None:
    """Comparing goes round a circle once; schemas without references can't be had of one."""
    made = document("tree", "1", Tree, Delay, features=False)
    assert breaking(made, made) == []
    worse = copy.deepcopy(made)
    worse["components"]["schemas"]["Tree"]["required"] = ["left"]
    assert [one.what for one in breaking(made, worse)] == ["`left` is required now"]
    with pytest.raises(openapi.Unreadable, match="contains itself"):
        openapi.request_schema(made, "/predict")


def test_schemas_come_without_references() -> None:
    """The request's schema stands alone: what it refers to is in its place."""
    found = openapi.request_schema(OLD, "/predict")
    assert "$ref" not in str(found)
    assert found["properties"]["plane"]["anyOf"][0]["properties"]["seats"]["anyOf"][0]["maximum"] == 1000
    assert openapi.answer_schema(OLD, "/predict")["properties"]["probability"]["maximum"] == 1


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [("^[A-Z]{3}$", "EWR", "EWR\n"), (r"^\d$", "7", "٧"), (r"^[$]\$$", "$$", "$$\n"), ("^a|b$", "b", "b\n")],
)
def test_patterns_mean_the_same_in_python(pattern: str, matching: str, other: str) -> None:
    """`$` lets a trailing newline through in Python, and `\\d` all of Unicode's digits; not in ECMA-262."""
    made = openapi.python_patterns({"properties": {"a": {"pattern": pattern}}})["properties"]["a"]["pattern"]
    assert re.search(made, matching)
    assert not re.search(made, other)
