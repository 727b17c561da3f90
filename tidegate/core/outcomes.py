"""Outcomes that arrive later, joined with who was assigned to what: each unit counts once. Pure.

A request is journaled as it is answered (an `Assignment`), and its outcome arrives later by its id (an
`Outcome`). A unit (a user; the request itself where there is none) belongs to the release that it first saw,
whatever it sees later: what it did is due to having been sent there (intention to treat). Its first outcome
counts and no other. With a window, a unit without an outcome counts as 0 once the window is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tidegate.core.counts import Tally

GRACE = 5.0  # seconds after a window's end in which an outcome may still be under way to the store


@dataclass(frozen=True)
class Assignment:
    """One journaled request: its id, the release that answered, whose it was, and when (epoch seconds).

    `unit` is empty where the request named none.
    """

    id: str
    release: str
    unit: str
    at: float


@dataclass(frozen=True)
class Outcome:
    """What came of a request: 1 or 0 under a name; `at` is when it was received, seconds since the epoch."""

    id: str
    name: str
    value: int
    at: float = 0.0


@dataclass(frozen=True)
class Tallies:
    """What is known of one release's units.

    `units`: (units assigned, those that also saw another release). `outcomes`: name → (units whose outcome
    is known, those where it was 1).
    """

    units: Tally = (0, 0)
    outcomes: Mapping[str, Tally] = field(default_factory=dict)


def due(first: float, window: float | None, now: float) -> bool:
    """Tell whether a unit first seen at `first` counts as 0 now if nothing came of it."""
    return window is not None and now > first + window + GRACE


def join(
    assignments: Iterable[Assignment],
    outcomes: Iterable[Outcome],
    windows: Mapping[str, float | None],
    now: float,
    by_request: bool = False,
) -> dict[str, Tallies]:
    """Return release → its tallies; both lists in the order in which they came to be known.

    `windows` names the outcomes that are asked for, each with the seconds after which a missing one counts
    as 0 (None: never). An outcome that came later than that is late and changes nothing, as does one of an
    unknown request, or a second one of a unit. A request id seen twice is one request. Requests without a
    unit take no part, unless `by_request` makes each request a unit of its own.
    """
    unit_of: dict[str, str] = {}
    first: dict[str, Assignment] = {}
    crossed: set[str] = set()
    for seen in assignments:
        unit = seen.id if by_request else seen.unit
        if seen.id in unit_of or not unit:
            continue
        unit_of[seen.id] = unit
        if first.setdefault(unit, seen).release != seen.release:
            crossed.add(unit)
    known: dict[tuple[str, str], int] = {}
    for came in outcomes:
        unit = unit_of.get(came.id, "")
        if unit and came.name in windows and not due(first[unit].at, windows[came.name], came.at):
            known.setdefault((unit, came.name), came.value)
    return _tallied(first, crossed, known, windows, now)


def _tallied(
    first: Mapping[str, Assignment],
    crossed: set[str],
    known: Mapping[tuple[str, str], int],
    windows: Mapping[str, float | None],
    now: float,
) -> dict[str, Tallies]:
    found: dict[str, Tallies] = {}
    for unit, seen in first.items():
        old = found.get(seen.release, Tallies(outcomes=dict.fromkeys(windows, (0, 0))))
        units = (old.units[0] + 1, old.units[1] + (unit in crossed))
        rows = dict(old.outcomes)
        for name, window in windows.items():
            value = known.get((unit, name), 0 if due(seen.at, window, now) else None)
            if value is not None:
                trials, ones = rows[name]
                rows[name] = (trials + 1, ones + value)
        found[seen.release] = Tallies(units, rows)
    return found
