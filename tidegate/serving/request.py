"""From a request's bytes to a checked struct, or to an answer that names the field that is wrong.

Knows no model and no server; travels inside every Bento.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

_SURROGATE = re.compile("[\ud800-\udfff]")


class Invalid(Exception):
    """A request that is refused: HTTP status, the field's name and why; of many rows, which one, from 0."""

    def __init__(self, status: int, field: str, reason: str, row: int | None = None) -> None:
        self.status, self.field, self.reason, self.row = status, field, reason, row
        super().__init__(reason)


def decode(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Return the request that `body` holds; raises Invalid: 400 for what is not JSON, 422 for a field."""
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:  # the struct's decoder stops at the first thing wrong
        value = _parse(body)
        if isinstance(error, msgspec.ValidationError):
            raise field_error(str(error), decoder.type) from error
        field, reason = _unfit_field(value)
        if field:
            raise Invalid(422, field, reason) from error
        raise Invalid(400, "body", f"is not JSON: {error}") from error


def _parse(body: bytes) -> Any:
    """Return `body` as plain values, NaN and Infinity let through; raises Invalid for what is not JSON."""
    try:
        return json.loads(body.decode(), parse_int=float)
    except UnicodeDecodeError as error:
        raise Invalid(400, "body", "is not UTF-8") from error
    except RecursionError as error:
        raise Invalid(400, "body", "is nested too deeply") from error
    except ValueError as error:
        raise Invalid(400, "body", f"is not JSON: {error}") from error


def field_error(text: str, shape: Any) -> Invalid:
    """Turn msgspec's message into the field's full name and a reason that a caller understands."""
    path = ""
    if " - at `" in text:
        text, path = text.removesuffix("`").rsplit(" - at `", 1)
    names = [path.removeprefix("$").removeprefix(".")]
    inner = re.search(r"(?:unknown|required) field `(.*)`$", text)
    if inner:
        names.append(inner[1])
        text = "is not a known field" if "unknown" in text else "is required"
    field = ".".join(name for name in names if name) or "body"
    wanted = description_of(shape, field)
    return Invalid(422, field, f"must be {wanted}" if wanted and not inner else text)


def description_of(shape: Any, field: str) -> str:
    """Return what the schema says that a field is, or nothing."""
    schema, components = msgspec.json.schema_components([shape])
    node: Mapping[str, Any] = schema[0]
    for name in ["", *field.split(".")]:
        options = [node, *node.get("anyOf", ())]
        if name:
            found = [o["properties"][name] for o in options if name in o.get("properties", {})]
            options = [*found, *(a for f in found for a in f.get("anyOf", ()))]
        if not options:
            return ""
        text = next((o["description"] for o in options if "description" in o), "")
        reference = next((o["$ref"] for o in options if "$ref" in o), None)
        node = components[reference.rsplit("/", 1)[-1]] if reference else {"description": text}
    return str(node.get("description", "")) if "properties" not in node else ""


def _unfit_field(value: Any) -> tuple[str, str]:
    """Return the name of a field that holds NaN, Infinity or half a character, and why not, or nothing."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        name, item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return name or "body", "NaN and Infinity are not numbers in JSON; send null for what is not known"
        if isinstance(item, str) and _SURROGATE.search(item):
            return name or "body", "holds half of a surrogate pair, which is no character"
        if isinstance(item, dict):
            stack += [(f"{name}.{key}" if name else key, inner) for key, inner in reversed(item.items())]
        elif isinstance(item, list):  # the first is taken first
            stack += [(f"{name}[{index}]", item[index]) for index in reversed(range(len(item)))]
    return "", ""
