"""What every Metrics keeps to; and what Envoy's counters really count."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.planes import Plane, Servers, eventually, plane_up, tiny_servers
from tidegate.errors import NoData
from tidegate.ports import Counters, Metrics, Route
from tidegate.testing import FakeMetrics

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
ONE = ("one", A)


@dataclass(frozen=True)
class Room:
    """A plane whose model `one` is served by release A."""

    plane: Plane
    servers: Servers
    endpoints: tuple[str, ...]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with plane_up(tmp_path_factory.mktemp("metrics")) as plane, tiny_servers() as servers:
        yield Room(plane, servers, servers.start(A, 2))


def _fresh(room: Room) -> None:
    """Count from zero: a cluster made anew has new counters."""
    room.plane.router().apply({})
    room.plane.router().apply({"one": Route({A: 100}, {A: room.endpoints})})


@pytest.fixture(params=["fake", "envoy"])
def subject(request: pytest.FixtureRequest) -> tuple[Metrics, Callable[[int, int], None]]:
    """Metrics, and how `n` good and `m` failed requests of release A are made."""
    if request.param == "fake":
        fake = FakeMetrics()
        return fake, lambda good, bad: fake.add("one", A, good + bad, bad)
    room: Room = request.getfixturevalue("room")
    room.plane.router().apply({})

    def send(good: int, bad: int) -> None:
        room.plane.router().apply({"one": Route({A: 100}, {A: room.endpoints})})
        for path in ["/one/predict"] * good + ["/one/fail500"] * bad:
            room.plane.ask(path)

    return room.plane.metrics(), send


def test_without_a_release_there_is_no_data(subject: tuple[Metrics, Callable[[int, int], None]]) -> None:
    """Nothing to count is an error of its own, not zero requests."""
    with pytest.raises(NoData):
        subject[0].read()


def test_counts_requests_errors_and_latencies(subject: tuple[Metrics, Callable[[int, int], None]]) -> None:
    """Every request counts once, errors among them; latencies are cumulative and end in infinity."""
    metrics, send = subject
    send(7, 2)
    send(1, 0)
    eventually(lambda: metrics.read()[ONE].latency and metrics.read()[ONE].latency[-1][1] == 10)
    counted = metrics.read()[ONE]
    assert (counted.requests, counted.errors, counted.active) == (10, 2, 0)
    bounds, counts = zip(*counted.latency, strict=True)
    assert list(bounds) == sorted(set(bounds))
    assert bounds[-1] == float("inf")
    assert list(counts) == sorted(counts)
    assert {100.0, 200.0, 1000.0} <= set(bounds)


def _counted(room: Room) -> Counters:
    return room.plane.metrics().read()[ONE]


def test_envoy_counts_a_retried_request_once(room: Room) -> None:
    """With one of two replicas dead, requests are retried on the other: none fails, each counts once."""
    _fresh(room)
    room.servers.kill(room.endpoints[0])
    try:
        statuses = [room.plane.ask("/one/predict").status for _ in range(10)]
    finally:
        room.servers.run(A, room.endpoints[0])
    assert statuses == [200] * 10
    assert (_counted(room).requests, _counted(room).errors) == (10, 0)


def test_envoy_charges_its_own_answers_to_the_release(room: Room) -> None:
    """A release with no replica alive answers 503 with its name on it, and each counts as an error."""
    _fresh(room)
    room.servers.kill(*room.endpoints)
    try:
        answers = [room.plane.ask("/one/predict") for _ in range(5)]
    finally:
        for endpoint in room.endpoints:
            room.servers.run(A, endpoint)
    assert [(a.status, a.headers["x-tidegate-release"]) for a in answers] == [(503, A)] * 5
    assert (_counted(room).requests, _counted(room).errors) == (5, 5)


def test_envoy_does_not_count_4xx_as_errors(room: Room) -> None:
    """A caller's mistake is a request, not an error."""
    _fresh(room)
    room.plane.ask("/one/fail422")
    assert (_counted(room).requests, _counted(room).errors) == (1, 0)


def test_envoy_counts_shed_load_as_errors(room: Room) -> None:
    """A release that answers 429 shows errors, each once and beside its 5xx, however quickly it answers."""
    _fresh(room)
    paths = ["/one/fail429"] * 3 + ["/one/fail500"] * 2 + ["/one/predict"] * 4
    statuses = [room.plane.ask(path).status for path in paths]
    assert statuses == [429] * 3 + [500] * 2 + [200] * 4
    assert (_counted(room).requests, _counted(room).errors) == (9, 5)


def test_envoy_shows_requests_in_flight(room: Room) -> None:
    """A request that is being answered is active, and counted when it is done."""
    _fresh(room)
    with socket.create_connection(("127.0.0.1", room.plane.port)) as caller:
        caller.sendall(b"POST /one/slow0.6 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        eventually(lambda: _counted(room).active == 1, 3)
        assert _counted(room).requests == 0
        caller.recv(1000)
    eventually(lambda: (_counted(room).active, _counted(room).requests) == (0, 1), 3)


def test_envoy_does_not_count_who_gave_up(room: Room) -> None:
    """A caller who leaves before the answer is no request and no error: leaving can't vote a release out."""
    _fresh(room)
    with socket.create_connection(("127.0.0.1", room.plane.port)) as caller:
        caller.sendall(b"POST /one/slow0.4 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        eventually(lambda: _counted(room).active == 1, 3)
    eventually(lambda: _counted(room).active == 0, 3)
    room.plane.ask("/one/slow0.5")  # by its end the answer nobody waited for is long made
    eventually(lambda: _counted(room).latency and _counted(room).latency[-1][1] == 1)
    assert (_counted(room).requests, _counted(room).errors) == (1, 0)


def test_envoy_bounds_are_exact(room: Room) -> None:
    """What took 200 ms or longer is never counted below 200 ms, although Envoy's own bins are 10 ms wide."""
    _fresh(room)
    for _ in range(4):
        room.plane.ask("/one/slow0.2")
    eventually(lambda: _counted(room).latency and _counted(room).latency[-1][1] == 4)
    assert dict(_counted(room).latency)[200.0] == 0
