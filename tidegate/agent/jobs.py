"""Slow work beside the agent's look: Git, starting, warming and stopping never hold up a rollback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from tidegate.errors import PlatformError, TidegateError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """A finished job: its key, and its result or the error that it ended in."""

    key: str
    result: Any = None
    error: TidegateError | None = None


class Jobs(Protocol):
    """Runs named work; at most one of a name at a time."""

    def submit(self, key: str, work: Callable[[], Any]) -> bool:
        """Run `work`; False, and nothing happens, while one of that key runs or is not collected."""

    def collect(self) -> list[Done]:
        """Return what has finished since the last call."""


class BackOff:
    """Says when a job that failed may be tried again: after 1 s, 2 s, 4 s and so on."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float, float]] = {}  # key → failures in a row, from, not before

    def ready(self, key: str, now: float) -> bool:
        """Tell whether it may be tried."""
        _, since, until = self._failed.get(key, (0, now, now))
        return not since <= now < until  # before: the clock was moved back

    def failed(self, key: str, now: float, longest: float) -> None:
        """Wait twice as long as before, `longest` seconds at most."""
        times = self._failed.get(key, (0, 0.0, 0.0))[0]
        self._failed[key] = (times + 1, now, now + min(longest, 2.0 ** min(times, 30)))

    def done(self, key: str) -> None:
        """Begin anew: it worked."""
        self._failed.pop(key, None)

    def keep(self, keys: Collection[str]) -> None:
        """Forget all others."""
        self._failed = {key: value for key, value in self._failed.items() if key in keys}


def _run(key: str, work: Callable[[], Any]) -> Done:
    try:
        return Done(key, work())
    except TidegateError as error:
        return Done(key, error=error)
    except Exception as error:  # a defect: told like any failure, and its traceback kept
        log.exception("%s failed by a defect", key)
        what = f"{key} failed by a defect, {type(error).__name__}: {error}"
        return Done(key, error=PlatformError(what, "Its traceback is in the agent's log."))


class InlineJobs:
    """Runs each job at once, in the caller: for tests, which then see one fixed order."""

    def __init__(self) -> None:
        self._finished: dict[str, Done] = {}

    def submit(self, key: str, work: Callable[[], Any]) -> bool:
        """Run it now."""
        if key in self._finished:
            return False
        self._finished[key] = _run(key, work)
        return True

    def collect(self) -> list[Done]:
        """Return what has run."""
        finished, self._finished = list(self._finished.values()), {}
        return finished


class ThreadJobs:
    """Runs jobs on a few threads."""

    def __init__(self, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="job")
        self._running: dict[str, Future[Done]] = {}

    def submit(self, key: str, work: Callable[[], Any]) -> bool:
        """Hand it to a thread."""
        if key in self._running:
            return False
        self._running[key] = self._pool.submit(_run, key, work)
        return True

    def collect(self) -> list[Done]:
        """Return finished jobs."""
        finished = [key for key, future in self._running.items() if future.done()]
        return [self._running.pop(key).result() for key in finished]
