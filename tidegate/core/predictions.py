"""What is kept of a prediction, and which of them belong to a person who asks for them to be erased."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

REQUEST_ID = "request_id"  # the key by which predictions are erased one by one
Match = Callable[[str, Mapping[str, Any]], bool]  # (request id, inputs) → whether it is meant


@dataclass(frozen=True)
class Prediction:
    """One prediction as it was made; of a request of many rows, `request_id` is `<id>/<number>`.

    `features` are in the model's order, None where a number was not known; `inputs` is the request as it was
    sent, empty where it could not be read.
    """

    request_id: str
    at: float  # Unix seconds
    model: str
    release: str
    model_version: str
    plane: str
    arm: str
    protocol: str  # rest, columns, arrow, v2, grpc
    source: str  # computed, cached, precomputed
    latency_ms: float
    features: Mapping[str, float | None] = field(default_factory=dict)
    prediction: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)


def written(value: Any) -> str | None:
    """Return a value of JSON as a person writes it on a command line; None for null, lists and mappings."""
    if value is None or isinstance(value, (list, dict)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def lookup(inputs: Mapping[str, Any], key: str) -> Any:
    """Return a field of a request; `plane.year` is `year` inside of `plane`. None where there is none."""
    found: Any = inputs
    for name in key.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def keys(inputs: Mapping[str, Any], before: str = "") -> set[str]:
    """Return all fields of a request by which a subject could be named, inner ones as `plane.year`."""
    found: set[str] = set()
    for name, value in inputs.items():
        found |= keys(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}"}
    return found


def _said(request: str, inputs: Mapping[str, Any], key: str) -> tuple[str | None, ...]:
    """Return what a record says for a key; a row of a request of many goes by the request's id as well."""
    if key == REQUEST_ID:
        return request, request.rpartition("/")[0] or None
    return (written(lookup(inputs, key)),)


def by_value(key: str, value: str) -> Match:
    """Return what tells a subject's predictions by its value."""
    return lambda request, inputs: value in _said(request, inputs, key)


def by_hash(key: str, digest: str, salt: bytes) -> Match:
    """Return what tells a subject's predictions when only the hash of its value is kept."""

    def match(request: str, inputs: Mapping[str, Any]) -> bool:
        said = _said(request, inputs, key)
        return any(value is not None and hashed(key, value, salt) == digest for value in said)

    return match


def hashed(key: str, value: str, salt: bytes) -> str:
    """Return the keyed hash of a subject, which an audit keeps in its place."""
    return hmac.new(salt, f"{key}\0{value}".encode(), hashlib.sha256).hexdigest()
