"""Kept answers: bounded, of one release, and no worse off without the Redis that shares them."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planes import eventually
from tests.service.running import free_port
from tidegate import config, wiring
from tidegate.errors import ConfigError
from tidegate.serving.cache import AnswerCache, Shared, answers
from tidegate.serving.engine import Call, Engine
from tidegate.serving.metrics import Registry
from tidegate.serving.settings import Cache, Settings

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


class Said(msgspec.Struct):
    """An answer of one number."""

    twice: float


def row(*values: float) -> Any:
    """Return features of one request."""
    return np.array([values], dtype=np.float32)


def ask(kept: AnswerCache, rows: Any) -> Any:
    """Return what is kept of features, in a loop of its own."""
    return asyncio.run(kept.get(rows))


# ---------------------------------------------------------------- in the process
@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), st.integers(1, 6))
def test_what_was_asked_for_last_is_kept(asked: list[tuple[bool, int]], entries: int) -> None:
    """Answers are those to the same features; at most so many are kept, the ones that were asked for last."""
    kept = AnswerCache(entries)
    model: dict[int, Any] = {}  # in the order of their last use
    for put, number in asked:
        if put:
            model.pop(number, None)
            model[number] = {"twice": 2.0 * number}
            kept.put(row(number), model[number])
            while len(model) > entries:
                del model[next(iter(model))]
        else:
            assert ask(kept, row(number)) == model.get(number)
            if number in model:
                model[number] = model.pop(number)
    assert len(kept._kept) == len(model) <= entries
    assert kept.hits + kept.misses == sum(not put for put, _ in asked)


@pytest.mark.parametrize(
    "other",
    [
        row(1.0, 3.0),
        row(1.0, float("nan")),
        np.array([[1.0, 2.0]], dtype=np.float64),
        np.array([[1.0], [2.0]], dtype=np.float32),
        np.array([1.0, 2.0], dtype=np.float32),
        np.array([[1.0, 2.0]], dtype=np.float32).view(np.int32),
    ],
)
def test_other_features_are_another_question(other: Any) -> None:
    """A bit, a type or a shape that differs is a miss."""
    kept = AnswerCache(8)
    kept.put(row(1.0, 2.0), {"twice": 2.0})
    assert ask(kept, row(1.0, 2.0)) == {"twice": 2.0}
    assert ask(kept, other) is None


@pytest.mark.parametrize("rows", [np.array([["a", None]], dtype=object), [[1.0, 2.0]]])
def test_features_without_bytes_of_their_own_are_not_kept(rows: Any) -> None:
    """Python's objects lie elsewhere: their place in memory says nothing about them."""
    kept = AnswerCache(8)
    kept.put(rows, {"twice": 2.0})
    assert ask(kept, rows) is None
    assert not kept._kept


def test_it_is_off_unless_settings_say_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entries, no cache, not even where the platform names a shared one."""
    monkeypatch.setenv("TIDEGATE_CACHE", "redis://127.0.0.1:1/0")
    assert answers(Cache(), "toy", {"release": "r", "model_version": "1"}, Said) is None
    assert Settings().cache.entries == 0


def test_an_address_of_nothing_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt TIDEGATE_CACHE is told at once, by the variable's name."""
    monkeypatch.setenv("TIDEGATE_CACHE", "memcached://here")
    with pytest.raises(RuntimeError, match=r"TIDEGATE_CACHE: .*redis://"):
        answers(Cache(entries=1), "toy", {"release": "r", "model_version": "1"}, Said)


