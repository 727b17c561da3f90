"""A real Prometheus for tests, and a small server of counters that it scrapes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.planes import eventually
from tidegate.machine.processes import free_ports


class Pages:
    """A server whose pages a test writes: path → (status, body). It notes each target that was asked, and
    counts connections."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.connections = 0
        pages = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                pages.connections += 1
                super().setup()

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                pages.asked.append(self.path)
                status, body = pages.pages.get(self.path.partition("?")[0], (404, b""))
                self.send_response(status)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.endpoint}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def queries(self) -> list[str]:
        """The queries that were asked, as they were meant."""
        given = [urllib.parse.parse_qs(urllib.parse.urlsplit(target).query) for target in self.asked]
        return [value for found in given for value in found.get("query", [])]

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def pages_up() -> Iterator[Pages]:
    """Pages that are gone at the end."""
    pages = Pages()
    try:
        yield pages
    finally:
        pages.close()


class Prometheus:
    """A Prometheus that scrapes one endpoint ten times a second, or does what a `configuration` says."""

    def __init__(self, folder: Path, endpoint: str, configuration: str = "") -> None:
        self._folder, self._endpoint, self._configuration = folder, endpoint, configuration
        self._port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        target = {"job_name": "releases", "static_configs": [{"targets": [self._endpoint]}]}
        every = {"scrape_interval": "100ms", "scrape_timeout": "100ms"}
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "prometheus.yml"  # JSON is YAML
        usual = json.dumps({"global": every, "scrape_configs": [target]})
        configuration.write_text(self._configuration or usual)
        command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={self._folder}/data"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{self._port}"], stdout=log, stderr=log
            )
        eventually(self._ready, 60)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def prometheus_up(folder: Path, endpoint: str, configuration: str = "") -> Iterator[Prometheus]:
    """Run Prometheus; skip where Debian's package is missing, except in CI, which installs it."""
    if not shutil.which("prometheus") and not os.environ.get("CI"):
        pytest.skip("no prometheus here: apt-get install prometheus")
    server = Prometheus(folder, endpoint, configuration)
    try:
        server.start()
        yield server
    finally:
        server.stop()
