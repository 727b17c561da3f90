"""Who may ask what of the pages: this machine's browsers read, whoever holds the token acts.

- Only names of the loopback are accepted as `Host`, so that no foreign name can be pointed here (DNS
  rebinding), and only their own origin may send anything.
- What changes something needs the token in a header. No cookie is used: cookies are shared by all ports of
  a host, and are sent by foreign pages. A header needs a script of the same origin, or a program.
- No script, style or frame but our own is run.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 4 * 1024 * 1024  # bytes of a body: 10,000 outcomes with long ids
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# A kept page is somebody's report: it may look as it likes, and do nothing.
SANDBOXED = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
READS = ("GET", "HEAD")
FILE = "ui.token"


class Token:
    """The secret that acting needs: made anew for each server, kept in a file that only its user can read."""

    def __init__(self, folder: Path) -> None:
        self.value, self._path = secrets.token_urlsafe(32), folder / FILE
        write_private(self._path, f"{self.value}\n")

    def given(self, headers: Headers) -> bool:
        """Tell whether a request brings it, as `x-tidegate-token` or as a bearer's; in constant time."""
        bearer = headers.get("authorization", "").partition("Bearer ")[2]
        said = headers.get("x-tidegate-token") or bearer
        return hmac.compare_digest(said.strip().encode(), self.value.encode())

    def forget(self) -> None:
        """Remove the file, unless another server has put its own there."""
        with suppress(OSError):
            if self._path.read_text().strip() == self.value:
                self._path.unlink()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its user can read, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    fresh.replace(path)


def names(port: int) -> frozenset[str]:
    """Return the values of `Host` that mean this server."""
    hosts = ("127.0.0.1", "localhost")
    return frozenset({f"{host}:{port}" for host in hosts} | (set(hosts) if port == 80 else set()))


class Guard:
    """ASGI middleware that refuses by the rules above, and adds the headers that browsers hold to."""

    def __init__(self, app: ASGIApp, token: Token, hosts: Collection[str]) -> None:
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            raise RuntimeError(f"nothing here speaks {scope['type']}")
        refused = self._refuse(scope["method"], Headers(scope=scope))
        # A request that outlasts the server's end is cut off: nobody waits for it, and it is no error.
        with suppress(asyncio.CancelledError):
            await (refused or self.app)(scope, _limited(receive), _hardened(send))

    def _refuse(self, method: str, headers: Headers) -> PlainTextResponse | JSONResponse | None:
        if headers.getlist("host") != [host for host in headers.getlist("host")[:1] if host in self.hosts]:
            return PlainTextResponse("This server is only for the machine that it runs on.\n", 421)
        if method in READS:
            return None
        origins = {f"http://{host}" for host in self.hosts}
        if headers.get("origin", next(iter(origins))) not in origins:
            return JSONResponse({"error": "another page may not send anything here"}, 403)
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return JSONResponse({"error": "another page may not send anything here"}, 403)
        if not self.token.given(headers):
            error = "acting needs the token: open the link that `tidegate ui` printed"
            return JSONResponse({"error": error}, 401)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return JSONResponse({"error": "send JSON, with `content-type: application/json`"}, 415)
        size = headers.get("content-length", "0")
        if not size.isdecimal() or int(size) > LARGEST:
            return JSONResponse({"error": f"a body has at most {LARGEST} bytes: send it in parts"}, 413)
        return None


class TooLarge(Exception):
    """A body without a length turned out too large."""


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST:
            raise TooLarge
        return message

    return limited


def _hardened(send: Send) -> Send:
    async def hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("content-security-policy", POLICY)
            headers.setdefault("cache-control", "no-store")
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = "no-referrer"
            headers["cross-origin-resource-policy"] = "same-origin"
            headers["cross-origin-opener-policy"] = "same-origin"
            headers["permissions-policy"] = "camera=(), geolocation=(), microphone=()"
        await send(message)

    return hardened
