"""What one look adds to one part of a check, for each kind of part. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from tidegate.core import drift
from tidegate.core import evidence as ev
from tidegate.core.aims import UNITS, Aim, Kind, counted
from tidegate.core.counts import Counts, Window, slower
from tidegate.core.parts import Evidence, Four, Part, Plain, Stretch

CONFIDENCE = 0.95  # how sure a step is, at PASS, that a limit is held; FAIL goes by alpha alone
_RISE = 3  # the alternative, a few times the null, whose CUSUM tells where a breach began
_AGAIN = 1.03  # a bound is worked out anew when there is so much more to know

replace = msgspec.structs.replace


@dataclass(slots=True)
class Look:
    """One look, and what was known before and after it."""

    window: Window
    before: Evidence
    candidate: Counts
    stable: Counts
    comparable: bool
    alpha: float  # of one part
    now: float


# ---------------------------------------------------------------- one arm
def _rate(part: Part, aim: Aim, look: Look) -> Part:
    trials, events, possible = counted(aim.check, look.window.candidate)
    if aim.check.failure_limit is not None:
        part = _windows(part, aim, trials, events, look)
    if not trials:
        return part
    factors = ev.rate_bets(aim.null).factors(trials, events)
    wealth = ev.grown(part.wealth, part.trials, trials, factors)
    pooled, run, excess = _follow(part, factors, (trials, events, 0, 0))
    trials, maybe = part.trials + trials, part.possible + possible
    level = ev.log_evidence(wealth, trials)
    bound, at = _bound(part, trials, maybe)
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
        bound=bound,
        bound_at=at,
    )


def _bound(part: Part, trials: float, events: float) -> tuple[float, tuple[float, float]]:
    """Return the rate's upper bound and when it was worked out; an earlier one is as valid, if wider."""
    was, had = part.bound_at
    if part.bound is not None and trials < _AGAIN * was and events - had <= (_AGAIN - 1) * had:
        return part.bound, part.bound_at
    return ev.rate_bound(trials, events, 1 - CONFIDENCE), (trials, events)


def _blocks(part: Part, aim: Aim, look: Look) -> Part:
    """Take each stretch of `burst` seconds as one value: its rate, whatever happened within it."""
    assert aim.check.burst
    trials, events, _ = counted(aim.check, look.window.candidate)
    if aim.check.failure_limit is not None:
        part = _windows(part, aim, trials, events, look)
    stretch, length = _longer(part.open, trials, events, look)
    if trials:
        pooled = _sum(part.pooled, (trials, events, 0, 0))
        part = replace(part, pooled=pooled, run=pooled, limit=aim.check.ceiling)
    if length < aim.check.burst:
        return replace(part, open=stretch)
    part = replace(part, open=Stretch(look.now))
    if not stretch.trials:
        return part
    rate = stretch.events / stretch.trials
    wealth = ev.grown(part.wealth, part.trials, 1, ev.mean_factors(aim.null, rate))
    blocks, total = part.trials + 1, part.possible + rate
    level = ev.log_evidence(wealth, blocks)
    bound, at = _bound(part, blocks, total)
    peak = max(part.peak, level)
    return replace(
        part, wealth=wealth, trials=blocks, possible=total, level=level, peak=peak, bound=bound, bound_at=at
    )


def _windows(part: Part, aim: Aim, trials: int, events: int, look: Look) -> Part:
    """Count the windows of `failureLimit` whose plain rate was over the limit."""
    assert aim.check.failure_limit
    length = float(aim.check.failure_limit.window)
    plain = part.plain if part.plain and part.plain.length == length else Plain(length)
    stretch, lasted = _longer(plain.open, trials, events, look)
    if lasted < length:
        return replace(part, plain=replace(plain, open=stretch))
    over = stretch.events > aim.null * stretch.trials
    return replace(
        part,
        plain=Plain(
            length,
            Stretch(look.now),
            plain.windows + (stretch.trials > 0),
            plain.over + over,
            (stretch.trials, stretch.events) if over else plain.last,
        ),
    )


def _longer(stretch: Stretch, trials: int, events: int, look: Look) -> tuple[Stretch, float]:
    """Add a look, and tell how long the stretch lasted; its clock starts anew when time was set back."""
    since = stretch.since if stretch.since is not None else look.before.at or look.now
    since = min(since, look.now)
    return Stretch(since, stretch.trials + trials, stretch.events + events), look.now - since


