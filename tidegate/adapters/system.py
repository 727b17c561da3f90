"""This machine's clock, and the plainest way to tell people: a log file."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tidegate.ports import Event, Notifier


class SystemClock:
    """`ports.Clock` of this machine."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def steady(self) -> float:
        """Seconds since this machine started; where the system says so, those it slept through too."""
        kind = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if kind is None else time.clock_gettime(kind)

    def sleep(self, seconds: float) -> None:
        """Wait; a negative time is none."""
        time.sleep(max(0.0, seconds))


class LogNotifier:
    """`ports.Notifier` that appends each event to the file at `path`, as one line of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def notify(self, event: Event) -> None:
        """Append one line; what goes wrong is said on stderr and stops nobody."""
        try:
            line = json.dumps(asdict(event), ensure_ascii=False, default=str) + "\n"
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # One write of one line to a file opened for appending: writers don't mix their lines.
            with self._path.open("ab", buffering=0) as file:
                file.write(line.encode())
        except Exception as error:  # the port's promise: delivering must not raise
            print(f"tidegate: {self._path} was not written: {error}", file=sys.stderr)


class BothNotifier:
    """`ports.Notifier` that hands each event to several others; one that fails keeps it from none."""

    def __init__(self, *notifiers: Notifier) -> None:
        self._notifiers = notifiers

    def notify(self, event: Event) -> None:
        """Tell each of them."""
        for notifier in self._notifiers:
            try:
                notifier.notify(event)
            except Exception as error:  # they promise not to raise; a defect of one is not the next one's
                print(f"tidegate: {type(notifier).__name__} failed: {error}", file=sys.stderr)
