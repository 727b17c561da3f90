"""The Open Inference Protocol's tensors, and its paths over HTTP in one process."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
import math
import struct
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from msgspec import Meta

from services.flight_delay.schema import Delay, Flight
from tests.builders import flight_row
from tests.service import tensors as flights
from tidegate.serving import Predictions
from tidegate.serving.inference import Inference, Tensors
from tidegate.serving.request import Invalid
from tidegate.serving.tensors import from_raw, rows_of, to_raw


# ---------------------------------------------------------------- values
@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("UINT16", [0, 65535]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [2**64 - 1]),
        ("FP16", [0.5, -2.0]),
        ("FP32", [0.25, 1e30]),
        ("FP64", [0.1, math.inf]),
        ("BYTES", [b"", "ü".encode(), b"\0"]),
    ],
)
def test_values_survive_their_bytes(datatype: str, values: list[Any]) -> None:
    """What is written as raw contents is read again as it was, one value and several."""
    for some in (values, values[:1]):
        read = list(from_raw("x", datatype, to_raw(datatype, some), len(some)))
        assert read == pytest.approx(some) if datatype == "FP32" else read == some


@pytest.mark.parametrize(
    ("datatype", "raw", "rows"),
    [
        ("FP64", b"\0" * 7, 1),
        ("FP64", b"\0" * 16, 1),
        ("INT32", b"\0" * 8, 3),
        ("BYTES", b"", 1),
        ("BYTES", b"\5\0\0\0ab", 1),
        ("BYTES", b"\1\0\0\0a\0", 1),
        ("BYTES", b"\xff\xff\xff\xffa", 1),
    ],
)
def test_bytes_of_another_length_are_refused(datatype: str, raw: bytes, rows: int) -> None:
    """Raw contents that are too short, too long or lie about their length name the tensor."""
    with pytest.raises(Invalid) as refused:
        from_raw("x", datatype, raw, rows)
    assert (refused.value.status, refused.value.field) == (400, "x")


@pytest.mark.parametrize("shape", [[], [-1], [2, 2], [1, 1, 1]])
def test_other_shapes_are_refused(shape: list[int]) -> None:
    """A tensor holds one value a row."""
    with pytest.raises(Invalid):
        rows_of("x", shape)


# ---------------------------------------------------------------- a Struct as tensors
class Colour(enum.Enum):
    """A choice."""

    RED = "red"


class Odd(msgspec.Struct, forbid_unknown_fields=True):
    """Fields of all kinds."""

    at: datetime.datetime
    colour: Colour
    size: Literal["small", "large"]
    flag: bool
    whole: int | None
    numbers: list[float]
    either: int | str
    number: Annotated[float, Meta(ge=0, description="a number from 0")] = 1.0


class Answer(msgspec.Struct):
    """An answer with a list."""

    sure: bool
    parts: list[float]


ODD = [
    ("at", "2026-01-02T03:04:05Z"),
    ("colour", "red"),
    ("size", "large"),
    ("flag", True),
    ("whole", None),
    ("numbers", "[1.5, 2.5]"),
    ("either", '"a"'),
]


def test_every_field_has_a_tensor() -> None:
    """Numbers, flags and texts have datatypes of their own, whatever else is JSON in BYTES."""
    made = Tensors(Odd, Answer)
    assert {field.name: field.datatype for field in made.inputs} == {
        "at": "BYTES",
        "colour": "BYTES",
        "size": "BYTES",
        "flag": "BOOL",
        "whole": "INT64",
        "numbers": "BYTES",
        "either": "BYTES",
        "number": "FP64",
    }
    given = [(field, [dict(ODD)[field.name]]) for field in made.inputs if field.name != "number"]
    request = made.request(given)
    assert request.numbers == [1.5, 2.5]
    assert (request.colour, request.either, request.whole, request.number) == (Colour.RED, "a", None, 1.0)
    assert request.at.year == 2026
    assert [(field.name, field.datatype) for field in made.outputs] == [("sure", "BOOL"), ("parts", "BYTES")]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("number", math.nan, "must be a number from 0"),
        ("number", -1.0, "must be a number from 0"),
        ("numbers", "[1", "is not JSON"),
        ("colour", b"\xff", "is not UTF-8"),
        ("colour", "blue", "must be A choice"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused(name: str, value: Any, says: str) -> None:
    """The field is named, and the reason is that of the schema."""
    made = Tensors(Odd, Answer)
    values = {**dict(ODD), name: value}
    with pytest.raises(Invalid, match=says) as refused:
        made.request([(field, [values[field.name]]) for field in made.inputs if field.name in values])
    assert (refused.value.status, refused.value.field) == (422, name)


# ---------------------------------------------------------------- over HTTP
LATE = 0.25


def _predict(rows: Any) -> dict[str, Any]:
    probability = LATE + rows[:, 0] / 100
    return {"probability": probability, "late": probability >= 0.3}


def _service(**settings: Any) -> Any:
    instance = SimpleNamespace(
        features=lambda flight: np.array([[flight.flight % 10]], dtype=np.float64), predict=_predict
    )
    inner = SimpleNamespace(request=Flight, response=Delay, feature_names=(), score="", decision="")
    return SimpleNamespace(name="flight_delay", inner=inner, instance=instance, config={})


class Asking:
    """An application that is asked without a server."""

    def __init__(self) -> None:
        async def rest(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError(f"{scope['path']} went to BentoML")

        self.application = Predictions(_service(), rest)

    def __call__(
        self, path: str, content: Any = None, method: str = "", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one answer."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http",
            "path": path,
            "method": method or ("GET" if content is None else "POST"),
            "headers": told,
        }
        asyncio.run(self.application(scope, receive, send))
        named = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], named, sent[1]["body"]

    def infer(self, content: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """Return status and content of an inference in JSON."""
        status, _, body = self("/v2/models/flight-delay/infer", content, **headers)
        return status, json.loads(body)


@pytest.fixture
def ask() -> Asking:
    return Asking()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/flight-delay/ready", {"name": "flight-delay", "ready": True}),
        ("/v2/models/flight_delay/ready", {"name": "flight-delay", "ready": True}),
    ],
)
def test_health_is_told(ask: Asking, path: str, content: dict[str, Any]) -> None:
    """Server and model say that they are there, the model by either way of writing its name."""
    status, _, body = ask(path)
    assert (status, json.loads(body)) == (200, content)


def test_an_example_can_be_asked_as_it_is(ask: Asking) -> None:
    """What REST takes as a request is taken as tensors, with what is null in it and what is left out."""
    path = "/v2/models/flight-delay/infer"
    for row in (flight_row(), flight_row(plane=None, tailnum=None), flight_row(weather={"temp": 50.0})):
        status, _, body = ask(path, ask.application._inference.example(row))
        assert (status, json.loads(body)["model_name"]) == (200, "flight-delay")
    odd = Inference.__new__(Inference)
    odd.tensors = Tensors(Odd, Answer)
    content = {**dict(ODD), "numbers": [1.5], "either": 1}
    told = {one["name"]: one["data"][0] for one in json.loads(odd.example(content))["inputs"]}
    assert told == {**dict(ODD), "numbers": "[1.5]", "either": "1"}


def test_the_model_is_described_by_its_structs(ask: Asking) -> None:
    """Each field of the request is an input by its full name, each of the answer an output."""
    status, _, body = ask("/v2/models/flight-delay")
    content = json.loads(body)
    assert status == 200
    names = {one["name"]: one["datatype"] for one in content["inputs"]}
    assert {name: flights.datatype(name) for name in names} == names
    assert {"date", "plane.year", "weather.visib"} <= set(names)
    assert content["outputs"] == [
        {"name": "probability", "datatype": "FP64", "shape": [-1]},
        {"name": "late", "datatype": "BOOL", "shape": [-1]},
    ]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v2/models/other", "GET", 404),
        ("/v2/models/other/ready", "GET", 404),
        ("/v2/models/flight-delay/versions/3", "GET", 404),
        ("/v2/models/flight-delay/versions/3/infer", "POST", 404),
        ("/v2/nonsense", "GET", 404),
        ("/v2nonsense", "GET", 404),
        ("/v2/models/flight-delay", "DELETE", 405),
        ("/v2/models/flight-delay/infer", "PUT", 405),
    ],
)
def test_what_is_not_there_says_so(ask: Asking, path: str, method: str, status: int) -> None:
    """Another model, version, path or method is refused in the protocol's own form."""
    answered, _, body = ask(path, flights.body([flight_row()]), method=method)
    assert answered == status
    assert set(json.loads(body)) == {"error"}


