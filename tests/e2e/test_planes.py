"""A plane with real Envoy and supervisord: what users' requests and the operator's commands may rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socket import create_server

import psutil
import pytest

from tests.planes import (
    Load,
    Plane,
    Servers,
    eventually,
    plane_up,
    tiny_record,
    tiny_servers,
    write_checkout,
)
from tidegate import planes
from tidegate.config import Home
from tidegate.errors import PlatformError, Unreachable
from tidegate.files import write_atomic
from tidegate.machine import processes, unix_http
from tidegate.machine.layout import INSTANCE
from tidegate.ports import Route

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane_up(tmp_path_factory.mktemp("plane")) as started:
        yield started


@pytest.fixture
def servers(plane: Plane) -> Iterator[Servers]:
    with tiny_servers() as running:
        yield running
        plane.router().apply({})


def _members(home: Home) -> list[int]:
    return sorted(p.pid for p in processes.carrying({INSTANCE: str(home.root)}))


def _member(plane: Plane, name: str) -> psutil.Process:
    (found,) = (
        p for p in processes.carrying({INSTANCE: str(plane.home.root)}) if name in " ".join(p.cmdline())
    )
    return found


# ---------------------------------------------------------------- requests
def test_no_request_fails_while_traffic_moves(plane: Plane, servers: Servers) -> None:
    """Weights, releases and endpoints change and go under load, and every request is answered by 200."""
    a, b = servers.start(A, 2), servers.start(B, 2)
    router = plane.router()
    both = {A: a, B: b}
    tables = [
        Route({A: 100}, {A: a}),
        Route({A: 100, B: 0}, both),
        Route({A: 95, B: 5}, both),
        Route({A: 50, B: 50}, both),
        Route({A: 0, B: 100}, both),
        Route({B: 100}, {B: b}),
        Route({B: 100}, {B: b[1:]}),
    ]
    router.apply({"toy": tables[0]})
    with Load(plane, "/toy/x", "/toy/x", "/toy/slow0.05", "/toy/slow0.6") as load:
        for _ in range(5):
            for table in tables:
                router.apply({"toy": table})
                time.sleep(0.05)
    assert load.failed == {}
    assert load.answered(A) > 50
    assert load.answered(B) > 50


def test_a_release_without_weight_gets_no_request(plane: Plane, servers: Servers) -> None:
    """From the moment that apply returns, not one more request reaches a release of weight 0."""
    endpoints = {A: servers.start(A), B: servers.start(B)}
    router = plane.router()
    with Load(plane, "/toy/x", "/toy/x") as load:
        for _ in range(10):
            router.apply({"toy": Route({A: 50, B: 50}, endpoints)})
            time.sleep(0.05)
            router.apply({"toy": Route({A: 100, B: 0}, endpoints)})
            time.sleep(0.05)  # the requests that were under way
            before = load.answered(B)
            time.sleep(0.05)
            assert load.answered(B) == before
    assert load.answered(B) > 0


def test_models_beside_each_other_keep_their_own_traffic(plane: Plane, servers: Servers) -> None:
    """Moving one model's weights, and taking it away, changes nothing of what the other's callers get."""
    mine, theirs = {A: servers.start(A), B: servers.start(B)}, {C: servers.start(C)}
    router, beside = plane.router(), Route({C: 100}, theirs)
    router.apply({"toy": Route({A: 100}, mine), "other": beside})
    with Load(plane, "/other/x", "/other/slow0.05") as load:
        for _ in range(5):
            for table in (Route({A: 50, B: 50}, mine), Route({A: 0, B: 100}, mine), None):
                router.apply({"other": beside} | ({"toy": table} if table else {}))
                time.sleep(0.02)
        before = router.read()
    assert load.failed == {}
    assert set(load.seen) == {("200", C)}
    assert before["other"].weights == {C: 100}
    assert "toy" not in before


def test_a_killed_replica_loses_no_request(plane: Plane, servers: Servers) -> None:
    """With a sibling alive, kill -9 fails no request, nor those that the replica was answering."""
    replicas = servers.start(A, 2)
    plane.router().apply({"toy": Route({A: 100}, {A: replicas})})
    with Load(plane, "/toy/x", "/toy/x", "/toy/slow0.3", "/toy/slow0.3") as load:
        for _ in range(2):
            time.sleep(0.5)
            servers.kill(replicas[0])
            time.sleep(2)
            servers.run(A, replicas[0])
    assert load.failed == {}
    assert load.answered(A) > 50


def test_a_killed_envoy_serves_again_as_before(plane: Plane, servers: Servers) -> None:
    """It is restarted and reads its files: nobody needs to apply anything."""
    table = {"toy": Route({A: 100}, {A: servers.start(A, 2)})}
    plane.router().apply(table)
    _member(plane, "bootstrap.json").kill()
    eventually(lambda: _read(plane) == table)
    eventually(lambda: _status(plane, "/toy/x") == 200)


def _read(plane: Plane) -> object:
    try:
        return plane.router().read()
    except Unreachable:
        return None


def _status(plane: Plane, path: str) -> int:
    try:
        return plane.ask(path).status
    except OSError:
        return 0


def test_answers_say_who_and_which(plane: Plane, servers: Servers) -> None:
    """The release is named, a caller's request id is kept, a missing one is made, the prefix is stripped."""
    plane.router().apply({"toy": Route({A: 100}, {A: servers.start(A)})})
    answer = plane.ask("/toy/predict", {"x-request-id": "mine-1"})
    assert answer.headers["x-tidegate-release"] == A
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.text == f"{A} /predict mine-1"  # type: ignore[attr-defined]
    made = plane.ask("/toy/predict")
    assert made.headers["x-request-id"] in made.text  # type: ignore[attr-defined]
    assert len(made.headers["x-request-id"]) == 36


