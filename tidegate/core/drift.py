"""Has the candidate's distribution of scores moved from stable's? By histogram, always valid. Pure.

Both arms' scores are known only by bins of equal width over one declared range, which is [0, 1] here. For the
side "higher", a candidate's score counts as the lower edge of its bin and stable's as the upper one, and
the other way round for "lower", so that no bin ever makes a difference that is not there; a move of up to
two bins may stay unseen.

The test. For x in [0, 1] with mean ≤ m, λ in [0, 1) and ψ(λ) = −λ−log(1−λ), the inequality of Fan, Grama and
Liu (2015), exp(λy − ψ(λ)y²) ≤ 1 + λy for y ≥ −1, makes exp(λΣ(x−m) − ψ(λ)Σ(x−m)²) a supermartingale, and so a
mixture over λ. It needs three sums only, and for λ ≤ 0.55 it falls as m rises. Stable's mean μ is unknown,
but lies below an upper bound U at all looks at once, except with probability α/2. Where it does, the
evidence with m = U + limit is at every look at most that with m = μ + limit, which is an e-process: so
P(it ever reaches 2/α) ≤ α/2, and both together err with at most α. U may be of this very look for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

from tidegate.core.counts import SCORE_BINS
from tidegate.core.evidence import log_spaced

Histogram = tuple[int, ...]
Moments = tuple[int, float, float]  # values, their sum, the sum of their squares

_LAMBDAS = log_spaced(0.005, 0.55, 10)
_TERMS = tuple((value, -value - math.log1p(-value)) for value in _LAMBDAS)  # (λ, ψ(λ))
_PRIOR = 1 / len(_TERMS)
_WIDTH = 1 / SCORE_BINS
_LOW = tuple(i * _WIDTH for i in range(SCORE_BINS))
_LOW_SQUARES = tuple(edge * edge for edge in _LOW)
CUTS = SCORE_BINS - 1


def low_moments(bins: Sequence[int]) -> Moments:
    """Return the moments of scores that all lie at the lower edge of their bin."""
    return sum(bins), sum(map(mul, bins, _LOW)), sum(map(mul, bins, _LOW_SQUARES))


def high_moments(bins: Sequence[int]) -> Moments:
    """Return the moments of scores that all lie at the upper edge of their bin."""
    n, total, squares = low_moments(bins)
    return n, total + n * _WIDTH, squares + 2 * _WIDTH * total + n * _WIDTH * _WIDTH


def mean(bins: Sequence[int]) -> float:
    """Return the mean score, each in the middle of its bin; 0 without any."""
    n, total, _ = low_moments(bins)
    return total / n + _WIDTH / 2 if n else 0.0


def _evidence(first: float, second: float) -> float:
    """Return the mixture over λ for Σ(x−m) and Σ(x−m)²."""
    exp = math.exp
    return _PRIOR * sum([exp(min(bet * first - cost * second, 575.0)) for bet, cost in _TERMS])


def above(values: Moments, m: float) -> float:
    """Return the evidence that the mean of values in [0, 1] lies above m; it falls as m rises."""
    n, total, squares = values
    m = min(m, 1.0)
    return _evidence(total - n * m, squares - 2 * m * total + n * m * m)


def below(values: Moments, m: float) -> float:
    """Return the evidence that the mean of values in [0, 1] lies below m; it grows with m."""
    n, total, squares = values
    m = max(m, 0.0)
    return _evidence(n * m - total, squares - 2 * m * total + n * m * m)


def upper(values: Moments, alpha: float) -> float:
    """Return the anytime-valid upper bound of the mean: P(mean ever above it) ≤ alpha; 1 without data."""
    n, total, _ = values
    goal = 1 / alpha
    if not n or below(values, 1.0) < goal:
        return 1.0
    low, high = total / n, 1.0
    near = low + 2 * math.sqrt(math.log(goal) / n)
    if near < 1 and below(values, near) >= goal:
        high = near
    while high - low > 5e-4:
        middle = (low + high) / 2
        if below(values, middle) >= goal:
            high = middle
        else:
            low = middle
    return high


def mirrored(bins: Sequence[int]) -> tuple[int, ...]:
    """Return the histogram of one minus each score: what is lower here is higher there."""
    return tuple(bins[::-1])


Moved = tuple[float, ...]


def mean_moved(mine: Sequence[Histogram], theirs: Histogram, limit: float, alpha: float) -> Moved:
    """Return the evidence that each mean of `mine` has moved from stable's by more than `limit`, either way.

    It is a failure at 2/alpha: the other half of alpha is in stable's two bounds.
    """
    high = upper(high_moments(theirs), alpha / 4) + limit
    low = upper(high_moments(mirrored(theirs)), alpha / 4) + limit
    return tuple(
        [0.5 * above(low_moments(one), high) + 0.5 * above(low_moments(mirrored(one)), low) for one in mine]
    )


def mean_bound(mine: Sequence[int], theirs: Sequence[int], alpha: float) -> float:
    """Return the anytime-valid upper bound of how far the mean has moved, either way."""
    sides = ((mine, mirrored(theirs)), (mirrored(mine), theirs))
    return max(
        upper(high_moments(one), alpha / 4) + upper(high_moments(other), alpha / 4) - 1
        for one, other in sides
    )


# ---------------------------------------------------------------- the largest gap between the distributions
def _cumulative(bins: Sequence[int]) -> tuple[int, ...]:
    total, found = 0, []
    for count in bins[:-1]:
        total += count
        found.append(total)
    return tuple(found)


def gap(mine: Sequence[int], theirs: Sequence[int]) -> tuple[float, int]:
    """Return the largest gap of the shares below a bin's bound, signed, and at which bound (1 to 49)."""
    n, m = sum(mine), sum(theirs)
    if not n or not m:
        return 0.0, 1
    gaps = [k / n - s / m for k, s in zip(_cumulative(mine), _cumulative(theirs), strict=True)]
    at = max(range(len(gaps)), key=lambda i: abs(gaps[i]))
    return gaps[at], at + 1


