"""The statistics of a rollout, simulated through the arithmetic that the agent runs. Seeded.

Traffic of STATISTICS.md: 20 requests a second, a tenth to the canary, stable at 1% errors, a look each
second for 30 minutes, alpha 1% over two parts: at most 2% errors, and at most 1.25 times stable's. Thousands
of rollouts are followed at once (`crowd`); `tests/core/test_crowd.py` holds that to `analysis.update`.
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.crowd import Blocks, Rates, Risks, Second, follow
from bench.registry import Goal, Measured, entries
from tidegate.core import analysis
from tidegate.core import evidence as ev
from tidegate.core.counts import SCORE_BINS
from tidegate.core.plan import AgainstStable, Check, Milliseconds, Query, Ratio

REQUESTS, SHARE, STABLE_ERRORS = 20.0, 0.1, 0.01
LIMIT, TIMES = 0.02, 1.25
LOOKS, ALPHA, PARTS = 1800, 0.01, 2
HEALTHY_RUNS, SICK_RUNS = 5000, 2000
BURST = 30  # seconds of the remedy's stretches
SEED = 20130704
THRESHOLD = "over 2% of a minute, 3 times"

Rate = npt.NDArray[np.float64] | float


@dataclass(frozen=True)
class Traffic:
    """What rollouts see; a rate is of the requests that fail.

    `shares` take turns, a minute each. A burst begins in a second with probability `burst` and lasts
    `lasts` seconds, in which `within` of the requests fail beside the others: on both arms at once, or on
    each for itself with `alone`.
    """

    errors: float = STABLE_ERRORS
    stable: float = STABLE_ERRORS
    requests: float = REQUESTS
    shares: tuple[float, ...] = (SHARE,)
    healthy_for: int = 0
    burst: float = 0.0
    lasts: int = 3
    within: float = 0.3
    alone: bool = False

    def seconds(self, runs: int, looks: int, seed: int) -> Iterator[Second]:
        """Yield what `runs` rollouts count in each of so many seconds."""
        rng = np.random.default_rng(seed)
        mine = theirs = np.zeros(runs, dtype=np.int64)
        for second in range(looks):
            share = self.shares[second // 60 % len(self.shares)]
            rate = self.stable if second < self.healthy_for else self.errors
            mine = self._bursting(rng, mine)
            theirs = self._bursting(rng, theirs) if self.alone else mine
            n = rng.poisson(self.requests * share, runs)
            m = rng.poisson(self.requests * (1 - share), runs)
            worse, better = self._rate(rate, mine), self._rate(self.stable, theirs)
            yield Second(n, rng.binomial(n, worse), m, rng.binomial(m, better), share)

    def _bursting(self, rng: np.random.Generator, left: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if not self.burst:
            return left
        begins = rng.random(len(left)) < self.burst
        return np.where(begins, self.lasts, np.maximum(left - 1, 0))

    def _rate(self, rate: float, left: npt.NDArray[np.int64]) -> Rate:
        return np.where(left > 0, rate + (1 - rate) * self.within, rate) if self.burst else rate


@dataclass(frozen=True)
class Failed:
    """The look at which each rollout was failed by each part, infinite where never."""

    rate: npt.NDArray[np.float64]
    risk: npt.NDArray[np.float64]
    blocks: npt.NDArray[np.float64]

    @property
    def either(self) -> npt.NDArray[np.float64]:
        """By the limit or against stable, as a check with both fails."""
        return np.minimum(self.rate, self.risk)

    @property
    def remedied(self) -> npt.NDArray[np.float64]:
        """The same with `burst` for the limit."""
        return np.minimum(self.blocks, self.risk)


def watched(traffic: Traffic, runs: int, looks: int, seed: int, parts: int = PARTS) -> Failed:
    """Return when each of so many rollouts was failed, by each part."""
    level = parts / ALPHA
    rate, risk = Rates(runs, level, LIMIT), Risks(runs, level, TIMES)
    blocks = Blocks(runs, level, LIMIT, BURST)
    follow((rate, risk, blocks), traffic.seconds(runs, looks, seed))
    return Failed(rate.failed, risk.failed, blocks.failed)


def share_of(failed: npt.NDArray[np.float64]) -> float:
    """Return the share of rollouts that were failed at all."""
    return float(np.isfinite(failed).mean())


def told(failed: npt.NDArray[np.float64]) -> str:
    """Write how many were failed, with the 95% interval."""
    count = int(np.isfinite(failed).sum())
    low, high = wilson(count, len(failed))
    return f"{count} of {len(failed)} (95%: {100 * low:.2f}–{100 * high:.2f}%)"


def seconds_to_fail_by_threshold(errors: float, seed: int) -> int | None:
    """The same canary under the common default: a look a minute, over 2% of the last minute, three times."""
    rng = np.random.default_rng(seed)
    minutes = LOOKS // 60
    mine = rng.poisson(60 * REQUESTS * SHARE, minutes)
    failures = np.cumsum(rng.binomial(mine, errors) > 0.02 * mine)
    return int(60 * (1 + np.argmax(failures >= 3))) if failures[-1] >= 3 else None


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson 1927)."""
    p, square = successes / trials, z * z / trials
    middle, half = p + square / 2, z * math.sqrt(p * (1 - p) / trials + square / (4 * trials))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


