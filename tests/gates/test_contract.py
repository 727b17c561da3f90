"""The contract gate against a small real server."""

from __future__ import annotations

import json
import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gates import contract
from tests.builders import GateRoom, record
from tests.gates.endpoint import DOCUMENT, REQUEST, document, serve
from tidegate import gating, report
from tidegate.core.verdict import Verdict

SETTINGS: dict[str, Any] = {
    "rows": 3,
    "timeout": 5,
    "allowed": 10,
    "seed": 1,
    "bad": [
        {"field": "origin", "drop": True},
        {"field": "origin", "value": 7},
        {"field": "distance", "raw": "NaN"},
        {"field": "weather.temp", "value": "warm"},
    ],
    "tolerated": [{"field": "weather", "value": None}],
}


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with three example rows."""
    made = GateRoom(tmp_path, "contract", SETTINGS)
    (tmp_path / "envs" / "production").mkdir(parents=True)
    (tmp_path / "envs" / "production" / "release.yaml").write_text("models: {}\n")
    (made.build / "model").mkdir()
    rows = [{"origin": "EWR", "distance": 100 + i, "weather": None} for i in range(3)]
    (made.build / "model" / "examples.json").write_text(json.dumps(rows))
    return made


def look(room: GateRoom, monkeypatch: pytest.MonkeyPatch, url: str, *more: str) -> tuple[int, report.Report]:
    """Run the gate in this process."""
    monkeypatch.chdir(room.root)
    argv = ["toy", "--endpoint", url, *more]
    code = contract.GATE.main(argv)
    return code, report.read_report(room.build / "gates" / "contract.json")


def failed(found: report.Report) -> set[str]:
    """Return the names of what failed."""
    return {f.name for f in found.findings if f.verdict is Verdict.FAIL}


def test_a_service_that_keeps_its_word_passes_as_a_process(room: GateRoom) -> None:
    """The real script exits 0, with a trailing slash in the URL too, and says which release answered."""
    with serve() as url:
        code, found = room.run("--endpoint", f"{url}/")
    assert code == 0
    assert found.measurements["good_rows"] == 3
    assert found.measurements["requests"] == found.measurements["answered"] > 100
    assert found.findings[0].verdict is Verdict.NOT_APPLICABLE  # nothing is in production


def test_a_service_that_accepts_anything_fails_as_a_process(room: GateRoom) -> None:
    """The real script exits 1 and names each bad row that was answered."""
    with serve(lambda n, body, status, answer: (200, {**answer, "probability": 0.5, "release": "a"})) as url:
        code, found = room.run("--endpoint", url)
    assert code == 1
    assert {"bad: origin left out", "bad: distance = NaN", "bodies that are no row"} <= failed(found)


def test_no_bad_case_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contract of which nothing is known that must be refused has not been kept."""
    for without in ({"bad": []}, {"allowed": 0}, {"rows": -1}, {"timeout": 0}):
        room.set(SETTINGS | without)
        code, found = look(room, monkeypatch, "http://127.0.0.1:9")
        assert code == 3
        assert f"`contract.{next(iter(without))}` must be" in found.findings[0].reason


def test_nobody_there_is_an_error_as_a_process(room: GateRoom) -> None:
    """The real script exits 3 when nothing listens: it could not look."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/toy"
    code, found = room.run("--endpoint", url)
    assert code == 3
    assert "gave no answer" in found.findings[0].reason


def test_a_call_without_an_endpoint_is_an_error(room: GateRoom) -> None:
    """argparse's own exit code 2 would say INCONCLUSIVE."""
    assert room.run()[0] == 3


def spoilt(wanted: bytes, status: int) -> Any:
    """Return a fault that answers `status` to each body that holds some bytes."""
    return lambda n, body, s, answer: (status, answer) if wanted in body else (s, answer)


def good(change: dict[str, Any]) -> Any:
    """Return a fault that changes the answers to good rows."""
    return lambda n, body, s, answer: (s, {**answer, **change} if s == 200 else answer)


