"""A/B tests: planned size, always-valid difference, and when one is over. Pure.

An A/B test has one alpha: `INTERVAL` of it for the difference, the rest for the sample ratio. Its stage's
checks have an alpha of their own (core.strategies), so that a rollout has one in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from tidegate.core import difference
from tidegate.core.counts import Tally
from tidegate.core.evidence import log_sum_exp
from tidegate.core.plan import AbTest
from tidegate.core.verdict import Verdict

INTERVAL = 0.8  # of the alpha goes to the difference, the rest to the sample ratio
# The part of the purse that counts as bet on just the effect worth finding: so chosen that the power at the
# planned size, simulated over designs and alphas, is what was asked for (bench/experiments.py).
_ON_EFFECT = 0.15
_RATIO_PRIORS = (10.0, 100.0, 1_000.0, 10_000.0)  # how close to the planned split a broken one is expected
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Arms:
    """What both arms counted: (units whose outcome is known, those where it was 1), and units assigned.

    `crossed` are units of either arm that saw the other one too.
    """

    candidate: Tally
    stable: Tally
    candidate_units: int
    stable_units: int
    crossed: int = 0


@dataclass(frozen=True)
class Decision:
    """What an experiment says now; `over` when its horizon or its size is reached without evidence.

    `quiet` when there is an arm of which no outcome is known at all. `finding` is what a person is shown,
    with the keys of analysis.CheckResult.as_dict and more.
    """

    verdict: Verdict
    reason: str
    over: bool = False
    finding: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False


# ---------------------------------------------------------------- planning
@dataclass(frozen=True)
class Size:
    """Units whose outcome must be known, by arm."""

    candidate: int
    stable: int

    @property
    def total(self) -> int:
        """Units of both arms."""
        return self.candidate + self.stable


@lru_cache(maxsize=64)
def inflation(alpha: float, power: float) -> float:
    """Return how many times the units of a test at a fixed size it takes when one looks at any time.

    The log evidence of an effect of z standard errors at the end is about a Brownian motion with variance
    z² and drift z²/2; the chance that it ever passes its goal is that of Wald's first passage. Simulated
    (bench/experiments.py): 1.4 times at alpha 0.5%, 1.7 at 5%, for a power of 80%; half of the tests that
    are to find the effect end by 0.9 times a fixed size.
    """
    goal = -math.log(INTERVAL * alpha * _ON_EFFECT)
    low, high = 0.0, 100.0
    for _ in range(60):
        z = (low + high) / 2
        passed = _NORMAL.cdf(z / 2 - goal / z) + math.exp(goal) * _NORMAL.cdf(-z / 2 - goal / z)
        low, high = (z, high) if passed < power else (low, z)
    return (z / (_NORMAL.inv_cdf(1 - INTERVAL * alpha / 2) + _NORMAL.inv_cdf(power))) ** 2


def planned(spec: AbTest, alpha: float) -> Size:
    """Return the size that finds `minimumEffect` with `power`, whichever look it is found at.

    Two proportions, two-sided, unequal arms (Fleiss, Levin, Paik, "Statistical Methods for Rates and
    Proportions", 3rd ed. 2003, eq. 4.14 and 4.19, without continuity correction), times `inflation`. Of
    the rates one effect above and one below the baseline, the one that needs more units.
    """
    share, base, effect = spec.split / 100, float(spec.baseline), float(spec.minimum_effect)
    level = _NORMAL.inv_cdf(1 - INTERVAL * alpha / 2)
    power = _NORMAL.inv_cdf(spec.power)
    most = 0.0
    for rate in (base + effect, base - effect):
        if not 0 < rate < 1:
            continue
        mean = share * rate + (1 - share) * base
        null = math.sqrt(mean * (1 - mean) * (1 / share + 1 / (1 - share)))
        other = math.sqrt(rate * (1 - rate) / share + base * (1 - base) / (1 - share))
        most = max(most, ((level * null + power * other) / effect) ** 2)
    most = (most or 1 / (share * (1 - share))) * inflation(alpha, spec.power)
    return Size(math.ceil(share * most), math.ceil((1 - share) * most))


# ---------------------------------------------------------------- sample ratio
def ratio_log_evidence(candidate: int, stable: int, share: float) -> float:
    """Return the log evidence that units are not assigned by `share`; valid at any look.

    A mixture of beta-binomials about the share against it (Lindon, Malek, "Anytime-valid inference for
    multinomial count data", 2020).
    """
    null = candidate * math.log(share) + stable * math.log1p(-share)
    terms = []
    for prior in _RATIO_PRIORS:
        a, b = prior * share, prior * (1 - share)
        terms.append(_log_beta(a + candidate, b + stable) - _log_beta(a, b) - null)
    return log_sum_exp(terms) - math.log(len(terms))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


# ---------------------------------------------------------------- deciding
def decide(spec: AbTest, arms: Arms, alpha: float, elapsed: float) -> Decision:
    """Return PASS (the candidate is better), FAIL (worse, or the split is broken), else INCONCLUSIVE.

    `alpha` bounds the chance that any of it is said wrongly, ever; `elapsed` are seconds since it began.
    """
    said = weigh(spec, arms, alpha)
    view = _View(spec, arms, said, alpha, elapsed)
    if said.broken:
        return view.decided(Verdict.FAIL, view.mismatch)
    if said.verdict is not Verdict.INCONCLUSIVE:
        word = "better" if said.verdict is Verdict.PASS else "worse"
        number = f"evidence {_number(said.log_evidence)} ≥ {said.threshold:g}"
        return view.decided(said.verdict, f"{word} than stable, {view.seen}: {number}")
    return view.undecided()


@dataclass(frozen=True)
class Weighed:
    """What the counts of an A/B test prove: log evidence for a difference, and for a broken split."""

    verdict: Verdict
    log_evidence: float
    threshold: float
    ratio: float
    ratio_threshold: float

    @property
    def broken(self) -> bool:
        """True when units are surely not assigned as planned."""
        return self.ratio >= math.log(self.ratio_threshold)


def weigh(spec: AbTest, arms: Arms, alpha: float) -> Weighed:
    """Return the verdict alone: all that `decide` goes by, without words, interval and size."""
    threshold, ratio_threshold = 1 / (INTERVAL * alpha), 1 / ((1 - INTERVAL) * alpha)
    pair = pair_of(spec, arms)
    ratio = ratio_log_evidence(arms.candidate_units, arms.stable_units, pair.share)
    log = difference.log_evidence(pair)
    verdict = Verdict.INCONCLUSIVE
    if ratio >= math.log(ratio_threshold):
        verdict = Verdict.FAIL
    elif log >= math.log(threshold) and pair.estimate:
        verdict = Verdict.PASS if _good(spec, pair.estimate) else Verdict.FAIL
    return Weighed(verdict, log, threshold, ratio, ratio_threshold)


def pair_of(spec: AbTest, arms: Arms) -> difference.Pair:
    """Return what the difference is worked out of."""
    return difference.Pair(arms.candidate, arms.stable, spec.split / 100, float(spec.minimum_effect))


def _good(spec: AbTest, estimate: float) -> bool:
    return estimate > 0 if spec.better == "higher" else estimate < 0


class _View:
    """One look at an A/B test: its numbers, and the words for them."""

    def __init__(self, spec: AbTest, arms: Arms, said: Weighed, alpha: float, elapsed: float) -> None:
        self.spec, self.arms, self.said, self.elapsed = spec, arms, said, elapsed
        pair = pair_of(spec, arms)
        self.estimate = pair.estimate
        self.low, self.high = difference.interval(pair, INTERVAL * alpha)
        self.size = planned(spec, alpha)

    @property
    def seen(self) -> str:
        """Both rates, the difference and its interval."""
        (n, k), (m, j) = self.arms.candidate, self.arms.stable
        if not n or not m:
            return f"{self.spec.outcome} is known of {n} of its units and {m} of stable's"
        rates = f"{self.spec.outcome} {_percent(k / n)} ({k}/{n}) against {_percent(j / m)} ({j}/{m})"
        return f"{rates}, {_points(self.estimate)} (from {_points(self.low)} to {_points(self.high)})"

    @property
    def mismatch(self) -> str:
        """Say that the split is not what was asked for."""
        mine, theirs = self.arms.candidate_units, self.arms.stable_units
        return (
            f"sample ratio mismatch: {mine} of {mine + theirs} units ({_percent(mine / (mine + theirs))}) "
            f"instead of {self.spec.split}%: evidence {_number(self.said.ratio)} ≥ "
            f"{self.said.ratio_threshold:g}; its outcomes can't be trusted"
        )

    def decided(self, verdict: Verdict, reason: str) -> Decision:
        """Return what was proven."""
        return Decision(verdict, reason, finding=self.finding(verdict, reason))

    def undecided(self) -> Decision:
        """Return how much more it takes, or that it is over."""
        (n, _), (m, _) = self.arms.candidate, self.arms.stable
        proof = f"{self.seen}: evidence {_number(self.said.log_evidence)} < {self.said.threshold:g}"
        full = n >= self.size.candidate and m >= self.size.stable
        late = self.elapsed >= self.spec.horizon
        if full or late:
            text = f"its planned {self.size.total} units" if full else f"its horizon of {_time(self.elapsed)}"
            reason = f"over after {text}, nothing is proven; {proof}"
        elif not self.arms.candidate_units + self.arms.stable_units:
            reason = "no unit was assigned yet: does the request carry its header or cookie?"
        else:
            reason = f"{proof}; {self._more()}"
        found = self.finding(Verdict.INCONCLUSIVE, reason)
        return Decision(Verdict.INCONCLUSIVE, reason, full or late, found, not (n and m))

    def _more(self) -> str:
        (n, _), (m, _) = self.arms.candidate, self.arms.stable
        left = max(0, self.size.candidate - n) + max(0, self.size.stable - m)
        text = f"{left} more of {self.size.total} units at most"
        rest = max(0.0, self.spec.horizon - self.elapsed)
        if n and m and self.elapsed > 0:
            needed = max((self.size.candidate - n) / n, (self.size.stable - m) / m) * self.elapsed
            return f"{text}, about {_time(min(needed, rest))}" + (" (its horizon)" if needed > rest else "")
        return f"{text}, {_time(rest)} to its horizon"

    def finding(self, verdict: Verdict, reason: str) -> dict[str, Any]:
        """Return what is shown, as JSON types."""
        arms, said = self.arms, self.said
        known = arms.candidate[0] and arms.stable[0]
        worse = self.estimate != 0 and not _good(self.spec, self.estimate)
        return {
            "name": self.spec.outcome,
            "verdict": str(verdict),
            "observed": self.estimate if known else None,
            "limit": 0.0,
            "observed_text": _points(self.estimate) if known else "–",
            "limit_text": f"0 ({self.spec.better} is better)",
            "log_evidence": said.log_evidence,
            "evidence": math.exp(min(said.log_evidence, 690.0)),
            "threshold": said.threshold,
            "bound": self.low if self.spec.better == "higher" else self.high,
            "reason": reason,
            "trials": arms.candidate[0] + arms.stable[0],
            "dry_run": False,
            "applicable": True,
            "blocking": True,
            "against": worse and said.log_evidence >= math.log(3),
            "interval": [self.low, self.high],
            "units": {
                "candidate": arms.candidate_units,
                "stable": arms.stable_units,
                "crossed": arms.crossed,
            },
            "known": {"candidate": list(arms.candidate), "stable": list(arms.stable)},
            "planned": {"candidate": self.size.candidate, "stable": self.size.stable},
            "sample_ratio": {
                "expected": self.spec.split / 100,
                "log_evidence": said.ratio,
                "threshold": said.ratio_threshold,
            },
        }


# ---------------------------------------------------------------- words
def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _points(value: float) -> str:
    return f"{100 * value:+.2f} points"


def _number(log: float) -> str:
    if log < math.log(9999):
        return f"{math.exp(log):.2g}" if log < math.log(99) else f"{math.exp(log):.0f}"
    power = math.floor(log / math.log(10))
    return f"{math.exp(log - power * math.log(10)):.1f}e{power}"


def _time(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
