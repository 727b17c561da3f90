"""Bandits: Thompson sampling over releases, with a floor, a cap on change, and its regret. Pure, seeded.

Each arm's rate has a Beta(1, 1) prior. An arm gets requests as often as a draw from its posterior would be
the largest (Thompson 1933), which is worked out by integration, not by drawing. A posterior that is looked
at each second will sooner or later be sure of one of two even arms; so an arm is only called the best with
`confidence` when, beside that, the always-valid difference (core.difference, right at any look and for
weights that move) proves it: the chance that an even candidate is ever left is at most 1 - `confidence`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tidegate.core import difference
from tidegate.core.counts import Tally
from tidegate.core.experiment import Decision
from tidegate.core.plan import Bandit
from tidegate.core.verdict import Verdict

_EFFECT = 0.02  # about this difference of rates evidence is quickest; from a quarter to ten times it counts
_POINTS = 2000  # of the integral
_REACH = 8.0  # standard deviations about each posterior's mean


@dataclass(frozen=True)
class Rebalanced:
    """The next weights (percent by release, sum 100), and each arm's probability of being the best."""

    weights: dict[str, int]
    best: dict[str, float]


# ---------------------------------------------------------------- posteriors
def best(rewards: Mapping[str, Tally]) -> dict[str, float]:
    """Return each arm's probability of having the highest rate; they sum to 1."""
    releases = sorted(rewards)
    found = _best(tuple(rewards[release] for release in releases))
    return dict(zip(releases, found, strict=True))


@lru_cache(maxsize=256)  # most looks bring no reward
def _best(arms: tuple[Tally, ...]) -> tuple[float, ...]:
    """Integrate density × the others' distributions over a grid that holds all posteriors."""
    if len(arms) == 1:
        return (1.0,)
    low, high = 1.0, 0.0
    for n, k in arms:
        a, b = k + 1, n - k + 1
        mean, total = a / (a + b), a + b
        spread = _REACH * math.sqrt(mean * (1 - mean) / (total + 1))
        low, high = min(low, mean - spread), max(high, mean + spread)
    low, high = max(0.0, low), min(1.0, high)
    step = (high - low) / _POINTS
    rates = [low + (i + 0.5) * step for i in range(_POINTS)]
    masses = [_masses(arm, rates) for arm in arms]
    below = [_below(mass) for mass in masses]
    found = []
    for i, mass in enumerate(masses):
        others = [row for j, row in enumerate(below) if j != i]
        found.append(sum(m * math.prod(row[x] for row in others) for x, m in enumerate(mass) if m > 1e-15))
    whole = sum(found)
    return tuple(part / whole for part in found)


def _masses(arm: Tally, rates: list[float]) -> list[float]:
    n, k = arm
    logs = [k * math.log(x) + (n - k) * math.log1p(-x) for x in rates]
    top = max(logs)
    weights = [math.exp(v - top) for v in logs]
    whole = sum(weights)
    return [w / whole for w in weights]


def _below(masses: list[float]) -> list[float]:
    """Return the distribution at the middle of each cell."""
    found, total = [], 0.0
    for mass in masses:
        found.append(total + mass / 2)
        total += mass
    return found


# ---------------------------------------------------------------- weights
def rebalance(
    spec: Bandit, rewards: Mapping[str, Tally], weights: Mapping[str, int], turn: int
) -> Rebalanced:
    """Return the weights for the next interval; `rewards`: release → (rewards known, those that were 1).

    Each arm has at least the floor, and moves by at most `maxChange` from what it has in `weights` unless
    the floor asks for more. What is left by rounding goes by lot (seed and turn) among equal parts.
    """
    chances = best(rewards)
    arms = sorted(rewards)
    spare = 100 - spec.floor * len(arms)
    wanted = {arm: spec.floor + spare * chances[arm] for arm in arms}
    given = _scaled({arm: weights.get(arm, 0) for arm in arms})
    lowest = {arm: max(spec.floor, math.ceil(given[arm] - spec.max_change)) for arm in arms}
    highest = {arm: max(spec.floor, math.floor(given[arm] + spec.max_change)) for arm in arms}
    if sum(lowest.values()) > 100:
        lowest = dict.fromkeys(arms, spec.floor)
    if sum(highest.values()) < 100:
        highest = dict.fromkeys(arms, 100)
    return Rebalanced(_whole(_fitted(wanted, lowest, highest), lowest, highest, spec.seed + turn), chances)


def _scaled(weights: dict[str, int]) -> dict[str, float]:
    """Return the weights as parts of 100: an arm that was thrown out leaves its part to all others."""
    whole = sum(weights.values())
    return {arm: 100 * w / whole if whole else 100 / len(weights) for arm, w in weights.items()}


def _fitted(wanted: dict[str, float], lowest: dict[str, int], highest: dict[str, int]) -> dict[str, float]:
    """Shift all by the same amount, each within its bounds, so that they sum to 100."""
    low, high = -200.0, 200.0
    for _ in range(60):
        shift = (low + high) / 2
        fitted = {a: min(max(w + shift, lowest[a]), highest[a]) for a, w in wanted.items()}
        low, high = (shift, high) if sum(fitted.values()) < 100 else (low, shift)
    return fitted


