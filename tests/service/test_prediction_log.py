"""What a service writes down of its predictions: all of it, and never in the way of an answer."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.flight_delay import features
from tests.builders import flight_row
from tests.planes import eventually
from tests.service.running import Built, build, free_port, ready, start
from tidegate.adapters.predictions import PredictionStore
from tidegate.core import segments
from tidegate.serving import predictions, spool
from tidegate.serving.engine import Call
from tidegate.serving.predictions import PredictionLog
from tidegate.serving.settings import Log

HEAD = {"model": "toy", "release": "abc", "model_version": "7", "plane": "p", "features": ["a", "b"]}
SEEN = np.array([[1.5, np.nan]], np.float32)
SAID = {"score": 0.25, "late": False}


def log_in(folder: Path, limit: int = 10_000_000) -> PredictionLog:
    """A log of a toy in a folder."""
    return PredictionLog(folder, HEAD, limit)


def note(log: PredictionLog, *names: str, answer: dict[str, Any] | None = None) -> None:
    """Write down one prediction for each of these requests."""
    for name in names:
        log.row(Call(name, 0.0, b'{"x": 1}'), SEEN, SAID if answer is None else answer, "computed", 1.0)


def record(name: str) -> bytes:
    """One record as a service encodes it."""
    return predictions._encode((0, name, 1.0, b"{}", None, {}, 1.0, "", "rest", "computed"))


def ids(folder: Path) -> list[str]:
    """The ids of all that is in the log, doubles included."""
    found = PredictionStore(folder).query("SELECT request_id FROM predictions", rows=1_000_000)
    return sorted(row[0] for row in found.rows)


# ---------------------------------------------------------------- a real service
@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A Bento of a tiny model."""
    return build(tmp_path_factory.mktemp("bento"))


@pytest.fixture
def running(built: Built, tmp_path: Path) -> Iterator[tuple[Any, str, Path]]:
    """The Bento as a plane runs it, where it answers, and its log's folder."""
    port, folder = free_port(), tmp_path / "predictions"
    process = start(built, port, TIDEGATE_PREDICTIONS=str(folder), TIDEGATE_PLANE="staging")
    try:
        assert ready(process, port), process.communicate()[0]
        yield process, f"http://127.0.0.1:{port}", folder
    finally:
        process.kill()
        process.communicate()


def test_a_prediction_is_written_down_as_it_was(running: tuple[Any, str, Path], built: Built) -> None:
    """The record has what was sent, seen and answered, and who answered; the service never loads Arrow."""
    process, url, folder = running
    row = flight_row() | {"tailnum": "N14228"}
    with httpx.Client(base_url=url) as client:
        answer = client.post("/predict", json=row, headers={"x-request-id": "mine"}).json()
        seen = client.post("/features", json=row).json()["features"]
        assert client.post("/predict", json={"odd": 1}).status_code == 422
    store = PredictionStore(folder)
    eventually(lambda: store.known(["mine"]) == {"mine"})
    (found,) = store.find("mine")
    assert found.inputs == row
    assert dict(found.features) == seen
    assert list(found.features) == list(features.FEATURES)
    assert found.prediction == {key: answer[key] for key in ("probability", "late")}
    assert (found.model, found.release, found.model_version) == ("flight-delay", built.record.id, "7")
    assert (found.plane, found.protocol, found.source) == ("staging", "rest", "computed")
    assert 0 < found.latency_ms < 10_000
    assert abs(found.at - time.time()) < 60
    assert ids(folder) == ["mine"]  # what was refused is no prediction, nor is a warm-up
    assert "libarrow" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_a_clean_stop_under_load_loses_nothing(running: tuple[Any, str, Path]) -> None:
    """Every request that was answered by 200 before and while the service ended is in the log, once."""
    process, url, folder = running
    body, numbers, answered = json.dumps(flight_row()).encode(), itertools.count(), []
    enough = threading.Event()

    def ask(_: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while True:
                name = f"r-{next(numbers)}"
                try:
                    if (
                        client.post("/predict", content=body, headers={"x-request-id": name}).status_code
                        == 200
                    ):
                        answered.append(name)
                except httpx.TransportError:
                    return  # it has ended
                if len(answered) >= 400:
                    enough.set()

    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(ask, number) for number in range(8)]
        assert enough.wait(60)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        for each in work:
            each.result()
    assert process.returncode == 0
    assert len(answered) >= 400
    found = ids(folder)
    assert len(found) == len(set(found))
    assert set(answered) - set(found) == set()
    assert not list(folder.glob("segments/*/*.open"))  # closed as well


