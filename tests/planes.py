"""A plane, tiny releases and load for tests: real Envoy and supervisord, small servers behind them."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidegate import planes
from tidegate.adapters.envoy import EnvoyMetrics, EnvoyRouter
from tidegate.adapters.supervisor import SupervisorWorkloads
from tidegate.config import Home
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.machine.layout import Layout
from tidegate.machine.processes import free_ports

TINY = str(Path(__file__).parent / "tiny_server.py")


def eventually(check: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until `check` is true; fail with its last value."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.02)


def tiny_record(number: int = 1, model: str = "toy") -> ReleaseRecord:
    """Return a record whose id depends on `number`."""
    digest = "sha256:" + "0" * 64
    return ReleaseRecord(
        model=model,
        commit=f"{number:040x}",
        pipeline=digest,
        registry=RegistryRef(model, number),
        artifact=digest,
        bento=BentoRef(f"{model}:{number}", digest),
        gates={"data": "PASS"},
    )


def tiny_command(record: ReleaseRecord, port: int) -> tuple[list[str], dict[str, str]]:
    """Run a release as a tiny server; its environment holds what is hard to quote."""
    return [sys.executable, TINY, str(port), record.id], {"ODD": "100% 'odd', a=b"}


def write_checkout(root: Path, port: int | str = "auto") -> Path:
    """Write an envs/ whose three environments have the usual two planes."""
    for env in ("staging", "canary", "production"):
        folder = root / "envs" / env
        folder.mkdir(parents=True)
        plane = "staging" if env == "staging" else "production"
        router = f"router: {{port: {port}}}\n" if env == "staging" else ""
        (folder / "platform.yaml").write_text(f"plane: {plane}\n{router}")
        (folder / "release.yaml").write_text("models: {}\n")
        (folder / "rollout.yaml").write_text("defaults: {}\n")
    return root


@dataclass(frozen=True)
class Plane:
    """A running plane without an agent."""

    checkout: Path
    home: Home
    url: str

    @property
    def layout(self) -> Layout:
        return Layout(self.home, "staging")

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def router(self) -> EnvoyRouter:
        return EnvoyRouter(self.layout.envoy, self.layout.admin)

    def metrics(self) -> EnvoyMetrics:
        return EnvoyMetrics(self.layout.admin)

    def workloads(self) -> SupervisorWorkloads:
        return SupervisorWorkloads(
            self.layout.folder,
            self.layout.supervisor,
            self.home.root / "bentoml",
            command=tiny_command,
            rows=lambda _: [{"warm": 1}, {"warm": 2}],
            targets=self.layout.targets,
        )

    def ask(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        """POST to the router; the body is in the answer's `.text`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, "{}", headers or {})
            answer = connection.getresponse()
            answer.text = answer.read().decode()  # type: ignore[attr-defined]
            return answer
        finally:
            connection.close()


@contextmanager
def plane_up(folder: Path) -> Iterator[Plane]:
    """Start a plane under `folder` and stop it, with all that runs on it, at the end."""
    checkout, home = write_checkout(folder / "checkout"), Home(folder / "home")
    try:
        yield Plane(checkout, home, planes.up(checkout, home, "staging", agent=False))
    finally:
        planes.down(home)
        assert not home.sockets.exists()


class Servers:
    """Tiny servers that no supervisor restarts, by endpoint."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, release: str, count: int = 1) -> tuple[str, ...]:
        """Start servers of one release; returns their endpoints once they answer."""
        ports = free_ports(count, [int(e.rsplit(":", 1)[1]) for e in self.processes])
        for port in ports:
            self.run(release, f"127.0.0.1:{port}")
        return tuple(f"127.0.0.1:{port}" for port in ports)

    def run(self, release: str, endpoint: str) -> None:
        """Start one server at an endpoint."""
        host, _, port = endpoint.rpartition(":")
        self.processes[endpoint] = subprocess.Popen(
            [sys.executable, TINY, port, release], stdout=subprocess.DEVNULL
        )

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        eventually(answers)

    def kill(self, *endpoints: str) -> None:
        """Kill servers by -9."""
        for endpoint in endpoints:
            process = self.processes.pop(endpoint)
            process.kill()
            process.wait()


@contextmanager
def tiny_servers() -> Iterator[Servers]:
    """Servers that are gone at the end."""
    servers = Servers()
    try:
        yield servers
    finally:
        servers.kill(*list(servers.processes))


class Load:
    """Callers that send without a break; `seen` counts (status or error, release)."""

    def __init__(self, plane: Plane, *paths: str) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self._plane = plane
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(path,)) for path in paths]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._plane.port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("POST", path, "{}")
                answer = connection.getresponse()
                answer.read()
                self.seen[str(answer.status), answer.headers.get("x-tidegate-release", "")] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[type(error).__name__, ""] += 1
                connection.close()
                time.sleep(0.05)

    @property
    def failed(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.seen.items() if key[0] != "200"}

    def answered(self, release: str) -> int:
        return self.seen["200", release]
