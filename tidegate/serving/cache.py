"""Answers kept by their features, for one release: in the process, and in a Redis that replicas share.

Off unless a model's settings say how many answers a process may keep (`cache.entries`). The shared one is the
platform's to name, by TIDEGATE_CACHE, and is an addition: one that is away costs misses, counted as errors
too, and a moment at the first of them. Its keys hold the release, whose id says all that an answer depends
on (code, model, settings), so that no release ever answers with another's; without a release it is not asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from tidegate.serving.redis_link import Away, Link
from tidegate.serving.settings import Cache

VARIABLE = "TIDEGATE_CACHE"  # names the shared one: redis://host:6379/0
TIMEOUT = 0.02  # seconds for an answer of the shared one
WRITING = 256  # answers that may be on their way to the shared one; more are not sent

Key = tuple[Any, ...]
Answer = dict[str, Any]

log = logging.getLogger(__name__)


class Shared:
    """A Redis that holds answers by a digest of release and features; each of its failures is a miss."""

    def __init__(self, address: str, prefix: str, seconds: float, response: Any) -> None:
        self._redis = Link(address, TIMEOUT)
        self._prefix = prefix.encode()
        self._ms = max(1, int(1000 * seconds))
        self._response = response
        self._decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
        self._writing: set[asyncio.Task[None]] = set()
        self.errors = 0

    async def get(self, key: Key) -> Answer | None:
        """Return what is kept, as the service promises its answers to be, or None."""
        try:
            found = await self._redis.ask("GET", self._name(key))
            if found is None:
                return None
            answer = self._decode(found)
            msgspec.convert(answer, self._response)  # others write there, too
            return answer
        except (Away, OSError, msgspec.MsgspecError, TypeError):
            self.errors += 1
            return None

    def put(self, key: Key, answer: Answer) -> None:
        """Send an answer there, beside what is going on."""
        if len(self._writing) >= WRITING:
            self.errors += 1
            return
        task = asyncio.get_running_loop().create_task(self._put(key, answer))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _put(self, key: Key, answer: Answer) -> None:
        try:
            await self._redis.ask("SET", self._name(key), msgspec.msgpack.encode(answer), "PX", self._ms)
        except (Away, OSError, TypeError, ValueError):
            self.errors += 1

    def _name(self, key: Key) -> bytes:
        shape, kind, content = key
        digest = hashlib.blake2b(f"{shape}{kind}:".encode() + content, digest_size=24)
        return self._prefix + digest.hexdigest().encode()

    def close(self) -> None:
        """Let go of the connections."""
        for task in self._writing:
            task.cancel()
        self._redis.close()


class AnswerCache:
    """Keeps the answers that were asked for last, at most `entries`; `shared` is asked for others."""

    def __init__(self, entries: int, shared: Shared | None = None) -> None:
        self._entries, self._shared = entries, shared
        self._kept: OrderedDict[Key, Answer] = OrderedDict()
        self.hits = self.shared_hits = self.misses = self.evictions = 0

    async def get(self, rows: Any) -> Answer | None:
        """Return what was answered to the same features, or None; not to be changed by whoever gets it."""
        key = _key(rows)
        answer = self._kept.get(key) if key is not None else None
        if answer is not None and key is not None:
            self._kept.move_to_end(key)
            self.hits += 1
            return answer
        if key is not None and self._shared is not None:
            answer = await self._shared.get(key)
            if answer is not None:
                self.shared_hits += 1
                self._keep(key, answer)
                return answer
        self.misses += 1
        return None

    def put(self, rows: Any, answer: Answer) -> None:
        """Keep an answer."""
        key = _key(rows)
        if key is None:
            return
        self._keep(key, answer)
        if self._shared is not None:
            self._shared.put(key, answer)

    def _keep(self, key: Key, answer: Answer) -> None:
        self._kept[key] = answer
        self._kept.move_to_end(key)
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)
            self.evictions += 1

    @property
    def errors(self) -> int:
        """How often the shared cache failed, and cost a miss."""
        return self._shared.errors if self._shared is not None else 0

    def shown(self, add: Callable[..., None]) -> None:
        """Show what is counted; `add` is that of a metrics.Registry."""

        def hits() -> dict[str, int]:
            return {"process": self.hits, "shared": self.shared_hits}

        about = "Answers from the cache, by where they were"
        add("tidegate_cache_hits_total", about, "counter", hits, "where")
        add("tidegate_cache_misses_total", "Answers in no cache", "counter", lambda: self.misses)
        about = "Answers that made room for others in the process"
        add("tidegate_cache_evictions_total", about, "counter", lambda: self.evictions)
        about = "Failures of the shared cache, each a miss"
        add("tidegate_cache_errors_total", about, "counter", lambda: self.errors)
        add("tidegate_cache_entries", "Answers in the process", "gauge", lambda: len(self._kept))

    def close(self) -> None:
        """Let go of the shared cache."""
        if self._shared is not None:
            self._shared.close()


def _key(rows: Any) -> Key | None:
    """Return what tells features from others, bit by bit; None for those that say nothing by their bytes."""
    if not isinstance(rows, np.ndarray) or rows.dtype.hasobject:
        return None
    return rows.shape, rows.dtype.str, rows.tobytes()


def answers(settings: Cache, service: str, identity: Mapping[str, str], response: Any) -> AnswerCache | None:
    """Return the cache that a model's settings and the environment ask for, or None.

    Raises RuntimeError for an address that is none.
    """
    if not settings.entries:
        return None
    address, release = os.environ.get(VARIABLE, ""), identity["release"]
    if not address or not release:
        if address:
            log.warning("%s is not used: without a release nobody knows whose answers those are", VARIABLE)
        return AnswerCache(settings.entries)
    prefix = f"tidegate:answer:{service}:{release}:{identity['model_version']}:"
    try:
        shared = Shared(address, prefix, settings.ttl_seconds, response)
    except ValueError as error:
        raise RuntimeError(f"{VARIABLE}: {error}") from error
    return AnswerCache(settings.entries, shared)
