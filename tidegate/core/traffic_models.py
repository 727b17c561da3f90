"""Traffic to replay a rollout on: simulated, or a recording's resampled to other weights. Pure, seeded.

A source is asked at each look what each release saw since the last one, by the weights that were served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from tidegate.core.counts import SCORE_BINS, Buckets, Counts, Tally
from tidegate.core.plan import Check, Plan
from tidegate.core.xds import LATENCY_BOUNDS_MS

LADDER: tuple[float, ...] = (*LATENCY_BOUNDS_MS, math.inf)
Shares = Mapping[str, float]  # release → its part of the requests, copies of mirrored ones included
Release = str

OTHERS = 0.25  # of its limit: the rate at which every other check's events happen, in both arms
_OF_REQUESTS = ("missing-features", "disagreement", "score-difference", "outcome", "prometheus")


@dataclass(frozen=True)
class Reading:
    """Cumulative counters of one release (core.counts.Cumulative)."""

    requests: int = 0
    errors: int = 0
    latency: tuple[tuple[float, int], ...] = ()
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    bins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def plus(self, fresh: Counts) -> Reading:
        """Return the counters after these counts; `latency` is cumulative over buckets, too."""
        below, rising = 0, []
        for bound, count in fresh.latency:
            below += count
            rising.append((bound, below))
        if self.latency and rising and len(rising) == len(self.latency):
            rising = [(bound, n + m) for (bound, n), (_, m) in zip(rising, self.latency, strict=True)]
        before = Counts(tallies=self.tallies, bins=self.bins)
        new = before.plus(Counts(tallies=_keyed(fresh.tallies), bins=_keyed(fresh.bins)))
        return Reading(
            self.requests + fresh.requests,
            self.errors + fresh.errors,
            tuple(rising) or self.latency,
            new.tallies,
            new.bins,
        )


def _keyed(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name if "@" in name else f"{name}@": row for name, row in found.items()}


class Source(Protocol):
    """Where a replay's counts come from. `last` is the number of looks after which nothing new comes."""

    def counted(self, look: int, seconds: float, shares: Shares) -> Mapping[Release, Counts]:
        """Return what each release saw in one look, counted from 0, that lasted so long."""


# ---------------------------------------------------------------- simulated
@dataclass(frozen=True)
class Traffic:
    """What a model's requests are like: how many a second, and how stable answers them.

    `median` in ms and `spread` (of the logarithm) are its latency, unless a histogram is given. Errors
    come in clumps of `burst` on average: 1 is one by one, as the statistics assume.
    """

    rate: float = 20.0
    errors: float = 0.01
    median: float = 20.0
    spread: float = 0.4
    histogram: Buckets = ()
    burst: float = 1.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"a rate is positive, not {self.rate:g} requests a second")
        if not 0 <= self.errors < 1:
            raise ValueError(f"an error rate lies between 0% and 100%, not {100 * self.errors:g}%")
        if not (self.median > 0 and self.spread > 0 and self.burst >= 1):
            raise ValueError("median and spread must be positive, and burst at least 1")


@dataclass(frozen=True)
class Candidate:
    """How a candidate differs from stable: its own error rate (None: stable's), and how much slower."""

    errors: float | None = None
    slower: float = 1.0


def latency_shares(traffic: Traffic, slower: float, bounds: Sequence[float]) -> list[float]:
    """Return the share of answers in each bucket, all of them `slower` times as slow as stable's."""
    below = [_at_most(traffic, bound / slower) for bound in bounds]
    return [max(0.0, b - a) for a, b in zip([0.0, *below], below, strict=False)]


def _at_most(traffic: Traffic, limit: float) -> float:
    if math.isinf(limit):
        return 1.0
    if not traffic.histogram:
        return 0.5 * math.erfc(-math.log(limit / traffic.median) / (traffic.spread * math.sqrt(2)))
    total, low, below = sum(n for _, n in traffic.histogram), 0.0, 0
    for high, count in traffic.histogram:
        if limit < high:
            # Within a bucket answers lie evenly; the last one's end is not known: half as far again.
            top = high if math.isfinite(high) else max(1.5 * low, limit)
            part = (limit - low) / (top - low) if top > low else 1.0
            return (below + count * min(1.0, part)) / total
        low, below = high, below + count
    return 1.0


