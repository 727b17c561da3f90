"""Many rows in one request: columns in, in JSON or Arrow, under the rules of a single row."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from models.flight_delay import features
from services.flight_delay.schema import Delay, Flight
from services.flight_delay.service import FlightDelay
from tests.builders import flight_row, tiny_model
from tidegate.serving import OnnxModel, Predictions, Settings, arrow
from tidegate.serving.columns import Form
from tidegate.serving.engine import Call
from tidegate.serving.online import Lookup, Lookups
from tidegate.serving.online_many import ManyLookups
from tidegate.serving.redis_link import Away
from tidegate.serving.request import Invalid
from tidegate.serving.settings import Many as Limits

FORM = Form(Flight)
PATH = "/predict/many"


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as the columns of a request; what a row leaves out is null."""
    found: dict[str, list[Any]] = {}
    for name, column in FORM.columns.items():
        found[name] = []
        for row in rows:
            value: Any = row
            for step in (*column.group, column.key):
                value = value.get(step) if value is not None else None
            found[name].append(value)
    return found


def stream(table: pa.Table, **options: Any) -> bytes:
    """Return a table as an Arrow IPC stream of batches of 3 rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=3)
    return bytes(sink.getvalue())


def arrow_of(given: dict[str, list[Any]]) -> bytes:
    """Return columns as an Arrow stream, as pyarrow would make it of Python's values."""
    return stream(pa.table({name: pa.array(values) for name, values in given.items()}))


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """flight-delay's own code on a tiny model."""
    folder = tiny_model(tmp_path_factory.mktemp("many") / "model")
    made = object.__new__(FlightDelay.inner)
    made.model = OnnxModel(folder)
    made.vocabulary = features.load(folder / "features.json")
    return made


@pytest.fixture(scope="module")
def app(instance: Any) -> Predictions:
    """The application around it, at most 20 rows a request."""
    service: Any = SimpleNamespace(name="flight_delay", inner=FlightDelay.inner, instance=instance)
    made = Predictions(service, None)
    made.engine.settings = Settings(many=Limits(max_rows=20, max_bytes=20_000))
    made._many._limits = made.engine.settings.many
    return made


def ask(
    app: Predictions, body: bytes, kind: str = "application/json", path: str = PATH, **headers: str
) -> tuple[int, str, bytes]:
    """Return status, content type and body of an answer, asked as a server would in parts."""
    sent: list[Any] = []
    parts = [body[:100], body[100:]]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    told = {"content-type": kind, **headers}
    scope = {"type": "http", "path": path, "method": "POST"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in told.items()]  # type: ignore[assignment]
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])[b"content-type"].decode(), sent[1]["body"]


def ask_json(app: Predictions, given: Any, **more: str) -> tuple[int, Any]:
    """Return status and content of a request in JSON."""
    status, _, body = ask(app, json.dumps({"columns": given}).encode(), **more)
    return status, json.loads(body)


# ---------------------------------------------------------------- answers
def test_columns_are_answered_by_columns(app: Predictions) -> None:
    """JSON in, JSON out: a list for each field of the answer, and who answered, once."""
    status, said = ask_json(app, columns([flight_row(), flight_row(sched_dep_time="03:00")]))
    assert status == 200
    assert said["columns"]["probability"] == pytest.approx([0.317, 0.303], abs=1e-6)
    assert said["columns"]["late"] == [False, False]
    assert {"model_version", "release", "request_id"} <= set(said)


def test_arrow_is_answered_by_arrow(app: Predictions) -> None:
    """A stream in, a stream out, of the types the model has; who answered is in the schema's metadata."""
    body = arrow_of(columns([flight_row()] * 5))
    status, kind, answer = ask(app, body, arrow.TYPE, **{"x-request-id": "abc"})
    assert (status, kind) == (200, arrow.TYPE)
    table = pa.ipc.open_stream(answer).read_all()
    assert [str(kind) for kind in table.schema.types] == ["float", "bool"]
    assert table.column("late").to_pylist() == [False] * 5
    assert table.schema.metadata[b"request_id"] == b"abc"
    assert {b"model_version", b"release"} <= set(table.schema.metadata)


def test_another_content_type_is_refused(app: Predictions) -> None:
    """What is neither is a 415 that says what is taken."""
    status, _, body = ask(app, b"a,b\n1,2\n", "text/csv")
    assert status == 415
    assert arrow.TYPE in json.loads(body)["error"]["reason"]


