"""What a request does not say: looked up in one round trip, and never a failed request because of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import msgspec
import numpy as np
import pytest

from tests.builders import flight_row
from tests.planes import eventually
from tests.service.running import Built, build, free_port, ready, start
from tests.stores import needs_redis, running_redis
from tidegate import precomputing
from tidegate.adapters.features import SqliteFeatures
from tidegate.errors import Fatal, NoData
from tidegate.serving import Lookup, Precomputed, online
from tidegate.serving.engine import Call, Engine
from tidegate.serving.redis_link import Away
from tidegate.serving.settings import Settings

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Lately(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked up."""

    mine: Share | None = None
    yours: Share | None = None


class Asked(msgspec.Struct, frozen=True):
    """A request."""

    who: str | None = "UA"
    note: str | None = None
    lately: Lately | None = None


class Said(msgspec.Struct):
    """An answer."""

    sum: float


class Shelf:
    """A store in memory; `away` answers nothing."""

    def __init__(self, **values: bytes) -> None:
        self.values = {name.replace("__", ":"): value for name, value in values.items()}
        self.asked: list[Sequence[str]] = []
        self.away = False

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return values."""
        self.asked.append(list(keys))
        if self.away:
            raise Away("gone")
        return [self.values.get(key) for key in keys]

    def close(self) -> None:
        """Do nothing."""


KEYS = {"mine": "one:{who}:mine", "yours": "two:{who}-x:yours"}


def declared(**changes: Any) -> Any:
    rules = {"online": Lookup("lately", KEYS), "precomputed": Precomputed("{who}", unless=("note",))}
    return SimpleNamespace(request=Asked, response=Said, feature_names=("mine", "yours"), **rules | changes)


def completed(
    shelf: Shelf, request: Asked, release: str = "r1", call: Call | None = None, **changes: Any
) -> tuple[Any, Any, online.Lookups]:
    found = online.Lookups(declared(**changes), shelf, release)
    request, answer = asyncio.run(found.complete(call or Call("id", 0.0), request))
    return request, answer, found


def test_all_of_a_request_is_one_round_trip() -> None:
    """Both features and the answer made beforehand are asked for at once, by the request's own fields."""
    shelf = Shelf(one__UA__mine=b"0.25", two__UA_x__yours=b"0.5")
    shelf.values["two:UA-x:yours"] = b"0.5"
    request, answer, found = completed(shelf, Asked())
    assert shelf.asked == [["one:UA:mine", "two:UA-x:yours", "prediction:r1:UA"]]
    assert (request.lately, answer) == (Lately(0.25, 0.5), None)
    assert (found.hits, found.missing) == ({"mine": 1, "yours": 1}, {"mine": 0, "yours": 0})


def test_what_a_request_brings_along_is_its_own() -> None:
    """A request that carries the field keeps it, nulls and all, and nothing is looked up for it."""
    shelf = Shelf(one__UA__mine=b"0.25")
    request, _, found = completed(shelf, Asked(lately=Lately(None, 0.75), note="x"))
    assert (request.lately, shelf.asked) == (Lately(None, 0.75), [])
    assert sum(found.missing.values()) == 0


def test_missing_ones_are_counted_by_feature_and_follow_their_rule() -> None:
    """What the store does not have is the declared default, null where none is, and counted by its name."""
    rule = Lookup("lately", KEYS, defaults={"yours": 0.2})
    request, _, found = completed(Shelf(one__UA__mine=b"0.25"), Asked(), online=rule)
    assert request.lately == Lately(0.25, 0.2)
    assert found.missing == {"mine": 0, "yours": 1}


def test_a_store_that_is_away_is_all_missing() -> None:
    """No answer of the store is no failed request: everything is missing, and the failure is counted."""
    shelf = Shelf()
    shelf.away = True
    request, answer, found = completed(shelf, Asked())
    assert (request.lately, answer, found.errors) == (Lately(), None, 1)
    assert found.missing == {"mine": 1, "yours": 1}


@pytest.mark.parametrize("value", [b"1.5", b'"much"', b"NaN", b"{", b"", b"\xff", b"[0.1]"])
def test_a_spoilt_value_is_a_missing_one(value: bytes) -> None:
    """A value out of the field's bounds, of another type or no JSON never reaches the model."""
    request, _, found = completed(Shelf(one__UA__mine=value), Asked())
    assert request.lately == Lately()
    assert (found.spoilt, found.missing["mine"]) == (1, 1)


