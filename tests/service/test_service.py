"""flight-delay's service as it runs: a real Bento, started by the command that supervisord uses."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from models.flight_delay import features
from tests.builders import flight_row, tiny_model
from tests.service.running import Built, build, free_port, ready, start
from tidegate.adapters.bentoml import BentoStore
from tidegate.adapters.service import ServiceMeasures
from tidegate.bentos import Source, serve_command
from tidegate.core.plan import Check, Plan, Ratio
from tidegate.core.release import RegistryRef, ReleaseRecord
from tidegate.files import digest_folder
from tidegate.ports import Asked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("bento"))


@dataclass
class Served:
    process: subprocess.Popen[bytes]
    port: int
    client: httpx.Client
    answers: Path


@pytest.fixture(scope="module")
def served(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port, answers = free_port(), tmp_path_factory.mktemp("plane") / "answers"
    process = start(built, port, TIDEGATE_ANSWERS=str(answers))
    try:
        assert ready(process, port), process.stdout.read().decode() if process.stdout else ""
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            yield Served(process, port, client, answers)
    finally:
        process.terminate()
        process.communicate(timeout=20)


# ---------------------------------------------------------------- answers
def test_a_sound_row_is_answered(served: Served, built: Built) -> None:
    """A flight gets its probability, with the model's version, the release and the request's own id."""
    answer = served.client.post("/predict", json=flight_row(), headers={"x-request-id": "abc-1"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "abc-1"
    body = answer.json()
    assert body.pop("probability") == pytest.approx(0.3 + 0.017, abs=1e-6)
    release = built.record.id
    said = {"model_version": "7", "release": release, "request_id": "abc-1", "source": "computed"}
    assert body == {"late": False, **said}


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "é"])
def test_an_unfit_request_id_is_replaced(served: Served, given: str) -> None:
    """A request id that could not be a header's value or a log's word is replaced by one of ours."""
    answer = served.client.post("/predict", json=flight_row(), headers={b"x-request-id": given.encode()})
    assert answer.status_code == 200
    assert answer.json()["request_id"] == answer.headers["x-request-id"] != given


WITHOUT = object()


def _changed(field: str, value: Any) -> dict[str, Any]:
    """Return a sound row with one (dotted) field changed or taken out."""
    row = flight_row()
    *groups, name = field.split(".")
    inner = row
    for group in groups:
        inner = inner[group]
    if value is WITHOUT:
        del inner[name]
    else:
        inner[name] = value
    return row


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("carrier", "ZZ"),
        ("origin", "XXX"),
        ("dest", "QQQ"),
        ("tailnum", None),
        ("tailnum", WITHOUT),
        ("plane", None),
        ("plane", WITHOUT),
        ("plane.year", None),
        ("plane.year", 1999.0),
        ("plane.seats", WITHOUT),
        ("weather", None),
        ("weather", {}),
        ("weather.temp", WITHOUT),
        ("weather.pressure", None),
        ("weather.wind_speed", 1048.36),
        ("date", "2024-02-29"),
        ("sched_dep_time", "00:00"),
    ],
)
def test_unknown_is_a_value(served: Served, field: str, value: Any) -> None:
    """What the model never saw, and what nobody knows, is answered by rule."""
    answer = served.client.post("/predict", json=_changed(field, value))
    assert answer.status_code == 200, answer.text
    assert 0 <= answer.json()["probability"] <= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("date", WITHOUT),
        ("date", "2013-02-30"),
        ("date", "04/07/2013"),
        ("date", 20130704),
        ("sched_dep_time", "24:00"),
        ("sched_dep_time", "7:5"),
        ("sched_dep_time", "17:45\n"),
        ("sched_dep_time", 1745),
        ("carrier", ""),
        ("carrier", "ua"),
        ("carrier", None),
        ("flight", 0),
        ("flight", True),
        ("flight", "1545"),
        ("flight", 10**30),
        ("origin", "EWRR"),
        ("origin", 7),
        ("origin", WITHOUT),
        ("dest", ["IAH"]),
        ("distance", -1),
        ("distance", None),
        ("distance", "far"),
        ("tailnum", "N" * 17),
        ("plane", "B737"),
        ("plane.year", 1776),
        ("plane.year", 1999.5),
        ("plane.seats", "many"),
        ("plane.wings", 2),
        ("weather", []),
        ("weather.temp", "warm"),
        ("weather.temp", 1e300),
        ("weather.humid", -1),
        ("weather.wind_dir", 361),
        ("weather.sun", 1),
        ("late", True),
    ],
)
def test_a_bad_field_is_named(served: Served, field: str, value: Any) -> None:
    """A field that is missing, unknown or not what it should be is refused by its name, never by a 5xx."""
    answer = served.client.post("/predict", json=_changed(field, value))
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["field"] == field
    assert error["reason"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["distance", "weather.temp", "plane.year"])
def test_not_a_number_is_named(served: Served, token: str, field: str) -> None:
    """NaN and Infinity, which some encoders write, are refused with the field's name and what to send."""
    row = json.dumps(_changed(field, "HERE")).replace('"HERE"', token)
    answer = served.client.post("/predict", content=row)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert "null" in answer.json()["error"]["reason"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"date=2013-07-04", 400),
        (b"\xff\xfe\x00", 400),
        (b'{"carrier": "\xff"}', 400),
        (b'{"date": NaN', 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"17", 422),
        (b'{"\\ud800": 1}', 400),
        (b'{"date": "\xff"}', 400),
        (b'{"date": "2013-', 400),
        (b'{"late": 1, ', 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000, 400),
        (b'{"weather": {"a":' + b"[" * 60_000, 400),
        (b'{"distance": 1' + b"0" * 5_000 + b"}", 422),
        (b" " * 65_537, 413),
        (b"x" * 3_000_000, 413),
    ],
    ids=lambda value: str(value[:12]) if isinstance(value, bytes) else None,
)
def test_a_body_that_is_no_row_is_refused(served: Served, body: bytes, status: int) -> None:
    """What is not JSON, not an object, or too large is refused with a status of its own and our JSON."""
    answer = served.client.post("/predict", content=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["reason"]
    assert served.client.post("/predict", json=flight_row()).status_code == 200


def test_a_body_in_pieces_is_read_whole(served: Served) -> None:
    """A chunked body is answered as one that came at once."""
    body = json.dumps(flight_row()).encode()
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    assert served.client.post("/predict", content=pieces).status_code == 200


@pytest.mark.parametrize(
    ("field", "raw"),
    [("tailnum", r'"N\ud800"'), ("weather.temp", r'"\udc00\ud800"'), ("distance", "1e400")],
)
def test_what_json_can_write_and_nobody_read_is_named(served: Served, field: str, raw: str) -> None:
    """Half a surrogate pair and a number beyond all floats are refused by the field that holds them."""
    row = json.dumps(_changed(field, "HERE")).replace('"HERE"', raw)
    answer = served.client.post("/predict", content=row)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_the_features_are_those_that_the_pipeline_computes(served: Served) -> None:
    """`/features` answers, by name, what `compute_columns` makes of the same row, bit by bit."""
    row = _changed("weather.pressure", None)
    answer = served.client.post("/features", json=row, headers={"x-request-id": "f-1"})
    seen = features.Vocabulary.of({"carrier": ["UA"], "origin": ["EWR"], "dest": ["IAH"]})
    (wanted,) = features.compute_columns(features.to_columns([row]), seen).tolist()
    found = answer.json()["features"]
    assert [found[name] for name in features.FEATURES] == [None if v != v else v for v in wanted]
    assert (answer.status_code, answer.json()["request_id"]) == (200, "f-1")


def test_features_refuse_what_predict_refuses(served: Served) -> None:
    """The same request is asked for, and the same field blamed."""
    answer = served.client.post("/features", json=_changed("origin", 7))
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "origin")
    assert served.client.get("/features").status_code == 405


