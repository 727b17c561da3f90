"""What one look adds to one part of a check, for each kind of part. Pure.

Most looks hold no event for most parts. Those are only added up (`Idle`), and weighed as one batch when an
event comes or when they are a thirty-second of all: without an event no bet wins, and a reserve that is
invested before a stretch of losses rather than during it is only poorer, so the error stays bounded.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from tidegate.core import drift
from tidegate.core import evidence as ev
from tidegate.core.aims import UNITS, Aim, Kind, counted
from tidegate.core.counts import Counts, Tail, Window
from tidegate.core.parts import Evidence, Four, Part, Plain, Stretch

CONFIDENCE = 0.95  # how sure a step is, at PASS, that a limit is held; FAIL goes by alpha alone
_RISE = 3  # the alternative, a few times the null, whose CUSUM tells where a breach began
STRETCH = 32  # eventless trials are weighed when they are one in so many

replace = msgspec.structs.replace
Idle = tuple[int, int]  # trials without an event since a part was last weighed: the candidate's, stable's
Weighed = tuple[Part, Idle]
NONE: Idle = (0, 0)


@dataclass(slots=True)
class Look:
    """One look, and what was known before and after it; `alpha` is that of one part, `now` in seconds."""

    window: Window
    before: Evidence
    candidate: Counts
    stable: Counts
    comparable: bool
    alpha: float
    now: float
    _mine: Tail | None = field(default=None)
    _theirs: Tail | None = field(default=None)

    @property
    def mine(self) -> Tail:
        """The candidate's answers."""
        if self._mine is None:
            self._mine = Tail(self.window.candidate.latency)
        return self._mine

    @property
    def theirs(self) -> Tail:
        """Stable's answers."""
        if self._theirs is None:
            self._theirs = Tail(self.window.stable.latency)
        return self._theirs

    def bad(self, aim: Aim) -> tuple[int, int, int]:
        """Return the candidate's (trials, bad events, bad ones that may have been) for an absolute part."""
        if aim.check.metric == "latency":
            return self.mine.slower(aim.check.ceiling)
        return counted(aim.check, self.window.candidate)


def settled(part: Part, aim: Aim, idle: Idle) -> Part:
    """Return a part with the trials that were not weighed yet, for people to read."""
    if idle == NONE:
        return part
    if aim.kind is Kind.RATE:
        return _rate_batch(part, aim, idle[0], 0, 0)
    if aim.kind is Kind.SLOWER:
        return _slower_batch(part, aim, (idle[0], 0, 0), (idle[1], 0), 0.5)
    if aim.kind is Kind.SPLIT:
        return replace(part, pooled=_sum(part.pooled, (*idle, 0, 0)))
    return _seen(part, (idle[0], 0, idle[1], 0))


