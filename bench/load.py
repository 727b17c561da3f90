"""A load generator that costs little itself: keep-alive HTTP/1.1 over plain asyncio protocols."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.registry import CannotRun


@dataclass(frozen=True)
class Load:
    """What came back. `seconds` per answer in `latencies`, sorted; `failed` are answers other than 200."""

    requests: int
    failed: int
    seconds: float
    latencies: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies, in seconds."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


class _Connection(asyncio.Protocol):
    """Sends one request after the other, each when the answer to the last is complete."""

    def __init__(self, requests: Sequence[bytes], until: float, warm: float, closed: asyncio.Future[None]):
        self.requests, self.until, self.warm, self.closed = requests, until, warm, closed
        self.latencies: list[float] = []
        self.failed = self.turn = self.missing = 0
        self.head = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.sent = time.perf_counter()
        if self.sent >= self.until:
            self.transport.close()
            return
        self.transport.write(self.requests[self.turn % len(self.requests)])
        self.turn += 1

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.missing -= len(data)
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = self.head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            self.missing = int(length) - (len(self.head) - end - 4)
        if self.missing <= 0:
            self._answered()

    def _answered(self) -> None:
        now = time.perf_counter()
        if now >= self.warm:
            self.latencies.append(now - self.sent)
            self.failed += not self.head.startswith(b"HTTP/1.1 200")
        self.head, self.missing = b"", 0
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


def request(path: str, body: bytes) -> bytes:
    """Return a POST of JSON as bytes."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def hammer(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    warm_up: float = 1.0,
    refusals: bool = False,
) -> Load:
    """Send requests over a number of connections for some seconds, after a warm-up that is not counted.

    Raises CannotRun when anything but 200 came back, unless `refusals` are expected: numbers of failures
    are no numbers.
    """

    async def go() -> list[_Connection]:
        loop = asyncio.get_running_loop()
        warm = time.perf_counter() + warm_up
        made, ends = [], []
        for index in range(connections):
            end = loop.create_future()
            mine = [*requests[index:], *requests[:index]]
            _, protocol = await loop.create_connection(
                lambda mine=mine, end=end: _Connection(mine, warm + seconds, warm, end), "127.0.0.1", port
            )
            made.append(protocol)
            ends.append(end)
        await asyncio.wait_for(asyncio.gather(*ends), warm_up + seconds + 30)
        return made

    made = asyncio.run(go())
    latencies = tuple(sorted(latency for connection in made for latency in connection.latencies))
    failed = sum(connection.failed for connection in made)
    if (failed and not refusals) or not latencies:
        raise CannotRun(f"{failed} of {len(latencies)} answers were not 200")
    return Load(len(latencies), failed, seconds, latencies)