# ---------------------------------------------------------------- against stable
def _risk(part: Part, aim: Aim, look: Look) -> Part:
    if not look.comparable:
        return part
    mine, theirs = look.window.candidate, look.window.stable
    seen = (max(mine.requests, mine.errors), mine.errors, max(theirs.requests, theirs.errors), theirs.errors)
    both = mine.errors + theirs.errors
    factors = ev.risk_bets(aim.null, look.window.share).factors(both, mine.errors) if both else ()
    return _compared(part, aim, factors, seen, (look.window.share, both, mine.errors))


def _trials(part: Part, aim: Aim, look: Look) -> Part:
    """Compare two arms whose trials are known; of a least rate, stable's successes are held to ours."""
    mine, theirs = (look.window.candidate.tally(aim.check.name), look.window.stable.tally(aim.check.name))
    mine, theirs = (max(mine), mine[1]), (max(theirs), theirs[1])
    if not look.comparable or not mine[0] or not theirs[0]:
        return part
    blamed, other = (theirs, mine) if aim.swapped else (mine, theirs)
    both = blamed[1] + other[1]
    factors = ev.risk_factors(aim.null, blamed, other) if both else ()
    share = ev.rounded_share(blamed[0] / (blamed[0] + other[0]))
    return _compared(part, aim, factors, (*mine, *theirs), (share, both, blamed[1]))


def _compared(
    part: Part, aim: Aim, factors: tuple[float, ...], seen: Four, one: tuple[float, int, int]
) -> Part:
    share, both, events = one
    if not both:
        return replace(
            part, pooled=_sum(part.pooled, seen), run=_sum(part.run, seen) if part.excess else part.run
        )
    wealth, trials = ev.grown(part.wealth, part.trials, both, factors), part.trials + both
    pooled, run, excess = _follow(part, factors, seen)
    level, sums = ev.log_evidence(wealth, trials), _add(part.sums, share, both, events)
    bound, at = part.bound, part.bound_at
    if trials >= 1.1 * at[0]:
        risk = ev.risk_bound(sums, 1 - CONFIDENCE)
        bound, at = (risk if math.isfinite(risk) else None), (trials, 0.0)
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
        bound=bound,
        bound_at=at,
    )


def _slower(part: Part, aim: Aim, look: Look) -> Part:
    """Two purses, and only the poorer counts: slow beyond stable's p99, and slower than stable just now.

    The first alone would blame the candidate for a stall of the machine, which slows both arms.
    """
    if not look.comparable:
        return part
    part = _stable_limit(part, aim, look)
    if part.limit is None:
        return part
    trials, events, possible = slower(look.window.candidate.latency, part.limit)
    theirs, _, slow = slower(look.window.stable.latency, part.limit)
    if not trials:
        return replace(part, pooled=_sum(part.pooled, (0, 0, theirs, slow)))
    factors = ev.rate_bets(aim.check.slow_share).factors(trials, events)
    wealth = ev.grown(part.wealth, part.trials, trials, factors)
    guard, both = part.guard or ev.begin(), events + slow
    guard = ev.advance(guard, part.guard_trials, both, events, ev.risk_bets(1.0, look.window.share))
    pooled, run, excess = _follow(part, factors, (trials, events, theirs, slow))
    trials, both, maybe = part.trials + trials, part.guard_trials + both, part.possible + possible
    # Half of this part's alpha went into stable's quantile: the first purse must double.
    level = min(ev.log_evidence(wealth, trials) - math.log(2), ev.log_evidence(guard, both))
    bound, at = _bound(part, trials, maybe)
    return replace(
        part,
        wealth=wealth,
        trials=trials,
        guard=guard,
        guard_trials=both,
        pooled=pooled,
        run=run,
        excess=excess,
        possible=maybe,
        level=level,
        peak=max(part.peak, level),
        bound=bound,
        bound_at=at,
    )


def _stable_limit(part: Part, aim: Aim, look: Look) -> Part:
    """Set (1 + tolerance) × stable's quantile as surely known before this look, up to a bucket bound.

    It is worked out anew when stable answered a tenth more: what was known earlier is known still.
    """
    known = look.before.stable.latency
    answers = sum([count for _, count in known])
    if part.limit is not None and part.sums and part.sums[0][1] <= answers < 1.1 * part.sums[0][1]:
        return part
    quantile = ev.quantile_bound(known, aim.check.quantile, look.alpha / 2) * aim.null
    limit = next((upper for upper, _ in known if upper >= quantile * (1 - 1e-9)), math.inf)
    if math.isinf(limit):
        return part
    return replace(part, limit=limit, sums=((quantile, answers, 0),))  # when it was worked out


