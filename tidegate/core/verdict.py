"""Verdicts, findings, and the one function that orders them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a gate or a check concluded; the four that decide never stand for each other.

    `NOT_APPLICABLE` decides nothing: there was nothing to compare, and the reason says why. It is below
    `PASS`, so it changes no other verdict, and it is not `PASS`, so whoever asks for that refuses it.
    """

    NOT_APPLICABLE = "NOT_APPLICABLE"
    PASS = "PASS"  # noqa: S105 - not a password
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    FAIL = "FAIL"

    @property
    def exit_code(self) -> int:
        """0 PASS (and not applicable), 1 FAIL, 2 INCONCLUSIVE, 3 ERROR: what a gate script exits with."""
        return _EXIT_CODES[self]

    @property
    def holds_back(self) -> bool:
        """Whether a release may not go on with this: FAIL, ERROR and INCONCLUSIVE."""
        return self not in (Verdict.PASS, Verdict.NOT_APPLICABLE)

    @property
    def words(self) -> str:
        """The verdict as a person reads it."""
        return self.replace("_", " ").lower() if self is Verdict.NOT_APPLICABLE else str(self)


_ORDER = (Verdict.NOT_APPLICABLE, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.FAIL)
_SEVERITY = {verdict: place for place, verdict in enumerate(_ORDER)}
_EXIT_CODES = {
    Verdict.NOT_APPLICABLE: 0,
    Verdict.PASS: 0,
    Verdict.FAIL: 1,
    Verdict.INCONCLUSIVE: 2,
    Verdict.ERROR: 3,
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the most severe verdict; of nothing, ERROR, since nobody looked."""
    return max(verdicts, key=_SEVERITY.__getitem__, default=Verdict.ERROR)


@dataclass(frozen=True)
class Finding:
    """One comparison that was made, with both numbers in its reason.

    `observed` and `limit` are in the same unit; `None` means that there is no such number (then
    `reason` says why, and the verdict is not PASS).
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
