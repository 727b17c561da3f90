"""A copy of a release for a moment: its Bento, served by one process of ours on a free port.

Gates that compare two releases start both like this, the same way and at the same time, so that the
machine, the router and what else goes on there are the same for both.
"""

from __future__ import annotations

import itertools
import os
import shutil
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
GRACE = 15.0  # seconds to end in, when asked to

# Ends process $1 and removes folders $2 and $3 when its standard input ends, which a pipe does with the
# process that holds the other end, whatever killed that. A zombie that nobody buries is waited for in vain.
_GUARD = """
trap '' HUP INT TERM
read -r line
kill -TERM "$1" 2>/dev/null
rm -rf -- "$2" "$3"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do kill -0 "$1" 2>/dev/null || break; sleep 1; done
kill -KILL "$1" 2>/dev/null
"""


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
    metrics = store / "metrics" / str(port)  # where `tidegate/serve.py` keeps its counters
    with tempfile.TemporaryDirectory(prefix="tidegate-copy-") as folder:
        log = Path(folder) / "log"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            **bentos.serve_environment(store, record),
            **(extra or {}),
        }
        began = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                bentos.serve_command(record.bento.tag, port),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is this process's, which ends the copy in its own time
            )
        try:
            with _guarded(process.pid, folder, str(metrics)):
                url = f"http://127.0.0.1:{port}"
                _wait_ready(process, url, began + patience, record.id, log)
                yield Copy(url, process.pid, record.id, time.monotonic() - began)
        finally:
            _end(process)
            shutil.rmtree(metrics, ignore_errors=True)


@contextmanager
def _guarded(pid: int, *folders: str) -> Iterator[None]:
    """Have a copy ended by somebody else, too: a SIGTERM or SIGKILL of this process runs no `finally`."""
    guard = subprocess.Popen(
        ["sh", "-c", _GUARD, "tidegate-guard", str(pid), *folders],
        stdin=subprocess.PIPE,  # closed on exec: no other child of this process keeps it open
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()  # before its pipe is closed: from here on this process ends the copy
        guard.communicate()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str, deadline: float, release: str, log: Path) -> None:
    with httpx.Client(timeout=2.0) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                ready = client.get(f"{url}/readyz").status_code == 200
                if ready and process.poll() is None:  # else somebody else took the port
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
    said = _cause(log.read_text(errors="replace").strip().splitlines())
    ended = f"ended with {process.returncode}" if process.poll() is not None else "was not ready in time"
    raise PlatformError(
        f"a copy of release {release} {ended}: {said or 'it said nothing'}",
        "Start it by hand: `tidegate up --plane staging`, and read its log.",
    )


def _cause(lines: list[str]) -> str:
    """Return the exception that ends a log's first traceback, or its last line: what follows is aftermath."""
    inside = itertools.dropwhile(lambda line: not line.endswith("Traceback (most recent call last):"), lines)
    raised = (line for line in itertools.islice(inside, 1, None) if line and not line.startswith(" "))
    return next(raised, lines[-1] if lines else "")
