"""Releases as replicas that something keeps alive: supervisord or a container engine, each on a port.

`Kept` is the part of a plane's workloads that does not depend on who keeps them: which releases were placed
on which ports, what a replica's probe says, how a port that somebody took is left, and when to wait for whom.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tidegate.core.release import ReleaseRecord
from tidegate.errors import PlatformError, Unreachable
from tidegate.machine import processes
from tidegate.machine.placements import STOP_GRACE, Placed, Placements
from tidegate.machine.targets import Targets
from tidegate.ports import Replica, ReplicaState, Workload

PROBE_TIMEOUT = 0.25  # seconds
PATIENT_PROBES = 4  # a ready replica too busy to answer fewer probes than this in a row is still ready
_WARM_UP = {"content-type": "application/json", "x-tidegate-warm": "1"}  # the service counts none of these
_READY, _BUSY = "ready", "no answer in time"
Rows = Callable[[str], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Instance:
    """What a keeper knows of one replica: `pid` is 0 when nothing runs.

    `alive` runs or is just starting, `idle` is started by nobody, `said` is why it does not run. `port` is
    where it was started, 0 where its placement is all that says so; `looping` ends again and again.
    """

    pid: int = 0
    alive: bool = False
    idle: bool = False
    said: str = ""
    port: int = 0
    looping: bool = False


class Keeper(Protocol):
    """Runs programs by their names, restarts those that end, and tells of them. All may raise Unreachable."""

    name: str  # as a reader knows it

    def known(self, *, fresh: bool = False) -> Mapping[str, Instance]:
        """Return what is known of each replica by name; not `fresh`, it may be a moment old."""

    def place(self, placements: Placements, placed: Placed) -> None:
        """Write down where a release's replicas are. Raises ReleaseNotFound for one that can't run here."""

    def launch(self, placed: Placed, names: Collection[str]) -> None:
        """Start these replicas of a release; nothing for one that runs."""

    def signal_stop(self, names: Collection[str]) -> None:
        """Begin to stop replicas, without waiting; they have STOP_GRACE seconds to end."""

    def remove(self, names: Collection[str]) -> None:
        """Forget replicas that have stopped; leave the others."""

    def ended(self, names: Collection[str]) -> None:
        """End what replicas that were removed may have left behind."""

    def holds(self, instance: Instance, port: int) -> bool:
        """Tell whether it is this replica that listens on a port."""

    def lost(self, name: str, port: int) -> bool:
        """Tell whether somebody else holds a replica's port."""

    def words(self, name: str, instance: Instance) -> str:
        """Return why a replica does not run, with its last words."""

    def log(self, name: str) -> str:
        """Return where a person reads what a replica said."""


