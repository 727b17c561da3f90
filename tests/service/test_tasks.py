"""What the shell around a model takes for granted of an answer: nothing.

A text into several classes, which has 64 features and no number that is the answer, and a number in minutes,
which is no probability and decides nothing, go every way that flight-delay's answers go.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pyarrow as pa
import pytest

from tests.toys import CLASSES, TEXTS, TOKENS, Moods, Rides, Took, moods_folder, rides_folder, service
from tidegate.adapters.predictions import PredictionStore
from tidegate.adapters.service import ServiceMeasures
from tidegate.core.plan import Check, Plan, Ratio
from tidegate.errors import NoData
from tidegate.explaining import explain
from tidegate.ports import Asked
from tidegate.serving import Predictions, arrow

RIDES = [{"km": 3.5, "stops": 1}, {"km": 120.0, "stops": 9}]
Work = Callable[[httpx.AsyncClient], Awaitable[Any]]


async def _rest(scope: Any, receive: Any, send: Any) -> None:
    """What BentoML would do of the lifespan and of /metrics."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    length = (b"content-length", b"0")
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b""})


async def _live(app: Predictions, work: Work) -> Any:
    """Start the application, do `work` with a client, and end it."""
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, told.get, said.put))
    await told.put({"type": "lifespan.startup"})
    started = await said.get()
    assert started["type"] == "lifespan.startup.complete", started
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
        found = await work(client)
    await told.put({"type": "lifespan.shutdown"})
    await life
    return found


def lived(instance: Any, name: str, work: Work) -> Any:
    """Return what `work` returns of a service that lives as long as it."""
    return asyncio.run(_live(Predictions(service(name, instance), _rest), work))


@pytest.fixture
def moods(tmp_path: Path) -> Moods:
    return Moods(moods_folder(tmp_path / "moods"))


@pytest.fixture
def rides(tmp_path: Path) -> Rides:
    return Rides(rides_folder(tmp_path / "rides"))


@pytest.fixture(params=["moods", "rides"])
def toy(request: pytest.FixtureRequest) -> tuple[Any, str, list[dict[str, Any]]]:
    """Each service: its instance, its name, and requests."""
    instance = request.getfixturevalue(request.param)
    rows = [{"text": text} for text in TEXTS] if request.param == "moods" else RIDES
    return instance, request.param, rows


def _plain(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without who gave it."""
    return {k: v for k, v in answer.items() if k not in ("request_id", "release", "model_version", "source")}


def _alike(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Rows that were computed together round otherwise than alone, in the last digit."""
    assert [list(row) for row in found] == [list(row) for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert [v for v in one.values() if isinstance(v, str)] == [
            v for v in other.values() if isinstance(v, str)
        ]
        numbers = {name: value for name, value in other.items() if not isinstance(value, str)}
        assert {name: one[name] for name in numbers} == pytest.approx(numbers, rel=1e-5)


# ---------------------------------------------------------------- answers
def test_every_protocol_gives_the_same_answers(toy: tuple[Any, str, list[dict[str, Any]]]) -> None:
    """Row by row, by column in JSON and in Arrow, and as tensors of the v2 protocol."""
    instance, name, rows = toy

    async def work(client: httpx.AsyncClient) -> None:
        alone = []
        for row in rows:
            answer = await client.post("/predict", json=row)
            assert answer.status_code == 200, answer.text
            alone.append(_plain(answer.json()))
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        answer = await client.post("/predict/many", json={"columns": columns})
        assert answer.status_code == 200, answer.text
        found = answer.json()["columns"]
        _alike([dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)], alone)
        answer = await client.post(
            "/predict/many", content=_stream(pa.table(columns)), headers={"content-type": arrow.TYPE}
        )
        assert answer.status_code == 200, answer.text
        table = pa.ipc.open_stream(io.BytesIO(answer.content)).read_all()
        _alike(table.to_pylist(), alone)
        metadata = (await client.get(f"/v2/models/{name}")).json()
        kinds = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
        inputs = [
            {"name": key, "shape": [len(rows)], "datatype": kinds[key], "data": values}
            for key, values in columns.items()
        ]
        answer = await client.post(f"/v2/models/{name}/infer", json={"inputs": inputs})
        assert answer.status_code == 200, answer.text
        outputs = {tensor["name"]: tensor["data"] for tensor in answer.json()["outputs"]}
        _alike(
            [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)], alone
        )

    lived(instance, name, work)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("values", [["good", ""], ["good", None], ["good", 7], ["good", "x" * 1001]])
