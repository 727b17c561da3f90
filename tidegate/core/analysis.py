"""Counts + evidence + limits → one result a check: what a rollout decides by. Pure.

Each check has an absolute part and, with `againstStable`, a relative one; `alpha` is split evenly over
all parts, so it bounds the chance that a healthy release is ever failed by any of them. Evidence is
updated by every look and pools over steps. The rules for latency against stable, late changes and
what holds a step are in docs/decisions/0001-evidence.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from tidegate.core import evidence as ev
from tidegate.core.plan import Check
from tidegate.core.verdict import Finding, Verdict, worst

Buckets = tuple[tuple[float, int], ...]  # (upper bound in ms, answers in this bucket), ascending
LEANING = math.log(3)  # log evidence from which a step is better held than left
CONFIDENCE = 0.95  # how sure a step is, at PASS, that a limit is held; FAIL goes by alpha alone


class Cumulative(Protocol):
    """Counters since a process started; `latency` counts answers at or below each bound (ports.Counters)."""

    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def latency(self) -> tuple[tuple[float, int], ...]: ...


@dataclass(frozen=True)
class Counts:
    """What one arm saw in one look; `latency` is per bucket, not cumulative."""

    requests: int = 0
    errors: int = 0
    latency: Buckets = ()

    def plus(self, other: Counts) -> Counts:
        """Return the sum; of buckets with different bounds, the newer ones."""
        mine, new = self.latency, other.latency
        if mine and new and [b for b, _ in mine] == [b for b, _ in new]:
            new = tuple((bound, a + b) for (bound, a), (_, b) in zip(mine, new, strict=True))
        return Counts(self.requests + other.requests, self.errors + other.errors, new or mine)


@dataclass(frozen=True)
class Window:
    """The counts of one look. `share` is the candidate's configured share of requests, weight / 100.

    In a look during which the weight changed, pass the larger of the two shares: a request that went to
    the candidate is then never counted as more than its share.
    """

    candidate: Counts
    stable: Counts
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the candidate's share must be in (0, 1], not {self.share}")


@dataclass(frozen=True)
class Part:
    """The evidence of one part of a check; `spec` names what it was gathered for.

    `pooled` and `run` are (candidate trials, events, stable trials, events): of all looks, and since the
    rate last began to rise (a CUSUM, `excess`), which is what a breach's reason shows. `possible` counts
    events that may have been: answers of a bucket that straddles the limit. `sums` are the events of
    both arms and the candidate's among them by share. `guard` is the second purse of latency against
    stable. `peak` is the largest log evidence of any look, `limit` the last one used (ms, for latency).
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
            "candidate": _counts_to_dict(self.candidate),
            "stable": _counts_to_dict(self.stable),
            "share": self.share,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Evidence:
        """Return what `to_dict` wrote; raises KeyError or TypeError for anything else."""
        parts = {name: _part_from_dict(part) for name, part in value["parts"].items()}
        candidate, stable = (_counts_from_dict(value[arm]) for arm in ("candidate", "stable"))
        return Evidence(candidate, stable, value["share"], parts)


