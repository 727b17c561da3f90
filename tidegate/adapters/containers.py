"""Workloads as containers of podman or docker: one a replica, each published on a loopback port of its own.

The engine restarts one whose process fails, also while no agent runs; a look puts right whatever else
happened to them. What runs is known by labels, where it has to run by the placements' files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from tidegate import bentos
from tidegate.core.containers import Mount
from tidegate.errors import TidegateError
from tidegate.machine import containers, processes
from tidegate.machine.containers import Recipe, called, container, shared
from tidegate.machine.engine import Seen
from tidegate.machine.keeping import Instance, Kept, Rows
from tidegate.machine.placements import ANSWERS, STOP_GRACE, Placed, Placements

LOOK = 5.0  # seconds between two questions to the engine while every process that it told of is there
LOOPING = 3  # restarts without an answer, after which a replica has failed
LONGEST_PAUSE = 60.0  # seconds between two starts of one that fails
CALM = 300.0  # seconds after which an earlier failure counts no more
INSIDE_ANSWERS = f"{containers.INSIDE}/answers"
_RUNS = ("running", "restarting", "stopping", "created", "configured", "initialized")
_LEFT = ("created", "configured", "initialized", "paused", "exited", "stopped", "dead")
log = logging.getLogger(__name__)


class ContainerWorkloads(Kept):
    """Workloads of the plane `at` (`machine.containers.mark`), whose folder is `folder`.

    `recipe` says how they run, `rows(bento tag)` gives warm-up requests: by default those of the Bentos in
    `bentos_home`, where it has them. `targets` is the file that tells Prometheus of the replicas; `holding`
    is kept as long as this is.
    """

    def __init__(
        self,
        folder: Path,
        at: str,
        recipe: Recipe,
        bentos_home: Path,
        *,
        rows: Rows | None = None,
        targets: Path | None = None,
        holding: object = None,
    ) -> None:
        placements = Placements(folder, recipe.engine.program)
        self._holding = holding
        super().__init__(
            placements,
            _Containers(placements, at, recipe),
            rows or (lambda tag: bentos.warmup_rows(bentos.bento_path(bentos_home, tag))),
            targets=targets,
        )


class _Containers:
    """`keeping.Keeper` by an engine's containers."""

    def __init__(self, placements: Placements, at: str, recipe: Recipe) -> None:
        self.name = recipe.engine.program
        self._placements, self._at, self._recipe, self._engine = placements, at, recipe, recipe.engine
        self._asked = 0.0
        self._last: dict[str, Instance] = {}
        self._began: dict[str, float | None] = {}  # replica → when its process began
        self._refused: dict[str, str] = {}  # replica → why it could not be started
        self._starts: dict[str, tuple[int, float]] = {}  # replica → starts in a row, when the last one was
        self._ending: dict[str, Future[None]] = {}
        self._stops = ThreadPoolExecutor(max_workers=16, thread_name_prefix="stop")

    # ---------------------------------------------------------------- looking
    def known(self, *, fresh: bool = False) -> Mapping[str, Instance]:
        """Return what the engine says; not `fresh`, as long as all that it told of is there, its last word.

        A question costs the engine's program a tenth of a second of a core, and a look comes every second.
        """
        if not fresh and time.monotonic() - self._asked < LOOK and self._there():
            return self._last
        asked = time.monotonic()
        seen = self._engine.containers(f"{containers.AT}={self._at}")
        found = {one.labels[containers.NAME]: _instance(one) for one in seen if containers.NAME in one.labels}
        for name, why in tuple(self._refused.items()):
            found.setdefault(name, Instance(idle=True, said=why))
        self._began = {name: _began(one.pid) for name, one in found.items() if one.pid}
        self._last, self._asked = found, asked
        return found

    def _there(self) -> bool:
        """Tell whether each process is there that the engine told of, and none has to be started."""
        if any(one.idle or not one.pid for one in self._last.values()):
            return False
        began = self._began
        return all(began.get(n) is not None and began[n] == _began(i.pid) for n, i in self._last.items())

    def holds(self, instance: Instance, port: int) -> bool:
        """Tell whether a port is this container's: the engine publishes it, or would not have started it."""
        return instance.alive and instance.port == port

    def lost(self, name: str, port: int) -> bool:
        """Tell whether somebody else holds a replica's port."""
        if processes.is_free(port):
            return False
        instance = self.known(fresh=True).get(name)
        return instance is None or not self.holds(instance, port)

    def words(self, name: str, instance: Instance) -> str:
        """Return how a container ended, or why it was not started, and what it said last."""
        said = self._engine.words(called(self._at, name)) if name not in self._refused else []
        return f"{instance.said}: {' | '.join(said)}" if said else instance.said

    def log(self, name: str) -> str:
        """Return the command that shows what a replica said."""
        return f"`{self.name} logs {called(self._at, name)}`"

    # ---------------------------------------------------------------- starting
    def place(self, placements: Placements, placed: Placed) -> None:
        """Write down where a release's replicas are, once its image is known to be the recorded one."""
        self._recipe.image(placed.record)
        placements.write(placed)

    def launch(self, placed: Placed, names: Collection[str]) -> None:
        """Run replicas in place of what is left of them; one that failed a moment ago waits."""
        for name in names:
            if self._due(name):
                self._run(placed, name, placed.ports[placed.programs.index(name)])
        self._asked = 0.0

    def _run(self, placed: Placed, name: str, port: int) -> None:
        """Run one replica; why that can't be is told by each look from then on."""
        try:
            record, plane = placed.record, self._at.rpartition(":")[2]
            image = self._recipe.image(record)
            environment, mounts = self._recipe.environment(record, plane)
            # Of each replica its own: inside, all of them have the same process id, and so the same file.
            answers = shared(self._placements.answers / name)
            mounts.append(Mount(str(answers), INSIDE_ANSWERS, writable=True))
            self._engine.remove([called(self._at, name)])
            self._recipe.run(
                container(
                    self._recipe,
                    image,
                    name=called(self._at, name),
                    port=port,
                    labels={containers.AT: self._at, containers.NAME: name},
                    environment={**environment, ANSWERS: INSIDE_ANSWERS},
                    mounts=mounts,
                    grace=STOP_GRACE,
                )
            )
            self._refused.pop(name, None)
        except TidegateError as error:
            self._refused[name] = str(error)
            self._engine.remove([called(self._at, name)])  # half made: it would hold the name
            log.warning("%s is not started: %s", name, error)

    def _due(self, name: str) -> bool:
        """Tell whether a replica may be started again, and count it."""
        count, last = self._starts.get(name, (0, 0.0))
        now = time.monotonic()
        if now - last > CALM:
            count = 0
        if count and now - last < min(LONGEST_PAUSE, 2.0 ** (count - 2)):
            return False
        self._starts[name] = (count + 1, now)
        return True

    # ---------------------------------------------------------------- stopping
    def signal_stop(self, names: Collection[str]) -> None:
        """Begin to stop containers, once each."""
        fresh = [name for name in names if name not in self._ending]
        if fresh:
            stopped = [called(self._at, name) for name in fresh]
            future = self._stops.submit(self._engine.stop, stopped, STOP_GRACE)
            self._ending |= dict.fromkeys(fresh, future)
        self._asked = 0.0

    def remove(self, names: Collection[str]) -> None:
        """Remove containers that have stopped."""
        done = [name for name in names if name not in self._ending or self._ending[name].done()]
        for name in done:
            future = self._ending.pop(name, None)
            if future:
                future.result()  # what the engine said, if it did not answer
            self._refused.pop(name, None)
            self._starts.pop(name, None)
        self._engine.remove([called(self._at, name) for name in done])
        self._asked = 0.0

    def ended(self, names: Collection[str]) -> None:
        """Let go of the folders that nobody wrote to."""
        for name in names:
            with suppress(OSError):
                (self._placements.answers / name).rmdir()


def _began(pid: int) -> float | None:
    """Return when a process began; None where it is gone, or on another machine (a virtual one, say)."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _instance(seen: Seen) -> Instance:
    looping = seen.restarts >= LOOPING
    said = f"restarted {seen.restarts} times" if looping else f"{seen.state} with {seen.code}"
    port = seen.labels.get(containers.PORT, "0")
    return Instance(
        pid=seen.pid,
        alive=seen.state in _RUNS,
        idle=seen.state in _LEFT,
        said=f"{said} {seen.error}".strip(),
        port=int(port) if port.isdigit() else 0,
        looping=looping,
    )
