"""The evidence of a rollout: what each look adds to each part of each check. Pure.

A part is a check's absolute limit, or the same metric against stable; `alpha` is split evenly over all
parts, so it bounds the chance that a healthy release is ever failed by any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tidegate.core import evidence as ev
from tidegate.core.counts import Buckets, Counts, Window, counts_from_dict, counts_to_dict, slower
from tidegate.core.plan import Check


@dataclass(frozen=True)
class Part:
    """The evidence of one part of a check; `spec` names what it was gathered for.

    `pooled` and `run` are (candidate trials, events, stable trials, events): of all looks, and since the
    rate last began to rise (a CUSUM, `excess`), which is what a breach's reason shows. `possible` counts
    events that may have been: answers of a bucket that straddles the limit. `sums` are the events of
    both arms and the candidate's among them by share. `guard` is the second purse of latency against
    stable. `peak` is the largest log evidence of any look, `limit` the last one used (ms, for latency; None:
    stable's quantile was never known well enough).
    """

    spec: str
    trials: int = 0
    wealth: ev.Wealth = field(default_factory=ev.begin)
    guard: ev.Wealth = ()
    guard_trials: int = 0
    pooled: tuple[int, int, int, int] = (0, 0, 0, 0)
    possible: int = 0
    run: tuple[int, int, int, int] = (0, 0, 0, 0)
    excess: float = 0.0
    sums: tuple[tuple[float, int, int], ...] = ()
    level: float = 0.0
    peak: float = 0.0
    limit: float | None = None


@dataclass(frozen=True)
class Evidence:
    """All evidence of one rollout; JSON by `to_dict`, back by `from_dict`. A few KB."""

    candidate: Counts = Counts()
    stable: Counts = Counts()
    share: float = 0.0  # of the last look
    parts: Mapping[str, Part] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; an infinite bucket bound becomes null."""
        return {
            "candidate": counts_to_dict(self.candidate),
            "stable": counts_to_dict(self.stable),
            "share": self.share,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Evidence:
        """Return what `to_dict` wrote; raises KeyError or TypeError for anything else."""
        parts = {name: _part_from_dict(part) for name, part in value["parts"].items()}
        candidate, stable = (counts_from_dict(value[arm]) for arm in ("candidate", "stable"))
        return Evidence(candidate, stable, value["share"], parts)


def _part_from_dict(value: Mapping[str, Any]) -> Part:
    sequences = {key: tuple(value[key]) for key in ("wealth", "guard", "pooled", "run")}
    sums = tuple((share, n, k) for share, n, k in value["sums"])
    return Part(**{**value, **sequences, "sums": sums})


def parts_of(checks: Sequence[Check]) -> Iterator[tuple[str, Check, bool, str]]:
    """Yield (name, check, is it against stable, spec) of every part."""
    for check in checks:
        tail = f"@{check.quantile:g}" if check.metric == "latency" else ""
        yield check.name, check, False, f"{check.metric}{tail}<{check.ceiling:g}"
        if check.against_stable:
            tolerance = float(check.against_stable.tolerance)
            yield f"{check.name}-vs-stable", check, True, f"{check.metric}{tail}~{tolerance:g}"


def threshold(checks: Sequence[Check], alpha: float) -> float:
    """Return 1/alpha of each part: what its evidence must reach for FAIL."""
    return max(1, sum(1 for _ in parts_of(checks))) / alpha


def start(checks: Sequence[Check]) -> Evidence:
    """Return the evidence before the first look."""
    return Evidence(parts={name: Part(spec) for name, _, _, spec in parts_of(checks)})


def update(evidence: Evidence, checks: Sequence[Check], window: Window, alpha: float) -> Evidence:
    """Return the evidence after one look.

    A part whose limit, quantile or tolerance was edited meanwhile starts anew; others go on.
    """
    stable = evidence.stable.plus(window.stable)
    comparable = window.share < 1 and stable.requests > 0
    level = threshold(checks, alpha)
    parts = {}
    for name, check, relative, spec in parts_of(checks):
        part = evidence.parts.get(name)
        if part is None or part.spec != spec:
            part = Part(spec)
        if not relative:
            part = _absolute(part, check, window.candidate)
        elif comparable and check.metric == "error-rate":
            part = _relative_errors(part, check, window)
        elif comparable:
            part = _relative_latency(part, check, window, evidence.stable, 1 / (2 * level))
        parts[name] = part
    return Evidence(evidence.candidate.plus(window.candidate), stable, window.share, parts)


def _absolute(part: Part, check: Check, arm: Counts) -> Part:
    if check.metric == "error-rate":
        null = check.ceiling
        trials, events = max(arm.requests, arm.errors), arm.errors
        possible = events
    else:
        null = check.slow_share
        trials, events, possible = slower(arm.latency, check.ceiling)
    if not trials:
        return part
    bets = ev.rate_bets(null)
    wealth = ev.advance(part.wealth, part.trials, trials, events, bets)
    part = _follow(part, bets, trials, events, (trials, events, 0, 0))
    return _weigh(
        replace(
            part,
            wealth=wealth,
            trials=part.trials + trials,
            possible=part.possible + possible,
            limit=check.ceiling,
        )
    )


def _relative_errors(part: Part, check: Check, window: Window) -> Part:
    assert check.against_stable
    mine, theirs = window.candidate, window.stable
    both = mine.errors + theirs.errors
    bets = ev.risk_bets(1 + float(check.against_stable.tolerance), window.share)
    wealth = ev.advance(part.wealth, part.trials, both, mine.errors, bets)
    seen = (max(mine.requests, mine.errors), mine.errors, max(theirs.requests, theirs.errors), theirs.errors)
    part = _follow(part, bets, both, mine.errors, seen)
    sums = _add(part.sums, window.share, both, mine.errors)
    return _weigh(replace(part, wealth=wealth, trials=part.trials + both, sums=sums))


def _relative_latency(part: Part, check: Check, window: Window, known: Counts, alpha: float) -> Part:
    """Two purses, and only the poorer counts: slow beyond stable's p99, and slower than stable just now.

    The first alone would blame the candidate for a stall of the machine, which slows both arms.
    """
    limit = _stable_limit(check, known.latency, window.stable.latency, alpha)
    if limit is None or not math.isfinite(limit):
        return part
    trials, events, possible = slower(window.candidate.latency, limit)
    theirs, slow, _ = slower(window.stable.latency, limit)
    null = check.slow_share
    bets = ev.rate_bets(null)
    wealth = ev.advance(part.wealth, part.trials, trials, events, bets)
    guard = ev.advance(
        part.guard or ev.begin(), part.guard_trials, events + slow, events, ev.risk_bets(1.0, window.share)
    )
    part = _follow(part, bets, trials, events, (trials, events, theirs, slow))
    return _weigh(
        replace(
            part,
            wealth=wealth,
            trials=part.trials + trials,
            guard=guard,
            guard_trials=part.guard_trials + events + slow,
            possible=part.possible + possible,
            limit=limit,
        )
    )


def _stable_limit(check: Check, known: Buckets, now: Buckets, alpha: float) -> float | None:
    """Return (1 + tolerance) × stable's quantile as surely known before this look, up to a bucket bound."""
    assert check.against_stable
    if now and [b for b, _ in now] != [b for b, _ in known]:
        return None
    bound = ev.quantile_bound(known, check.quantile, alpha) * (1 + float(check.against_stable.tolerance))
    return next((upper for upper, _ in known if upper >= bound * (1 - 1e-9)), None)


def _follow(part: Part, bets: ev.Bets, trials: int, events: int, seen: tuple[int, int, int, int]) -> Part:
    """Add to the pooled counts, and to those of the run since the rate began to rise (Page's CUSUM)."""
    hit, miss = bets[5]  # a few times the null: the run starts where a clear rise would
    excess = max(0.0, part.excess + events * hit + (trials - events) * miss)
    pooled = _sum(part.pooled, seen)
    return replace(part, pooled=pooled, excess=excess, run=_sum(part.run, seen) if excess else (0, 0, 0, 0))


def _sum(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def _weigh(part: Part) -> Part:
    level = ev.log_evidence(part.wealth, part.trials)
    if part.guard:  # half of this part's alpha went into stable's quantile: the first purse must double
        level = min(level - math.log(2), ev.log_evidence(part.guard, part.guard_trials))
    return replace(part, level=level, peak=max(part.peak, level))


def _add(
    sums: tuple[tuple[float, int, int], ...], share: float, trials: int, events: int
) -> tuple[tuple[float, int, int], ...]:
    if not trials:
        return sums
    table = {s: (n, k) for s, n, k in sums}
    n, k = table.get(share, (0, 0))
    table[share] = (n + trials, k + events)
    return tuple((s, n, k) for s, (n, k) in sorted(table.items()))


def breached(evidence: Evidence, checks: Sequence[Check], alpha: float) -> bool:
    """Return whether any part that counts (not `dryRun`) has failed; cheaper than `judge`."""
    goal = math.log(threshold(checks, alpha))
    return any(
        not check.dry_run and (part := evidence.parts.get(name)) is not None and part.peak >= goal
        for name, check, _, _ in parts_of(checks)
    )
