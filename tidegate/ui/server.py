"""`tidegate ui` as a process: one server on the loopback, ended by Ctrl-C."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tidegate.errors import PlatformError
from tidegate.ui import guard
from tidegate.ui.app import make
from tidegate.ui.source import Source

HOST = "127.0.0.1"
GRACE = 2  # seconds for requests in flight at the end


def listen(port: int | Literal["auto"]) -> socket.socket:
    """Return a listening socket on the loopback. Raises PlatformError when the port is taken."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, 0 if port == "auto" else port))
        made.listen(64)
    except OSError as error:
        made.close()
        raise PlatformError(
            f"port {port} can't be listened on: {error.strerror}",
            "Name another by --port, or `ui.port: auto` in envs/platform.yaml.",
        ) from error
    return made


def serve(checkout: Path, port: int | Literal["auto"], told: Callable[[str, str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `told` gets the address without and with the token first."""
    import uvicorn

    with listen(port) as sock:
        source = Source(checkout)
        chosen = sock.getsockname()[1]
        token = guard.Token(source.home.root)
        address = f"http://{HOST}:{chosen}/"
        app = make(source, token, guard.names(chosen))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=GRACE,
        )
        try:
            # After a `#`, an address's part that is never sent and never logged.
            told(address, f"{address}#token={token.value}")
            uvicorn.Server(config).run(sockets=[sock])
        except KeyboardInterrupt:
            pass  # how it ends
        finally:
            token.forget()
            (source.home.root / OPENER).unlink(missing_ok=True)
            source.close()


OPENER = "ui.html"


def open_browser(folder: Path, link: str) -> None:
    """Open a browser by way of a private file: a command's arguments can be read by every user."""
    import html

    path = folder / OPENER
    guard.write_private(path, f'<meta http-equiv="refresh" content="0;url={html.escape(link)}">\n')
    webbrowser.open(path.as_uri())