def test_rows_are_answered_in_their_order(ask: Asking) -> None:
    """One request of several rows has the predictions that the rows have alone, and its own id."""
    rows = [flight_row(flight=number) for number in (1, 9, 4)]
    status, content = ask.infer(flights.body(rows, id="abc"))
    assert (status, content["id"], content["model_name"]) == (200, "abc", "flight-delay")
    found = {one["name"]: one for one in content["outputs"]}
    assert found["probability"] == {
        "name": "probability",
        "datatype": "FP64",
        "shape": [3],
        "data": [LATE + 0.01, LATE + 0.09, LATE + 0.04],
    }
    assert found["late"]["data"] == [False, True, False]


def test_a_column_of_one_is_a_shape_too(ask: Asking) -> None:
    """[n, 1] is taken like [n], with the values nested or not."""
    content = flights.body([flight_row(), flight_row()])
    for one in content["inputs"]:
        one["shape"] = [2, 1]
        if one["datatype"] == "BYTES":
            one["data"] = [[value] for value in one["data"]]
    assert ask.infer(content)[0] == 200


def test_only_wanted_outputs_are_answered(ask: Asking) -> None:
    """`outputs` chooses, and an unknown one is refused by name."""
    status, content = ask.infer(flights.body([flight_row()], outputs=[{"name": "late"}]))
    assert (status, [one["name"] for one in content["outputs"]]) == (200, ["late"])
    status, content = ask.infer(flights.body([flight_row()], outputs=[{"name": "odds"}]))
    assert status == 400
    assert "odds" in content["error"]


