"""A checkout with a stored status, and an agent that follows what it is asked: pages are tested on it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tidegate.adapters.sqlite import SqliteInbox, SqliteState
from tidegate.agent.locks import agent_lock
from tidegate.ports import Event
from tidegate.ui import guard
from tidegate.ui.app import make
from tidegate.ui.server import listen
from tidegate.ui.source import Source

STABLE, CANDIDATE = "88d0417c2a90", "3f9c02a7b51e"


def finding(
    name: str, verdict: str, observed: str, limit: str, log_evidence: float, **more: Any
) -> dict[str, Any]:
    """A check as `analysis.CheckResult.as_dict` says it."""
    return {
        "name": name,
        "verdict": verdict,
        "observed_text": observed,
        "limit_text": limit,
        "log_evidence": log_evidence,
        "threshold": 400.0,
        "reason": f"{name} {observed}, limit {limit}",
        "against": log_evidence > 1.1,
        **more,
    }


def paused(now: float) -> dict[str, Any]:
    """A canary that waits for an approval."""
    waits = "50% waits for `tidegate approve`"
    return {
        "release": CANDIDATE,
        "phase": "Paused",
        "weight": 25,
        "reason": waits,
        "waits": "approve",
        "step": 1,
        "seen": 812,
        "stable": STABLE,
        "strategy": "canary",
        "steps": [{"weight": 5}, {"weight": 25}, {"weight": 50, "manual": True}],
        "pause_until": now - 5,
        "deadline": now + 3700,
        "alpha": 0.01,
        "findings": [
            finding("errors", "INCONCLUSIVE", "0.9%", "1%", -0.6),
            finding("errors-vs-stable", "INCONCLUSIVE", "3.1%", "1.25 × stable's 1% (100/10000)", 2.42),
            finding("latency", "PASS", "0.2% over 200 ms", "1% over 200 ms", -3.9),
            finding(
                "drift", "ERROR", "–", "0.05", 0.0, reason="drift: nothing was counted yet", dry_run=True
            ),
        ],
    }


def healthy(weight: int) -> dict[str, Any]:
    """What production runs."""
    line = {"release": STABLE, "phase": "Healthy", "weight": weight, "reason": "", "step": None, "seen": None}
    return {**line, "stable": None, "findings": []}


def checkout(root: Path) -> Path:
    """A checkout with nothing in it, in no repository."""
    clone = root / "clone"
    for environment in ("staging", "canary", "production"):
        folder = clone / "envs" / environment
        folder.mkdir(parents=True)
        (folder / "release.yaml").write_text("models: {}\n")
        (folder / "platform.yaml").write_text("plane: production\n" if environment == "canary" else "")
    return clone


def with_history(clone: Path) -> Path:
    """Make a checkout a clone whose origin names a release in production, promoted and rolled back once."""
    origin = clone.parent / "origin.git"
    git = ["git", "-c", "user.name=anna", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(origin)], check=True)
    subprocess.run(["git", "init", "-q", "-b", "main", str(clone)], check=True)
    subprocess.run(["git", "remote", "add", "origin", str(origin)], cwd=clone, check=True)
    for release, why in ((STABLE, "Promote"), (CANDIDATE, "Promote"), (STABLE, "Revert")):
        path = clone / "envs" / "production" / "release.yaml"
        path.write_text(f"models:\n  flight-delay: {release}\n")
        bad = (
            "\n\nTidegate-Verdict: FAIL\nTidegate-Observed: 4%\nTidegate-Limit: 1%" if why == "Revert" else ""
        )
        subprocess.run(["git", "add", "envs"], cwd=clone, check=True)
        subprocess.run([*git, "commit", "-qm", f"{why} <b>{release}</b>{bad}"], cwd=clone, check=True)
    subprocess.run(["git", "push", "-q", "origin", "HEAD:main"], cwd=clone, check=True)
    return clone


class Plane:
    """The production plane of a checkout: `tell` stores what its agent would."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.home = folder, folder / ".tidegate"
        self.state = SqliteState(self.home / "state.db")
        self.inbox = SqliteInbox(self.home / "state.db")
        self.models: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def tell(
        self, model: str, events: tuple[str, ...] = (), problems: tuple[str, ...] = (), **lines: Any
    ) -> None:
        """Store a model's line by environment, and what happened."""
        self.models[model] = {**self.models.get(model, {}), **lines}
        fence = self.state.acquire("production", "test", time.time(), 60)
        status = {
            "plane": "production",
            "url": "http://127.0.0.1:1",
            "commit": "1a2b3c4d",
            "models": self.models,
        }
        told = [Event(time.time(), "production", model, CANDIDATE, "weight", text) for text in events]
        self.state.save("production", {"status": {**status, "problems": list(problems)}}, told, fence)

    @contextmanager
    def agent(self) -> Iterator[None]:
        """Answer what is asked as an agent would: an approval moves the weight, all else is refused."""
        over = threading.Event()

        def run() -> None:
            with agent_lock(self.home / "planes" / "production"):
                ready.set()
                while not over.is_set():
                    for request in self.inbox.pending("production"):
                        self.inbox.done(
                            "production", request.id, self._follow(request.kind, dict(request.payload))
                        )
                    over.wait(0.02)

        ready = threading.Event()
        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(10)
        try:
            yield
        finally:
            over.set()
            thread.join(10)

    def _follow(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((kind, payload))
        line = self.models.get(payload["model"], {}).get("canary")
        if kind != "approve" or line is None or line["phase"] != "Paused":
            return {"accepted": False, "text": f"nothing waits for {kind}"}
        moved = {**line, "phase": "Progressing", "weight": 50, "step": 2, "reason": "", "waits": ""}
        self.tell(payload["model"], ("canary: weight 25 → 50",), canary=moved, production=healthy(50))
        return {"accepted": True, "text": "50% follows"}

    def close(self) -> None:
        self.state.close()
        self.inbox.close()


class Served:
    """The pages of a checkout, served by a thread."""

    def __init__(self, folder: Path) -> None:
        self.source, self.socket = Source(folder), listen("auto")
        self.port = self.socket.getsockname()[1]
        self.token = guard.Token(folder / ".tidegate")
        app = make(self.source, self.token, guard.names(self.port))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        end = time.monotonic() + 20
        while not self.server.started and time.monotonic() < end:
            time.sleep(0.01)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def link(self) -> str:
        return f"{self.url}/#token={self.token.value}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()
        self.source.close()
