"""A Redis, by the common client (`redis.asyncio`), asked such that one that is away costs nobody anything.

The client does all of the talking, over connections that it pools. What is added here is when to give up, and
not to ask again for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from urllib.parse import urlsplit

CONNECTIONS = 16  # at the most; what finds them all taken waits for one, within its time-out
PAUSES = (0.1, 5.0)  # seconds: the first after a failure, and the longest
GRACE = 0.005  # seconds more, in which what came while the loop was busy is read


class Away(Exception):
    """The store does not answer, or not in time."""


class Link:
    """One Redis; what is asked while it is away fails at once.

    After a failure nothing is asked for a pause that doubles from 0.1 s to 5 s, and then by one alone.
    Raises ValueError for what is not `redis://[user:password@]host[:port][/database]`, or `rediss://`.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        database = parts.path.strip("/") or "0"
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or not database.isdigit():
            raise ValueError("an address of Redis has the form redis://host:6379/0")
        # Only a service that is told of one needs it: it takes a while to import.
        from redis import asyncio as client
        from redis import exceptions

        # No time-outs of the client's own, which cost a task for each command: `ask` ends all of it in time.
        # Its second protocol: a connection is there in fewer steps, and nothing comes unasked.
        pool = client.ConnectionPool.from_url(url, socket_timeout=None, protocol=2)
        self._redis: Any = client.Redis.from_pool(pool)
        self._refused = exceptions.ResponseError
        # A closed connection is a RuntimeError to uvloop.
        self._failures = (exceptions.RedisError, OSError, RuntimeError)
        self._timeout = timeout  # seconds
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._answered = 0.0  # when it did so last; 0 since it failed
        self._until, self._pause = 0.0, PAUSES[0]
        self._closing: asyncio.Task[None] | None = None

    async def ask(self, *words: str | bytes | int) -> Any:
        """Return the answer to one command: bytes, int, None or a list of them. Raises Away."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(None) as patience:
                late = loop.call_later(self._timeout, _give_up, patience)
                try:
                    async with self._turns:
                        self._look(loop.time())
                        answer = await self._redis.execute_command(*words)
                finally:
                    late.cancel()
        except self._failures as error:
            # One that has answered since is not away, nor one that did before and refuses this command.
            since = 0.0 if isinstance(error, self._refused) else began
            if self._answered <= since:
                self._answered = 0.0
                if loop.time() >= self._until:
                    self._rest(loop.time())
            raise Away(str(error) or "no answer in time") from error
        self._answered, self._until, self._pause = loop.time(), 0.0, PAUSES[0]
        return answer

    def close(self) -> None:
        """Let go of the connections."""
        self._until = float("inf")
        with contextlib.suppress(RuntimeError):  # without a loop there are none
            self._closing = asyncio.get_running_loop().create_task(self._redis.aclose())

    def _look(self, now: float) -> None:
        """Let one through after a pause, to see whether it is back, and none in a pause."""
        if self._until:
            if now < self._until:
                raise Away("it did not answer a moment ago")
            self._rest(now)

    def _rest(self, now: float) -> None:
        self._until, self._pause = now + self._pause, min(2 * self._pause, PAUSES[1])


def _give_up(patience: asyncio.Timeout) -> None:
    patience.reschedule(asyncio.get_running_loop().time() + GRACE)
