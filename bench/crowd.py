"""Thousands of rollouts at once: the same arithmetic as core.weighing, over arrays.

`tests/core/test_crowd.py` proves that each run's evidence is that of `analysis.update`, look by look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.core import evidence as ev
from tidegate.core.weighing import STRETCH

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_PRIOR = np.array(ev.PRIOR)


@dataclass(frozen=True)
class Second:
    """What all rollouts counted in one look: the candidates' requests and errors, stable's, the share."""

    requests: Ints
    errors: Ints
    stable_requests: Ints
    stable_errors: Ints
    share: float


class Purses:
    """One part of every rollout: its purse, its trials, and when it first reached the threshold."""

    def __init__(self, runs: int, level: float) -> None:
        self.level, self.trials = level, np.zeros(runs)
        self.wealth = np.tile(np.array(ev.begin()), (runs, 1))
        self.idle = np.zeros(runs, dtype=np.int64)
        self.failed = np.full(runs, np.inf)  # the look, counted from 1

    def evidence(self) -> Floats:
        """Return each rollout's evidence."""
        found: Floats = ev.RESERVE / np.sqrt(1 + self.trials / ev.RESERVE_SCALE) + self.wealth.sum(axis=1)
        return found

    def grow(self, at: Ints, trials: npt.NDArray[np.number], factors: Floats, look: int) -> None:
        """Weigh a batch of the rollouts `at`."""
        if not len(at):
            return
        before, after = self.trials[at], self.trials[at] + trials
        scale = ev.RESERVE_SCALE
        fresh = ev.RESERVE / np.sqrt(1 + before / scale) - ev.RESERVE / np.sqrt(1 + after / scale)
        wealth = np.minimum((self.wealth[at] + fresh[:, None] * _PRIOR) * factors, ev.RICHEST)
        self.wealth[at], self.trials[at] = wealth, after
        total = ev.RESERVE / np.sqrt(1 + after / scale) + wealth.sum(axis=1)
        over = at[(total >= self.level) & np.isinf(self.failed[at])]
        self.failed[over] = look


class Rates(Purses):
    """The absolute part of an error rate."""

    def __init__(self, runs: int, level: float, limit: float) -> None:
        super().__init__(runs, level)
        self.bets = np.array(ev.rate_bets(limit))

    def look(self, now: int, seen: Second) -> None:
        """Add one look; looks without an error wait until one comes, or until they are many."""
        quiet = seen.errors == 0
        waiting = self.idle + np.where(quiet, seen.requests, 0)
        due = (waiting > 0) & (~quiet | (waiting > self.trials // STRETCH))
        self._batch(np.flatnonzero(due), waiting[due], np.zeros(due.sum()), now)
        self.idle = np.where(due | ~quiet, 0, waiting)
        self._batch(np.flatnonzero(~quiet), seen.requests[~quiet], seen.errors[~quiet], now)

    def _batch(self, at: Ints, n: Ints, k: npt.NDArray[np.number], now: int) -> None:
        hit, miss = self.bets[:, 0], self.bets[:, 1]
        power = np.minimum(k[:, None] * hit + (n - k)[:, None] * miss, 575.0)
        self.grow(at, n, np.exp(power), now)


class Risks(Purses):
    """The same against stable."""

    def __init__(self, runs: int, level: float, times: float) -> None:
        super().__init__(runs, level)
        self.times = times

    def look(self, now: int, seen: Second) -> None:
        """Add one look; only errors are trials."""
        both = seen.errors + seen.stable_errors
        at = np.flatnonzero(both)
        bets = np.array(ev.risk_bets(self.times, seen.share))
        k, n = seen.errors[at], both[at]
        power = np.minimum(k[:, None] * bets[:, 0] + (n - k)[:, None] * bets[:, 1], 575.0)
        self.grow(at, n, np.exp(power), now)


class Blocks(Purses):
    """The absolute part with `burst`: each stretch of so many seconds is one value."""

    def __init__(self, runs: int, level: float, limit: float, seconds: int) -> None:
        super().__init__(runs, level)
        self.limit, self.seconds, self.since = limit, seconds, 0
        self.n, self.k = np.zeros(runs), np.zeros(runs)
        self.stakes = np.array(ev.STAKES)

    def look(self, now: int, seen: Second) -> None:
        """Add one look; a stretch begins with the first."""
        self.since = self.since or now
        self.n, self.k = self.n + seen.requests, self.k + seen.errors
        if now - self.since < self.seconds:
            return
        at = np.flatnonzero(self.n)
        rate = self.k[at] / self.n[at]
        factors = 1 + self.stakes * (rate / self.limit - 1)[:, None]
        self.grow(at, np.ones(len(at)), factors, now)
        self.since, self.n, self.k = now, np.zeros_like(self.n), np.zeros_like(self.k)


def follow(parts: Iterable[Rates | Risks | Blocks], seconds: Iterable[Second]) -> None:
    """Let all parts see all looks."""
    parts = tuple(parts)
    for now, seen in enumerate(seconds, start=1):
        for part in parts:
            part.look(now, seen)
