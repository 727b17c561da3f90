"""One gate's faults in a process of their own: `python -m tidegate.selftest.worker` with a Task as JSON.

Writes one JSON line a result. Ends, and stops what it started, when it is terminated or its parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from tidegate.config import Home
from tidegate.core.verdict import Verdict
from tidegate.selftest import runner


class Task(msgspec.Struct, frozen=True):
    """Which gate of which checkout to try, and where rooms may be made. Paths are absolute."""

    root: str
    home: str
    folder: str
    gate: str
    model: str


class Line(msgspec.Struct, frozen=True):
    """One result."""

    fault: str
    verdict: Verdict | None
    reason: str
    seconds: float
    applies: bool = True


def main() -> None:
    """Try the gate that the only argument names."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop, once
    threading.Thread(target=_watch, daemon=True).start()
    # Whatever a gate or its children print must not come between the results.
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)
        trial = runner.suite(Path(task.root), task.gate)
        run = runner.run(Path(task.root), trial, task.model, Path(task.folder), Home(Path(task.home)))
        with contextlib.suppress(KeyboardInterrupt):
            for found in run:
                line = Line(found.fault, found.verdict, found.reason, found.seconds, found.applies)
                out.write(msgspec.json.encode(line) + b"\n")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the tidying up
    raise KeyboardInterrupt  # what no gate takes for its own failure


def _watch() -> None:
    sys.stdin.buffer.read()  # ends with the parent, which holds the other end
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
