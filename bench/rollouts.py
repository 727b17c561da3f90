"""The statistics of a rollout, simulated through the code that the agent runs. Seeded.

Traffic of STATISTICS.md: 20 requests a second, a tenth to the canary, stable at 1% errors, a look each
second for 30 minutes, alpha 1% over two parts: at most 2% errors, and at most 1.25 times stable's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np

from bench.registry import Goal, Measured, entries
from tidegate.core import analysis
from tidegate.core import evidence as ev
from tidegate.core.plan import AgainstStable, Check, Milliseconds, Ratio

REQUESTS, SHARE, STABLE_ERRORS = 20.0, 0.1, 0.01
LOOKS, ALPHA = 1800, 0.01
CHECKS = (
    Check("errors", "error-rate", Ratio(0.02), against_stable=AgainstStable(Ratio(0.25))),
)  # two parts: absolute and against stable
HEALTHY_RUNS, SICK_RUNS = 400, 200
SEED = 20130704
THRESHOLD = "over 2% of a minute, 3 times"


def seconds_to_fail(errors: float, seed: int, healthy_for: int = 0) -> int | None:
    """Return the look at which a canary with this error rate is failed, None if never.

    It has stable's error rate for its first `healthy_for` looks, which are not counted.
    """
    rng = np.random.default_rng(seed)
    looks = LOOKS + healthy_for
    rate = np.where(np.arange(looks) < healthy_for, STABLE_ERRORS, errors)
    mine, theirs = rng.poisson(REQUESTS * SHARE, looks), rng.poisson(REQUESTS * (1 - SHARE), looks)
    my_errors, their_errors = rng.binomial(mine, rate), rng.binomial(theirs, STABLE_ERRORS)
    evidence = analysis.start(CHECKS)
    columns = (mine.tolist(), my_errors.tolist(), theirs.tolist(), their_errors.tolist())
    for look, (n, k, m, s) in enumerate(zip(*columns, strict=True), start=1):
        window = analysis.Window(analysis.Counts(n, k), analysis.Counts(m, s), SHARE)
        evidence = analysis.update(evidence, CHECKS, window, ALPHA)
        if analysis.breached(evidence, CHECKS, ALPHA):
            return look - healthy_for
    return None


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


def median_seconds(errors: float, runs: int, seed: int, healthy_for: int = 0) -> tuple[float, int]:
    """Return the median seconds to FAIL (never: the whole 30 minutes), and how many runs were failed."""
    found = [seconds_to_fail(errors, seed + i, healthy_for) for i in range(runs)]
    caught = [second for second in found if second is not None]
    return statistics.median(second if second is not None else LOOKS for second in found), len(caught)


@entries(rollout_false_rollbacks=("share", Goal(at_most=0.01)))
def false_rollbacks() -> Mapping[str, Measured]:
    """A healthy canary, looked at 1800 times: how many are rolled back."""
    seeds = range(SEED, SEED + HEALTHY_RUNS)
    rolled_back = sum(seconds_to_fail(STABLE_ERRORS, seed) is not None for seed in seeds)
    theirs = sum(seconds_to_fail_by_threshold(STABLE_ERRORS, seed) is not None for seed in seeds)
    low, high = wilson(rolled_back, HEALTHY_RUNS)
    note = f"{rolled_back} of {HEALTHY_RUNS} (95%: {100 * low:.1f}–{100 * high:.1f}%)"
    share = theirs / HEALTHY_RUNS
    return {"rollout-false-rollbacks": Measured(rolled_back / HEALTHY_RUNS, THRESHOLD, share, note)}


@entries(rollout_detect_10pct=("s", Goal(at_most=40)))
def detect() -> Mapping[str, Measured]:
    """A canary with 10% errors: median seconds to FAIL; the note has other rates and late breakage."""
    told = []
    for rate, runs in ((0.03, 30), (0.05, 60), (0.3, SICK_RUNS), (1.0, SICK_RUNS)):
        median, caught = median_seconds(rate, runs, SEED + 10_000)
        told.append(f"{100 * rate:.0f}%: {median:.0f} s ({caught}/{runs})")
    late, _ = median_seconds(0.1, 30, SEED + 20_000, healthy_for=600)
    value, caught = median_seconds(0.1, SICK_RUNS, SEED + 30_000)
    note = (
        f"{caught}/{SICK_RUNS} caught; " + ", ".join(told) + f"; 10% after 10 healthy minutes: {late:.0f} s"
    )
    common = [seconds_to_fail_by_threshold(0.1, SEED + i) or LOOKS for i in range(SICK_RUNS)]
    return {"rollout-detect-10pct": Measured(value, THRESHOLD, statistics.median(common), note)}


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
