"""Asks the service beside it whether it is ready: an image's health check. Exit code 0 is yes.

It is a copy in the image, run by `python -I`, so it uses nothing but Python. The port is that of the first
process's `--port`: whoever starts the container with another one need say so only once.
"""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

SECONDS = 4.0


def port_of(command: list[str], otherwise: int = 3000) -> int:
    """Return the port in a command's words: `--port 8001` or `--port=8001`."""
    for index, word in enumerate(command):
        name, equals, value = word.partition("=")
        if name == "--port":
            told = value if equals else "".join(command[index + 1 : index + 2])
            return int(told) if told.isdecimal() else otherwise
    return otherwise


def main(command: Path = Path("/proc/1/cmdline")) -> int:
    """Return 0 when the service answers that it is ready, 1 when not, with what it said."""
    port = port_of(command.read_bytes().decode(errors="replace").split("\0"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read(300).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"port {port}: {error}")
        return 1
    print(f"port {port}: {answer.status} {said}")
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