def test_metrics_tell_what_became_of_the_records(running: tuple[Any, str, Path]) -> None:
    """Written, dropped and failed records are in /metrics."""
    _, url, _ = running
    with httpx.Client(base_url=url) as client:
        assert client.post("/predict", json=flight_row()).status_code == 200

        def told() -> dict[str, float]:
            lines = client.get("/metrics").text.splitlines()
            named = [line for line in lines if line.startswith("tidegate_predictions_log_")]
            return {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in named}

        begin = "tidegate_predictions_log_"
        eventually(lambda: told()[f"{begin}written_total"] == 1)
        zero = {f"{begin}dropped_total": 0, f"{begin}failed_total": 0, f"{begin}waiting_bytes": 0}
        assert told() == {f"{begin}written_total": 1, **zero}


# ---------------------------------------------------------------- the form
def test_writer_and_reader_agree_on_the_form() -> None:
    """What the service writes and what the toolkit reads have the same marks; they share no code."""
    mine = (predictions.MAGIC, predictions.ROW, predictions.ROWS, predictions.BLOCK.format)
    assert mine == (segments.MAGIC, segments.ROW, segments.ROWS, segments._BLOCK.format)


def test_whatever_is_cut_off_the_rest_is_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a segment cut at any byte, or with any byte spoiled, the whole blocks before that are read."""
    folder = tmp_path_factory.mktemp("cut")
    sink = predictions.Segments(folder, HEAD)
    for number in range(5):
        sink.write(
            [predictions._encode((0, f"r-{number}", 1.0, b"{}", None, {}, 1.0, "", "rest", "computed"))]
        )
    sink.close()
    (path,) = folder.glob("segments/toy/*.closed")
    data = path.read_bytes()
    whole = segments.parse(data)
    assert whole is not None
    assert [record[1] for record in whole.records] == [f"r-{n}" for n in range(5)]
    assert whole.lost == 0

    @given(st.integers(0, len(data) - 1), st.booleans())
    def holds(at: int, spoil: bool) -> None:
        changed = data[:at] + (bytes([data[at] ^ 0xFF]) + data[at + 1 :] if spoil else b"")
        found = segments.parse(changed)
        names = [record[1] for record in found.records] if found else []
        assert names == [f"r-{n}" for n in range(len(names))]
        assert len(names) < 5

    holds()


def test_many_rows_are_one_record_and_many_predictions(tmp_path: Path) -> None:
    """The rows of a request are told one by one, with their own inputs, whatever form it came in."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"tail": ["N1", "N2"], "plane.year": pa.array([1999.0, None])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    columns = {"tail": np.array(["N1", "N2"], object), "plane.year": np.array([1999.0, np.nan])}
    said = {"score": np.array([0.1, 0.2]), "late": np.array([False, True])}
    seen = np.array([[1, 2], [3, np.nan]], np.float32)
    json_body = b'{"columns": {"tail": ["N1", "N2"], "plane.year": [1999.0, null]}}'
    log = log_in(tmp_path)
    for name, raw in (("columns", json_body), ("arrow", sink.getvalue().to_pybytes()), ("v2", b"")):
        log.rows(Call(name, 0.0, raw, name), columns, seen, said, 3.0)
    log.close()
    assert (log.written, log.failed) == (6, 0)
    for name in ("columns", "arrow", "v2"):
        first, second = PredictionStore(tmp_path).find(name)
        assert [first.request_id, second.request_id] == [f"{name}/0", f"{name}/1"]
        assert first.inputs == {"tail": "N1", "plane": {"year": 1999.0}}
        assert second.inputs == {"tail": "N2", "plane": {"year": None}}
        assert (first.prediction, second.prediction) == (
            {"score": 0.1, "late": False},
            {"score": 0.2, "late": True},
        )
        assert [dict(each.features) for each in (first, second)] == [{"a": 1, "b": 2}, {"a": 3, "b": None}]
        assert PredictionStore(tmp_path).find(f"{name}/1") == [second]


# ---------------------------------------------------------------- never in the way
def test_what_can_not_be_encoded_is_counted_and_raises_nothing(tmp_path: Path) -> None:
    """An answer that has no form in the log costs its record."""
    log = log_in(tmp_path)
    note(log, "odd", answer={"score": object()})
    log.row(Call("words", 0.0, b"{}"), ["word"], SAID, "computed", 1.0)
    note(log, "good")
    log.close()
    assert (log.failed, log.written) == (1, 2)
    assert ids(tmp_path) == ["good", "words"]


