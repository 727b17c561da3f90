"""Rows over gRPC and over HTTP by the Open Inference Protocol, beside our own REST: rows a core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.load import hammer, request
from bench.processes import free_port
from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import model, started, versions, wait_until_ready
from tidegate.serving import messages
from tidegate.serving.tensors import to_raw

IN_FLIGHT, SECONDS, ROUNDS, TOGETHER = 16, 3.0, 3, 100
SERVICE = "/inference.GRPCInferenceService/"
_TYPES = {bool: "BOOL", str: "BYTES"}
_UNKNOWN = {"BYTES": "", "FP64": float("nan")}


def tensors(row: Mapping[str, Any], whole: Sequence[str] = ("flight",)) -> dict[str, tuple[str, Any]]:
    """Return a row's values by the full names of their fields, each with its datatype; nulls are left out."""
    found: dict[str, tuple[str, Any]] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": told for inner, told in tensors(value, ()).items()}
        elif value is not None:
            found[name] = (_TYPES.get(type(value), "INT64" if name in whole else "FP64"), value)
    return found


def grpc_request(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a ModelInferRequest of these rows, with raw contents."""
    given = [tensors(row) for row in rows]
    kinds = {name: datatype for one in given for name, (datatype, _) in one.items()}
    asked = messages.ModelInferRequest(model_name="flight-delay")
    for name, datatype in kinds.items():
        values = [one[name][1] if name in one else _UNKNOWN[datatype] for one in given]
        asked.inputs.add(name=name, datatype=datatype, shape=[len(rows)])
        asked.raw_input_contents.append(to_raw(datatype, values))
    return bytes(asked.SerializeToString())


def v2_request(row: Mapping[str, Any]) -> bytes:
    """Return an inference request in JSON as HTTP's bytes."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [value]}
        for name, (datatype, value) in tensors(row).items()
    ]
    return request("/v2/models/flight-delay/infer", json.dumps({"inputs": inputs}).encode())


def call(port: int, requests: Sequence[bytes], *, stream: bool = False) -> int:
    """Return how many requests over gRPC were answered in `SECONDS`; raises CannotRun when any failed.

    `IN_FLIGHT` at once on one connection: each a call, or all of them in one stream.
    """
    import grpc  # type: ignore[import-untyped]

    async def calls(channel: Any, first: int, until: float) -> int:
        infer = channel.unary_unary(SERVICE + "ModelInfer")
        answered = 0
        while time.perf_counter() < until:
            await infer(requests[(first + answered) % len(requests)], timeout=30)
            answered += 1
        return answered

    async def streamed(channel: Any, until: float) -> int:
        read = messages.ModelStreamInferResponse.FromString
        asked = channel.stream_stream(SERVICE + "ModelStreamInfer", None, read)()
        for first in range(IN_FLIGHT):
            await asked.write(requests[first % len(requests)])
        answered, written = 0, IN_FLIGHT
        while answered < written:
            answer = await asked.read()
            if answer.error_message:
                raise CannotRun(f"an answer over gRPC is none: {answer.error_message}")
            answered += 1
            if time.perf_counter() < until:
                await asked.write(requests[written % len(requests)])
                written += 1
        await asked.done_writing()
        return answered

    async def go() -> int:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            until = time.perf_counter() + SECONDS
            if stream:
                return await streamed(channel, until)
            return sum(await asyncio.gather(*(calls(channel, first, until) for first in range(IN_FLIGHT))))

    try:
        return asyncio.run(go())
    except grpc.RpcError as error:
        raise CannotRun(f"an answer over gRPC is none: {error}") from error


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[int, int, psutil.Process]]:
    """Run flight-delay as a plane runs it, with gRPC; give both ports and the process."""
    other = free_port()
    kept = {"TIDEGATE_PREDICTIONS": str(folder / "predictions")}
    with started(folder, "--grpc-port", str(other), **kept) as (port, pid):
        wait_until_ready(port)
        yield port, other, psutil.Process(pid)


@entries(
    grpc_per_core=("rows/s", Goal("ratio", at_least=1.5)),
    grpc_stream_per_core=("rows/s", Goal("ratio", at_least=1.5)),
    grpc_rows_per_core=("rows/s", Goal("ratio", at_least=1.5)),
    v2_per_core=("rows/s", Goal()),
)
def protocols() -> Mapping[str, Measured]:
    """The rows that one process answers in a second of its own CPU time, by protocol, in turns."""
    rows = json.loads((model() / "examples.json").read_text())
    rest = [request("/predict", json.dumps(row).encode()) for row in rows]
    v2, grpc = [v2_request(row) for row in rows], [grpc_request([row]) for row in rows]
    together = [grpc_request((rows * TOGETHER)[:TOGETHER])]
    used: dict[str, list[tuple[int, float, float]]] = {}
    with tempfile.TemporaryDirectory() as name, service(Path(name)) as (port, other, process):

        def over_http(requests: Sequence[bytes]) -> int:
            options = {"connections": IN_FLIGHT, "seconds": SECONDS, "warm_up": 0.0}
            return hammer(port, requests, **options).requests  # type: ignore[arg-type]

        ways: dict[str, Callable[[], int]] = {
            "rest": lambda: over_http(rest),
            "v2-per-core": lambda: over_http(v2),
            "grpc-per-core": lambda: call(other, grpc),
            "grpc-stream-per-core": lambda: call(other, grpc, stream=True),
            "grpc-rows-per-core": lambda: TOGETHER * call(other, together),
        }
        for _ in range(ROUNDS):
            for way, ask in ways.items():
                before, began = process.cpu_times(), time.perf_counter()
                answered = ask()
                after, took = process.cpu_times(), time.perf_counter() - began
                cpu = after.user + after.system - before.user - before.system
                used.setdefault(way, []).append((answered, cpu, took))
    return {way: _told(used, way) for way in ways if way != "rest"}


def _told(used: Mapping[str, Sequence[tuple[int, float, float]]], way: str) -> Measured:
    def a_second(way: str, of: int) -> float:
        return sum(one[0] for one in used[way]) / sum(one[of] for one in used[way])

    rate, rest = a_second(way, 1), a_second("rest", 1)
    clock = f"by the clock {a_second(way, 2):.0f} rows/s, REST {a_second('rest', 2):.0f}, client included"
    cpu = f"{1e6 / rate:.0f} µs of CPU a row, REST {1e6 / rest:.0f}"
    library = f"; {versions('grpcio')}" if way.startswith("grpc") else ""
    return Measured(rate, "our REST", rest, f"{cpu}; {IN_FLIGHT} in flight; {clock}{library}")
