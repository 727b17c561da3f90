"""Outcomes that arrive later, joined with who was assigned to what: each unit counts once. Pure.

A request is journaled as it is answered (an `Assignment`), and its outcome arrives later by its id (an
`Outcome`). A unit (a user; the request itself where there is none) belongs to the release that it first saw,
whatever it sees later: what it did is due to having been sent there (intention to treat). Its first outcome
counts and no other. With a window, each unit counts once its window is over, as 0 if nothing came: counted
at once, those with a 1 would come to be known before those with a 0, and a test be asked of a biased lot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tidegate.core.counts import Tally
from tidegate.core.plan import Plan

UNITS = "units"  # the tally of units that were assigned: (units, those that saw another release too)
HOUR, DAY = 3600.0, 86400.0
GRACE = 5.0  # seconds after a window's end in which an outcome may still be under way to the store


def outcome_key(name: str) -> str:
    """Return the tally's name of an outcome: (units whose outcome is known, those where it was 1)."""
    return f"outcome:{name}"


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
    """What came of a request, under a name: 1 or 0 where an experiment counts it, else any number.

    `at` is when it was received, seconds since the epoch.
    """

    id: str
    name: str
    value: float
    at: float = 0.0


def counts(value: float) -> bool:
    """Tell whether an experiment can count a value: it happened, or it did not."""
    return value in (0, 1)


@dataclass(frozen=True)
class Tallies:
    """What is known of one release's units.

    `units`: (units assigned, those that also saw another release). `outcomes`: name → (units whose outcome
    is known, those where it was 1).
    """

    units: Tally = (0, 0)
    outcomes: Mapping[str, Tally] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """What is counted for a plan: outcomes with their windows, and by what units.

    `keep` is how many seconds an assignment may still be needed.
    """

    windows: Mapping[str, float | None]
    by_request: bool
    cookie: str
    keep: float

    @classmethod
    def of(cls, plan: Plan) -> Spec:
        """Return what a stage's plan asks."""
        windows: dict[str, float | None] = {c.outcome: None for c in plan.checks if c.metric == "outcome"}
        horizon, key = 7 * DAY, plan.session_affinity
        if plan.ab_test:
            windows[plan.ab_test.outcome], horizon = plan.ab_test.window, plan.ab_test.horizon
            key = plan.ab_test.unit
        elif plan.bandit:
            windows[plan.bandit.reward], horizon = plan.bandit.window, plan.bandit.horizon
        longest = max((horizon if w is None else w for w in windows.values()), default=0.0)
        return cls(windows, key is None, key.cookie if key else "", longest + GRACE + HOUR)

    @property
    def text(self) -> str:
        """What tells it from others, as JSON."""
        return json.dumps(
            {"windows": dict(self.windows), "by_request": self.by_request, "cookie": self.cookie},
            sort_keys=True,
        )


def named(plan: Plan) -> dict[str, tuple[str, bool]]:
    """Return tally → (outcome, does 0 count as the event) of all that a plan counts."""
    found = {outcome_key(plan.ab_test.outcome): (plan.ab_test.outcome, False)} if plan.ab_test else {}
    if plan.bandit:
        found[outcome_key(plan.bandit.reward)] = (plan.bandit.reward, False)
    checks = [check for check in plan.checks if check.metric == "outcome"]
    return found | {check.name: (check.outcome, check.better == "higher") for check in checks}


def due(first: float, window: float | None, now: float) -> bool:
    """Tell whether the window of a unit first seen at `first` is over."""
    return window is not None and now > first + window + GRACE


def join(
    events: Iterable[Assignment | Outcome],
    windows: Mapping[str, float | None],
    now: float,
    by_request: bool = False,
) -> dict[str, Tallies]:
    """Return release → its tallies, by what came to be known, in the order in which it did.

    `windows` names the outcomes that are asked for, each with the seconds after which a unit counts, as 0
    if nothing came (None: it counts as its outcome comes). An outcome of a request that is not known yet
    waits for it. One that came later than the window is late and changes nothing, as does a second one of
    a unit. A request id seen twice is one request. Requests without a unit take no part, unless
    `by_request` makes each a unit of its own.
    """
    joined = _Joined(windows, by_request)
    for event in events:
        if isinstance(event, Assignment):
            joined.assign(event)
        else:
            joined.hear(event)
    return joined.tallies(now)


class _Joined:
    """Units, and what is known of them."""

    def __init__(self, windows: Mapping[str, float | None], by_request: bool) -> None:
        self._windows, self._by_request = windows, by_request
        self._unit_of: dict[str, str] = {}
        self._first: dict[str, Assignment] = {}
        self._crossed: set[str] = set()
        self._known: dict[tuple[str, str], int] = {}
        self._early: dict[str, list[Outcome]] = {}

    def assign(self, seen: Assignment) -> None:
        unit = seen.id if self._by_request else seen.unit
        if seen.id in self._unit_of:
            return
        self._unit_of[seen.id] = unit
        if not unit:
            return
        if self._first.setdefault(unit, seen).release != seen.release:
            self._crossed.add(unit)
        for came in self._early.pop(seen.id, []):
            self.hear(came)

    def hear(self, came: Outcome) -> None:
        unit = self._unit_of.get(came.id)
        if unit is None:
            self._early.setdefault(came.id, []).append(came)
        elif unit and came.name in self._windows and counts(came.value):
            late = due(self._first[unit].at, self._windows[came.name], came.at)
            if not late:
                self._known.setdefault((unit, came.name), int(came.value))

    def tallies(self, now: float) -> dict[str, Tallies]:
        found: dict[str, Tallies] = {}
        for unit, seen in self._first.items():
            old = found.get(seen.release, Tallies(outcomes=dict.fromkeys(self._windows, (0, 0))))
            rows = dict(old.outcomes)
            for name, window in self._windows.items():
                value = self._known.get((unit, name))
                if window is not None:
                    value = (value or 0) if due(seen.at, window, now) else None
                if value is not None:
                    trials, ones = rows[name]
                    rows[name] = (trials + 1, ones + value)
            units = (old.units[0] + 1, old.units[1] + (unit in self._crossed))
            found[seen.release] = Tallies(units, rows)
        return found
