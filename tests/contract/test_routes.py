"""What Envoy does with a route's mirror, matches, affinity and journal: what callers and checks rely on."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.planes import Plane, eventually, plane_up, tiny_servers
from tests.recorders import Release, recorder
from tidegate import planes
from tidegate.core.plan import Key, Match
from tidegate.files import write_atomic
from tidegate.machine import unix_http
from tidegate.machine.processes import free_ports
from tidegate.ports import Counters, Route

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
USER, SID = Key(header="X-User"), Key(cookie="sid")


@dataclass(frozen=True)
class Answer:
    """What a caller got."""

    status: int
    release: str  # by the header
    headers: dict[str, str]
    text: str


@dataclass
class Room:
    """A plane and two releases of model `one`: A is stable, B is tried."""

    plane: Plane
    a: Release
    b: Release

    @property
    def route(self) -> Route:
        """Everything to A, B warm."""
        return Route({A: 100, B: 0}, {A: self.a.at, B: self.b.at})

    def serve(self, route: Route) -> None:
        """Serve this route from zero: clusters made anew count anew."""
        self.plane.router().apply({})
        self.plane.router().apply({"one": route})
        self.a.received.clear()
        self.b.received.clear()

    def ask(self, callers: Sequence[Mapping[str, str]], path: str = "/one/predict") -> list[Answer]:
        """Send one request a caller, over one connection; each caller is the headers that it sends."""
        found = []
        with closing(http.client.HTTPConnection("127.0.0.1", self.plane.port, timeout=10)) as connection:
            for headers in callers:
                connection.request("POST", path, '{"row": 1}', dict(headers))
                answer = connection.getresponse()
                text = answer.read().decode()
                told = {key.lower(): value for key, value in answer.headers.items()}
                found.append(Answer(answer.status, told.get("x-tidegate-release", ""), told, text))
        return found

    def counted(self, release: str) -> Counters:
        """What the metrics say of a release."""
        return self.plane.metrics().read()["one", release]

    def journal(self) -> list[dict[str, Any]]:
        """Every line that was journaled, this plane's whole life long."""
        path = self.plane.layout.envoy / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane_up(tmp_path_factory.mktemp("routes")) as started:
        yield started


@pytest.fixture
def room(plane: Plane) -> Iterator[Room]:
    with recorder(A) as a, recorder(B) as b:
        yield Room(plane, a, b)
        plane.router().apply({})


def _id(number: int, name: str = "r") -> dict[str, str]:
    return {"x-request-id": f"{name}-{number}"}


def _within(seen: int, of: int, share: float) -> None:
    """A count is what chance allows: within five standard deviations (wrong once in 1.7 million runs)."""
    assert abs(seen - of * share) <= 5 * (of * share * (1 - share)) ** 0.5


# ---------------------------------------------------------------- weights
def test_weights_are_kept(room: Room) -> None:
    """The share of each release is its weight, as well as chance allows, in answers and in the counts."""
    room.serve(replace(room.route, weights={A: 80, B: 20}))
    answers = Counter(answer.release for answer in room.ask([{}] * 2000))
    _within(answers[B], 2000, 0.2)
    assert {r: room.counted(r).requests for r in (A, B)} == answers


@pytest.mark.parametrize("path", ["measures", "metrics", "metrics/", "metrics?x=1", "%6detrics", "/metrics"])
def test_what_a_release_counts_is_told_to_no_caller(room: Room, path: str) -> None:
    """However it is written, by no route: neither by weight, nor for who tries a release by hand."""
    room.serve(replace(room.route, matches=((Match(header="x-try"), B),)))
    answers = room.ask([{}, {"x-try": "1"}], f"/one/{path}")
    assert [answer.status for answer in answers] == [404, 404]
    assert room.a.received == room.b.received == []


