"""How outcomes stand that were said: told before otherwise, come too late, of a request that a journal knows.

All functions work inside a transaction of their caller, after the outcomes were stored.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate.core.outcomes import Outcome, due
from tidegate.outcomes import Seen, Standing

Key = tuple[str, str]  # request id, outcome's name


@dataclass(frozen=True)
class _Experiment:
    number: int
    plane: str
    model: str
    since: float
    looked: float
    base: int
    by_request: bool
    windows: Mapping[str, float | None]


@dataclass
class _Known:
    """What the tables hold of the outcomes that were said."""

    stored: dict[Key, tuple[float, float]] = field(default_factory=dict)  # value, received
    assigned: dict[str, list[tuple[str, str, str, int, float]]] = field(default_factory=dict)


def standing(
    connection: sqlite3.Connection,
    outcomes: Sequence[Outcome],
    seen: Mapping[str, Seen],
    retention: float | None,
) -> Standing:
    """Return how stored outcomes stand; `seen` are requests that a log of predictions knows.

    `retention` is how many seconds that log keeps a prediction; None where it keeps all.
    """
    known, experiments = _known(connection, outcomes), _experiments(connection)
    conflicting, late = [], []
    for said in outcomes:
        value, received = known.stored.get((said.id, said.name), (said.value, 0.0))
        if value != said.value:
            conflicting.append(said.id)
        places = known.assigned.get(said.id, [])
        moments = [place[4] for place in places] + [seen[i].at for i in (said.id,) if i in seen]
        too_old = retention is not None and any(received > at + retention for at in moments)
        first = _first_seen(connection, said, experiments, places, seen.get(said.id))
        if too_old or any(due(at, window, received) for at, window in first):
            late.append(said.id)
    return Standing(tuple(conflicting), tuple(late), frozenset(known.assigned))


def asked_for(connection: sqlite3.Connection) -> set[str]:
    """Return the names of outcomes that an experiment counts."""
    return {name for each in _experiments(connection) for name in each.windows}


def _known(connection: sqlite3.Connection, outcomes: Sequence[Outcome]) -> _Known:
    wanted = (json.dumps(sorted({said.id for said in outcomes})),)
    known = _Known()
    for request, name, value, at in connection.execute(
        "SELECT o.id, o.name, o.value, o.at FROM json_each(?) AS j JOIN outcomes AS o ON o.id = j.value",
        wanted,
    ):
        known.stored[request, name] = (value, at)
    for request, *place in connection.execute(
        "SELECT a.id, a.plane, a.model, a.unit, a.seq, a.at "
        "FROM json_each(?) AS j JOIN assignments AS a ON a.id = j.value",
        wanted,
    ):
        known.assigned.setdefault(request, []).append(tuple(place))
    return known


def _experiments(connection: sqlite3.Connection) -> list[_Experiment]:
    rows = connection.execute(
        "SELECT number, plane, model, since, looked, base, spec FROM experiments ORDER BY number"
    )
    found = []
    for number, plane, model, since, looked, base, text in rows.fetchall():
        spec: dict[str, Any] = json.loads(text)
        asked = (bool(spec["by_request"]), spec["windows"])
        found.append(_Experiment(number, plane, model, since, looked, base, *asked))
    return found


def _first_seen(
    connection: sqlite3.Connection,
    said: Outcome,
    experiments: Sequence[_Experiment],
    places: Sequence[tuple[str, str, str, int, float]],
    seen: Seen | None,
) -> list[tuple[float, float]]:
    """Return (when its unit was first seen, window) in each experiment that the request took part in."""
    found = []
    for one in experiments:
        window = one.windows.get(said.name)
        if window is None:
            continue
        for plane, model, unit, seq, at in places:
            if (plane, model) == (one.plane, one.model) and seq > one.base:
                row = connection.execute(
                    "SELECT at FROM answers WHERE experiment = ? AND name = ? AND unit = ?",
                    (one.number, said.name, said.id if one.by_request else unit),
                ).fetchone()
                found.append((float(row[0]) if row else at, window))
        if not places and seen and seen.model == one.model and one.since <= seen.at <= one.looked:
            found.append((seen.at, window))
    return found