def _whole(
    fitted: dict[str, float], lowest: dict[str, int], highest: dict[str, int], seed: int
) -> dict[str, int]:
    """Round so that the sum is 100: the largest remainders get one more."""
    lots = random.Random(seed)  # noqa: S311 - a lot among equal remainders, no secret
    whole = {arm: max(lowest[arm], math.floor(part + 1e-9)) for arm, part in fitted.items()}
    order = sorted(fitted, key=lambda arm: (whole[arm] - fitted[arm], lots.random()))
    while sum(whole.values()) < 100:
        open_to = [arm for arm in order if whole[arm] < highest[arm]]
        for arm in open_to[: 100 - sum(whole.values())]:
            whole[arm] += 1
    return whole


# ---------------------------------------------------------------- deciding
def decide(
    spec: Bandit,
    rewards: Mapping[str, Tally],
    candidate: str,
    elapsed: float,
    weights: Mapping[str, int] | None = None,
) -> Decision:
    """Return PASS when the candidate is the best arm, FAIL when another is, else INCONCLUSIVE.

    Both need `minRewards` of each arm, the posterior's `confidence`, and the evidence.
    """
    chances = best(rewards)
    leader = max(sorted(rewards), key=lambda arm: (chances[arm], arm == candidate))
    fewest = min(n for n, _ in rewards.values())
    over = elapsed >= spec.horizon
    rates = ", ".join(
        f"{'candidate' if arm == candidate else arm} {_rate(rewards[arm])}" for arm in sorted(rewards)
    )
    sure = f"the best with {100 * chances[leader]:.3g}%"
    log, goal = _least_evidence(spec, rewards, leader, candidate)
    likely = len(rewards) > 1 and fewest >= spec.min_rewards and chances[leader] >= spec.confidence
    if likely and log >= goal:
        verdict = Verdict.PASS if leader == candidate else Verdict.FAIL
        who = "the candidate" if leader == candidate else leader
        reason = f"{who} is {sure} ≥ {100 * spec.confidence:g}% confidence: {spec.reward} of {rates}"
        over = False
    else:
        verdict = Verdict.INCONCLUSIVE
        who = "the candidate" if leader == candidate else leader
        lead = f"{who} leads, {sure} < {100 * spec.confidence:g}% confidence"
        if likely:
            lead = f"{who} leads, {sure}, not proven yet: evidence {math.exp(log):.2g} < {math.exp(goal):.3g}"
        if fewest < spec.min_rewards:
            lead = f"{fewest} of {spec.min_rewards} rewards of the arm that has fewest"
        reason = f"{'over at its horizon, ' if over else ''}{lead}: {spec.reward} of {rates}"
    finding = _finding(spec, rewards, chances, candidate, verdict, reason, weights or {})
    return Decision(verdict, reason, over, finding, fewest == 0)


def _least_evidence(
    spec: Bandit, rewards: Mapping[str, Tally], leader: str, candidate: str
) -> tuple[float, float]:
    """Return the log evidence that the leader beats the candidate, or as candidate all others; and its goal.

    Any of the other arms might come to lead by chance, hence the goal is shared out among them.
    """
    rivals = [arm for arm in rewards if arm != leader] if leader == candidate else [candidate]
    pairs = [difference.Pair(rewards[leader], rewards[rival], 0.5, _EFFECT) for rival in rivals]
    goal = math.log(max(1, len(rewards) - 1) / (1 - spec.confidence))
    return min((difference.log_evidence(p) if p.estimate > 0 else 0.0 for p in pairs), default=0.0), goal


def _rate(arm: Tally) -> str:
    n, k = arm
    return f"{100 * k / n:.3g}% ({k}/{n})" if n else "– (0/0)"


def regret(rewards: Mapping[str, Tally], weights: Mapping[str, int]) -> tuple[float, float]:
    """Return (rewards lost a request at these weights, rewards lost so far) against the best arm, estimated.

    Rates are the posteriors' means, so an arm without rewards is taken for one half.
    """
    means = {arm: (k + 1) / (n + 2) for arm, (n, k) in rewards.items()}
    top = max(means.values())
    whole = sum(weights.get(arm, 0) for arm in means)
    now = sum(weights.get(arm, 0) * (top - mean) for arm, mean in means.items()) / whole if whole else 0.0
    return now, sum(rewards[arm][0] * (top - mean) for arm, mean in means.items())


def _finding(
    spec: Bandit,
    rewards: Mapping[str, Tally],
    chances: Mapping[str, float],
    candidate: str,
    verdict: Verdict,
    reason: str,
    weights: Mapping[str, int],
) -> dict[str, Any]:
    """Return what is shown, as JSON types; its evidence is the odds of the arm that leads."""
    now, so_far = regret(rewards, weights)
    top = min(max(chances.values()), 1 - 1e-16)
    odds = math.log(top / (1 - top))
    mine = chances[candidate]
    return {
        "name": spec.reward,
        "verdict": str(verdict),
        "observed": mine,
        "limit": spec.confidence,
        "observed_text": f"best with {100 * mine:.3g}%",
        "limit_text": f"{100 * spec.confidence:g}% sure",
        "log_evidence": odds,
        "evidence": math.exp(odds),
        "threshold": spec.confidence / (1 - spec.confidence),
        "bound": None,
        "reason": reason,
        "trials": sum(n for n, _ in rewards.values()),
        "dry_run": False,
        "applicable": True,
        "blocking": True,
        "against": mine < (1 - mine) / 3 and verdict is not Verdict.PASS,
        "interval": None,
        "units": {arm: n for arm, (n, _) in rewards.items()},
        "planned": None,
        "arms": {
            arm: {
                "rate": k / n if n else None,
                "rewards": n,
                "best": chances[arm],
                "weight": weights.get(arm, 0),
            }
            for arm, (n, k) in rewards.items()
        },
        "regret": {"now": now, "so_far": so_far},
    }
