"""A unix socket between the agent and Envoy's admin interface: real HTTP that can be made to lie."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tidegate.errors import Unreachable
from tidegate.machine import unix_http

Lie = Callable[["Proxy", str], bytes | None]  # target → body; None: hang up without a word


class Proxy:
    """Passes each GET on to Envoy, or what `lie` makes of it. `admin` is where the agent asks."""

    def __init__(self, admin: Path, lie: Lie) -> None:
        self.admin, self.envoy, self.lie = admin, admin.with_suffix(".real"), lie
        self.first: dict[str, bytes] = {}  # the first answer to each question about counters
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Proxy:
        mine = self.admin.with_suffix(".proxy")
        for left in (mine, self.envoy):
            left.unlink(missing_ok=True)
        self._server.bind(str(mine))
        self._server.listen(64)
        os.link(self.admin, self.envoy)
        mine.rename(self.admin)  # at once: nobody finds no socket
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):  # Envoy was started anew meanwhile: its socket is there already
            self.envoy.rename(self.admin)
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)

    def ask(self, target: str) -> bytes:
        """Ask Envoy itself."""
        return unix_http.get(self.envoy, target)

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                asker, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(asker,), daemon=True).start()

    def _answer(self, asker: socket.socket) -> None:
        with asker, contextlib.suppress(OSError, Unreachable):
            head = b""
            while b"\r\n\r\n" not in head:
                part = asker.recv(65536)
                if not part:
                    return
                head += part
            target = head.split(b" ", 2)[1].decode()
            if target.startswith("/stats") and target not in self.first:
                self.first[target] = self.ask(target)
            body = self.lie(self, target)
            if body is not None:
                asker.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


def _about_counters(answer: Callable[[Proxy, str], bytes | None]) -> Lie:
    """Lie about the counters alone; all else is Envoy's own word."""
    return lambda proxy, target: answer(proxy, target) if target.startswith("/stats") else proxy.ask(target)


def _mute(proxy: Proxy, target: str) -> bytes | None:
    time.sleep(20)  # longer than anybody waits
    return None


def _nan(proxy: Proxy, target: str) -> bytes:
    found = json.loads(proxy.ask(target))
    for item in found["stats"]:
        if "value" in item:
            item["value"] = float("nan")
    return json.dumps(found).encode()


def _restarted(proxy: Proxy, target: str) -> bytes:
    """What Envoy would say had it begun to count when the lie began."""
    before = {i["name"]: i["value"] for i in json.loads(proxy.first[target])["stats"] if "value" in i}
    found = json.loads(proxy.ask(target))
    for item in found["stats"]:
        if "value" in item and not item["name"].endswith("_active"):
            item["value"] = max(0, item["value"] - before.get(item["name"], 0))
    return json.dumps(found).encode()


LIES: dict[str, Lie] = {
    "unavailable": lambda proxy, target: None,
    "counters unavailable": _about_counters(lambda proxy, target: None),
    "mute": _about_counters(_mute),
    "frozen": _about_counters(lambda proxy, target: proxy.first[target]),
    "empty": _about_counters(lambda proxy, target: b'{"stats": []}'),
    "no JSON": _about_counters(lambda proxy, target: b"upstream connect error"),
    "NaN": _about_counters(_nan),
    "reset": _about_counters(_restarted),
}


@contextlib.contextmanager
def lying(admin: Path, how: str) -> Iterator[Any]:
    """Let the admin interface lie for a while."""
    with Proxy(admin, LIES[how]) as proxy:
        yield proxy