def _around(n: int, alpha: float) -> float:
    """Return how far a share of n trials may be from its mean, at any look (a normal mixture, two-sided).

    Howard, Ramdas, McAuliffe and Sekhon (2021), equation 14, for values in [0, 1] (variance at most ¼); `ρ`
    is chosen for some hundreds of trials.
    """
    if not n:
        return 1.0
    spread, rho = n / 4, 100.0
    return min(1.0, math.sqrt((spread + rho) * math.log((spread + rho) / (rho * alpha * alpha))) / n)


def gap_moved(mine: Sequence[Histogram], theirs: Histogram, limit: float, alpha: float) -> Moved:
    """Return the evidence that each of `mine` is more than `limit` from stable somewhere; failure at 2/alpha.

    It is the mixture over all cuts and both sides, of which only the two largest terms are worked out: what
    is left out can only add. Stable's share below each cut is bounded at alpha/2 for all cuts at once.
    """
    m = sum(theirs)
    around, below_theirs = _around(m, alpha / (2 * CUTS)), _cumulative(theirs)
    return tuple([_gap_moved(one, (m, below_theirs), around + limit) for one in mine])


def _gap_moved(mine: Histogram, stable: tuple[int, tuple[int, ...]], far: float) -> float:
    n, (m, below_theirs) = sum(mine), stable
    if not n or not m:
        return 1.0  # nothing was bet
    below_mine, found = _cumulative(mine), 0.0
    gaps = [k / n - s / m for k, s in zip(below_mine, below_theirs, strict=True)]
    for at, one, other in (
        (gaps.index(max(gaps)), below_mine, below_theirs),
        (gaps.index(min(gaps)), [n - k for k in below_mine], [m - s for s in below_theirs]),
    ):
        found += above((n, one[at], one[at]), other[at] / m + far) / (2 * CUTS)
    return found


def gap_bound(mine: Sequence[int], theirs: Sequence[int], alpha: float) -> float:
    """Return the anytime-valid upper bound of the largest gap."""
    both = _around(sum(mine), alpha / (2 * CUTS)) + _around(sum(theirs), alpha / (2 * CUTS))
    return min(1.0, abs(gap(mine, theirs)[0]) + both)
