"""One kept connection that posts rows in turn, as fast as answers come: what a gate makes a service work by.

It costs little beside the service that it asks, so a few thousand requests take a second. How long one
answer took is Locust's to say (`tidegate/adapters/locust.py`).
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httptools

from tidegate.errors import NoData

PATIENCE = 10.0  # seconds for one answer


class Caller:
    """Posts `rows` to `url`; counts what was `sent` and `failed` (no 2xx), and keeps the first `reason`."""

    def __init__(self, url: str, rows: Sequence[Any]) -> None:
        if not rows:
            raise NoData("there is no row to send", "Train the model again: its examples.json is empty.")
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        bodies = (json.dumps(row).encode() for row in rows)
        head = f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json"
        self._requests = itertools.cycle(
            [f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        )
        self._socket: socket.socket | None = None
        self.sent = 0
        self.failed = 0
        self.reason = ""

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._hang_up()

    def post(self, count: int) -> bool:
        """Post the next `count` rows; False, at once, when nobody listens any more."""
        for _ in range(count):
            self.sent += 1
            try:
                connection = self._connection()
            except OSError as error:
                self._fail(f"nobody listens: {error}")
                return False
            try:
                status = _ask(connection, next(self._requests))
            except (OSError, httptools.HttpParserError) as error:
                self._fail(f"no answer: {error or type(error).__name__}")
                self._hang_up()
                continue
            if not 200 <= status < 300:
                self._fail(f"answered {status}")
        return True

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _fail(self, reason: str) -> None:
        self.failed += 1
        self.reason = self.reason or reason


class _Answer:
    """What httptools calls back."""

    complete = False

    def on_message_complete(self) -> None:
        self.complete = True


def _ask(connection: socket.socket, request: bytes) -> int:
    """Return the status of one request's answer; raises OSError or HttpParserError when there is none."""
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    connection.sendall(request)
    while not answer.complete:
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError("the connection was closed")
        parser.feed_data(data)
    return int(parser.get_status_code())