def test_nobody_named_is_nobody_looked_up() -> None:
    """A field of a key that is null asks for nothing: that is the request's gap, and not the store's."""
    shelf = Shelf(one__None__mine=b"0.1")
    request, answer, found = completed(shelf, Asked(who=None))
    assert (request.lately, answer, shelf.asked) == (Lately(), None, [])
    assert sum(found.missing.values()) == 0


@pytest.mark.parametrize("call", [Call("id", 0.0, warm=True), Call("id", 0.0, offline=True)])
def test_warm_up_and_offline_ask_nothing(call: Call) -> None:
    """A warm-up must not depend on the store, and who says so gets an answer of the request alone."""
    shelf = Shelf(one__UA__mine=b"0.25", prediction__r1__UA=b'{"sum": 7.0}')
    request, answer, _ = completed(shelf, Asked(), call=call)
    assert (request, answer, shelf.asked) == (Asked(), None, [])


def test_an_answer_is_never_another_releases() -> None:
    """What one release answered beforehand is known to it alone; without a release nothing is."""
    shelf = Shelf(prediction__r1__UA=b'{"sum": 7.0}')
    assert completed(shelf, Asked())[1] == {"sum": 7.0}
    assert completed(shelf, Asked(), release="r2")[1] is None
    assert completed(shelf, Asked(), release="")[1] is None


def test_a_request_that_knows_more_is_computed() -> None:
    """A field that the answer made beforehand does not know of makes the model compute."""
    shelf = Shelf(prediction__r1__UA=b'{"sum": 7.0}')
    assert completed(shelf, Asked(note="news"))[1] is None
    assert "prediction:r1:UA" not in shelf.asked[0]


@pytest.mark.parametrize("value", [b"{}", b'{"sum": "x"}', b"7", b"{"])
def test_a_spoilt_answer_is_computed_anew(value: bytes) -> None:
    """An answer that is not what the service promises is not given."""
    _, answer, found = completed(Shelf(prediction__r1__UA=value), Asked())
    assert (answer, found.spoilt, found.known) == (None, 1, 0)


def test_the_engine_counts_and_tells_where_an_answer_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer made beforehand is counted as a prediction, its source is told, and nothing is computed."""
    monkeypatch.setenv("TIDEGATE_RELEASE", "r1")
    instance = SimpleNamespace(
        features=lambda asked: np.array([[asked.lately.mine or 0.0, asked.lately.yours or 0.0]]),
        predict=lambda rows: {"sum": rows.sum(axis=1)},
    )
    engine = Engine(SimpleNamespace(name="toy", inner=declared(score="sum"), instance=instance), Settings())
    shelf = Shelf(one__UA__mine=b"0.25", prediction__r1__AA=b'{"sum": 0.5}')
    engine.online = online.Lookups(declared(), shelf, "r1")
    said = []
    for who in ("UA", "AA"):
        call = Call("id", 0.0)
        said.append((asyncio.run(engine.one(call, Asked(who=who))), call.source))
    assert said == [({"sum": 0.25}, "computed"), ({"sum": 0.5}, "precomputed")]
    assert json.loads(engine.measuring.document())["predictions"] == 2


def test_an_address_of_no_store_stops_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service must not run without its features by mistake: a misspelt address is told at the start."""
    monkeypatch.setenv("TIDEGATE_FEATURES", "rediss//host")
    with pytest.raises(RuntimeError, match="TIDEGATE_FEATURES"):
        online.lookups(declared(), "r1", 0.1)
    monkeypatch.delenv("TIDEGATE_FEATURES")
    assert online.lookups(declared(), "r1", 0.1) is None


# ---------------------------------------------------------------- a service as it runs
@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("bento"))


def bare(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in flight_row(**changes).items() if key != "recent"}


class Running:
    """One process of the Bento."""

    def __init__(self, built: Built, features: str) -> None:
        self.port = free_port()
        self.process = start(built, self.port, TIDEGATE_FEATURES=features)
        assert ready(self.process, self.port), self.process.stdout and self.process.stdout.read().decode()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def recent(self, **headers: str) -> list[float | None]:
        """What the model would see of the store."""
        found = self.client.post("/features", json=bare(), headers=headers).json()["features"]
        return [found[f"recent_{name}"] for name in ("carrier_late", "route_late", "plane_late")]

    def counted(self, name: str) -> dict[str, float]:
        """A metric by its label."""
        lines = [x for x in self.client.get("/metrics").text.splitlines() if x.startswith(name + "{")]
        return {line.partition("{")[2].rpartition("}")[0]: float(line.split()[-1]) for line in lines}

    def end(self) -> None:
        """End it."""
        self.client.close()
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def embedded(
    built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, SqliteFeatures]]:
    path = tmp_path_factory.mktemp("store") / "features.db"
    store = SqliteFeatures(path)
    store.write("features", {"carrier:UA:late": b"0.25", "plane:N14228:late": b"0.5"}, 3600)
    running = Running(built, f"sqlite:///{path}")
    yield running, store
    running.end()
    store.close()


