"""What a service takes of a machine, from samples to findings: memory's slope, CPU a prediction, start-up.

Memory is told apart from noise by its own steps, not by a fitted line: what a process takes at once (a
cache, an arena) is one large step and no leak, what it keeps of every request is a small step each time.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tidegate.core import gate
from tidegate.core.exhibits import Comparison
from tidegate.core.verdict import Finding, Verdict

CONFIDENCE = 0.99
FEWEST = 8  # steps, or pairs: with fewer no interval below reaches CONFIDENCE
RESAMPLES = 2000


@dataclass(frozen=True)
class Memory:
    """Bytes: `rss` in memory, `uss` of them the process's own, `pss` with its part of what it shares.

    PSS is Linux's; where there is none it is 0.
    """

    rss: int
    uss: int
    pss: int


@dataclass
class Readings:
    """What was read of one service: `memory` and `cpu` (seconds since its start) at `done` requests.

    `ready` is its memory before the first request. `sent` and `failed` count all requests, `reason` is that
    of the first failure, and `ended` says that the service was gone when it was last looked for.
    """

    ready: Memory
    done: list[int] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    sent: int = 0
    failed: int = 0
    reason: str = ""
    ended: bool = False

    @property
    def counted(self) -> int:
        """How many requests lie between the first reading, after the warm-up, and the last one."""
        return self.done[-1] - self.done[0] if self.done else 0

    @property
    def own(self) -> list[float]:
        """Its own bytes at each reading."""
        return [float(one.uss) for one in self.memory]

    @property
    def costs(self) -> list[float]:
        """CPU seconds a thousand requests, between neighbouring readings."""
        used = [after - before for before, after in _pairs(self.cpu)]
        asked = [after - before for before, after in _pairs([float(one) for one in self.done])]
        return [seconds / count * 1000 for seconds, count in zip(used, asked, strict=True)]


@dataclass(frozen=True)
class Slope:
    """Growth in units a thousand requests: the median step, and the interval of that at CONFIDENCE."""

    value: float
    low: float
    high: float
    steps: int


def slope(requests: Sequence[float], sizes: Sequence[float]) -> Slope | None:
    """Return how a size grows with the number of requests, or None where there are too few samples.

    Only the second half of the samples counts: until then an allocator may fill what was free in its heap,
    where a leak can't be seen, and a cache its bound. The interval is the distribution-free one of a median,
    by order statistics of the steps between neighbouring samples (Conover, Practical Nonparametric
    Statistics, 3.2); it assumes nothing of their shape. What was taken and given back again in a few large
    steps is no growth: the low end is never above the slope from the first of these samples to the last.
    """
    half = (len(requests) - 1) // 2
    requests, sizes = requests[half:], sizes[half:]
    steps = [
        (size - before) / (count - earlier) * 1000
        for (earlier, count), (before, size) in zip(_pairs(requests), _pairs(sizes), strict=True)
        if count > earlier
    ]
    if len(steps) < FEWEST or not all(map(math.isfinite, steps)):
        return None
    ordered = sorted(steps)
    skipped = _skipped(len(ordered))
    whole = (sizes[-1] - sizes[0]) / (requests[-1] - requests[0]) * 1000
    low, high = ordered[skipped], ordered[-1 - skipped]
    return Slope(statistics.median(ordered), min(low, whole), high, len(ordered))


def _pairs(values: Sequence[float]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(values))


def _skipped(count: int) -> int:
    """Return how many of the lowest, and of the highest, values lie outside the median's interval.

    The chance that more than `count − k` of them fall on one side of the true median is binomial with 1/2.
    """
    chance, skipped = 0.0, -1
    for k in range(count // 2):
        chance += math.comb(count, k) / 2**count
        if 2 * chance > 1 - CONFIDENCE:
            break
        skipped = k
    return max(skipped, 0)


def leak(name: str, found: Slope | None, limit: float, unit: str) -> Finding:
    """PASS when the slope is surely at most `limit`, FAIL when it is surely above, else INCONCLUSIVE."""
    if found is None:
        return Finding(
            name,
            Verdict.INCONCLUSIVE,
            None,
            float(limit),
            f"{name}: fewer than {FEWEST} usable steps, which allow no interval; raise `requests`",
        )
    missing = gate.at_most(name, found.value, limit, unit)
    if missing.verdict is Verdict.ERROR:
        return missing
    said, verdict = "may be above", Verdict.INCONCLUSIVE
    if found.high <= limit:
        said, verdict = "≤", Verdict.PASS
    elif found.low > limit:
        said, verdict = ">", Verdict.FAIL
    interval = f"{gate.show(found.low)} to {gate.show(found.high)}"
    text = f"{name} {gate.show(found.value)} ({interval}) {unit} {said} limit {gate.show(limit)} {unit}"
    if verdict is Verdict.INCONCLUSIVE:
        text += "; raise `requests`"
    return Finding(name, verdict, found.value, float(limit), text)


def ratio(candidate: Sequence[float], production: Sequence[float]) -> tuple[float, float]:
    """Return the interval, at CONFIDENCE, of total candidate ÷ total production over pairs of blocks.

    A percentile bootstrap of the pairs, seeded. Totals, since where a kernel counts in steps of 10 ms
    one block says little; where that is little of all of them, the upper end is infinite.
    """
    import numpy as np

    pairs = np.array([candidate, production], dtype=float)
    chosen = np.random.default_rng(7).integers(0, pairs.shape[1], (RESAMPLES, pairs.shape[1]))
    ours, theirs = pairs[:, chosen].sum(axis=2)
    ratios = np.divide(ours, theirs, out=np.full(RESAMPLES, np.inf), where=theirs > 0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail], method="nearest")  # nothing lies between 2 and infinity
    return float(low), float(high)


def beside(
    name: str, candidate: Sequence[float], production: Sequence[float], margin: float, unit: str
) -> tuple[Finding, Comparison | None]:
    """Compare what two services took in blocks side by side, as far as both went; less is better.

    INCONCLUSIVE where the blocks are too few, or took too little, for an interval.
    """
    pairs = list(zip(candidate, production, strict=False))
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    if not all(map(math.isfinite, (*ours, *theirs))):
        return gate.error(name, f"{name}: not every reading is a number"), None
    low, high = ratio(ours, theirs) if len(pairs) >= FEWEST else (0.0, math.inf)
    if not math.isfinite(high):
        text = f"{name}: too little was taken by {len(pairs)} pairs of blocks to compare; raise `requests`"
        return Finding(name, Verdict.INCONCLUSIVE, None, None, text), None
    return gate.beside(
        name,
        statistics.fmean(ours),
        statistics.fmean(theirs),
        (low, high),
        margin,
        higher_is_better=False,
        scale="ratio",
        confidence=CONFIDENCE,
        unit=unit,
        hint="raise `requests`",
    )


def answered(name: str, seen: Readings) -> Finding:
    """PASS when every request was answered with 2xx, FAIL when one was not, ERROR when none was sent.

    A service that ended during the run failed it, whatever it had answered before.
    """
    if seen.ended:
        text = f"{name}: the service ended by itself after {gate.show(seen.sent)} requests"
        return Finding(name, Verdict.FAIL, float(seen.sent), None, f"{text} ({seen.reason or 'no word'})")
    found = gate.none_of(name, seen.failed, seen.sent, "requests")
    if found.verdict is not Verdict.FAIL:
        return found
    reason = f"{found.reason}; the first: {seen.reason}"
    return Finding(found.name, found.verdict, found.observed, found.limit, reason)


def comparable(name: str, seen: Readings) -> Finding:
    """PASS when production's copy answered everything; else ERROR: that is not the candidate's failure."""
    found = answered(name, seen)
    if found.verdict is not Verdict.FAIL:
        return found
    return Finding(
        name, Verdict.ERROR, found.observed, found.limit, f"{found.reason}: nothing to compare with"
    )