@pytest.mark.parametrize("claimed", ["", "10.0.0.1", "127.0.0.1", "255.255.255.255"])
def test_a_caller_cannot_make_a_release_fail(plane: Plane, servers: Servers, claimed: str) -> None:
    """Time-outs and retries asked for by Envoy's headers are dropped, whoever the caller says that he is."""
    plane.router().apply({"toy": Route({A: 100}, {A: servers.start(A)})})
    origin = {"x-forwarded-for": claimed, "x-envoy-internal": "true"} if claimed else {}
    for header in ("x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms"):
        answer = plane.ask("/toy/slow0.1", {**origin, header: "1", "x-request-id": "mine"})
        assert (answer.status, answer.headers["x-request-id"]) == (200, "mine")
    retries = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "9"}
    assert plane.ask("/toy/fail500", {**origin, **retries}).status == 500
    counted = plane.metrics().read()["toy", A]
    assert (counted.requests, counted.errors) == (3, 1)
    stats = unix_http.get(plane.layout.admin, "/stats?filter=upstream_rq_retry$").decode().splitlines()
    assert [line for line in stats if line.startswith("cluster.toy") and not line.endswith(": 0")] == []


@pytest.mark.parametrize(("path", "status", "says"), [("/toy/x", 503, "toy"), ("/what/x", 404, "<model>")])
def test_what_is_not_served_is_said_in_json(plane: Plane, path: str, status: int, says: str) -> None:
    """503 for a model without a release, 404 for no model: JSON with a reason."""
    plane.router().apply({"toy": Route()})
    answer = plane.ask(path)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert says in json.loads(answer.text)["error"]["reason"]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- drift
def test_a_hand_edited_route_is_seen_and_repaired(plane: Plane, servers: Servers) -> None:
    """read() reports what Envoy serves, not what was written; apply() brings it back."""
    router, path = plane.router(), plane.layout.envoy / "routes.json"
    table = {"toy": Route({A: 90, B: 10}, {A: servers.start(A), B: servers.start(B)})}
    router.apply(table)
    edited = path.read_text().replace('"weight": 10', '"weight": 60').replace('"weight": 90', '"weight": 40')
    write_atomic(path, edited)
    eventually(lambda: router.read() != table)
    assert router.read()["toy"].weights == {A: 40, B: 60}
    router.apply(table)
    assert router.read() == table


@pytest.mark.parametrize("renamed", [True, False])
def test_an_edit_that_weights_do_not_show_is_repaired(plane: Plane, servers: Servers, renamed: bool) -> None:
    """A time-out set by hand, loaded (renamed) or waiting for a restart (in place), does not stay."""
    router, path = plane.router(), plane.layout.envoy / "routes.json"
    table = {"toy": Route({A: 100}, {A: servers.start(A)})}
    router.apply(table)
    sound = path.read_text()
    edited = sound.replace('"timeout": "30s"', '"timeout": "1s"')
    assert edited != sound
    if renamed:
        write_atomic(path, edited)
        time.sleep(0.3)
    else:
        path.write_text(edited)
    router.apply(table)
    assert path.read_text() == sound


def test_a_refused_file_is_reported_and_repaired(plane: Plane, servers: Servers) -> None:
    """A file that Envoy can't read changes nothing, and the next apply writes a sound one."""
    router = plane.router()
    table = {"toy": Route({A: 100}, {A: servers.start(A)})}
    router.apply(table)
    write_atomic(plane.layout.envoy / "routes.json", '{"resources": [{"nonsense": 1}]}')
    time.sleep(0.3)
    assert plane.ask("/toy/x").status == 200
    router.apply(table)
    router.apply({"toy": Route()})
    assert plane.ask("/toy/x").status == 503


def test_without_envoy_the_router_is_unreachable(tmp_path: Path) -> None:
    """Nothing that can't be confirmed counts as done."""
    from tidegate.adapters.envoy import EnvoyMetrics, EnvoyRouter

    with pytest.raises(Unreachable):
        EnvoyRouter(tmp_path, tmp_path / "none").apply({})
    with pytest.raises(Unreachable):
        EnvoyMetrics(tmp_path / "none").read()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- up and down
