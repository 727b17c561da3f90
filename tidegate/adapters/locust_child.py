"""The child of `locust.py`: `python -m tidegate.adapters.locust_child`.

It reads the rows and then one step after the other as lines of JSON from standard input, and answers each
with a line. It ends with its standard input, so it outlives nobody.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

HUNG = 2.0  # seconds without an answer at the end of a step that count as none
HEADERS = {"content-type": "application/json"}
TIMEOUTS = {"network_timeout": 10.0, "connection_timeout": 10.0}


def main() -> None:
    """Answer steps until standard input ends; gevent must patch before anything else opens a socket."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever Locust prints is not an answer
    import gevent.monkey  # type: ignore[import-untyped]

    gevent.monkey.patch_all()
    rows = [json.dumps(row).encode() for row in json.loads(sys.stdin.buffer.readline())]
    for line in iter(sys.stdin.buffer.readline, b""):
        step = json.loads(line)
        answer = _turns(step, rows) if step["kind"] == "turns" else _load(step, rows)
        with open(out, "wb", closefd=False) as said:
            said.write(json.dumps(answer).encode() + b"\n")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# ---------------------------------------------------------------- one endpoint, at a rate
class Counted:
    """What a load's answers add up to; see `locust.Load`."""

    def __init__(self) -> None:
        self.requests = self.failures = self.unanswered = 0
        self.latencies: list[float] = []
        self.late: list[float] = []
        self.reasons: dict[str, int] = {}

    def add(self, latency: float, response: Any, exception: Any) -> None:
        """Count one answer, or what came instead of it."""
        self.requests += 1
        answered = bool(getattr(response, "status_code", 0))
        if answered:
            self.latencies.append(round(latency, 3))
        if exception is not None:
            self._fail(str(exception)[:120], answered)

    def hung(self) -> None:
        """Count a request that was still waiting when the step ended."""
        self.requests += 1
        self._fail("no answer when the time was over", False)

    def _fail(self, reason: str, answered: bool) -> None:
        self.failures += 1
        self.unanswered += not answered
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def told(self, seconds: float, busy: float) -> dict[str, Any]:
        """Return the fields of a Load."""
        late = sorted(self.late)
        return {
            "requests": self.requests,
            "failures": self.failures,
            "unanswered": self.unanswered,
            "latencies": self.latencies,
            "reasons": self.reasons,
            "busy": round(busy, 4),
            "late": round(late[int(0.95 * len(late))], 3) if late else 0.0,
            "seconds": round(seconds, 3),
        }


def _load(step: Mapping[str, Any], rows: Sequence[bytes]) -> dict[str, Any]:
    """Send rows from `users` users at a rate, evenly spread, and count what began after the warm-up."""
    import gevent
    from locust.env import Environment

    counted, flying = Counted(), {}  # type: tuple[Counted, dict[Any, float]]
    begun = time.monotonic()
    start, since = begun + step["warmup"], time.time() + step["warmup"]

    def count(response_time: float, response: Any, exception: Any, start_time: float, **_: Any) -> None:
        if start_time >= since:
            counted.add(response_time, response, exception)

    environment = Environment(user_classes=[_replay(step, itertools.cycle(rows), counted, flying, begun)])
    environment.events.request.add_listener(count)
    runner = environment.create_local_runner()
    runner.start(step["users"], spawn_rate=step["users"])
    gevent.sleep(max(start - time.monotonic(), 0))
    used, start = time.process_time(), time.monotonic()
    gevent.sleep(step["seconds"])
    end = time.monotonic()
    busy = (time.process_time() - used) / (end - start)
    for sent in flying.values():  # what never came is not what was never asked
        if end - max(sent, start) >= min(HUNG, 0.9 * (end - start)):
            counted.hung()
    runner.quit()
    return counted.told(end - start, busy)


def _replay(
    step: Mapping[str, Any], bodies: Iterator[bytes], counted: Counted, flying: dict[Any, float], begun: float
) -> type:
    """Return a user that keeps to a schedule: who is late sends at once until it is met again."""
    import gevent
    from locust import FastHttpUser, task

    url, turn = step["urls"][0], itertools.count()
    interval = step["users"] / step["rate"] if step["rate"] else 0.0

    class Replay(FastHttpUser):  # type: ignore[misc]
        host = _origin(url)
        network_timeout = TIMEOUTS["network_timeout"]
        connection_timeout = TIMEOUTS["connection_timeout"]
        slept = False

        def on_start(self) -> None:
            self.due = begun + (next(turn) / step["rate"] if interval else 0.0)  # or all would send at once
            gevent.sleep(max(self.due - time.monotonic(), 0))

        def wait_time(self) -> float:
            self.due += interval
            ahead = self.due - time.monotonic()
            self.slept = ahead > 0
            return max(ahead, 0.0)

        @task  # type: ignore[untyped-decorator]
        def predict(self) -> None:
            now = flying[self] = time.monotonic()
            if self.slept and interval:  # else an answer held it up, not this process
                counted.late.append(1000 * (now - self.due))
            self.client.post(url, data=next(bodies), headers=HEADERS, name="predict")
            flying.pop(self, None)

    return Replay


