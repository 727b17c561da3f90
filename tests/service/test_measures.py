"""What a service counts of its own predictions, and what it writes down of its answers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from prometheus_client.parser import text_string_to_metric_families

from tidegate.core import counts
from tidegate.serving import Predictions, answered, measuring, scores
from tidegate.serving import app as serving
from tidegate.serving.answered import Journal
from tidegate.serving.measuring import Measuring, appending, lacks, number

WARM, JOURNALED = (b"x-tidegate-warm", b"1"), (b"x-tidegate-journal", b"1")


class Row(msgspec.Struct):
    """A request of one number, null where it is not known."""

    x: float | None = None


class Said(msgspec.Struct):
    """An answer with a score, whose range it promises."""

    score: Annotated[float, Meta(ge=0, le=1)]
    late: bool


class Toy:
    """A service instance: its score is `x`, and its features are `x` twice."""

    model = SimpleNamespace(examples=[{"x": 0.5}])

    def features(self, row: Row) -> Any:
        return np.array([[row.x, row.x]], dtype=np.float32)

    def predict(self, rows: Any) -> dict[str, Any]:
        x = rows[:, 0].astype(float)
        if (x == 13).any():
            raise ZeroDivisionError
        return {"score": np.nan_to_num(x), "late": x >= 0.5}


class App:
    """The serving shell around an instance, asked as a server would."""

    def __init__(self, instance: Any = None, **declared: str) -> None:
        given = {"score": "score", "decision": "late", **declared}
        inner = SimpleNamespace(request=Row, response=Said, feature_names=("a", "b"), **given)
        self.service = SimpleNamespace(name="toy", inner=inner, instance=instance or Toy())
        self.shell = Predictions(self.service, self._rest)

    async def _rest(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b"# TYPE other counter\nother_total 1.0\n" if scope["path"] == "/metrics" else b"{}"
        status = 200 if scope["path"] == "/metrics" else 404
        length = (b"Content-Length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [length]})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    async def ask(
        self, path: str, body: object = None, *headers: tuple[bytes, bytes], method: str = "POST"
    ) -> tuple[int, bytes]:
        """Return status and body of one answer; its length must be what was promised."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(body).encode()}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
        await self.shell(scope, receive, send)
        content = b"".join(message["body"] for message in sent[1:])
        promised = [int(v) for name, v in sent[0]["headers"] if name.lower() == b"content-length"]
        assert promised == [len(content)]
        return sent[0]["status"], content

    async def predict(self, x: float | None, *headers: tuple[bytes, bytes]) -> int:
        return (await self.ask("/predict", {"x": x}, *headers))[0]

    async def measures(self) -> dict[str, Any]:
        status, content = await self.ask("/measures", method="GET")
        assert status == 200
        return dict(json.loads(content))

    async def live(self, work: Any) -> None:
        """Start up, do `work`, shut down."""
        told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        begun = asyncio.Event()

        async def send(message: Any) -> None:
            begun.set()

        life = asyncio.create_task(self.shell({"type": "lifespan"}, told.get, send))
        await begun.wait()
        await work
        await told.put({"type": "lifespan.shutdown"})
        await life


def test_scores_and_gaps_are_counted() -> None:
    """Each answered prediction counts once: its score in one of 50 bins, and whether a feature lacked."""
    app = App()

    async def work() -> None:
        for x in (0.0, 0.019, 0.5, 0.5, 1.0, None):
            assert await app.predict(x) == 200
        found = await app.measures()
        assert (found["predictions"], found["scored"], found["featured"], found["missing"]) == (6, 6, 6, 1)
        assert {at: n for at, n in enumerate(found["scores"]) if n} == {0: 3, 25: 2, 49: 1}
        assert re.fullmatch(rf"{os.getpid()}-\d+\.\d+", found["instance"])

    asyncio.run(app.live(work()))


def test_the_bins_are_those_that_are_read() -> None:
    """The service, which travels in a Bento, and the agent agree on the histogram."""
    assert scores.BINS == counts.SCORE_BINS