def ladder(traffic: Traffic, plan: Plan) -> tuple[float, ...]:
    """Return the buckets that matter to the plan's latency checks; those between them are one.

    Whether an answer is slower than a limit, or than so many times stable's quantile, is told by the
    buckets near these two alone. Fewer buckets are what makes a replay fast.
    """
    checks = [check for stage in plan.stages for check in stage.checks if check.metric == "latency"]
    if not checks:
        return ()
    kept = {math.inf}
    shares = latency_shares(traffic, 1.0, LADDER)
    for check in checks:
        times = 1 + float(check.against_stable.tolerance) if check.against_stable else 1.0
        usual = _quantile(shares, check.quantile)
        kept |= {bound for bound in LADDER if 0.5 * usual <= bound <= 2.5 * times * usual}
        kept |= {bound for bound in LADDER if 0.8 * check.ceiling <= bound <= 1.25 * check.ceiling}
    return tuple(sorted(kept))


def _quantile(shares: Sequence[float], quantile: float) -> float:
    below = 0.0
    for bound, share in zip(LADDER, shares, strict=True):
        below += share
        if below >= quantile:
            return bound
    return LADDER[-2]


class Simulated:
    """Traffic drawn at random: Poisson arrivals, each answered as its release does."""

    def __init__(
        self, traffic: Traffic, candidate: Candidate, plan: Plan, seed: int, name: Release = "candidate"
    ) -> None:
        self.traffic, self.name = traffic, name
        self.errors = traffic.errors if candidate.errors is None else candidate.errors
        self.bounds = ladder(traffic, plan)
        self.cumulative = [
            np.cumsum(latency_shares(traffic, slower, self.bounds)) for slower in (1.0, candidate.slower)
        ]
        checks = [check for stage in plan.stages for check in stage.checks]
        self.tallied = [check for check in checks if check.metric in _OF_REQUESTS]
        self.drawn = [check for check in checks if check.metric == "prediction-drift"]
        self.rng = np.random.default_rng(seed)

    def counted(self, look: int, seconds: float, shares: Shares) -> Mapping[Release, Counts]:
        """Return what was drawn for each release."""
        return {release: self._arm(release, share * seconds) for release, share in shares.items() if share}

    def _arm(self, release: Release, seconds: float) -> Counts:
        rng, mine = self.rng, release == self.name
        requests = int(rng.poisson(self.traffic.rate * seconds))
        errors = self._errors(requests, self.errors if mine else self.traffic.errors)
        latency: Buckets = ()
        if self.bounds:
            places = np.searchsorted(self.cumulative[mine], rng.random(requests) * self.cumulative[mine][-1])
            held = np.bincount(places, minlength=len(self.bounds)).tolist()
            latency = tuple(zip(self.bounds, held, strict=True))
        if not (self.tallied or self.drawn):
            return Counts(requests, errors, latency)
        tallies = {c.name: (requests, int(rng.binomial(requests, OTHERS * c.ceiling))) for c in self.tallied}
        bins = {c.name: self._scores(requests, c) for c in self.drawn}
        return Counts(requests, errors, latency, tallies, bins)

    def _errors(self, requests: int, rate: float) -> int:
        if self.traffic.burst == 1 or not rate:
            return int(self.rng.binomial(requests, rate)) if requests and rate else 0
        clumps = int(self.rng.poisson(requests * rate / self.traffic.burst))
        further = int(self.rng.negative_binomial(clumps, 1 / self.traffic.burst)) if clumps else 0
        return min(requests, clumps + further)

    def _scores(self, requests: int, check: Check) -> tuple[int, ...]:
        places = (self.rng.beta(2.0, 5.0, requests) * SCORE_BINS).astype(int)
        return tuple(np.bincount(places, minlength=SCORE_BINS).tolist())


# ---------------------------------------------------------------- a recording
@dataclass(frozen=True)
class Recorded:
    """One recorded look: how long it took, what each release counted, and at which percent."""

    seconds: float
    counts: Mapping[Release, Counts]
    percents: Mapping[Release, float]


NEIGHBOURS = 15  # looks on either side from which a rate is taken where a recording has too few requests


