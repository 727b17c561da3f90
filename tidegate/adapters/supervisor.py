"""Workloads as processes under a plane's supervisord: one program a replica, each on a port of its own."""

from __future__ import annotations

import fcntl
import http.client
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidegate import bentos
from tidegate.core.release import ReleaseRecord
from tidegate.errors import PlatformError, Unreachable
from tidegate.machine import processes
from tidegate.machine.placements import STOP_GRACE, Command, Placed, Placements
from tidegate.machine.supervisord import ALIVE, Supervisord
from tidegate.machine.targets import Targets
from tidegate.ports import Replica, ReplicaState, Workload

PROBE_TIMEOUT = 0.25  # seconds
PATIENT_PROBES = 4  # a ready replica too busy to answer fewer probes than this in a row is still ready
log = logging.getLogger(__name__)
_WARM_UP = {"content-type": "application/json", "x-tidegate-warm": "1"}  # the service counts none of these
_READY, _BUSY = "ready", "no answer in time"
Rows = Callable[[str], Sequence[Mapping[str, Any]]]


class SupervisorWorkloads:
    """Workloads of one plane. `folder` is the plane's, `bentos_home` the Bento store.

    `command(record, port)` gives command and environment of a replica, `rows(bento tag)` its warm-up
    requests; both default to what Bentos bring, with `environment` besides: where a service finds what is not
    its own. `targets` is the file that tells Prometheus of the replicas.
    """

    def __init__(
        self,
        folder: Path,
        socket: Path,
        bentos_home: Path,
        *,
        command: Command | None = None,
        rows: Rows | None = None,
        targets: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._placements = Placements(folder)
        self._supervisord = Supervisord(socket)
        self._bentos = bentos_home
        self._environment = dict(environment or {})
        self._targets = Targets(targets) if targets else None
        self._command = command or self._serve
        self._rows = rows or (lambda tag: bentos.warmup_rows(bentos.bento_path(bentos_home, tag)))
        self._probes = ThreadPoolExecutor(max_workers=16, thread_name_prefix="probe")
        self._looked: set[Path] = set()  # Bentos whose packages were compared: one warning each
        self._stopping: set[str] = set()  # programs that are just being stopped: not to be started again
        self._seen: dict[str, tuple[int, int]] = {}  # program → (pid that was ready, probes missed since)

    def start(self, record: ReleaseRecord, replicas: int, copy: bool = False) -> None:
        """Start a release; of one that was started, only what has stopped, given up or is wanted besides.

        With another number of replicas than before, the first ones go on as they are. A `copy` runs beside
        the release itself, on its own ports and under its own name (`copy_of`); the service can't tell.

        Raises ReleaseNotFound, Unreachable (no supervisord).
        """
        wanted = Placed(record, (), copy)
        while any(name.startswith(f"{wanted.name}.") for name in tuple(self._stopping)):
            time.sleep(0.05)
        with self._lock():
            known = self._supervisord.processes()
            placed = self._placements.read()
            taken = {port for other in placed.values() for port in other.ports}
            found = placed.get((record.model, wanted.release))
            if found is None:
                # Without its file, what supervisord still runs of it sits on ports that nobody knows.
                self._end([name for name in known if name.startswith(f"{wanted.name}.")])
                found = replace(wanted, ports=processes.free_ports(replicas, taken))
                self._placements.write(found, self._command)
                known = self._supervisord.processes()
            elif len(found.ports) != replicas:
                found = self._resize(found, replicas, taken)
            self._ensure(found, known)

    def _resize(self, found: Placed, replicas: int, taken: Collection[int]) -> Placed:
        # The file first: after a crash, what it no longer names is ended by the next look.
        more = processes.free_ports(max(1, replicas - len(found.ports)), taken)
        resized = replace(found, ports=(*found.ports, *more)[:replicas])
        self._placements.write(resized, self._command)
        self._end(found.programs[replicas:])
        return resized

    def stop(self, model: str, release: str) -> None:
        """Stop a release's processes and wait until they are gone; Unreachable when they don't go."""
        prefix = f"{model}.{release}."
        with self._lock():
            mine = {name for name in self._supervisord.processes() if name.startswith(prefix)}
            self._stopping |= mine
        try:
            # Without the lock: one that hangs has STOP_GRACE to end, and a release to go back to must not
            # wait for it with its start.
            self._supervisord.signal_stop(*mine)
            self._await_end(mine)
            with self._lock():
                # The file goes last: a crash before that leaves a release that is still listed and can be
                # stopped again, never processes that nobody knows.
                self._end([name for name in self._supervisord.processes() if name.startswith(prefix)])
                self._placements.forget(f"{model}.{release}")
        finally:
            self._stopping -= mine

    def _await_end(self, names: Collection[str]) -> None:
        """Wait until none of these programs runs, as long as supervisord gives them; then `_end` goes on."""
        deadline = time.monotonic() + STOP_GRACE + 5
        while time.monotonic() < deadline:
            known = self._supervisord.processes()
            if not any(known[name]["pid"] for name in names if name in known):
                return
            time.sleep(0.05)

    def list(self) -> Sequence[Workload]:
        """Return every started release with its replicas' states; raises Unreachable.

        It also puts right what it finds: a program that was stopped by hand or half started is started,
        one without a file is ended, a replica whose port somebody else has taken gets another.
        """
        placed = [found for _, found in sorted(self._placements.read().items())]
        known = self._supervisord.processes()
        self._converge(known, placed)
        if self._targets:
            self._targets.tell(placed)
        ports = [port for found in placed for port in found.ports]
        answers = dict(zip(ports, self._probes.map(_probe, ports), strict=True))
        result = []
        for found in placed:
            replicas = []
            for name, port in zip(found.programs, found.ports, strict=True):
                replica = self._judge(name, port, known.get(name), answers[port])
                if replica.state is ReplicaState.FAILED and known.get(name) and self._lost(name, port):
                    replica = Replica(replica.endpoint, ReplicaState.FAILED, self._move(found, name, port))
                pid = int((known.get(name) or {}).get("pid", 0))
                replicas.append(replace(replica, memory=processes.resident(pid)))
            result.append(Workload(found.record.model, found.release, tuple(replicas)))
        return result

    def warm(self, model: str, release: str) -> None:
        """Send each warm-up row to each replica; raises Unreachable unless each is answered by 200."""
        found = self._placements.read().get((model, release))
        if found is None:
            raise Unreachable(f"{model} {release} was not started", "Start it first.")
        rows = [json.dumps(row) for row in self._rows(found.record.bento.tag)]
        for name, port in zip(found.programs, found.ports, strict=True):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                for row in rows:
                    connection.request("POST", "/predict", row, _WARM_UP)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        raise Unreachable(
                            f"{name} answered {answer.status} to its warm-up",
                            f"Look at {self._placements.log(name)}.",
                        )
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(
                    f"{name} did not answer its warm-up ({error})", f"Look at {self._placements.log(name)}."
                ) from error
            finally:
                connection.close()

    # ---------------------------------------------------------------- what a replica is
    def _judge(self, name: str, port: int, info: Mapping[str, Any] | None, answer: str) -> Replica:
        """Supervisord's word and the probe's answer → the replica."""
        endpoint = f"127.0.0.1:{port}"
        if info is None:
            return Replica(endpoint, ReplicaState.STARTING, "supervisord does not run it yet")
        if info["statename"] not in ALIVE:
            return Replica(endpoint, ReplicaState.FAILED, self._reason(name, info))
        pid, missed = self._seen.get(name, (0, 0))
        if answer == _READY:
            # Somebody else's server on our port may answer 200 as well: look once who it is.
            if pid != info["pid"] and not processes.listens(info["pid"], port):
                return Replica(endpoint, ReplicaState.FAILED, f"port {port} is another program's")
            self._seen[name] = (info["pid"], 0)
            return Replica(endpoint, ReplicaState.READY)
        if answer == _BUSY and pid == info["pid"] and missed + 1 < PATIENT_PROBES:
            self._seen[name] = (pid, missed + 1)
            return Replica(endpoint, ReplicaState.READY, f"busy: {missed + 1} probes without an answer")
        return Replica(endpoint, ReplicaState.STARTING, answer)

    def _reason(self, name: str, info: Mapping[str, Any]) -> str:
        try:
            with self._placements.log(name).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4096))
                lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        except OSError:
            lines = []
        said = " | ".join([line for line in lines if line][-5:])
        return f"{info['statename']} {info['spawnerr']}: {said}"

    def _lost(self, name: str, port: int) -> bool:
        """Tell whether somebody else holds a replica's port."""
        if processes.is_free(port):
            return False
        info = self._supervisord.processes().get(name)
        return info is not None and not (info["pid"] and processes.listens(info["pid"], port))

    def _move(self, found: Placed, name: str, port: int) -> str:
        """Give one replica another port; its siblings go on."""
        with self._lock(wait=False) as mine:
            if not mine:
                return "its port is taken; it will be moved"
            placed = self._placements.read()
            now = placed.get((found.record.model, found.release))
            if now != found:
                return "was changed meanwhile"
            taken = {p for other in placed.values() for p in other.ports}
            new = processes.free_ports(1, taken)[0]
            ports = tuple(new if p == port else p for p in found.ports)
            self._end([name])
            self._placements.write(replace(found, ports=ports), self._command)
            self._supervisord.add(name)
        return f"port {port} was taken by {processes.listener(port) or 'another program'}; moved to {new}"

    # ---------------------------------------------------------------- processes
    def _converge(self, known: Mapping[str, Any], placed: Sequence[Placed]) -> None:
        """Make supervisord run what the files say, whatever crashed or was done by hand."""
        strays = set(_workloads(known)) - {name for found in placed for name in found.programs}
        if not strays and not any(set(_idle(found, known)) - self._stopping for found in placed):
            return
        with self._lock(wait=False) as mine:  # look again: somebody may have been about to start one
            if not mine:
                return
            placed = tuple(self._placements.read().values())
            kept = {name for found in placed for name in found.programs}
            known = self._supervisord.processes()
            # Workloads without a file (it was damaged): nobody could reach or stop them otherwise.
            self._end([name for name in _workloads(known) if name not in kept])
            for found in placed:
                self._ensure(found, known)

    def _ensure(self, found: Placed, known: Mapping[str, Any]) -> None:
        """Have each program of a release known to supervisord, and none of them stopped or given up."""
        for name in set(_idle(found, known)) - self._stopping:
            if name in known:
                self._supervisord.restart(name)
            else:
                self._supervisord.add(name)

    def _end(self, names: Sequence[str]) -> None:
        """Stop programs, wait until they are gone, make supervisord forget them."""
        left = sorted(names)
        deadline = time.monotonic() + STOP_GRACE + 5
        while left:
            self._supervisord.signal_stop(*left)
            self._supervisord.remove(*left)
            known = self._supervisord.processes()
            left = [name for name in left if name in known]
            if time.monotonic() > deadline:
                raise Unreachable(f"{', '.join(left)} did not stop", "Look at supervisord.log.")
            time.sleep(0.05 if left else 0)
        for name in names:
            processes.end(processes.carrying(self._placements.mark(name)))

    @contextmanager
    def _lock(self, *, wait: bool = True) -> Iterator[bool]:
        """One change at a time, over threads and processes; without `wait`, yields whether it is ours.

        A look (`list`) never waits: a release that is being stopped holds the lock for seconds.
        """
        path = self._folder / "workloads.lock"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            opened = path.open("w")
        except OSError as error:
            raise PlatformError(
                f"can't write {path}: {error.strerror}", "Make room or give access to it."
            ) from error
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _serve(self, record: ReleaseRecord, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        path = bentos.verify(self._bentos, record)
        differing = bentos.other_packages(path) if path not in self._looked else []
        self._looked.add(path)
        if differing:
            log.warning(
                "%s is served by packages that it was not locked with: %s. Run `make setup` at its commit.",
                record.bento.tag,
                "; ".join(differing),
            )
        environment = {**self._environment, **bentos.serve_environment(self._bentos, record)}
        return bentos.serve_command(record.bento.tag, port), environment


def _workloads(programs: Collection[str]) -> Iterator[str]:
    """The programs that are replicas: `<model>.<release>.<index>`; envoy and agent have no dots."""
    return (name for name in programs if name.count(".") >= 2)


def _idle(found: Placed, known: Mapping[str, Any]) -> Sequence[str]:
    """The programs of a release that nobody will start: EXITED and BACKOFF come back by themselves."""
    return [n for n in found.programs if n not in known or known[n]["statename"] in ("STOPPED", "FATAL")]


def _probe(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except TimeoutError:
        return _BUSY
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return _READY if status == 200 else f"/readyz answered {status}"
