"""The difference of two rates, always valid: evidence against each difference, and its confidence interval.

For a difference d, the null is a line: candidate's rate p + d, stable's p, for any p. For each p on it a
likelihood ratio against that p is a martingale, whatever it bets on; a mixture of them is one too, so its
smallest value over all p is an e-process: P(ever ≥ 1/α | the difference is d) ≤ α, at any look, in any
order of units, at any split, even one that changes (Ville; the minimum over a composite null as in Ramdas,
Ruf, Larsson, Koolen, "Admissible anytime-valid inference must rely on nonnegative martingales", 2020).

What each p is bet against moves with p: the same line, shifted by an effect at right angles to it in the
Fisher metric, so that evidence does not depend on where on the line the truth lies and nothing is paid for
not knowing it. A small part of the purse is on "anything else" (Jeffreys' mixture of both rates, as in
universal inference), which rules out every p far from what was seen. Only four counts are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import log, log1p

from tidegate.core.evidence import log_sum_exp

# Effects that are bet on, as multiples of the one worth finding, to both sides, and their parts of the purse.
EFFECTS = (
    (0.25, 0.03),
    (0.5, 0.08),
    (0.75, 0.14),
    (1.0, 0.32),
    (1.4, 0.2),
    (2.0, 0.11),
    (3.0, 0.06),
    (5.0, 0.04),
    (10.0, 0.02),
)
ELSE = 0.05  # the part on anything else
_EDGE = 0.02  # a bet never comes nearer to 0 or 1 than this part of the way from p
_BETS = tuple(
    (sign * times, math.log((1 - ELSE) * part / 2)) for times, part in EFFECTS for sign in (1.0, -1.0)
)
BETS_SUM = ELSE + sum(math.exp(prior) for _, prior in _BETS)  # of the purse
_FINE = 1e-9

Arm = tuple[int, int]  # (units, those with 1)


@dataclass(frozen=True)
class Pair:
    """Both arms' counts, the candidate's part of the units as planned, and the effect worth finding."""

    candidate: Arm
    stable: Arm
    share: float
    effect: float

    @property
    def estimate(self) -> float:
        """The difference that was seen; 0 while an arm is empty."""
        (n, k), (m, j) = self.candidate, self.stable
        return k / n - j / m if n and m else 0.0

    def log_likelihood(self, mine: float, theirs: float) -> float:
        """Return the log likelihood of both rates."""
        return _log_likelihood(self.candidate, mine) + _log_likelihood(self.stable, theirs)


def _log_likelihood(arm: Arm, rate: float) -> float:
    n, k = arm
    if (k and rate <= 0) or (n > k and rate >= 1):
        return -math.inf
    return (k * math.log(rate) if k else 0.0) + ((n - k) * math.log1p(-rate) if n > k else 0.0)


def _jeffreys(arm: Arm) -> float:
    n, k = arm
    return math.lgamma(k + 0.5) + math.lgamma(n - k + 0.5) - math.lgamma(n + 1) - math.log(math.pi)


def log_evidence(pair: Pair, difference: float = 0.0) -> float:
    """Return the log evidence that the true difference is not `difference`; 0 while an arm is empty."""
    if not (pair.candidate[0] and pair.stable[0]):
        return 0.0
    low, high = max(0.0, -difference) + _FINE, min(1.0, 1.0 - difference) - _FINE
    if low >= high:  # only one pair of rates is that far apart
        return 0.0 if pair.log_likelihood(max(0.0, difference), max(0.0, -difference)) == 0 else math.inf
    anything = _jeffreys(pair.candidate) + _jeffreys(pair.stable) + math.log(ELSE)

    def far(p: float) -> float:
        return anything - pair.log_likelihood(p + difference, p)

    def against(p: float) -> float:
        return _against(pair, p + difference, p, far(p))

    likely = _likeliest(pair, difference, low, high)
    least = against(likely)
    # `far` alone is a lower bound and grows to both sides of the likeliest p: beyond these nothing is lower.
    units = pair.candidate[0] + pair.stable[0]
    step = math.sqrt((likely * (1 - likely) + 1 / units) / units)
    left, right = likely, likely
    while left > low and far(left) < least:
        left = max(low, left - step)
    while right < high and far(right) < least:
        right = min(high, right + step)
    return min(least, _least(against, left, right))


def _against(pair: Pair, mine: float, theirs: float, far: float) -> float:
    """Return the log of the whole purse against one pair of rates."""
    wide, narrow = mine * (1 - mine) / pair.share, theirs * (1 - theirs) / (1 - pair.share)
    part = pair.effect * wide / (wide + narrow)
    rest = pair.effect - part
    (n, k), (m, j) = pair.candidate, pair.stable
    base = pair.log_likelihood(mine, theirs)
    terms = [far]
    # Written out, without calls: this is most of the work of a look.
    first, second = (_EDGE * mine, 1 - _EDGE * (1 - mine)), (_EDGE * theirs, 1 - _EDGE * (1 - theirs))
    for times, prior in _BETS:
        p = min(max(mine + times * part, first[0]), first[1])
        q = min(max(theirs - times * rest, second[0]), second[1])
        bet = k * log(p) + (n - k) * log1p(-p) + j * log(q) + (m - j) * log1p(-q)
        terms.append(prior + bet - base)
    return log_sum_exp(terms)


def _likeliest(pair: Pair, difference: float, low: float, high: float) -> float:
    """Return stable's likeliest rate on the line: where the falling slope of the log likelihood is 0."""
    (n, k), (m, j) = pair.candidate, pair.stable
    for _ in range(32):
        p = (low + high) / 2
        q = p + difference
        slope = k / q - (n - k) / (1 - q) + j / p - (m - j) / (1 - p)
        low, high = (p, high) if slope > 0 else (low, p)
    return (low + high) / 2


