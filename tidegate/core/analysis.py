"""Evidence + limits → one result a check: what a rollout decides by. Pure.

Call `start` once, `update` with every look and `judge` after it. The rules for
latency against stable, late changes and what holds a step: docs/decisions/0001-evidence.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tidegate.core import evidence as ev
from tidegate.core.counts import Counts, Window, delta
from tidegate.core.plan import Check
from tidegate.core.pooling import Evidence, Part, breached, parts_of, start, threshold, update
from tidegate.core.verdict import Verdict

__all__ = [
    "CheckResult",
    "Counts",
    "Evidence",
    "Window",
    "breached",
    "delta",
    "judge",
    "start",
    "threshold",
    "update",
]

LEANING = math.log(3)  # log evidence from which a step is better held than left
CONFIDENCE = 0.95  # how sure a step is, at PASS, that a limit is held; FAIL goes by alpha alone


@dataclass(frozen=True)
class CheckResult:
    """What one part of a check says now.

    `observed` and `limit` are shares of one (errors, or answers slower than the limit); the `_text` forms
    are for people and trailers. `evidence` may be huge (capped at 1e300; `log_evidence` is exact) and
    FAIL means it ever reached `threshold`. `bound` is the anytime-valid upper bound at `CONFIDENCE` in
    the unit of `observed`, for the relative error part a multiple of stable, None when there is none.
    `applicable` is False when the part can't be judged at this weight (no stable to compare with);
    `blocking` is False for parts that never hold a step (against stable, dry run): they only fail it.
    `against` is true while the evidence leans against the release (3 or more).
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
        bound = self.bound if self.bound is not None and math.isfinite(self.bound) else None
        extra = {"verdict": str(self.verdict), "evidence": self.evidence, "against": self.against}
        return {**asdict(self), **extra, "bound": bound}


def judge(
    evidence: Evidence, checks: Sequence[Check], alpha: float, confidence: float = CONFIDENCE
) -> tuple[CheckResult, ...]:
    """Return a result for every part of every check; call `update` with each look before.

    FAIL: the evidence ever reached the threshold. PASS: the upper bound at `confidence` lies under the
    limit. ERROR: nothing was counted, so nobody looked. Else INCONCLUSIVE.
    """
    level = threshold(checks, alpha)
    results = []
    for name, check, relative, spec in parts_of(checks):
        part = evidence.parts.get(name)
        if part is None or part.spec != spec:
            part = Part(spec)
        if not relative:
            result = _judge_absolute(name, check, part, level, confidence)
        elif check.metric == "error-rate":
            result = _judge_relative_errors(name, check, part, level, confidence)
        else:
            result = _judge_relative_latency(name, check, part, level, confidence)
        if relative:
            result = _fit(result, evidence)
        results.append(replace(result, dry_run=check.dry_run, blocking=result.blocking and not check.dry_run))
    return tuple(results)


def _fit(result: CheckResult, evidence: Evidence) -> CheckResult:
    """Mark a relative part that can't be judged at this weight; a FAIL stays one."""
    result = replace(result, blocking=False)
    if result.verdict is Verdict.FAIL or (0 < evidence.share < 1 and evidence.stable.requests):
        return result
    reason = "no stable to compare with: it gets no traffic"
    return replace(result, verdict=Verdict.INCONCLUSIVE, applicable=False, reason=reason)


@dataclass(frozen=True)
class _View:
    """One part in the words and numbers of its result; `seen` is (trials, events) of the candidate."""

    what: str
    over: str
    limit: float
    limit_text: str
    seen: tuple[int, int]
    bound: float | None
    bound_text: str
    holds: bool


def _judge_absolute(name: str, check: Check, part: Part, level: float, confidence: float) -> CheckResult:
    errors = check.metric == "error-rate"
    limit = check.ceiling if errors else check.slow_share
    over = "" if errors else f" over {check.ceiling:g} ms"
    what = "error rate" if errors else f"share of answers{over}"
    text = f"{_percent(limit)}{over}"
    if not part.trials:
        reason = f"{what}: nothing was counted yet"
        return CheckResult(name, Verdict.ERROR, None, limit, "–", text, 0.0, level, None, reason, 0)
    return _result(name, part, _rate_view(part, level, what, over, limit, confidence), level, confidence)


