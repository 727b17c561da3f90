"""The parity gate against flight-delay's own service code, in this process, sound and spoilt."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml

from gates import parity
from models.flight_delay import features, score
from services.flight_delay.schema import Delay, Flight
from tests.builders import flight_row, record, tiny_model
from tidegate import report
from tidegate.core.verdict import Verdict
from tidegate.files import digest_folder
from tidegate.serving import OnnxModel, Predictions, describe
from tidegate.serving.engine import Call

MODEL = "flight-delay"
SETTINGS: dict[str, Any] = {
    "rows": {"holdout": 6, "live": 6},
    "drawn": 5,
    "seed": 1,
    "tolerance": 1e-6,
    "timeout": 5,
}
DECLARED = {"task": "classification", "label": "late", "prediction": "probability"}
Spoil = Callable[[Any], Any]


def _rows(count: int, month: int) -> pd.DataFrame:
    rows = [
        flight_row(
            date=f"2013-{month:02d}-{1 + number % 28:02d}",
            sched_dep_time=f"{number % 24:02d}:{number % 60:02d}",
            distance=100 + number,
            weather=flight_row()["weather"] | {"temp": 30.5 + number} if number % 3 else None,
        )
        for number in range(count)
    ]
    return pd.DataFrame(features.to_columns(rows))


class Room:
    """A checkout with two splits, a tiny model and its saved predictions."""

    def __init__(self, root: Path) -> None:
        self.root, self.build = root, root / "build" / MODEL
        self.data = root / "data" / MODEL
        self.data.mkdir(parents=True)
        self.model = tiny_model(self.build / "model")
        for split, month in (("holdout", 6), ("live", 11)):
            _rows(40, month).to_parquet(self.data / f"{split}.parquet")
        self.save(lambda values: values)
        self.set({})

    def save(self, change: Spoil) -> None:
        """Write predictions.parquet as the evaluation does, with a change."""
        frame = pd.read_parquet(self.data / "holdout.parquet")
        matrix = features.compute_columns(frame, features.load(self.model / "features.json"))
        values = score.score(score.session(self.model / "model.onnx"), matrix)
        pd.DataFrame({"probability": change(values)}).to_parquet(self.build / "predictions.parquet")

    def release(self, artifact: str) -> str:
        """Package a release of a model's files, and return its id."""
        made = msgspec.structs.replace(record(1, MODEL), artifact=artifact)
        content = {key: value for key, value in msgspec.to_builtins(made).items() if value is not None}
        (self.build / "release.yaml").write_text(yaml.safe_dump(content))
        return str(made.id)

    def set(self, over: dict[str, Any], **declared: Any) -> None:
        """Write params.yaml."""
        content = {"models": {MODEL: DECLARED | declared}, "gates": {"parity": SETTINGS | over}}
        (self.root / "params.yaml").write_text(yaml.safe_dump(content))

    def look(self, url: str, *more: str) -> tuple[int, report.Report]:
        """Run the gate in this process."""
        code = parity.GATE.main([MODEL, "--endpoint", url, *more], self.root)
        return code, report.read_report(self.build / "gates" / "parity.json")


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A checkout that is sound."""
    return Room(tmp_path)


@contextmanager
def serve(
    folder: Path, rows: Spoil = lambda rows: rows, answer: Spoil = lambda answer: answer
) -> Iterator[str]:
    """Serve flight-delay by its own shell and schema; `rows` of features and `answer` may be spoilt."""
    model, vocabulary = OnnxModel(folder), features.load(folder / "features.json")

    def compute(flight: Flight) -> Any:
        return rows(features.compute([msgspec.to_builtins(flight)], vocabulary))

    def predict(given: Any) -> dict[str, Any]:
        probability = model(given)[:, 1]
        return {"probability": [answer(float(one)) for one in probability], "late": probability > 0.5}

    inner = SimpleNamespace(request=Flight, response=Delay, feature_names=features.FEATURES)
    instance = SimpleNamespace(predict=predict, features=compute)
    shell: Any = SimpleNamespace(name="flight_delay", inner=inner, instance=instance)
    predictions = Predictions(shell, rest=None)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            named = self.headers["x-request-id"]
            if self.path not in predictions._answers:
                self.send(404, b"{}")
                return
            call = Call(named, time.perf_counter(), body)
            self.send(*asyncio.run(predictions._respond(self.path, body, call)))

        def do_GET(self) -> None:
            self.send(200, json.dumps(describe(shell)).encode())

        def send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def failed(found: report.Report) -> set[str]:
    """Return the names of what failed."""
    return {one.name for one in found.findings if one.verdict is Verdict.FAIL}


def test_the_same_code_on_both_sides_passes(room: Room) -> None:
    """Rows of both splits, rows without each optional field, ends of ranges and drawn rows are the same."""
    with serve(room.model) as url:
        code, found = room.look(f"{url}/")
    assert code == 0, found.as_dict()
    assert found.measurements["rows"] == found.measurements["compared"] > 60
    assert {one.name for one in found.findings} >= {"features", "predictions", "saved predictions"}
    assert any("holdout.parquet" in name for name in found.as_dict()["source"]["inputs"])


def _swapped(rows: Any) -> Any:
    return rows[:, [0, 2, 1, *range(3, rows.shape[1])]]


def _celsius(rows: Any) -> Any:
    changed, place = rows.copy(), features.FEATURES.index("weather_temp")
    changed[:, place] = (changed[:, place] - 32) / 1.8
    return changed


SPOILT: dict[str, tuple[Spoil, str]] = {
    "feature order swapped": (_swapped, "feature hour"),
    "°C for °F": (_celsius, "feature weather_temp"),
    "unknown is 0": (lambda rows: np.nan_to_num(rows), "feature weather_temp"),
    "float16": (lambda rows: rows.astype(np.float16).astype(np.float32), "feature weather_pressure"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_skewed_features_are_named(room: Room, name: str) -> None:
    """What the service computes otherwise fails by the feature's name, whatever the prediction says."""
    spoil, finding = SPOILT[name]
    with serve(room.model, rows=spoil) as url:
        code, found = room.look(url)
    assert code == 1
    assert finding in failed(found)
    assert found.tables[0].rows[0][2] > 0


