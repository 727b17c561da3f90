"""The few words of Redis' protocol that a service needs, on one connection, without waiting in the loop.

The common client's asyncio form takes two to three times as long a request, most of it its own bookkeeping.
All requests in flight share the connection: they are written as they come and answered in that order.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

LARGEST = 64 * 1024 * 1024  # bytes of answers that are not whole yet


class Away(Exception):
    """The store does not answer, or not in time."""


class Address(NamedTuple):
    """Where a Redis is; an empty host is none."""

    host: str
    port: int
    database: int
    user: str
    password: str
    secure: bool

    @classmethod
    def of(cls, url: str) -> Address:
        """Read `redis://[user:password@]host[:port][/database]`, or `rediss://`; raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError("an address of Redis has the form redis://host:6379/0")
        database = int(parts.path.strip("/") or 0)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.hostname, parts.port or 6379, database, user, password, parts.scheme == "rediss")


class Redis(asyncio.Protocol):
    """One connection that comes back by itself; what is asked while it is gone fails at once.

    An answer that takes longer than `timeout` seconds, and at most twice that, ends the connection. After a
    failure nothing is tried for a pause that doubles from 0.1 s to 5 s.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._address, self._timeout = Address.of(url), timeout
        self._transport: asyncio.WriteTransport | None = None
        self._connecting: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._buffer = bytearray()
        self._watch: asyncio.TimerHandle | None = None
        self._seen: asyncio.Future[Any] | None = None  # the oldest that waited at the last look
        self._until, self._pause = 0.0, 0.1

    async def ask(self, *words: str | bytes | int) -> Any:
        """Return the answer to one command: bytes, int, None or a list of them. Raises Away."""
        if self._transport is None:
            await self._connect()
        return await self._send(words)

    def close(self) -> None:
        """Let go of the connection; what waits fails."""
        self._until = float("inf")
        self._drop("closed")

    # ---------------------------------------------------------------- the connection
    async def _connect(self) -> None:
        if time.monotonic() < self._until:
            raise Away("it did not answer a moment ago")
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())
            self._connecting.add_done_callback(self._opened)
        await asyncio.shield(self._connecting)

    def _opened(self, done: asyncio.Future[None]) -> None:
        self._connecting = None
        if not done.cancelled():
            done.exception()  # told to whoever waits for it; nobody may

    async def _open(self) -> None:
        where = self._address
        try:
            # Twice the patience of an answer: names are resolved and keys agreed on.
            async with asyncio.timeout(2 * self._timeout):
                context = ssl.create_default_context() if where.secure else None
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: self, where.host, where.port, ssl=context)
                if where.password:
                    await self._send(("AUTH", *([where.user] if where.user else []), where.password))
                if where.database:
                    await self._send(("SELECT", where.database))
        except (OSError, TimeoutError, Away) as error:
            self._drop("can't connect")
            raise Away(str(error) or "can't connect") from error

    def _send(self, words: Sequence[str | bytes | int]) -> asyncio.Future[Any]:
        if self._transport is None:
            raise Away("the connection is gone")
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(waiting)
        self._transport.write(packed(words))
        if self._watch is None:
            self._watch = loop.call_later(self._timeout, self._look)
        return waiting

    def _look(self) -> None:
        """End a connection whose oldest request was waiting at the last look, too.

        Not at the first: while the loop was busy with something else, an answer may have come unread.
        """
        self._watch = None
        if not self._waiting:
            self._seen = None
        elif self._waiting[0] is self._seen:
            self._drop("no answer in time")
        else:
            self._seen = self._waiting[0]
            self._watch = asyncio.get_running_loop().call_later(self._timeout, self._look)

    def _drop(self, why: str) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._buffer.clear()
        self._until = max(self._until, time.monotonic() + self._pause)
        self._pause = min(2 * self._pause, 5.0)
        waiting, self._waiting, self._seen = self._waiting, deque(), None
        for one in waiting:
            if not one.done():
                one.set_exception(Away(why))
                one.exception()  # nobody may wait for it any more

    # ---------------------------------------------------------------- asyncio's side
    def connection_made(self, transport: Any) -> None:
        """Take the connection."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits, unless it was this side that let go."""
        if self._transport is not None:
            self._drop("the connection was lost")

    def data_received(self, data: bytes) -> None:
        """Hand each whole answer to the one that has waited longest."""
        self._buffer += data
        place = 0
        try:
            while place < len(self._buffer):
                value, place = parsed(self._buffer, place)
                one = self._waiting.popleft()
                if not one.done():
                    if isinstance(value, Away):
                        one.set_exception(value)
                    else:
                        one.set_result(value)
        except _Partial:
            pass
        except (ValueError, IndexError):
            self._drop("it does not speak Redis' protocol")
            return
        if place:
            self._pause = 0.1  # it answers
            del self._buffer[:place]
        if len(self._buffer) > LARGEST:
            self._drop("its answer is too large")


class _Partial(Exception):
    """The rest of an answer is still to come."""


def packed(words: Sequence[str | bytes | int]) -> bytes:
    """Return a command as it is sent."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def parsed(buffer: bytearray, place: int) -> tuple[Any, int]:
    """Return the answer that begins at a place, an error as an Away, and where it ends. Raises _Partial."""
    end = buffer.find(b"\r\n", place)
    if end < 0:
        raise _Partial
    kind, head, after = buffer[place], bytes(buffer[place + 1 : end]), end + 2
    if kind == 0x24:  # $: so many bytes
        size = int(head)
        if size < 0:
            return None, after
        if len(buffer) < after + size + 2:
            raise _Partial
        return bytes(buffer[after : after + size]), after + size + 2
    if kind == 0x2A:  # *: so many answers
        values = []
        for _ in range(int(head)):
            value, after = parsed(buffer, after)
            values.append(value)
        return values, after
    if kind == 0x2B:  # +
        return head, after
    if kind == 0x3A:  # :
        return int(head), after
    if kind == 0x2D:  # -
        return Away(head.decode(errors="replace")), after
    raise ValueError("no answer of Redis")