@pytest.mark.parametrize("path", ["/openapi.json", "/docs.json"])
def test_the_promise_is_published(served: Served, path: str) -> None:
    """The running service tells its OpenAPI document, and BentoML's page shows the same."""
    document = served.client.get(path).json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {"/predict", "/predict/many", "/features"}
    assert document["components"]["schemas"]["Flight"]["additionalProperties"] is False


def test_only_post_predicts(served: Served) -> None:
    """Another method is told which one is meant; another path is not found."""
    answer = served.client.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert served.client.post("/predictions", json=flight_row()).status_code == 404


def test_a_caller_who_leaves_does_no_harm(served: Served) -> None:
    """A connection that is dropped in the middle of a body leaves the service answering."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", "500")
    connection.endheaders(b'{"date":')
    connection.close()
    assert served.client.post("/predict", json=flight_row()).status_code == 200


def test_probes_and_metrics_answer(served: Served) -> None:
    """`/livez`, `/readyz` and `/metrics` answer, and predictions are counted by status."""
    before = _counted(served, "200")
    for _ in range(3):
        served.client.post("/predict", json=flight_row())
    served.client.post("/predict", content=b"{}")
    assert [served.client.get(path).status_code for path in ("/livez", "/readyz", "/metrics")] == [200] * 3
    assert _counted(served, "200") == before + 3
    assert _counted(served, "422") > 0


def _counted(served: Served, status: str) -> float:
    wanted = f'tidegate_predictions_total{{service="flight_delay",status="{status}"}}'
    lines = served.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))


def test_what_the_service_counts_is_read_as_a_check(served: Served) -> None:
    """Scores and missing features of the running service reach the plane's reader, warm-up rows do not."""
    checks = (
        Check("gaps", "missing-features", Ratio(0.05)),
        Check("drift", "prediction-drift", Ratio(0.05)),
    )
    endpoints = {"a": (f"127.0.0.1:{served.port}",)}
    asked = Asked("flight-delay", "canary", "a", None, 0.0, Plan(checks=checks), endpoints)
    measures = ServiceMeasures(timeout=5)
    measures.read(asked)
    for _ in range(3):
        served.client.post("/predict", json=_changed("weather.wind_gust", 20.0))
    served.client.post("/predict", json=_changed("weather.pressure", None))
    served.client.post("/predict", json=flight_row(), headers={"x-tidegate-warm": "1"})
    served.client.post("/features", json=_changed("weather.pressure", None))
    (found,) = measures.read(asked).values()
    assert list(found.tallies.values()) == [(4, 1)]
    (scores,) = found.bins.values()
    assert {at: n for at, n in enumerate(scores) if n} == {15: 4}  # 0.317 each


