"""Load on an endpoint by Locust, in a child process: gevent patches sockets for a whole interpreter.

The child is `locust_child.py`; it is told one step after the other. Locust's own exit code and JSON are not
used: it exits 0 after zero requests, and its JSON has no percentiles.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from tidegate.errors import NoData, PlatformError, TidegateError, Unreachable

SLACK = 60.0  # seconds that a step may take beyond its own: Locust's import, the last answers


@dataclass(frozen=True)
class Load:
    """What a step saw, after its warm-up: `latencies` in milliseconds of answered requests.

    `unanswered` counts the failures that got no HTTP answer at all; `failures` includes them. `busy` is the
    generator's share of a core, `late` by how many milliseconds it sent behind its schedule (95th percentile)
    though no answer held it up.
    """

    requests: int
    failures: int
    unanswered: int
    seconds: float
    latencies: Sequence[float]
    reasons: Mapping[str, int]
    busy: float = 0.0
    late: float = 0.0

    def and_then(self, more: Load) -> Load:
        """Return both loads as one."""
        reasons = Counter(self.reasons) + Counter(more.reasons)
        return Load(
            self.requests + more.requests,
            self.failures + more.failures,
            self.unanswered + more.unanswered,
            self.seconds + more.seconds,
            [*self.latencies, *more.latencies],
            dict(reasons),
            max(self.busy, more.busy),
            max(self.late, more.late),
        )


@dataclass(frozen=True)
class Turns:
    """What two endpoints answered in turns; each field has one value, or one list, for each of the two.

    `latencies` in milliseconds of answers with 200, `blocks` the time block of each, `cpu` the process's CPU
    milliseconds in each block (None where the system does not tell), `failures` all other requests.
    """

    latencies: Sequence[Sequence[float]]
    blocks: Sequence[Sequence[int]]
    cpu: Sequence[Sequence[float | None]]
    failures: Sequence[int]
    reasons: Mapping[str, int]
    seconds: float


@dataclass
class Generator:
    """A child that sends load, one step at a time; see `generator`."""

    child: subprocess.Popen[bytes]
    said: IO[bytes]

    def load(self, url: str, *, users: int, rate: float, seconds: float, warmup: float = 0.0) -> Load:
        """POST the rows in turn to `url` for `warmup` + `seconds`, and count after the warm-up.

        `rate` is requests a second over all users; 0 means as fast as answers come. Raises Unreachable when
        nothing answered at all, NoData when no request was made, PlatformError when Locust went wrong.
        """
        load = self.attempt(url, users=users, rate=rate, seconds=seconds, warmup=warmup)
        if not load.requests:
            raise NoData(f"no request was made to {url}", "Raise `duration` or `rate`.")
        if load.unanswered == load.requests:
            first = next(iter(load.reasons), "no answer")
            raise Unreachable(f"none of {load.requests} requests to {url} was answered: {first}", "Is it up?")
        return load

    def attempt(self, url: str, *, users: int, rate: float, seconds: float, warmup: float = 0.0) -> Load:
        """Send what `load` sends; that nothing came of it is an answer, too, if somebody listens."""
        _reach(url)
        step = {"kind": "load", "urls": [url], "users": users, "rate": rate, "seconds": seconds}
        return Load(**self._ask({**step, "warmup": warmup}, seconds + warmup))

    def turns(
        self,
        urls: Sequence[str],
        pids: Sequence[int],
        *,
        seconds: float,
        warmup: float,
        seed: int,
        block: float,
    ) -> Turns:
        """Send each row to both `urls`, one connection, in turns (ABBA or BAAB, by `seed`) after a warm-up.

        `pids` are the processes whose CPU time is read; a time block lasts `block` seconds. Raises
        Unreachable when one of them is not there, PlatformError when Locust went wrong.
        """
        for url in urls:
            _reach(url)
        step = {"kind": "turns", "urls": list(urls), "pids": list(pids), "seed": seed, "block": block}
        return Turns(**self._ask({**step, "seconds": seconds, "warmup": warmup}, seconds + warmup))

    def _ask(self, step: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(step).encode() + b"\n")
            self.child.stdin.flush()
            line = self._line(time.monotonic() + seconds + SLACK)
        except BrokenPipeError as error:
            raise self._ended() from error
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _line(self, deadline: float) -> bytes:
        out = self.child.stdout
        assert out is not None
        read = b""
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not read.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise PlatformError("Locust did not end its step in time", "Look at the endpoint.")
                part = os.read(out.fileno(), 1 << 20)
                if not part:
                    raise self._ended()
                read += part
        return read

    def _ended(self) -> TidegateError:
        code = self.child.wait(timeout=15)
        self.said.seek(0)
        tail = " ".join(self.said.read().decode(errors="replace").strip().splitlines()[-1:])
        return PlatformError(f"Locust ended with {code}: {tail}", "Run the gate again.")


@contextmanager
def generator(rows: Sequence[Any]) -> Iterator[Generator]:
    """Start a child that has `rows` to send; it ends with the block, whatever ends it. Raises NoData."""
    if not rows:
        raise NoData("there is no row to send", "Make the split with `dvc repro`.")
    command = [sys.executable, "-m", "tidegate.adapters.locust_child"]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0
        )
        made = Generator(child, said)
        try:
            assert child.stdin is not None
            try:
                for part in (json.dumps(list(rows)).encode(), b"\n"):
                    _write(child.stdin, part)
            except BrokenPipeError as error:
                raise made._ended() from error
            yield made
        finally:
            child.kill()  # it holds nothing that would have to be put away
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _write(pipe: IO[bytes], data: bytes) -> None:
    """Write all of it: an unbuffered pipe takes what fits."""
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


def measure(
    url: str, rows: Sequence[Any], *, users: int, rate: float, seconds: float, warmup: float = 0.0
) -> Load:
    """Send one load to `url` by a generator of its own; see `Generator.load`."""
    if rows:
        _reach(url)  # before Locust is imported
    with generator(rows) as sender:
        return sender.load(url, users=users, rate=rate, seconds=seconds, warmup=warmup)


def _reach(url: str) -> None:
    """Say at once, and not after the whole run, that nobody listens."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"nobody listens at {url}: {error}", "Is the plane up? See `tidegate status`."
        ) from error
