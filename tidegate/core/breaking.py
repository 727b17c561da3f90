"""Two OpenAPI 3.1 documents → what of the older one's promise the newer one breaks.

A change is breaking when a request that was fine is refused now, or when an answer may be what was never
promised. Additions are fine: an optional field of a request, a field of an answer, another path. What this
code does not understand of JSON Schema (2020-12) counts as broken wherever the two differ in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tidegate.core.openapi import Schema, Unreadable, below, operation, resolved

Side = Literal["request", "answer"]
Circle = frozenset[tuple[str, str]]  # pairs of pointers that are being compared

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SAYS_NOTHING = {
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "$comment",
    "readOnly",
}
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
SAME = ("pattern", "format", "multipleOf", "const", "uniqueItems")
FIELDS = ("properties", "required", "additionalProperties", "items")
STRUCTURE = {"type", "enum", "anyOf", "oneOf", "$ref", *FIELDS}


@dataclass(frozen=True)
class Break:
    """One broken promise: a JSON pointer into the document that it stands in, and what is wrong."""

    pointer: str
    what: str


def breaking(old: Any, new: Any) -> list[Break]:
    """Return what of `old`'s promise `new` breaks; both are OpenAPI documents. Raises Unreadable."""
    found: list[Break] = []
    if not isinstance(old, Mapping) or not old.get("paths"):
        raise Unreadable("the older document promises nothing")
    for path, operations in old["paths"].items():
        for method in METHODS:
            if method not in operations:
                continue
            at = f"/paths/{_escaped(path)}/{method}"
            if not isinstance(below(new, "paths", path, method), Mapping):
                found.append(Break(at, f"{method.upper()} {path} is gone"))
                continue
            before, after = operation(old, path, method), operation(new, path, method)
            found += _request(_Pair(old, new, "request"), before, after, at)
            found += _answers(_Pair(new, old, "answer"), before, after, at)
    return list(dict.fromkeys(found))


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _request(pair: _Pair, before: Schema, after: Schema, at: str) -> Iterator[Break]:
    old, new = before.get("requestBody") or {}, after.get("requestBody") or {}
    if new.get("required") and not old.get("required"):
        yield Break(f"{at}/requestBody/required", "a body is required now")
    for kind, content in (old.get("content") or {}).items():
        here = f"{at}/requestBody/content/{_escaped(kind)}"
        if kind not in (new.get("content") or {}):
            yield Break(here, f"requests of {kind} are refused now")
        else:
            other = new["content"][kind].get("schema", {})
            yield from pair.compare(content.get("schema", {}), other, f"{here}/schema", f"{here}/schema")


def _answers(pair: _Pair, before: Schema, after: Schema, at: str) -> Iterator[Break]:
    for status, promised in (before.get("responses") or {}).items():
        if not status.startswith("2"):
            continue
        for kind, content in (promised.get("content") or {}).items():
            here = f"{at}/responses/{status}/content/{_escaped(kind)}"
            other = below(after, "responses", status, "content", kind)
            if not isinstance(other, Mapping):
                yield Break(here, f"answers of {kind} with status {status} are gone")
            else:
                mine, theirs = other.get("schema", {}), content.get("schema", {})
                yield from pair.compare(mine, theirs, f"{here}/schema", f"{here}/schema")


