"""Evidence + limits → one result a check: what a rollout decides by. Pure.

Call `start` once, `update` with every look and `judge` after it. The rules for latency against stable, late
changes and what holds a step: docs/decisions/0001-evidence.md; how each check is tested: 0004-checks.md.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tidegate.core.aims import ABSOLUTE, Aim, Kind, aims_of
from tidegate.core.comparing import settled
from tidegate.core.counts import Counts, Window, delta
from tidegate.core.judging import View, number, percent, view
from tidegate.core.parts import Evidence, Part
from tidegate.core.plan import Check
from tidegate.core.pooling import breached, is_over, start, threshold, update
from tidegate.core.verdict import Verdict
from tidegate.core.weighing import CONFIDENCE, NONE

__all__ = [
    "CONFIDENCE",
    "LEANING",
    "SHOWN",
    "CheckResult",
    "Counts",
    "Evidence",
    "Judgement",
    "Window",
    "breached",
    "delta",
    "judge",
    "shown",
    "start",
    "threshold",
    "update",
]

SHOWN = 5.0  # seconds between two looks at which every number is worked out, where nothing hangs on it
LEANING = math.log(3)  # log evidence from which a step is better held than left


class CheckResult(msgspec.Struct, frozen=True):
    """What one part of a check says now.

    `observed` and `limit` are shares of one (errors, or answers slower than the limit), of drift a distance;
    the `_text` forms are for people and trailers. `evidence` may be huge (capped at 1e250) and FAIL means
    that it ever reached `threshold`, or that a `failureLimit` was passed: the reason says which. `bound` is
    the anytime-valid upper bound at `CONFIDENCE` in the unit of `observed` (the lower one of a least rate),
    for the parts against stable a multiple of stable, None when there is none. `applicable` is False when
    the part can't be judged at this weight (no stable to compare with). `blocking` is False for parts that
    never hold a step (against stable, sample ratio, drift, dry run): they only fail it; drift of which
    nothing was counted does hold. `against` is true while the evidence leans against the release (3 or more).
    """

    name: str
    verdict: Verdict
    observed: float | None
    limit: float
    observed_text: str
    limit_text: str
    log_evidence: float
    threshold: float
    bound: float | None
    reason: str
    trials: int
    dry_run: bool = False
    applicable: bool = True
    blocking: bool = True

    @property
    def against(self) -> bool:
        """True while more speaks against the release than for it; chance alone does so now and then."""
        return self.log_evidence >= LEANING

    @property
    def evidence(self) -> float:
        """The evidence itself, capped so that it stays a JSON number."""
        return math.exp(min(self.log_evidence, 690.0))

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        document = msgspec.structs.asdict(self)
        document["verdict"] = str(self.verdict)
        document["evidence"], document["against"] = self.evidence, self.against
        return document


def judge(
    evidence: Evidence, checks: Sequence[Check], alpha: float, confidence: float = CONFIDENCE
) -> tuple[CheckResult, ...]:
    """Return a result for every part of every check; call `update` with each look before.

    FAIL: the evidence ever reached the threshold, or a `failureLimit` was passed. PASS: the upper bound at
    `confidence` lies under the limit. ERROR: nothing was counted, so nobody looked. Else INCONCLUSIVE.
    """
    level = threshold(checks, alpha)
    results = []
    for aim in aims_of(checks):
        part = evidence.parts.get(aim.name)
        if part is None or part.spec != aim.spec:
            part = Part(aim.spec)
        part = settled(part, aim, evidence.idle.get(aim.name, NONE))
        results.append(_judged(aim, part, evidence, level, confidence))
    return tuple(results)


class Judgement:
    """What `judge` says, worked out when somebody reads it: most looks only ask whether anything failed.

    Iterating gives the results; `failed` is cheap.
    """

    def __init__(self, evidence: Evidence, checks: Sequence[Check], alpha: float) -> None:
        self._asked = (evidence, checks, alpha)
        self._results: tuple[CheckResult, ...] | None = None

    @property
    def failed(self) -> bool:
        """Whether any check that is not a dry run has failed."""
        return breached(*self._asked)

    @property
    def read(self) -> bool:
        """Whether anybody asked for the results."""
        return self._results is not None

    @property
    def results(self) -> tuple[CheckResult, ...]:
        """One result for every part of every check."""
        if self._results is None:
            self._results = judge(*self._asked)
        return self._results

    def __iter__(self) -> Iterator[CheckResult]:
        return iter(self.results)


def shown(name: str, before: float, now: float) -> bool:
    """Return whether numbers for people are due: every `SHOWN` seconds, not for all rollouts at once."""
    turn = zlib.crc32(name.encode()) % 1000 / 1000 * SHOWN
    return math.floor((now + turn) / SHOWN) != math.floor((before + turn) / SHOWN)


def _judged(aim: Aim, part: Part, evidence: Evidence, level: float, confidence: float) -> CheckResult:
    goal = math.log(level)
    failed, seen = part.peak >= goal, view(aim, part, evidence, goal, confidence)
    stopped, applicable = is_over(part, aim), True
    log = part.peak if failed else part.level
    if failed or stopped:
        verdict = Verdict.FAIL
        reason = _evident(seen, log, level) if failed else _over_and_over(aim, part, seen)
    elif aim.relative and not (0 < evidence.share < 1 and evidence.stable.requests):
        verdict, applicable = Verdict.INCONCLUSIVE, False
        reason = "no stable to compare with: it gets no traffic"
    elif seen.missing:
        verdict = Verdict.ERROR if seen.error else Verdict.INCONCLUSIVE
        applicable, reason = aim.kind is not Kind.SPLIT, seen.missing
    else:
        verdict = Verdict.PASS if seen.holds else Verdict.INCONCLUSIVE
        reason = _open(seen, log, level, confidence)
    blocking = aim.kind in ABSOLUTE or verdict is Verdict.ERROR
    return CheckResult(
        aim.name,
        verdict,
        seen.observed,
        seen.limit,
        seen.observed_text,
        seen.limit_text,
        log,
        level,
        seen.bound,
        reason,
        part.trials,
        aim.check.dry_run,
        applicable,
        blocking and not aim.check.dry_run,
    )


def _short(seen: View) -> tuple[str, str]:
    """Return what was observed and the limit, without what `what` already says."""
    if " over " not in seen.what:
        return seen.observed_text, seen.limit_text
    return seen.observed_text.partition(" over ")[0], seen.limit_text.partition(" over ")[0]


def _evident(seen: View, log: float, level: float) -> str:
    rate, limit = _short(seen)
    return f"{seen.what} {rate} ({seen.seen}) {seen.sign} limit {limit}: evidence {number(log)} ≥ {level:g}"


def _open(seen: View, log: float, level: float, confidence: float) -> str:
    rate, limit = _short(seen)
    most = "at least" if seen.sign == "<" else "at most"
    sure = f"{most} {seen.bound_text} with {percent(confidence)} confidence, " if seen.bound_text else ""
    return f"{seen.what} {rate} ({seen.seen}), limit {limit}: {sure}evidence {number(log)} < {level:g}"


def _over_and_over(aim: Aim, part: Part, seen: View) -> str:
    """Say how a `failureLimit` was passed: how often, and the last time."""
    plain, limit = part.plain, aim.check.failure_limit
    assert plain
    assert limit
    n, k = plain.last
    below = seen.sign == "<"
    last = f"{n - k if below else k}/{n}"
    rate = percent((n - k if below else k) / n) if n else "–"
    side = "below" if below else "above"
    windows = f"{plain.over} of {plain.windows} windows of {plain.length:g} s"
    return (
        f"{seen.what} {side} {_short(seen)[1]} in {windows}"
        f" > failureLimit {limit.count}; the last such {rate} ({last})"
    )
