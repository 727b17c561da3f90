"""What a person looks at: the page `/docs` of a service, and examples that were really asked and answered.

The page is Swagger UI, whose files come with BentoML and are served by it under `/static_content/`: nothing
is loaded from anywhere else, and a header sees to it. All addresses are relative, so that the page works
below a router's prefix, too.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from tidegate.serving.columns import Form

PATHS = ("/docs", "/")  # the second in place of BentoML's own page, which loads a tracker
MOST = 3  # examples of one path
_REFUSED = {400: b"{", 422: b"{}"}  # bodies that most services refuse: an example only if this one does
_ONLY_HERE = b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _ONLY_HERE + b"img-src 'self' data:"),
]
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
<link rel="icon" href="./static_content/favicon-light-32x32.png">
<div id="page"></div>
<noscript>The same as a document: <a href="./openapi.json">openapi.json</a>.</noscript>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{
  url: "./openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null, tryItOutEnabled: true,
  defaultModelsExpandDepth: 0, defaultModelRendering: "model",
}});
</script>
</html>
"""

Answering = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]  # path, body → status, content


class Example(msgspec.Struct, frozen=True):
    """A request that works as it is, and what this service answered to it."""

    summary: str
    request: Any
    answer: Any


class Asked(msgspec.Struct, frozen=True):
    """What one path was asked: examples, and the refusal by its status."""

    examples: Sequence[Example] = ()
    refusals: Mapping[int, Any] = {}


def page(name: str) -> bytes:
    """Return the page of a service."""
    return _PAGE.format(title=escape(name)).encode()


async def asked(bodies: Mapping[str, Mapping[str, Any]], answering: Answering) -> dict[str, Asked]:
    """Ask each path for what is shown of it, `bodies` by summary; only what is answered is kept."""
    found = {}
    for path, shown in bodies.items():
        examples = []
        for summary, body in shown.items():
            status, content = await answering(path, msgspec.json.encode(body))
            if status == 200:
                examples.append(Example(summary, body, json.loads(content)))
        refusals = {}
        for wanted, body in _REFUSED.items():
            status, content = await answering(path, body)
            if status == wanted:
                refusals[status] = json.loads(content)
        found[path] = Asked(examples, refusals)
    return found


def kinds(rows: Sequence[Any]) -> dict[str, Any]:
    """Return the first row of each kind by a summary of it, those of which most is known first.

    Kinds differ in what is not known.
    """
    found: dict[tuple[str, ...], Any] = {}
    for row in rows:
        found.setdefault(tuple(_unknown(row)), row)
    first = sorted(found.items(), key=lambda pair: len(pair[0]))[:MOST]
    return {f"without {' and '.join(names)}" if names else "all is known": row for names, row in first}


def columnar(rows: Sequence[Any], form: Form) -> dict[str, Any]:
    """Return rows as a request of many, by column, without those that some rows lack and can't be null."""
    columns = {}
    for name, column in form.columns.items():
        values = [_inside(row, name.split(".")) for row in rows]
        if None not in values or column.nullable or column.grouped:
            columns[name] = values
    return {"columns": columns}


def _inside(row: Any, path: Sequence[str]) -> Any:
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _unknown(value: Any, name: str = "") -> list[str]:
    """Return the dotted names of what is null in a row."""
    if isinstance(value, Mapping):
        return [n for key, inner in value.items() for n in _unknown(inner, f"{name}.{key}".lstrip("."))]
    return [name] if value is None else []
