"""A/B tests: planned size, always-valid difference, and when one is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tidegate.core.plan import AbTest
from tidegate.core.verdict import Verdict


@dataclass(frozen=True)
class Arms:
    """What both arms counted: (units whose outcome is known, those where it was 1), and units assigned."""

    candidate: tuple[int, int]
    stable: tuple[int, int]
    candidate_units: int
    stable_units: int


@dataclass(frozen=True)
class Decision:
    """What an experiment says now; `over` when its horizon or its size is reached without evidence.

    `finding` is what a person is shown, with the keys of analysis.CheckResult.as_dict and more.
    """

    verdict: Verdict
    reason: str
    over: bool = False
    finding: dict[str, Any] = field(default_factory=dict)


def decide(spec: AbTest, arms: Arms, alpha: float, elapsed: float) -> Decision:
    """Return PASS (the candidate is better), FAIL (worse, or the split is broken), else INCONCLUSIVE."""
    raise NotImplementedError