# ---------------------------------------------------------------- one arm
def _rate(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    trials, events, possible = look.bad(aim)
    if aim.check.failure_limit is not None:
        part = _windows(part, aim, trials, events, look)
    waiting = idle[0] + (0 if possible else trials)
    if not possible and waiting <= part.trials // STRETCH:
        return part, (waiting, 0)
    if waiting:
        part = _rate_batch(part, aim, waiting, 0, 0)
    return (_rate_batch(part, aim, trials, events, possible) if possible else part), NONE


def _rate_batch(part: Part, aim: Aim, trials: int, events: int, possible: int) -> Part:
    factors = ev.rate_bets(aim.null).factors(trials, events)
    wealth = ev.grown(part.wealth, part.trials, trials, factors)
    pooled, run, excess = _follow(part, factors, (trials, events, 0, 0))
    trials, maybe = part.trials + trials, part.possible + possible
    level = ev.log_evidence(wealth, trials)
    return replace(
        part,
        wealth=wealth,
        trials=trials,
        pooled=pooled,
        run=run,
        excess=excess,
        possible=maybe,
        limit=aim.check.ceiling,
        level=level,
        peak=level if level > part.peak else part.peak,
    )


def _blocks(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    """Take each stretch of `burst` seconds as one value: its rate, whatever happened within it."""
    assert aim.check.burst
    trials, events, _ = look.bad(aim)
    if aim.check.failure_limit is not None:
        part = _windows(part, aim, trials, events, look)
    stretch, length = _longer(part.open, trials, events, look)
    if trials:
        pooled = _sum(part.pooled, (trials, events, 0, 0))
        part = replace(part, pooled=pooled, run=pooled, limit=aim.check.ceiling)
    if length < aim.check.burst:
        return replace(part, open=stretch), NONE
    part = replace(part, open=Stretch(look.now))
    if not stretch.trials:
        return part, NONE
    rate = stretch.events / stretch.trials
    wealth = ev.grown(part.wealth, part.trials, 1, ev.mean_factors(aim.null, rate))
    blocks, total = part.trials + 1, part.possible + rate
    level = ev.log_evidence(wealth, blocks)
    peak = max(part.peak, level)
    return replace(part, wealth=wealth, trials=blocks, possible=total, level=level, peak=peak), NONE


def _windows(part: Part, aim: Aim, trials: int, events: int, look: Look) -> Part:
    """Count the windows of `failureLimit` whose plain rate was over the limit."""
    assert aim.check.failure_limit
    length = float(aim.check.failure_limit.window)
    plain = part.plain if part.plain and part.plain.length == length else Plain(length)
    stretch, lasted = _longer(plain.open, trials, events, look)
    if lasted < length:
        return replace(part, plain=replace(plain, open=stretch))
    over = stretch.events > aim.null * stretch.trials
    windows = plain.windows + (stretch.trials > 0)
    last = (stretch.trials, stretch.events) if over else plain.last
    return replace(part, plain=Plain(length, Stretch(look.now), windows, plain.over + over, last))


def _longer(stretch: Stretch, trials: int, events: int, look: Look) -> tuple[Stretch, float]:
    """Add a look, and tell how long the stretch lasted; its clock starts anew when time was set back."""
    since = stretch.since if stretch.since is not None else look.before.at or look.now
    since = min(since, look.now)
    return Stretch(since, stretch.trials + trials, stretch.events + events), look.now - since


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
    pooled, run, excess = _follow(part, factors, seen)
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
    pooled, run, excess = _follow(part, factors, (trials, events, theirs, slow))
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
        pooled=_sum(part.pooled, (both, mine, 0, 0)),
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
    it won, one to come what it was given. Evidence is worked out when there is a tenth more.
    """
    name = aim.check.name
    waiting = idle[0] + sum(look.window.candidate.bins.get(name, ()))
    if waiting <= part.trials // 10 or not look.comparable:
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


# ---------------------------------------------------------------- together
def _seen(part: Part, seen: Four) -> Part:
    """Add counts that no bet was on."""
    run = _sum(part.run, seen) if part.excess else part.run
    return replace(part, pooled=_sum(part.pooled, seen), run=run)


def _follow(part: Part, factors: tuple[float, ...], seen: Four) -> tuple[Four, Four, float]:
    """Return the pooled counts, and those of the run since the rate began to rise (Page's CUSUM)."""
    excess = part.excess + math.log(max(factors[_RISE], 1e-300))
    return _sum(part.pooled, seen), _sum(part.run, seen) if excess > 0 else (0, 0, 0, 0), max(excess, 0.0)


def _sum(a: Four, b: Four) -> Four:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def _add(
    sums: tuple[tuple[float, int, int], ...], share: float, trials: int, events: int
) -> tuple[tuple[float, int, int], ...]:
    table = {s: (n, k) for s, n, k in sums}
    n, k = table.get(share, (0, 0))
    table[share] = (n + trials, k + events)
    return tuple([(s, n, k) for s, (n, k) in table.items()])


STEPS: dict[Kind, Callable[[Part, Aim, Idle, Look], Weighed]] = {
    Kind.RATE: _rate,
    Kind.BLOCKS: _blocks,
    Kind.RISK: _risk,
    Kind.TRIALS: _trials,
    Kind.SLOWER: _slower,
    Kind.SPLIT: _split,
    Kind.MEAN: _scores,
    Kind.GAP: _scores,
}
