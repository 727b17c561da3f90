"""A copy of a release for a moment: its Bento, served by one process of ours on a free port.

Gates that compare two releases start both like this, the same way and at the same time, so that the
machine, the router and what else goes on there are the same for both.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tidegate import bentos
from tidegate.core.release import ReleaseRecord
from tidegate.errors import PlatformError
from tidegate.machine.processes import free_ports

PATIENCE = 60.0  # seconds to ready


@dataclass(frozen=True)
class Copy:
    """A served copy: `POST {url}/predict`; `ready_after` seconds from start to the first ready answer."""

    url: str
    pid: int
    release: str
    ready_after: float


@contextmanager
def serve(
    store: Path, record: ReleaseRecord, *, extra: Mapping[str, str] | None = None, patience: float = PATIENCE
) -> Iterator[Copy]:
    """Serve a release's Bento from `store` until the block ends, whatever ends it.

    `extra` is added to the process's environment. Raises ReleaseNotFound when the Bento is not there or not
    the one of the record, PlatformError when it does not become ready, with the end of what it said.
    """
    bentos.verify(store, record)
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="tidegate-copy-") as folder:
        log = Path(folder) / "log"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            **bentos.serve_environment(store, record),
            **(extra or {}),
        }
        with log.open("wb") as out:
            began = time.monotonic()
            process = subprocess.Popen(
                bentos.serve_command(record.bento.tag, port),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(process, url, began + patience, record.id, log)
            yield Copy(url, process.pid, record.id, time.monotonic() - began)
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str, deadline: float, release: str, log: Path) -> None:
    with httpx.Client(timeout=2.0) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(f"{url}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
    said = log.read_text(errors="replace").strip().splitlines()
    ended = f"ended with {process.returncode}" if process.poll() is not None else "was not ready in time"
    raise PlatformError(
        f"a copy of release {release} {ended}: {said[-1] if said else 'it said nothing'}",
        "Start it by hand: `tidegate up --plane staging`, and read its log.",
    )