@dataclass(frozen=True)
class _Pair:
    """`given` is what comes, `taken` what is accepted: all of the first must be in the second.

    Of requests, what the old document let callers send, and what the new one takes; of answers, what the
    new one may send, and what callers took by the old one.
    """

    given: Any
    taken: Any
    side: Side

    def compare(
        self, given: Schema, taken: Schema, at: str, to: str, inside: Circle = frozenset()
    ) -> list[Break]:
        """Return why not all that `given` allows is allowed by `taken`; `at` and `to` are their pointers."""
        wide = list(_alternatives(given, self.given, at))
        narrow = list(_alternatives(taken, self.taken, to))
        found: list[Break] = []
        for one, here in wide:
            fitting = [(other, there) for other, there in narrow if _holds(other["type"], one["type"])]
            if any((here, there) in inside for _, there in fitting):
                continue  # a circle, which is being looked at already
            tries = [self._one(one, other, here, there, inside | {(here, there)}) for other, there in fitting]
            if not tries:
                text = {
                    "request": f"{one['type']} was accepted and is refused now",
                    "answer": f"{one['type']} was never answered and may be now",
                }
                found.append(Break(here, text[self.side]))
            else:
                fewest: list[Break] = min(tries, key=len)
                found += fewest
        return found

    def _one(self, given: Schema, taken: Schema, at: str, to: str, inside: Circle) -> list[Break]:
        found = [*self._bounds(given, taken, to), *self._enum(given, taken, to)]
        if given["type"] == "object" or (given["type"] == "any" and "properties" in given):
            found += self._object(given, taken, at, to, inside)
        if "items" in taken:
            found += self.compare(
                given.get("items", {}), taken["items"], f"{at}/items", f"{to}/items", inside
            )
        unknown = (given.keys() | taken.keys()) - SAYS_NOTHING - STRUCTURE - {*LOWER, *UPPER, *SAME}
        found += [
            Break(f"{to}/{_escaped(key)}", f"`{key}` differs, and what that means is not known")
            for key in sorted(unknown)
            if given.get(key) != taken.get(key)
        ]
        return found

    def _bounds(self, given: Schema, taken: Schema, to: str) -> Iterator[Break]:
        for keys, beyond in ((LOWER, _below), (UPPER, _above)):
            for key in keys:
                if key in taken and (key not in given or beyond(given[key], taken[key])):
                    yield self._changed(key, given, taken, to)
        for key in SAME:
            if key in taken and given.get(key) != taken[key] and not _multiple(key, given, taken):
                yield self._changed(key, given, taken, to)

    def _changed(self, key: str, given: Schema, taken: Schema, to: str) -> Break:
        nothing = "none"
        old, new = (given, taken) if self.side == "request" else (taken, given)
        return Break(f"{to}/{key}", f"{key} was {old.get(key, nothing)} and is {new.get(key, nothing)}")

    def _enum(self, given: Schema, taken: Schema, to: str) -> Iterator[Break]:
        if "enum" not in taken:
            return
        more = [value for value in given.get("enum", ["any other"]) if value not in taken["enum"]]
        if more:
            text = "refused now" if self.side == "request" else "possible now"
            yield Break(f"{to}/enum", f"{', '.join(map(str, more))} is {text}")

    def _object(self, given: Schema, taken: Schema, at: str, to: str, inside: Circle) -> Iterator[Break]:
        known, other = given.get("properties", {}), taken.get("properties", {})
        for name in sorted({*taken.get("required", ())} - {*given.get("required", ())}):
            gone = name not in known
            text = {
                "request": "is required now",
                "answer": "is gone" if gone else "is no longer always there",
            }
            yield Break(f"{to}/required", f"`{name}` {text[self.side]}")
        for name, schema in known.items():
            here, there = f"{at}/properties/{_escaped(name)}", f"{to}/properties/{_escaped(name)}"
            if name in other:
                yield from self.compare(schema, other[name], here, there, inside)
            elif self.side == "request" and taken.get("additionalProperties") is False:
                yield Break(here, f"`{name}` was accepted and is refused now")
            elif isinstance(more := taken.get("additionalProperties"), Mapping):
                yield from self.compare(schema, more, here, f"{to}/additionalProperties", inside)
        if self.side == "answer":
            for name in sorted(other.keys() - known.keys() - {*taken.get("required", ())}):
                yield Break(f"{to}/properties/{_escaped(name)}", f"`{name}` is gone")
        yield from self._more(given, taken, at, to, inside)

    def _more(self, given: Schema, taken: Schema, at: str, to: str, inside: Circle) -> Iterator[Break]:
        """What is said of fields that have no name in the schema."""
        before, after = given.get("additionalProperties", True), taken.get("additionalProperties", True)
        if before is False or after is True or after == {}:
            return
        if self.side == "request" and after is False:
            yield Break(f"{to}/additionalProperties", "unknown fields were accepted and are refused now")
        elif isinstance(after, Mapping):
            wide = before if isinstance(before, Mapping) else {}
            here, there = f"{at}/additionalProperties", f"{to}/additionalProperties"
            yield from self.compare(wide, after, here, there, inside)


def _alternatives(schema: Schema, document: Any, at: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield a schema's alternatives, each with one `type` (`any` where it says none), with their pointers."""
    schema, at = resolved(schema, document, at)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            beside = {name: value for name, value in schema.items() if name != key}
            for index, inner in enumerate(schema[key]):
                named, there = resolved(inner, document, f"{at}/{key}/{index}")
                yield from _alternatives({**beside, **named}, document, there)
            return
    kinds = schema.get("type", "any")
    if kinds == "any" and "enum" in schema:
        kinds = sorted({_type(value) for value in schema["enum"]})
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        narrowed = {"enum": [v for v in schema["enum"] if _holds(kind, _type(v))]} if "enum" in schema else {}
        yield {**schema, **narrowed, "type": kind}, at


def _type(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "array" if isinstance(value, list) else "object"


def _holds(outer: str, inner: str) -> bool:
    return outer in ("any", inner) or (outer, inner) == ("number", "integer")


def _below(given: float, limit: float) -> bool:
    return given < limit


def _above(given: float, limit: float) -> bool:
    return given > limit


def _multiple(key: str, given: Schema, taken: Schema) -> bool:
    """Whether all multiples of the one are multiples of the other; whole numbers are multiples of 1."""
    if key != "multipleOf":
        return False
    step = given.get(key, 1 if given["type"] == "integer" else None)
    return step is not None and (step / taken[key]).is_integer()