def test_journaled_answers_are_written_down(served: Served, built: Built) -> None:
    """A request that the router journals leaves a line that can be compared; any other leaves none."""
    headers = {"x-request-id": "j-1", "x-tidegate-journal": "1"}
    answer = served.client.post("/predict", json=flight_row(), headers=headers).json()
    path = served.answers / f"{built.record.id}.{served.process.pid}.jsonl"
    end = time.monotonic() + 10
    while not (path.is_file() and path.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.02)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert abs(line.pop("at") - time.time()) < 60
    assert 0 < line.pop("ms") < 5000
    said = {"probability": answer["probability"], "late": answer["late"]}
    wanted = {"id": "j-1", "status": 200, "score": answer["probability"], "decision": False, "answer": said}
    assert line == wanted


# ---------------------------------------------------------------- the process
def test_a_workload_is_one_process(served: Served) -> None:
    """Nothing is left behind when the process is killed, since there is no other."""
    assert psutil.Process(served.process.pid).children(recursive=True) == []


def test_a_bento_brings_its_own_code(served: Served, built: Built) -> None:
    """The running code is the Bento's, though the checkout's package is installed beside it."""
    environment = psutil.Process(served.process.pid).environ()
    assert environment["PYTHONPATH"] == str(built.source)
    shown = subprocess.run(
        [*serve_command("x:1", 1)[:2], "-c", "import tidegate.serving as s; print(s.__file__)"],
        env={"PYTHONPATH": str(built.source), "PATH": os.environ["PATH"]},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == str(built.source / "tidegate" / "serving" / "__init__.py")


def test_serving_leaves_the_bento_as_it_was(served: Served, built: Built) -> None:
    """A Bento that has served still has the digest of its record."""
    assert served.process.poll() is None
    assert BentoStore(built.home).digest(built.record.bento.tag) == built.record.bento.digest


def test_a_taken_port_is_told_at_once(served: Served, built: Built) -> None:
    """A second process on the same port ends by itself, before it loads anything, and says why."""
    kept = built.home / "metrics" / str(served.port)
    before = sorted(kept.iterdir())
    second = start(built, served.port)
    output, _ = second.communicate(timeout=30)
    assert second.returncode not in (0, None)
    assert b"address already in use" in output.lower()
    assert before
    assert sorted(kept.iterdir()) == before  # the living process's counters


def test_requests_in_flight_are_answered_at_the_end(built: Built) -> None:
    """SIGTERM lets a request that was begun finish, then the process ends with 0."""
    port = free_port()
    process = start(built, port)
    try:
        assert ready(process, port)
        body = json.dumps(flight_row()).encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.putrequest("POST", "/predict")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body[:10])
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.send(body[10:])
        assert connection.getresponse().status == 200
        connection.close()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


def _tampered_model(copy: Built) -> None:
    path = copy.source / "model" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def _tampered_model_and_manifest(copy: Built) -> None:
    """The Bento agrees with itself, but no longer with the release."""
    _tampered_model(copy)
    manifest = copy.source / "artifact.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "digest": digest_folder(copy.source / "model")}))


@pytest.mark.parametrize("tamper", [_tampered_model, _tampered_model_and_manifest])
def test_another_model_is_never_ready(built: Built, tmp_path: Path, tamper: Any) -> None:
    """A Bento whose model is not the recorded one ends without ever having answered."""
    home = tmp_path / "bentoml"
    shutil.copytree(built.home, home)
    copy = Built(home, built.record)
    tamper(copy)
    port = free_port()
    process = start(copy, port)
    try:
        assert not ready(process, port)
        output = process.communicate(timeout=5)[0].decode()
        assert process.returncode == 3
        assert "model flight-delay is not the one that" in output
    finally:
        process.kill()


def test_a_model_that_fails_its_own_examples_is_never_ready(tmp_path: Path) -> None:
    """An example that the service itself refuses stops the start, and the log names the field."""
    model = tiny_model(tmp_path / "model")
    (model / "examples.json").write_text(json.dumps([flight_row(origin="nowhere")]))
    digest = digest_folder(model)
    home = tmp_path / "bentoml"
    bento = BentoStore(home).build(Source("flight-delay", ROOT, model, digest, 8, "0" * 40))
    record = ReleaseRecord("flight-delay", "0" * 40, "sha256:", RegistryRef("f", 8), digest, bento, {})
    port = free_port()
    process = start(Built(home, record), port)
    try:
        assert not ready(process, port)
        assert '"field": "origin"' in process.communicate(timeout=5)[0].decode()
        assert process.returncode == 3
    finally:
        process.kill()