# ---------------------------------------------------------------- healthy releases
@entries(
    rollout_false_rollbacks=("share", Goal(at_most=0.01)),
    rollout_false_rollbacks_quiet=("share", Goal(at_most=0.01)),
    rollout_false_rollbacks_weights=("share", Goal(at_most=0.01)),
)
def false_rollbacks() -> Mapping[str, Measured]:
    """A healthy canary, looked at 1800 times: steady, at 0.1% errors, with other weights by the minute."""
    theirs = _by_threshold(STABLE_ERRORS)
    steady = watched(Traffic(), HEALTHY_RUNS, LOOKS, SEED).either
    quiet = watched(Traffic(0.001, 0.001), HEALTHY_RUNS, LOOKS, SEED + 1).either
    shares = (0.05, 0.25, 0.1, 0.5)
    moving = watched(Traffic(shares=shares), HEALTHY_RUNS, LOOKS, SEED + 2).either
    return {
        "rollout-false-rollbacks": Measured(share_of(steady), THRESHOLD, theirs, told(steady)),
        "rollout-false-rollbacks-quiet": Measured(share_of(quiet), note=f"0.1% errors: {told(quiet)}"),
        "rollout-false-rollbacks-weights": Measured(
            share_of(moving), note=f"5, 25, 10, 50% by the minute: {told(moving)}"
        ),
    }


def _by_threshold(errors: float) -> float:
    seeds = range(SEED, SEED + 400)
    return sum(seconds_to_fail_by_threshold(errors, seed) is not None for seed in seeds) / 400


@entries(
    rollout_false_rollbacks_bursts=("share", Goal(at_most=0.01)),
    rollout_false_rollbacks_bursts_alone=("share", Goal(at_most=0.01)),
)
def bursts() -> Mapping[str, Measured]:
    """A canary whose errors come in bursts, 1% in all: 3 s with 30% errors every 4 minutes, 0.6% between.

    They hit both arms at once (a backend hiccups), or each arm for itself (one of its replicas does).
    """
    found = {}
    for name, alone in (
        ("rollout-false-rollbacks-bursts", False),
        ("rollout-false-rollbacks-bursts-alone", True),
    ):
        traffic = Traffic(0.0062, 0.0062, burst=1 / 240, alone=alone)
        failed = watched(traffic, HEALTHY_RUNS, LOOKS, SEED + 3 + alone)
        parts = {
            "limit": failed.rate,
            "against stable": failed.risk,
            f"limit with burst: {BURST}s": failed.blocks,
        }
        note = "; ".join(f"{part} {100 * share_of(at):.2f}%" for part, at in parts.items())
        remedy = failed.blocks if alone else failed.remedied
        found[name] = Measured(share_of(remedy), "without the remedy", share_of(failed.either), note)
    return found


# ---------------------------------------------------------------- broken releases
def median_of(failed: npt.NDArray[np.float64], looks: int) -> float:
    """Return the median seconds to FAIL; never is the whole time."""
    return float(np.median(np.minimum(failed, looks)))


def _first_answer(traffic: Traffic, runs: int, looks: int, seed: int) -> npt.NDArray[np.float64]:
    """Return the second in which each canary answered first."""
    first = np.full(runs, np.inf)
    for now, seen in enumerate(traffic.seconds(runs, looks, seed), start=1):
        first[(seen.requests > 0) & np.isinf(first)] = now
    return first


