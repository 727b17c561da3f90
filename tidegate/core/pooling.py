"""The evidence of a rollout: what each look adds to each part of each check. Pure.

A part is a check's absolute limit, or the same metric against stable; `alpha` is split evenly over all
parts, so it bounds the chance that a healthy release is ever failed by any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tidegate.core.aims import Aim, aims_of, compares_latency
from tidegate.core.comparing import STEPS
from tidegate.core.counts import Counts, Window, added
from tidegate.core.parts import Evidence, Part
from tidegate.core.plan import Check
from tidegate.core.weighing import NONE, Look

__all__ = [
    "Evidence",
    "Part",
    "breached",
    "failed",
    "is_over",
    "parts_of",
    "start",
    "threshold",
    "update",
]


def parts_of(checks: Sequence[Check]) -> Iterator[tuple[str, Check, bool, str]]:
    """Yield (name, check, does it compare with stable, spec) of every part."""
    for aim in aims_of(checks):
        yield aim.name, aim.check, aim.relative, aim.spec


def threshold(checks: Sequence[Check], alpha: float) -> float:
    """Return 1/alpha of each part: what its evidence must reach for FAIL."""
    return max(1, len(aims_of(checks))) / alpha


def start(checks: Sequence[Check]) -> Evidence:
    """Return the evidence before the first look."""
    return Evidence(parts={aim.name: Part(aim.spec) for aim in aims_of(checks)})


def update(
    evidence: Evidence, checks: Sequence[Check], window: Window, alpha: float, now: float = 0.0
) -> Evidence:
    """Return the evidence after one look, made at `now` (seconds; `failureLimit` and `burst` go by it).

    A part whose limit, quantile or tolerance was edited meanwhile starts anew; others go on.
    """
    aims = aims_of(checks)
    slow = compares_latency(checks)
    candidate = _pooled(evidence.candidate, window.candidate, False)
    stable = _pooled(evidence.stable, window.stable, slow)
    comparable = window.share < 1 and stable.requests > 0
    look = Look(window, evidence, candidate, stable, comparable, 1 / threshold(checks, alpha), now)
    known, waiting, parts, idle = evidence.parts, evidence.idle, {}, {}
    for aim in aims:
        part, left = known.get(aim.name), waiting.get(aim.name, NONE)
        if part is None or part.spec != aim.spec:
            part, left = _begun(aim, evidence), NONE
        parts[aim.name], idle[aim.name] = STEPS[aim.kind](part, aim, left, look)
    answers = evidence.answers + (look.theirs.answers if slow else 0)
    return Evidence(candidate, stable, window.share, parts, now, idle, answers)


def _pooled(mine: Counts, new: Counts, latency: bool) -> Counts:
    """Return the sum; latencies only where they are asked for, and of them the buckets that hold answers.

    A bucket says that so many answers took at most so long; that stays true when the bounds change.
    """
    both = mine.latency
    if latency and (fresh := [row for row in new.latency if row[1]]):
        table = dict(both)
        for bound, count in fresh:
            table[bound] = table.get(bound, 0) + count
        grew = len(table) > len(both)  # else they are in order already
        both = tuple(sorted(table.items()) if grew else table.items())
    return Counts(
        mine.requests + new.requests,
        mine.errors + new.errors,
        both,
        added(mine.tallies, new.tallies),
        added(mine.bins, new.bins),
    )


def _begun(aim: Aim, evidence: Evidence) -> Part:
    """Return a part before its first look; scores counted before it was asked for are not its own."""
    already = evidence.candidate.bins.get(aim.check.name, ())
    return Part(aim.spec, bins=(already, already)) if already else Part(aim.spec)


def is_over(part: Part, aim: Aim) -> bool:
    """Return whether more windows than `failureLimit` allows were over the limit."""
    limit = aim.check.failure_limit
    return limit is not None and part.plain is not None and part.plain.over > max(0, limit.count)


def failed(part: Part | None, aim: Aim, goal: float) -> bool:
    """Return whether a part has ever reached log evidence `goal`, or its `failureLimit`."""
    if part is None or part.spec != aim.spec:
        return False
    return part.peak >= goal or (part.plain is not None and is_over(part, aim))


def breached(evidence: Evidence, checks: Sequence[Check], alpha: float) -> bool:
    """Return whether any part that counts (not `dryRun`) has failed; cheaper than `judge`."""
    goal = math.log(threshold(checks, alpha))
    suspects = [
        name
        for name, part in evidence.parts.items()
        if part.peak >= goal or (part.plain is not None and part.plain.over)
    ]
    return bool(suspects) and any(
        failed(evidence.parts.get(aim.name), aim, goal)
        for aim in aims_of(checks)
        if not aim.check.dry_run and aim.name in suspects
    )