@pytest.mark.parametrize("how", ["left out", "null", "NaN"])
def test_what_is_not_known_may_be_said_in_each_way(ask: Asking, how: str) -> None:
    """A tensor that is left out, null in JSON, and NaN with "" are the same as null in a row."""
    row = flight_row(tailnum=None, plane=None, weather=None)
    content = flights.body([row])
    content["inputs"] = [one for one in content["inputs"] if one["name"] != "tailnum"]
    if how != "left out":
        empty, number = (None, None) if how == "null" else ("", math.nan)
        more = {"tailnum": ("BYTES", empty), "plane.year": ("FP64", number), "weather.temp": ("FP64", number)}
        content["inputs"] += [
            {"name": name, "datatype": kind, "shape": [1], "data": [value]}
            for name, (kind, value) in more.items()
        ]
    assert ask.infer(content)[0] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"date": "2013-13-01"},
        {"sched_dep_time": "24:00"},
        {"carrier": "ua"},
        {"flight": 0},
        {"origin": "new york"},
        {"distance": 0.5},
        {"tailnum": "x" * 17},
        {"plane": {"year": 1850}},
        {"plane": {"year": 1999.5}},
        {"weather": {"temp": 1e9}},
        {"airline": "UA"},
    ],
)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_row_is_refused_in_the_words_of_rest(ask: Asking, changes: dict[str, Any], rows: int) -> None:
    """Status, field and reason are those of `POST /predict`, also where another row is the wrong one."""
    wrong = flight_row(**changes)
    status, _, body = ask("/predict", wrong)
    error = json.loads(body)["error"]
    several = [flight_row() for _ in range(rows - 1)]
    answered, content = ask.infer(flights.body([*several, wrong]))
    assert answered == status == 422
    assert content["error"].startswith(error["field"])
    assert content["error"].endswith(error["reason"])