@pytest.mark.parametrize("headers", [(WARM,), (WARM, JOURNALED)])
def test_a_warm_up_is_not_counted(headers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plane sends to warm a replica is no request of anybody's, and neither are its own examples."""
    monkeypatch.setenv("TIDEGATE_ANSWERS", str(tmp_path))
    monkeypatch.setenv("TIDEGATE_RELEASE", "abc")
    app = App()

    async def work() -> None:
        assert await app.predict(None, *headers) == 200
        found = await app.measures()
        assert (found["predictions"], found["missing"], sum(found["scores"])) == (0, 0, 0)
        assert b"\ntidegate_predictions_total{" not in (await app.ask("/metrics", method="GET"))[1]

    asyncio.run(app.live(work()))
    assert list(tmp_path.iterdir()) == []


V2_ROWS = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [3], "data": [0.1, 0.2, 0.3]}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v2/models/toy/infer", V2_ROWS), ("/predict/many", {"columns": {"x": [0.1, 0.2, 0.3]}})],
)
def test_many_rows_are_counted_by_row_and_a_warm_up_by_none(path: str, body: Any) -> None:
    """Over each protocol three rows are three predictions, and one request of many; a warm-up is nothing."""
    app = App()

    async def work() -> None:
        assert (await app.ask(path, body, WARM))[0] == 200
        assert b"\ntidegate_predictions_total{" not in (await app.ask("/metrics", method="GET"))[1]
        assert (await app.ask(path, body))[0] == 200
        text = (await app.ask("/metrics", method="GET"))[1].decode()
        assert re.search(r'^tidegate_predictions_total\{.*status="200".*\} 3(?:\.0)?$', text, re.M)
        assert re.search(r"^tidegate_many_seconds_count\{.*\} 1(?:\.0)?$", text, re.M)
        assert re.search(r"^tidegate_prediction_seconds_count\{.*\} 0(?:\.0)?$", text, re.M)

    asyncio.run(app.live(work()))


def test_large_bodies_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one caller's large body is still coming another's is told to come again, and taken after it."""
    monkeypatch.setattr(serving, "BODIES", 0.01)
    app = App()
    large = {"columns": {"x": [0.5] * 9000}, "more": "x" * 100_000}

    async def work() -> None:
        begun, ends, sent = asyncio.Event(), asyncio.Event(), list[Any]()

        async def receive() -> dict[str, Any]:
            if begun.is_set():
                await ends.wait()
                return {"type": "http.request", "body": b""}
            begun.set()
            return {"type": "http.request", "body": b"[" * 100_000, "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/predict/many", "method": "POST", "headers": []}
        slow = asyncio.create_task(app.shell(scope, receive, send))
        await begun.wait()
        for path in ("/predict/many", "/v2/models/toy/infer"):
            assert (await asyncio.create_task(app.ask(path, large)))[0] == 429
        ends.set()
        await slow
        assert sent[0]["status"] == 400
        assert (await asyncio.create_task(app.ask("/predict/many", large)))[0] == 422

    asyncio.run(app.live(work()))


def test_what_was_not_answered_is_not_counted() -> None:
    """A refused and a failed request are no predictions, and leave nothing to the next one."""
    app = App()

    async def work() -> None:
        assert (await app.ask("/predict", {"x": "word"}))[0] == 422
        assert await app.predict(13) == 500
        assert (await app.ask("/features", {"x": None}))[0] == 200
        assert (await app.measures())["predictions"] == 0
        assert await app.predict(0.5) == 200
        found = await app.measures()
        assert (found["predictions"], found["featured"], found["missing"]) == (1, 1, 0)

    asyncio.run(app.live(work()))


cells = st.one_of(st.floats(width=32), st.none())


@given(row=st.lists(st.floats(width=32), max_size=30))
def test_a_nan_anywhere_is_a_gap(row: list[float]) -> None:
    """An array lacks a feature when one of its numbers is NaN, infinities are known."""
    wanted = any(math.isnan(value) for value in row)
    assert lacks(np.array([row], dtype=np.float32)) is wanted
    assert lacks(np.array(row)) is wanted
    assert lacks([row]) is wanted


@given(rows=st.lists(st.lists(cells, min_size=2, max_size=2), max_size=5))
def test_null_in_a_list_is_a_gap(rows: list[list[float | None]]) -> None:
    """Lists may write null for what is not known, in any of several rows."""
    wanted = any(value is None or math.isnan(value) for row in rows for value in row)
    assert lacks(rows) is wanted


@pytest.mark.parametrize("rows", [[], [[]], [["a", "b"]], ["a"], np.array([["a", "b"]]), np.zeros((0, 3))])
def test_what_is_no_number_is_no_gap(rows: Any) -> None:
    """Words and empty rows don't break a prediction."""
    assert lacks(rows) is False


