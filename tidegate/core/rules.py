"""The common rules that a rollout could be decided by instead, to be replayed on the same traffic. Pure.

None of them is used to decide anything: they show what a threshold on a window, or a p-value at each
look, would have done (STATISTICS, Johari et al. 2017 on peeking).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate.core.counts import Counts, slower
from tidegate.core.plan import Check, Plan
from tidegate.core.strategies import legs

WINDOW = 60.0  # seconds
OFTEN = 10.0  # seconds between two looks of the rules that look often
LEAST = 30  # requests without which a rule says nothing


@dataclass
class Past:
    """What both arms counted since the candidate had traffic, and in the last window, by seconds."""

    began: float
    candidate: Counts = Counts()
    stable: Counts = Counts()
    recent: deque[tuple[float, Counts]] = field(default_factory=deque)

    def add(self, now: float, candidate: Counts, stable: Counts) -> None:
        """Add one look."""
        self.candidate, self.stable = self.candidate.plus(candidate), self.stable.plus(stable)
        self.recent.append((now, candidate))
        while self.recent and self.recent[0][0] <= now - WINDOW + 1e-6:
            self.recent.popleft()

    @property
    def window(self) -> Counts:
        """What the candidate counted in the last window."""
        total = Counts()
        for _, each in self.recent:
            total = total.plus(each)
        return total


@dataclass(frozen=True)
class Rule:
    """One rule: `looks` every so many seconds, and leaves the candidate at the `failures`-th failure."""

    name: str
    looks: float
    failures: int
    proportion: bool = False  # a test against stable, in place of a limit on the window


RULES = (
    Rule(f"over the limit in {WINDOW:.0f} s, once", OFTEN, 1),
    Rule("a look a minute, 3 failures", WINDOW, 3),
    Rule("z-test at each look", OFTEN, 1, proportion=True),
)


def fails(rule: Rule, checks: tuple[Check, ...], alpha: float, past: Past, now: float) -> bool:
    """Tell whether one look of a rule finds the candidate failing."""
    if rule.proportion:
        return any(_differs(check, past, alpha) for check in checks)
    if now - past.began < WINDOW - 1e-6:
        return False
    window = past.window
    return any(_over(check, window) for check in checks)


def _over(check: Check, window: Counts) -> bool:
    if check.metric == "error-rate":
        return window.requests >= LEAST and window.errors > check.ceiling * window.requests
    answers, slow, _ = slower(window.latency, check.ceiling)
    return answers >= LEAST and slow > check.slow_share * answers


def _differs(check: Check, past: Past, alpha: float) -> bool:
    if check.metric == "error-rate":
        mine, theirs = (
            (past.candidate.requests, past.candidate.errors),
            (
                past.stable.requests,
                past.stable.errors,
            ),
        )
    else:
        limit = _quantile(past.stable, check.quantile)
        mine, theirs = (slower(arm.latency, limit)[:2] for arm in (past.candidate, past.stable))
    return min(mine[0], theirs[0]) >= LEAST and z_score(mine, theirs) > _z_of(alpha)


def _quantile(arm: Counts, quantile: float) -> float:
    total, below = sum(n for _, n in arm.latency), 0
    for bound, count in arm.latency:
        below += count
        if below >= quantile * total:
            return bound
    return math.inf


def z_score(mine: tuple[int, int], theirs: tuple[int, int]) -> float:
    """Return how many standard errors the candidate's proportion is above stable's; each (trials, events)."""
    (n, k), (m, s) = mine, theirs
    pooled = (k + s) / (n + m)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return (k / n - s / m) / deviation if deviation else 0.0


def _z_of(alpha: float) -> float:
    """Return the one-sided normal quantile of 1 − alpha, by bisection on erfc."""
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * math.erfc(middle / math.sqrt(2)) > alpha else (low, middle)
    return low


class RuledRollout:
    """A rollout through the same steps, advanced and left by a rule: what many platforms do."""

    candidate, stable = "candidate", "stable"

    def __init__(self, rule: Rule, plan: Plan, environment: str) -> None:
        self.rule = rule
        stages = [stage for stage in plan.stages if stage.checks]
        self.checks = tuple(
            c
            for stage in stages
            for c in stage.checks
            if c.metric in ("error-rate", "latency") and not c.dry_run
        )
        self.alpha, self.legs = plan.alpha, legs(plan, environment, "stable")
        self.step, self.seen, self.entered, self.failures = 0, 0, 0.0, 0
        self.left = self.verified = False
        self.past: Past | None = None
        self.due = 0.0

    @property
    def percents(self) -> Mapping[str, int]:
        """What each release is served."""
        if self.left:
            return {"stable": 100}
        leg = self.legs[self.step]
        return {"candidate": leg.weight + leg.mirror, "stable": 100 - leg.weight}

    def look(self, now: float, candidate: Counts, stable: Counts) -> None:
        """Take in what one look counted, and decide if it is time."""
        if self.past is None:
            self.past, self.entered, self.due = Past(now), now, now + self.rule.looks
            return
        self.past.add(now, candidate, stable)
        self.seen += candidate.requests
        if now + 1e-6 >= self.due:
            self.due += self.rule.looks
            self.failures += fails(self.rule, self.checks, self.alpha, self.past, now)
            self.left = self.failures >= self.rule.failures
        pause = self.legs[self.step].pause
        if not self.left and now - self.entered >= pause.duration and self.seen >= pause.min_requests:
            self.verified = self.verified or self.step == len(self.legs) - 1
            if not self.verified:
                self.step, self.seen, self.entered = self.step + 1, 0, now
