"""What is loaded on a plane, read without an agent: files, supervisord's word, and the kernel's counts.

Only reads: unlike the adapter's `list`, it puts nothing right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tidegate.errors import Unreachable
from tidegate.machine.placements import Placed, Placements
from tidegate.machine.supervisord import ALIVE, Supervisord


@dataclass(frozen=True)
class Process:
    """One replica. `began` is seconds since the epoch, `memory` bytes (resident), `cpu` seconds."""

    endpoint: str
    state: str  # supervisord's word, or `not started`
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


def read(folder: Path, socket: Path) -> tuple[list[Running], str]:
    """Return the releases placed in a plane's folder, and why supervisord does not tell more, if so."""
    problem = ""
    known: dict[str, dict[str, Any]] = {}
    try:
        known = Supervisord(socket).processes()
    except Unreachable as error:
        problem = str(error)
    placed = [found for _, found in sorted(Placements(folder).read().items())]
    return [_running(found, known) for found in placed], problem


def _running(found: Placed, known: dict[str, dict[str, Any]]) -> Running:
    pairs = zip(found.programs, found.ports, strict=True)
    processes = tuple(_process(known.get(name), port) for name, port in pairs)
    return Running(found.record.model, found.release, found.record.registry.version, processes)


def _process(info: dict[str, Any] | None, port: int) -> Process:
    endpoint = f"127.0.0.1:{port}"
    if info is None:
        return Process(endpoint, "not started")
    state = str(info["statename"])
    if state not in ALIVE or not info["pid"]:
        return Process(endpoint, state)
    try:
        process = psutil.Process(int(info["pid"]))
        with process.oneshot():
            times = process.cpu_times()
            memory, cpu = process.memory_info().rss, times.user + times.system
            return Process(endpoint, state, process.pid, process.create_time(), memory, cpu)
    except psutil.Error:
        return Process(endpoint, "gone")