@entries(
    rollout_detect_dead=("s", Goal(at_most=2)),
    rollout_detect_10pct=("s", Goal(at_most=30)),
    rollout_detect_10pct_busy=("s", Goal(at_most=1)),
)
def detect() -> Mapping[str, Measured]:
    """A broken canary at 2 requests/s: median seconds to FAIL; the note has other rates and late breakage."""
    lines = []
    for rate, runs in ((0.02, 500), (0.03, 1000), (0.05, 1000), (0.3, SICK_RUNS)):
        failed = watched(Traffic(rate), runs, LOOKS, SEED + 10_000).either
        lines.append(
            f"{100 * rate:.0f}%: {median_of(failed, LOOKS):.0f} s ({100 * share_of(failed):.0f}% caught)"
        )
    late = watched(Traffic(0.1, healthy_for=600), 1000, 900, SEED + 20_000).either - 600
    lines.append(f"10% after 10 healthy minutes: {median_of(late, LOOKS):.0f} s")
    ten = watched(Traffic(0.1), SICK_RUNS, 600, SEED + 30_000)
    lines.append(f"10% with burst: {BURST}s: {median_of(ten.remedied, LOOKS):.0f} s")
    four = watched(Traffic(0.1), SICK_RUNS, 600, SEED + 30_000, parts=4).either
    lines.append(f"10% of four parts: {median_of(four, LOOKS):.0f} s")
    common = [seconds_to_fail_by_threshold(0.1, SEED + i) or LOOKS for i in range(200)]
    dead, first = Traffic(1.0), _first_answer(Traffic(1.0), SICK_RUNS, 60, SEED + 40_000)
    gone = watched(dead, SICK_RUNS, 60, SEED + 40_000).either - first + 1
    slowest = f"from its first answer, {gone.max():.0f} s at most"
    busy = watched(Traffic(0.1, requests=2000), SICK_RUNS, 30, SEED + 50_000).either
    return {
        "rollout-detect-dead": Measured(median_of(gone, 60), note=slowest),
        "rollout-detect-10pct": Measured(
            median_of(ten.either, LOOKS), THRESHOLD, statistics.median(common), "; ".join(lines)
        ),
        "rollout-detect-10pct-busy": Measured(
            median_of(busy, 30),
            note=f"2,000 requests/s, 10% of them to the canary; {busy.max():.0f} s at most",
        ),
    }


# ---------------------------------------------------------------- latency
STALLED_RUNS, STALLED_LOOKS, STALLED_REQUESTS = 40, 600, 40.0
SLOWER = (Check("latency", "latency", Milliseconds(60_000), against_stable=AgainstStable(Ratio(0.2))),)
BOUNDS = (*(2 * 1.1**step for step in range(90)), math.inf)


def _answers(rng: np.random.Generator, rate: float, stall: float) -> analysis.Counts:
    """Return one arm's second: about 20 ms an answer, and up to `stall` ms more for each."""
    count = int(rng.poisson(rate))
    took = 20 * rng.lognormal(0, 0.35, count) + rng.uniform(0, 1, count) * stall
    held, _ = np.histogram(took, [0.0, *BOUNDS])
    return analysis.Counts(count, 0, tuple(zip(BOUNDS, held.tolist(), strict=True)))


def stalled(seed: int) -> tuple[bool, bool]:
    """Tell whether a canary as fast as stable is failed, and whether it would be by the first purse alone.

    In 2% of the seconds the machine stalls, and every answer of both arms waits for up to 0.8 s.
    """
    rng = np.random.default_rng(seed)
    goal = math.log(analysis.threshold(SLOWER, ALPHA))
    evidence, alone = analysis.start(SLOWER), False
    for _ in range(STALLED_LOOKS):
        stall = rng.uniform(0, 800) if rng.random() < 0.02 else 0.0
        mine = _answers(rng, STALLED_REQUESTS * SHARE, stall)
        theirs = _answers(rng, STALLED_REQUESTS * (1 - SHARE), stall)
        evidence = analysis.update(evidence, SLOWER, analysis.Window(mine, theirs, SHARE), ALPHA)
        part = evidence.parts["latency-vs-stable"]
        alone = alone or ev.log_evidence(part.wealth, part.trials) >= goal
    return analysis.breached(evidence, SLOWER, ALPHA), alone


