"""The Open Inference Protocol as public clients speak it: a real Bento, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.builders import flight_row
from tests.planes import eventually
from tests.service import tensors as flights
from tests.service.running import Built, build, free_port, ready, start
from tidegate.serving import Predictions, messages
from tidegate.serving.engine import Call
from tidegate.serving.grpc_server import GrpcServer

MODEL = "flight-delay"
ROWS = [
    flight_row(sched_dep_time="00:10"),
    flight_row(sched_dep_time="23:59", plane=None),
    flight_row(tailnum=None, weather=None),
    *(flight_row(flight=number, distance=100.5 + number) for number in range(1, 30)),
]


@dataclass
class Served:
    """One process, and a client of each kind."""

    process: subprocess.Popen[bytes]
    rest: httpx.Client
    http: Any
    grpc: Any
    port: int
    answers: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("bento"))


@pytest.fixture(scope="module")
def served(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port, other, answers = free_port(), free_port(), tmp_path_factory.mktemp("plane") / "answers"
    process = start(built, port, TIDEGATE_GRPC_PORT=str(other), TIDEGATE_ANSWERS=str(answers))
    try:
        assert ready(process, port), process.stdout.read().decode() if process.stdout else ""
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}") as rest,
            triton_http.InferenceServerClient(f"127.0.0.1:{port}") as http,
            triton_grpc.InferenceServerClient(f"127.0.0.1:{other}") as grpc,
        ):
            yield Served(process, rest, http, grpc, other, answers)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _wanted(served: Served, rows: list[dict[str, Any]]) -> tuple[list[float], list[bool]]:
    """Return what REST answers to rows, one by one."""
    found = [served.rest.post("/predict", json=row).json() for row in rows]
    return [one["probability"] for one in found], [one["late"] for one in found]


# ---------------------------------------------------------------- what is there
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_server_and_model_are_there(served: Served, kind: str) -> None:
    """Public clients find the server live, and server, model and version ready."""
    client = getattr(served, kind)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "7")


def test_both_servers_describe_the_same_model(served: Served) -> None:
    """Name, versions, platform, inputs and outputs are told alike over HTTP and gRPC."""
    over_http = served.http.get_model_metadata(MODEL)
    over_grpc = served.grpc.get_model_metadata(MODEL, as_json=True)
    for one in (*over_grpc["inputs"], *over_grpc["outputs"]):
        one["shape"] = [int(size) for size in one["shape"]]  # JSON's form of an int64 is text
    assert over_grpc == over_http
    assert over_http["versions"] == ["7"]
    extensions = served.grpc.get_server_metadata().extensions
    assert list(extensions) == served.http.get_server_metadata()["extensions"]


# ---------------------------------------------------------------- predictions
@pytest.mark.parametrize("count", [1, 2, len(ROWS)])
@pytest.mark.parametrize("kind", ["http", "http-json", "grpc"])
def test_predictions_are_those_of_rest(served: Served, kind: str, count: int) -> None:
    """One row or many, in JSON, in bytes or over gRPC: the numbers are the same bit by bit."""
    rows = ROWS[:count]
    module = triton_grpc if kind == "grpc" else triton_http
    options = {"binary_data": False} if kind == "http-json" else {}
    client = served.grpc if kind == "grpc" else served.http
    result = client.infer(MODEL, flights.inputs(module, rows, **options), request_id="abc")
    probability, late = result.as_numpy("probability"), result.as_numpy("late")
    assert (probability.dtype, late.dtype) == (np.float64, np.bool_)
    assert (probability.tolist(), late.tolist()) == _wanted(served, rows)
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "abc"


def test_contents_by_type_are_answered_alike(served: Served) -> None:
    """A request whose values are not raw is answered by values that are not raw."""
    row = flight_row()
    request = service_pb2.ModelInferRequest(model_name=MODEL, model_version="7")
    contents = {"BYTES": "bytes_contents", "FP64": "fp64_contents", "INT64": "int64_contents"}
    for name, (value,) in flights.columns([row]).items():
        if value is not None:
            kind = flights.datatype(name)
            one = request.inputs.add(name=name, datatype=kind, shape=[1, 1])
            held = value.encode() if kind == "BYTES" else value
            getattr(one.contents, contents[kind]).append(held)
    response = served.grpc._client_stub.ModelInfer(request)
    first, second = response.outputs
    assert not response.raw_output_contents
    assert ([list(first.contents.fp64_contents)], [list(second.contents.bool_contents)]) == tuple(
        [values] for values in _wanted(served, [row])
    )
    assert (response.model_name, response.model_version, len(response.id)) == (MODEL, "7", 32)


def test_a_stream_answers_each_request_in_order(served: Served) -> None:
    """Many requests of one stream have each its answer, and one that is refused does not end it."""
    answers: list[tuple[Any, Any]] = []
    served.grpc.start_stream(lambda result, error: answers.append((result, error)))
    try:
        for index, row in enumerate([*ROWS, flight_row(carrier="ua"), flight_row()]):
            served.grpc.async_stream_infer(
                MODEL, flights.inputs(triton_grpc, [row]), request_id=f"number-{index}"
            )
        eventually(lambda: len(answers) == len(ROWS) + 2)
    finally:
        served.grpc.stop_stream()
    refused = [index for index, (_, error) in enumerate(answers) if error]
    assert refused == [len(ROWS)]
    assert "carrier: must be" in str(answers[len(ROWS)][1])
    good = [result for result, error in answers if not error]
    assert [result.as_numpy("probability").tolist()[0] for result in good] == _wanted(
        served, [*ROWS, flight_row()]
    )[0]
    assert good[-1].get_response().id == f"number-{len(ROWS) + 1}"


def test_only_wanted_outputs_are_answered(served: Served) -> None:
    """Outputs may be chosen over gRPC, too."""
    wanted = [triton_grpc.InferRequestedOutput("late")]
    result = served.grpc.infer(MODEL, flights.inputs(triton_grpc, ROWS[:1]), outputs=wanted)
    assert [one.name for one in result.get_response().outputs] == ["late"]


# ---------------------------------------------------------------- refusals
def _refused(served: Served, kind: str, rows: list[dict[str, Any]], **options: Any) -> tuple[str, str]:
    module = triton_grpc if kind == "grpc" else triton_http
    name = options.pop("name", MODEL)
    with pytest.raises(InferenceServerException) as refused:
        getattr(served, kind).infer(name, flights.inputs(module, rows), **options)
    return refused.value.status(), refused.value.message()


@pytest.mark.parametrize(
    ("rows", "options", "statuses", "says"),
    [
        ([flight_row(distance=0.5)], {}, ("422", "INVALID_ARGUMENT"), "distance: must be miles"),
        ([flight_row(airline="UA")], {}, ("422", "INVALID_ARGUMENT"), "airline: is not a known field"),
        ([], {}, ("422", "INVALID_ARGUMENT"), ""),
        ([flight_row()], {"name": "other"}, ("404", "NOT_FOUND"), "'flight-delay'"),
        ([flight_row()], {"model_version": "8"}, ("404", "NOT_FOUND"), "has no version '8'"),
    ],
)
def test_refusals_say_the_same(
    served: Served, rows: list[dict[str, Any]], options: dict[str, Any], statuses: Any, says: str
) -> None:
    """Both protocols refuse the same requests, by their own statuses and in the same words."""
    over_http = _refused(served, "http", rows, **options)
    over_grpc = _refused(served, "grpc", rows, **options)
    assert over_http[1] == over_grpc[1]
    assert says in over_http[1]
    if rows:
        assert (over_http[0], over_grpc[0].removeprefix("StatusCode.")) == statuses


def test_what_is_no_message_harms_nobody(served: Served) -> None:
    """Bytes that are no request are an error of that call alone."""
    call = served.grpc._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(Exception) as refused:
        call(b"\xff\xff\xff", timeout=30)
    assert refused.value.code().name in ("INTERNAL", "INVALID_ARGUMENT")
    assert served.grpc.is_server_live()


def test_what_is_not_served_is_unimplemented(served: Served) -> None:
    """Triton's other calls are refused as such, and don't hang."""
    with pytest.raises(InferenceServerException) as refused:
        served.grpc.get_model_repository_index()
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_request_that_is_too_large_is_refused(served: Served) -> None:
    """What is larger than the model's settings allow is not even read."""
    request = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[b"\0" * (17 << 20)])
    with pytest.raises(Exception) as refused:
        served.grpc._client_stub.ModelInfer(request)
    assert refused.value.code().name == "RESOURCE_EXHAUSTED"


