"""One agent a plane on this machine: a lock that the kernel lets go when its holder dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.errors import PlatformError


def _path(plane_folder: Path) -> Path:
    return plane_folder / "agent.lock"


@contextmanager
def agent_lock(plane_folder: Path) -> Iterator[None]:
    """Hold the plane's lock; raises PlatformError when another agent on this machine has it."""
    plane_folder.mkdir(parents=True, exist_ok=True)
    with _path(plane_folder).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PlatformError(
                f"an agent runs plane {plane_folder.name} already", "Use it, or stop it by `tidegate down`."
            ) from error
        yield


def agent_runs(plane_folder: Path) -> bool:
    """Tell whether an agent on this machine holds the plane's lock."""
    path = _path(plane_folder)
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
