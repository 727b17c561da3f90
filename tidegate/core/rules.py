"""The common rules that a rollout could be decided by instead, to be replayed on the same traffic. Pure.

None of them is used to decide anything: they show what a threshold on a window, or a p-value at each
look, would have done (STATISTICS, Johari et al. 2017 on peeking).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from tidegate.core.counts import Counts, slower
from tidegate.core.plan import Check, Plan
from tidegate.core.strategies import legs

WINDOW = 60.0  # seconds
OFTEN = 10.0  # seconds between two looks of the rules that look often
LEAST = 30  # requests without which a rule says nothing


Tally = tuple[int, int]


@dataclass
class Past:
    """What both arms counted since the candidate had traffic, and each look of the last window.

    `recent` are (when, for each check (trials, events) of the candidate).
    """

    began: float
    checks: tuple[Check, ...] = ()
    candidate: Counts = Counts()
    stable: Counts = Counts()
    recent: deque[tuple[float, list[Tally]]] = field(default_factory=deque)

    def add(self, now: float, candidate: Counts, stable: Counts, *, pooled: bool) -> None:
        """Add one look, to the sums of both arms or to the window."""
        if pooled:
            self.candidate, self.stable = self.candidate.plus(candidate), self.stable.plus(stable)
            return
        self.recent.append((now, [_tally(check, candidate, check.ceiling) for check in self.checks]))
        while self.recent[0][0] <= now - WINDOW + 1e-6:
            self.recent.popleft()

    def window(self, place: int) -> Tally:
        """Return (trials, events) of the window for one check."""
        rows = [tallies[place] for _, tallies in self.recent]
        return sum(n for n, _ in rows), sum(k for _, k in rows)


def _tally(check: Check, arm: Counts, limit: float) -> Tally:
    if check.metric == "error-rate":
        return arm.requests, arm.errors
    answers, slow, _ = slower(arm.latency, limit)
    return answers, slow


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


def fails(rule: Rule, alpha: float, past: Past, now: float) -> bool:
    """Tell whether one look of a rule finds the candidate failing."""
    if rule.proportion:
        return any(_differs(check, past, alpha) for check in past.checks)
    full = now - past.began >= WINDOW - 1e-6
    return full and any(_over(check, past.window(place)) for place, check in enumerate(past.checks))


def _over(check: Check, window: Tally) -> bool:
    trials, events = window
    share = check.ceiling if check.metric == "error-rate" else check.slow_share
    return trials >= LEAST and events > share * trials


def _differs(check: Check, past: Past, alpha: float) -> bool:
    limit = _quantile(past.stable, check.quantile)
    mine, theirs = (_tally(check, arm, limit) for arm in (past.candidate, past.stable))
    return min(mine[0], theirs[0]) >= LEAST and z_score(mine, theirs) > _z_of(alpha)


def _quantile(arm: Counts, quantile: float) -> float:
    total, below = sum(n for _, n in arm.latency), 0
    for bound, count in arm.latency:
        below += count
        if below >= quantile * total:
            return bound
    return math.inf


def z_score(mine: Tally, theirs: Tally) -> float:
    """Return how many standard errors the candidate's proportion is above stable's; each (trials, events)."""
    (n, k), (m, s) = mine, theirs
    pooled = (k + s) / (n + m)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return (k / n - s / m) / deviation if deviation else 0.0


@cache
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
            self.past, self.entered, self.due = Past(now, self.checks), now, now + self.rule.looks
            return
        self.past.add(now, candidate, stable, pooled=self.rule.proportion)
        self.seen += candidate.requests
        if now + 1e-6 >= self.due:
            self.due += self.rule.looks
            self.failures += fails(self.rule, self.alpha, self.past, now)
            self.left = self.failures >= self.rule.failures
        pause = self.legs[self.step].pause
        if not self.left and now - self.entered >= pause.duration and self.seen >= pause.min_requests:
            self.verified = self.verified or self.step == len(self.legs) - 1
            if not self.verified:
                self.step, self.seen, self.entered = self.step + 1, 0, now
