"""Always-valid tests: evidence that may be looked at after every request (STATISTICS, docs/decisions/0001).

Events happen or do not in trials: errors among requests, slow answers among answers, the candidate's
share among all errors. An e-process starts at 1 and, while the null holds, is expected never to grow,
so P(ever ≥ 1/α) ≤ α by Ville's inequality, at any stopping time and with batches of any size.

Think of it as a purse that bets against the null. Most of it is spread at the start over a grid of
alternatives; the rest is kept in reserve and invested bit by bit, so that a release that breaks after
a thousand good requests is caught as one that was broken from the start, not after a thousand bad
ones (a mixture over change points, on top of the mixture over rates). A purse never holds more than
`RICHEST` on one alternative: giving money away keeps a supermartingale one, and no sum overflows.

Pure Python floats: the agent runs this every second and must start fast. What a batch multiplies each
alternative by depends on few numbers, which come again and again, so it is remembered (`Bets.factors`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

GRID = 16  # alternatives of each process
RESERVE = 0.1  # share of the purse not bet before the first trial
RICHEST = 1e250
RESERVE_SCALE = 50.0  # trials in which the reserve falls by about 30%
_REMEMBERED = 4096  # factors kept for each set of bets

Wealth = tuple[float, ...]  # the purse on each alternative
Sums = Sequence[tuple[float, int, int]]  # (candidate's share of requests, trials, events)


def _prior(points: int) -> tuple[float, ...]:
    """Return the weights of the alternatives: those of five to ten times the null weigh most.

    Found by simulation (bench/rollouts.py): 10% errors leave sooner than with equal weights, and neither 3%
    nor 100% later.
    """
    places = [i / (points - 1) for i in range(points)]
    raw = [math.exp(-(((place - 0.4) / 0.3) ** 2) / 2) + 0.15 for place in places]
    return tuple(value / sum(raw) for value in raw)


PRIOR = _prior(GRID)


def log_sum_exp(values: Iterable[float]) -> float:
    """Return log(Σ exp(v)) without overflow; -inf of nothing."""
    terms = list(values)
    top = max(terms, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(sum(math.exp(v - top) for v in terms))


def log_spaced(low: float, high: float, points: int) -> tuple[float, ...]:
    """Return `points` values from `low` to `high`, each the same multiple of the one before."""
    ratio = (high / low) ** (1 / (points - 1))
    return tuple(low * ratio**i for i in range(points))


@lru_cache(maxsize=256)
def rate_grid(null: float) -> tuple[float, ...]:
    """Return the alternatives above a null rate: log-spaced from 1.5 × null to nearly 1."""
    if not 0 < null < 1:
        raise ValueError(f"a null rate lies between 0 and 1, not {null}")
    low = min(1.5 * null, null + (1 - null) / 3)
    return log_spaced(low, max(0.98, 1 - (1 - null) / 10), GRID)


@lru_cache(maxsize=256)
def risk_grid(null: float) -> tuple[float, ...]:
    """Return the alternatives above a null relative risk: log-spaced from 1.5 to 50 times it."""
    if not null > 0:
        raise ValueError(f"a relative risk is positive, not {null}")
    return log_spaced(1.5 * null, 50 * null, GRID)


def share_at(risk: float, share: float) -> float:
    """Return the candidate's share of all events when each of its requests is `risk` times as prone."""
    return share * risk / (share * risk + 1 - share)


class Bets(tuple[tuple[float, float], ...]):
    """Per alternative (log(p/p0), log((1-p)/(1-p0))): what an event and a non-event multiply its purse by."""

    _known: dict[tuple[float, float], tuple[float, ...]]

    def factors(self, trials: float, events: float) -> tuple[float, ...]:
        """Return what a batch multiplies each alternative's purse by."""
        try:
            return self._known[trials, events]
        except AttributeError:
            self._known = {}
        except KeyError:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
        misses, exp = trials - events, math.exp
        found = tuple([exp(min(events * hit + misses * miss, 575.0)) for hit, miss in self])
        self._known[trials, events] = found
        return found


def _bets(null: float, alternatives: Iterable[float]) -> Bets:
    return Bets((math.log(p / null), math.log1p(-p) - math.log1p(-null)) for p in alternatives)


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


_ODDS = log_spaced(1.05, 50.0, GRID)  # how far from the share that was asked a router may be


