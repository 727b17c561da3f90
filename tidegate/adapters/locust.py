"""Load on an endpoint by Locust, in a child process: gevent patches sockets for a whole interpreter.

`python -m tidegate.adapters.locust` is that child: it reads a job as JSON from standard input and
writes what it measured to the file that the job names. Locust's own exit code and JSON are not used:
it exits 0 after zero requests, and its JSON has no percentiles.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tidegate.errors import NoData, PlatformError, Unreachable


@dataclass(frozen=True)
class Load:
    """What a run saw, after its warm-up: `latencies` in milliseconds of answered requests.

    `unanswered` counts the failures that got no HTTP answer at all; `failures` includes them.
    """

    requests: int
    failures: int
    unanswered: int
    seconds: float
    latencies: Sequence[float]
    reasons: Mapping[str, int]


def measure(
    url: str, rows: Sequence[Any], *, users: int, rate: float, seconds: float, warmup: float = 0.0
) -> Load:
    """POST `rows` in turn to `url` for `warmup` + `seconds`, and count after the warm-up.

    `rate` is requests a second over all users; 0 means as fast as answers come. Raises Unreachable when
    nothing answered at all, NoData when no request was made, PlatformError when Locust went wrong.
    """
    if not rows:
        raise NoData("there is no row to send", "Make the split with `dvc repro`.")
    _reach(url)
    with tempfile.TemporaryDirectory(prefix="tidegate-load-") as folder:
        out = Path(folder) / "measured.json"
        job = {"url": url, "rows": list(rows), "users": users, "rate": rate, "out": str(out)}
        job |= {"seconds": seconds, "warmup": warmup}
        limit = seconds + warmup + 60  # Locust's import and the last answers
        command = [sys.executable, "-m", "tidegate.adapters.locust"]
        try:
            done = subprocess.run(
                command, input=json.dumps(job), text=True, capture_output=True, timeout=limit
            )
        except subprocess.TimeoutExpired as error:
            raise PlatformError(
                f"Locust was not done after {limit:.0f} s", "Look at the endpoint."
            ) from error
        if done.returncode or not out.exists():
            tail = " ".join(done.stderr.strip().splitlines()[-1:])
            raise PlatformError(f"Locust ended with {done.returncode}: {tail}", "Run the gate again.")
        load = Load(**json.loads(out.read_text()))
    if not load.requests:
        raise NoData(f"no request was made to {url}", "Raise `duration` or `rate`.")
    if load.unanswered == load.requests:
        first = next(iter(load.reasons), "no answer")
        raise Unreachable(f"none of {load.requests} requests to {url} was answered: {first}", "Is it up?")
    return load


def _reach(url: str) -> None:
    """Say at once, and not after the whole run, that nobody listens."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"nobody listens at {url}: {error}", "Is the plane up? See `tidegate status`."
        ) from error


def _child() -> None:
    """Run one job of standard input; gevent must patch before anything else opens a socket."""
    import gevent.monkey  # type: ignore[import-untyped]

    gevent.monkey.patch_all()
    job = json.load(sys.stdin)
    import itertools
    import time

    import gevent
    from locust import FastHttpUser, constant_throughput, task
    from locust.env import Environment

    parts = urlsplit(job["url"])
    bodies = itertools.cycle([json.dumps(row).encode() for row in job["rows"]])
    headers = {"content-type": "application/json"}
    pace = {"wait_time": constant_throughput(job["rate"] / job["users"])} if job["rate"] else {}

    def predict(self: Any) -> None:
        self.client.post(parts.path, data=next(bodies), headers=headers, name="predict")

    user = type(
        "Replay",
        (FastHttpUser,),
        {
            "host": f"{parts.scheme}://{parts.netloc}",
            "predict": task(predict),
            "network_timeout": 10.0,
            **pace,
        },
    )
    counted: dict[str, Any] = {"requests": 0, "failures": 0, "unanswered": 0, "latencies": [], "reasons": {}}
    environment = Environment(user_classes=[user])
    runner = environment.create_local_runner()

    def count(response_time: float, response: Any, exception: Any, **_: Any) -> None:
        if time.monotonic() < begin:
            return
        counted["requests"] += 1
        answered = bool(getattr(response, "status_code", 0))
        if answered:
            counted["latencies"].append(round(response_time, 3))
        if exception is not None:
            counted["failures"] += 1
            counted["unanswered"] += not answered
            reason = str(exception)[:120]
            counted["reasons"][reason] = counted["reasons"].get(reason, 0) + 1

    begin = time.monotonic() + job["warmup"]
    environment.events.request.add_listener(count)
    runner.start(job["users"], spawn_rate=job["users"])
    gevent.sleep(job["warmup"] + job["seconds"])
    counted["seconds"] = round(time.monotonic() - begin, 3)
    runner.quit()
    Path(job["out"]).write_text(json.dumps(counted))


if __name__ == "__main__":
    _child()
