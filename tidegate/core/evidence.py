"""Always-valid tests: evidence that may be looked at after every request (STATISTICS, docs/decisions/0001).

Events happen or do not in trials: errors among requests, slow answers among answers, the candidate's
share among all errors. An e-process starts at 1 and, while the null holds, is expected never to grow,
so P(ever ≥ 1/α) ≤ α by Ville's inequality, at any stopping time and with batches of any size.

Think of it as a purse that bets against the null. Most of it is spread at the start over a grid of
alternatives; the rest is kept in reserve and invested bit by bit, so that a release that breaks after
a thousand good requests is caught as one that was broken from the start, not after a thousand bad
ones (a mixture over change points, on top of the mixture over rates). All sums are sums of logarithms.

Pure Python floats: the agent runs this every second and must start fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

GRID = 24  # alternatives of each process
RESERVE = 0.2  # share of the purse not bet before the first trial
_RESERVE_SCALE = 50.0  # trials in which the reserve falls by about 30%
_LOG_PRIOR = -math.log(GRID)

Wealth = tuple[float, ...]  # log of the purse on each alternative
Sums = Sequence[tuple[float, int, int]]  # (candidate's share of requests, trials, events)


def log_sum_exp(values: Iterable[float]) -> float:
    """Return log(Σ exp(v)) without overflow; -inf of nothing."""
    terms = list(values)
    top = max(terms, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(sum(math.exp(v - top) for v in terms))


def _log_spaced(low: float, high: float, points: int) -> tuple[float, ...]:
    ratio = (high / low) ** (1 / (points - 1))
    return tuple(low * ratio**i for i in range(points))


@lru_cache(maxsize=256)
def rate_grid(null: float) -> tuple[float, ...]:
    """Return the alternatives above a null rate: log-spaced from 1.3 × null to nearly 1."""
    if not 0 < null < 1:
        raise ValueError(f"a null rate lies between 0 and 1, not {null}")
    low = min(1.3 * null, null + (1 - null) / 3)
    return _log_spaced(low, max(0.98, 1 - (1 - null) / 10), GRID)


@lru_cache(maxsize=256)
def risk_grid(null: float) -> tuple[float, ...]:
    """Return the alternatives above a null relative risk: log-spaced from 1.3 to 1000 times it."""
    if not null > 0:
        raise ValueError(f"a relative risk is positive, not {null}")
    return _log_spaced(1.3 * null, 1000 * null, GRID)


def share_at(risk: float, share: float) -> float:
    """Return the candidate's share of all events when each of its requests is `risk` times as prone."""
    return share * risk / (share * risk + 1 - share)


Bets = tuple[tuple[float, float], ...]  # per alternative: log(p/p0), log((1-p)/(1-p0))


def _bets(null: float, alternatives: Iterable[float]) -> Bets:
    return tuple((math.log(p / null), math.log1p(-p) - math.log1p(-null)) for p in alternatives)


@lru_cache(maxsize=1024)
def rate_bets(null: float) -> Bets:
    """Return the log likelihood ratios of one event and one non-event, for each alternative rate."""
    return _bets(null, rate_grid(null))


@lru_cache(maxsize=1024)
def risk_bets(null: float, share: float) -> Bets:
    """The same for relative risks at one share; the grid is on the risk, so it pools over shares."""
    if not 0 < share < 1:
        raise ValueError(f"arms can be compared at a share between 0 and 1, not {share}")
    return _bets(share_at(null, share), [share_at(risk, share) for risk in risk_grid(null)])


def _reserve(trials: int) -> float:
    return RESERVE / math.sqrt(1 + trials / _RESERVE_SCALE)


def begin() -> Wealth:
    """Return the purse before the first trial."""
    return (math.log1p(-RESERVE) + _LOG_PRIOR,) * GRID