@lru_cache(maxsize=1024)
def split_bets(share: float, above: bool) -> Bets:
    """The same for the candidate's share of all requests, where the null is `share` itself.

    A share is exact, so there is a grid on each side; their mean is evidence that the split is broken.
    """
    if not 0 < share < 1:
        raise ValueError(f"a split lies between 0 and 1, not {share}")
    return _bets(share, [share_at(odds if above else 1 / odds, share) for odds in _ODDS])


_FINE, _COARSE = math.log(1.05), math.log(1.5)  # steps that the odds of a share of trials are rounded to


def trial_share(mine: int, theirs: int, up: bool) -> float:
    """Return one arm's share of both arms' trials, rounded up finely, or down to one of a few.

    Theorem: let K of n trials of one arm and S of m of the other be events, each independently, with rates
    a ≤ θ0·b. With ρ = n/(n+m), p_j = ρθ_j/(ρθ_j+1−ρ) and p0 the same of θ0 < θ_j, the factor
    r^K·q^S with r = p_j/p0 and q = (1−p_j)/(1−p0) has a mean of at most 1, whatever b is. Proof: the mean is
    (1+a(r−1))^n·(1+b(q−1))^m ≤ exp(na(r−1) + mb(q−1)) by 1+x ≤ e^x, and since r > 1 at most
    exp(b(nθ0+m)·[p0(r−1) + (1−p0)(q−1)]) = exp(b(nθ0+m)·[p_j − p0 + p0 − p_j]) = 1. With a larger ρ the
    bracket, in which p0 then weighs less than r and q were made for, is below 0. So given the past and the
    trials of a batch, `risk_bets` at this share, or one rounded up, are e-values, and their products
    e-processes, also for rates that differ from batch to batch. Nothing is asked of how trials were shared
    out. Where events are common a little is given away (1+x against e^x), never the error that was promised.
    For bounds of the risk, which bet on less of it, all signs are turned, and the share is rounded down.
    """
    step = _FINE if up else _COARSE
    steps = math.log(mine / theirs) / step
    odds = math.exp(step * (math.ceil(steps - 1e-9) if up else math.floor(steps + 1e-9)))
    return odds / (1 + odds)


STAKES = log_spaced(0.02, 0.95, GRID)  # share of a purse that is at risk in one bet


def mean_factors(null: float, value: float) -> tuple[float, ...]:
    """Return what one value in [0, 1] multiplies each purse by, where the mean may be at most `null`.

    Nothing else is asked of the values, so a value can be the rate of a stretch of time in which events
    came in bursts (betting as in Waudby-Smith and Ramdas, 2023).
    """
    return tuple([1 + stake * (value / null - 1) for stake in STAKES])


def _reserve(trials: float) -> float:
    return RESERVE / math.sqrt(1 + trials / RESERVE_SCALE)


def begin() -> Wealth:
    """Return the purse before the first trial."""
    return _BEGUN


_BEGUN = tuple((1 - RESERVE) * part for part in PRIOR)


def advance(wealth: Wealth, before: float, trials: float, events: float, bets: Bets) -> Wealth:
    """Return the purse after a batch of `trials` with `events`, `before` trials having been seen."""
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events in {trials} trials")
    if not trials:
        return wealth
    return grown(wealth, before, trials, bets.factors(trials, events))


def grown(wealth: Wealth, before: float, trials: float, factors: Sequence[float]) -> Wealth:
    """Return the purse after a batch that multiplies each alternative by its factor.

    What the reserve gives for this batch is invested before its outcome counts, so the purse stays a
    supermartingale under the null.
    """
    fresh = _reserve(before) - _reserve(before + trials)
    result = [(old + fresh * part) * by for old, part, by in zip(wealth, PRIOR, factors, strict=True)]
    if max(result) > RICHEST:
        result = [min(value, RICHEST) for value in result]
    return tuple(result)


def log_evidence(wealth: Wealth, trials: float) -> float:
    """Return the log of the whole purse, reserve included, after `trials`."""
    return math.log(_reserve(trials) + sum(wealth))


