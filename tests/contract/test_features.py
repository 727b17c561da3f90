"""The online store, its writing and its reading side: the same of a file and of a Redis."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.planes import eventually
from tests.stores import needs_redis, running_redis
from tidegate import config, materializing, wiring
from tidegate.adapters.features import RedisFeatures, SqliteFeatures
from tidegate.errors import ConfigError, Fatal, NoData, PlatformError, Unreachable
from tidegate.serving import online, redis_link
from tidegate.serving.redis_link import CONNECTIONS, Away, Link


class Sides(NamedTuple):
    """One store: its address, and what writes into it."""

    address: str
    writer: SqliteFeatures | RedisFeatures

    def served(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """What a service reads, by a connection of its own."""

        async def read() -> Sequence[bytes | None]:
            store = online.store(self.address, timeout=10.0)
            try:
                return await store.get(keys)
            finally:
                store.close()

        return asyncio.run(read())


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as made:
        yield made.url


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sides]:
    if request.param == "sqlite":
        made = Sides(f"sqlite:///{tmp_path / 'features.db'}", SqliteFeatures(tmp_path / "features.db"))
    else:
        address = request.getfixturevalue("redis")
        made = Sides(address, RedisFeatures(address))
        made.writer._redis.flushdb()
    yield made
    made.writer.close()


def values(**shares: float) -> dict[str, bytes]:
    return {f"carrier:{name}:late": str(share).encode() for name, share in shares.items()}


def test_what_is_written_is_what_services_read(sides: Sides) -> None:
    """All keys of a request come back in its order, by both sides, and None for what is not known."""
    sides.writer.write("a", values(UA=0.25, AA=0.5), 60)
    keys = ["carrier:AA:late", "carrier:XX:late", "carrier:UA:late"]
    assert list(sides.served(keys)) == [b"0.5", None, b"0.25"]
    found = sides.writer.read(keys)
    assert {key: one.value for key, one in found.items()} == {keys[0]: b"0.5", keys[2]: b"0.25"}
    assert all(50 < one.left <= 60 for one in found.values())


def test_what_ran_out_is_not_there(sides: Sides) -> None:
    """A value is served until its time-to-live is over, and then by neither side."""
    sides.writer.write("a", values(UA=0.25), 0.05)
    sides.writer.write("b", values(AA=0.5), 60)
    keys = ["carrier:UA:late", "carrier:AA:late"]
    eventually(lambda: list(sides.served(keys)) == [None, b"0.5"], seconds=30)
    assert list(sides.writer.read(keys)) == [keys[1]]


def test_a_run_replaces_all_of_the_one_before(sides: Sides) -> None:
    """What the same owner wrote before and not again is gone; the same run again changes nothing."""
    sides.writer.write("a", values(UA=0.25, AA=0.5), 60)
    sides.writer.write("b", values(DL=0.1), 60)
    for removed in (1, 0):
        assert sides.writer.write("a", values(UA=0.3, B6=0.2), 60) == removed
        found = sides.served([f"carrier:{name}:late" for name in ("UA", "AA", "B6", "DL")])
        assert list(found) == [b"0.3", None, b"0.2", b"0.1"]


def test_adding_leaves_what_is_there(sides: Sides) -> None:
    """Without `replace` an owner's older values stay, however many parts the new ones go in."""
    sides.writer.write("a", values(UA=0.25), 60, replace=False)
    many = {f"prediction:r:{number}": b"{}" for number in range(12_000)}
    assert sides.writer.write("a", many, 60, replace=False) == 0
    assert list(sides.served(["carrier:UA:late", "prediction:r:0", "prediction:r:11999"])) == [
        b"0.25", b"{}", b"{}",
    ]  # fmt: skip


def test_a_run_that_fails_midway_changes_nothing(tmp_path: Path) -> None:
    """A value that can't be stored leaves all of the run before as it was."""
    store = SqliteFeatures(tmp_path / "features.db")
    store.write("a", values(UA=0.25), 60)
    with pytest.raises(PlatformError):
        store.write("a", {"carrier:UA:late": b"0.3", "carrier:AA:late": object()}, 60)  # type: ignore[dict-item]
    assert store.read(["carrier:UA:late"])["carrier:UA:late"].value == b"0.25"
    store.close()


