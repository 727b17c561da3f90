"""How a model is best served on a machine, chosen of what was measured. Pure.

Each setting was measured in turns with the simplest one, at several numbers of connections: what counts is
its rate as a ratio of the simplest one's just before and after it, in which the machine's own ups and downs
cancel out. The rule:

1. A setting's rate is the highest at which its p99 keeps the cap; one that never keeps it is out.
2. The noise is how far the simplest one's own rates lie apart, as a share, from 2% to 50%.
3. Of all whose rate is within the noise of the highest, the simplest is chosen: not batching before batching,
   then fewer processes, fewer threads, smaller batches, shorter waits. So batching has to win by more than
   the noise, and a tie goes to the simpler setting.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_NOISE, MOST_NOISE = 0.02, 0.5  # a machine that swings by more can't tell anything
NOISY = 0.2  # from which on a person should know
SIZES = (8, 32, 128)  # rows of a batch that are tried
DELAYS_MS = (1.0,)


@dataclass(frozen=True)
class Setting:
    """One way to serve: `workers` processes of `threads` each, batches of up to `max_rows` (0: none)."""

    workers: int = 1
    threads: int = 1
    max_rows: int = 0
    max_delay_ms: float = 2.0

    @property
    def batched(self) -> bool:
        """True when requests wait for each other."""
        return self.max_rows > 1

    @property
    def order(self) -> tuple[bool, int, int, int, float]:
        """The simpler, the smaller."""
        return self.batched, self.workers, self.threads, self.max_rows, self.max_delay_ms

    def __str__(self) -> str:
        parts = [_count(self.workers, "process", "es"), _count(self.threads, "thread", "s")]
        if self.batched:
            parts.append(f"batches of {self.max_rows} within {self.max_delay_ms:g} ms")
        return ", ".join(parts)


def _count(number: int, word: str, more: str) -> str:
    return f"{number} {word}{more if number > 1 else ''}"


SIMPLEST = Setting()


@dataclass(frozen=True)
class Point:
    """What a number of connections that each wait for their answer got: requests/s, and milliseconds."""

    connections: int
    rate: float
    p50: float
    p99: float
    failed: int = 0
    batch: float = 0.0  # rows computed at once, on average; 0 where nobody counts


@dataclass(frozen=True)
class Sweep:
    """One setting at several numbers of connections."""

    setting: Setting
    points: tuple[Point, ...]

    def best(self, cap: float) -> Point | None:
        """Return the point of the highest rate that keeps the cap (milliseconds) without a failure."""
        kept = [point for point in self.points if point.p99 <= cap and not point.failed and point.rate > 0]
        return max(kept, key=lambda point: point.rate, default=None)

    def rate(self, cap: float) -> float:
        """Return that rate; 0 when no point keeps the cap."""
        best = self.best(cap)
        return best.rate if best else 0.0


@dataclass(frozen=True)
class Trial:
    """A setting's sweep, and the simplest one's just before and after it."""

    sweep: Sweep
    before: Sweep
    after: Sweep

    def gain(self, cap: float) -> float:
        """Return its rate as a share of the simplest one's at that time; 0 when it never keeps the cap.

        Infinite when it keeps the cap and the simplest one does not.
        """
        mine = self.sweep.rate(cap)
        theirs = [rate for rate in (self.before.rate(cap), self.after.rate(cap)) if rate]
        if not mine:
            return 0.0
        return mine / statistics.fmean(theirs) if theirs else float("inf")


@dataclass(frozen=True)
class Row:
    """One setting as it came out: its `gain` over the simplest, and its point within the cap, if any."""

    setting: Setting
    gain: float
    best: Point | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Choice:
    """What is chosen (None: nothing keeps the cap), why, the noise as a share, and all that was tried."""

    setting: Setting | None
    reason: str
    noise: float
    rows: tuple[Row, ...]


def noise(sweeps: Sequence[Sweep], cap: float) -> float:
    """Return how far repeated sweeps of one setting lie apart: their range as a share of their median."""
    rates = [rate for sweep in sweeps if (rate := sweep.rate(cap))]
    if len(rates) < 2:
        return LEAST_NOISE
    return min(max(LEAST_NOISE, (max(rates) - min(rates)) / statistics.median(rates)), MOST_NOISE)


def choose(baseline: Sequence[Sweep], trials: Sequence[Trial], cap: float) -> Choice:
    """Return the setting to serve with, by the rule above; `baseline` are the simplest one's sweeps in turn.

    Raises ValueError without a sweep of the simplest.
    """
    if not baseline:
        raise ValueError("nothing was measured")
    spread = noise(baseline, cap)
    # The better of the two in the middle: what the machine did in between, not at its best.
    simplest = sorted(baseline, key=lambda sweep: sweep.rate(cap))[len(baseline) // 2]
    own = Row(simplest.setting, 1.0 if simplest.rate(cap) else 0.0, simplest.best(cap), simplest.points)
    others = [
        Row(trial.sweep.setting, trial.gain(cap), trial.sweep.best(cap), trial.sweep.points)
        for trial in trials
    ]
    rows = tuple(sorted((own, *others), key=lambda row: row.setting.order))
    kept = [row for row in rows if row.gain > 0]
    if not kept:
        nearest = min((point for row in rows for point in row.points), key=lambda p: p.p99, default=None)
        told = f"the lowest p99 was {nearest.p99:.3g} ms" if nearest else "there was no answer"
        return Choice(None, f"no setting keeps p99 ≤ {cap:g} ms: {told}", spread, rows)
    top = max(kept, key=lambda row: row.gain)
    near = [row for row in kept if row.gain >= top.gain * (1 - spread)]
    chosen = min(near, key=lambda row: row.setting.order)
    return Choice(chosen.setting, _reason(chosen, top, spread, cap), spread, rows)


def _reason(chosen: Row, top: Row, spread: float, cap: float) -> str:
    rate = chosen.best.rate if chosen.best else 0.0
    told = f"{chosen.setting}: {rate:,.0f} requests/s with p99 ≤ {cap:g} ms"
    if top.setting != chosen.setting:
        more = top.gain / chosen.gain - 1
        return f"{told}; {top.setting} won {more:.1%}, which is within the noise ({spread:.1%})"
    if chosen.setting == SIMPLEST:
        return f"{told}; nothing else was faster"
    if chosen.gain == float("inf"):
        return f"{told}; the simplest setting does not keep that"
    return f"{told}; {chosen.gain:.2f} times the simplest setting, noise {spread:.1%}"


# ---------------------------------------------------------------- what is tried
def grid(cores: int) -> list[Setting]:
    """Return processes and threads to try on so many cores, without the simplest: no more than there are."""
    steps = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores]
    if cores not in steps:
        steps.append(cores)
    pairs = [(w, t) for w in steps for t in steps if w * t <= cores]
    return sorted((Setting(w, t) for w, t in pairs if (w, t) != (1, 1)), key=lambda s: s.order)


def batches(base: Setting, connections: int) -> list[Setting]:
    """Return batch sizes to try with these processes; one that callers can't fill is not tried.

    Of so many connections no more can wait at once for one process.
    """
    fits = [rows for rows in SIZES if rows <= max(SIZES[0], connections // base.workers)]
    return [Setting(base.workers, base.threads, rows, delay) for rows in fits for delay in DELAYS_MS]


def written(setting: Setting) -> dict[str, int | float]:
    """Return the keys of settings.yaml that say a choice."""
    found: dict[str, int | float] = {"threads": setting.threads, "workers": setting.workers}
    found["batching.maxRows"] = setting.max_rows if setting.batched else 0
    return found | ({"batching.maxDelayMs": setting.max_delay_ms} if setting.batched else {})