def test_up_again_leaves_a_running_plane_alone(plane: Plane) -> None:
    """Same processes, same address."""
    before = _members(plane.home)
    assert planes.up(plane.checkout, plane.home, "staging", agent=False) == plane.url
    assert _members(plane.home) == before


def test_admin_is_for_the_owner_only(plane: Plane) -> None:
    """Both sockets have mode 0600, in a folder of mode 0700, and no admin port is open."""
    modes = [oct(p.stat().st_mode & 0o777) for p in (plane.layout.admin, plane.layout.supervisor)]
    assert modes == ["0o600", "0o600"]
    assert oct(plane.layout.admin.parent.stat().st_mode & 0o777) == "0o700"
    listening = {
        c.laddr.port
        for c in _member(plane, "bootstrap.json").net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening == {plane.port}


def test_down_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    """It stops router and releases; started again, the plane has its address and releases back."""
    with plane_up(tmp_path) as plane:
        plane.workloads().start(tiny_record(1), 1)
        eventually(lambda: plane.workloads().list()[0].ready)
        assert planes.down(plane.home) == 3  # supervisord, Envoy, one replica
        assert _members(plane.home) == []
        assert planes.down(plane.home) == 0
        assert planes.up(plane.checkout, plane.home, "staging", agent=False) == plane.url
        eventually(lambda: plane.workloads().list()[0].ready)


def test_down_finds_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    """kill -9 of supervisord orphans its programs: down ends them, and only this home's."""
    with plane_up(tmp_path / "one") as one, plane_up(tmp_path / "two") as two:
        one.workloads().start(tiny_record(1), 1)
        eventually(lambda: one.workloads().list()[0].ready)
        _member(one, "supervisord").kill()
        eventually(lambda: len(_members(one.home)) == 2)  # a kill takes effect a moment later
        others = _members(two.home)
        assert planes.down(one.home) == 2
        assert _members(one.home) == []
        assert _members(two.home) == others


def test_up_replaces_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    """Orphans hold the ports: up ends them and comes up at the same address."""
    with plane_up(tmp_path) as plane:
        _member(plane, "supervisord").kill()
        assert planes.up(plane.checkout, plane.home, "staging", agent=False) == plane.url
        assert plane.ask("/").status == 404


@pytest.mark.parametrize("remembered", [True, False])
def test_a_taken_port_is_named(tmp_path: Path, remembered: bool) -> None:
    """A fixed or remembered port that another holds is an error with the next action, and nothing starts."""
    (port,) = processes.free_ports(1)
    home = Home(tmp_path / "home")
    checkout = write_checkout(tmp_path / "checkout", "auto" if remembered else port)
    if remembered:
        write_atomic(home.plane("staging") / "ports.json", json.dumps({"router": port}))
    with closing(create_server(("127.0.0.1", port))), pytest.raises(PlatformError) as error:
        planes.up(checkout, home, "staging", agent=False)
    assert f"port {port}" in error.value.message
    assert f"pid {os.getpid()}" in error.value.message
    assert ("ports.json" if remembered else "router.port") in error.value.action
    assert _members(home) == []
    planes.down(home)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), PlatformError("Envoy broke")])
def test_an_interrupted_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    """Ctrl-C or a failure while a plane starts stops what had been started."""

    def interrupted(*_: object, **__: object) -> None:
        raise interruption

    home = Home(tmp_path / "home")
    monkeypatch.setattr(planes, "_wait_ready", interrupted)
    with pytest.raises(type(interruption)):
        planes.up(write_checkout(tmp_path / "checkout"), home, "staging", agent=False)
    assert _members(home) == []
    planes.down(home)


def test_a_program_that_does_not_start_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says which program, what it said last and where the log is."""
    monkeypatch.setattr(planes, "_envoy", lambda: sys.executable)
    home = Home(tmp_path / "home")
    with pytest.raises(PlatformError, match=r"envoy did not start within 2 s\. Its last words") as error:
        planes.up(write_checkout(tmp_path / "checkout"), home, "staging", agent=False, patience=2)
    assert "envoy.log" in error.value.action
    assert _members(home) == []
    planes.down(home)


def test_the_command_down_stops_this_checkouts_planes(tmp_path: Path) -> None:
    """`tidegate down` says how many processes it stopped, and is quiet when asked to be."""
    with plane_up(tmp_path) as plane:
        environment = {**os.environ, "TIDEGATE_HOME": str(plane.home.root)}
        script = "import sys; from tidegate.cli import main; sys.argv = ['tidegate', *sys.argv[1:]]; main()"
        command = [sys.executable, "-c", script, "down"]
        run = {"cwd": plane.checkout, "env": environment, "capture_output": True, "text": True}
        first = subprocess.run(command, **run, check=True)  # type: ignore[call-overload]
        assert first.stdout == "stopped 2 processes\n"
        again = subprocess.run([*command, "--quiet"], **run, check=True)  # type: ignore[call-overload]
        assert again.stdout == ""
        assert not plane.home.sockets.exists()
