"""Bandits: Thompson sampling over releases, with a floor, a cap on change, and its regret. Pure, seeded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate.core.experiment import Decision
from tidegate.core.plan import Bandit


@dataclass(frozen=True)
class Rebalanced:
    """The next weights (percent by release, sum 100), and each arm's probability of being the best."""

    weights: dict[str, int]
    best: dict[str, float]


def rebalance(
    spec: Bandit, rewards: Mapping[str, tuple[int, int]], weights: Mapping[str, int], turn: int
) -> Rebalanced:
    """Return the weights for the next interval; `rewards`: release → (rewards known, those that were 1)."""
    raise NotImplementedError


def decide(spec: Bandit, rewards: Mapping[str, tuple[int, int]], candidate: str, elapsed: float) -> Decision:
    """Return PASS when the candidate is the best arm, FAIL when another is, else INCONCLUSIVE."""
    raise NotImplementedError