def test_a_release_is_told_how_a_request_came(room: Room) -> None:
    """By its share of all, by a match, as a copy, or outside of an experiment; a caller can't say it."""
    from tidegate.serving.answered import arm

    def arms(server: Any) -> set[str]:
        return {arm({k.lower().encode(): v.encode() for k, v in r.headers.items()}) for r in server.received}

    match = (Match(header="x-try"), B)
    room.serve(replace(room.route, weights={A: 100}, mirror={B: 100}, matches=(match,)))
    room.ask([{"x-tidegate-arm": "forged"}])
    eventually(lambda: room.b.received)
    assert (arms(room.a), arms(room.b)) == ({"100%"}, {"copy"})
    room.b.received.clear()
    room.ask([{"x-try": "1"}])
    assert arms(room.b) == {"match"}
    room.b.received.clear()
    room.serve(replace(room.route, weights={A: 20, B: 80}))
    room.ask([{}] * 50)
    assert arms(room.b) == {"80%"}


# ---------------------------------------------------------------- mirror
def test_a_mirror_gets_every_request_and_answers_nobody(room: Room) -> None:
    """The tried release gets the same path, body and id; its answers, whatever they are, reach nobody."""
    room.serve(replace(room.route, mirror={B: 100}, journal=True))
    room.b.status = 500
    answers = room.ask([_id(n) for n in range(50)])
    assert {(a.status, a.release, a.text) for a in answers} == {(200, A, A)}
    eventually(lambda: len(room.b.received) == 50)
    assert sorted(room.b.ids()) == sorted(room.a.ids()) == sorted(f"r-{n}" for n in range(50))
    assert {(r.path, r.body, r.headers["x-tidegate-journal"]) for r in room.b.received} == {
        ("/predict", '{"row": 1}', "1")
    }


def test_what_is_mirrored_is_counted_for_the_mirror(room: Room) -> None:
    """Requests, errors and latencies of the copies are the tried release's; stable's are its own."""
    room.serve(replace(room.route, mirror={B: 100}))
    room.ask([{}] * 30)
    eventually(lambda: room.counted(B).requests == 30)
    room.b.status = 500
    room.ask([{}] * 10)
    eventually(lambda: (room.counted(B).requests, room.counted(B).errors) == (40, 10))
    eventually(lambda: room.counted(B).latency[-1:] == ((float("inf"), 40),))
    assert (room.counted(A).requests, room.counted(A).errors) == (40, 0)


def test_a_percentage_is_mirrored(room: Room) -> None:
    """Of 1,000 requests the mirror gets its share, as well as chance allows."""
    room.serve(replace(room.route, mirror={B: 30}))
    room.ask([{}] * 1000)
    eventually(lambda: (room.counted(B).active, room.counted(B).requests) == (0, len(room.b.received)))
    _within(len(room.b.received), 1000, 0.3)


def test_a_dead_mirror_fails_nobody_and_is_charged(room: Room) -> None:
    """Nobody listens where the copies go: every caller is answered, every copy is an error."""
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    room.serve(Route({A: 100, B: 0}, {A: room.a.at, B: (dead,)}, mirror={B: 100}))
    answers = room.ask([{}] * 40)
    assert {(a.status, a.release) for a in answers} == {(200, A)}
    eventually(lambda: (room.counted(B).requests, room.counted(B).errors) == (40, 40))


def test_a_copy_is_not_tried_again(room: Room) -> None:
    """Unlike a caller's request, a copy whose replica was just killed is an error: it has one try."""
    with tiny_servers() as servers:
        replicas = servers.start(B, 2)
        room.serve(Route({A: 100, B: 0}, {A: room.a.at, B: replicas}, mirror={B: 100}))
        servers.kill(replicas[0])
        room.ask([{}] * 20)
        eventually(lambda: room.counted(B).requests == 20)
        assert room.counted(B).errors > 0


def test_a_mirror_that_hangs_holds_nobody_up(room: Room) -> None:
    """While not one of the copies was answered, every caller was."""
    room.serve(replace(room.route, mirror={B: 100}))
    room.b.answering.clear()
    assert {a.status for a in room.ask([{}] * 40)} == {200}
    eventually(lambda: len(room.b.received) == 40)
    assert (room.counted(B).active, room.counted(B).requests) == (40, 0)
    room.b.answering.set()
    eventually(lambda: (room.counted(B).active, room.counted(B).requests) == (0, 40))


