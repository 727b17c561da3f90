"""The contract gate against a small real server."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from gates import contract
from tests.builders import GateRoom
from tests.gates.endpoint import serve
from tidegate import report
from tidegate.core.verdict import Verdict

SETTINGS: dict[str, Any] = {
    "rows": 3,
    "timeout": 5,
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
    assert found.measurements["releases"] == ["aaaaaaaaaaaa"]
    assert found.measurements["bad_cases"] == 9


def test_a_service_that_accepts_anything_fails_as_a_process(room: GateRoom) -> None:
    """The real script exits 1 and names each bad row that was answered."""
    with serve(lambda n, body, status, answer: (200, {**answer, "probability": 0.5, "release": "a"})) as url:
        code, found = room.run("--endpoint", url)
    assert code == 1
    assert {"bad: origin left out", "bad: distance = NaN", "bad: a list"} <= failed(found)


def test_no_bad_case_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contract of which nothing is known that must be refused has not been kept."""
    room.set({name: value for name, value in SETTINGS.items() if name != "bad"})
    with serve() as url:
        code, found = look(room, monkeypatch, url)
    assert code == 3
    assert "no `bad` case" in json.dumps(found.as_dict())


def test_nobody_there_is_an_error_as_a_process(room: GateRoom) -> None:
    """The real script exits 3 when nothing listens: it could not look."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/toy"
    code, found = room.run("--endpoint", url)
    assert code == 3
    assert "did not answer once" in found.findings[0].reason


def test_a_call_without_an_endpoint_is_an_error(room: GateRoom) -> None:
    """argparse's own exit code 2 would say INCONCLUSIVE."""
    assert room.run()[0] == 3


FAULTS: dict[str, tuple[Any, str]] = {
    "another field is blamed": (
        lambda n, b, s, a: (s, {**a, "error": {"field": "dest"}} if s == 422 else a),
        "bad: origin left out",
    ),
    "a crash instead of a refusal": (lambda n, b, s, a: (500 if s == 422 else s, a), "bad: origin = 7"),
    "a bad row kills the connection": (lambda n, b, s, a: None if s == 422 else (s, a), "bad: origin = 7"),
    "a probability of 2": (lambda n, b, s, a: (s, {**a, "probability": 2} if s == 200 else a), "good rows"),
    "good rows are refused": (lambda n, b, s, a: (503 if s == 200 else s, a), "good rows"),
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