# ---------------------------------------------------------------- two endpoints, in turns
class Tally:
    """What two endpoints answered, by time block; see `locust.Turns`."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids
        self.block, self.target = -1, 0  # -1 is the warm-up
        self.latencies: tuple[list[float], list[float]] = ([], [])
        self.blocks: tuple[list[int], list[int]] = ([], [])
        self.cpu: tuple[list[float | None], list[float | None]] = ([], [])
        self.failures = [0, 0]
        self.reasons: dict[str, int] = {}
        self._used = [cpu_seconds(pid) for pid in pids]
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def enter(self, block: int) -> None:
        """Close a block: book the CPU time since it began, and none for blocks that were slept through."""
        now = [cpu_seconds(pid) for pid in self.pids]
        for of, before, after in zip(self.cpu, self._used, now, strict=True):
            if self.block >= 0:
                of.append(None if before is None or after is None else round(1000 * (after - before), 4))
                of.extend([0.0] * (block - self.block - 1))
        self.block, self._used = block, now
        self._move(block)

    def _move(self, block: int) -> None:
        """Put both processes on one core, the next one in each block (Linux; elsewhere nothing is moved).

        Left alone, one of them may share a core with what else runs here for seconds while the other one has
        a core to itself: one release beside itself then came out 0.4 to 1.3 times as slow.
        """
        for pid in self.pids if len(self._cores) > 1 else ():
            with contextlib.suppress(OSError):  # it ended: its next answer will say so
                os.sched_setaffinity(pid, {self._cores[block % len(self._cores)]})

    def release(self) -> None:
        """Let both processes run where they like again."""
        for pid in self.pids if len(self._cores) > 1 else ():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(pid, set(self._cores))

    def add(self, latency: float, response: Any, exception: Any) -> None:
        """Count one answer, or what came instead of it."""
        if self.block < 0:
            return
        status = getattr(response, "status_code", 0)
        if exception is None and status == 200:
            self.latencies[self.target].append(round(latency, 4))
            self.blocks[self.target].append(self.block)
        else:
            self.failures[self.target] += 1
            reason = str(exception or f"status {status}")[:120]
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def _turns(step: Mapping[str, Any], rows: Sequence[bytes]) -> dict[str, Any]:
    """Send each row to both endpoints from one user: while one answers, the other one rests."""
    import gevent
    from locust.env import Environment

    tally = Tally(step["pids"])
    start = time.monotonic() + step["warmup"]

    def count(response_time: float, response: Any, exception: Any, **_: Any) -> None:
        tally.add(response_time, response, exception)

    environment = Environment(user_classes=[_alternate(step, itertools.cycle(rows), tally, start)])
    environment.events.request.add_listener(count)
    runner = environment.create_local_runner()
    runner.start(1, spawn_rate=1)
    gevent.sleep(step["warmup"] + step["seconds"])
    runner.quit()
    tally.enter(tally.block + 1)
    tally.release()
    told = ("latencies", "blocks", "cpu", "failures", "reasons")
    return {name: getattr(tally, name) for name in told} | {"seconds": step["seconds"]}


def _alternate(step: Mapping[str, Any], bodies: Iterator[bytes], tally: Tally, start: float) -> type:
    """Return a user that asks ABBA or BAAB with one row, so that neither is always the first."""
    from locust import FastHttpUser, task

    order = random.Random(step["seed"])  # noqa: S311 - not a secret

    class Alternate(FastHttpUser):  # type: ignore[misc]
        host = _origin(step["urls"][0])
        network_timeout = TIMEOUTS["network_timeout"]
        connection_timeout = TIMEOUTS["connection_timeout"]

        def wait_time(self) -> float:
            return 0.0

        @task  # type: ignore[untyped-decorator]
        def both(self) -> None:
            block = int((time.monotonic() - start) // step["block"])
            if block > tally.block and block >= 0:
                tally.enter(block)
            body, first = next(bodies), order.getrandbits(1)
            for target in (first, 1 - first, 1 - first, first):
                tally.target = target
                self.client.post(step["urls"][target], data=body, headers=HEADERS, name="predict")

    return Alternate


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds of a process, or None where the system does not tell (see `machine.meter`)."""
    import psutil

    from tidegate.machine import meter  # not before Locust, which wants to be first to import sockets

    try:
        return meter.cpu_seconds(psutil.Process(pid))
    except (psutil.Error, OverflowError):
        return None


if __name__ == "__main__":
    main()
