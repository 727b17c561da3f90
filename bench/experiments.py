"""A/B tests and bandits, simulated through the code that the agent runs. Seeded.

Each A/B test is looked at 60 times on its way to the planned size, and is over at the first verdict. What is
measured: how often a healthy candidate is called better or worse, whether the truth ever leaves the interval,
how often an effect worth finding is found, and after how many units, beside a test that is looked at once.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from bench.registry import Goal, Measured, entries
from bench.rollouts import wilson
from tidegate.core import bandit, difference, experiment
from tidegate.core.plan import AbTest, Bandit, Key, Ratio
from tidegate.core.verdict import Verdict

SEED = 20130704
LOOKS, ALPHA = 60, 0.05
UNIT = Key(header="x-user")
# (baseline, effect, split): what a shop, a rare sign-up with a small candidate, and a coin flip look like.
TESTS = ((0.10, 0.01, 50), (0.03, 0.006, 20), (0.50, 0.03, 50))
HEALTHY_RUNS, FOUND_RUNS, COVERED_RUNS = 200, 100, 200


def spec_of(baseline: float, effect: float, split: int) -> AbTest:
    """Return an A/B test's plan."""
    return AbTest(UNIT, "bought", Ratio(baseline), Ratio(effect), split=split)


def batches(spec: AbTest, rate: float, units: int, seed: int) -> list[tuple[int, int, int, int]]:
    """Return both arms' (units, ones) after each look, candidate first; arms are assigned at random."""
    rng = np.random.default_rng(seed)
    each = np.full(LOOKS, math.ceil(units / LOOKS))
    mine = rng.binomial(each, spec.split / 100)
    ones, others = rng.binomial(mine, rate), rng.binomial(each - mine, float(spec.baseline))
    columns = (mine, ones, each - mine, others)
    return [tuple(row) for row in np.cumsum(np.stack(columns, axis=1), axis=0).tolist()]


def ended(spec: AbTest, rate: float, seed: int, alpha: float) -> tuple[Verdict, int]:
    """Return how an A/B test ends, and after how many units."""
    size = experiment.planned(spec, alpha)
    total = 0
    for n, k, m, j in batches(spec, rate, size.total, seed):
        arms, total = experiment.Arms((n, k), (m, j), n, m), n + m
        verdict = experiment.weigh(spec, arms, alpha).verdict
        if verdict is not Verdict.INCONCLUSIVE:
            return verdict, total
    return Verdict.INCONCLUSIVE, total


def fixed_size(spec: AbTest, alpha: float = ALPHA) -> float:
    """Return the units of a test of the same power and alpha that is looked at once."""
    return experiment.planned(spec, alpha).total / experiment.inflation(alpha, spec.power)


def looked_at_by_z(spec: AbTest, seed: int) -> bool:
    """Tell whether the plain two-proportion z, at each look, ever calls an even candidate different."""
    limit = NormalDist().inv_cdf(1 - ALPHA / 2)
    for n, k, m, j in batches(spec, float(spec.baseline), experiment.planned(spec, ALPHA).total, seed):
        rate = (k + j) / (n + m)
        spread = math.sqrt(rate * (1 - rate) * (1 / n + 1 / m)) if n and m else 0.0
        if spread and abs(k / n - j / m) / spread > limit:
            return True
    return False


@entries(
    abtest_false_verdicts=("share", Goal(at_most=ALPHA)), abtest_miscoverage=("share", Goal(at_most=ALPHA))
)
def even_candidates() -> Mapping[str, Measured]:
    """A candidate as good as stable: how often it is called anything else, at any of 60 looks."""
    wrong = runs = 0
    for test in TESTS:
        spec = spec_of(*test)
        wrong += sum(
            ended(spec, float(spec.baseline), SEED + i, ALPHA)[0] is not Verdict.INCONCLUSIVE
            for i in range(HEALTHY_RUNS)
        )
        runs += HEALTHY_RUNS
    plain = spec_of(*TESTS[0])
    by_z = sum(looked_at_by_z(plain, SEED + i) for i in range(HEALTHY_RUNS)) / HEALTHY_RUNS
    low, high = wilson(wrong, runs)
    note = f"{wrong} of {runs} (95%: {100 * low:.1f}–{100 * high:.1f}%), {LOOKS} looks, 3 designs"
    return {
        "abtest-false-verdicts": Measured(wrong / runs, "z at each look", by_z, note),
        "abtest-miscoverage": _miscoverage(),
    }