@pytest.mark.parametrize("name", ["date", "carrier", "distance"])
def test_a_field_that_must_be_there_is_named(ask: Asking, name: str) -> None:
    """A tensor without which there is no row is missed by its name."""
    content = flights.body([flight_row()])
    content["inputs"] = [one for one in content["inputs"] if one["name"] != name]
    assert ask.infer(content) == (422, {"error": f"{name}: is required"})


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": "FP32X"},
        {"datatype": "FP64"},
        {"shape": [2]},
        {"shape": [1, 2]},
        {"data": []},
        {"data": None},
        {"shape": ["x"]},
        {"parameters": {"binary_data_size": 9}},
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(ask: Asking, change: dict[str, Any]) -> None:
    """Datatype, shape and data must fit each other, and the answer is no failure of ours."""
    content = flights.body([flight_row()])
    content["inputs"][0] |= change
    status, answer = ask.infer(content)
    assert status in (400, 422)
    assert answer["error"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"inputs": []}', b'{"inputs": 1}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_request_is_refused(ask: Asking, content: bytes) -> None:
    """Neither broken JSON nor an empty request reaches the model."""
    assert ask.infer(content)[0] in (400, 422)


def test_a_tensor_that_is_there_twice_is_refused(ask: Asking) -> None:
    """Nobody has to guess which of two values counts."""
    content = flights.body([flight_row()])
    content["inputs"].append(content["inputs"][0])
    assert ask.infer(content)[0] == 400


def _binary(row: dict[str, Any]) -> tuple[bytes, int]:
    """Return a request with all of its tensors as bytes behind the JSON."""
    content, behind = flights.body([row], parameters={"binary_data_output": True}), b""
    for one in content["inputs"]:
        (value,) = one.pop("data")
        raw = to_raw(one["datatype"], [math.nan if value is None else value])
        one["parameters"] = {"binary_data_size": len(raw)}
        behind += raw
    head = json.dumps(content).encode()
    return head + behind, len(head)


def test_tensors_may_be_bytes_behind_the_json(ask: Asking) -> None:
    """With binary inputs and outputs the numbers are those of JSON, bit by bit."""
    body, length = _binary(flight_row())
    status, headers, content = ask(
        "/v2/models/flight-delay/infer", body, inference_header_content_length=str(length)
    )
    assert status == 200
    said = int(headers["inference-header-content-length"])
    told = json.loads(content[:said])
    sizes = [one["parameters"]["binary_data_size"] for one in told["outputs"]]
    assert sizes == [8, 1]
    plain = json.loads(ask("/predict", flight_row())[2])
    assert struct.unpack("<d?", content[said:]) == (plain["probability"], plain["late"])


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "10"])
def test_a_length_that_lies_is_refused(ask: Asking, length: str) -> None:
    """The header that says where the JSON ends is not believed beyond the body."""
    body, _ = _binary(flight_row())
    path = "/v2/models/flight-delay/infer"
    assert ask(path, body, inference_header_content_length=length)[0] == 400


def test_bytes_that_no_tensor_names_are_refused(ask: Asking) -> None:
    """What is left over behind the last tensor is a mistake, not padding."""
    body, length = _binary(flight_row())
    path = "/v2/models/flight-delay/infer"
    assert ask(path, body + b"\0", inference_header_content_length=str(length))[0] == 400


def test_requests_are_counted_like_those_of_rest(ask: Asking) -> None:
    """A prediction counts, a refusal has its status, and a request that warms up counts nowhere."""
    ask.infer(flights.body([flight_row()]))
    ask.infer(flights.body([flight_row(flight=0)]))
    ask.infer(flights.body([flight_row()]), x_tidegate_warm="1")
    counted = json.loads(ask("/measures")[2])
    assert counted["predictions"] == 1


def test_a_deadline_that_passed_is_a_504(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that does not wait any more costs no prediction, whatever the protocol."""
    monkeypatch.setattr(type(ask.application.engine.admission), "deadline", lambda *_: 0.0)
    assert ask.infer(flights.body([flight_row()]))[0] == 504
