"""A service that is asked for more than it can do, in a process of its own, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.planes import eventually
from tests.service.running import free_port

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30.0


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[int, int]]:
    """Run a service that takes 10 ms a row; give its port and its process' id."""
    port = free_port()
    queue = {"maxWaiting": 32, "retryAfter": 3, "bodySeconds": 0.5}
    command = [sys.executable, "-m", "tests.service.overloaded", str(port), "10", json.dumps(queue)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        eventually(lambda: process.poll() is not None or _ready(port), 2 * SECONDS)
        assert process.poll() is None, "the service ended"
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(SECONDS)


def _ready(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    return False


def ask(port: int, count: int, rounds: int = 1, **headers: str) -> list[httpx.Response]:
    """Ask over so many connections at once, on each of them so many times."""

    async def one(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post("/predict", content=b'{"x": 1}', headers=headers) for _ in range(rounds)]

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=SECONDS) as client:
            told = await asyncio.gather(*(one(client) for _ in range(count)))
            return [response for responses in told for response in responses]

    return asyncio.run(all_of_them())


def _counted(port: int) -> Counter[int]:
    """Return what the service counted, by status."""
    page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    found = re.findall(r'tidegate_predictions_total\{.*status="(\d+)"\} (\d+)', page)
    return Counter({int(status): int(count) for status, count in found})


def _memory(process: int) -> int:
    """Return what a process holds, in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096


def test_more_than_fits_is_refused_at_once_and_told_when_to_come_back(served: tuple[int, int]) -> None:
    """Beyond the queue a caller gets 429 with Retry-After, all others an answer, and afterwards everybody."""
    port, _ = served
    before = _counted(port)
    answers = ask(port, 96, rounds=3)
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}, statuses
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "3"
    assert set(refused.json()) >= {"error", "request_id", "release", "model_version"}
    assert "ask again" in refused.json()["error"]["reason"]
    assert all("retry-after" not in answer.headers for answer in answers if answer.status_code == 200)
    assert _counted(port) - before == statuses
    assert ask(port, 1)[0].status_code == 200


def test_what_comes_too_late_is_not_computed(served: tuple[int, int]) -> None:
    """A caller's deadline that passes while others are computed is a 504, and costs no computing."""
    port, _ = served
    predicted = httpx.get(f"http://127.0.0.1:{port}/measures").json()["predictions"]
    answers = ask(port, 30, rounds=2, **{"x-envoy-expected-rq-timeout-ms": "30"})
    statuses = Counter(answer.status_code for answer in answers)
    assert 504 in statuses, statuses
    assert set(statuses) <= {200, 504}, statuses
    now = httpx.get(f"http://127.0.0.1:{port}/measures").json()["predictions"]
    assert now - predicted == statuses[200]


@pytest.mark.parametrize("told", ["soon", "-1", "", "9" * 30])
def test_a_deadline_that_is_none_changes_nothing(told: str) -> None:
    """What a caller says of his patience is taken only when it is a number of milliseconds."""
    from tidegate.serving.admission import Admission
    from tidegate.serving.settings import Queue

    admission = Admission(Queue(deadline_ms=2000))
    assert admission.deadline({b"x-request-timeout-ms": told.encode()}, 5.0) == 7.0


def test_a_callers_deadline_only_shortens_the_services() -> None:
    """The least of what the service, the proxy and the caller say is the deadline."""
    from tidegate.serving.admission import DEADLINES, Admission
    from tidegate.serving.settings import Queue

    admission = Admission(Queue(deadline_ms=2000))
    proxy, caller = DEADLINES
    assert admission.deadline({proxy: b"15000", caller: b"300"}, 5.0) == 5.3
    assert admission.deadline({proxy: b"15000"}, 5.0) == 7.0
    assert admission.deadline({proxy: b"0"}, 5.0) == 7.0


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n"


def test_a_body_that_does_not_come_is_a_408(served: tuple[int, int]) -> None:
    """Who sends half a body is told so and hung up on; others are answered meanwhile."""
    port, _ = served
    before = _counted(port)
    slow = [socket.create_connection(("127.0.0.1", port), SECONDS) for _ in range(50)]
    for number, connection in enumerate(slow):
        connection.sendall(HEAD + b'{"x":'[: number % 6])
    assert {answer.status_code for answer in ask(port, 8)} == {200}
    for connection in slow:
        told = b""
        while part := connection.recv(4096):
            told += part
        assert told.startswith(b"HTTP/1.1 408 "), told
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["field"] == "body"
        connection.close()
    assert (_counted(port) - before)[408] == 50


def test_connections_that_say_nothing_hold_nobody_up(served: tuple[int, int]) -> None:
    """Half-open connections, and heads that never end, leave the service as ready as it was."""
    port, _ = served
    idle = [socket.create_connection(("127.0.0.1", port), SECONDS) for _ in range(200)]
    for number, connection in enumerate(idle):
        connection.sendall(HEAD[: number % 60])
    assert {answer.status_code for answer in ask(port, 16, rounds=2)} == {200}
    for connection in idle:
        connection.close()


def _crowd(port: int, count: int, rounds: int) -> Counter[int]:
    """Ask over so many connections, each again as soon as it is answered; give the statuses."""
    statuses: Counter[int] = Counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(rounds):
            writer.write(HEAD + b'{"x": 1}')
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
            statuses[int(head.split()[1])] += 1
        writer.close()

    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(count))), 2 * SECONDS)

    asyncio.run(all_of_them())
    return statuses


def test_a_crowd_leaves_no_memory_behind(served: tuple[int, int]) -> None:
    """Asked for far more than it can do, again and again, a process holds no more than the first time."""
    port, process = served
    _crowd(port, 100, rounds=5)
    before = _memory(process)
    statuses = _crowd(port, 100, rounds=20)
    assert set(statuses) == {200, 429}, statuses
    assert _memory(process) - before < 20 * 1024 * 1024
