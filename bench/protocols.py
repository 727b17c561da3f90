"""One row over gRPC and over HTTP by the Open Inference Protocol, beside our own REST: rows a core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.load import hammer, request
from bench.processes import free_port, running, wait_for
from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import model, wait_until_ready
from tidegate.serving import messages
from tidegate.serving.hpack import encode
from tidegate.serving.tensors import to_raw

IN_FLIGHT, SECONDS, ROUNDS = 16, 3.0, 3
SERVICE = b"/inference.GRPCInferenceService/"
_TYPES = {bool: "BOOL", str: "BYTES"}


def tensors(row: Mapping[str, Any], whole: Sequence[str] = ("flight",)) -> dict[str, tuple[str, Any]]:
    """Return a row's values by the full names of their fields, each with its datatype; nulls are left out."""
    found: dict[str, tuple[str, Any]] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": told for inner, told in tensors(value, ()).items()}
        elif value is not None:
            found[name] = (_TYPES.get(type(value), "INT64" if name in whole else "FP64"), value)
    return found


def grpc_request(row: Mapping[str, Any]) -> bytes:
    """Return a ModelInferRequest of one row, with raw contents, as a message of gRPC."""
    asked = messages.ModelInferRequest(model_name="flight-delay")
    for name, (datatype, value) in tensors(row).items():
        asked.inputs.add(name=name, datatype=datatype, shape=[1])
        asked.raw_input_contents.append(to_raw(datatype, [value]))
    content = asked.SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content


def v2_request(row: Mapping[str, Any]) -> bytes:
    """Return an inference request in JSON as HTTP's bytes."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [value]}
        for name, (datatype, value) in tensors(row).items()
    ]
    return request("/v2/models/flight-delay/infer", json.dumps({"inputs": inputs}).encode())


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class _Client(asyncio.Protocol):
    """Keeps so many requests in flight on one connection: each a call, or all of them in one stream."""

    def __init__(self, requests: Sequence[bytes], stream: bool, ended: asyncio.Future[None]) -> None:
        self._requests, self._stream, self._ended = requests, stream, ended
        method = SERVICE + (b"ModelStreamInfer" if stream else b"ModelInfer")
        self._head = encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", method),
                (b":authority", b"bench"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
            ]
        )
        self._turn, self._next, self._buffer = 0, 1, b""
        self.answered = self.failed = 0
        self.stopping = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        window = (1 << 30).to_bytes(4, "big")
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"\0\4" + window)
        transport.write(hello + _frame(8, 0, 0, window))
        if self._stream:
            transport.write(_frame(1, 4, 1, self._head))
        self._ask(IN_FLIGHT)

    def _ask(self, count: int) -> None:
        parts = []
        for _ in range(count):
            body = self._requests[self._turn % len(self._requests)]
            self._turn += 1
            if self._stream:
                parts.append(_frame(0, 0, 1, body))
            else:
                parts.append(_frame(1, 4, self._next, self._head) + _frame(0, 1, self._next, body))
                self._next += 2
        self._transport.write(b"".join(parts))

    def data_received(self, data: bytes) -> None:
        buffer, at, back = self._buffer + data, 0, 0
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
            if end > len(buffer):
                break
            kind, flags, payload = buffer[at + 3], buffer[at + 4], buffer[at + 9 : end]
            at = end
            if kind == (0 if self._stream else 1) and (self._stream or flags & 1):
                back += 1
                good = b"raw" not in payload if self._stream else payload.endswith(b"\x010")
                self.failed += not good
            elif kind in (3, 7):
                self.failed += 1
        self._buffer = buffer[at:]
        self.answered += back
        if self.stopping:
            self._transport.close()
        elif back:
            self._ask(back)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def call(port: int, requests: Sequence[bytes], *, stream: bool = False) -> int:
    """Return how many requests over gRPC were answered in `SECONDS`; raises CannotRun when any failed."""

    async def go() -> _Client:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        _, client = await loop.create_connection(lambda: _Client(requests, stream, ended), "127.0.0.1", port)
        await asyncio.wait([ended], timeout=SECONDS)
        client.stopping = True
        await asyncio.wait_for(ended, 30)
        return client

    client = asyncio.run(go())
    if client.failed or not client.answered:
        raise CannotRun(f"{client.failed} of {client.answered} answers over gRPC were none")
    return client.answered


@contextlib.contextmanager
def service(folder: Path) -> Iterator[tuple[int, int, psutil.Process]]:
    """Run flight-delay as a plane runs it, with gRPC; give both ports and the process."""
    port, other, log = free_port(), free_port(), folder / "service.log"
    command = [sys.executable, "-m", "tidegate.serve", "services.flight_delay.service:FlightDelay"]
    environment = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
        "PYTHONPATH": str(Path.cwd()),
        "TIDEGATE_PREDICTIONS": str(folder / "predictions"),
    }
    ports = ["--port", str(port), "--grpc-port", str(other)]
    with running([*command, *ports], log=log, environment=environment) as process:
        wait_for(port, process, log)
        wait_until_ready(port)
        yield port, other, psutil.Process(process.pid)


@entries(
    grpc_per_core=("rows/s", Goal("ratio", at_least=1.5)),
    grpc_stream_per_core=("rows/s", Goal("ratio", at_least=1.5)),
    v2_per_core=("rows/s", Goal()),
)
def protocols() -> Mapping[str, Measured]:
    """The rows that one process answers in a second of its own CPU time, by protocol, in turns."""
    rows = json.loads((model() / "examples.json").read_text())
    rest = [request("/predict", json.dumps(row).encode()) for row in rows]
    v2, grpc = [v2_request(row) for row in rows], [grpc_request(row) for row in rows]
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
        }
        for _ in range(ROUNDS):
            for way, ask in ways.items():
                before, began = process.cpu_times(), time.perf_counter()
                answered = ask()
                after, took = process.cpu_times(), time.perf_counter() - began
                cpu = after.user + after.system - before.user - before.system
                used.setdefault(way, []).append((answered, cpu, took))
    rate = {way: sum(one[0] for one in those) / sum(one[1] for one in those) for way, those in used.items()}
    plain = {way: sum(one[0] for one in those) / sum(one[2] for one in those) for way, those in used.items()}

    def told(way: str) -> Measured:
        clock = f"by the clock {plain[way]:.0f} rows/s, REST {plain['rest']:.0f}, client included"
        note = f"{IN_FLIGHT} in flight; {clock}"
        return Measured(rate[way], "our REST", rate["rest"], note)

    return {way: told(way) for way in ways if way != "rest"}
