"""What every Router keeps to: the fake in memory, and Envoy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.planes import plane_up, tiny_servers
from tidegate.adapters.envoy import EnvoyMetrics, EnvoyRouter
from tidegate.core.plan import Key, Match
from tidegate.errors import Refused, Unreachable
from tidegate.machine import unix_http
from tidegate.ports import Route, Router
from tidegate.testing import FakeRouter

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


@dataclass(frozen=True)
class Subject:
    """A router, endpoints for two releases, and how often it was written to."""

    router: Router
    a: tuple[str, ...]
    b: tuple[str, ...]
    writes: Callable[[], object]


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with plane_up(tmp_path_factory.mktemp("router")) as plane, tiny_servers() as servers:

        def written() -> list[tuple[str, int]]:
            return [(p.name, p.stat().st_ino) for p in sorted(Path(plane.layout.envoy).iterdir())]

        yield Subject(plane.router(), servers.start(A, 2), servers.start(B, 1), written)


@pytest.fixture(params=["fake", "envoy"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "envoy":
        real: Subject = request.getfixturevalue("envoy")
        real.router.apply({})
        return real
    fake = FakeRouter()
    return Subject(fake, ("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.1:3",), lambda: len(fake.history))


def test_a_new_router_serves_nothing(subject: Subject) -> None:
    """An empty table reads back as empty."""
    assert subject.router.read() == {}


def test_reads_back_what_was_applied(subject: Subject) -> None:
    """Weights, zero weights, endpoints in order, and models without a release survive the round trip."""
    table = {
        "one": Route({A: 95, B: 5}, {A: subject.a, B: subject.b}),
        "two": Route({A: 100, B: 0}, {A: subject.a[:1], B: subject.b}),
        "warm": Route({}, {A: subject.a}),
        "none": Route(),
    }
    subject.router.apply(table)
    assert subject.router.read() == table


def test_reads_back_what_is_beside_the_weights(subject: Subject) -> None:
    """Mirrors, matches in order, affinities with their salt and journals survive the round trip."""
    endpoints = {A: subject.a, B: subject.b}
    hand = ((Match(header="X-Try", value="b"), B), (Match(cookie="try"), B))
    table = {
        "all": Route({A: 95, B: 5}, endpoints, {B: 7}, hand, Key(header="X-User"), B, journal=True),
        "experiment": Route({A: 50, B: 50}, endpoints, affinity=Key(cookie="sid"), salt=B, journal=True),
        "shadow": Route({A: 100}, endpoints, mirror={B: 100}, journal=True),
        "hand": Route({A: 100}, endpoints, matches=hand[:1]),
        "sticky": Route({A: 80, B: 20}, endpoints, affinity=Key(header="x-user")),
        "unserved": Route({}, endpoints, matches=hand, affinity=Key(header="x-user"), salt=A, journal=True),
    }
    subject.router.apply(table)
    assert subject.router.read() == table
    before = subject.writes()
    subject.router.apply(table)
    assert subject.writes() == before
    less = {model: replace(route, mirror={}, matches=(), journal=False) for model, route in table.items()}
    subject.router.apply(less)
    assert subject.router.read() == less


def test_a_table_replaces_the_one_before(subject: Subject) -> None:
    """What is not in the new table is gone: models, releases and endpoints."""
    subject.router.apply({"one": Route({A: 50, B: 50}, {A: subject.a, B: subject.b}), "two": Route()})
    table = {"one": Route({A: 100}, {A: subject.a[1:]})}
    subject.router.apply(table)
    assert subject.router.read() == table


def test_the_same_table_again_writes_nothing(subject: Subject) -> None:
    """A reconcile with nothing to do writes nothing."""
    table = {"one": Route({A: 100}, {A: subject.a, B: subject.b})}
    subject.router.apply(table)
    before = subject.writes()
    subject.router.apply({"one": Route({A: 100}, {B: subject.b, A: subject.a})})
    assert subject.writes() == before


def test_an_answer_that_is_not_whole_is_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half a dump, as of an Envoy that is just ending, is an error of ours that is tried again."""
    monkeypatch.setattr(unix_http, "get", lambda *_: b'{"configs": [')
    with pytest.raises(Unreachable):
        EnvoyRouter(tmp_path, tmp_path / "admin").read()
    with pytest.raises(Unreachable):
        EnvoyMetrics(tmp_path / "admin").read()


@pytest.mark.parametrize(
    "route",
    [
        Route({A: 60, B: 60}, {A: ("127.0.0.1:1",), B: ("127.0.0.1:2",)}),
        Route({A: 99}, {A: ("127.0.0.1:1",)}),
        Route({A: 110, B: -10}, {A: ("127.0.0.1:1",), B: ("127.0.0.1:2",)}),
        Route({A: 100}, {B: ("127.0.0.1:1",)}),
        Route({A: 100}, {A: ()}),
        Route({A: 100}, {A: ("127.0.0.1:1",)}, mirror={B: 50}),
        Route({A: 100}, {A: ("127.0.0.1:1",)}, mirror={A: 0}),
        Route({A: 100}, {A: ("127.0.0.1:1",)}, matches=((Match(header="x-try"), B),)),
        Route({A: 100}, {A: ("127.0.0.1:1",)}, affinity=Key(header="x-user"), salt="a b"),
    ],
)
def test_an_impossible_table_is_refused_and_changes_nothing(subject: Subject, route: Route) -> None:
    """Weights that don't sum to 100, or a served or mirrored release without endpoints, are refused."""
    table = {"one": Route({A: 100}, {A: subject.a})}
    subject.router.apply(table)
    with pytest.raises(Refused):
        subject.router.apply({"one": route})
    assert subject.router.read() == table
