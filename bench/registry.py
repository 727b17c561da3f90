"""Entries by name, and the one form in which each tells its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class CannotRun(Exception):
    """Something that an entry needs is not here; the message says what and how to get it."""


@dataclass(frozen=True)
class Measured:
    """One entry's numbers, beside its peer's where it has one."""

    value: float
    peer: str = ""
    peer_value: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Goal:
    """`of` is `value`, `ratio` or `difference` to the peer; `at_most` and `at_least` are inclusive."""

    of: str = "value"
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        what = "" if self.of == "value" else f"{self.of} "
        if self.at_most is not None:
            return f"{what}<= {self.at_most:g}"
        return f"{what}>= {self.at_least:g}" if self.at_least is not None else ""

    def met(self, value: float, peer: float | None) -> bool:
        """Tell whether a number keeps the goal; one that needs a peer is not kept without."""
        number: float | None = value
        if self.of == "ratio":
            number = value / peer if peer else None
        elif self.of == "difference":
            number = value - peer if peer is not None else None
        if number is None:
            return False
        return (self.at_most is None or number <= self.at_most) and (
            self.at_least is None or number >= self.at_least
        )


@dataclass(frozen=True)
class Group:
    """Entries that one function measures together, because they come from one run."""

    names: Mapping[str, tuple[str, Goal]]  # name → unit, goal
    measure: Callable[[], Mapping[str, Measured]] = field(repr=False)


GROUPS: list[Group] = []


def entries(**names: tuple[str, Goal]) -> Callable[[Callable[[], Mapping[str, Measured]]], Any]:
    """Register a function that measures the named entries (underscores become hyphens)."""

    def register(measure: Callable[[], Mapping[str, Measured]]) -> Callable[[], Mapping[str, Measured]]:
        GROUPS.append(Group({key.replace("_", "-"): value for key, value in names.items()}, measure))
        return measure

    return register


def run(group: Group) -> list[dict[str, Any]]:
    """Measure a group; an entry that cannot run, breaks, or is not told is `ok: false` and says why."""
    problem, measured = "was not measured", {}
    try:
        measured = dict(group.measure())
    except CannotRun as error:
        problem = f"cannot run: {error}"
    except Exception as error:  # one broken entry must not hide the numbers of the others
        problem = f"broke: {type(error).__name__}: {error}"
    return [_row(name, unit, goal, measured.get(name), problem) for name, (unit, goal) in group.names.items()]


def _row(name: str, unit: str, goal: Goal, found: Measured | None, problem: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "value": None, "unit": unit, "peer": "", "peer_value": None}
    if found is None:
        return {**row, "ratio": None, "goal": str(goal), "ok": False, "note": problem}
    ratio = found.value / found.peer_value if found.peer_value else None
    return {
        **row,
        "value": found.value,
        "peer": found.peer,
        "peer_value": found.peer_value,
        "ratio": ratio,
        "goal": str(goal),
        "ok": goal.met(found.value, found.peer_value),
        "note": found.note,
    }