def test_the_clients_of_the_page_work(served: Served) -> None:
    """What docs/protocols.md shows runs as it is written, and both protocols answer alike."""
    page = Path(__file__).parents[2] / "docs" / "protocols.md"
    shown = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    assert len(shown) == 2
    names: dict[str, Any] = {
        "HTTP": str(served.rest.base_url.netloc.decode()),
        "GRPC": f"127.0.0.1:{served.port}",
    }
    exec("\n".join(shown), names)
    assert 0 < names["probability"] < 1


# ---------------------------------------------------------------- what is left behind
def _told(served: Served) -> float:
    """Return how many predictions /metrics tells of status 200."""
    found = re.search(
        r'^tidegate_predictions_total{.*status="200"} (\S+)$', served.rest.get("/metrics").text, re.M
    )
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_each_row_of_a_message_counts_and_no_warm_up(served: Served, kind: str) -> None:
    """Three rows in one message are three predictions to Prometheus; what warms a replica is none."""
    module, client = (triton_grpc, served.grpc) if kind == "grpc" else (triton_http, served.http)
    before = _told(served)
    client.infer(MODEL, flights.inputs(module, ROWS[:3]))
    client.infer(MODEL, flights.inputs(module, ROWS[:1]), headers={"x-tidegate-warm": "1"})
    assert _told(served) == before + 3


