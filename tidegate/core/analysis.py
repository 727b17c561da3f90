"""Evidence + limits → one result a check: what a rollout decides by. Pure.

Call `start` once, `update` with every look, `judge` after it and `conclude` for a step's verdict. The
rules for latency against stable, late changes and what holds a step: docs/decisions/0001-evidence.md.
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
from tidegate.core.verdict import Finding, Verdict, worst

__all__ = [
    "CheckResult",
    "Counts",
    "Evidence",
    "Window",
    "breached",
    "conclude",
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
    `blocking` is False for parts that never hold a step (against stable, dry run): see `conclude`.
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

    def finding(self) -> Finding:
        """Return it as a report's finding."""
        return Finding(self.name, self.verdict, self.observed, self.limit, self.reason)


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


def conclude(results: Sequence[CheckResult]) -> Verdict:
    """Return a step's verdict: FAIL if any part failed, else the worst of the parts that hold a step.

    Parts against stable never hold a step, they only fail it: two healthy arms with hardly an error
    give no proof in any reasonable time. `dryRun` checks count for nothing. Of nothing left: ERROR.
    """
    counted = [r for r in results if not r.dry_run]
    if any(r.verdict is Verdict.FAIL for r in counted):
        return Verdict.FAIL
    return worst(r.verdict for r in counted if r.blocking and r.applicable)


def _fit(result: CheckResult, evidence: Evidence) -> CheckResult:
    """Mark a relative part that can't be judged at this weight; a FAIL stays one."""
    result = replace(result, blocking=False)
    if result.verdict is Verdict.FAIL or (0 < evidence.share < 1 and evidence.stable.requests):
        return result
    reason = "no stable to compare with: it gets no traffic"
    return replace(result, verdict=Verdict.INCONCLUSIVE, applicable=False, reason=reason)


def _judge_absolute(name: str, check: Check, part: Part, level: float, confidence: float) -> CheckResult:
    limit = float(check.limit) if check.metric == "error-rate" else round(1 - check.quantile, 12)
    over = "" if check.metric == "error-rate" else f" over {float(check.limit):g} ms"
    what = "error rate" if check.metric == "error-rate" else f"share of answers{over}"
    texts = (over, f"{_percent(limit)}{over}")
    if not part.trials:
        reason = f"{what}: nothing was counted yet"
        return CheckResult(
            name, Verdict.ERROR, None, limit, "–", texts[1], 0.0, level, None, reason, 0, applicable=True
        )
    bound = ev.rate_bound(part.trials, part.possible, 1 - confidence)
    return _result(name, part, limit, texts, what, level, bound, bound < limit, confidence)


def _judge_relative_errors(
    name: str, check: Check, part: Part, level: float, confidence: float
) -> CheckResult:
    assert check.against_stable
    times = 1 + float(check.against_stable.tolerance)
    numbers = _shown(part, part.peak >= math.log(level), times)
    base = numbers[3] / numbers[2] if numbers[2] else 0.0
    limit = times * base
    text = f"{times:g} × stable's {_percent(base)} ({numbers[3]}/{numbers[2]})"
    risk = ev.risk_bound(part.sums, 1 - confidence) if part.sums else math.inf
    result = _result(
        name, part, limit, ("", text), "error rate", level, risk, risk < times, confidence, numbers, times
    )
    return replace(result, bound=risk if math.isfinite(risk) else None)


def _judge_relative_latency(
    name: str, check: Check, part: Part, level: float, confidence: float
) -> CheckResult:
    assert check.against_stable
    limit = round(1 - check.quantile, 12)
    if part.limit is None and part.peak < math.log(level):
        reason = f"stable's p{100 * check.quantile:g} is not known well enough yet"
        return CheckResult(
            name, Verdict.INCONCLUSIVE, None, limit, "–", "–", part.level, level, None, reason, part.trials
        )
    over = f" over {part.limit:g} ms ({1 + float(check.against_stable.tolerance):g} × stable's)"
    bound = ev.rate_bound(part.trials, part.possible, 1 - confidence)
    texts = (over, f"{_percent(limit)}{over}")
    return _result(
        name, part, limit, texts, f"share of answers{over}", level, bound, bound < limit, confidence
    )


def _shown(part: Part, failed: bool, times: float | None = None) -> tuple[int, int, int, int]:
    """Return the counts that a reason shows: those since the rate rose, if they explain a FAIL better."""
    n, k, m, s = part.run
    if not failed or not n:
        return part.pooled
    pooled_n, pooled_k, _, _ = part.pooled
    if times is not None and m and k / n <= times * s / m:
        return part.pooled
    return part.run if k / n > pooled_k / max(1, pooled_n) else part.pooled


def _result(
    name: str,
    part: Part,
    limit: float,
    texts: tuple[str, str],
    what: str,
    level: float,
    bound: float,
    holds: bool,
    confidence: float,
    numbers: tuple[int, int, int, int] | None = None,
    times: float | None = None,
) -> CheckResult:
    failed = part.peak >= math.log(level)
    n, k, _, _ = numbers or _shown(part, failed)
    observed = k / n if n else None
    rate = f"{_percent(observed)} ({k}/{n})" if observed is not None else "– (0/0)"
    if failed and n < part.pooled[0]:
        rate = f"{_percent(observed or 0)} ({k}/{n} since it rose)"
    verdict = Verdict.FAIL if failed else Verdict.PASS if holds and n else Verdict.INCONCLUSIVE
    shown = _number(part.peak if failed else part.level)
    said = texts[1].removesuffix(texts[0]) if texts[0] else texts[1]
    if failed:
        reason = f"{what} {rate} > limit {said}: evidence {shown} ≥ {level:g}"
    else:
        unit = _percent(bound) if times is None else f"{bound:.2g} × stable's" if bound < 1e6 else "anything"
        reason = (
            f"{what} {rate}, limit {said}: at most {unit} with {_percent(confidence)} confidence, "
            f"evidence {shown} < {level:g}"
        )
    return CheckResult(
        name,
        verdict,
        observed,
        limit,
        f"{_percent(observed)}{texts[0]}" if observed is not None else "–",
        texts[1],
        part.peak if failed else part.level,
        level,
        bound,
        reason,
        part.trials,
    )


def _percent(value: float) -> str:
    digits = 1 if value >= 0.001 or value == 0 else 2
    return f"{100 * value:.{digits}f}".rstrip("0").rstrip(".") + "%" if value else "0%"


def _number(log: float) -> str:
    """Write exp(log) as people read it: 0.4, 137, 2.1e5, even far beyond a float's range."""
    if -5 < log < math.log(9999):
        return f"{math.exp(log):.2g}" if log < math.log(99) else f"{math.exp(log):.0f}"
    power = math.floor(log / math.log(10))
    return f"{math.exp(log - power * math.log(10)):.1f}e{power}"
