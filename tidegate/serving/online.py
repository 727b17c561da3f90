"""What a request does not say, looked up in one round trip: online features, and answers made beforehand.

A service's class says where they lie, by the request's own fields:

    online = Lookup("recent", {"user_clicks": "user:{user}:clicks", …})
    precomputed = Precomputed("{user}:{page}", unless=("recent",))

A request whose field `recent` is null gets it from the store; one that carries it keeps its own. What the
store does not know, has forgotten (time-to-live) or can't say right now has the feature's default, null where
none is declared, and is counted: no request fails or waits for long because of the store.

Where the store lies is the platform's to say (`TIDEGATE_FEATURES`); unset, nothing is looked up. Values are
JSON, held to the types of the request's own Struct. Knows no model; travels inside every Bento.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import string
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

import msgspec

from tidegate.serving.redis_link import PAUSES, Away, Link

STORE = "TIDEGATE_FEATURES"  # the variable that names the store: sqlite:///path or redis://host:port/0
OFFLINE = b"x-tidegate-offline"  # the header of a request that is all there is
REFRESH = 1.0  # seconds after which a look is taken whether the file is another one

Answer = dict[str, Any]  # the model's own fields by name, plain values

log = logging.getLogger("tidegate.serving")


# ---------------------------------------------------------------- what a service declares
@dataclass(frozen=True)
class Lookup:
    """Which field of the request the store fills, and under which key each field of its Struct lies."""

    into: str
    keys: Mapping[str, str]  # `user:{user}:clicks`, by the request's fields
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of what is missing; null otherwise


@dataclass(frozen=True)
class Precomputed:
    """What makes two requests ask the same, and the fields with which a request must be computed."""

    entity: str  # `{user}:{page}`, by the request's fields
    unless: tuple[str, ...] = ()


def prediction_key(release: str, entity: str) -> str:
    """Return the key of an answer: never that of another release."""
    return f"prediction:{release}:{entity}"


def template(text: str) -> Callable[[Any], str | None]:
    """Return what fills a key with a request's fields, and gives None where one of them is null."""
    parts = [(lead, name) for lead, name, _, _ in string.Formatter().parse(text)]

    def fill(request: Any) -> str | None:
        made = ""
        for lead, name in parts:
            made += lead
            if name is not None:
                value = getattr(request, name)
                if value is None:
                    return None
                made += value if type(value) is str else str(value)
        return made

    return fill


