"""Verdicts, findings, and the one function that orders them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a gate or a check concluded; the four never stand for each other."""

    PASS = "PASS"  # noqa: S105 - not a password
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    FAIL = "FAIL"

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR: what a gate script exits with."""
        return _EXIT_CODES[self]


_SEVERITY = {Verdict.PASS: 0, Verdict.INCONCLUSIVE: 1, Verdict.ERROR: 2, Verdict.FAIL: 3}
_EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 2, Verdict.ERROR: 3}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the most severe verdict; of nothing, ERROR, since nobody looked."""
    return max(verdicts, key=_SEVERITY.__getitem__, default=Verdict.ERROR)


@dataclass(frozen=True)
class Finding:
    """One comparison that was made, with both numbers in its reason.

    `observed` and `limit` are in the same unit; `None` means that there is no such number (then
    `reason` says why, and the verdict is not PASS unless the finding is a plain fact).
    """

    name: str
    verdict: Verdict
    observed: float | str | None
    limit: float | str | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        return {
            "name": self.name,
            "verdict": str(self.verdict),
            "observed": self.observed,
            "limit": self.limit,
            "reason": self.reason,
        }