# ---------------------------------------------------------------- matches
BY_HAND = (
    (Match(header="X-Try", value="b (1)"), B),
    (Match(header="x-any"), B),
    (Match(cookie="try", value='a.b*"\\ c'), B),
    (Match(cookie="any"), B),
)


@pytest.mark.parametrize(
    ("sent", "release"),
    [
        ({"x-try": "b (1)"}, B),
        ({"x-try": "b (2)"}, A),
        ({"x-any": "whatever"}, B),
        ({"cookie": 'a=1; try=a.b*"\\ c; b=2'}, B),
        ({"cookie": 'try=aXb*"\\ c'}, A),
        ({"cookie": 'retry=a.b*"\\ c'}, A),
        ({"cookie": "x=1; any="}, B),
        ({"cookie": "many=1"}, A),
        ({}, A),
    ],
)
def test_a_match_leads_to_the_tried_release_uncounted(room: Room, sent: dict[str, str], release: str) -> None:
    """Who asks for it by header or cookie gets the release of weight 0, and no check counts it."""
    room.serve(replace(room.route, matches=BY_HAND))
    assert {(a.status, a.release, a.text) for a in room.ask([sent] * 3)} == {(200, release, release)}
    counted = {r: room.counted(r).requests for r in (A, B)}
    assert counted == {A: 3 if release == A else 0, B: 0}


def test_a_match_is_not_mirrored_nor_journaled(room: Room) -> None:
    """A request by hand is an aside: no copy of it is made and nothing is written down."""
    room.serve(replace(room.route, matches=BY_HAND, mirror={B: 100}, journal=True))
    room.ask([{"x-any": "1", **_id(n, "hand")} for n in range(5)] + [_id(1, "other")])
    eventually(lambda: any(line["id"] == "other-1" for line in room.journal()))
    eventually(lambda: len(room.b.received) == 6)
    assert [line for line in room.journal() if line["id"].startswith("hand")] == []
    assert "x-tidegate-journal" not in room.b.received[0].headers


def test_a_match_works_before_any_release_is_served(room: Room) -> None:
    """Even while nothing has a weight, the release can be tried by hand."""
    room.serve(Route({}, {B: room.b.at}, matches=BY_HAND))
    assert [a.status for a in room.ask([{"x-any": "1"}, {}])] == [200, 503]


# ---------------------------------------------------------------- affinity
def _users(key: Key, count: int) -> list[dict[str, str]]:
    if key.header:
        return [{"x-user": f"user-{n}"} for n in range(count)]
    return [{"cookie": f"theme=dark{n % 3}; sid=user-{n}; n={n}"} for n in range(count)]


def _side(room: Room, key: Key, weight: int, salt: str = B, count: int = 400) -> set[int]:
    """Which users are on B's side."""
    route = Route({A: 100 - weight, B: weight}, room.route.endpoints, affinity=key, salt=salt)
    room.plane.router().apply({"one": route})
    answers = room.ask(_users(key, count))
    assert {a.status for a in answers} == {200}
    return {n for n, answer in enumerate(answers) if answer.release == B}


@pytest.mark.parametrize("key", [USER, SID])
def test_nobody_leaves_the_tried_release_as_it_grows(room: Room, key: Key) -> None:
    """At each weight the share is kept, and whoever was on its side stays there; falling is the reverse."""
    sides = {weight: _side(room, key, weight) for weight in (5, 20, 50, 90, 20)}
    for weight, side in sides.items():
        _within(len(side), 400, weight / 100)
    assert sides[5] <= sides[20] <= sides[50] <= sides[90]