def advance(wealth: Wealth, before: int, trials: int, events: int, bets: Bets) -> Wealth:
    """Return the purse after a batch of `trials` with `events`, `before` trials having been seen.

    What the reserve gives for this batch is invested before its outcome counts, so the purse stays a
    supermartingale under the null.
    """
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events in {trials} trials")
    if not trials:
        return wealth
    fresh = math.log(_reserve(before) - _reserve(before + trials)) + _LOG_PRIOR
    misses = trials - events
    grown = []
    for old, (hit, miss) in zip(wealth, bets, strict=True):
        high, low = (old, fresh) if old > fresh else (fresh, old)
        grown.append(high + math.log1p(math.exp(low - high)) + events * hit + misses * miss)
    return tuple(grown)


def log_evidence(wealth: Wealth, trials: int) -> float:
    """Return the log of the whole purse, reserve included, after `trials`."""
    return log_sum_exp((math.log(_reserve(trials)), *wealth))


# ---------------------------------------------------------------- upper bounds
# The same kind of test the other way round: evidence that the rate lies BELOW a value. Half of the purse
# is on "no events at all", which is what a good release shows, the rest on fractions of the value.
_FRACTIONS = (0.0, *_log_spaced(0.03, 1 / 1.3, 12))
_LOG_FRACTION_PRIOR = (math.log(0.5), *((math.log(0.5 / 12),) * 12))


def log_evidence_below(value: float, trials: int, events: int) -> float:
    """Return the log evidence that the rate is below `value`; grows with `value` for fixed counts."""
    miss = math.log1p(-value)
    terms = []
    for prior, part in zip(_LOG_FRACTION_PRIOR, _FRACTIONS, strict=True):
        if part or not events:
            hits = events * math.log(part) if events else 0.0
            terms.append(prior + hits + (trials - events) * (math.log1p(-part * value) - miss))
    return log_sum_exp(terms)


def log_evidence_risk_below(value: float, sums: Sums) -> float:
    """Return the log evidence that the relative risk is below `value`; `sums` by share of requests."""
    terms = []
    events = sum(k for _, _, k in sums)
    for prior, part in zip(_LOG_FRACTION_PRIOR, _FRACTIONS, strict=True):
        if not part and events:
            continue
        total = prior + (events * math.log(part) if events else 0.0)
        for share, trials, _ in sums:
            # log((1-p_j)/(1-p0)) of every trial; an event's further log(p_j/p0) differs by log(part) only.
            total += trials * math.log((share * value + 1 - share) / (share * part * value + 1 - share))
        terms.append(total)
    return log_sum_exp(terms)


def rate_bound(trials: int, events: int, alpha: float) -> float:
    """Return the anytime-valid upper bound of the rate: P(rate ever above it) ≤ alpha. 1 without data."""
    goal = -math.log(alpha)
    low, high = (events / trials if trials else 1.0), 1.0
    if low >= 1:
        return 1.0
    for _ in range(18):
        middle = (low + high) / 2
        if log_evidence_below(middle, trials, events) >= goal:
            high = middle
        else:
            low = middle
    return high


def risk_bound(sums: Sums, alpha: float) -> float:
    """Return the anytime-valid upper bound of the relative risk; inf when there is none below 1e6."""
    goal = -math.log(alpha)
    low, high = 1e-3, 1e6
    if log_evidence_risk_below(high, sums) < goal:
        return math.inf
    for _ in range(18):
        middle = math.sqrt(low * high)
        if log_evidence_risk_below(middle, sums) >= goal:
            high = middle
        else:
            low = middle
    return high


def quantile_bound(buckets: Sequence[tuple[float, int]], quantile: float, alpha: float) -> float:
    """Return the smallest bucket bound that is surely not below the quantile; inf when none is yet.

    `buckets`: (upper bound, count in it), ascending. Only the largest bound below the true quantile
    could be named wrongly, so one test at `alpha` covers all buckets, at every look.
    """
    total = sum(count for _, count in buckets)
    goal = -math.log(alpha)
    above = total
    for upper, count in buckets:
        above -= count
        if above <= (1 - quantile) * total and log_evidence_below(1 - quantile, total, above) >= goal:
            return upper
    return math.inf
