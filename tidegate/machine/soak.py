"""Served copies at work, read as they go: the same number of requests to each, block by block in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import psutil

from tidegate.core.usage import Readings
from tidegate.machine.caller import Caller
from tidegate.machine.copies import Copy
from tidegate.machine.meter import Meter

BLOCKS = 32
DYING = 5.0  # seconds from the last answer to the process's end


def takes(copy: Copy, rows: Sequence[Any]) -> bool:
    """Tell whether a copy answers each of `rows` with 2xx. Raises NoData when there is no row."""
    with Caller(f"{copy.url}/predict", rows) as caller:
        return caller.post(len(rows)) and not caller.failed


def soak(
    served: Sequence[tuple[Copy, Sequence[Any]]], *, requests: int, warmup: int, blocks: int = BLOCKS
) -> list[Readings]:
    """Send each copy `warmup` requests, then `requests` of its rows in `blocks`; return what was read.

    Every other round goes backwards, so that neither copy is always the one that was asked first. A copy
    that has ended, or that nobody listens for any more, gets no further request.
    """
    with ExitStack() as calling:
        sides = [
            _Side(copy, calling.enter_context(Caller(f"{copy.url}/predict", rows))) for copy, rows in served
        ]
        for side in sides:
            side.block(warmup)
        for number in range(blocks):
            count = requests * (number + 1) // blocks - requests * number // blocks
            for side in reversed(sides) if number % 2 else sides:
                side.block(count)
        return [side.finish() for side in sides]


class _Side:
    """One copy, and what has been read of it."""

    def __init__(self, copy: Copy, caller: Caller) -> None:
        self._meter, self._caller = Meter(copy.pid), caller
        self._seen = Readings(self._meter.read()[0])
        self._lost = False

    def block(self, count: int) -> None:
        self._lost = self._lost or not self._caller.post(count)
        if self._lost or not count:
            return
        try:
            memory, cpu = self._meter.read()
        except psutil.Error:
            self._lost = True  # `finish` says why
            return
        self._seen.done.append(self._caller.sent)
        self._seen.memory.append(memory)
        self._seen.cpu.append(cpu)

    def finish(self) -> Readings:
        caller, seen = self._caller, self._seen
        seen.sent, seen.failed, seen.reason = caller.sent, caller.failed, caller.reason
        seen.ended = self._meter.ended(DYING if self._lost else 0.0)
        return seen