def test_a_file_that_breaks_or_comes_later_is_missed_not_raised(tmp_path: Path) -> None:
    """No file, a broken one and then a sound one: Away, Away, values, without a restart."""
    path = tmp_path / "features.db"
    store = online.SqliteStore(str(path))

    async def read() -> Sequence[bytes | None] | None:
        try:
            return await store.get(["carrier:UA:late"])
        except Away:
            return None

    assert asyncio.run(read()) is None
    path.write_bytes(b"no database at all" * 100)
    assert asyncio.run(read()) is None
    path.unlink()
    writer = SqliteFeatures(path)
    writer.write("a", values(UA=0.25), 60)
    eventually(lambda: asyncio.run(read()) == [b"0.25"], seconds=30)
    writer.close()
    for left in tmp_path.glob("features.db*"):
        left.unlink()
    writer.write("a", values(UA=0.75), 60)
    eventually(lambda: asyncio.run(read()) == [b"0.75"], seconds=30)
    store.close()
    writer.close()


def test_a_service_does_not_write_into_the_file(tmp_path: Path) -> None:
    """The reading side's connection is read-only."""
    SqliteFeatures(tmp_path / "features.db").write("a", values(UA=0.25), 60)
    store = online.SqliteStore(str(tmp_path / "features.db"))
    asyncio.run(store.get(["a"]))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._connection.execute("DELETE FROM entries")  # type: ignore[union-attr]
    store.close()


def test_a_redis_that_is_not_there_is_unreachable() -> None:
    """The toolkit says so and names the address, without the password."""
    store = RedisFeatures("redis://:secret@127.0.0.1:1/0")
    for asked in (lambda: store.read(["a:b:c"]), lambda: store.write("a", values(UA=1), 60)):
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1") as told:
            asked()
        assert "secret" not in str(told.value)


# ---------------------------------------------------------------- a Redis, asked by services
@pytest.mark.parametrize("url", ["http://host", "redis://", "host:6379", "", "redis://host/one"])
def test_what_is_no_address_of_redis_is_refused(url: str) -> None:
    """Another scheme or no host at all is refused when the service starts, not at the first request."""
    with pytest.raises(ValueError, match="redis://host"):
        Link(url, 1.0)