def test_a_column_of_texts_is_held_to_the_schema(moods: Moods, values: list[Any]) -> None:
    """An empty, missing or too long text, or none, is refused in its row by the field's name."""

    async def work(client: httpx.AsyncClient) -> Any:
        return await client.post("/predict/many", json={"columns": {"text": values}})

    answer = lived(moods, "moods", work)
    assert answer.status_code == 422
    assert (answer.json()["error"]["field"], answer.json()["error"]["row"]) == ("text", 1)


def test_what_is_published_is_what_is_answered(toy: tuple[Any, str, list[dict[str, Any]]]) -> None:
    """Each example of the published document keeps its schema, is answered, and its answer keeps one, too."""
    instance, name, _ = toy

    async def work(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            taken = methods["post"]["requestBody"]["content"]["application/json"]
            given = methods["post"]["responses"]["200"]["content"]["application/json"]
            assert taken["examples"]
            for example in taken["examples"].values():
                rule = {"components": document["components"]}
                jsonschema.validate(example["value"], taken["schema"] | rule)
                answer = await client.post(path, json=example["value"])
                assert answer.status_code == 200, answer.text
                jsonschema.validate(answer.json(), given["schema"] | rule)
        assert (await client.get("/docs")).status_code == 200

    lived(instance, name, work)


def test_a_kept_answer_is_the_computed_one(moods: Moods, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 features are one key; texts that the model sees as the same share their answer, others none."""
    from tidegate.serving.settings import Cache, Settings

    monkeypatch.setattr("tidegate.serving.app._settings", lambda _: Settings(cache=Cache(entries=8)))
    long = "x" * TOKENS

    async def work(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        texts = ["some text", "some text", "some texts", long + "a", long + "b"]
        return [(await client.post("/predict", json={"text": text})).json() for text in texts]

    found = lived(moods, "moods", work)
    assert [answer["source"] for answer in found] == ["computed", "cached", "computed", "computed", "cached"]
    assert _plain(found[0]) == _plain(found[1])
    assert _plain(found[3]) == _plain(found[4])


# ---------------------------------------------------------------- what is written down
@pytest.fixture
def logged(
    toy: tuple[Any, str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, str, PredictionStore, list[dict[str, Any]]]:
    """A service of each task after 12 answers to single rows and one to many, its log and its answers."""
    instance, name, rows = toy
    monkeypatch.setenv("TIDEGATE_PREDICTIONS", str(tmp_path / "log"))
    monkeypatch.setenv("TIDEGATE_RELEASE", "aaaaaaaaaaaa")

    async def work(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        answers = []
        for number in range(12):
            row = rows[number % len(rows)]
            if name == "rides":
                row = {"km": 3.0 + number, "stops": number % 4}
            else:
                row = {"text": f"{number}{row['text']}"}
            answer = await client.post("/predict", json=row, headers={"x-request-id": f"r{number}"})
            answers.append(_plain(answer.json()))
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        await client.post("/predict/many", json={"columns": columns}, headers={"x-request-id": "many"})
        return answers

    answers = lived(instance, name, work)
    return instance, name, PredictionStore(tmp_path / "log"), answers


def test_the_log_has_what_was_asked_seen_and_answered(logged: Any) -> None:
    """Texts, classes and numbers of any size come back as they were, of single rows and of many."""
    instance, name, store, answers = logged
    (found,) = store.find("r3")
    assert found.prediction == pytest.approx(answers[3]) if name == "rides" else answers[3]
    assert tuple(found.features) == instance.feature_names
    many = store.find("many")
    rows = [{"text": text} for text in TEXTS] if name == "moods" else RIDES
    assert [each.inputs for each in many] == rows
    column = "mood" if name == "moods" else "minutes"
    table = store.query(f"SELECT prediction.{column}, count(*) FROM predictions GROUP BY 1")
    assert sum(row[1] for row in table.rows) == 12 + len(rows)


def test_models_of_any_task_share_a_log(
    moods: Moods, rides: Rides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question may ask of both: what a model does not answer or see is null, in segments and tables."""
    monkeypatch.setenv("TIDEGATE_PREDICTIONS", str(tmp_path / "log"))
    monkeypatch.setenv("TIDEGATE_RELEASE", "aaaaaaaaaaaa")
    for name, instance, row in (("moods", moods, {"text": "good"}), ("rides", rides, RIDES[0])):

        async def work(client: httpx.AsyncClient, row: Any = row) -> httpx.Response:
            return await client.post("/predict", json=row)

        assert lived(instance, name, work).status_code == 200
    store = PredictionStore(tmp_path / "log")
    asked = (
        "SELECT model, prediction.mood IS NULL, prediction.minutes, features.km, features.token_00, "
        "inputs->>'text' FROM predictions ORDER BY model"
    )
    wanted = [("moods", False, None, None, ord("g"), "good"), ("rides", True, 11.0, 3.5, None, None)]
    assert list(map(tuple, store.query(asked).rows)) == wanted
    store.convert()
    assert list(map(tuple, store.query(asked).rows)) == wanted


def test_what_was_answered_is_explained_in_its_own_unit(logged: Any) -> None:
    """Of several classes the one that was answered, of a number the number: shares add up to it."""
    instance, name, store, answers = logged
    others = [each.features for number in range(1, 12) for each in store.find(f"r{number}")]
    (first,) = store.find("r0")
    found = explain(instance.folder, first.features, first.prediction, lambda: others)
    of = answers[0]["mood"] if name == "moods" else "minutes"
    assert (found.of, found.unit) == (of, of)
    assert found.total == pytest.approx(answers[0][of], rel=1e-4)
    assert len(found.shares) == len(instance.feature_names)


# ---------------------------------------------------------------- what is counted
CHECK = Check("drift", "prediction-drift", Ratio(0.05))


def _drift(told: bytes) -> Any:
    """What a rollout's check makes of what a service tells of itself."""
    measures = ServiceMeasures(timeout=5)
    asked = Asked("toy", "canary", "a", None, 0.0, Plan(checks=(CHECK,)), {"a": ("a:1",)})
    from tidegate.adapters.service import _told

    return measures._measured(asked, {"a:1": _told(200, told)})


def test_a_number_is_counted_over_what_the_holdout_spanned(tmp_path: Path) -> None:
    """Minutes lie in bins of minutes, and those outside are told; nothing is taken for a probability."""
    rides = Rides(rides_folder(tmp_path / "model", {"rows": 9, "score": 50.0, "range": [4.0, 96.0]}))

    async def work(client: httpx.AsyncClient) -> bytes:
        for km in (0.0, 1.5, 40.0, 70.0, 71.0, 200.0):
            await client.post("/predict", json={"km": km, "stops": 0})
        return (await client.get("/measures")).content

    told = lived(rides, "rides", work)
    found = json.loads(told)
    assert (found["span"], found["scored"], found["outside"]) == ([0.0, 150.0], 6, 1)
    assert {at: n for at, n in enumerate(found["scores"]) if n} == {0: 1, 1: 1, 26: 1, 46: 1, 47: 1, 49: 1}
    assert set(_drift(told)) == {"a"}


def test_a_number_of_no_declared_range_makes_a_check_blind(rides: Rides) -> None:
    """Without a promise and without a holdout's range, drift is no data; the mean is still told."""

    async def work(client: httpx.AsyncClient) -> tuple[bytes, str]:
        await client.post("/predict", json=RIDES[1])
        return (await client.get("/measures")).content, (await client.get("/metrics")).text

    told, page = lived(rides, "rides", work)
    assert (json.loads(told)["span"], json.loads(told)["scores"]) == (None, [])
    with pytest.raises(NoData, match="declares no range of its scores"):
        _drift(told)
    assert 'tidegate_score_sum{service="rides"} 276.0' in page
    assert "tidegate_score_span{" not in page


def test_of_several_classes_the_named_one_is_counted(moods: Moods) -> None:
    """The score is one class's share, whose promise is its range; the text that was decided is none."""

    async def work(client: httpx.AsyncClient) -> bytes:
        for text in TEXTS:
            await client.post("/predict", json={"text": text})
        return (await client.get("/measures")).content

    found = json.loads(lived(moods, "moods", work))
    assert (found["span"], found["scored"], found["outside"]) == ([0.0, 1.0], len(TEXTS), 0)
    assert sum(found["scores"]) == len(TEXTS)


def test_answers_are_journaled_for_comparison(
    moods: Moods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a class its decision is written down as a text, with the score beside it."""
    monkeypatch.setenv("TIDEGATE_ANSWERS", str(tmp_path / "answers"))
    monkeypatch.setenv("TIDEGATE_RELEASE", "aaaaaaaaaaaa")

    async def work(client: httpx.AsyncClient) -> dict[str, Any]:
        answer = await client.post("/predict", json={"text": "good"}, headers={"x-tidegate-journal": "1"})
        return dict(answer.json())

    answer = lived(moods, "moods", work)
    (path,) = (tmp_path / "answers").iterdir()
    line = json.loads(path.read_text())
    assert (line["decision"], line["score"]) == (answer["mood"], answer["positive"])
    assert line["decision"] in CLASSES


def test_a_number_decides_nothing() -> None:
    """The regression names no decision, and its answer has no field that could be one."""
    assert not hasattr(Rides, "decision")
    assert Took.__struct_fields__ == (Rides.score,)