numbers = st.integers(0, 200) | st.floats(0, 200)
whole = st.none() | st.integers(1900, 2100)
planes = st.none() | st.fixed_dictionaries({}, optional={"year": whole, "seats": st.integers(1, 1000)})
weathers = st.none() | st.fixed_dictionaries(
    {}, optional={"temp": st.none() | numbers, "wind_gust": numbers, "visib": numbers}
)
codes = st.sampled_from(["EWR", "IAH", "ZZZ"])
flights = st.builds(
    lambda day, minutes, codes, distance, tailnum, plane, weather: {
        "date": day.isoformat(),
        "sched_dep_time": f"{minutes // 60:02d}:{minutes % 60:02d}",
        "carrier": "UA",
        "flight": 1,
        "origin": codes[0],
        "dest": codes[1],
        "distance": distance,
        "tailnum": tailnum,
        "plane": plane,
        "weather": weather,
    },
    st.dates(),
    st.integers(0, 24 * 60 - 1),
    st.tuples(codes, codes),
    st.integers(1, 20000) | st.floats(1, 20000),
    st.none() | st.text(max_size=16),
    planes,
    weathers,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(flights, min_size=1, max_size=8))
def test_many_rows_are_answered_as_each_would_be(instance: Any, rows: list[dict[str, Any]]) -> None:
    """The features and answers of columns, JSON or Arrow, are bit by bit those of the rows one at a time."""
    requests = [msgspec.convert(row, Flight) for row in rows]
    alone = np.concatenate([instance.features(request) for request in requests])
    answers = np.concatenate([instance.predict(alone[i : i + 1])["probability"] for i in range(len(rows))])
    given = columns(rows)
    for read in (
        FORM.of_json(json.dumps({"columns": given}).encode(), 100),
        arrow.read(FORM, arrow_of(given), 100),
        FORM.of_requests(requests),
    ):
        seen = instance.features_of_columns(read.columns)
        assert seen.tobytes() == alone.tobytes()
        assert instance.predict(seen)["probability"].tobytes() == answers.tobytes()
        again = np.concatenate([instance.features(request) for request in FORM.each(read)])
        assert again.tobytes() == alone.tobytes()


# ---------------------------------------------------------------- the rules of a row
BAD = [
    ("date", "2013-02-30"),
    ("date", None),
    ("sched_dep_time", "24:00"),
    ("carrier", "ua"),
    ("flight", 0),
    ("flight", 1.5),
    ("origin", "EWR\n"),
    ("distance", -1),
    ("distance", float("nan")),
    ("tailnum", "N" * 17),
    ("plane.year", 1776),
    ("plane.year", 1999.5),
    ("plane.seats", float("inf")),
    ("weather.temp", 1e300),
]


@pytest.mark.parametrize("form", ["json", "arrow"])
@pytest.mark.parametrize(("field", "value"), BAD)
def test_one_bad_row_refuses_the_request(app: Predictions, form: str, field: str, value: Any) -> None:
    """A value that a row would be refused for is a 422 which names its field and the first such row."""
    given = columns([flight_row()] * 8)
    given[field][5] = given[field][7] = value
    if form == "json":
        status, said = ask_json(app, given)
    else:
        status, _, body = ask(app, arrow_of(given), arrow.TYPE)
        said = json.loads(body)
    assert status == 422, said
    assert said["error"]["field"] == field
    # Of a column in which one is no whole number Arrow says that none is.
    whole = form == "arrow" and (field, value) == ("flight", 1.5)
    assert whole or said["error"]["row"] == 5
    assert said["error"]["reason"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weather.sun": [1, 1]}, "weather.sun"),
        ({"date": None}, "date"),
        ({"distance": [1]}, "distance"),
        ({"distance": "far"}, "distance"),
        ({"distance": ["far", 1]}, "distance"),
        ({"flight": [True, 1]}, "flight"),
        ({"plane": [None, None]}, "plane"),
    ],
)
def test_a_bad_column_is_named(app: Predictions, change: dict[str, Any], field: str) -> None:
    """A column that is unknown, missing, no list, too short or of another type is refused by its name."""
    given = {**columns([flight_row()] * 2), **change}
    status, said = ask_json(app, {name: values for name, values in given.items() if values is not None})
    assert (status, said["error"]["field"]) == (422, field)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"columns": []}', 422),
        (b'{"columns": {}}', 422),
        (b'{"columns": null, "x": 1}', 422),
        (b'{"columns": {"date": [[[[', 400),
        (b"[" * 5000, 400),
    ],
)
def test_what_is_no_table_is_refused(app: Predictions, body: bytes, status: int) -> None:
    """Whatever else comes as JSON is refused by a reason, never by a 5xx."""
    assert ask(app, body)[0] == status


