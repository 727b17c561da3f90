"""What one look adds to one part of a check: the parts of one arm; `comparing` has the others. Pure.

Most looks hold no event for most parts. Those are only added up (`Idle`), and weighed as one batch when an
event comes or when they are a thirty-second of all: without an event no bet wins, and a reserve that is
invested before a stretch of losses rather than during it is only poorer, so the error stays bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from tidegate.core import evidence as ev
from tidegate.core.aims import Aim, counted
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


# ---------------------------------------------------------------- one arm
def rate(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    """Weigh one arm's bad events against the rate that its limit allows."""
    trials, events, possible = look.bad(aim)
    if aim.check.failure_limit is not None:
        part = _windows(part, aim, trials, events, look)
    if aim.swapped:  # what is counted are the many that did not: each says little, so they may wait too
        both, bad = idle[0] + trials, idle[1] + events
        if both <= part.trials // STRETCH:
            return part, (both, bad)
        return rate_batch(part, aim, both, bad, bad), NONE
    waiting = idle[0] + (0 if possible else trials)
    if not possible and waiting <= part.trials // STRETCH:
        return part, (waiting, 0)
    if waiting:
        part = rate_batch(part, aim, waiting, 0, 0)
    return (rate_batch(part, aim, trials, events, possible) if possible else part), NONE


def rate_batch(part: Part, aim: Aim, trials: int, events: int, possible: int) -> Part:
    """Weigh a batch of trials, of which `possible` may have been bad and `events` surely were."""
    factors = ev.rate_bets(aim.null).factors(trials, events)
    wealth = ev.grown(part.wealth, part.trials, trials, factors)
    pooled, run, excess = follow(part, factors, (trials, events, 0, 0))
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


def blocks(part: Part, aim: Aim, idle: Idle, look: Look) -> Weighed:
    """Take each stretch of `burst` seconds as one value: its rate, whatever happened within it."""
    assert aim.check.burst
    trials, events, _ = look.bad(aim)
    if aim.check.failure_limit is not None:
        part = _windows(part, aim, trials, events, look)
    stretch, length = _longer(part.open, trials, events, look)
    if trials:
        pooled = summed(part.pooled, (trials, events, 0, 0))
        part = replace(part, pooled=pooled, run=pooled, limit=aim.check.ceiling)
    if length < aim.check.burst:
        return replace(part, open=stretch), NONE
    part = replace(part, open=Stretch(look.now))
    if not stretch.trials:
        return part, NONE
    value = stretch.events / stretch.trials
    wealth = ev.grown(part.wealth, part.trials, 1, ev.mean_factors(aim.null, value))
    blocks, total = part.trials + 1, part.possible + value
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


# ---------------------------------------------------------------- for every kind
def seen_only(part: Part, seen: Four) -> Part:
    """Add counts that no bet was on."""
    run = summed(part.run, seen) if part.excess else part.run
    return replace(part, pooled=summed(part.pooled, seen), run=run)


def follow(part: Part, factors: tuple[float, ...], seen: Four) -> tuple[Four, Four, float]:
    """Return the pooled counts, and those of the run since the rate began to rise (Page's CUSUM)."""
    excess = part.excess + math.log(max(factors[_RISE], 1e-300))
    return summed(part.pooled, seen), summed(part.run, seen) if excess > 0 else (0, 0, 0, 0), max(excess, 0.0)


def summed(a: Four, b: Four) -> Four:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
