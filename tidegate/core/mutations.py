"""A request's schema and some good rows → requests that it forbids, each with the field that is to blame.

Nothing here is drawn at random, but the row that is spoilt is the next one each time, so that a list of
generated rows is a list of different places to break.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Accepts = Callable[[Any, Any], bool]  # (schema, value) → whether the value is fine

RAW = "a place that raw text takes"
DEEP = 500  # lists in lists
LONG = 10_000  # characters
MEGABYTE = 1_000_000  # bytes

WRONG_TYPES: tuple[Any, ...] = ("text", 7, 1.5, True, [], [1], {}, {"a": 1})
TEXTS = {
    "empty": "",
    "a space": " ",
    "right to left": "\u202eשלום",
    "a NUL": "a\x00b",
    "an emoji": "🛫",
    "combining marks": "e\u0301\u0327" * 5,
    "a line's end": "A\n",
    f"{LONG} letters": "x" * LONG,
}
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
HUGE = ("1e400", "-1e400", "1" + "0" * 30, "1" + "0" * 400, "-1" + "0" * 30, "1e308")
EXTRA = ("not_a_field", "\u202ename", "\x00", "__class__")


@dataclass(frozen=True)
class Case:
    """One request. `fine` ones must be answered, others refused with a 4xx that names `field`.

    `kind` says what is tried, `change` what was done to a good row. An empty `field` is any.
    """

    kind: str
    change: str
    body: bytes
    field: str = ""
    fine: bool = False


@dataclass(frozen=True)
class Place:
    """A field: its name with dots into objects, its schema, and whether the object around it needs it."""

    path: tuple[str, ...]
    schema: Mapping[str, Any]
    required: bool

    @property
    def name(self) -> str:
        """The field's name, as an answer must give it."""
        return ".".join(self.path)


def places(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Place]:
    """Yield each field of a request without references, objects before what is in them."""
    for inner in _objects(schema):
        for name, field in inner.get("properties", {}).items():
            yield Place((*path, name), field, name in inner.get("required", ()))
            yield from places(field, (*path, name))


def cases(schema: Mapping[str, Any], rows: Sequence[Row], accepts: Accepts) -> Iterator[Case]:
    """Yield every request that is tried; `accepts` judges by JSON Schema. No rows give no cases."""
    for number, place in enumerate(places(schema) if rows else ()):
        yield from _fields(place, _suited(rows, place.path, number), accepts)
    for number, path in enumerate(_closed(schema) if rows else ()):
        yield from _extras(path, _suited(rows, path, number))


def _suited(rows: Sequence[Row], path: tuple[str, ...], number: int) -> Row:
    """Return the next row in which what lies at `path` is known, or else the object around it; else any."""
    turned = [*rows[number % len(rows) :], *rows[: number % len(rows)]]
    for wanted in (path, path[:-1]):
        for row in turned:
            if _known(row, wanted):
                return row
    return turned[0]


