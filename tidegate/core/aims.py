"""What each part of a check tests: the absolute limit, the same against stable, the split, the scores. Pure.

| kind | trials, events | null hypothesis |
| --- | --- | --- |
| RATE | requests, answers, predictions, outcomes; those that are bad | the rate is at most the limit |
| BLOCKS | stretches of `burst` seconds, each one's rate | the mean of the rates is at most the limit |
| RISK | errors of both arms, the candidate's | its risk is at most 1 + tolerance times stable's |
| TRIALS | both arms' trials and events | the same, where each arm's trials are known |
| SLOWER | answers, those slower than stable's quantile × (1 + tolerance) | no more than stable, or allowed |
| SPLIT | requests (or units) of both, the candidate's | the candidate's share is the configured one |
| MEAN, GAP | scores by histogram | moved from stable's by at most the limit |
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tidegate.core.counts import Counts, slower
from tidegate.core.plan import Check

UNITS = "units"  # the tally of units (users) that were assigned to a release


class Kind(StrEnum):
    """How a part is tested."""

    RATE = "rate"
    BLOCKS = "blocks"
    RISK = "risk"
    TRIALS = "trials"
    SLOWER = "slower"
    SPLIT = "split"
    MEAN = "mean"
    GAP = "gap"


ABSOLUTE = frozenset({Kind.RATE, Kind.BLOCKS})


@dataclass(frozen=True, slots=True)
class Aim:
    """One part of a check: what it is called, how it is tested, and against which null.

    `spec` says all that its evidence depends on; evidence of another spec is not used. `null` is the rate,
    the relative risk, or the distance that is still allowed.
    """

    name: str
    check: Check
    kind: Kind
    spec: str
    null: float

    @property
    def relative(self) -> bool:
        """Whether it compares with stable, and so needs one that gets traffic."""
        return self.kind not in ABSOLUTE

    @property
    def swapped(self) -> bool:
        """Whether stable's successes are held to the candidate's, because the limit is a least rate."""
        return floored(self.check)


def aims_of(checks: Sequence[Check]) -> tuple[Aim, ...]:
    """Return every part of every check, in the checks' order."""
    return _known(checks)[1]


def compares_latency(checks: Sequence[Check]) -> bool:
    """Return whether any part needs stable's latencies."""
    return _known(checks)[2]


_Known = tuple[Sequence[Check], tuple[Aim, ...], bool]
_KNOWN: dict[int, _Known] = {}  # by the identity of a plan's own tuple, which can't change while it is held


def _known(checks: Sequence[Check]) -> _Known:
    found = _KNOWN.get(id(checks))
    if found is not None and found[0] is checks:
        return found
    aims = tuple(aim for check in checks for aim in _aims(check))
    made = (checks, aims, any(aim.kind is Kind.SLOWER for aim in aims))
    if type(checks) is tuple:
        if len(_KNOWN) >= 4096:
            _KNOWN.clear()
        _KNOWN[id(checks)] = made
    return made


def _aims(check: Check) -> tuple[Aim, ...]:
    spec = _spec(check)
    if check.metric == "sample-ratio":
        return (Aim(check.name, check, Kind.SPLIT, spec, 0.0),)
    if check.metric == "prediction-drift":
        moved = (Aim(check.name, check, Kind.MEAN, f"{spec}<{check.ceiling:g}", check.ceiling),)
        if check.distribution is None:
            return moved
        gap = float(check.distribution)
        return (*moved, Aim(f"{check.name}-distribution", check, Kind.GAP, f"{spec}|{gap:g}", gap))
    kind = Kind.BLOCKS if check.burst else Kind.RATE
    stretch = f"/{check.burst:g}s" if check.burst else ""
    absolute = Aim(check.name, check, kind, f"{spec}<{check.ceiling:g}{stretch}", allowed(check))
    if check.against_stable is None:
        return (absolute,)
    tolerance = float(check.against_stable.tolerance)
    other = {"error-rate": Kind.RISK, "latency": Kind.SLOWER}.get(check.metric, Kind.TRIALS)
    return absolute, Aim(f"{check.name}-vs-stable", check, other, f"{spec}~{tolerance:g}", 1 + tolerance)


def _spec(check: Check) -> str:
    if check.metric == "latency":
        return f"latency@{check.quantile:g}"
    if check.query:
        return f"prometheus:{zlib.crc32(f'{check.query.events}|{check.query.total}'.encode()):08x}"
    own = {"outcome": f":{check.outcome}:{check.better}", "score-difference": f":{check.difference}"}
    return check.metric + own.get(check.metric, "")


def allowed(check: Check) -> float:
    """Return the rate of bad events that the absolute part still accepts."""
    if check.metric == "latency":
        return check.slow_share
    return 1 - check.ceiling if floored(check) else check.ceiling


def floored(check: Check) -> bool:
    """Whether the limit is the least rate of something good, and its absence is what is counted."""
    return check.metric == "outcome" and check.better == "higher"


def counted(check: Check, arm: Counts) -> tuple[int, int, int]:
    """Return one arm's (trials, bad events, bad events that may have been) for a check's absolute part.

    Two sources of one ratio may be a moment apart: more events than trials count as so many trials.
    """
    if check.metric == "error-rate":
        return max(arm.requests, arm.errors), arm.errors, arm.errors
    if check.metric == "latency":
        return slower(arm.latency, check.ceiling)
    trials, events = arm.tally(check.name)
    trials = max(trials, events)
    if floored(check):
        events = trials - events
    return trials, events, events
