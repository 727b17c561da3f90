"""What a service promises, as an OpenAPI 3.1 document made from its request's and its response's Struct.

Knows no model and no server; travels inside every Bento.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from tidegate.serving.docs import Asked

PREDICT, FEATURES = "/predict", "/features"
VERSION = "3.1.0"
PLACE = "#/components/schemas/{name}"
REFUSALS = {
    400: "The body is not JSON.",
    405: "Another method than POST.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    422: "A field is missing, unknown or not what it should be; `error.field` names it.",
    429: "Too many requests wait; `Retry-After` says in how many seconds to ask again.",
    500: "The service failed on this request.",
    504: "The deadline passed before the answer was computed.",
}
_ID = "x-request-id"
_TIMEOUT = "x-request-timeout-ms"
_WORD = {"type": "string", "pattern": "^[!-~]{1,128}$"}
PARAMETERS = [
    {
        "name": _ID,
        "in": "header",
        "description": "Names the request in its answer, in logs and for its outcome; without it one is made.",
        "schema": _WORD,
    },
    {
        "name": _TIMEOUT,
        "in": "header",
        "description": "Milliseconds that the caller waits; a later answer is a 504.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
]
OF_ALL = {_ID: {"description": "The request's id.", "required": True, "schema": _WORD}}
_SECONDS = {"description": "Seconds after which to ask again.", "schema": {"type": "integer", "minimum": 1}}
OF_SOME = {
    405: {"Allow": {"description": "The method to use.", "schema": {"type": "string", "const": "POST"}}},
    429: {"Retry-After": _SECONDS},
}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered: part of every answer."""

    request_id: Annotated[str, Meta(description="the header x-request-id of the request, or one made here")]
    release: Annotated[str, Meta(description="the release that answers, empty outside of a plane")]
    model_version: Annotated[str, Meta(description="the registered version of the model")]


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request is refused."""

    field: Annotated[str, Meta(description="the field's name, with dots into objects; `body` is all")] | None
    reason: Annotated[str, Meta(description="what is wrong with it, for a person")]


class Refusal(Identity, frozen=True, kw_only=True):
    """The answer to a request that is refused or failed."""

    error: Reason


class Features(Identity, frozen=True, kw_only=True):
    """The features as the model sees them, by name; null is not known."""

    features: dict[str, float | None]


def document(
    name: str,
    version: str,
    request: Any,
    response: Any,
    *,
    features: bool,
    asked: Mapping[str, Asked] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI document of a service: `request` and `response` are its Structs.

    `features` says whether `POST /features` is answered, `asked` by path what it was asked for as an example.
    Patterns are those of ECMA-262, as OpenAPI wants.
    """
    answer = msgspec.defstruct(
        f"{response.__name__}Answer",
        list(get_type_hints(Identity, include_extras=True).items()),
        bases=(response,),
        kw_only=True,
        frozen=True,
        namespace={"__doc__": response.__doc__},
    )
    shapes = [request, answer, Refusal, *([Features] if features else [])]
    schemas, components = msgspec.json.schema_components(shapes, ref_template=PLACE)
    wanted, *answers = schemas
    seen = asked or {}
    text = "Answers one request by the model."
    paths = {PREDICT: _operation("predict", text, wanted, answers[0], seen.get(PREDICT))}
    if features:
        text = "Computes what the model would see of a request."
        paths[FEATURES] = _operation("features", text, wanted, answers[2], seen.get(FEATURES))
    content: dict[str, Any] = {
        "openapi": VERSION,
        "info": {"title": name, "version": version or "0"},
        "servers": [{"url": ".", "description": "where this document is from"}],
        "paths": paths,
        "components": {"schemas": components},
    }
    return content | {"components": _each_pattern(content["components"], ecma_pattern)}


def _operation(name: str, text: str, request: Any, answer: Any, asked: Asked | None) -> dict[str, Any]:
    asked = asked or Asked()
    taken, given = _content(request), _content(answer)
    if asked.examples:
        shown = {str(number): one for number, one in enumerate(asked.examples, 1)}
        taken["examples"] = {
            key: {"summary": one.summary, "value": one.request} for key, one in shown.items()
        }
        given["examples"] = {key: {"summary": one.summary, "value": one.answer} for key, one in shown.items()}
    responses = {"200": _response("Answered.", given, OF_ALL)}
    for status, description in REFUSALS.items():
        refused = _content({"$ref": PLACE.format(name="Refusal")})
        if status in asked.refusals:
            refused["example"] = asked.refusals[status]
        responses[str(status)] = _response(description, refused, OF_ALL | OF_SOME.get(status, {}))
    body = {"required": True, "content": {"application/json": taken}}
    said = {"operationId": name, "summary": text, "parameters": PARAMETERS}
    return {"post": {**said, "requestBody": body, "responses": responses}}


def _content(schema: Any) -> dict[str, Any]:
    return {"schema": schema}


def _response(description: str, content: Any, headers: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "headers": headers, "content": {"application/json": content}}


def ecma_pattern(text: str) -> str:
    r"""Return a Python pattern as JSON Schema reads it: `\Z` is `$` there, and `\A` is `^`."""
    return re.sub(r"\\(.)", lambda found: {"Z": "$", "A": "^"}.get(found[1], found[0]), text, flags=re.DOTALL)


def _each_pattern(node: Any, change: Callable[[str], str]) -> Any:
    """Return a schema with each `pattern` changed."""
    if isinstance(node, dict):
        return {
            key: change(value)
            if key == "pattern" and isinstance(value, str)
            else _each_pattern(value, change)
            for key, value in node.items()
        }
    return [_each_pattern(item, change) for item in node] if isinstance(node, list) else node
