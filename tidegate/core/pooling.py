"""The evidence of a rollout: what each look adds to each part of each check. Pure.

A part is a check's absolute limit, or the same metric against stable; `alpha` is split evenly over all
parts, so it bounds the chance that a healthy release is ever failed by any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tidegate.core.aims import Aim, Kind, aims_of
from tidegate.core.counts import Counts, Window
from tidegate.core.parts import Evidence, Part
from tidegate.core.plan import Check
from tidegate.core.weighing import STEPS, Look

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
    aims, known = aims_of(checks), evidence.parts
    slow = any(aim.kind is Kind.SLOWER for aim in aims)
    candidate = _pooled(evidence.candidate, window.candidate, False)
    stable = _pooled(evidence.stable, window.stable, slow)
    comparable = window.share < 1 and stable.requests > 0
    look = Look(window, evidence, candidate, stable, comparable, 1 / threshold(checks, alpha), now)
    parts = {}
    for aim in aims:
        part = known.get(aim.name)
        if part is None or part.spec != aim.spec:
            part = _begun(aim, evidence)
        parts[aim.name] = STEPS[aim.kind](part, aim, look)
    return Evidence(candidate, stable, window.share, parts, now)


def _pooled(mine: Counts, new: Counts, latency: bool) -> Counts:
    """Return the sum, latencies only where they are asked for: they are most of the work."""
    return mine.plus(new if latency else Counts(new.requests, new.errors, (), new.tallies, new.bins))


def _begun(aim: Aim, evidence: Evidence) -> Part:
    """Return a part before its first look; scores counted before it was asked for are not its own."""
    already = evidence.candidate.bins.get(aim.check.name, ())
    return Part(aim.spec, bins=(already, already)) if already else Part(aim.spec)


def is_over(part: Part, aim: Aim) -> bool:
    """Return whether more windows than `failureLimit` allows were over the limit."""
    limit = aim.check.failure_limit
    return limit is not None and part.plain is not None and part.plain.over > limit.count


def failed(part: Part | None, aim: Aim, goal: float) -> bool:
    """Return whether a part has ever reached log evidence `goal`, or its `failureLimit`."""
    if part is None or part.spec != aim.spec:
        return False
    return part.peak >= goal or (part.plain is not None and is_over(part, aim))


def breached(evidence: Evidence, checks: Sequence[Check], alpha: float) -> bool:
    """Return whether any part that counts (not `dryRun`) has failed; cheaper than `judge`."""
    goal = math.log(threshold(checks, alpha))
    return any(
        failed(evidence.parts.get(aim.name), aim, goal) for aim in aims_of(checks) if not aim.check.dry_run
    )