def test_without_a_release_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that knows not which release it is keeps its answers to itself."""
    monkeypatch.setenv("TIDEGATE_CACHE", "redis://127.0.0.1:1/0")
    kept = answers(Cache(entries=1), "toy", {"release": "", "model_version": "1"}, Said)
    assert kept is not None
    assert kept._shared is None


def _engine(monkeypatch: pytest.MonkeyPatch, predict: Callable[[Any], Any], entries: int = 8) -> Engine:
    monkeypatch.delenv("TIDEGATE_CACHE", raising=False)
    inner = SimpleNamespace(request=None, response=Said, feature_names=("x",), score="", decision="")
    instance = SimpleNamespace(features=lambda request: row(request), predict=predict)
    service = SimpleNamespace(name="toy", inner=inner, instance=instance)
    return Engine(service, Settings(cache=Cache(entries=entries)))


def test_a_kept_answer_is_counted_and_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two equal requests asks no model, and its source is `cached`; both are predictions."""
    asked: list[Any] = []

    def predict(rows: Any) -> Any:
        asked.append(rows)
        return {"twice": rows[:, 0] * 2}

    engine = _engine(monkeypatch, predict)
    calls = [Call(str(number), time.perf_counter()) for number in range(3)]

    async def three() -> list[Any]:
        return [await engine.one(call, x) for call, x in zip(calls, (1.5, 1.5, 2.5), strict=True)]

    assert asyncio.run(three()) == [{"twice": 3.0}, {"twice": 3.0}, {"twice": 5.0}]
    assert [call.source for call in calls] == ["computed", "cached", "computed"]
    assert len(asked) == 2
    text = engine.measuring.text().decode()
    assert 'tidegate_cache_hits_total{service="toy",where="process"} 1' in text
    assert 'tidegate_cache_misses_total{service="toy"} 2' in text
    assert engine.measuring.predictions == 3


