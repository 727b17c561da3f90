"""One agent a plane on this machine: a lock that the kernel lets go when its holder dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tidegate.errors import PlatformError

PATIENCE = 1.0  # seconds for somebody who only asks whether an agent runs, as `status` does


def _path(plane_folder: Path) -> Path:
    return plane_folder / "agent.lock"


@contextmanager
def agent_lock(plane_folder: Path) -> Iterator[None]:
    """Hold the plane's lock; raises PlatformError when another agent on this machine has it."""
    plane_folder.mkdir(parents=True, exist_ok=True)
    with _path(plane_folder).open("a") as file:
        end = time.monotonic() + PATIENCE
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() >= end:
                raise PlatformError(
                    f"an agent runs plane {plane_folder.name} already",
                    "Use it, or stop it by `tidegate down`.",
                )
            time.sleep(0.02)
        yield


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def agent_runs(plane_folder: Path) -> bool:
    """Tell whether an agent on this machine holds the plane's lock."""
    path = _path(plane_folder)
    if not path.exists():
        return False
    with path.open("a") as file:
        return not _locked(file, fcntl.LOCK_SH)
