"""A plane for faults: stand-in releases, requests without a break, an onlooker, and ways to do harm."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.rig import Onlooker, Rig, Traffic, eventually
from tests.faults.ledger import Memory, Watch
from tests.faults.standin import MODEL, StandIns
from tidegate.adapters.envoy import EnvoyRouter
from tidegate.core.release import ReleaseRecord
from tidegate.core.release_file import set_release
from tidegate.machine.supervisord import Supervisord

RATE = 100.0  # requests a second
CHECKS = [{"name": "errors", "metric": "error-rate", "limit": "20%", "againstStable": {"tolerance": "100%"}}]
COMMON = {
    "checks": CHECKS,
    "interval": "0.25s",
    "progressDeadline": "10m",
    "scaleDownDelay": "20s",
    "consecutiveErrorLimit": 1000,
}
CANARY = {**COMMON, "steps": [{"setWeight": 40, "pause": {"duration": "0.2s", "minRequests": 10}}]}
PRODUCTION = {
    **COMMON,
    "steps": [{"setWeight": 100, "pause": {"duration": "0.2s", "minRequests": 10}}],
    "requiredSoakTime": "0.2s",
}
ROLLOUTS = {"canary": CANARY, "production": PRODUCTION}
# Looks four times a second: what is measured is how a fault is got over, not how long a plan's steps take.
TIMING = {"interval": "0.25s", "poll": "0.5s", "lease": "3s"}


class FaultPlane(Rig):
    """A rig whose releases are stand-ins, with requests and an onlooker all its life."""

    def __init__(
        self,
        root: Path,
        rollouts: Mapping[str, Mapping[str, Any]] = ROLLOUTS,
        replicas: int = 2,
        agent: Mapping[str, str] = TIMING,
    ) -> None:
        root.mkdir(exist_ok=True)
        self.made = StandIns(root)
        super().__init__(root, rollouts, replicas, made=self.made, model=MODEL, agent=agent)
        self.traffic: Traffic
        self.onlooker: Onlooker
        self.stable: ReleaseRecord

    # ------------------------------------------------------------ life
    @contextlib.contextmanager
    def running(self, rate: float = RATE) -> Iterator[FaultPlane]:
        """Start it with a first release in production, and leave no process at the end."""
        try:
            self.up()
            self.stable = self.made.fresh()
            with Traffic(self.url, rate, 8, ({"x": 1},), MODEL) as self.traffic:
                self.settle(self.stable)
                with Onlooker(self) as self.onlooker:
                    yield self
        finally:
            self.down()

    def router(self) -> EnvoyRouter:
        """Return the router as Envoy itself shows it, whatever the agent is told."""
        real = self.layout.admin.with_suffix(".real")
        return EnvoyRouter(self.layout.envoy, real if real.exists() else self.layout.admin)

    def rest(self) -> None:
        """Bring the plane back to one sound release with nothing under way."""
        self.traffic.quiet.clear()
        stable = self.wanted("production")
        self.stable = self.made.known[stable]  # a run that failed may have left another one
        path = "envs/canary/release.yaml"
        if self.wanted("canary") != stable:
            self.push({path: set_release(self.says(path), MODEL, stable)}, "Rest")
        try:
            eventually(self.at_rest, "the plane rests", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.state()}") from error

    def state(self) -> dict[str, Any]:
        """Return what tells whether it is at rest."""
        return {
            "weights": self.weights(),
            "problems": self.problems(),
            "replicas": len(self.replicas(self.stable.id)),
            "holder": self.holder(),
            "phase": self.line("canary").get("phase"),
        }

    def at_rest(self) -> bool:
        """Tell whether stable alone serves, by all of its replicas, and nothing is wrong."""
        found = self.state()
        phase = found.pop("phase")
        rests = {"weights": {self.stable.id: 100}, "problems": [], "replicas": 2, "holder": self.name}
        return found == rests and phase not in ("Pending", "Progressing", "Verified", "RollingBack")

    @property
    def name(self) -> str:
        """What the supervised agent calls itself in the plane's lease."""
        return f"{socket.gethostname()}:{self.home.root}"

    def holder(self) -> str:
        """Return who holds the plane's lease."""
        with contextlib.closing(sqlite3.connect(self.home.root / "state.db")) as connection:
            found = connection.execute("SELECT holder FROM leases WHERE plane = ?", (self.layout.plane,))
            return str((found.fetchone() or ("",))[0])

    def watch(
        self, fault: str, *news: ReleaseRecord, blamed: bool = False, planned: set[int] | None = None
    ) -> Watch:
        """Begin to watch a fault. `news` are candidates, whose answers may fail if they are `blamed`."""
        made = Watch(
            fault,
            self.traffic,
            self.onlooker,
            Memory(self.home.root / "state.db", self.layout.plane),
            self.stable.id,
        )
        made.news = [record.id for record in news]
        made.blamed = made.news if blamed else []
        made.planned = {0, 40}
        return made

    # ------------------------------------------------------------ ends
    def tried(self, record: ReleaseRecord) -> Callable[[], bool]:
        """Return a check: the canary has verified a release, and the router serves it as planned."""
        reached, split = self.reached("canary", record.id, "Verified"), {self.stable.id: 60, record.id: 40}
        return lambda: reached() and self.weights() == split

    def promoted(self, record: ReleaseRecord) -> Callable[[], bool]:
        """Return a check: production rests on a release."""
        reached = self.reached("production", record.id, "Healthy")
        return lambda: reached() and self.weights() == {record.id: 100}

    def left(self, record: ReleaseRecord) -> Callable[[], bool]:
        """Return a check: a release was rolled back, in the router and in Git."""
        return lambda: (
            self.weights() == {self.stable.id: 100}
            and self.wanted("canary") == self.stable.id == self.wanted("production")
            and bool(self.rejection(record.id))
            and self.line("canary").get("phase") not in ("Pending", "Progressing", "Verified", "RollingBack")
        )

    def settled(self, record: ReleaseRecord) -> None:
        """From now on this is the release that production rests on."""
        self.stable = record

    # ------------------------------------------------------------ harm
    def bare(self, *words: str) -> str:
        """Run git in the origin itself."""
        return self._run("git", *words, cwd=self.origin)

    def supervisord(self) -> Supervisord:
        return Supervisord(self.layout.supervisor)

    def stop_agent(self) -> None:
        """Stop the supervised agent for good."""
        self.supervisord().signal_stop("agent")
        eventually(lambda: not self._state("agent")["pid"], "the agent has stopped", 30)

    def start_agent(self) -> None:
        """Start it again."""
        self.supervisord().restart("agent")

    def _state(self, name: str) -> dict[str, Any]:
        return self.supervisord().processes()[name]

    def envoy(self) -> psutil.Process:
        """Return the router's process."""
        (found,) = self.members(str(self.layout.envoy / "bootstrap.json"))
        return found

    def end_agent(self, number: int = signal.SIGKILL) -> bool:
        """Send the agent a signal; False when there is none just now."""
        pid = self.agent()
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)
                return True
        return False

    def agent_command(self) -> subprocess.Popen[str]:
        """Start another agent as a person might by mistake."""
        return subprocess.Popen(
            [sys.executable, "-m", "tidegate", "agent", "--plane", self.layout.plane],
            cwd=self.clone,
            env={**self.environment, "TIDEGATE_INSTANCE": str(self.home.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def canary(self, record: ReleaseRecord) -> None:
        """Merge a promotion to canary."""
        self.promote(record, "canary")

    def both(self, record: ReleaseRecord) -> None:
        """Merge a promotion to canary and production."""
        self.promote(record, "canary", "production")