@pytest.mark.parametrize("key", [USER, SID])
def test_another_salt_is_an_independent_split(room: Room, key: Key) -> None:
    """Of those on the one experiment's side, half are on the next one's, as if drawn anew."""
    first, second = _side(room, key, 50, B), _side(room, key, 50, "cccccccccccc")
    _within(len(first & second), len(first), 0.5)
    _within(len(second - first), 400 - len(first), 0.5)


def test_a_cookie_alone_decides(room: Room) -> None:
    """Other cookies, however they change, move nobody; nor does the order in which they are sent."""
    room.serve(Route({A: 50, B: 50}, room.route.endpoints, affinity=SID, salt=B))
    for n in range(20):
        sent = [f"sid=u{n}", f"a=1; sid=u{n}", f"a=2; sid=u{n}; b=3", f"b=4;sid=u{n}; xsid=zz"]
        assert len({a.release for a in room.ask([{"cookie": text} for text in sent])}) == 1


@pytest.mark.parametrize("without", [{}, {"x-user": ""}, {"cookie": "theme=dark"}, {"cookie": "sid="}])
def test_who_says_nothing_is_shared_out_by_chance(room: Room, without: dict[str, str]) -> None:
    """Requests without the key are split by weight one by one, not all sent to one side."""
    key = SID if "cookie" in without else USER
    room.serve(Route({A: 50, B: 50}, room.route.endpoints, affinity=key, salt=B))
    _within(sum(a.release == B for a in room.ask([without] * 200)), 200, 0.5)