def test_no_row_is_refused(app: Predictions) -> None:
    """Columns without a row are a 422: nothing was asked."""
    assert ask_json(app, columns([]))[0] == 422
    empty = pa.table({name: pa.array([], pa.string()) for name in FORM.columns})
    assert ask(app, stream(empty), arrow.TYPE)[0] == 422


def test_unknown_inner_objects_need_no_column(app: Predictions) -> None:
    """A column that may be left out of a row may be left out of all, and counts as missing."""
    whole = columns([flight_row(plane=None, weather=None, tailnum=None)] * 2)
    short = {name: values for name, values in whole.items() if "." not in name and name != "tailnum"}
    assert ask_json(app, short)[1]["columns"] == ask_json(app, whole)[1]["columns"]
    assert ask(app, arrow_of(short), arrow.TYPE)[0] == 200


@pytest.mark.parametrize(
    ("path", "read"), [("/predict", 1_000_000), (PATH, 1_000_000), ("/predict", 20_000_000)]
)
def test_a_refused_body_is_read_before_its_answer(app: Predictions, path: str, read: int) -> None:
    """Its caller is still sending, and a connection closed on that is reset before the answer is through.

    What is read is bounded: of far too much it is not all.
    """
    left, order = [read], []

    async def receive() -> dict[str, Any]:
        part = min(left[0], 65_536)
        left[0] -= part
        order.append("receive")
        return {"type": "http.request", "body": b" " * part, "more_body": left[0] > 0}

    async def send(message: Any) -> None:
        order.append(str(message.get("status", "body")))

    scope: Any = {"type": "http", "path": path, "method": "POST", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert order[-2:] == ["413", "body"]
    assert (left[0] == 0) is (read < 5_000_000)


@pytest.mark.parametrize(("rows", "status"), [(20, 200), (21, 413)])
def test_rows_are_limited(app: Predictions, rows: int, status: int) -> None:
    """One row more than `many.maxRows` is a 413 in either form."""
    given = columns([flight_row(weather=None, plane=None)] * rows)
    assert ask_json(app, given)[0] == status
    assert ask(app, arrow_of(given), arrow.TYPE)[0] == status


def test_bytes_are_limited(app: Predictions) -> None:
    """A body over `many.maxBytes` is a 413."""
    assert ask(app, b" " * 20_001)[0] == 413


# ---------------------------------------------------------------- Arrow alone
def table(**changed: Any) -> pa.Table:
    """Return four sound rows, some columns changed."""
    given = columns([flight_row()] * 4)
    return pa.table({name: pa.array(values) for name, values in given.items()} | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"date": pa.array([datetime.date(2013, 7, 4)] * 4)},
        {"date": pa.array([datetime.date(2013, 7, 4)] * 4, pa.date64())},
        {"carrier": pa.array(["UA"] * 4).dictionary_encode()},
        {"carrier": pa.array(["UA"] * 4, pa.large_string())},
        {"tailnum": pa.array(["N14228", None, "N1", None]).dictionary_encode()},
        {"tailnum": pa.nulls(4)},
        {"distance": pa.array([1400] * 4, pa.int16())},
        {"distance": pa.array([1400] * 4, pa.float32())},
        {"flight": pa.array([1545] * 4, pa.uint64())},
        {"weather.temp": pa.array([75, None, 60, None], pa.int8())},
        {"weather.temp": pa.nulls(4)},
    ],
)
def test_arrows_own_types_are_taken(app: Predictions, changed: dict[str, Any]) -> None:
    """Dates, dictionaries, narrower numbers and columns of nulls are read as what they mean."""
    status, _, body = ask(app, stream(table(**changed)), arrow.TYPE)
    assert status == 200, body


