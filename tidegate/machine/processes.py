"""Processes and ports of this machine: who carries a mark, who listens where, which port is free."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Collection, Mapping

import psutil

from tidegate.errors import PlatformError

# Below the range from which systems take the ports of outgoing connections (Linux: 32768, macOS: 49152),
# so that no connection of somebody's happens to sit on a port that a restarted process needs.
_PORTS = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Tell whether 127.0.0.1:`port` can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int, avoid: Collection[int] = ()) -> tuple[int, ...]:
    """Return distinct free ports of 127.0.0.1, none of them in `avoid`; PlatformError if there are none."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if port not in avoid and is_free(port):
            found.append(port)
        if len(found) == count:
            return tuple(found)
    raise PlatformError(
        f"no {count} free ports from {_PORTS.start} to {_PORTS.stop - 1}", "Stop what holds them."
    )


def listens(pid: int, port: int) -> bool:
    """Tell whether a process or one of its descendants listens on a TCP port."""
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            for connection in process.net_connections("tcp"):
                address = connection.laddr
                if connection.status == psutil.CONN_LISTEN and address and address.port == port:
                    return True
    except psutil.Error:
        return False
    return False


def listener(port: int) -> str:
    """Return who listens on a TCP port, as `name (pid 12)`, or an empty string if it can't be told."""
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not address:
                continue
            if address.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return ""
    return ""


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds; 0 for one that is gone, or hidden."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0


def carrying(mark: Mapping[str, str]) -> list[psutil.Process]:
    """Return the processes in whose environment all of `mark` stands; never this one or its ancestors."""
    own = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # another user's, or gone
        if all(environment.get(key) == value for key, value in mark.items()):
            found.append(process)
    return found


def gone(members: Collection[psutil.Process], patience: float) -> bool:
    """Wait until processes have ended; False if some have not within `patience` seconds.

    A zombie has ended: in a container whose first process reaps nobody, it would be waited for in vain.
    """
    deadline = time.monotonic() + patience
    while any(_alive(process) for process in members):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(members: Collection[psutil.Process], grace: float = 5.0) -> int:
    """Ask processes to end, then kill those that have not after `grace` seconds; returns how many."""
    for action, patience in (("terminate", grace), ("kill", 5.0)):
        for process in members:
            with contextlib.suppress(psutil.Error):
                getattr(process, action)()
        if gone(members, patience):
            break
    return len(members)


def end_with(parent: int) -> None:
    """End this process, whatever it is doing, once `parent` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