def test_a_running_service_reads_its_file(embedded: tuple[Running, SqliteFeatures]) -> None:
    """What lies in the file is what the model sees, the rest is missing and counted by its name."""
    running, store = embedded
    assert running.recent() == [0.25, None, 0.5]
    assert running.recent(**{"x-tidegate-offline": "1"}) == [None] * 3
    missing = running.counted("tidegate_online_missing_total")
    assert missing['service="flight_delay",feature="route_late"'] == 1
    store.write("route", {"route:EWR-IAH:late": b"0.75"}, 3600)
    assert running.recent() == [0.25, 0.75, 0.5]


def test_precomputed_answers_are_the_releases_own(
    built: Built, embedded: tuple[Running, SqliteFeatures], tmp_path: Path
) -> None:
    """Answers made beforehand by the Bento itself are given to who names the flight and no more."""
    running, store = embedded
    rows = tmp_path / "rows.jsonl"
    known, unknown = flight_row(flight=1), bare(flight=2, weather=None)
    bad = json.dumps({**known, "origin": 7})
    rows.write_text(json.dumps(known) + "\n" + bad + "\n")
    made = precomputing.compute(built.home, built.record, rows, "")
    assert list(made.answers) == [f"prediction:{built.record.id}:UA1:EWR-IAH:2013-07-04T17:45"]
    assert "row 2: origin" in made.refused
    precomputing.store(store, built.record, made, 3600)

    asked = bare(flight=1, weather=None)
    answers = [running.client.post("/predict", json=row).json() for row in (asked, known, unknown)]
    assert [answer["source"] for answer in answers] == ["precomputed", "computed", "computed"]
    assert len({answer["probability"] for answer in answers}) == 1
    assert answers[0].keys() == answers[1].keys()
    offline = running.client.post("/predict", json=asked, headers={"x-tidegate-offline": "1"}).json()
    assert offline["source"] == "computed"


def test_a_release_that_makes_no_answers_beforehand_says_so(built: Built, tmp_path: Path) -> None:
    """A Bento that is not there, or rows of which there are none, are told and store nothing."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    with pytest.raises(NoData, match="has no rows"):
        precomputing.requests(tmp_path, "flight_delay", rows, tmp_path / "out")
    with pytest.raises(Fatal):
        precomputing.compute(tmp_path, built.record, rows, "")


@needs_redis
def test_a_redis_that_is_killed_under_load_fails_no_request(built: Built, tmp_path: Path) -> None:
    """While Redis is killed and begun again, every request is answered 200, and its values come back."""
    statuses: list[int] = []
    ended = threading.Event()
    with running_redis(tmp_path) as redis:
        running = Running(built, redis.url)

        def load() -> None:
            with httpx.Client(base_url=str(running.client.base_url), timeout=30) as client:
                while not ended.is_set():
                    statuses.append(client.post("/predict", json=bare()).status_code)

        def fill() -> None:
            from tidegate.adapters.features import RedisFeatures

            store = RedisFeatures(redis.url)
            store.write("features", {"carrier:UA:late": b"0.25"}, 3600)
            store.close()

        threads = [threading.Thread(target=load) for _ in range(4)]
        try:
            fill()
            eventually(lambda: running.recent()[0] == 0.25, seconds=30)
            for thread in threads:
                thread.start()
            eventually(lambda: len(statuses) > 50, seconds=30)
            redis.kill()
            eventually(lambda: running.recent()[0] is None, seconds=30)
            during = len(statuses)
            eventually(lambda: len(statuses) > during + 50, seconds=30)
            redis.start()
            fill()
            eventually(lambda: running.recent()[0] == 0.25, seconds=30)
        finally:
            ended.set()
            for thread in threads:
                thread.join(30)
            counted = running.counted("tidegate_online_errors_total")
            running.end()
    assert set(statuses) == {200}
    assert sum(counted.values()) > 0
