"""Many kept connections that each send the next request when the last is answered: how fast services go.

Costs a fraction of what Locust does (`tidegate/adapters/locust.py`), which is slower than the services that
are measured here; it knows no rate and no user, and counts only what came back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httptools
import uvloop

PATIENCE = 30.0  # seconds beyond its own time that a run may take


@dataclass(frozen=True)
class Answers:
    """What came back after the warm-up: milliseconds of each 200, sorted; `failed` is all else."""

    latencies: tuple[float, ...]
    failed: int
    seconds: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies in milliseconds; 0 without an answer."""
        last = len(self.latencies) - 1
        return self.latencies[min(last, int(share * len(self.latencies)))] if self.latencies else 0.0


class _Connection(asyncio.Protocol):
    """One caller; httptools tells it when an answer is whole."""

    def __init__(self, requests: Iterator[bytes], warm: float, until: float) -> None:
        self._requests, self._warm, self._until = requests, warm, until
        self._sent = 0.0
        self.latencies: list[float] = []
        self.failed = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type
        self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._sent = time.perf_counter()
        if self._sent >= self._until:
            self._sent = 0.0  # nothing is owed any more
            self._transport.close()
            return
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        if now >= self._warm and self._parser.get_status_code() == 200:
            self.latencies.append(1000 * (now - self._sent))
        elif now >= self._warm:
            self.failed += 1
        # Not from inside the parser, which is about to be replaced.
        asyncio.get_running_loop().call_soon(self._send)

    def connection_lost(self, error: Exception | None) -> None:
        self.failed += self._sent > 0  # its request was never answered
        if not self.ended.done():
            self.ended.set_result(None)


def press(
    ports: Sequence[int],
    rows: Sequence[Any],
    *,
    connections: int,
    seconds: float,
    warm_up: float = 0.5,
    path: str = "/predict",
) -> Answers:
    """Post rows to 127.0.0.1 over so many connections, shared out over `ports`, and return what came back.

    Raises OSError when nobody listens, TimeoutError when services stop answering.
    """
    bodies = [json.dumps(row).encode() for row in rows]
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    requests = [head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies]

    async def go() -> list[_Connection]:
        loop, warm = asyncio.get_running_loop(), time.perf_counter() + warm_up
        made: list[_Connection] = []
        for index in range(connections):
            own = itertools.islice(itertools.cycle(requests), index % len(requests), None)
            caller = _Connection(own, warm, warm + seconds)
            made.append(caller)
            await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", ports[index % len(ports)])  # type: ignore[misc]
        ends = asyncio.gather(*(caller.ended for caller in made))
        await asyncio.wait_for(ends, warm_up + seconds + PATIENCE)
        return made

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = runner.run(go())
    latencies = sorted(latency for caller in made for latency in caller.latencies)
    return Answers(tuple(latencies), sum(caller.failed for caller in made), seconds)