FAULTS: dict[str, tuple[Any, str]] = {
    "NaN is a crash": (spoilt(b"NaN", 500), "NaN and infinities"),
    "a missing field is fine": (
        lambda n, b, s, a: (200, {**a, "probability": 0.5}) if b'"origin"' not in b else (s, a),
        "missing fields",
    ),
    "an extra field is fine": (
        lambda n, b, s, a: (200, {**a, "probability": 0.5}) if b"__class__" in b else (s, a),
        "extra fields",
    ),
    "a large body is a crash": (lambda n, b, s, a: (502, a) if len(b) > 900_000 else (s, a), "1 MB bodies"),
    "what the schema allows is refused": (
        lambda n, b, s, a: (422, {**a, "error": {"field": "weather"}}) if b'"weather"' in b else (s, a),
        "requests that the schema allows",
    ),
    "an odd text is a crash": (spoilt(b"\\u202e", 500), "odd texts that are fine"),
    "another method predicts": (lambda n, b, s, a: (200, a) if s == 405 else (s, a), "other methods"),
    "a refusal names nothing": (
        lambda n, b, s, a: (s, {**a, "error": {"field": None}} if s == 400 else a),
        "bodies that are no row",
    ),
    "an answer is not finite": (good({"probability": float("nan")}), "good rows after all that"),
    "an answer lacks what was promised": (
        lambda n, b, s, a: (s, {k: v for k, v in a.items() if k != "probability"}),
        "good rows after all that",
    ),
    "it dies on the way": (lambda n, b, s, a: None if n > 40 else (s, a), "answers to the end"),
    "another field is blamed": (
        lambda n, b, s, a: (s, {**a, "error": {"field": "dest"}} if s == 422 else a),
        "bad: origin left out",
    ),
    "a crash instead of a refusal": (lambda n, b, s, a: (500 if s == 422 else s, a), "bad: origin = 7"),
    "bad rows kill the connection": (lambda n, b, s, a: None if s == 422 else (s, a), "answers to the end"),
    "a probability of 2": (
        lambda n, b, s, a: (s, {**a, "probability": 2} if s == 200 else a),
        "good rows after all that",
    ),
    "good rows are refused": (lambda n, b, s, a: (503 if s == 200 else s, a), "good rows after all that"),
    "the request id is lost": (lambda n, b, s, a: (s, {**a, "request_id": "x"}), "request id echoed"),
    "two releases answer": (
        lambda n, b, s, a: (s, {**a, "release": f"r{n % 2}"} if s == 200 else a),
        "releases that answer",
    ),
    "missing weather is refused": (
        lambda n, b, s, a: (422 if b'"weather": null' in b else s, a),
        "tolerated: weather = null",
    ),
    "the answers name no release": (
        lambda n, b, s, a: (s, {k: v for k, v in a.items() if k != "release"}),
        "releases that answer",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_broken_promise_fails_by_its_name(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What the service does wrong is what the report says."""
    fault, finding = FAULTS[name]
    with serve(fault) as url:
        code, found = look(room, monkeypatch, url)
    assert code == 1
    assert finding in failed(found)


@pytest.mark.parametrize(("release", "code"), [("aaaaaaaaaaaa", 0), ("bbbbbbbbbbbb", 1)])
def test_the_release_that_was_asked_for_must_answer(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, release: str, code: int
) -> None:
    """With --release, a staging plane that still serves the one before fails."""
    with serve() as url:
        assert look(room, monkeypatch, url, "--release", release)[0] == code


@pytest.mark.parametrize("text", ["[]", "{", None])
def test_no_rows_to_send_are_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    """Empty, broken and missing examples are ERROR."""
    path = room.build / "model" / "examples.json"
    path.unlink() if text is None else path.write_text(text)
    with serve() as url:
        assert look(room, monkeypatch, url)[0] == 3


@pytest.mark.parametrize("published", [None, [], {"openapi": "3.1.0", "paths": {}}, {"swagger": "2.0"}])
def test_a_service_that_publishes_nothing_can_not_be_looked_at(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, published: Any
) -> None:
    """Without a document there are no requests to make up, and no request is no contract kept."""
    with serve(published=published) as url:
        assert look(room, monkeypatch, url)[0] == 3


def test_a_document_that_promises_more_than_is_kept_fails(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document is taken at its word: a field that it leaves out is tried, and refused by the service."""
    lies = document({**REQUEST, "required": ["origin"]})
    with serve(published=lies) as url:
        code, found = look(room, monkeypatch, url)
    assert code == 1
    assert "requests that the schema allows" in failed(found)


def test_what_production_promised_is_kept(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Production's release is served beside the candidate, and each broken promise is a finding."""
    wider = document({**REQUEST, "properties": {**REQUEST["properties"], "dest": {"type": "string"}}})
    monkeypatch.setattr(gating.Subject, "production", lambda self: record(1))
    with serve(published=wider) as theirs:
        monkeypatch.setattr(gating.Subject, "serve", lambda self, release: _copy(f"{theirs}", release.id))
        with serve() as url:
            code, found = look(room, monkeypatch, url)
    assert code == 1
    pointer = "/paths/~1predict/post/requestBody/content/application~1json/schema/properties/dest"
    assert failed(found) == {f"OpenAPI against production: {pointer}"}


@pytest.mark.parametrize(("published", "verdict"), [(DOCUMENT, Verdict.PASS), (None, Verdict.NOT_APPLICABLE)])
def test_production_without_a_document_is_not_applicable(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, published: Any, verdict: Verdict
) -> None:
    """What an older release never published can't be broken; it is shown as such, never as kept."""
    monkeypatch.setattr(gating.Subject, "production", lambda self: record(1))
    with serve(published=published) as theirs, serve() as url:
        monkeypatch.setattr(gating.Subject, "serve", lambda self, release: _copy(f"{theirs}", release.id))
        code, found = look(room, monkeypatch, url)
    assert (code, found.findings[0].verdict) == (0, verdict)


def _copy(url: str, release: str) -> Any:
    return nullcontext(SimpleNamespace(url=url, release=release))