@given(
    value=st.one_of(st.floats(), st.integers(), st.booleans(), st.text(), st.none(), st.lists(st.floats()))
)
def test_a_score_of_any_kind_breaks_nothing(value: Any) -> None:
    """Only a finite number is a score; one out of the range counts in the bin at that end, and as outside."""
    measured = Measuring("toy", "score")
    measured.over((0.0, 1.0))
    measured.count({"score": value})
    wanted = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    told = json.loads(measured.document())
    assert (told["predictions"], told["scored"], sum(told["scores"])) == (1, wanted, wanted)
    outside = wanted and (value < 0 or value > 1)
    assert told["outside"] == outside
    if outside:
        assert told["scores"][0 if value < 0 else -1] == 1
    assert number(value) == (float(value) if wanted else None)


@pytest.mark.parametrize("predictions", [1, measuring.TOGETHER, 3 * measuring.TOGETHER + 1])
def test_what_is_added_up_later_is_told_at_once(predictions: int) -> None:
    """However many predictions wait to be added up, whoever asks is told all of them."""
    measured = Measuring("toy", "score", "", ("a", "b"))
    for number_ in range(predictions):
        measured.count({"score": 0.5}, np.array([[1.0, math.nan if number_ % 2 else 2.0]], dtype=np.float32))
    told = json.loads(measured.document())
    assert (told["predictions"], told["featured"], told["scored"]) == (predictions,) * 3
    assert told["missing"] == predictions // 2
    assert f'feature="b"}} {predictions // 2}' in measured.text().decode()


# ---------------------------------------------------------------- /metrics
def test_prometheus_reads_the_same_counts() -> None:
    """/metrics holds BentoML's text and ours, in a form that Prometheus' own parser reads."""
    app = App()

    async def work() -> bytes:
        for x in (0.25, 0.75, 0.755, None):
            await app.predict(x)
        await app.ask("/predict", {"x": "word"})
        status, content = await app.ask("/metrics", method="GET")
        assert status == 200
        return content

    text = asyncio.run(work_of(app, work)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (s.name, s.labels.get("le", s.labels.get("status", ""))): s.value
        for family in families.values()
        for s in family.samples
    }
    assert samples["other_total", ""] == 1
    assert samples["tidegate_predictions_total", "200"] == 4
    assert samples["tidegate_predictions_total", "422"] == 1
    assert samples["tidegate_missing_features_total", ""] == 1
    assert [samples["tidegate_score_bucket", le] for le in ("0.02", "0.26", "0.76", "+Inf")] == [1, 2, 4, 4]
    assert samples["tidegate_score_sum", ""] == pytest.approx(1.755, abs=1e-6)
    assert families["tidegate_score"].type == families["tidegate_prediction_seconds"].type == "histogram"
    assert samples["tidegate_prediction_seconds_count", ""] == 5


async def work_of(app: App, work: Any) -> bytes:
    """Return what `work` does while the application lives."""
    found: list[bytes] = []

    async def wrapped() -> None:
        found.append(await work())

    await app.live(wrapped())
    return found[0]


