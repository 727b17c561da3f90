"""A front before a real service: it hands requests on; a fault may change, delay or drop what comes of them.

    def slower(asked: Asked, ask: Ask) -> Reply | None:
        time.sleep(0.02)
        return ask(asked)

    with front(url, slower) as faulty: ...

What stands behind is a real copy of a release, so a fault spoils real answers.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE = 30.0  # seconds for an answer of the real service
HOP = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive", "host", "date", "server"})


@dataclass(frozen=True)
class Asked:
    """One request: `path` is relative to the real service's address, `number` counts from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    number: int

    def with_json(self, value: Any) -> Asked:
        """Return the request with another body."""
        return replace(self, body=json.dumps(value).encode())


@dataclass(frozen=True)
class Reply:
    """One answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's content, or None when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def with_json(self, value: Any, status: int = 0) -> Reply:
        """Return the answer with another body, and another status if one is given."""
        return Reply(status or self.status, self.headers, json.dumps(value).encode())


Ask = Callable[[Asked], Reply]
Twist = Callable[[Asked, Ask], Reply | None]  # None hangs up without an answer


def faithful(asked: Asked, ask: Ask) -> Reply | None:
    """Hand everything on as it is."""
    return ask(asked)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a fault may sleep longer than anybody waits for it
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hung up is what faults are about."""


@contextmanager
def front(url: str, twist: Twist = faithful) -> Iterator[str]:
    """Serve a front before the service at `url` until the block ends, and yield the front's address."""
    target = urllib.parse.urlsplit(url)
    numbers, kept = itertools.count(1), threading.local()

    def ask(asked: Asked) -> Reply:
        for last in (False, True):  # a connection that was kept may have been closed since
            connection = getattr(kept, "connection", None)
            if connection is None:
                connection = http.client.HTTPConnection(target.netloc, timeout=PATIENCE)
                kept.connection = connection
            try:
                connection.request(asked.method, target.path + asked.path, asked.body, dict(asked.headers))
                answer = connection.getresponse()
                headers = {name.lower(): value for name, value in answer.getheaders()}
                return Reply(answer.status, headers, answer.read())
            except (http.client.HTTPException, OSError):
                connection.close()
                kept.connection = None
                if last:
                    raise
        raise AssertionError("the second try returns or raises")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet, or Nagle and delayed ACK cost 40 ms

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            given = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            reply = twist(Asked(self.command, self.path, given, body, next(numbers)), ask)
            if reply is None:
                self.close_connection = True
                return
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                if name not in HOP:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: Any) -> None:
            """Keep a gate's output its own."""

    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
