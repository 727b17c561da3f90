"""What one look adds to a part that compares: with stable, with the weight, with stable's scores. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

import msgspec

from tidegate.core import drift
from tidegate.core import evidence as ev
from tidegate.core.aims import UNITS, Aim, Kind
from tidegate.core.parts import Four, Part
from tidegate.core.weighing import (
    NONE,
    STRETCH,
    Idle,
    Look,
    Weighed,
    blocks,
    follow,
    rate,
    rate_batch,
    seen_only,
    summed,
)

replace = msgspec.structs.replace


# ---------------------------------------------------------------- against stable
def _risk(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    if not look.comparable:
        return part, idle
    mine, theirs = look.window.candidate, look.window.stable
    both = mine.errors + theirs.errors
    if not both:
        return part, (idle[0] + mine.requests, idle[1] + theirs.requests)
    share, trials, others = look.window.share, max(mine.requests, mine.errors), theirs.requests
    factors = ev.risk_bets(aim.null, share).factors(both, mine.errors)
    seen = (trials + idle[0], mine.errors, max(others, theirs.errors) + idle[1], theirs.errors)
    return _compared(part, factors, seen, (share, both, mine.errors)), NONE


def _trials(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    """Compare two arms whose trials are known; of a least rate, stable's successes are held to ours."""
    n, k = look.window.candidate.tally(aim.check.name)
    m, s = look.window.stable.tally(aim.check.name)
    n, m = max(n, k), max(m, s)
    if not look.comparable:
        return part, idle
    if not n or not m or not k + s:  # one arm alone is nothing to compare
        return part, (idle[0] + (n if not k else 0), idle[1] + (m if not s else 0))
    blamed, other = ((m, s), (n, k)) if aim.swapped else ((n, k), (m, s))
    share = ev.trial_share(blamed[0], other[0], up=True)
    factors = ev.risk_bets(aim.null, share).factors(k + s, blamed[1])
    share = ev.trial_share(blamed[0], other[0], up=False)
    return _compared(part, factors, (n + idle[0], k, m + idle[1], s), (share, k + s, blamed[1])), NONE


def _compared(part: Part, factors: tuple[float, ...], seen: Four, one: tuple[float, int, int]) -> Part:
    share, both, events = one
    wealth, trials = ev.grown(part.wealth, part.trials, both, factors), part.trials + both
    pooled, run, excess = follow(part, factors, seen)
    level, sums = ev.log_evidence(wealth, trials), _add(part.sums, share, both, events)
    return replace(
        part,
        wealth=wealth,
        trials=trials,
        pooled=pooled,
        run=run,
        excess=excess,
        sums=sums,
        level=level,
        peak=max(part.peak, level),
    )