def _judge_relative_latency(
    name: str, check: Check, part: Part, level: float, confidence: float
) -> CheckResult:
    assert check.against_stable
    limit = check.slow_share
    if part.limit is None and part.peak < math.log(level):
        reason = f"stable's p{100 * check.quantile:g} is not known well enough yet"
        blank = (part.level, level, None, reason, part.trials)
        return CheckResult(name, Verdict.INCONCLUSIVE, None, limit, "–", "–", *blank)
    over = f" over {part.limit:g} ms ({1 + float(check.against_stable.tolerance):g} × stable's)"
    view = _rate_view(part, level, f"share of answers{over}", over, limit, confidence)
    return _result(name, part, view, level, confidence)


def _rate_view(part: Part, level: float, what: str, over: str, limit: float, confidence: float) -> _View:
    n, k, _, _ = _shown(part, part.peak >= math.log(level), limit)
    holds = ev.log_evidence_below(limit, part.trials, part.possible) >= -math.log(1 - confidence)
    bound = ev.rate_bound(part.trials, part.possible, 1 - confidence)
    return _View(what, over, limit, f"{_percent(limit)}{over}", (n, k), bound, _percent(bound), holds)


def _judge_relative_errors(
    name: str, check: Check, part: Part, level: float, confidence: float
) -> CheckResult:
    assert check.against_stable
    times = 1 + float(check.against_stable.tolerance)
    n, k, m, slow = _shown(part, part.peak >= math.log(level))
    base = slow / m if m else 0.0
    text = f"{times:g} × stable's {_percent(base)} ({slow}/{m})"
    holds = ev.log_evidence_risk_below(times, part.sums) >= -math.log(1 - confidence)
    risk = ev.risk_bound(part.sums, 1 - confidence)
    bound, bound_text = (risk, f"{risk:.2g} × stable's") if math.isfinite(risk) else (None, "anything")
    view = _View("error rate", "", times * base, text, (n, k), bound, bound_text, holds)
    return _result(name, part, view, level, confidence)


def _shown(part: Part, failed: bool, limit: float | None = None) -> tuple[int, int, int, int]:
    """Return the counts that a reason shows: of a FAIL the latest, if they tell more than all of them.

    A release that broke late has a harmless rate over all its requests; the reason must show the breach.
    """
    n, k, m, s = part.run
    if not failed or not n:
        return part.pooled
    floor = limit if limit is not None else s / m if m else 0.0
    return part.run if k / n > floor and k / n > part.pooled[1] / max(1, part.pooled[0]) else part.pooled


def _result(name: str, part: Part, view: _View, level: float, confidence: float) -> CheckResult:
    failed = part.peak >= math.log(level)
    n, k = view.seen
    rate = _percent(k / n) if n else "–"
    of = f"{k} of the last {n}" if failed and n < part.pooled[0] else f"{k}/{n}"
    log = part.peak if failed else part.level
    said = view.limit_text.removesuffix(view.over) if view.over else view.limit_text
    if failed:
        reason = f"{view.what} {rate} ({of}) > limit {said}: evidence {_number(log)} ≥ {level:g}"
    else:
        sure = f"at most {view.bound_text} with {_percent(confidence)} confidence"
        reason = f"{view.what} {rate} ({of}), limit {said}: {sure}, evidence {_number(log)} < {level:g}"
    verdict = Verdict.FAIL if failed else Verdict.PASS if view.holds and n else Verdict.INCONCLUSIVE
    observed, text = (k / n, rate + view.over) if n else (None, "–")
    numbers = (observed, view.limit, text, view.limit_text, log, level, view.bound)
    return CheckResult(name, verdict, *numbers, reason, part.trials)


def _percent(value: float) -> str:
    digits = 1 if value >= 0.001 or value == 0 else 2
    return f"{100 * value:.{digits}f}".rstrip("0").rstrip(".") + "%" if value else "0%"


def _number(log: float) -> str:
    """Write exp(log) as people read it: 0.4, 137, 2.1e5, even far beyond a float's range."""
    if -5 < log < math.log(9999):
        return f"{math.exp(log):.2g}" if log < math.log(99) else f"{math.exp(log):.0f}"
    power = math.floor(log / math.log(10))
    return f"{math.exp(log - power * math.log(10)):.1f}e{power}"
