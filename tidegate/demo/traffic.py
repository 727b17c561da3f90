"""The crowd: Locust users who ask what the model's demo.py wrote, through production's router.

Run as a program this file is a locustfile; imported it starts and watches that program.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

USERS = 12


def users(rows: Path, log: Path, model: str, rate: int, seed: int = 7) -> type:
    """Return the Locust user class; each answer becomes a line `at,ok,release,milliseconds` of `log`.

    `rate` is of requests a second, all users together.
    """
    from locust import FastHttpUser, constant_throughput, task

    asked = [json.loads(line) for line in rows.read_text().splitlines()]
    out = log.open("a", buffering=1)
    choose = random.Random(seed)  # noqa: S311 - who asks what is no secret

    class Asker(FastHttpUser):  # type: ignore[misc]
        """Asks one thing after the other."""

        wait_time = constant_throughput(rate / USERS)
        network_timeout = 10.0
        connection_timeout = 5.0

        @task  # type: ignore[untyped-decorator]
        def ask(self) -> None:
            """Ask once."""
            began = time.time()
            with self.client.post(
                f"/{model}/predict", json=choose.choice(asked), catch_response=True
            ) as answer:
                now = time.time()
                fine = answer.status_code == 200
                release = (answer.headers or {}).get("x-tidegate-release", "") or ""
                out.write(f"{now:.3f},{int(fine)},{release},{(now - began) * 1000:.1f}\n")
                answer.success() if fine else answer.failure(f"status {answer.status_code}")

    return Asker


class Traffic:
    """A running crowd."""

    def __init__(self, url: str, rows: Path, log: Path, model: str, output: Path, rate: int) -> None:
        environment = {
            **os.environ,
            "TIDEGATE_DEMO_ROWS": str(rows),
            "TIDEGATE_DEMO_LOG": str(log),
            "TIDEGATE_DEMO_MODEL": model,
            "TIDEGATE_DEMO_RATE": str(rate),
        }
        command = [sys.executable, "-m", "locust", "-f", str(Path(__file__)), "--headless", "--host", url]
        command += ["--users", str(USERS), "--spawn-rate", str(USERS), "--only-summary", "--skip-log"]
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it and wait."""
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


if "TIDEGATE_DEMO_ROWS" in os.environ and "locust" in sys.modules:
    Asker = users(
        Path(os.environ["TIDEGATE_DEMO_ROWS"]),
        Path(os.environ["TIDEGATE_DEMO_LOG"]),
        os.environ["TIDEGATE_DEMO_MODEL"],
        int(os.environ["TIDEGATE_DEMO_RATE"]),
    )