def _slower(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    """Two purses, and only the poorer counts: slow beyond stable's p99, and slower than stable just now.

    The first alone would blame the candidate for a stall of the machine, which slows both arms.
    """
    if not look.comparable:
        return part, idle
    if part.limit is None or look.before.answers >= part.known * 1.1:
        part, idle = _stable_limit(settled(part, aim, idle), aim, look), NONE
    if part.limit is None:
        return part, NONE
    trials, events, possible = look.mine.slower(part.limit)
    theirs, _, slow = look.theirs.slower(part.limit)
    if not possible and not slow and idle[0] + trials <= part.trials // STRETCH:
        return part, (idle[0] + trials, idle[1] + theirs)
    part = settled(part, aim, idle)
    return _slower_batch(part, aim, (trials, events, possible), (theirs, slow), look.window.share), NONE


def _slower_batch(
    part: Part, aim: Aim, mine: tuple[int, int, int], stable: tuple[int, int], share: float
) -> Part:
    (trials, events, possible), (theirs, slow) = mine, stable
    factors = ev.rate_bets(aim.check.slow_share).factors(trials, events)
    wealth = ev.grown(part.wealth, part.trials, trials, factors) if trials else part.wealth
    guard, both = part.guard or ev.begin(), events + slow
    guard = ev.advance(guard, part.guard_trials, both, events, ev.risk_bets(1.0, share)) if both else guard
    pooled, run, excess = follow(part, factors, (trials, events, theirs, slow))
    trials, both = part.trials + trials, part.guard_trials + both
    # Half of this part's alpha went into stable's quantile: the first purse must double.
    level = min(ev.log_evidence(wealth, trials) - math.log(2), ev.log_evidence(guard, both))
    return replace(
        part,
        wealth=wealth,
        trials=trials,
        guard=guard,
        guard_trials=both,
        pooled=pooled,
        run=run,
        excess=excess,
        possible=part.possible + possible,
        level=level,
        peak=max(part.peak, level),
    )


def _stable_limit(part: Part, aim: Aim, look: Look) -> Part:
    """Set (1 + tolerance) × stable's quantile as surely known before this look, up to a bucket bound.

    It is worked out anew when stable answered a tenth more: what was known earlier is known still.
    """
    known, buckets = look.before.stable.latency, look.theirs.buckets or look.mine.buckets
    quantile = ev.quantile_bound(known, aim.check.quantile, look.alpha / 2) * aim.null
    at = bisect_left(buckets, (quantile * (1 - 1e-9),))
    if at == len(buckets) or math.isinf(buckets[at][0]):
        return part
    return replace(part, limit=buckets[at][0], known=look.before.answers)


# ---------------------------------------------------------------- the router's split
def _split(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    """Hold the candidate's share of the requests, or of the units where there are such, to its weight.

    A look is left out while the weight changes: part of its requests went by the old one. Requests are
    weighed when they are one in `STRETCH`; `idle` has (both arms', the candidate's) until then.
    """
    mine, theirs = look.window.candidate.requests, look.window.stable.requests
    if UNITS in look.candidate.tallies or UNITS in look.stable.tallies:
        mine, theirs = look.window.candidate.tally(UNITS)[0], look.window.stable.tally(UNITS)[0]
        if part.limit is None:  # what was counted by requests is of no use from here on
            part, idle = Part(aim.spec, limit=1.0), NONE
    share, exact = look.before.share, look.window.exact and look.window.share == look.before.share
    if exact and share < 1:
        idle = (idle[0] + mine + theirs, idle[1] + mine)
    both, mine = idle
    if not both or (exact and both <= part.trials // STRETCH):
        return part, idle
    above = ev.advance(part.wealth, part.trials, both, mine, ev.split_bets(share, True))
    below = ev.advance(part.guard or ev.begin(), part.trials, both, mine, ev.split_bets(share, False))
    trials = part.trials + both
    level = ev.log_sum_exp((ev.log_evidence(above, trials), ev.log_evidence(below, trials))) - math.log(2)
    part = replace(
        part,
        wealth=above,
        guard=below,
        trials=trials,
        pooled=summed(part.pooled, (both, mine, 0, 0)),
        possible=part.possible + share * both,
        level=level,
        peak=max(part.peak, level),
    )
    return part, NONE


# ---------------------------------------------------------------- scores
_EPOCH = 200  # scores of the first epoch; each lasts until there are twice as many as when it began
_ALL = 0.75  # of the purse on all scores; the rest is for late changes


def _scores(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    """Compare both histograms: since the part began, and since its latest epoch, for late changes.

    A quarter of the purse is split over epochs, the i-th getting 1/(i·(i+1)) of it; an ended one keeps what
    it won, one to come what it was given. Evidence is worked out when there is an eighth more.
    """
    name = aim.check.name
    waiting = idle[0] + sum(look.window.candidate.bins.get(name, ()))
    if waiting <= part.trials // 8 or not look.comparable:
        return part, (waiting, 0)
    mine, theirs = look.candidate.bins.get(name, ()), look.stable.bins.get(name, ())
    since, latest = part.bins
    every, recent = _minus(mine, since), _minus(mine, latest)
    if every is None or recent is None:  # other bins: nothing pooled is of use
        return Part(aim.spec, bins=(mine, mine)), NONE
    if len(theirs) != len(mine):
        return part, (waiting, 0)
    moved = drift.mean_moved if aim.kind is Kind.MEAN else drift.gap_moved
    whole, late = moved((every, recent), theirs, aim.null, look.alpha)
    won = late / ((part.epoch + 1) * (part.epoch + 2))
    total = _ALL * whole + (1 - _ALL) * (part.banked + won + 1 / (part.epoch + 2))
    level = math.log(total / 2)  # the other half of alpha is in the bounds of stable's scores
    trials, peak = sum(every), max(part.peak, level)
    part = replace(part, trials=trials, pooled=(trials, 0, sum(theirs), 0), level=level, peak=peak)
    if trials >= _EPOCH * 2**part.epoch:
        part = replace(part, bins=(since, mine), epoch=part.epoch + 1, banked=part.banked + won)
    return part, NONE


def _minus(mine: drift.Histogram, since: drift.Histogram) -> drift.Histogram | None:
    """Return what came since; None when it can't be told."""
    if not since:
        return mine
    if len(since) != len(mine):
        return None
    left = tuple([a - b for a, b in zip(mine, since, strict=True)])
    return None if min(left) < 0 else left


# ---------------------------------------------------------------- all kinds
def _add(
    sums: tuple[tuple[float, int, int], ...], share: float, trials: int, events: int
) -> tuple[tuple[float, int, int], ...]:
    for at, (known, n, k) in enumerate(sums):
        if known == share:
            return (*sums[:at], (share, n + trials, k + events), *sums[at + 1 :])
    return (*sums, (share, trials, events))


def settled(part: Part, aim: Aim, idle: Idle) -> Part:
    """Return a part with the trials that were not weighed yet, for people to read."""
    if idle == NONE:
        return part
    if aim.kind is Kind.RATE:
        return replace(rate_batch(part, aim, idle[0], idle[1], idle[1]), peak=part.peak)
    if aim.kind is Kind.SLOWER:
        return _slower_batch(part, aim, (idle[0], 0, 0), (idle[1], 0), 0.5)
    if aim.kind is Kind.SPLIT:
        return replace(part, pooled=summed(part.pooled, (*idle, 0, 0)))
    return seen_only(part, (idle[0], 0, idle[1], 0))


STEPS: dict[Kind, Callable[[Part, Aim, Idle, Look], Weighed]] = {
    Kind.RATE: rate,
    Kind.BLOCKS: blocks,
    Kind.RISK: _risk,
    Kind.TRIALS: _trials,
    Kind.SLOWER: _slower,
    Kind.SPLIT: _split,
    Kind.MEAN: _scores,
    Kind.GAP: _scores,
}