class Kept:
    """Workloads of one plane, kept by `keeper`; `rows(Bento's tag)` gives warm-up requests.

    `targets` is the file that tells Prometheus of the replicas.
    """

    def __init__(
        self, placements: Placements, keeper: Keeper, rows: Rows, *, targets: Path | None = None
    ) -> None:
        self._placements = placements
        self._keeper = keeper
        self._targets = Targets(targets) if targets else None
        self._rows = rows
        self._probes = ThreadPoolExecutor(max_workers=16, thread_name_prefix="probe")
        self._stopping: set[str] = set()  # replicas that are just being stopped: not to be started again
        self._seen: dict[str, tuple[int, int]] = {}  # replica → (pid that was ready, probes missed since)

    def start(self, record: ReleaseRecord, replicas: int, copy: bool = False) -> None:
        """Start a release; of one that was started, only what has stopped, given up or is wanted besides.

        With another number of replicas than before, the first ones go on as they are. A `copy` runs beside
        the release itself, on its own ports and under its own name (`copy_of`); the service can't tell.

        Raises ReleaseNotFound, Unreachable (nobody keeps it).
        """
        wanted = Placed(record, (), copy)
        while any(name.startswith(f"{wanted.name}.") for name in tuple(self._stopping)):
            time.sleep(0.05)
        with self._lock():
            known = self._keeper.known(fresh=True)
            placed = self._placements.read()
            taken = {port for other in placed.values() for port in other.ports}
            found = placed.get((record.model, wanted.release))
            if found is None:
                # Without its file, what still runs of it sits on ports that nobody knows.
                self._end([name for name in known if name.startswith(f"{wanted.name}.")])
                found = replace(wanted, ports=processes.free_ports(replicas, taken))
                self._keeper.place(self._placements, found)
                known = self._keeper.known(fresh=True)
            elif len(found.ports) != replicas or found.record != record:  # whose images may be made anew
                found = self._resize(replace(found, record=record), replicas, taken)
            self._ensure(found, known)

    def _resize(self, found: Placed, replicas: int, taken: Collection[int]) -> Placed:
        # The file first: after a crash, what it no longer names is ended by the next look.
        more = processes.free_ports(max(1, replicas - len(found.ports)), taken)
        resized = replace(found, ports=(*found.ports, *more)[:replicas])
        self._keeper.place(self._placements, resized)
        self._end(found.programs[replicas:])
        return resized

    def stop(self, model: str, release: str) -> None:
        """Stop a release's replicas and wait until they are gone; Unreachable when they don't go."""
        prefix = f"{model}.{release}."
        with self._lock():
            mine = {name for name in self._keeper.known(fresh=True) if name.startswith(prefix)}
            self._stopping |= mine
        try:
            # Without the lock: one that hangs has STOP_GRACE to end, and a release to go back to must not
            # wait for it with its start.
            self._keeper.signal_stop(mine)
            self._await_end(mine)
            with self._lock():
                # The file goes last: a crash before that leaves a release that is still listed and can be
                # stopped again, never replicas that nobody knows.
                left = self._keeper.known(fresh=True)
                self._end([name for name in left if name.startswith(prefix)])
                self._placements.forget(f"{model}.{release}")
        finally:
            self._stopping -= mine

    def _await_end(self, names: Collection[str]) -> None:
        """Wait until none of these replicas runs, as long as they are given; then `_end` goes on."""
        deadline = time.monotonic() + STOP_GRACE + 5
        while time.monotonic() < deadline:
            known = self._keeper.known(fresh=True)
            if not any(known[name].pid for name in names if name in known):
                return
            time.sleep(0.05)

    def list(self) -> Sequence[Workload]:
        """Return every started release with its replicas' states; raises Unreachable.

        It also puts right what it finds: a replica that was stopped by hand or half started is started,
        one without a file is ended, one whose port somebody else has taken gets another.
        """
        placed = [found for _, found in sorted(self._placements.read().items())]
        known = self._keeper.known()
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
                if replica.state is ReplicaState.FAILED and self._keeper.lost(name, port):
                    replica = Replica(replica.endpoint, ReplicaState.FAILED, self._move(found, name, port))
                memory = processes.resident((known.get(name) or Instance()).pid)
                replicas.append(replace(replica, memory=memory))
            result.append(Workload(found.record.model, found.release, tuple(replicas)))
        return result

    def warm(self, model: str, release: str) -> None:
        """Send each warm-up row to each replica; raises Unreachable unless each is answered by 200."""
        found = self._placements.read().get((model, release))
        if found is None:
            raise Unreachable(f"{model} {release} was not started", "Start it first.")
        rows = [json.dumps(row) for row in self._rows(found.record.bento.tag)]
        for name, port in zip(found.programs, found.ports, strict=True):
            look = f"Look at {self._keeper.log(name)}."
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                for row in rows:
                    connection.request("POST", "/predict", row, _WARM_UP)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        raise Unreachable(f"{name} answered {answer.status} to its warm-up", look)
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"{name} did not answer its warm-up ({error})", look) from error
            finally:
                connection.close()

    # ---------------------------------------------------------------- what a replica is
    def _judge(self, name: str, port: int, instance: Instance | None, answer: str) -> Replica:
        """The keeper's word and the probe's answer → the replica."""
        endpoint = f"127.0.0.1:{port}"
        if instance is None:
            return Replica(endpoint, ReplicaState.STARTING, f"{self._keeper.name} does not run it yet")
        if not instance.alive:
            return Replica(endpoint, ReplicaState.FAILED, self._keeper.words(name, instance))
        pid, missed = self._seen.get(name, (0, 0))
        if answer == _READY:
            # Somebody else's server on our port may answer 200 as well: look once who it is.
            if pid != instance.pid and not self._keeper.holds(instance, port):
                return Replica(endpoint, ReplicaState.FAILED, f"port {port} is another program's")
            self._seen[name] = (instance.pid, 0)
            return Replica(endpoint, ReplicaState.READY)
        if answer == _BUSY and pid == instance.pid and missed + 1 < PATIENT_PROBES:
            self._seen[name] = (pid, missed + 1)
            return Replica(endpoint, ReplicaState.READY, f"busy: {missed + 1} probes without an answer")
        if instance.looping:
            return Replica(endpoint, ReplicaState.FAILED, self._keeper.words(name, instance))
        return Replica(endpoint, ReplicaState.STARTING, answer)

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
            moved = replace(found, ports=tuple(new if p == port else p for p in found.ports))
            self._end([name])
            self._keeper.place(self._placements, moved)
            self._keeper.launch(moved, [name])
        return f"port {port} was taken by {processes.listener(port) or 'another program'}; moved to {new}"

    # ---------------------------------------------------------------- what runs
    def _converge(self, known: Mapping[str, Instance], placed: Sequence[Placed]) -> None:
        """Make the keeper run what the files say, whatever crashed or was done by hand."""
        strays = set(known) - {name for found in placed for name in found.programs}
        if not strays and not any(set(_idle(found, known)) - self._stopping for found in placed):
            return
        with self._lock(wait=False) as mine:  # look again: somebody may have been about to start one
            if not mine:
                return
            placed = tuple(self._placements.read().values())
            kept = {name for found in placed for name in found.programs}
            known = self._keeper.known(fresh=True)
            # Replicas without a file (it was damaged): nobody could reach or stop them otherwise.
            self._end([name for name in known if name not in kept])
            for found in placed:
                self._ensure(found, known)

    def _ensure(self, found: Placed, known: Mapping[str, Instance]) -> None:
        """Have each replica of a release known to the keeper, and none of them stopped or given up."""
        names = set(_idle(found, known)) - self._stopping
        if names:
            self._keeper.launch(found, sorted(names))

    def _end(self, names: Collection[str]) -> None:
        """Stop replicas, wait until they are gone, make the keeper forget them."""
        left = sorted(names)
        deadline = time.monotonic() + STOP_GRACE + 5
        while left:
            self._keeper.signal_stop(left)
            self._keeper.remove(left)
            known = self._keeper.known(fresh=True)
            left = [name for name in left if name in known]
            if left and time.monotonic() > deadline:
                text = f"Look at {self._keeper.log(left[0])}."
                raise Unreachable(f"{', '.join(left)} did not stop", text)
            time.sleep(0.05 if left else 0)
        if names:
            self._keeper.ended(names)

    @contextmanager
    def _lock(self, *, wait: bool = True) -> Iterator[bool]:
        """One change at a time, over threads and processes; without `wait`, yields whether it is ours.

        A look (`list`) never waits: a release that is being stopped holds the lock for seconds.
        """
        path = self._placements.folder / "workloads.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
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


def _idle(found: Placed, known: Mapping[str, Instance]) -> Sequence[str]:
    """The replicas of a release that nobody will start, or that somebody started on another port."""
    pairs = zip(found.programs, found.ports, strict=True)
    return [n for n, p in pairs if n not in known or known[n].idle or known[n].port not in (0, p)]


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
