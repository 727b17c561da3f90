"""OpenAPI 3.1 documents: the schemas that they hold, with references followed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

JSON = "application/json"
DEPTH = 50  # of references to references


class Unreadable(ValueError):
    """A document that is not the OpenAPI that this code understands; says what is wrong."""


def request_schema(document: Any, path: str, method: str = "post") -> dict[str, Any]:
    """Return the schema of an operation's JSON request, without references. Raises Unreadable."""
    body = operation(document, path, method).get("requestBody")
    return inlined(_content(body, f"{method} {path} takes no {JSON}"), document)


def answer_schema(document: Any, path: str, method: str = "post") -> dict[str, Any]:
    """Return the schema of an operation's JSON answer of 200, without references. Raises Unreadable."""
    answers = operation(document, path, method).get("responses")
    found = answers.get("200") if isinstance(answers, Mapping) else None
    return inlined(_content(found, f"{method} {path} promises no {JSON} with status 200"), document)


def operation(document: Any, path: str, method: str) -> Mapping[str, Any]:
    """Return an operation of a document. Raises Unreadable when it has none, or is no OpenAPI 3."""
    if not isinstance(document, Mapping) or not str(document.get("openapi", "")).startswith("3."):
        raise Unreadable("this is no OpenAPI 3 document")
    found = below(document, "paths", path, method)
    if not isinstance(found, Mapping):
        raise Unreadable(f"the document has no {method} {path}")
    return found


def _content(holder: Any, otherwise: str) -> Schema:
    schema = below(holder, "content", JSON, "schema")
    if not isinstance(schema, Mapping):
        raise Unreadable(otherwise)
    return schema


def below(value: Any, *keys: str) -> Any:
    """Return what lies below the keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def inlined(schema: Schema, document: Any, inside: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a schema with what references name in their place. Raises Unreadable for one in a circle."""
    named, pointer = resolved(schema, document, "")
    if pointer in inside:
        raise Unreadable(f"the schema at {pointer} contains itself")
    within = inside | {pointer} if pointer else inside

    def walk(node: Any) -> Any:
        if isinstance(node, Mapping):
            return inlined(node, document, within)
        return [walk(item) for item in node] if isinstance(node, list) else node

    return {key: walk(value) for key, value in named.items()}


def resolved(schema: Schema, document: Any, pointer: str) -> tuple[Schema, str]:
    """Follow references; what stands beside one is laid over what it names."""
    for _ in range(DEPTH):
        reference = schema.get("$ref")
        if reference is None:
            return schema, pointer
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise Unreadable(f"the reference {reference!r} leaves the document")
        keys = [key.replace("~1", "/").replace("~0", "~") for key in reference[2:].split("/")]
        found = below(document, *keys)
        if not isinstance(found, Mapping):
            raise Unreadable(f"nothing is at {reference}")
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
        pointer = reference[1:]
    raise Unreadable("references name each other in a circle")


def python_patterns(schema: Any) -> Any:
    r"""Return a schema whose patterns mean in Python what they mean in ECMA-262: there `$` is `\Z`."""
    if isinstance(schema, Mapping):
        return {
            key: _anchored(value) if key == "pattern" and isinstance(value, str) else python_patterns(value)
            for key, value in schema.items()
        }
    return [python_patterns(item) for item in schema] if isinstance(schema, list) else schema


def _anchored(pattern: str) -> str:
    parts = re.findall(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", pattern, flags=re.DOTALL)
    return "".join({"$": r"\Z", r"\d": "[0-9]"}.get(part, part) for part in parts)
