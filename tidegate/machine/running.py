"""What is loaded on a plane, read without an agent: files, the keeper's word, and the kernel's counts.

Only reads: unlike the adapter's `list`, it puts nothing right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from tidegate.errors import PlatformError, Unreachable
from tidegate.machine.containers import AT, NAME, mark
from tidegate.machine.engine import ENGINES, Engine
from tidegate.machine.layout import Layout
from tidegate.machine.placements import WORKLOADS, Placed, Placements
from tidegate.machine.supervisord import ALIVE, Supervisord


@dataclass(frozen=True)
class Process:
    """One replica. `began` is seconds since the epoch, `memory` bytes (resident), `cpu` seconds."""

    endpoint: str
    state: str  # the word of supervisord or of the engine, or `not started`
    pid: int = 0
    began: float = 0.0
    memory: int = 0
    cpu: float = 0.0

    @property
    def up(self) -> bool:
        """True for a process that runs."""
        return self.pid != 0


@dataclass(frozen=True)
class Running:
    """A release that was started on a plane, and its processes."""

    model: str
    release: str
    version: int
    processes: tuple[Process, ...]

    @property
    def since(self) -> float | None:
        """When the oldest process that runs began, in seconds since the epoch; None when none runs."""
        return min((process.began for process in self.processes if process.up), default=None)

    @property
    def memory(self) -> int:
        """Bytes that all its processes hold."""
        return sum(process.memory for process in self.processes)

    @property
    def cpu(self) -> float:
        """CPU seconds that its processes took since they began."""
        return sum(process.cpu for process in self.processes)


def read(at: Layout) -> tuple[list[Running], str]:
    """Return the releases placed on a plane, and why supervisord or an engine does not tell more, if so."""
    found: list[Running] = []
    problems: list[str] = []
    for kept, ask in ((WORKLOADS, _programs), *((engine, _containers(engine)) for engine in ENGINES)):
        placed = [one for _, one in sorted(Placements(at.folder, kept).read().items())]
        if not placed and kept != WORKLOADS:
            continue
        known: dict[str, tuple[str, int]] = {}
        try:
            known = ask(at)
        except (Unreachable, PlatformError) as error:
            problems.append(str(error))
        found += [_running(one, known) for one in placed]
    return found, " ".join(problems)


def _programs(at: Layout) -> dict[str, tuple[str, int]]:
    """Return the state of each program, and the id of its process if it runs."""
    known = Supervisord(at.supervisor).processes()
    states = {name: str(info["statename"]) for name, info in known.items()}
    return {n: (states[n], int(known[n]["pid"]) if states[n] in ALIVE else 0) for n in known}


def _containers(program: str) -> Callable[[Layout], dict[str, tuple[str, int]]]:
    def ask(at: Layout) -> dict[str, tuple[str, int]]:
        seen = Engine(program).containers(f"{AT}={mark(at.home.root, at.plane)}")
        return {one.labels.get(NAME, ""): (one.state.upper(), one.pid) for one in seen}

    return ask


def _running(found: Placed, known: Mapping[str, tuple[str, int]]) -> Running:
    pairs = zip(found.programs, found.ports, strict=True)
    processes = tuple(_process(known.get(name), port) for name, port in pairs)
    return Running(found.record.model, found.release, found.record.registry.version, processes)


def _process(said: tuple[str, int] | None, port: int) -> Process:
    endpoint = f"127.0.0.1:{port}"
    if said is None:
        return Process(endpoint, "not started")
    state, pid = said
    if not pid:
        return Process(endpoint, state)
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            memory, cpu = process.memory_info().rss, times.user + times.system
            return Process(endpoint, state, process.pid, process.create_time(), memory, cpu)
    except psutil.Error:
        return Process(endpoint, "gone")