@pytest.mark.parametrize(
    ("status", "headers", "body", "wanted"),
    [
        (200, [], b"a 1\n", b"a 1\nmore\n"),
        (200, [], b"a 1\n# EOF\n", b"a 1\n# EOF\n"),
        (500, [], b"a 1\n", b"a 1\n"),
        (200, [(b"Content-Encoding", b"gzip")], b"a 1\n", b"a 1\n"),
    ],
)
def test_only_a_plain_page_is_added_to(status: int, headers: Any, body: bytes, wanted: bytes) -> None:
    """An error, a compressed page and OpenMetrics' own end are passed on as they are."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def work() -> None:
        later = appending(send, lambda: b"more\n")
        await later({"type": "http.response.start", "status": status, "headers": headers})
        await later({"type": "http.response.body", "body": body})

    asyncio.run(work())
    assert b"".join(message["body"] for message in sent[1:]) == wanted


# ---------------------------------------------------------------- the journal
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the environment names; it is not there yet."""
    monkeypatch.setenv("TIDEGATE_ANSWERS", str(tmp_path / "deep" / "answers"))
    monkeypatch.setenv("TIDEGATE_RELEASE", "abc")
    return tmp_path / "deep" / "answers"


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"abc.{os.getpid()}.jsonl").read_text().splitlines()]


def test_only_asked_for_answers_are_written_down(folder: Path) -> None:
    """Each journaled request has a line with what is needed to compare it; others have none."""
    app = App()

    async def work() -> None:
        await app.predict(0.25)
        await app.predict(0.75, JOURNALED, (b"x-request-id", b"r-1"))
        await app.predict(13, JOURNALED, (b"x-request-id", b"r-2"))
        await app.ask("/predict", {"x": "w"}, JOURNALED, (b"x-request-id", b"r-3"))
        await app.ask("/features", {"x": 1}, JOURNALED, (b"x-request-id", b"r-4"))
        # Written within the time that it is held back for, not only at the end.
        for _ in range(200):
            await asyncio.sleep(0.02)
            if folder.is_dir() and len(_lines(folder)) == 3:
                break

    asyncio.run(app.live(work()))
    good, failed, refused = _lines(folder)
    assert good.pop("at") > 0
    assert good.pop("ms") > 0
    said = {"score": 0.75, "late": True}
    assert good == {"id": "r-1", "status": 200, "score": 0.75, "decision": True, "answer": said}
    assert [(line["id"], line["status"], line["score"]) for line in (failed, refused)] == [
        ("r-2", 500, None),
        ("r-3", 422, None),
    ]


def test_the_last_answers_are_written_at_the_end(folder: Path) -> None:
    """A service that is stopped has written every answer that it gave."""
    app = App()

    async def work() -> None:
        for at in range(500):
            await app.predict(at / 500, JOURNALED)

    asyncio.run(app.live(work()))
    assert len(_lines(folder)) == 500


def test_outside_of_a_plane_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the folder's variable the header means nothing."""
    monkeypatch.delenv("TIDEGATE_ANSWERS", raising=False)
    app = App()

    async def work() -> None:
        assert await app.predict(0.5, JOURNALED) == 200

    asyncio.run(app.live(work()))
    assert app.shell.engine.journal is None


def _write(journal: Journal, *answers: dict[str, Any]) -> None:
    async def work() -> None:
        for at, answer in enumerate(answers):
            journal.note(Measuring("toy", "score", "late"), f"r-{at}", 200, 1.0, answer)
        journal.close()

    asyncio.run(work())


