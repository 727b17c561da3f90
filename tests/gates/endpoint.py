"""A small model endpoint on a free port that behaves, or misbehaves as a test asks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

NUMBER = {"type": "number", "minimum": 0, "maximum": 5000}
WEATHER = {"type": "object", "properties": {"temp": {"type": "number"}}, "additionalProperties": False}
REQUEST = {
    "type": "object",
    "properties": {
        "origin": {"type": "string", "maxLength": 40},
        "distance": NUMBER,
        "weather": {"anyOf": [WEATHER, {"type": "null"}]},
    },
    "required": ["origin", "distance"],
    "additionalProperties": False,
}
ANSWER = {
    "type": "object",
    "properties": {"probability": {"type": "number", "minimum": 0, "maximum": 1}},
    "required": ["probability"],
}


def document(request: Any = REQUEST, answer: Any = ANSWER) -> dict[str, Any]:
    """Return what this service publishes."""
    body = {"required": True, "content": {"application/json": {"schema": request}}}
    answers = {"200": {"content": {"application/json": {"schema": answer}}}}
    return {"openapi": "3.1.0", "paths": {"/predict": {"post": {"requestBody": body, "responses": answers}}}}


DOCUMENT = document()


def blame(row: Any) -> str:
    """Return the field that is not what it should be, or nothing."""
    if not isinstance(row, dict):
        return "body"
    weather = row.get("weather")
    if weather is not None and not isinstance(weather, dict):
        return "weather"
    unknown = [name for name in row if name not in ("origin", "distance", "weather")]
    unknown += [f"weather.{name}" for name in weather or {} if name != "temp"]
    if unknown:
        return unknown[0]
    origin, distance = row.get("origin"), row.get("distance")
    if not isinstance(origin, str) or len(origin) > 40 or "\ud800" in origin:
        return "origin"
    if not _number(distance) or not 0 <= distance <= 5000:
        return "distance"
    return "weather.temp" if weather and not _number(weather.get("temp", 0)) else ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def judge(body: bytes) -> tuple[int, dict[str, Any]]:
    """Answer as a well-kept service of two fields and an optional object `weather` does."""
    try:
        if len(body) > 65536:
            return 413, {"error": {"field": "body", "reason": "is too large"}}
        row = json.loads(body.decode(), parse_int=float)
    except (ValueError, RecursionError):
        return 400, {"error": {"field": "body", "reason": "is not JSON"}}
    field = blame(row)
    if field:
        return 422, {"error": {"field": field, "reason": "is not what it should be"}}
    return 200, {"probability": 0.25, "release": "aaaaaaaaaaaa", "model_version": "1"}


@contextmanager
def serve(fault: Any = None, published: Any = DOCUMENT) -> Iterator[str]:
    """Serve `POST /toy/predict` and `GET /toy/openapi.json` (unless it is empty); yield the base URL.

    `fault(count, body, status, answer)` may change a request's answer: it returns status and answer,
    or None to hang up. `count` is the number of the request, from 1.
    """
    seen = {"requests": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet, or Nagle and delayed ACK cost 40 ms

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.command != "POST":
                status, answer = 405, {"error": {"field": "method", "reason": "must be POST"}}
            else:
                status, answer = judge(body) if self.path == "/toy/predict" else (404, {})
            answer["request_id"] = self.headers.get("x-request-id", "made-here")
            seen["requests"] += 1
            if fault is not None:
                changed = fault(seen["requests"], body, status, answer)
                if changed is None:
                    self.close_connection = True
                    return
                status, answer = changed
            self.send(status, answer)

        do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815 - the names are http.server's

        def do_GET(self) -> None:
            if self.path == "/toy/openapi.json":
                self.send(200 if published else 404, published or {})
            else:
                self.do_POST()

        def send(self, status: int, answer: Any) -> None:
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