# ---------------------------------------------------------------- the engine's part
class Store(Protocol):
    """Values by key, all of a request's at once."""

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return a value for each key, None for one that is not there. Raises Away."""

    def close(self) -> None:
        """Let go."""


class Lookups:
    """Completes requests; see engine.Online."""

    def __init__(self, service: Any, store: Store, release: str) -> None:
        shape, response = service.request, service.response
        self.store = store
        self.lookup: Lookup | None = getattr(service, "online", None)
        self._precomputed: Precomputed | None = getattr(service, "precomputed", None) if release else None
        self._release = release
        self.names: tuple[str, ...] = ()
        if self.lookup is not None:
            self.into = self.lookup.into
            self._struct = _struct(get_type_hints(shape, include_extras=True)[self.into])
            hints = get_type_hints(self._struct, include_extras=True)
            self.names = tuple(self.lookup.keys)
            self._keys = tuple(template(text) for text in self.lookup.keys.values())
            self.decode = tuple(msgspec.json.Decoder(hints[name]).decode for name in self.names)
            self.default = {name: self.lookup.defaults.get(name) for name in self.names}
        if self._precomputed is not None:
            self._entity, self._unless = template(self._precomputed.entity), self._precomputed.unless
            self._answer = msgspec.json.Decoder(response).decode
        self.hits = dict.fromkeys(self.names, 0)
        self.missing = dict.fromkeys(self.names, 0)
        self.known = self.errors = self.spoilt = 0

    def shown(self, add: Callable[..., None]) -> None:
        """Name what is counted here for /metrics; `add` is Measuring.add."""
        about = "Features found in the online store"
        add("tidegate_online_hits_total", about, "counter", lambda: self.hits, "feature")
        about = "Features asked for that the online store did not have"
        add("tidegate_online_missing_total", about, "counter", lambda: self.missing, "feature")
        about = "Look-ups that the online store did not answer"
        add("tidegate_online_errors_total", about, "counter", lambda: self.errors)
        about = "Values in the online store that are not what they should be"
        add("tidegate_online_spoilt_total", about, "counter", lambda: self.spoilt)
        about = "Answers that were made beforehand"
        add("tidegate_precomputed_total", about, "counter", lambda: self.known)

    async def complete(self, call: Any, request: Any) -> tuple[Any, Answer | None]:
        """Return the request with what the store knows laid into it, and the answer where it is known.

        A warm-up asks nothing, since it must not depend on the store, nor does who says so (`offline`).
        """
        if call.warm or call.offline:
            return request, None
        looked = self.lookup is not None and getattr(request, self.into) is None
        entity = self._known_as(request) if self._precomputed is not None else None
        if not looked and entity is None:
            return request, None
        wanted = [key(request) for key in self._keys] if looked else []
        asked = [key for key in wanted if key is not None]
        if entity is not None:
            asked.append(prediction_key(self._release, entity))
        values: Sequence[bytes | None] = ()
        if asked:
            try:
                values = await self.store.get(asked)
            except Away:
                self.errors += 1
        found = dict(zip(asked, values, strict=False))
        answer = self._answered(found.get(asked[-1])) if entity is not None else None
        if looked:
            request = self._filled(request, wanted, found)
        return request, answer

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def _known_as(self, request: Any) -> str | None:
        """Return whose answer might be known, None where this request must be computed."""
        for name in self._unless:
            if getattr(request, name) is not None:
                return None
        return self._entity(request)

    def _filled(self, request: Any, wanted: Sequence[str | None], found: Mapping[str, Any]) -> Any:
        values = dict(self.default)
        for name, key, decode in zip(self.names, wanted, self.decode, strict=True):
            if key is None:
                continue  # the request itself does not say whose: nothing is amiss with the store
            data = found.get(key)
            try:
                if data is not None:
                    values[name] = decode(data)
                    self.hits[name] += 1
                    continue
            except msgspec.MsgspecError:
                self.spoilt += 1
            self.missing[name] += 1
        return msgspec.structs.replace(request, **{self.into: self._struct(**values)})

    def _answered(self, data: bytes | None) -> Answer | None:
        if data is None:
            return None
        try:
            answer = msgspec.structs.asdict(self._answer(data))
        except msgspec.MsgspecError:
            self.spoilt += 1
            return None
        self.known += 1
        return answer


def lookups(service: Any, release: str, timeout: float) -> Lookups | None:
    """Return what completes this service's requests; None where it declares nothing or there is no store.

    `timeout` is in seconds. Raises RuntimeError for an address that names no store: a service must not run
    without its features by mistake.
    """
    address = os.environ.get(STORE, "")
    declared = getattr(service, "online", None) or (release and getattr(service, "precomputed", None))
    return Lookups(service, store(address, timeout), release) if address and declared else None


def store(address: str, timeout: float) -> Store:
    """Return the store at an address; nothing is opened yet. Raises RuntimeError for an address of none."""
    try:
        if address.startswith("sqlite:///"):
            return SqliteStore(address.removeprefix("sqlite:///"))
        return RedisStore(address, timeout)
    except ValueError as error:
        raise RuntimeError(f"{STORE}: {error}; or sqlite:///path of a file") from error


# ---------------------------------------------------------------- the stores
class RedisStore:
    """A Redis: one MGET."""

    def __init__(self, address: str, timeout: float) -> None:
        self._redis = Link(address, timeout)

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return a value for each key. Raises Away, after about the time-out at the latest."""
        found = await self._redis.ask("MGET", *keys)
        return found if isinstance(found, list) else ()

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()


class SqliteStore:
    """A file on this machine: one SELECT of some ten microseconds, so it is done in the loop itself.

    Read only; it never waits for a writer (write-ahead log). A file that is not there, or breaks, is looked
    for again after a pause.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._look = self._until = 0.0
        self._pause = PAUSES[0]
        self._texts: dict[int, str] = {}

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return a value for each key. Raises Away."""
        now = time.time()
        count = len(keys)
        text = self._texts.get(count)
        if text is None:
            marks = ",".join("?" * count)
            text = f"SELECT key, value FROM entries WHERE key IN ({marks}) AND expires > ?"  # noqa: S608 - marks
            self._texts[count] = text
        try:
            found = dict(self._opened(now).execute(text, (*keys, now)).fetchall())
        except (sqlite3.Error, OSError) as error:
            self._failed(now, error)
            raise Away(str(error)) from error
        return [found.get(key) for key in keys]

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _opened(self, now: float) -> sqlite3.Connection:
        if now < self._until:
            raise OSError("it could not be read a moment ago")
        if self._connection is not None and 0 <= now - self._look < REFRESH:
            return self._connection
        state = os.stat(self._path)
        if self._connection is None or self._file != (state.st_dev, state.st_ino):
            self.close()
            uri = f"file:{_quoted(self._path)}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=0.0, isolation_level=None)
            self._file = (state.st_dev, state.st_ino)
        self._look, self._pause = now, PAUSES[0]
        return self._connection

    def _failed(self, now: float, error: Exception) -> None:
        if now < self._until:
            return
        if self._pause == PAUSES[0]:
            log.warning("the feature store %s can't be read: %s", self._path, error)
        self._until, self._pause = now + self._pause, min(2 * self._pause, PAUSES[1])
        self.close()


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(os.path.abspath(path))


def _struct(hint: Any) -> Any:
    """Return the Struct that a field holds, if it may be null, too."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    raise TypeError(f"{hint} holds no Struct, so nothing can be looked up into it")
