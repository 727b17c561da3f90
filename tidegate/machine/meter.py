"""What a process and its children take of the machine, as the kernel counts it."""

from __future__ import annotations

import psutil

from tidegate.core.usage import Memory


class Meter:
    """Reads one process, and all that it started. Its methods raise psutil.Error once it has ended."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def ended(self) -> bool:
        """Tell whether the process is gone, or only waits to be buried."""
        try:
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return True

    def memory(self) -> Memory:
        """Return what it takes now."""
        seen = [one.memory_full_info() for one in self._all()]
        return Memory(
            sum(one.rss for one in seen),
            sum(one.uss for one in seen),
            sum(getattr(one, "pss", 0) for one in seen),
        )

    def cpu(self) -> float:
        """Return the CPU seconds, user's and system's, that it has taken since its start.

        Linux counts in steps of 10 ms; between two readings lies enough work for many of them.
        """
        own, *children = (one.cpu_times() for one in self._all())
        ended = own.children_user + own.children_system
        return float(ended + sum(one.user + one.system for one in (own, *children)))

    def _all(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]
