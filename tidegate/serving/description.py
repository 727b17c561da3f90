"""What a service promises, as an OpenAPI 3.1 document made from its request's and its response's Struct.

Knows no model and no server; travels inside every Bento.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tidegate.serving.arrow import TYPE as ARROW
from tidegate.serving.columns import Form
from tidegate.serving.docs import Asked
from tidegate.serving.many import PATH as MANY

PREDICT, FEATURES = "/predict", "/features"
JSON = "application/json"
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
        "description": "Names the request in answer and logs, and for its outcome; without it one is made.",
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


class Answered(Identity, frozen=True, kw_only=True):
    """Who answered, and how: part of every prediction."""

    source: Annotated[
        Literal["computed", "cached", "precomputed"],
        Meta(description="whether the model was asked now, or before: the same features, or the same entity"),
    ]


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request is refused."""

    field: Annotated[str, Meta(description="the field's name, with dots into objects; `body` is all")] | None
    reason: Annotated[str, Meta(description="what is wrong with it, for a person")]
    row: (
        Annotated[int, Meta(ge=0, description="the first row that is refused, of many; from 0")] | UnsetType
    ) = UNSET


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
        list(get_type_hints(Answered, include_extras=True).items()),
        bases=(response,),
        kw_only=True,
        frozen=True,
        namespace={"__doc__": response.__doc__},
    )
    shapes = [request, answer, Refusal, *by_column(request, response), *([Features] if features else [])]
    schemas, components = msgspec.json.schema_components(shapes, ref_template=PLACE)
    wanted, *answers = schemas
    seen = asked or {}
    text = "Answers one request by the model."
    paths = {PREDICT: _operation("predict", text, wanted, answers[0], seen.get(PREDICT))}
    if features:
        text = "Computes what the model would see of a request."
        paths[FEATURES] = _operation("features", text, wanted, answers[-1], seen.get(FEATURES))
    paths[MANY] = _many(answers[2], answers[3], seen.get(MANY))
    content: dict[str, Any] = {
        "openapi": VERSION,
        "info": {"title": name, "version": version or "0"},
        "servers": [{"url": ".", "description": "where this document is from"}],
        "paths": paths,
        "components": {"schemas": components},
    }
    return content | {"components": _each_pattern(content["components"], ecma_pattern)}


def by_column(request: Any, response: Any) -> tuple[Any, Any]:
    """Return what a request of many rows and its answer are, in JSON."""
    taken: list[tuple[Any, ...]] = []
    for column in Form(request).columns.values():
        value = column.value | None if column.nullable or column.grouped else column.value
        needed = column.required and not column.group
        values = list.__class_getitem__(value)
        taken.append((column.name, values) if needed else (column.name, values | UnsetType, UNSET))
    told = get_type_hints(response, include_extras=True)
    given: list[tuple[Any, ...]] = [
        (field.encode_name, list.__class_getitem__(told[field.name]))
        for field in msgspec.structs.fields(response)
    ]
    answer = _around(f"{response.__name__}Columns", given, strict=False)
    return _around(f"{request.__name__}Columns", taken, strict=True), answer


def _around(name: str, fields: list[tuple[Any, ...]], *, strict: bool) -> Any:
    """Return the Struct around columns; a column's name may hold dots, which Python's names do not.

    A `strict` one is a request, which refuses what it does not know; the other an answer, which says of whom.
    """
    plain: Any = [(f"c{index}", *field[1:]) for index, field in enumerate(fields)]
    rename = {f"c{index}": field[0] for index, field in enumerate(fields)}
    inner = msgspec.defstruct(name, plain, rename=rename, forbid_unknown_fields=strict, kw_only=True)
    if strict:
        return msgspec.defstruct(f"Many{name}", [("columns", inner)], forbid_unknown_fields=True)
    who = list(get_type_hints(Identity, include_extras=True).items())
    return msgspec.defstruct(f"Many{name}", [("columns", inner), *who], kw_only=True)


def _many(request: Any, answer: Any, asked: Asked | None) -> dict[str, Any]:
    """Return the operation of many rows: as JSON, or as a table of Arrow with the same columns."""
    made = _operation("predictMany", "Answers many rows at once, by column.", request, answer, asked)
    stream = {ARROW: {"schema": {"type": "string", "contentMediaType": ARROW}}}
    post = made["post"]
    post["requestBody"]["content"] |= stream
    post["responses"]["200"]["content"] |= stream
    refused = _content({"$ref": PLACE.format(name="Refusal")})
    post["responses"]["415"] = _response("The body is neither JSON nor an Arrow stream.", refused, OF_ALL)
    return made


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
    body = {"required": True, "content": {JSON: taken}}
    said = {"operationId": name, "summary": text, "parameters": PARAMETERS}
    return {"post": {**said, "requestBody": body, "responses": responses}}


def _content(schema: Any) -> dict[str, Any]:
    return {"schema": schema}


def _response(description: str, content: Any, headers: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "headers": headers, "content": {JSON: content}}


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