def _least(of: Callable[[float], float], left: float, right: float, points: int = 16) -> float:
    """Return the least value in an interval: by golden section around each low place of a grid.

    There may be two of them, of nearly equal depth: the lowest of the grid need not lead to the least.
    """
    at = [left + (right - left) * i / points for i in range(points + 1)]
    values = [of(x) for x in at]
    least = min(values)
    for i, value in enumerate(values):
        before, after = max(0, i - 1), min(points, i + 1)
        if value <= values[before] and value <= values[after]:
            least = min(least, _golden(of, at[before], at[after]))
    return least


def _golden(of: Callable[[float], float], left: float, right: float) -> float:
    ratio, least = (math.sqrt(5) - 1) / 2, math.inf
    for _ in range(12):
        a, b = right - ratio * (right - left), left + ratio * (right - left)
        first, second = of(a), of(b)
        least = min(least, first, second)
        left, right = (left, b) if first < second else (a, right)
    return least


@lru_cache(maxsize=256)  # most looks find no new outcome
def interval(pair: Pair, alpha: float) -> tuple[float, float]:
    """Return the always-valid confidence interval of the difference: P(it ever excludes the truth) ≤ alpha.

    It is rounded outwards to a hundredth of the effect worth finding; [-1, 1] while nothing is known.
    """
    goal = -math.log(alpha)
    return _end(pair, goal, -1.0), _end(pair, goal, 1.0)


def _end(pair: Pair, goal: float, side: float) -> float:
    inside, step = pair.estimate, pair.effect / 4
    while True:
        outside = max(-1.0, min(1.0, inside + side * step))
        if log_evidence(pair, outside) >= goal:
            break
        if abs(outside) == 1.0:
            return side
        inside, step = outside, 2 * step
    while abs(outside - inside) > pair.effect / 100:
        middle = (inside + outside) / 2
        if log_evidence(pair, middle) >= goal:
            outside = middle
        else:
            inside = middle
    return outside