# ---------------------------------------------------------------- upper bounds
# The same kind of test the other way round: evidence that the rate lies BELOW a value. Half of the purse
# is on "no events at all", which is what a good release shows, the rest on fractions of the value.
_FRACTIONS = (0.0, *log_spaced(0.03, 1 / 1.3, 12))
_LOG_FRACTIONS = (0.0, *(math.log(part) for part in _FRACTIONS[1:]))
_LOG_FRACTION_PRIOR = (math.log(0.5), *((math.log(0.5 / 12),) * 12))


def log_evidence_below(value: float, trials: float, events: float) -> float:
    """Return the log evidence that the rate is below `value`; grows with `value` for fixed counts.

    An alternative has a fraction of the value's odds o: an event then multiplies by f·(1+o)/(1+f·o), a
    non-event by (1+o)/(1+f·o). So a rate near 1 can be proven to be below a value as well as one near 0.
    """
    odds, log1p = value / (1 - value), math.log1p
    terms, most = [], trials * log1p(odds)
    for prior, part, hit in zip(_LOG_FRACTION_PRIOR, _FRACTIONS, _LOG_FRACTIONS, strict=True):
        if part:
            terms.append(prior + events * hit + most - trials * log1p(part * odds))
        elif not events:
            terms.append(prior + most)
    top = max(terms)
    return top + math.log(sum([math.exp(term - top) for term in terms]))


def log_evidence_risk_below(value: float, sums: Sums) -> float:
    """Return the log evidence that the relative risk is below `value`; `sums` by share of requests."""
    log, events = math.log, sum([k for _, _, k in sums])
    # log((1-p_j)/(1-p0)) of every trial; an event's further log(p_j/p0) differs by log(part) only.
    most = sum([n * log(share * value + 1 - share) for share, n, _ in sums])
    terms = []
    for prior, part, hit in zip(_LOG_FRACTION_PRIOR, _FRACTIONS, _LOG_FRACTIONS, strict=True):
        if part or not events:
            less = sum([n * log(share * part * value + 1 - share) for share, n, _ in sums])
            terms.append(prior + events * hit + most - less)
    top = max(terms)
    return top + log(sum([math.exp(term - top) for term in terms]))


def rate_bound(trials: float, events: float, alpha: float) -> float:
    """Return the anytime-valid upper bound of the rate: P(rate ever above it) ≤ alpha. 1 without data."""
    goal = -math.log(alpha)
    rate = events / trials if trials else 1.0
    if rate >= 1:
        return 1.0
    near = rate + math.sqrt(3 * rate * (1 - rate) * goal / trials) + goal / trials
    guess = near / (1 - near) if near < 0.9 else 9.0

    def over(odds: float) -> float:
        return log_evidence_below(odds / (1 + odds), trials, events) - goal

    odds = _root(over, guess, 1e-12, 1e9)
    return odds / (1 + odds) if math.isfinite(odds) else 1.0


def risk_bound(sums: Sums, alpha: float) -> float:
    """Return the anytime-valid upper bound of the relative risk; inf when there is none below 1e6."""
    goal = -math.log(alpha)
    mine, both = sum(k for _, _, k in sums), sum(n for _, n, _ in sums)
    if not both or log_evidence_risk_below(1e6, sums) < goal:
        return math.inf
    mean = sum(share * n for share, n, _ in sums) / both
    seen = (mine + 0.5) / (both - mine + 0.5) * (1 - mean) / mean
    guess = seen * math.exp(2.2 / math.sqrt(1 + min(mine, both - mine)))
    return _root(lambda risk: log_evidence_risk_below(risk, sums) - goal, guess, 1e-3, 1e6)


def _root(over: Callable[[float], float], guess: float, least: float, most: float) -> float:
    """Return where an increasing function turns positive, from above; inf where it doesn't below `most`.

    False position on the logarithm, with halving in between, to 3 in 100,000.
    """
    low = high = min(most, max(least, guess))
    above = below = over(high)
    while above < 0:
        if high >= most:
            return math.inf
        low, below, high = high, above, min(most, 1.5 * high)
        above = over(high)
    while below >= 0 and low > least:
        high, above, low = low, below, low / 1.5
        below = over(low)
    for turn in range(60):
        if high < low * (1 + 3e-5) or below >= 0:
            break
        part = min(0.97, max(0.03, -below / (above - below))) if turn % 3 else 0.5
        middle = low * (high / low) ** part
        found = over(middle)
        if found >= 0:
            high, above = middle, found
        else:
            low, below = middle, found
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
