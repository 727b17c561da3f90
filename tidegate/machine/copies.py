"""A copy of a release for a moment: its Bento by one process of ours, or its image as a container of ours.

Gates that compare two releases start both like this, the same way and at the same time, so that the
machine, the router and what else goes on there are the same for both. Which way it is, is the plane's: what
is measured is what would run.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tidegate import bentos
from tidegate.core.release import ReleaseRecord
from tidegate.errors import PlatformError
from tidegate.machine.containers import Recipe, container
from tidegate.machine.engine import Engine
from tidegate.machine.engine import environment as engine_environment
from tidegate.machine.processes import free_ports

PATIENCE = 60.0  # seconds to ready
GRACE = 15.0  # seconds to end in, when asked to
_HINT = "Start it by hand: `tidegate up --plane staging`, and read its log."

# Ends process $1 and removes the folders $2 and on when its standard input ends, which a pipe does with the
# process that holds the other end, whatever killed that. A zombie that nobody buries is waited for in vain.
_GUARD = """
trap '' HUP INT TERM
read -r line
pid=$1
shift
kill -TERM "$pid" 2>/dev/null
rm -rf -- "$@"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do kill -0 "$pid" 2>/dev/null || break; sleep 1; done
kill -KILL "$pid" 2>/dev/null
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
    environment = {**bentos.serve_environment(store, record), **(extra or {})}
    command = bentos.serve_command(record.bento.tag, port)
    with launched(command, environment, port, folders=(metrics,)) as started:
        started.wait(patience, f"a copy of release {record.id}", _HINT)
        yield Copy(started.url, started.process.pid, record.id, time.monotonic() - started.began)


# Removes container $2 by engine $1 when its standard input ends, as above.
_SWEEPER = """
trap '' HUP INT TERM
read -r line
for pause in 0 3 15; do  # whoever was killed may have left an engine that is still making it
  sleep "$pause"
  "$1" rm --force "$2" >/dev/null 2>&1
done
"""


@contextmanager
def contain(recipe: Recipe, record: ReleaseRecord, *, patience: float = PATIENCE) -> Iterator[Copy]:
    """Serve a release's image as a container until the block ends, whatever ends it.

    Raises ReleaseNotFound when the image is not here or not the recorded one, PlatformError when it does not
    become ready, with the end of what it said.
    """
    image, engine = recipe.image(record), recipe.engine
    (port,) = free_ports(1)
    name = f"tidegate-copy-{record.id}-{port}-{os.getpid()}"
    environment, _ = Recipe(engine).environment(record, "")  # it logs nothing, and looks nothing up
    made = container(
        recipe,
        image,
        name=name,
        port=port,
        labels={},
        environment=environment,
        grace=int(GRACE),
        restart=False,
    )
    with _swept([engine.program, name]):
        began = time.monotonic()
        try:
            recipe.run(made)
            url = f"http://127.0.0.1:{port}"
            pid = _await_container(engine, name, url, began + patience, record.id)
            yield Copy(url, pid, record.id, time.monotonic() - began)
        finally:
            engine.stop([name], int(GRACE))
            engine.remove([name])


@contextmanager
def _swept(arguments: Sequence[str]) -> Iterator[None]:
    """Have a container removed by somebody else, too, as `_guarded` does with a process."""
    guard = subprocess.Popen(
        ["sh", "-c", _SWEEPER, "tidegate-guard", *arguments],
        env=engine_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def _await_container(engine: Engine, name: str, url: str, deadline: float, release: str) -> int:
    """Return the id of the container's process on this machine once it is ready; raises PlatformError."""
    pid, looked = engine.process(name), time.monotonic()
    with httpx.Client(timeout=2.0) as client:
        while pid and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{url}/readyz").status_code == 200 and engine.process(name):
                    return pid
            if time.monotonic() - looked > 1.0:  # the engine's program is no light question
                pid, looked = engine.process(name), time.monotonic()
            time.sleep(0.02)
    said = _cause(engine.words(name, 60))
    text = f"a container of release {release} {'was not ready in time' if pid else 'ended'}"
    raise PlatformError(f"{text}: {said or 'it said nothing'}", _HINT)


@dataclass(frozen=True)
class Launched:
    """A process that was just started, to answer at `url`; `log` is what it says."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    began: float

    def wait(self, patience: float, name: str, hint: str) -> None:
        """Return once it is ready; raises PlatformError, with the end of what it said, when it is not."""
        _wait_ready(self, self.began + patience, name, hint)


@contextmanager
def launched(
    command: Sequence[str], environment: Mapping[str, str], port: int, *, folders: Sequence[Path] = ()
) -> Iterator[Launched]:
    """Start a service process until the block ends, whatever ends it; `folders` are removed with it."""
    with tempfile.TemporaryDirectory(prefix="tidegate-copy-") as folder:
        log = Path(folder) / "log"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        began = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**kept, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is this process's, which ends the copy in its own time
            )
        try:
            with _guarded(process.pid, folder, *map(str, folders)):
                yield Launched(process, f"http://127.0.0.1:{port}", log, began)
        finally:
            _end(process)
            for other in folders:
                shutil.rmtree(other, ignore_errors=True)


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


def _wait_ready(started: Launched, deadline: float, name: str, hint: str) -> None:
    process, log = started.process, started.log
    with httpx.Client(timeout=2.0) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                ready = client.get(f"{started.url}/readyz").status_code == 200
                if ready and process.poll() is None:  # else somebody else took the port
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
    said = _cause(log.read_text(errors="replace").strip().splitlines())
    ended = f"ended with {process.returncode}" if process.poll() is not None else "was not ready in time"
    raise PlatformError(f"{name} {ended}: {said or 'it said nothing'}", hint)


def _cause(lines: list[str]) -> str:
    """Return the exception that ends a log's first traceback, or its last line: what follows is aftermath."""
    inside = itertools.dropwhile(lambda line: not line.endswith("Traceback (most recent call last):"), lines)
    raised = (line for line in itertools.islice(inside, 1, None) if line and not line.startswith(" "))
    return next(raised, lines[-1] if lines else "")