@dataclass(frozen=True)
class CheckResult:
    """What one part of a check says now.

    `observed` and `limit` are shares of one (errors, or answers slower than the limit); the `_text` forms
    are for people and trailers. `evidence` may be huge (capped at 1e300; `log_evidence` is exact) and
    FAIL means it ever reached `threshold`. `bound` is the anytime-valid upper bound at `CONFIDENCE` in
    the unit of `observed`, for the relative error part a multiple of stable, None when there is none.
    `applicable` is False when the part can't be judged at this weight (no stable to compare with);
    `blocking` is False for parts that never hold a step (against stable, dry run): see `conclude`. `against` is
    true while the evidence leans against the release (≥ 3) without having reached the threshold.
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


# ---------------------------------------------------------------- looks
def delta(before: Cumulative | None, after: Cumulative) -> Counts:
    """Return what was counted between two readings of the same counters.

    If any counter went down, the process that counts was restarted: all of `after` is new.
    """
    old, new = _per_bucket(before.latency) if before else (), _per_bucket(after.latency)
    if before is None or before.requests > after.requests or before.errors > after.errors:
        return Counts(after.requests, after.errors, new)
    seen = dict(before.latency)
    if any(seen.get(bound, 0) > count for bound, count in after.latency):
        return Counts(after.requests, after.errors, new)
    if old and [b for b, _ in old] != [b for b, _ in new]:
        latency: Buckets = ()  # other buckets: nothing in this look can be attributed
    else:
        was = dict(old)
        latency = tuple((bound, max(0, count - was.get(bound, 0))) for bound, count in new)
    return Counts(after.requests - before.requests, after.errors - before.errors, latency)


def _per_bucket(cumulative: Sequence[tuple[float, int]]) -> Buckets:
    below = 0
    result = []
    for bound, count in cumulative:
        result.append((bound, max(0, count - below)))
        below = max(below, count)
    return tuple(result)


def _slower(buckets: Buckets, limit: float) -> tuple[int, int, int]:
    """Return (answers, surely slower than `limit`, possibly slower)."""
    answers = certain = possible = 0
    lower = 0.0
    edge = limit * (1 - 1e-9)
    for upper, count in buckets:
        answers += count
        certain += count if lower >= edge else 0
        possible += count if upper * (1 - 1e-9) > limit else 0
        lower = upper
    return answers, certain, possible


# ---------------------------------------------------------------- parts
def _parts(checks: Sequence[Check]) -> Iterator[tuple[str, Check, bool, str]]:
    """Yield (name, check, is it against stable, spec) of every part."""
    for check in checks:
        tail = f"@{check.quantile:g}" if check.metric == "latency" else ""
        yield check.name, check, False, f"{check.metric}{tail}<{float(check.limit):g}"
        if check.against_stable:
            tolerance = float(check.against_stable.tolerance)
            yield f"{check.name}-vs-stable", check, True, f"{check.metric}{tail}~{tolerance:g}"


def threshold(checks: Sequence[Check], alpha: float) -> float:
    """Return 1/alpha of each part: what its evidence must reach for FAIL."""
    return max(1, sum(1 for _ in _parts(checks))) / alpha


def start(checks: Sequence[Check]) -> Evidence:
    """Return the evidence before the first look."""
    return Evidence(parts={name: Part(spec) for name, _, _, spec in _parts(checks)})


def update(evidence: Evidence, checks: Sequence[Check], window: Window, alpha: float) -> Evidence:
    """Return the evidence after one look.

    A part whose limit, quantile or tolerance was edited meanwhile starts anew; others go on.
    """
    stable = evidence.stable.plus(window.stable)
    comparable = window.share < 1 and stable.requests > 0
    level = threshold(checks, alpha)
    parts = {}
    for name, check, relative, spec in _parts(checks):
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
        null = float(check.limit)
        trials, events = max(arm.requests, arm.errors), arm.errors
        possible = events
    else:
        null = round(1 - check.quantile, 12)
        trials, events, possible = _slower(arm.latency, check.limit)
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
            limit=float(check.limit),
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
        return replace(part, limit=None)
    trials, events, possible = _slower(window.candidate.latency, limit)
    theirs, slow, _ = _slower(window.stable.latency, limit)
    null = round(1 - check.quantile, 12)
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
    if part.guard:
        level = min(level, ev.log_evidence(part.guard, part.guard_trials))
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


# ---------------------------------------------------------------- verdicts
def breached(evidence: Evidence, checks: Sequence[Check], alpha: float) -> bool:
    """Return whether any part that counts (not `dryRun`) has failed; cheaper than `judge`."""
    goal = math.log(threshold(checks, alpha))
    return any(
        not check.dry_run and (part := evidence.parts.get(name)) is not None and part.peak >= goal
        for name, check, _, _ in _parts(checks)
    )


def judge(
    evidence: Evidence, checks: Sequence[Check], alpha: float, confidence: float = CONFIDENCE
) -> tuple[CheckResult, ...]:
    """Return a result for every part of every check; call `update` with each look before.

    FAIL: the evidence ever reached the threshold. PASS: the upper bound at `confidence` lies under the
    limit. ERROR: nothing was counted, so nobody looked. Else INCONCLUSIVE.
    """
    level = threshold(checks, alpha)
    results = []
    for name, check, relative, spec in _parts(checks):
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


# ---------------------------------------------------------------- JSON
def _counts_to_dict(counts: Counts) -> dict[str, Any]:
    latency = [[None if math.isinf(bound) else bound, count] for bound, count in counts.latency]
    return {"requests": counts.requests, "errors": counts.errors, "latency": latency}


def _counts_from_dict(value: Mapping[str, Any]) -> Counts:
    latency = tuple((math.inf if bound is None else float(bound), int(n)) for bound, n in value["latency"])
    return Counts(value["requests"], value["errors"], latency)


def _part_from_dict(value: Mapping[str, Any]) -> Part:
    sequences = {key: tuple(value[key]) for key in ("wealth", "guard", "pooled", "run")}
    sums = tuple((share, n, k) for share, n, k in value["sums"])
    return Part(**{**value, **sequences, "sums": sums})