def _miscoverage() -> Measured:
    """Tell how often the true difference leaves the interval at any look, whatever it is."""
    missed = runs = 0
    goal = -math.log(ALPHA)
    for test in TESTS:
        spec = spec_of(*test)
        size = experiment.planned(spec, ALPHA).total
        for i in range(COVERED_RUNS):
            true = float(spec.minimum_effect) * (i % 5 - 2)
            rows = batches(spec, float(spec.baseline) + true, size, SEED + 50_000 + i)
            pairs = (
                difference.Pair((n, k), (m, j), spec.split / 100, float(spec.minimum_effect))
                for n, k, m, j in rows
            )
            missed += any(difference.log_evidence(pair, true) >= goal for pair in pairs)
            runs += 1
    low, high = wilson(missed, runs)
    return Measured(
        missed / runs,
        note=f"{missed} of {runs} (95%: {100 * low:.1f}–{100 * high:.1f}%), true effects to 2 × the planned",
    )


@entries(
    abtest_power=("share", Goal(at_least=0.8)), abtest_median_units=("of a fixed size", Goal(at_most=1.0))
)
def found() -> Mapping[str, Measured]:
    """A candidate better by the effect that was planned for: how often it passes, after how many units."""
    passed = runs = 0
    ratios, told = [], []
    for alpha in (ALPHA, 0.005):
        for test in TESTS:
            spec = spec_of(*test)
            ends = [ended(spec, test[0] + test[1], SEED + 90_000 + i, alpha) for i in range(FOUND_RUNS)]
            mine = sum(verdict is Verdict.PASS for verdict, _ in ends)
            median = statistics.median(units for _, units in ends) / fixed_size(spec, alpha)
            passed, runs = passed + mine, runs + FOUND_RUNS
            ratios.append(median)
            told.append(f"{test[0]:g}+{test[1]:g} at alpha {alpha:g}: {mine}%, {median:.2f}")
    most = experiment.inflation(ALPHA, 0.8)
    note = f"{passed} of {runs} at the planned size, {most:.2f} × a fixed one; " + "; ".join(told)
    middle = statistics.median(ratios)
    return {
        "abtest-power": Measured(passed / runs, "planned for", 0.8, note),
        "abtest-median-units": Measured(middle, "the most, as planned", most, note),
    }


# ---------------------------------------------------------------- bandits
ROUNDS, PER_ROUND, BANDIT_RUNS = 100, 200, 40
RATES = {"stable": 0.10, "candidate": 0.13, "other": 0.08}


def lost(seed: int, *, moving: bool) -> float:
    """Return the rewards lost against the best arm over all rounds, at moving or at even weights."""
    rng = np.random.default_rng(seed)
    spec = Bandit("bought", arms=("other",), seed=seed)
    rewards = dict.fromkeys(RATES, (0, 0))
    weights = {"stable": 34, "candidate": 33, "other": 33}
    regret = 0.0
    for turn in range(ROUNDS):
        for arm, rate in RATES.items():
            n = PER_ROUND * weights[arm] // 100
            regret += n * (max(RATES.values()) - rate)
            old_n, old_k = rewards[arm]
            rewards[arm] = (old_n + n, old_k + int(rng.binomial(n, rate)))
        if moving:
            weights = bandit.rebalance(spec, rewards, weights, turn).weights
    return regret


@entries(bandit_regret=("rewards", Goal(of="ratio", at_most=0.4)))
def bandit_regret() -> Mapping[str, Measured]:
    """Three arms at 10%, 13% and 8% over 20,000 requests: rewards lost, beside an even split."""
    mine = [lost(SEED + i, moving=True) for i in range(BANDIT_RUNS)]
    even = statistics.mean(lost(SEED + i, moving=False) for i in range(BANDIT_RUNS))
    note = f"median of {BANDIT_RUNS}, worst {max(mine):.0f}; floor 5%, 20 points a turn, {ROUNDS} turns"
    return {"bandit-regret": Measured(statistics.median(mine), "an even split", even, note)}


@entries(abtest_decision=("ms", Goal(at_most=60)))
def decision_cost() -> Mapping[str, Measured]:
    """One look at an A/B test with new outcomes, its interval included."""
    spec, took = spec_of(*TESTS[0]), []
    for i in range(20):
        arms = experiment.Arms((8000 + i, 900), (8000, 800), 8000 + i, 8000)
        began = time.perf_counter()
        experiment.decide(spec, arms, ALPHA, 10.0)
        took.append(1000 * (time.perf_counter() - began))
    return {"abtest-decision": Measured(statistics.median(took), note="a model, when outcomes came")}
