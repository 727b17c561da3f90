"""A small model endpoint on a free port that behaves, or misbehaves as a test asks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

REQUIRED = {"origin": str, "distance": (int, float)}


def judge(body: bytes) -> tuple[int, dict[str, Any]]:
    """Answer as a well-kept service of two fields and an optional object `weather` does."""
    try:
        row = json.loads(body, parse_constant=lambda _: "not a number")
    except ValueError:
        return 400, {"error": {"field": "body", "reason": "is not JSON"}}
    if not isinstance(row, dict):
        return 422, {"error": {"field": "body", "reason": "is no object"}}
    for name, kind in REQUIRED.items():
        if not isinstance(row.get(name), kind):
            return 422, {"error": {"field": name, "reason": "is required"}}
    if not isinstance((row.get("weather") or {}).get("temp", 0.0), int | float):
        return 422, {"error": {"field": "weather.temp", "reason": "is no number"}}
    return 200, {"probability": 0.25, "release": "aaaaaaaaaaaa", "model_version": "1"}


@contextmanager
def serve(fault: Any = None) -> Iterator[str]:
    """Serve `POST /toy/predict` and yield the base URL.

    `fault(count, body, status, answer)` may change a request's answer: it returns status and answer,
    or None to hang up. `count` is the number of the request, from 1.
    """
    seen = {"requests": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet, or Nagle and delayed ACK cost 40 ms

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, answer = judge(body) if self.path == "/toy/predict" else (404, {})
            answer["request_id"] = self.headers.get("x-request-id", "made-here")
            seen["requests"] += 1
            if fault is not None:
                changed = fault(seen["requests"], body, status, answer)
                if changed is None:
                    self.close_connection = True
                    return
                status, answer = changed
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("x-request-id", str(answer.get("request_id", "")))
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # a client that hung up

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/toy"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def slow(seconds: float) -> Any:
    """Return a fault that makes every answer late."""

    def fault(count: int, body: bytes, status: int, answer: dict[str, Any]) -> Any:
        time.sleep(seconds)
        return status, answer

    return fault
