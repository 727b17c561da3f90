"""A recording as people look at it: stretches in which nothing changed, and each check's course. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tidegate.core.counts import Counts, slower
from tidegate.core.plan import Check
from tidegate.core.recording import Look, Recording
from tidegate.core.strategies import legs

POINTS = 240  # of a course: more can't be told apart
BETS = 24


@dataclass(frozen=True)
class Stretch:
    """Looks in a row at one step that said the same: `candidate` and `stable` are what all of them counted.

    `checks` are the findings of the last one, `blind` how many could not be made.
    """

    first: float
    last: float
    looks: int
    step: int
    phase: str
    weight: int
    mirror: int
    candidate: Counts
    stable: Counts
    checks: tuple[Mapping[str, Any], ...]
    blind: int
    reason: str


def stretches(recording: Recording) -> tuple[Stretch, ...]:
    """Return a recording's looks, those that say the same as one."""
    counted = [look for look in recording.looks if not look.entered]
    return tuple(_stretch(list(group)) for _, group in groupby(counted, key=_kind))


def _kind(look: Look) -> tuple[Any, ...]:
    verdicts = tuple((check["name"], check["verdict"]) for check in look.checks)
    return look.step, look.weight, look.mirror, look.phase, look.blind > 0, verdicts


def _stretch(looks: list[Look]) -> Stretch:
    candidate, stable = Counts(), Counts()
    for look in looks:
        candidate, stable = candidate.plus(look.candidate or Counts()), stable.plus(look.stable or Counts())
    first, last = looks[0], looks[-1]
    return Stretch(
        first.at,
        last.at,
        len(looks),
        last.step,
        last.phase,
        last.weight,
        last.mirror,
        candidate,
        stable,
        last.checks,
        sum(1 for look in looks if look.blind),
        last.reason,
    )


# ---------------------------------------------------------------- courses
@dataclass(frozen=True)
class Point:
    """One check's part at one look; times in seconds since the rollout began, evidence as its log.

    `low` and `high` are an always-valid interval of the rate, each None where there is none.
    """

    after: float
    log_evidence: float
    observed: float | None
    limit: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Course:
    """How one part of a check went; `threshold` is the evidence at which it fails."""

    name: str
    threshold: float
    verdict: str
    dry_run: bool
    points: tuple[Point, ...]
    observed_text: str = ""
    limit_text: str = ""


def courses(recording: Recording, points: int = POINTS) -> tuple[Course, ...]:
    """Return the course of each part of each check of the last strategy that was looked at.

    Of many looks some are left out, never those at which a verdict changed, the first or the last.
    """
    checks = {check.name: check for stage in recording.plan.stages for check in stage.checks}
    found: dict[str, list[tuple[Look, Mapping[str, Any], Counts]]] = {}
    total = Counts()
    for look in recording.looks:
        total = total.plus(look.candidate or Counts())
        for finding in look.checks:
            found.setdefault(finding["name"], []).append((look, finding, total))
    return tuple(
        _course(recording, part, _check_of(part, checks), rows, points) for part, rows in found.items()
    )


def _check_of(part: str, checks: Mapping[str, Check]) -> Check | None:
    return checks.get(part) or checks.get(part.removesuffix("-vs-stable"))


def _course(
    recording: Recording,
    part: str,
    check: Check | None,
    rows: list[tuple[Look, Mapping[str, Any], Counts]],
    points: int,
) -> Course:
    last = rows[-1][1]
    every = max(1, len(rows) // points)
    kept = [
        row
        for number, row in enumerate(rows)
        if number % every == 0
        or number == len(rows) - 1
        or row[1]["verdict"] != rows[max(0, number - 1)][1]["verdict"]
    ]
    made = tuple(_point(recording, part, check, *row) for row in kept)
    threshold = float(last.get("threshold") or 0.0)
    texts = (str(last.get("observed_text", "")), str(last.get("limit_text", "")))
    return Course(part, threshold, str(last["verdict"]), bool(last.get("dry_run")), made, *texts)


def _point(
    recording: Recording,
    part: str,
    check: Check | None,
    look: Look,
    finding: Mapping[str, Any],
    total: Counts,
) -> Point:
    observed, limit, bound = finding.get("observed"), finding.get("limit"), finding.get("bound")
    low, high, threshold = None, bound, float(finding.get("threshold") or 0.0)
    relative = check is not None and part != check.name
    if relative and check is not None and check.metric != "latency" and check.against_stable:
        times = 1 + float(check.against_stable.tolerance)
        high = bound * limit / times if bound is not None and limit else None
    elif check is not None and not relative:
        seen = _pooled(check, total)
        low = lower_bound(*seen, 1 / threshold) if seen and threshold > 1 else None
    after = look.at - recording.started
    return Point(after, float(finding.get("log_evidence") or 0.0), observed, limit, low, high)


def _pooled(check: Check, total: Counts) -> tuple[int, int] | None:
    if check.metric == "error-rate":
        return max(total.requests, total.errors), total.errors
    if check.metric == "latency" and total.latency:
        return slower(total.latency, check.ceiling)[:2]
    return None


def lower_bound(trials: int, events: int, alpha: float) -> float:
    """Return the anytime-valid lower bound of a rate: P(rate ever below it) ≤ alpha; 0 without events.

    Bets as on a limit (core.evidence), the limit moved to where their evidence is just 1/alpha.
    """
    if not events:
        return 0.0
    goal, low, high = -math.log(alpha), 1e-6, min(events / trials, 0.95)
    if high <= low or _log_evidence_above(low, trials, events) < goal:
        return 0.0
    for _ in range(16):
        middle = math.sqrt(low * high)
        if _log_evidence_above(middle, trials, events) >= goal:
            low = middle
        else:
            high = middle
    return low


def _log_evidence_above(null: float, trials: int, events: int) -> float:
    """Return the log evidence that a rate is above `null`, its bets spread from there to nearly 1."""
    low, high = min(1.3 * null, null + (1 - null) / 3), max(0.98, 1 - (1 - null) / 10)
    ratio = (high / low) ** (1 / (BETS - 1))
    terms = []
    for turn in range(BETS):
        rate = low * ratio**turn
        miss = math.log1p(-rate) - math.log1p(-null)
        terms.append(events * math.log(rate / null) + (trials - events) * miss)
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms) / BETS)


# ---------------------------------------------------------------- the weights on the way
def weights(recording: Recording) -> Iterator[tuple[float, int, int]]:
    """Yield (seconds since the rollout began, weight, mirror) whenever the candidate's part changed."""
    before: tuple[int, int] | None = None
    for look in recording.looks:
        if (look.weight, look.mirror) != before:
            before = (look.weight, look.mirror)
            yield look.at - recording.started, *before
    if recording.looks and recording.end and recording.end.phase == "RolledBack":
        yield recording.looks[-1].at - recording.started, 0, 0


def steps(recording: Recording) -> int:
    """Return how many legs the plan has."""
    return len(legs(recording.plan, recording.environment, recording.stable))