def test_requests_are_counted_and_written_down_as_those_of_rest(served: Served) -> None:
    """Predictions over either protocol move the counts, ask for the journal and warm up like REST's."""
    before = served.rest.get("/measures").json()["predictions"]
    row = flights.inputs(triton_grpc, ROWS[:1])
    served.grpc.infer(MODEL, row, headers={"x-tidegate-warm": "1"})
    served.grpc.infer(MODEL, row, headers={"x-tidegate-journal": "1", "x-request-id": "over-grpc"})
    served.http.infer(
        MODEL,
        flights.inputs(triton_http, ROWS[:1]),
        request_id="over-http",
        headers={"x-tidegate-journal": "1"},
    )
    assert served.rest.get("/measures").json()["predictions"] == before + 2

    def written() -> set[str]:
        lines = [line for path in served.answers.glob("*.jsonl") for line in path.read_text().splitlines()]
        return {json.loads(line)["id"] for line in lines}

    eventually(lambda: {"over-grpc", "over-http"} <= written())


# ---------------------------------------------------------------- start and end
def test_a_taken_port_is_told_at_the_start(built: Built) -> None:
    """A process that can't listen for gRPC does not serve half of what it was asked for."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        process = start(built, free_port(), TIDEGATE_GRPC_PORT=str(taken))
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert f"gRPC can't listen on 127.0.0.1:{taken}" in told.decode()


def test_it_ends_cleanly_with_a_stream_open(built: Built) -> None:
    """A stream that a client leaves open does not keep the process from ending."""
    port, other = free_port(), free_port()
    process = start(built, port, TIDEGATE_GRPC_PORT=str(other))
    assert ready(process, port)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{other}") as client:
        client.start_stream(lambda result, error: None)
        client.async_stream_infer(MODEL, flights.inputs(triton_grpc, ROWS[:1]))
        assert client.is_server_live()
        process.terminate()
        process.communicate(timeout=30)
        client.stop_stream(cancel_requests=True)
    assert process.returncode in (0, -15)


def test_nothing_of_grpc_is_imported_without_its_port() -> None:
    """Where it is off, its libraries cost neither time nor memory."""
    code = (
        "import sys, tidegate.serving; sys.exit(any(n in sys.modules for n in ('grpc', 'google.protobuf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


# ---------------------------------------------------------------- one process, without a Bento
class Number(msgspec.Struct):
    """A request of one number."""

    x: float


class Twice(msgspec.Struct):
    """An answer of one number."""

    twice: float


def _asked(application: Predictions, *metadata: tuple[str, str], **options: Any) -> tuple[str, str]:
    """Ask an application once over gRPC; return the status and what it says."""
    request = messages.ModelInferRequest(model_name="numbers")
    request.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(1.0)

    async def go() -> tuple[str, str]:
        server, port = GrpcServer(application._inference), free_port()
        await server.start(str(port))
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                await infer(request.SerializeToString(), metadata=metadata, timeout=30, **options)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        finally:
            await server.stop()
        return "OK", ""

    return asyncio.run(go())


@pytest.fixture
def numbers() -> Predictions:
    """An application that doubles a number."""

    async def rest(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope["path"])

    instance = SimpleNamespace(
        features=lambda number: np.array([[number.x]]), predict=lambda rows: {"twice": rows[:, 0] * 2}
    )
    inner = SimpleNamespace(request=Number, response=Twice)
    return Predictions(SimpleNamespace(name="numbers", inner=inner, instance=instance, config={}), rest)  # type: ignore[arg-type]


def test_metadata_say_what_headers_say(numbers: Predictions) -> None:
    """What the router says of a request is read as on REST: its arm, its deadline, and who is offline."""
    calls: list[Call] = []

    async def one(call: Call, request: Any) -> dict[str, Any]:
        calls.append(call)
        return {"twice": 2.0}

    numbers.engine.one = one  # type: ignore[method-assign]
    told = {"x-tidegate-arm": "20%", "x-tidegate-offline": "1", "x-request-timeout-ms": "5000"}
    assert _asked(numbers, *told.items(), ("x-request-id", "mine"))[0] == "OK"
    assert _asked(numbers, compression=grpc.Compression.Gzip)[0] == "OK"
    first, second = calls
    assert (first.arm, first.offline, first.id, first.protocol) == ("20%", True, "mine", "grpc")
    assert first.deadline <= first.began + 5
    assert (second.arm, second.offline, len(second.id)) == ("", False, 32)


def test_overload_and_what_comes_too_late_are_told_as_such(numbers: Predictions) -> None:
    """Where no place is left a call is RESOURCE_EXHAUSTED, and one past its deadline DEADLINE_EXCEEDED."""
    admission = numbers.engine.admission
    taken, admission.taken = admission.taken, 1_000_000
    assert _asked(numbers) == ("RESOURCE_EXHAUSTED", "too many requests wait here; ask again later")
    admission.taken = taken
    assert _asked(numbers)[0] == "OK"
    admission.deadline = lambda headers, arrived: 0.0  # type: ignore[method-assign]
    assert _asked(numbers)[0] == "DEADLINE_EXCEEDED"


# ---------------------------------------------------------------- the .proto
def test_the_descriptor_is_that_of_the_proto() -> None:
    """What is checked in was made of the file beside it."""
    assert messages.PROTO.with_name("descriptor.py").read_text() == messages.compiled(messages.PROTO)


@pytest.mark.parametrize(
    "name", [*(name for name in vars(messages) if name.startswith(("Server", "Model"))), "InferParameter"]
)
def test_messages_are_those_of_public_clients(name: str) -> None:
    """Each field has the name, number, type and form that a public client's has."""

    def form(descriptor: Any) -> Any:
        return {
            field.name: (
                field.number,
                field.type,
                field.is_repeated,
                form(field.message_type) if field.message_type else None,
            )
            for field in descriptor.fields
        }

    ours = messages._pool.FindMessageTypeByName(f"inference.{name}")
    theirs = service_pb2.DESCRIPTOR.message_types_by_name[name]
    assert form(ours) == form(theirs)