def _known(row: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        row = row.get(name) if isinstance(row, Mapping) else None
    return row is not None


def _fields(place: Place, row: Row, accepts: Accepts) -> Iterator[Case]:
    def case(kind: str, value: Any, raw: str = "", shown: str = "") -> Case:
        text = shown or raw or json.dumps(value)
        return Case(kind, f"{place.name} = {text[:40]}", body(row, place.path, value, raw), place.name)

    if place.required:
        yield Case("missing fields", f"{place.name} left out", without(row, place.path), place.name)
    if not accepts(place.schema, None):
        yield case("nulls", None)
    for value in (*WRONG_TYPES, *_beyond(place.schema)):
        if not accepts(place.schema, value):
            wrong_type = any(value is one for one in WRONG_TYPES)
            yield case("wrong types" if wrong_type else "out of range", value)
    for name, text in TEXTS.items():
        fine = accepts(place.schema, text)
        made = case("odd texts", text, shown=name)
        yield Case("odd texts that are fine", made.change, made.body, fine=True) if fine else made
    for raw in NOT_FINITE:
        yield case("NaN and infinities", None, raw)
    for raw in HUGE:
        if not accepts(place.schema, json.loads(raw)):
            yield case("huge numbers", None, raw)
    yield case("half characters", None, '"\\ud800"')
    if not accepts(place.schema, []):
        nested = case("deep nesting", None, "[" * DEEP + "]" * DEEP, f"{DEEP} lists in each other")
        yield Case(nested.kind, nested.change, nested.body)


def _extras(path: tuple[str, ...], row: Row) -> Iterator[Case]:
    for name in EXTRA:
        full = (*path, name)
        shown = json.dumps(".".join(full))
        yield Case("extra fields", f"{shown} added", body(row, full, 1), ".".join(full))


def _beyond(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield numbers just beyond and far beyond what a field allows, and between its steps."""
    for kind in _alternatives(schema):
        for key in ("minimum", "exclusiveMinimum"):
            if key in kind:
                yield from (kind[key] - 1, math.nextafter(kind[key], -math.inf), -abs(kind[key]) * 1e6 - 1)
        for key in ("maximum", "exclusiveMaximum"):
            if key in kind:
                yield from (kind[key] + 1, math.nextafter(kind[key], math.inf), abs(kind[key]) * 1e6 + 1)
        if "multipleOf" in kind:
            yield kind.get("minimum", 0) + kind["multipleOf"] / 2


def _closed(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where the objects are that take no other fields than their own."""
    for inner in _objects(schema):
        if inner.get("additionalProperties") is False:
            yield path
        for name, field in inner.get("properties", {}).items():
            yield from _closed(field, (*path, name))


def _alternatives(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if not inner:
        yield schema
    for one in inner:
        yield from _alternatives(one)


def _objects(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (one for one in _alternatives(schema) if "properties" in one)


def edges(schema: Mapping[str, Any], rows: Sequence[Row], accepts: Accepts) -> Iterator[tuple[str, bytes]]:
    """Yield allowed requests: without each optional field, with null for it, at both ends of each range."""
    for number, place in enumerate(places(schema) if rows else ()):
        row = _suited(rows, place.path, number)
        if not place.required:
            yield f"without {place.name}", without(row, place.path)
        if accepts(place.schema, None):
            yield f"{place.name} null", body(row, place.path, None)
        for kind in _alternatives(place.schema):
            for key in ("minimum", "maximum"):
                if key in kind and accepts(place.schema, kind[key]):
                    yield f"{place.name} {kind[key]}", body(row, place.path, kind[key])


# ---------------------------------------------------------------- bodies
def body(row: Row, path: Sequence[str], value: Any, raw: str = "") -> bytes:
    """Return a row's body with another value, or with `raw` text, which JSON may have no value for."""
    result = copy.deepcopy(dict(row))
    place = _around(result, path)
    place[path[-1]] = RAW if raw else value
    return json.dumps(result).replace(json.dumps(RAW), raw).encode()


def without(row: Row, path: Sequence[str]) -> bytes:
    """Return a row's body without a field."""
    result = copy.deepcopy(dict(row))
    _around(result, path).pop(path[-1], None)
    return json.dumps(result).encode()


def _around(row: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return the object that a field is in, made where it is missing."""
    for name in path[:-1]:
        row[name] = row.get(name) or {}
        row = row[name]
    return row


def hostile(row: Row) -> Iterator[Case]:
    """Yield bodies that are no request to any model, and one that must do no harm: `row` with a key twice."""
    text = json.dumps(dict(row))
    name = json.dumps(next(iter(row), "a"))
    for kind, content in {
        "an empty body": b"",
        "half an object": b'{"a": ',
        "the first half of a row": text[: len(text) // 2].encode(),
        "a list": b"[]",
        "rows in a list": f"[{text}]".encode(),
        "null": b"null",
        "a number": b"17",
        "NaN": b"NaN",
        "not UTF-8": b'"\xff"',
        "UTF-16": text.encode("utf-16"),
        "two rows": f"{text}\n{text}".encode(),
        "10,000 lists in each other": b"[" * 10_000,
        "a form": b"a=1&b=2",
    }.items():
        yield Case("bodies that are no row", kind, content)
    spaces = text[:-1] + " " * MEGABYTE + "}"
    long = text[:-1] + f', "not_a_field": "{"x" * MEGABYTE}"}}'
    for kind, content in {
        "1 MB of spaces in a row": spaces.encode(),
        "1 MB of text in a field": long.encode(),
        "1 MB of zeros": b"\0" * MEGABYTE,
        "1 MB of lists": b"[" * MEGABYTE,
    }.items():
        yield Case("1 MB bodies", kind, content)
    yield Case("a key twice", "a bad value last", f"{text[:-1]}, {name}: []}}".encode())
