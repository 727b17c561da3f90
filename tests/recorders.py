"""Releases that run in the test's own process, and remember every request that reached them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Received:
    """One request as a release got it."""

    path: str
    headers: dict[str, str]  # names in small letters
    body: str


@dataclass
class Release:
    """A release's server: what reached it, the status that it answers, whether it answers at all.

    `told` are headers that it puts into its answers.
    """

    name: str
    endpoint: str = ""
    status: int = 200
    told: dict[str, str] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)

    @property
    def at(self) -> tuple[str, ...]:
        """Its endpoints, as a route has them."""
        return (self.endpoint,)

    def ids(self) -> list[str]:
        """The ids of the requests that it got."""
        return [request.headers["x-request-id"] for request in self.received]


@contextmanager
def recorder(name: str) -> Iterator[Release]:
    """Run a release until the end of the block."""
    release = Release(name)
    release.answering.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            if self.path != "/readyz":
                headers = {key.lower(): value for key, value in self.headers.items()}
                release.received.append(Received(self.path, headers, body))
                release.answering.wait(20)
            self.send_response(release.status if self.path != "/readyz" else 200)
            for key, value in release.told.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Say nothing of a caller who left before the answer."""

    server = Server(("127.0.0.1", 0), Handler)
    release.endpoint = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield release
    finally:
        release.answering.set()
        server.shutdown()
        server.server_close()
        thread.join()