@pytest.mark.parametrize("said", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR no\r\n", b"*1\r\n"])
def test_a_server_that_is_silent_or_no_redis_is_away(said: bytes | None) -> None:
    """No answer in time, nonsense, a refusal or half an answer is Away, and never a wait without end."""

    async def ask() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            if said is not None:
                writer.write(said)
            await reader.read()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Link(f"redis://127.0.0.1:{port}/0", 0.2)
        async with asyncio.timeout(30):
            with pytest.raises(Away):
                await client.ask("MGET", "a")
        client.close()
        server.close()

    asyncio.run(ask())


def test_one_that_is_away_is_asked_by_one_and_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is away requests fail without asking; after each pause, twice as long, one of them asks."""
    monkeypatch.setattr(redis_link, "PAUSES", (100.0, 5000.0))  # so that none is over by itself

    async def ask() -> None:
        asked = 0

        def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        client = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", 10.0)

        async def many() -> int:
            before = asked
            told = await asyncio.gather(*(client.ask("GET", "a") for _ in range(200)), return_exceptions=True)
            assert {type(one) for one in told} == {Away}
            return asked - before

        assert 1 <= await many() <= 2 * CONNECTIONS  # the client looks twice
        paused = []
        for _ in range(10):
            assert await many() == 0
            paused.append(client._pause)
            client._until = asyncio.get_running_loop().time()  # the pause is over
            assert 1 <= await many() <= 2
        assert paused == [min(100.0 * 2**number, 5000.0) for number in range(1, 11)]
        client.close()
        server.close()

    asyncio.run(ask())


@needs_redis
def test_many_at_once_get_their_own_answers_by_few_connections(redis: str) -> None:
    """A thousand requests in flight each get their own answer; a caller that gives up confuses nobody."""

    async def ask() -> None:
        client = Link(redis.removesuffix("/0") + "/3", 30.0)
        await client.ask("FLUSHDB")
        await asyncio.gather(*(client.ask("SET", f"k{n}", n) for n in range(1000)))
        asked = [asyncio.ensure_future(client.ask("MGET", f"k{n}", "none")) for n in range(1000)]
        await asyncio.sleep(0)
        asked[3].cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [one for n, one in enumerate(found) if n != 3] == [
            [str(n).encode(), None] for n in range(1000) if n != 3
        ]
        listed = (await client.ask("CLIENT", "LIST")).splitlines()
        assert sum(b" db=3 " in line for line in listed) <= CONNECTIONS
        client.close()

    asyncio.run(ask())


@needs_redis
@pytest.mark.parametrize("command", [("BLPOP", "none", "0"), ("GET", "kind"), ("NONSENSE",)])
def test_one_that_answers_others_is_not_away(command: tuple[str, ...], redis: str) -> None:
    """A command that takes too long, or is refused, costs itself; what others ask goes on being answered."""

    async def ask() -> None:
        client = Link(redis, 0.2)
        await client.ask("DEL", "kind")
        await client.ask("RPUSH", "kind", "no text")
        failing = asyncio.ensure_future(client.ask(*command))
        async with asyncio.timeout(30):
            while not failing.done():
                await client.ask("SET", "answered", "1")
            with pytest.raises(Away):
                await failing
            assert await client.ask("GET", "answered") == b"1"
        client.close()

    asyncio.run(ask())


@needs_redis
def test_what_came_while_the_loop_was_busy_is_in_time(redis: str) -> None:
    """An answer that lay unread since the loop computed something is no failure of the store."""

    async def ask() -> None:
        client = Link(redis, 0.05)
        async with asyncio.timeout(30):
            while await _missed(client):
                pass
            asked = asyncio.ensure_future(client.ask("GET", "a"))
            while not client._redis.connection_pool._in_use_connections:
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # it is sent
            time.sleep(1.0)
            await asked
        client.close()

    asyncio.run(ask())


async def _missed(client: Link) -> bool:
    try:
        await client.ask("PING")
    except Away:
        return True
    return False


# ---------------------------------------------------------------- where it lies, and what goes in
@pytest.mark.parametrize("address", ["mysql://host", "features.db", "sqlite:///", "redis://", "redis:///0"])
def test_an_address_of_no_store_is_refused_by_name(address: str, tmp_path: Path) -> None:
    """What is misspelt in platform.yaml is told, with the form that is meant."""
    spec = config.Platform(stores=config.StoresSpec(features=address))
    with pytest.raises(ConfigError, match="no feature store"):
        wiring.features(spec, config.Home(tmp_path))


def room(folder: Path, body: str) -> Path:
    package = folder / "models" / "toy_online"
    package.mkdir(parents=True)
    (package / "online.py").write_text(f"from tidegate.materializing import Snapshot\n{body}\n")
    return folder


@pytest.mark.parametrize(
    ("body", "error", "problem"),
    [
        ("def values(as_of): return Snapshot(1.0, {}, 60)", NoData, "nothing is known"),
        ("def values(as_of): return Snapshot(1.0, {'a:b': 1.0}, 60)", Fatal, "entity_type:entity_id"),
        ("def values(as_of): return Snapshot(1.0, {'a:b:c': float('nan')}, 60)", Fatal, "finite"),
        ("value = 1", Fatal, "values"),
    ],
)
def test_a_model_that_says_nothing_sound_changes_nothing(
    body: str, error: type[Exception], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No values, a key of another form, a number that is none: nothing is stored, and it is told why."""
    found = _module(monkeypatch, body)
    monkeypatch.setattr(materializing.importlib, "import_module", lambda name: found)  # type: ignore[attr-defined]
    with pytest.raises(error, match=problem):
        materializing.snapshot(room(tmp_path, body), "toy_online", None)


def _module(monkeypatch: pytest.MonkeyPatch, body: str) -> object:
    names: dict[str, Callable[..., object]] = {"Snapshot": materializing.Snapshot}
    exec(body, names)
    return type("module", (), {name: staticmethod(f) for name, f in names.items() if name == "values"})


def test_a_model_without_online_features_says_so(tmp_path: Path) -> None:
    """No models/<package>/online.py is told as that."""
    with pytest.raises(NoData, match=r"online\.py"):
        materializing.snapshot(tmp_path, "toy", None)


def test_a_snapshot_is_stored_by_owner_and_counted_by_feature(tmp_path: Path) -> None:
    """Values become JSON; how many of each feature there are is told, and what went since the last run."""
    store = SqliteFeatures(tmp_path / "features.db")
    first = materializing.Snapshot(5.0, {"carrier:UA:late": 0.1 + 0.2, "route:A-B:late": 1.0}, 60)
    done = materializing.store(store, "toy", first)
    assert done == materializing.Stored(5.0, 2, 0, {"carrier:late": 1, "route:late": 1})
    assert float(store.read(["carrier:UA:late"])["carrier:UA:late"].value) == 0.1 + 0.2
    later = materializing.Snapshot(6.0, {"carrier:UA:late": 0.5}, 60)
    assert materializing.store(store, "toy", later).removed == 1
    store.close()