def test_a_prediction_apart_from_its_features_fails(room: Room) -> None:
    """The same features and another prediction: another model answers."""
    with serve(room.model, answer=lambda value: value + 1e-5) as url:
        code, found = room.look(url)
    assert code == 1
    assert failed(found) == {"predictions", "saved predictions"}


def test_saved_predictions_of_another_model_fail(room: Room) -> None:
    """What the evaluation measured must be what is served."""
    room.save(lambda values: values * 1.01)
    with serve(room.model) as url:
        code, found = room.look(url)
    assert (code, failed(found)) == (1, {"saved predictions"})


def test_the_file_that_is_served_is_compared(room: Room) -> None:
    """The pipeline scores by the variant that the service's settings name, and names it in the report."""
    (room.model / "model.int8.onnx").write_bytes((room.model / "model.onnx").read_bytes())
    serve_variant(room, "int8")
    with serve(room.model) as url:
        code, found = room.look(url)
    assert code == 0
    inputs = found.as_dict()["source"]["inputs"]
    assert any(name.endswith("model.int8.onnx") for name in inputs)
    assert any(name.endswith("settings.yaml") for name in inputs)


def test_the_release_that_was_asked_for_must_answer(room: Room) -> None:
    """With --release, a staging plane that still serves the one before fails."""
    wanted = room.release(digest_folder(room.model))
    with serve(room.model) as url:
        code, found = room.look(url, "--release", wanted)
    assert (code, failed(found)) == (1, {"release that answers"})


def test_another_model_in_the_checkout_is_an_error(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in build/ must be what the release was made of, or nothing can be said of the release."""
    wanted = room.release("sha256:another")
    monkeypatch.setenv("TIDEGATE_RELEASE", wanted)
    with serve(room.model) as url:
        code, found = room.look(url, "--release", wanted)
    assert (code, failed(found)) == (3, set())
    assert any("was made of sha256:another" in one.reason for one in found.findings)


def _no_live(room: Room) -> None:
    frame = pd.read_parquet(room.data / "live.parquet")
    frame.iloc[:0].to_parquet(room.data / "live.parquet")


def serve_variant(room: Room, name: str) -> None:
    """Let the service's settings say which of the model's files it runs."""
    folder = room.root / "services" / "flight_delay"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.yaml").write_text(f"variant: {name}\n")


UNUSABLE: dict[str, Callable[[Room], Any]] = {
    "no rows asked for": lambda room: room.set({"rows": {}}),
    "no row of a split asked for": lambda room: room.set({"rows": {"holdout": 5, "live": 0}}),
    "no prediction declared": lambda room: room.set({}, prediction=""),
    "another number of predictions declared": lambda room: room.set(
        {}, prediction=["on time", "probability"]
    ),
    "a variant that there is no file of": lambda room: serve_variant(room, "int8"),
    "settings of the service that say nothing": lambda room: serve_variant(room, "INT 8"),
    "a negative tolerance": lambda room: room.set({"tolerance": -0.1}),
    "an empty split": _no_live,
    "a missing split": lambda room: (room.data / "live.parquet").unlink(),
    "no saved predictions": lambda room: (room.build / "predictions.parquet").unlink(),
    "saved predictions that are none": lambda room: room.save(lambda values: values * np.nan),
    "saved predictions of fewer rows": lambda room: room.save(lambda values: values[:5]),
    "no model": lambda room: (room.model / "model.onnx").unlink(),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_nothing_to_compare_is_an_error(room: Room, name: str) -> None:
    """Missing, empty and misconfigured inputs are ERROR: nobody could look."""
    with serve(room.model) as url:
        UNUSABLE[name](room)
        assert room.look(url)[0] == 3


def test_an_endpoint_without_features_is_an_error(room: Room) -> None:
    """A service of before `/features`, and nobody at all, can't be compared with."""
    with serve(room.model) as url:
        assert room.look(f"{url}/nowhere")[0] == 3
    assert room.look(url)[0] == 3