# ---------------------------------------------------------------- the router's split
def _split(part: Part, aim: Aim, look: Look) -> Part:
    """Hold the candidate's share of the requests, or of the units where there are such, to its weight.

    A look is left out while the weight changes: part of its requests went by the old one.
    """
    mine, theirs, spec = look.window.candidate.requests, look.window.stable.requests, aim.spec
    if UNITS in look.candidate.tallies or UNITS in look.stable.tallies:
        mine, theirs = look.window.candidate.tally(UNITS)[0], look.window.stable.tally(UNITS)[0]
        if part.limit is None:  # what was counted by requests is of no use from here on
            part = Part(spec, limit=1.0)
    share, both = look.window.share, mine + theirs
    if not both or not look.window.exact or share >= 1 or share != look.before.share:
        return part
    up, down = ev.split_bets(share, True), ev.split_bets(share, False)
    above = ev.advance(part.wealth, part.trials, both, mine, up)
    below = ev.advance(part.guard or ev.begin(), part.trials, both, mine, down)
    trials = part.trials + both
    level = ev.log_sum_exp((ev.log_evidence(above, trials), ev.log_evidence(below, trials))) - math.log(2)
    return replace(
        part,
        wealth=above,
        guard=below,
        trials=trials,
        pooled=_sum(part.pooled, (both, mine, 0, 0)),
        possible=part.possible + share * both,
        level=level,
        peak=max(part.peak, level),
    )


# ---------------------------------------------------------------- scores
_EPOCH = 200  # scores of the first epoch; each is twice as long as the one before


def _scores(part: Part, aim: Aim, look: Look) -> Part:
    """Compare both histograms: since the part began, and since its latest epoch, for late changes.

    Three quarters of the purse are on all scores. The rest is split over epochs that end when the
    scores have doubled; an ended one keeps what it won, one to come what it was given.
    """
    mine, theirs = look.candidate.bins.get(aim.check.name, ()), look.stable.bins.get(aim.check.name, ())
    since, latest = part.bins
    every, recent = _minus(mine, since), _minus(mine, latest)
    if mine and (every is None or recent is None):  # other bins: nothing pooled is of use
        return Part(aim.spec, bins=(mine, mine))
    trials = sum(every or ())
    if not every or not recent or trials < max(part.bound_at[0] * 1.05, part.bound_at[0] + 1):
        return part
    if not look.comparable or sum(theirs) == 0 or len(theirs) != len(mine):
        return replace(part, trials=trials, pooled=(trials, 0, sum(theirs), 0))
    moved = drift.mean_moved if aim.kind is Kind.MEAN else drift.gap_moved
    given = 0.25 / ((part.epoch + 1) * (part.epoch + 2))
    won = given * moved(recent, theirs, aim.null, look.alpha)
    rest = 0.25 / (part.epoch + 2)
    total = 0.75 * moved(every, theirs, aim.null, look.alpha) + part.banked + won + rest
    level = math.log(total / 2)  # the other half of alpha is in the bounds of stable's scores
    part = replace(
        part,
        trials=trials,
        pooled=(trials, 0, sum(theirs), 0),
        level=level,
        peak=max(part.peak, level),
        bound_at=(trials, 0.0),
    )
    if trials < _EPOCH * 2**part.epoch:
        return part
    return replace(part, bins=(since, mine), epoch=part.epoch + 1, banked=part.banked + won)


def _minus(mine: drift.Histogram, since: drift.Histogram) -> drift.Histogram | None:
    """Return what came since; None when it can't be told."""
    if not since:
        return mine
    if len(since) != len(mine):
        return None
    left = tuple([a - b for a, b in zip(mine, since, strict=True)])
    return None if min(left) < 0 else left


# ---------------------------------------------------------------- together
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
    return tuple((s, n, k) for s, (n, k) in sorted(table.items()))


STEPS: dict[Kind, Callable[[Part, Aim, Look], Part]] = {
    Kind.RATE: _rate,
    Kind.BLOCKS: _blocks,
    Kind.RISK: _risk,
    Kind.TRIALS: _trials,
    Kind.SLOWER: _slower,
    Kind.SPLIT: _split,
    Kind.MEAN: _scores,
    Kind.GAP: _scores,
}