def test_a_failure_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN is refused each time that it is computed, and what follows is asked of the model again."""
    said = iter([float("nan"), 7.0])
    engine = _engine(monkeypatch, lambda rows: {"twice": np.array([next(said)])})

    async def both() -> Any:
        with pytest.raises(ArithmeticError):
            await engine.one(Call("a", time.perf_counter()), 1.0)
        return await engine.one(Call("b", time.perf_counter()), 1.0)

    assert asyncio.run(both()) == {"twice": 7.0}


# ---------------------------------------------------------------- shared
@dataclass
class Server:
    """A real Redis."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def address(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, *words: bytes) -> bytes:
        """Say something to it, and return what it says first."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as connection:
            connection.sendall(b" ".join(words) + b"\r\n")
            return connection.recv(65536)

    def answers(self) -> bool:
        """Tell whether it does."""
        try:
            return self.ask(b"PING").startswith(b"+PONG")
        except OSError:
            return False


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    server = Server(process, port)
    try:
        eventually(server.answers, 30)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(30)


def _shared(address: str, release: str = "r1", seconds: float = 60.0, response: Any = Said) -> AnswerCache:
    return AnswerCache(8, Shared(address, f"tidegate:answer:toy:{release}:1:", seconds, response))


async def _written(kept: AnswerCache) -> None:
    assert kept._shared is not None
    while kept._shared._writing:
        await asyncio.wait(kept._shared._writing)


@needs_redis
def test_another_process_finds_the_answer(redis: Server) -> None:
    """What one replica computed is a hit in another of the same release, with the same bits."""
    value = {"twice": float(np.float32(0.1))}

    async def both() -> Any:
        one, other = _shared(redis.address), _shared(redis.address)
        one.put(row(1.0), value)
        await _written(one)
        found = [await other.get(row(1.0)), await other.get(row(1.0)), await other.get(row(2.0))]
        one.close()
        other.close()
        return found, (other.shared_hits, other.hits, other.misses, other.errors)

    assert asyncio.run(both()) == ([value, value, None], (1, 1, 1, 0))


@needs_redis
@pytest.mark.parametrize("changed", ["release", "model_version", "service"])
def test_never_across_versions(redis: Server, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """An answer of another release, version or model is never found, though the features are the same."""
    monkeypatch.setenv("TIDEGATE_CACHE", redis.address)
    who = {"service": "toy", "release": "r1", "model_version": "1"}

    def made(said: dict[str, str]) -> AnswerCache:
        identity = {name: said[name] for name in ("release", "model_version")}
        kept = answers(Cache(entries=4), said["service"], identity, Said)
        assert kept is not None
        return kept

    async def ask_all() -> list[Any]:
        one, same, other = made(who), made(who), made({**who, changed: "2"})
        one.put(row(1.0), {"twice": 2.0})
        await _written(one)
        return [await same.get(row(1.0)), await other.get(row(1.0))]

    assert asyncio.run(ask_all()) == [{"twice": 2.0}, None]


@needs_redis
def test_answers_expire(redis: Server) -> None:
    """Each is kept there for `cache.ttlSeconds`, so that a release that is gone leaves nothing behind."""

    async def put() -> None:
        kept = _shared(redis.address, seconds=1234.0)
        kept.put(row(1.0), {"twice": 2.0})
        await _written(kept)

    asyncio.run(put())
    (key,) = [word for word in redis.ask(b"KEYS", b"tidegate:*").split() if word.startswith(b"tidegate:")]
    assert 1200 < int(redis.ask(b"TTL", key).strip(b":\r\n")) <= 1234


@needs_redis
@pytest.mark.parametrize("garbage", [b"nonsense", b"\x81\xa5twice\xa1x", b"\x80", b"\x01"])
def test_what_others_wrote_there_is_not_believed(redis: Server, garbage: bytes) -> None:
    """What is no answer as the service promises it is a miss and an error, and never an answer."""

    async def read() -> Any:
        kept = _shared(redis.address)
        assert kept._shared is not None
        await kept._shared._redis.ask("SET", kept._shared._name(((1, 1), "<f4", row(1.0).tobytes())), garbage)
        return await kept.get(row(1.0)), kept.errors

    assert asyncio.run(read()) == (None, 1)


@needs_redis
def test_a_redis_that_hangs_or_dies_costs_misses(redis: Server) -> None:
    """Stopped and killed, it is a miss each time, soon not even asked; when it is back it is used again."""

    async def story() -> None:
        kept = _shared(redis.address)
        kept.put(row(1.0), {"twice": 2.0})
        await _written(kept)
        redis.process.send_signal(signal.SIGSTOP)
        assert await kept.get(row(2.0)) is None  # after a time-out
        for _ in range(200):
            assert await kept.get(row(2.0)) is None
        assert kept.errors >= 201
        assert await kept.get(row(1.0)) == {"twice": 2.0}  # what is here still is
        redis.process.send_signal(signal.SIGCONT)
        other = _shared(redis.address)
        found, until = None, time.monotonic() + 30
        while found is None and time.monotonic() < until:
            found = await other.get(row(1.0))
            await asyncio.sleep(0.02)
        assert found == {"twice": 2.0}
        until = time.monotonic() + 30
        while kept.shared_hits == 0 and time.monotonic() < until:
            kept._kept.clear()
            await kept.get(row(1.0))
            await asyncio.sleep(0.02)
        assert kept.shared_hits == 1
        redis.process.kill()
        assert await kept.get(row(3.0)) is None

    asyncio.run(story())


def test_a_redis_that_was_never_there_is_a_miss() -> None:
    """A service starts and answers without it; each failure is counted."""

    async def ask_twice() -> tuple[Any, int]:
        kept = _shared(f"redis://127.0.0.1:{free_port()}/0")
        kept.put(row(1.0), {"twice": 2.0})
        await _written(kept)
        return await kept.get(row(2.0)), kept.errors

    found, errors = asyncio.run(ask_twice())
    assert found is None
    assert errors == 2


def test_all_counts_are_shown() -> None:
    """Hits by place, misses, evictions, errors and entries are in `/metrics`."""
    registry = Registry("toy")
    kept = AnswerCache(1)
    kept.shown(registry.add)
    kept.put(row(1.0), {"twice": 2.0})
    kept.put(row(2.0), {"twice": 4.0})
    text = registry.text()
    for line in (
        'tidegate_cache_hits_total{service="toy",where="shared"} 0',
        'tidegate_cache_misses_total{service="toy"} 0',
        'tidegate_cache_evictions_total{service="toy"} 1',
        'tidegate_cache_errors_total{service="toy"} 0',
        'tidegate_cache_entries{service="toy"} 1',
    ):
        assert line in text


def test_the_platform_names_the_shared_one(tmp_path: Path) -> None:
    """`stores.cache` of platform.yaml reaches each service; none by default, and only a Redis' address."""
    own = "envs/production/platform.yaml"
    for text, named in (("{}", None), ("stores: {cache: 'redis://cache:6379/1'}", "redis://cache:6379/1")):
        spec = config.parse_platform({own: text}, "production")
        assert wiring.places(spec, config.Home(tmp_path)).get("TIDEGATE_CACHE") == named
    for wrong in ("memcached://cache", "cache:6379", "redis:///1"):
        with pytest.raises(ConfigError, match=r"production/platform.yaml:1.*cache"):
            config.parse_platform({own: f"stores: {{cache: '{wrong}'}}"}, "production")