class Resampled:
    """A recording's looks, at the weights that were served then: as they were; at others: resampled.

    Fewer requests than were recorded are a random part of them. More are drawn at the rates of the looks
    around; of a release without any, at those of the whole recording. After its end looks are taken from it
    at random.
    """

    def __init__(self, looks: Sequence[Recorded], candidate: Release, seed: int) -> None:
        if not looks:
            raise ValueError("a recording without a look that counted can't be replayed")
        self.looks, self.candidate = looks, candidate
        self.rng = np.random.default_rng(seed)

    def counted(self, look: int, seconds: float, shares: Shares) -> Mapping[Release, Counts]:
        """Return what each release would have seen."""
        place = look if look < len(self.looks) else int(self.rng.integers(len(self.looks)))
        found = self.looks[place]
        longer = 1.0 if look < len(self.looks) else seconds / found.seconds if found.seconds else 1.0
        made = {}
        for release, share in shares.items():
            percent = found.percents.get(release, 0.0)
            times = 100 * share * longer / percent if percent else 0.0
            if percent and release in found.counts and times <= 1 + 1e-9:
                made[release] = self._part(found.counts[release], min(1.0, times))
            elif share:
                made[release] = self._drawn(place, release, share, seconds)
        return made

    def _part(self, counts: Counts, share: float) -> Counts:
        if share > 1 - 1e-9:
            return counts
        kept = self.rng.binomial
        errors = int(kept(counts.errors, share))
        others = int(kept(max(0, counts.requests - counts.errors), share))
        return Counts(
            errors + others,
            errors,
            tuple((bound, int(kept(n, share)) if n else 0) for bound, n in counts.latency),
            {name: _thinned(kept, row, share) for name, row in counts.tallies.items()},
            {name: tuple(int(kept(n, share)) for n in row) for name, row in counts.bins.items()},
        )

    def _drawn(self, place: int, release: Release, share: float, seconds: float) -> Counts:
        """Draw as many requests as the share asks for, each like those that were recorded nearby."""
        near = self.looks[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1]
        pool, weight = self._pool(near, release)
        if not pool.requests:
            pool, weight = self._pool(self.looks, release)
        expected = 100 * share * seconds * pool.requests / weight if weight else 0.0
        requests = int(self.rng.poisson(expected))
        if not pool.requests or not requests:
            return Counts(latency=tuple((bound, 0) for bound, _ in pool.latency))
        scale = requests / pool.requests
        errors = int(self.rng.binomial(requests, min(1.0, pool.errors / pool.requests)))
        tallies = {n: _redrawn(self.rng, row, scale) for n, row in pool.tallies.items()}
        bins = {n: tuple(self.rng.poisson(np.array(row) * scale).tolist()) for n, row in pool.bins.items()}
        return Counts(requests, errors, self._latency(pool, requests), tallies, bins)

    def _pool(self, looks: Sequence[Recorded], release: Release) -> tuple[Counts, float]:
        """Return what a release, or another of its kind, counted there, and its percent × seconds."""
        pool, weight = Counts(), 0.0
        for look in looks:
            alike = [release] if release in look.counts else [r for r in look.counts if r != self.candidate]
            for each in alike if release != self.candidate else [release]:
                if each in look.counts and look.percents.get(each):
                    pool = pool.plus(look.counts[each])
                    weight += look.percents[each] * look.seconds
        return pool, weight

    def _latency(self, pool: Counts, requests: int) -> Buckets:
        held = np.array([n for _, n in pool.latency], dtype=float)
        if not held.sum():
            return tuple((bound, 0) for bound, _ in pool.latency)
        drawn = self.rng.multinomial(requests, held / held.sum()).tolist()
        return tuple((bound, n) for (bound, _), n in zip(pool.latency, drawn, strict=True))


def _thinned(kept: Any, row: Tally, share: float) -> Tally:
    events = int(kept(row[1], share))
    return events + int(kept(max(0, row[0] - row[1]), share)), events


def _redrawn(rng: np.random.Generator, row: Tally, scale: float) -> Tally:
    trials = int(rng.poisson(row[0] * scale))
    return trials, int(rng.binomial(trials, min(1.0, row[1] / row[0]))) if row[0] else 0


def as_traffic(looks: Sequence[Recorded], candidate: Release) -> Traffic:
    """Return simulated traffic like that of a recording: its rate, and stable's errors and latency."""
    pool, seconds, all_requests = Counts(), 0.0, 0
    for look in looks:
        seconds += look.seconds
        for release, found in look.counts.items():
            all_requests += found.requests
            pool = pool if release == candidate else pool.plus(found)
    made = Traffic(rate=all_requests / seconds) if all_requests and seconds else Traffic()
    if not pool.requests:
        return made
    histogram = pool.latency if sum(n for _, n in pool.latency) else ()
    return replace(made, errors=min(0.99, pool.errors / pool.requests), histogram=histogram)