def test_the_side_survives_a_new_envoy(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An Envoy that is started anew has every user where the one before had it."""
    with (
        plane_up(tmp_path_factory.mktemp("again")) as plane,
        recorder(A) as a,
        recorder(B) as b,
    ):
        room = Room(plane, a, b)
        before = _side(room, USER, 50), _side(room, SID, 50)
        planes.stop(plane.home, "staging")
        planes.up(plane.checkout, plane.home, "staging", agent=False)
        assert (_side(room, USER, 50), _side(room, SID, 50)) == before


# ---------------------------------------------------------------- journal
def _journaled(room: Room, name: str, count: int) -> list[dict[str, Any]]:
    def lines() -> list[dict[str, Any]]:
        return [line for line in room.journal() if line["id"].startswith(f"{name}-")]

    eventually(lambda: len(lines()) >= count)
    return lines()


@pytest.mark.parametrize("key", [USER, SID])
def test_an_experiment_is_journaled_by_unit(room: Room, key: Key) -> None:
    """One line a request: when, its id, who answered, how, how long, and whose it was."""
    name = "ab" + key.cookie
    room.serve(Route({A: 50, B: 50}, room.route.endpoints, affinity=key, salt=B, journal=True))
    callers = [{**user, **_id(n, name)} for n, user in enumerate(_users(key, 40))]
    answers = room.ask(callers)
    lines = {line["id"]: line for line in _journaled(room, name, 40)}
    assert len(lines) == 40
    for n, (caller, answer) in enumerate(zip(callers, answers, strict=True)):
        line = lines[f"{name}-{n}"]
        assert line["cluster"] == f"one|{answer.release}"
        assert line["unit"] == caller[key.header.lower() or "cookie"]
        assert line["status"] == 200
        assert isinstance(line["ms"], int)
        assert line["at"].endswith("Z")
    assert {"x-tidegate-journal", "x-tidegate-unit"} <= set(room.a.received[0].headers)


def test_who_takes_no_part_goes_to_stable(room: Room) -> None:
    """In an experiment, a request without the unit goes to stable; it is neither journaled nor counted."""
    room.serve(Route({A: 1, B: 99}, room.route.endpoints, affinity=USER, salt=B, journal=True))
    answers = room.ask([_id(n, "nobody") for n in range(20)] + [{"x-user": "u", **_id(1, "somebody")}])
    assert {a.release for a in answers[:20]} == {A}
    _journaled(room, "somebody", 1)
    assert [line for line in room.journal() if line["id"].startswith("nobody")] == []
    assert room.counted(A).requests + room.counted(B).requests == 1
    assert "x-tidegate-journal" not in room.a.received[0].headers


def test_what_fails_is_journaled_with_its_status(room: Room) -> None:
    """A release that answers 500, or is not there at all, has its lines like any other."""
    room.serve(replace(room.route, journal=True))
    room.a.status = 500
    room.ask([_id(1, "failed")])
    assert [line["status"] for line in _journaled(room, "failed", 1)] == [500]
    dead = (f"127.0.0.1:{free_ports(1)[0]}",)
    room.serve(Route({A: 100}, {A: dead}, journal=True))
    room.ask([_id(1, "refused")])
    (line,) = _journaled(room, "refused", 1)
    assert (line["status"], line["cluster"]) == (503, f"one|{A}")


def test_a_retried_request_is_journaled_and_counted_once(room: Room) -> None:
    """With one of two replicas just killed each request is one line, one count and one 200."""
    with tiny_servers() as servers:
        replicas = servers.start(A, 2)
        room.serve(Route({A: 100}, {A: replicas}, journal=True))
        servers.kill(replicas[0])
        assert {a.status for a in room.ask([_id(n, "again") for n in range(20)])} == {200}
        assert len(_journaled(room, "again", 20)) == 20
    stats = unix_http.get(room.plane.layout.admin, "/stats?filter=one.*retry_success$").decode()
    assert int(stats.rsplit(":", 1)[1]) > 0
    assert (room.counted(A).requests, room.counted(A).errors) == (20, 0)


@pytest.mark.parametrize("path", ["metrics%2f", "measures%2F", "%2fmetrics", "x%2f..%2fmetrics", "%5cx"])
def test_no_slash_is_hidden_from_the_routes(room: Room, path: str) -> None:
    """A path that a release would read as another one than the router did reaches no release."""
    room.serve(room.route)
    (answer,) = room.ask([{}], f"/one/{path}")
    assert (answer.status, room.a.received) == (400, [])


def test_a_caller_cannot_speak_for_tidegate(room: Room) -> None:
    """A caller's own x-tidegate-* headers reach no release: they neither journal, nor name a unit."""
    room.serve(room.route)
    own = {"x-tidegate-journal": "1", "X-Tidegate-Unit": "me", "x-tidegate-warm": "1", **_id(1, "forged")}
    room.ask([{**own, "x-tidegate-arm": "forged"}, _id(2, "forged")])
    told = [(k, v) for r in room.a.received for k, v in r.headers.items() if k.startswith("x-tidegate-")]
    assert told == [("x-tidegate-arm", "100%")] * 2  # the router's own word
    room.serve(Route({A: 50, B: 50}, room.route.endpoints, affinity=USER, salt=B, journal=True))
    room.ask([{**own, "x-user": "u", **_id(3, "forged")}])
    (line,) = _journaled(room, "forged", 1)
    assert (line["id"], line["unit"]) == ("forged-3", "u")


def test_answers_tell_the_release_and_nothing_else_of_tidegate(room: Room) -> None:
    """Even if a release repeats what it was told, no other x-tidegate-* header reaches the caller."""
    room.a.told = {"x-tidegate-journal": "1", "x-tidegate-unit": "u", "x-tidegate-release": "forged"}
    room.serve(Route({A: 100, B: 0}, room.route.endpoints, affinity=USER, salt=B, journal=True))
    for answer in room.ask([{"x-user": "u"}, {}]):
        assert {k: v for k, v in answer.headers.items() if k.startswith("x-tidegate-")} == {
            "x-tidegate-release": A
        }


def test_the_journal_is_the_owners_alone(room: Room) -> None:
    """It holds what tells users apart, so nobody else on the machine may read it."""
    assert (room.plane.layout.envoy / "journal.jsonl").stat().st_mode & 0o077 == 0


def test_the_journal_can_be_begun_anew(room: Room) -> None:
    """Renamed, and Envoy told to reopen it: each request has its line in the old or the new file, once."""
    path = room.plane.layout.envoy / "journal.jsonl"
    old = path.with_name("journal.jsonl.old")
    room.serve(replace(room.route, journal=True))
    for n in range(3):
        room.ask([_id(n * 10 + i, "turn") for i in range(10)])
        if n == 1:
            path.rename(old)
            unix_http.post(room.plane.layout.admin, "/reopen_logs")
    eventually(lambda: path.is_file() and "turn-29" in path.read_text())
    lines = [json.loads(line) for file in (old, path) for line in file.read_text().splitlines()]
    found = [line["id"] for line in lines if line["id"].startswith("turn-")]
    assert sorted(found) == sorted(f"turn-{n}" for n in range(30))
    assert path.stat().st_mode & 0o077 == 0


# ---------------------------------------------------------------- drift
@pytest.mark.parametrize(
    ("was", "edited"),
    [
        ('"numerator": 40', '"numerator": 41'),
        ('"exact": "b (1)"', '"exact": "b (2)"'),
        ('"regex": ".+"', '"regex": ".*"'),
        ("|bbbbbbbbbbbb", "|other"),
        ('"value": "%REQ(x-user)%"', '"value": "%REQ(x-other)%"'),
        ('"timeout": "30s"', '"timeout": "31s"'),
    ],
)
def test_an_edit_by_hand_is_seen_and_put_right(room: Room, was: str, edited: str) -> None:
    """Whatever part of a route is edited, Envoy's own word differs from the table, and apply mends it."""
    router, path = room.plane.router(), room.plane.layout.envoy / "routes.json"
    route = replace(room.route, mirror={B: 40}, matches=BY_HAND, affinity=USER, salt=B, journal=True)
    room.serve(route)
    sound = path.read_text()
    assert was in sound
    write_atomic(path, sound.replace(was, edited))
    eventually(lambda: router.read() != {"one": route})
    router.apply({"one": route})
    assert router.read() == {"one": route}


# ---------------------------------------------------------------- load
class Callers:
    """Users who together send about 200 requests a second; `seen` counts (status or error)."""

    def __init__(self, port: int, callers: Sequence[dict[str, str]], rate: float = 200.0) -> None:
        self.seen: Counter[str] = Counter()
        self._stop = threading.Event()
        self._pause = len(callers) / rate
        self._threads = [threading.Thread(target=self._run, args=(port, sent)) for sent in callers]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, port: int, sent: dict[str, str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not self._stop.wait(self._pause):
            try:
                connection.request("POST", "/one/predict", "{}", sent)
                answer = connection.getresponse()
                answer.read()
                self.seen[str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[type(error).__name__] += 1
                connection.close()
        connection.close()


def test_no_request_fails_while_everything_changes(room: Room) -> None:
    """Mirrors, matches, affinities, journals and weights come and go under load: all are answered by 200."""
    plain, both = room.route, room.route.endpoints
    matched = replace(plain, matches=BY_HAND)
    steps: list[Callable[[], Route]] = [
        lambda: plain,
        lambda: replace(plain, mirror={B: 100}, journal=True),
        lambda: replace(matched, mirror={B: 50}, journal=True),
        lambda: matched,
        lambda: replace(matched, weights={A: 95, B: 5}, affinity=USER, salt=B),
        lambda: replace(matched, weights={A: 50, B: 50}, affinity=USER, salt=B, journal=True),
        lambda: replace(plain, weights={A: 0, B: 100}, affinity=SID, salt=B),
        lambda: Route({B: 100}, {B: both[B]}),
    ]
    room.serve(plain)
    callers = [{"x-user": f"u{n}"} for n in range(4)] + [{"x-any": "1"}, {"cookie": "sid=1"}, {}, {}]
    with Callers(room.plane.port, callers) as load:
        for _ in range(3):
            for step in steps:
                room.plane.router().apply({"one": step()})
                time.sleep(0.1)
    assert set(load.seen) == {"200"}
    assert load.seen["200"] > 100
