"""The serving shell around a model that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tidegate.serving import Predictions, _own_version


class Row(msgspec.Struct):
    """A request of one number."""

    x: float


def _ask(predict: Callable[[Row], dict[str, object]]) -> tuple[int, dict[str, Any]]:
    """Return status and content of one prediction, asked as a server would."""
    service = SimpleNamespace(
        name="tiny", inner=SimpleNamespace(request=Row), instance=SimpleNamespace(predict=predict)
    )
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"x": 1}'}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/predict", "method": "POST", "headers": []}
    asyncio.run(Predictions(service, rest=None)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], json.loads(sent[1]["body"])


def _crashes(row: Row) -> dict[str, object]:
    raise ZeroDivisionError("secret detail")


def test_a_sound_model_is_let_through() -> None:
    """What the model answers is sent, with the service's identity beside it."""
    status, content = _ask(lambda row: {"twice": row.x * 2})
    assert (status, content["twice"]) == (200, 2.0)
    assert {"model_version", "release", "request_id"} <= set(content)


def test_a_bentos_own_version_is_told_without_an_agent(tmp_path: Path) -> None:
    """`bentoml serve` sets no variable of ours: the Bento's manifest says which version it is."""
    assert _own_version(tmp_path) == ""
    (tmp_path / "artifact.json").write_text('{"model": "tiny", "version": 7, "digest": "sha256:a"}')
    assert _own_version(tmp_path) == "7"


@pytest.mark.parametrize(
    "predict", [_crashes, lambda row: {"p": float("nan")}, lambda row: {"p": float("inf")}]
)
def test_a_model_that_fails_is_a_500_of_ours(predict: Callable[[Row], dict[str, object]]) -> None:
    """A crash or a number that is none is counted as the service's failure, not shown as null or a trace."""
    status, content = _ask(predict)
    assert status == 500
    assert content["error"]["reason"] == "the model failed on this request"
    assert content["request_id"]
    assert "secret" not in json.dumps(content)