def test_files_turn_over(tmp_path: Path) -> None:
    """A file that is full makes room for another, and one older one is kept: the disk's use is bounded."""
    for _ in range(30):
        _write(Journal(tmp_path, "abc", limit=2000), *({"score": 0.5} for _ in range(5)))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"abc.{os.getpid()}.jsonl", f"abc.{os.getpid()}.jsonl.1"]
    assert all(0 < path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert all(json.loads(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    "answer",
    [{"score": 0.5, "text": "x" * 5000}, {"score": 0.5, "late": True, "odd": object()}],
    ids=["long", "strange"],
)
def test_a_large_or_strange_answer_is_written_in_short(tmp_path: Path, answer: dict[str, Any]) -> None:
    """Its score is there, and the rest is left out: a line is small."""
    _write(Journal(tmp_path, "abc"), answer)
    (line,) = _lines(tmp_path)
    assert (line["score"], "answer" in line) == (0.5, False)


@pytest.mark.parametrize("odd", [float("nan"), "word", None, [1], True])
def test_a_score_that_is_none_is_null(tmp_path: Path, odd: Any) -> None:
    """Only a finite number is written as a score, only a plain value as a decision."""
    _write(Journal(tmp_path, "abc"), {"score": odd, "late": [1, 2]})
    (line,) = _lines(tmp_path)
    assert (line["score"], line["decision"]) == (None, None)


def test_what_processes_before_have_left_is_removed(tmp_path: Path) -> None:
    """Files that nobody has written for two days go, whatever the plane compares; younger ones stay."""
    for name, days in (("old.1.jsonl", 3), ("old.1.jsonl.1", 3), ("young.2.jsonl", 1), ("other.txt", 9)):
        (tmp_path / name).write_text("{}\n")
        os.utime(tmp_path / name, (time.time() - 86400 * days,) * 2)
    _write(Journal(tmp_path, "abc"), {"score": 0.5})
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [f"abc.{os.getpid()}.jsonl", "other.txt", "young.2.jsonl"]


def test_a_bad_folder_fails_no_request(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every request is answered, every line counted as lost, and it is told once."""
    folder.parent.mkdir()
    folder.write_text("a file")
    app = App()

    async def work() -> None:
        for _ in range(3):
            for _ in range(10):
                assert await app.predict(0.5, JOURNALED) == 200
            await _at_rest(app.shell.engine.journal)

    with caplog.at_level(logging.WARNING):
        asyncio.run(app.live(work()))
    assert app.shell.engine.journal is not None
    assert app.shell.engine.journal.lost == 30
    assert caplog.text.count("are not written down") == 1


class FullDisk:
    """Stands for the module `os` on a disk with so much room left."""

    def __init__(self) -> None:
        self.room = 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, file: int, data: Any) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        written = os.write(file, bytes(data)[: self.room])
        self.room -= written
        return written


def test_a_full_disk_spoils_no_later_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was cut off by a full disk ends there; when there is room again each line is whole."""
    journal, disk = Journal(tmp_path, "abc"), FullDisk()
    monkeypatch.setattr(answered, "os", disk)

    async def work() -> None:
        for name, room in (("r-1", 10**9), ("r-2", 30), ("r-3", 0), ("r-4", 10**9)):
            disk.room = room
            await _note(journal, name)
        journal.close()

    asyncio.run(work())
    first, cut, last = (tmp_path / f"abc.{os.getpid()}.jsonl").read_bytes().splitlines()
    assert [json.loads(first)["id"], json.loads(last)["id"]] == ["r-1", "r-4"]
    assert len(cut) == 30
    assert journal.lost == 2


async def _note(journal: Journal, name: str) -> None:
    """Write down one answer and wait until the disk has had it."""
    journal.note(Measuring("toy", "score"), name, 200, 1.0, {"score": 0.5})
    await _at_rest(journal)


async def _at_rest(journal: Journal | None) -> None:
    while journal and journal.waiting:
        await asyncio.sleep(0.01)


def test_a_disk_that_hangs_costs_lines_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a disk is bounded: beyond that answers are counted as lost."""
    monkeypatch.setattr(answered, "BACKLOG", 10_000)
    monkeypatch.setattr(answered, "CLOSING_SECONDS", 0.05)
    ends = threading.Event()
    monkeypatch.setattr(answered.Lines, "write", lambda self, parts: ends.wait())  # never takes anything
    journal = Journal(tmp_path, "abc")
    _write(journal, *({"score": 0.5} for _ in range(500)))
    assert journal.lost > 300
    assert journal.lost + journal.waiting // 100 >= 400
    ends.set()


def test_a_file_that_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    """Lines go to the file of that name, not into one that has none any more."""
    journal = Journal(tmp_path, "abc")

    async def work() -> None:
        for name in ("r-1", "r-2"):
            journal.path.unlink(missing_ok=True)
            await _note(journal, name)
        journal.close()

    asyncio.run(work())
    assert [line["id"] for line in _lines(tmp_path)] == ["r-2"]