@pytest.mark.parametrize(
    "changed",
    [
        {"carrier": pa.array([1] * 4)},
        {"distance": pa.array(["1"] * 4)},
        {"distance": pa.array([True] * 4)},
        {"flight": pa.array([1545.0] * 4)},
        {"date": pa.array([datetime.datetime(2013, 7, 4)] * 4)},
        {"weather.temp": pa.array([[1.0]] * 4)},
        {"carrier": pa.DictionaryArray.from_arrays(pa.array([0] * 4), pa.array([7]))},
        {"carrier": pa.DictionaryArray.from_arrays(pa.array([0] * 4), pa.array([None], pa.string()))},
        {"date": pa.array([10**7] * 4, pa.int32()).cast(pa.date32())},
    ],
)
def test_arrows_other_types_are_refused(app: Predictions, changed: dict[str, Any]) -> None:
    """A column of a type that a row's value could not have is a 422 by its name."""
    status, _, body = ask(app, stream(table(**changed)), arrow.TYPE)
    assert (status, json.loads(body)["error"]["field"]) == (422, next(iter(changed)))


def test_a_dictionary_may_hold_what_no_row_has(app: Predictions) -> None:
    """Only words that a row has are checked: libraries keep whole dictionaries for a few rows."""
    held = pa.DictionaryArray.from_arrays(pa.array([1] * 4), pa.array(["not a carrier", "UA"]))
    assert ask(app, stream(table(carrier=held)), arrow.TYPE)[0] == 200


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_stream_is_refused(app: Predictions, codec: str) -> None:
    """A few bytes of one may hold gigabytes: it is refused before it is unpacked, and told how to come."""
    body = stream(table(), options=pa.ipc.IpcWriteOptions(compression=codec))
    status, _, answer = ask(app, body, arrow.TYPE)
    assert status == 422
    assert "without compression" in json.loads(answer)["error"]["reason"]


def test_a_column_that_is_there_twice_is_refused(app: Predictions) -> None:
    """Nobody may guess which one was meant."""
    twice = table().append_column("carrier", pa.array(["AA"] * 4))
    status, _, body = ask(app, stream(twice), arrow.TYPE)
    assert (status, json.loads(body)["error"]["field"]) == (422, "carrier")


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_stream_is_never_a_failure_of_ours(data: st.DataObject) -> None:
    """Whatever bytes are changed, cut or added, the stream is read or refused."""
    body = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    status = 0
    try:
        assert arrow.read(FORM, bytes(body), 100).count >= 1
    except Invalid as error:
        status = error.status
    assert status in (0, 400, 413, 422)


SOUND = stream(table(carrier=pa.array(["UA"] * 4).dictionary_encode()))


