"""What a service promises, as an OpenAPI 3.1 document made from its request's and its response's Struct.

Knows no model and no server; travels inside every Bento.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

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


def document(name: str, version: str, request: Any, response: Any, *, features: bool) -> dict[str, Any]:
    """Return the OpenAPI document of a service: `request` and `response` are its Structs.

    `features` says whether `POST /features` is answered. Patterns are those of ECMA-262, as OpenAPI wants.
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
    paths = {PREDICT: _operation("predict", "Answers one request by the model.", wanted, answers[0])}
    if features:
        text = "Computes what the model would see of a request."
        paths[FEATURES] = _operation("features", text, wanted, answers[2])
    content: dict[str, Any] = {
        "openapi": VERSION,
        "info": {"title": name, "version": version or "0"},
        "paths": paths,
        "components": {"schemas": components},
    }
    return content | {"components": _each_pattern(content["components"], ecma_pattern)}


def _operation(name: str, text: str, request: Any, answer: Any) -> dict[str, Any]:
    refusal = {"$ref": PLACE.format(name="Refusal")}
    responses = {"200": {"description": "Answered.", "content": {"application/json": {"schema": answer}}}}
    for status, description in REFUSALS.items():
        content = {"application/json": {"schema": refusal}}
        responses[str(status)] = {"description": description, "content": content}
    body = {"required": True, "content": {"application/json": {"schema": request}}}
    return {"post": {"operationId": name, "summary": text, "requestBody": body, "responses": responses}}


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
