"""What a process and its children take of the machine, as the kernel counts it."""

from __future__ import annotations

import sys
import time

import psutil

from tidegate.core.usage import Memory
from tidegate.machine.processes import gone


class Meter:
    """Reads one process, and all that it started. Its methods raise psutil.Error once it has ended."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def ended(self, patience: float = 0.0) -> bool:
        """Tell whether the process ends within so many seconds; one that only waits to be buried has."""
        return gone([self._process], patience)

    def read(self) -> tuple[Memory, float]:
        """Return what it takes of memory now, and the CPU seconds, user's and system's, since its start."""
        everybody = [self._process, *self._process.children(recursive=True)]
        memory = [one.memory_full_info() for one in everybody]
        times = self._process.cpu_times()
        ended = times.children_user + times.children_system
        return (
            Memory(
                sum(one.rss for one in memory),
                sum(one.uss for one in memory),
                sum(getattr(one, "pss", 0) for one in memory),
            ),
            ended + sum(cpu_seconds(one) for one in everybody),
        )


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process, its ended threads' too; raises psutil.Error once it has ended.

    On Linux to the nanosecond, by the id of its CPU clock, `~pid << 3 | 2` (clock_getcpuclockid(3)); where
    that is not allowed, and elsewhere, as psutil tells it, in steps of 10 ms.
    """
    if sys.platform == "linux":
        try:
            return time.clock_gettime((~process.pid << 3) | 2)
        except OSError:
            pass  # ended, or hidden: psutil knows which
    used = process.cpu_times()
    return float(used.user + used.system)