def test_a_disk_that_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records wait for a full disk, and all are written when it has room again."""
    monkeypatch.setattr(predictions, "AGAIN_SECONDS", 0.02)
    room = threading.Event()
    real = os.write

    def write(file: int, data: Any) -> int:
        if not room.is_set() and len(data) > 7:
            return real(file, data[:7])
        if not room.is_set():
            raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(predictions.os, "write", write)
    log = log_in(tmp_path)
    note(log, "a", "b")
    assert log._spool.waiting > 0
    eventually(lambda: log._spool._told)
    note(log, "c")
    room.set()
    eventually(lambda: log.written == 3)
    log.close()
    assert ids(tmp_path) == ["a", "b", "c"]
    assert (log.dropped, log.failed) == (0, 0)


def test_what_waits_is_bounded_and_what_is_beyond_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs costs records beyond the bound, and neither time nor memory."""
    monkeypatch.setattr(predictions, "CLOSING_SECONDS", 0.05)
    ends = threading.Event()
    monkeypatch.setattr(predictions.Segments, "write", lambda self, parts: ends.wait(60))
    log = log_in(tmp_path, limit=20_000)
    note(log, *(f"r-{number}" for number in range(2000)))
    assert log._spool.waiting <= 20_000
    assert 1000 < log.dropped < 2000
    log.close()
    ends.set()


def test_a_record_larger_than_the_bound_is_kept_while_nothing_else_waits(tmp_path: Path) -> None:
    """A request of very many rows is no overload: it is dropped only where others wait already."""
    log = log_in(tmp_path, limit=1000)
    log.row(Call("large", 0.0, b"x" * 5000), None, {"score": 0.5}, "computed", 1.0)
    log.close()
    assert (log.written, log.dropped) == (1, 0)


def test_a_folder_that_can_not_be_written_fails_no_request(tmp_path: Path) -> None:
    """A file where the folder should be: records fail, nothing is raised, and a clean end does end."""
    (tmp_path / "log").write_text("a file")
    log = log_in(tmp_path / "log")
    note(log, "a", "b")
    log.close()
    assert (log.written, log.failed) == (0, 2)


def test_a_little_room_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No segment is begun on a disk that is nearly full."""
    monkeypatch.setattr(predictions, "FREE_BYTES", 1 << 62)
    log = log_in(tmp_path)
    note(log, "a")
    log.close()
    assert log.failed == 1
    assert not list(tmp_path.glob("segments/toy/*"))


# ---------------------------------------------------------------- segments
def test_segments_turn_over_by_size_and_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that is large or old is closed, and another is begun."""
    for name in ("FILE_BYTES", "FILE_SECONDS"):
        monkeypatch.setattr(predictions, name, 0)
        sink = predictions.Segments(tmp_path / name, HEAD)
        for _ in range(3):
            sink.write([record("a")])
        assert len(list((tmp_path / name).glob("segments/toy/*.closed"))) == 3
        monkeypatch.undo()


def test_whoever_closes_a_segment_under_way_loses_nothing(tmp_path: Path) -> None:
    """Others close segments again and again while a service writes: each record is in one of them, once."""
    log, store, over = log_in(tmp_path), PredictionStore(tmp_path), threading.Event()

    def close() -> None:
        while not over.is_set():
            store._files.close(float("inf"))

    closer = threading.Thread(target=close)
    closer.start()
    for number in range(30):
        note(log, *(f"{number}-{at}" for at in range(20)))
        eventually(lambda: log._spool.waiting == 0, seconds=30)
    over.set()
    closer.join()
    log.close()
    assert ids(tmp_path) == sorted(f"{number}-{at}" for number in range(30) for at in range(20))
    assert len(list(tmp_path.glob("segments/toy/*"))) > 5


def test_files_are_the_users_alone(tmp_path: Path) -> None:
    """They hold personal data: nobody else may read them."""
    log = log_in(tmp_path / "log")
    note(log, "a")
    log.close()
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "log").rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in (tmp_path / "log").rglob("*") if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("folder", "enabled"), [("", True), ("x", False)])
def test_there_is_no_log_without_a_folder_or_where_it_is_off(
    folder: str, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of a plane, and for a model that says so, nothing is written."""
    monkeypatch.setenv("TIDEGATE_PREDICTIONS", folder)
    said = Log(enabled=enabled)
    assert predictions.of_environment("toy", {"release": "", "model_version": ""}, (), said) is None


def test_a_spool_survives_a_defect_of_its_sink() -> None:
    """An error that nobody foresaw costs what was being written, and the next parts are written."""

    class Sink:
        def __init__(self) -> None:
            self.got: list[bytes] = []

        def write(self, parts: Any) -> None:
            if b"bad" in parts:
                raise ZeroDivisionError
            self.got += parts

        def close(self) -> None:
            pass

    sink = Sink()
    way = spool.Spool(sink, 1000, "things")
    way.put(b"bad")
    eventually(lambda: way.waiting == 0)
    way.put(b"good")
    way.close(30)
    assert (sink.got, way.failed, way.written) == ([b"good"], 1, 1)