@entries(rollout_false_rollbacks_stalls=("share", Goal(at_most=0.01)))
def false_rollbacks_in_stalls() -> Mapping[str, Measured]:
    """A canary as fast as stable on a machine that stalls both: how many are rolled back for latency."""
    runs = [stalled(SEED + i) for i in range(STALLED_RUNS)]
    failed, alone = (sum(column) for column in zip(*runs, strict=True))
    low, high = wilson(failed, STALLED_RUNS)
    note = f"{failed} of {STALLED_RUNS} (95%: {100 * low:.1f}–{100 * high:.1f}%), {STALLED_LOOKS} s each"
    peer = "stable's p99 as the only measure"
    return {
        "rollout-false-rollbacks-stalls": Measured(failed / STALLED_RUNS, peer, alone / STALLED_RUNS, note)
    }


# ---------------------------------------------------------------- how long a decision takes
ROLLOUTS, BEFORE, ROUNDS = 1000, 300, 5
EIGHT = (
    Check("errors", "error-rate", Ratio(0.02), against_stable=AgainstStable(Ratio(0.25))),
    Check("p99", "latency", Milliseconds(200), against_stable=AgainstStable(Ratio(0.2))),
    Check("p50", "latency", Milliseconds(50), quantile=0.5),
    Check("missing", "missing-features", Ratio(0.05)),
    Check("drift", "prediction-drift", Ratio(0.05)),
    Check("split", "sample-ratio"),
    Check("bought", "outcome", Ratio(0.03), outcome="bought", better="higher"),
    Check("queue", "prometheus", Ratio(0.1), query=Query("a", "b")),
)  # ten parts


def _arm(rng: np.random.Generator, rate: float) -> analysis.Counts:
    """Return one arm's second with everything that the eight checks count."""
    router = _answers(rng, rate, 0.0)
    n = router.requests
    tallies = {
        name: (n, int(rng.binomial(n, p)))
        for name, p in (("missing", 0.01), ("bought", 0.1), ("queue", 0.02))
    }
    scores, _ = np.histogram(rng.beta(2, 5, n), SCORE_BINS, (0, 1))
    return analysis.Counts(
        n, int(rng.binomial(n, 0.01)), router.latency, tallies, {"drift": tuple(scores.tolist())}
    )


def _stored(windows: list[analysis.Window]) -> list[Mapping[str, object]]:
    """Return what a store holds of rollouts that were looked at for five minutes."""
    documents = []
    for shift in range(8):
        evidence = analysis.start(EIGHT)
        for look in range(BEFORE):
            window = windows[(7 * look + 13 * shift) % len(windows)]
            evidence = analysis.update(evidence, EIGHT, window, ALPHA, float(look))
        documents.append(json.dumps(evidence.to_dict()))
    return [analysis.Evidence.from_dict(json.loads(documents[i % 8])).stored() for i in range(ROLLOUTS)]


def _looked_at(
    held: list[Mapping[str, object]], windows: list[analysis.Window], now: float, told: bool
) -> list[Mapping[str, object]]:
    """Look at every rollout once, as core.looking does; with `told` every number is worked out too."""
    after: list[Mapping[str, object]] = []
    for index, stored in enumerate(held):
        window = windows[(7 * index + int(now)) % len(windows)]
        evidence = analysis.update(analysis.Evidence.from_dict(stored), EIGHT, window, ALPHA, now)
        after.append(evidence.stored())
        results = analysis.Judgement(evidence, EIGHT, ALPHA)
        if results.failed or told:
            [result.as_dict() for result in results]
    return after


@entries(rollout_decisions_1000x8=("ms", Goal(at_most=100)))
def decisions() -> Mapping[str, Measured]:
    """One look at 1,000 rollouts of 8 checks each: evidence, and whether any has failed. CPU time."""
    rng = np.random.default_rng(SEED)
    windows = [
        analysis.Window(_arm(rng, REQUESTS * SHARE), _arm(rng, REQUESTS * (1 - SHARE)), SHARE)
        for _ in range(60)
    ]
    held, took = _stored(windows), []
    gc.collect()
    gc.disable()  # as timeit does: its cost belongs to everything that the process holds
    try:
        for turn in range(ROUNDS):
            began = time.process_time()
            held = _looked_at(held, windows, float(BEFORE + turn), told=False)
            took.append(1000 * (time.process_time() - began))
        began = time.process_time()
        _looked_at(held, windows, float(BEFORE + ROUNDS), told=True)
        everything = 1000 * (time.process_time() - began)
    finally:
        gc.enable()
    parts = len(analysis.start(EIGHT).parts)
    note = f"best of {ROUNDS} rounds, {max(took):.0f} ms the slowest; {parts} parts a rollout"
    peer = "with every number worked out, as each rollout is every 5 s"
    return {"rollout-decisions-1000x8": Measured(min(took), peer, everything, note)}