# ---------------------------------------------------------------- other requests
class Corner(msgspec.Struct, frozen=True, kw_only=True):
    """An inner Struct with a field that it needs."""

    x: Annotated[float, Meta(gt=0, lt=10)]
    note: str = "none"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request with one of each kind."""

    name: str
    round: bool = False
    sides: Annotated[int, Meta(ge=0, multiple_of=2)] | None = None
    corner: Corner | None = None
    base: Corner = Corner(x=1.0)
    tags: list[str] = msgspec.field(default_factory=list, name="labels")
    made: datetime.datetime | None = None


SHAPE = Form(Shape)
corners = st.builds(Corner, x=st.floats(0.5, 9.5), note=st.text(max_size=3))
shapes = st.builds(
    Shape,
    name=st.text(max_size=4),
    round=st.booleans(),
    sides=st.none() | st.integers(0, 10).map(lambda n: 2 * n),
    corner=st.none() | corners,
    base=corners,
    tags=st.lists(st.text(max_size=3), max_size=2),
    made=st.none() | st.datetimes(),
)


@settings(deadline=None)
@given(st.lists(shapes, min_size=1, max_size=5))
def test_any_request_comes_back_as_it_was(requests: list[Shape]) -> None:
    """Requests laid out as columns, of whatever fields, and read row by row are the same requests."""
    assert list(SHAPE.each(SHAPE.of_requests(requests))) == requests
    made = [msgspec.to_builtins(request) for request in requests]
    given = {"name": [row["name"] for row in made], "labels": [row["labels"] for row in made]}
    given |= {"round": [row["round"] for row in made], "sides": [row["sides"] for row in made]}
    given |= {"made": [row["made"] for row in made]}
    for group in ("corner", "base"):
        for name in ("x", "note"):
            given[f"{group}.{name}"] = [(row[group] or {}).get(name) for row in made]
    body = msgspec.json.encode({"columns": given})
    assert list(SHAPE.each(SHAPE.of_json(body, 10))) == requests


@pytest.mark.parametrize(
    ("given", "field", "row"),
    [
        ({"corner.note": ["a", None]}, "corner.x", 0),
        ({"corner.x": [None, None, 3.0], "corner.note": [None, "b", "c"]}, "corner.x", 1),
        ({"corner.x": [3.0, None, 10.0]}, "corner.x", 2),
        ({"base.note": ["a"]}, "base.x", 0),
        ({"base.x": [None]}, "base.x", 0),
        ({"sides": [2, None, 3]}, "sides", 2),
        ({"round": [True, None]}, "round", 1),
    ],
)
def test_an_inner_object_needs_its_fields(given: dict[str, Any], field: str, row: int) -> None:
    """Where anything of an inner object is known, so must be what it needs; null is taken where it may be."""
    count = len(next(iter(given.values())))
    body = json.dumps({"columns": {"name": ["n"] * count, **given}}).encode()
    with pytest.raises(Invalid) as found:
        SHAPE.of_json(body, 10)
    assert (found.value.status, found.value.field, found.value.row) == (422, field, row)


# ---------------------------------------------------------------- the service around it
def test_a_service_without_columns_is_asked_row_by_row(instance: Any, app: Predictions) -> None:
    """`features_of_columns` is optional: without it the answers are the same."""
    simple = SimpleNamespace(features=instance.features, predict=instance.predict)
    service: Any = SimpleNamespace(name="flight_delay", inner=FlightDelay.inner, instance=simple)
    given = columns([flight_row(), flight_row(sched_dep_time="03:00", plane=None)])
    assert ask_json(Predictions(service, None), given)[1]["columns"] == ask_json(app, given)[1]["columns"]


def test_features_that_differ_stop_the_start(instance: Any) -> None:
    """A service that sees another thing in columns than in a row never becomes ready."""
    other = SimpleNamespace(
        features=instance.features,
        predict=instance.predict,
        features_of_columns=lambda given: instance.features_of_columns(given) + 1,
        model=SimpleNamespace(examples=[flight_row()]),
    )
    service: Any = SimpleNamespace(name="flight_delay", inner=FlightDelay.inner, instance=other)
    with pytest.raises(RuntimeError, match="features_of_columns"):
        asyncio.run(Predictions(service, None)._warm())


@pytest.mark.parametrize(
    "predict",
    [lambda rows: {"p": np.full(len(rows), np.nan)}, lambda rows: {"p": np.zeros(1)}, lambda rows: 1 / 0],
)
def test_a_model_that_fails_many_rows_is_a_500(instance: Any, predict: Any) -> None:
    """NaN, too few answers and a crash are a 500 without detail, as of one row."""
    broken = SimpleNamespace(features=instance.features, predict=predict)
    service: Any = SimpleNamespace(name="flight_delay", inner=FlightDelay.inner, instance=broken)
    status, said = ask_json(Predictions(service, None), columns([flight_row()] * 3))
    assert (status, said["error"]["reason"]) == (500, "the model failed on this request")


class Store:
    """An online store in memory; `away` is one that does not answer."""

    def __init__(self, known: dict[str, bytes], away: bool = False) -> None:
        self.known, self.away, self.asked = known, away, 0

    async def get(self, keys: Any) -> Any:
        """Return what is known."""
        self.asked += 1
        if self.away:
            raise Away("it is away")
        return [self.known.get(key) for key in keys]

    def close(self) -> None:
        """Nothing to let go of."""


known_keys = st.sampled_from(
    ["carrier:UA:late", "route:EWR-IAH:late", "route:ZZZ-ZZZ:late", "plane::late", "plane:0:late"]
)
stored = st.dictionaries(known_keys, st.sampled_from([b"0.25", b"0.5", b"null", b'"far"', b"7"]))
recents = st.none() | st.fixed_dictionaries({}, optional={"plane_late": st.none() | st.floats(0, 1)})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(flights, recents), min_size=1, max_size=6), stored, st.booleans())
def test_many_rows_are_looked_up_as_each_would_be(
    instance: Any, asked: list[tuple[Any, Any]], known: dict[str, bytes], away: bool
) -> None:
    """Rows have the online features that they have one at a time, counted alike, in fewer look-ups."""
    rows = [{**row, "recent": recent} if recent is not None else row for row, recent in asked]
    # A row whose recent is empty is, in columns, one that says nothing of it.
    rows = [{**r, "recent": None} if not any(v is not None for v in (r.get("recent") or {}).values()) else r
            for r in rows]  # fmt: skip
    service = SimpleNamespace(request=Flight, response=Delay, online=Lookup("recent", features.KEYS))
    one, many = (Lookups(service, Store(known, away), "") for _ in range(2))
    found = []
    for row in rows:
        request, _ = asyncio.run(one.complete(Call("a", 0.0), msgspec.convert(row, Flight)))
        found.append(instance.features(request))
    read = FORM.of_json(json.dumps({"columns": columns(rows)}).encode(), 100)
    lookups = ManyLookups(many, FORM)
    wanted = lookups.wanted(read)
    assert wanted is not None
    filled = lookups.filled(read, wanted, asyncio.run(lookups.found(wanted)))
    assert instance.features_of_columns(filled.columns).tobytes() == np.concatenate(found).tobytes()
    assert (many.hits, many.missing) == (one.hits, one.missing)
    assert many.store.asked <= 1  # type: ignore[attr-defined]


def test_looked_up_features_reach_the_answer(instance: Any) -> None:
    """With a store, `/predict/many` asks it once for all rows, and not at all for who is offline."""
    service: Any = SimpleNamespace(name="flight_delay", inner=FlightDelay.inner, instance=instance)
    made = Predictions(service, None)
    store = Store({"carrier:UA:late": b"0.5"})
    made.engine.online = Lookups(FlightDelay.inner, store, "")
    made.engine.recorder = recorder = Recorder()  # type: ignore[assignment]
    given = columns([flight_row()] * 5)
    given = {name: values for name, values in given.items() if not name.startswith("recent.")}
    assert ask_json(made, given)[0] == 200
    place = features.FEATURES.index("recent_carrier_late")
    assert recorder.seen[0][2][:, place].tolist() == [0.5] * 5
    assert store.asked == 1
    assert ask_json(made, given, **{"x-tidegate-offline": "1"})[0] == 200
    assert store.asked == 1


class Recorder:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def rows(self, *told: Any) -> None:
        """Keep one request."""
        self.seen.append(told)


def test_many_rows_are_counted_and_recorded_as_each_would_be(instance: Any) -> None:
    """`/measures` tells of 5 rows at once what it tells of them one by one; the recorder gets all."""
    rows = [flight_row(sched_dep_time=f"{hour:02d}:00", weather=None) for hour in range(4)] + [flight_row()]
    found = []
    for one_by_one in (True, False):
        service: Any = SimpleNamespace(name="flight_delay", inner=FlightDelay.inner, instance=instance)
        made = Predictions(service, None)
        made.engine.recorder = recorder = Recorder()  # type: ignore[assignment]
        if one_by_one:
            recorder.row = lambda *told: None  # type: ignore[attr-defined]
            for row in rows:
                assert ask(made, json.dumps(row).encode(), path="/predict")[0] == 200
        else:
            assert ask_json(made, columns(rows))[0] == 200
            ((call, given, seen, answers, ms),) = recorder.seen
            assert (call.protocol, len(given["date"]), seen.shape[0]) == ("columns", 5, 5)
            assert (len(answers["probability"]), ms > 0) == (5, True)
        told = json.loads(made.engine.measuring.document())
        del told["instance"]
        found.append(told)
        text = made.engine.measuring.text().decode()
        assert 'tidegate_predictions_total{service="flight_delay",status="200"} 5' in text
        assert ('tidegate_many_seconds_count{service="flight_delay"} 1' in text) is not one_by_one
    assert found[0] == found[1]


def test_a_deadline_that_passed_is_a_504(app: Predictions) -> None:
    """Nobody waits any more: nothing is computed."""
    call = Call("late", 0.0, json.dumps({"columns": columns([flight_row()])}).encode(), deadline=0.0)
    with pytest.raises(Invalid) as found:
        asyncio.run(app._many.answer(call, "application/json"))
    assert found.value.status == 504


def test_no_pandas_is_imported_for_arrow(tmp_path: Path) -> None:
    """pyarrow imports pandas where it can, half a second and 60 MB that nobody asked for."""
    import subprocess
    import sys

    (tmp_path / "body").write_bytes(SOUND)
    code = (
        "import sys; from services.flight_delay.schema import Flight\n"
        "from tidegate.serving import arrow, columns\n"
        f"rows = arrow.read(columns.Form(Flight), open({str(tmp_path / 'body')!r}, 'rb').read(), 10);"
        "arrow.write({'date': rows.columns['distance'], 'name': rows.columns['carrier']}, {});"
        "print('pandas' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
