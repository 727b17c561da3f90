"""The serving shell around a model that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from tests.builders import flight_row
from tidegate.serving import Predictions
from tidegate.serving.artifact import own_version as _own_version
from tidegate.serving.description import document, ecma_pattern


class Row(msgspec.Struct):
    """A request of one number."""

    x: float


class Twice(msgspec.Struct):
    """An answer of one number."""

    twice: float


def _call(service: Any, path: str, method: str = "POST") -> tuple[int, dict[str, Any]]:
    """Return status and content of one answer, asked as a server would."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"x": 1}'}

    async def send(message: Any) -> None:
        sent.append(message)

    async def rest(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404})
        await send({"type": "http.response.body", "body": b"{}"})

    scope = {"type": "http", "path": path, "method": method, "headers": []}
    asyncio.run(Predictions(service, rest)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def _service(names: tuple[str, ...] = (), **instance: Any) -> Any:
    inner = SimpleNamespace(request=Row, response=Twice, feature_names=names)
    instance = {"features": lambda row: np.array([[row.x]]), **instance}
    return SimpleNamespace(name="tiny", inner=inner, instance=SimpleNamespace(**instance))


def _ask(predict: Callable[[Any], dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Return status and content of one prediction."""
    return _call(_service(predict=predict), "/predict")


def _crashes(rows: Any) -> dict[str, Any]:
    raise ZeroDivisionError("secret detail")


def test_a_sound_model_is_let_through() -> None:
    """What the model answers is sent, with the service's identity beside it."""
    status, content = _ask(lambda rows: {"twice": rows[:, 0] * 2})
    assert (status, content["twice"]) == (200, 2.0)
    assert {"model_version", "release", "request_id"} <= set(content)


def test_a_bentos_own_version_is_told_without_an_agent(tmp_path: Path) -> None:
    """`bentoml serve` sets no variable of ours: the Bento's manifest says which version it is."""
    assert _own_version(tmp_path) == ""
    (tmp_path / "artifact.json").write_text('{"model": "tiny", "version": 7, "digest": "sha256:a"}')
    assert _own_version(tmp_path) == "7"


@pytest.mark.parametrize(
    "predict", [_crashes, lambda rows: {"p": [float("nan")]}, lambda rows: {"p": [float("inf")]}]
)
def test_a_model_that_fails_is_a_500_of_ours(predict: Callable[[Any], dict[str, Any]]) -> None:
    """A crash or a number that is none is counted as the service's failure, not shown as null or a trace."""
    status, content = _ask(predict)
    assert status == 500
    assert content["error"]["reason"] == "the model failed on this request"
    assert content["request_id"]
    assert "secret" not in json.dumps(content)


# ---------------------------------------------------------------- features
def _features(*values: float, names: tuple[str, ...] = ("a", "b")) -> tuple[int, dict[str, Any]]:
    rows = np.array([values], dtype=np.float32)
    return _call(_service(names, features=lambda row: rows), "/features")


def test_features_are_told_by_name() -> None:
    """`/features` answers each as the model sees it, bit by bit, and null for what is not known."""
    status, content = _features(0.1, float("nan"))
    assert status == 200
    assert content["features"] == {"a": float(np.float32(0.1)), "b": None}
    assert {"model_version", "release", "request_id"} <= set(content)


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0, 3.0), (1.0, float("inf"))])
def test_features_of_other_names_are_a_failure(values: tuple[float, ...]) -> None:
    """Names and values that don't fit each other, and an infinity, are a 500 and no list cut short."""
    assert _features(*values)[0] == 500


def test_a_service_without_named_features_has_no_such_path() -> None:
    """`/features` of a service that names none is BentoML's 404."""
    assert _call(_service(), "/features")[0] == 404


# ---------------------------------------------------------------- the description
@pytest.mark.parametrize("names", [(), ("a",)])
def test_the_description_is_openapi_3_1(names: tuple[str, ...]) -> None:
    """The document names each path that is answered, its request's schema, and each status that occurs."""
    status, document = _call(_service(names), "/openapi.json", "GET")
    assert (status, document["openapi"], document["info"]["title"]) == (200, "3.1.0", "tiny")
    assert set(document["paths"]) == {"/predict", "/predict/many", *(["/features"] if names else [])}
    operation = document["paths"]["/predict"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Row"
    }
    assert {"200", "400", "405", "408", "413", "422", "429", "500", "504"} == set(operation["responses"])
    answer = document["components"]["schemas"]["TwiceAnswer"]
    assert set(answer["required"]) == {"twice", "request_id", "release", "model_version", "source"}


def test_patterns_are_those_of_the_standard() -> None:
    r"""Python's `\Z` means something else to whoever reads JSON Schema."""
    assert ecma_pattern(r"\A[A-Z]\d\\Z\Z") == r"^[A-Z]\d\\Z$"


def test_the_real_services_description_is_sound() -> None:
    """flight-delay's document resolves, its schemas are JSON Schema 2020-12, and examples keep them."""
    from services.flight_delay.schema import Delay, Flight

    made = document("flight_delay", "1", Flight, Delay, features=True)
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    wanted = {"$ref": "#/components/schemas/Flight", "components": made["components"]}
    jsonschema.validate(flight_row(), wanted)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(flight_row(origin="new york"), wanted)


def test_an_answer_that_breaks_the_promise_never_starts() -> None:
    """An example whose answer lacks what the response's Struct declares stops the start."""
    service = _service(predict=lambda rows: {"thrice": [3.0]})
    service.instance.model = SimpleNamespace(examples=[{"x": 1.0}])
    with pytest.raises(RuntimeError, match=r"not what the service promises: .*twice"):
        asyncio.run(Predictions(service, None)._warm())
