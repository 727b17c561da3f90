"""Outcomes and assignments in one SQLite file, fed by what users send and by a router's journal.

An experiment (a rollout's stage) begins with what is journaled after it was first asked for. What tells
users apart is stored as a salted hash. Whatever was accepted stays until no experiment can need it any more.
How it is joined: machine.outcome_tables.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tidegate.core.outcomes import UNITS, Outcome, Spec, counts, named
from tidegate.core.plan import Plan
from tidegate.errors import NoData
from tidegate.machine.database import read_only
from tidegate.machine.outcome_standing import asked_for, standing
from tidegate.machine.outcome_tables import DAMAGED, Join, begin, experiment, measured, open_tables, prune
from tidegate.outcomes import Entry, Journal, Place, Seen, Standing, countable, unit_of
from tidegate.ports import Asked, Measured

FILE = "outcomes.db"  # in the home: an outcome does not say which plane answered
_ERASE = (
    "DELETE FROM assignments WHERE id IN (SELECT value FROM json_each(?))",
    "DELETE FROM outcomes WHERE id IN (SELECT value FROM json_each(?))",
)
_READ = "SELECT id, name, value, at FROM outcomes ORDER BY seq"
_READ_SOME = (
    "SELECT id, name, value, at FROM outcomes WHERE id IN (SELECT value FROM json_each(?)) ORDER BY seq"
)


class SqliteOutcomes:
    """`outcomes.OutcomeStore` in the file at `path`; `now` stamps what is received."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._database, self._now = open_tables(path), now

    def record(self, outcomes: Sequence[Outcome]) -> int:
        """Keep outcomes in one transaction."""
        with self._database.writing() as connection:
            if not all(counts(said.value) for said in outcomes):
                countable(outcomes, asked_for(connection))
            before, at = connection.total_changes, self._now()
            connection.executemany(
                "INSERT OR IGNORE INTO outcomes (id, name, value, at) VALUES (?, ?, ?, ?)",
                [(o.id, o.name, o.value, at) for o in outcomes],
            )
            return connection.total_changes - before

    def standing(
        self, outcomes: Sequence[Outcome], seen: Mapping[str, Seen], retention: float | None = None
    ) -> Standing:
        """Compare what was said with what is stored, and with the journals and windows of experiments."""
        with self._database.reading() as connection:
            return standing(connection, outcomes, seen, retention)

    def erase(self, requests: Sequence[str]) -> int:
        """Forget requests: their outcomes and who was assigned; counts stay. Returns how many outcomes."""
        wanted = (json.dumps(list(requests)),)
        with self._database.writing() as connection:
            return [connection.execute(statement, wanted).rowcount for statement in _ERASE][-1]

    def prune(self, labels: float) -> None:
        """Drop outcomes older than `labels` seconds, but those that an experiment can still need."""
        gone = True
        while gone:  # in small transactions, between which others have their turn
            with self._database.writing() as connection:
                before = connection.total_changes
                prune(connection, self._now(), labels)
                gone = connection.total_changes > before

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def read_outcomes(path: Path, requests: Sequence[str] | None = None) -> list[Outcome]:
    """Return the outcomes of some requests, or of all, as they came; empty when there is no file."""
    if not path.exists():
        return []
    with read_only(path, DAMAGED) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'outcomes'").fetchone():
            return []  # it is just being made
        some = None if requests is None else (json.dumps(list(requests)),)
        rows = connection.execute(_READ_SOME, some) if some else connection.execute(_READ)
        return [Outcome(request, name, float(value), at) for request, name, value, at in rows]


# ---------------------------------------------------------------- measures
class OutcomeMeasures:
    """`ports.Measures` of the units and outcomes in the file at `path`, fed by a plane's journal.

    It is also asked where nothing but the journal is wanted (a mirror): so that it never fills the disk.
    """

    def __init__(
        self,
        path: Path,
        journal: Journal,
        plane: str,
        now: Callable[[], float] = time.time,
        labels: float = 0.0,
    ) -> None:
        """`labels` is for how many seconds outcomes are kept at least: as long as what was predicted."""
        self._database, self._journal, self._plane, self._now = open_tables(path), journal, plane, now
        self._labels = labels

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the tallies of a stage's plan."""
        tallies = tuple(named(plan))
        return (UNITS, *tallies) if tallies or plan.mirror else ()

    def read(self, asked: Asked) -> Mapping[str, Measured]:
        """Take in what is new, and return release → units and outcomes since the experiment began."""
        spec, now, nothing = Spec.of(asked.plan), self._now(), None
        with self._database.writing() as connection:
            try:
                place = self._take(connection)
            except NoData as error:
                place, nothing = None, error
            found = self._joined(connection, asked, spec, now) if spec.windows else {}
            prune(connection, now, self._labels)
        if place:
            self._journal.tidy(place)  # only what is stored is ever dropped from the journal
        if nothing and not found:
            raise nothing
        return {release: row for release, row in found.items() if release in asked.releases}

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _joined(
        self, connection: sqlite3.Connection, asked: Asked, spec: Spec, now: float
    ) -> dict[str, Measured]:
        number = experiment(connection, self._plane, asked, spec, now)
        if number is None:
            while self._take(connection, quietly=True):  # what was journaled before is not its own
                pass
            number = begin(connection, self._plane, asked, spec, now)
        Join(connection, number, spec).advance(now)
        return measured(connection, number, asked.plan)

    def _take(self, connection: sqlite3.Connection, quietly: bool = False) -> Place | None:
        """Store the journal's next part; returns where it ends, None `quietly` when there is no more."""
        name = self._journal.name
        row = connection.execute("SELECT inode, offset FROM journals WHERE name = ?", (name,)).fetchone()
        before = Place(*row) if row else Place()
        try:
            entries, place = self._journal.read(before)
        except NoData:
            if quietly:
                return None
            raise
        if place != before:
            connection.execute("INSERT OR REPLACE INTO journals VALUES (?, ?, ?)", (name, *_pair(place)))
            _store(connection, self._plane, entries)
        return None if quietly and place == before else place


def _pair(place: Place) -> tuple[int, int]:
    return place.inode, place.offset


def _store(connection: sqlite3.Connection, plane: str, entries: Iterable[Entry]) -> None:
    """Keep the entries of models that have an experiment; of a user only a salted hash."""
    rows = connection.execute("SELECT model, spec FROM experiments WHERE plane = ? ORDER BY number", (plane,))
    cookies = {model: str(json.loads(spec)["cookie"]) for model, spec in rows}  # of the newest
    if not cookies:
        return
    salt = _salt(connection)
    connection.executemany(
        "INSERT OR IGNORE INTO assignments (plane, model, id, release, unit, at) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (plane, e.model, e.id, e.release, _hashed(salt, unit_of(e, cookies[e.model])), e.at)
            for e in sorted(entries, key=lambda entry: entry.at)
            if e.model in cookies
        ],
    )


def _salt(connection: sqlite3.Connection) -> bytes:
    row = connection.execute("SELECT salt FROM salts").fetchone()
    if row is None:
        row = (secrets.token_hex(16),)
        connection.execute("INSERT INTO salts VALUES (?)", row)
    return str(row[0]).encode()


def _hashed(salt: bytes, value: str) -> str:
    return hashlib.sha256(salt + value.encode()).hexdigest()[:20] if value else ""
