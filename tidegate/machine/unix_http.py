"""HTTP over a unix socket: how Envoy's admin interface and supervisord are spoken to."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from tidegate.errors import Unreachable


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a socket file."""

    def __init__(self, path: Path | str, timeout: float = 5.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


def get(path: Path, target: str, timeout: float = 5.0) -> bytes:
    """Return the body of one GET; raises Unreachable unless it is answered by 200."""
    return _ask("GET", path, target, timeout)


def post(path: Path, target: str, timeout: float = 5.0) -> bytes:
    """Return the body of one POST without a body; raises Unreachable unless it is answered by 200."""
    return _ask("POST", path, target, timeout)


def _ask(method: str, path: Path, target: str, timeout: float) -> bytes:
    connection = UnixConnection(path, timeout)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(
            f"no answer from {path} ({error or type(error).__name__})",
            "If it does not come back by itself, run `tidegate up`.",
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise Unreachable(f"{path} answered {answer.status} to {target.split('?')[0]}", "Look at its log.")
    return body