def test_nulls_and_refusals_are_those_of_rest(served: Served) -> None:
    """What is not known is said by NaN and "" in a tensor; each field is refused by its name."""
    unknown = flight_row(tailnum="", plane={"year": float("nan"), "seats": 149})
    rest = flight_row(tailnum=None, plane={"year": None, "seats": 149})
    for distance in (100.0, 200.5, 20000.0):
        rows = [{**row, "distance": distance} for row in (flight_row(), rest)]
        asked = [{**row, "distance": distance} for row in (flight_row(), unknown)]
        found = [
            served.grpc.infer(MODEL, flights.inputs(triton_grpc, [row]), request_id=f"same-{distance}-é")
            for row in asked
        ]
        assert [one.as_numpy("probability").tolist()[0] for one in found] == _wanted(served, rows)[0]
        assert {one.get_response().id for one in found} == {f"same-{distance}-é"}
    for wrong in (
        {"distance": 0.5},
        {"distance": float("nan")},
        {"distance": float("inf")},
        {"plane": {"year": float("inf"), "seats": 149}},
        {"carrier": "ua"},
        {"carrier": "\N{SNOWMAN}"},
        {"origin": ""},
        {"flight": 0},
    ):
        status, says = _refused(served, "grpc", [flight_row(**wrong)])
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert says.startswith(next(iter(wrong)))
