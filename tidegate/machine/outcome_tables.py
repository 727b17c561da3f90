"""The tables in which assignments and outcomes are joined as they come, so that a look costs what is new.

The rules are `core.outcomes.join`'s. All functions work inside a transaction of their caller.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tidegate.core.counts import Tally
from tidegate.core.outcomes import DAY, GRACE, UNITS, Spec, counts, named, outcome_key
from tidegate.core.plan import Plan
from tidegate.machine.database import Database
from tidegate.ports import Asked, Measured

STEP = 5_000  # rows joined, or dropped, in one look at most
KEPT = 35 * DAY  # an experiment that nobody asked for is forgotten after so long
_SCHEMA = """
CREATE TABLE IF NOT EXISTS salts (salt TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS journals (
  name TEXT PRIMARY KEY, inode INTEGER NOT NULL, offset INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS assignments (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, plane TEXT NOT NULL, model TEXT NOT NULL, id TEXT NOT NULL,
  release TEXT NOT NULL, unit TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS assignment_of_request ON assignments (id, model, plane);
CREATE INDEX IF NOT EXISTS assignments_of_model ON assignments (plane, model, seq);
CREATE TABLE IF NOT EXISTS outcomes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
  at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS outcome_of_request ON outcomes (id, name);
CREATE TABLE IF NOT EXISTS experiments (
  number INTEGER PRIMARY KEY AUTOINCREMENT, plane TEXT NOT NULL, model TEXT NOT NULL,
  release TEXT NOT NULL, spec TEXT NOT NULL, keep REAL NOT NULL, since REAL NOT NULL, looked REAL NOT NULL,
  base INTEGER NOT NULL, assigned INTEGER NOT NULL, heard INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS units (
  experiment INTEGER NOT NULL, unit TEXT NOT NULL, release TEXT NOT NULL, at REAL NOT NULL,
  crossed INTEGER NOT NULL, PRIMARY KEY (experiment, unit)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
  experiment INTEGER NOT NULL, name TEXT NOT NULL, unit TEXT NOT NULL, release TEXT NOT NULL,
  at REAL NOT NULL, value INTEGER, counted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (experiment, name, unit)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_open ON answers (experiment, name, at) WHERE counted = 0;
CREATE TABLE IF NOT EXISTS tallies (
  experiment INTEGER NOT NULL, release TEXT NOT NULL, name TEXT NOT NULL, trials INTEGER NOT NULL,
  events INTEGER NOT NULL, PRIMARY KEY (experiment, release, name)
) STRICT, WITHOUT ROWID;
"""
# A value was 0 or 1 before. What counts on from a number (`heard`) must find it again, so that it is kept.
_NUMBERS = """
ALTER TABLE outcomes RENAME TO outcomes_before;
CREATE TABLE outcomes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
  at REAL NOT NULL
) STRICT;
INSERT INTO outcomes SELECT seq, id, name, value, at FROM outcomes_before;
DELETE FROM sqlite_sequence WHERE name = 'outcomes';
INSERT INTO sqlite_sequence SELECT 'outcomes', seq FROM sqlite_sequence WHERE name = 'outcomes_before';
DROP TABLE outcomes_before;
CREATE UNIQUE INDEX outcome_of_request ON outcomes (id, name);
"""
DAMAGED = "Move it away: experiments under way begin their count anew, outcomes before that are lost."


def open_tables(path: Path) -> Database:
    """Return the file at `path`, made with its tables at the first use."""
    return Database(path, _SCHEMA, DAMAGED, upgrade=_upgrade)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Let a file of before hold any number, in one transaction; nothing where it can already."""
    kind = "SELECT type FROM pragma_table_info('outcomes') WHERE name = 'value'"
    if connection.execute(kind).fetchone() != ("INTEGER",):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute(kind).fetchone() == ("INTEGER",):  # another process may have been first
            for statement in _NUMBERS.split(";"):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


# ---------------------------------------------------------------- experiments
def experiment(
    connection: sqlite3.Connection, plane: str, asked: Asked, spec: Spec, now: float
) -> int | None:
    """Return the number of the experiment that is under way, if it is this one.

    When a rollout began is moved on while it is paused, but never past its last look: a later beginning is
    another rollout of the same release.
    """
    row = connection.execute(
        "SELECT number, since, looked FROM experiments WHERE plane = ? AND model = ? AND release = ? "
        "AND spec = ? ORDER BY number DESC LIMIT 1",
        (plane, asked.model, asked.release, spec.text),
    ).fetchone()
    if row is None or not (asked.since == row[1] or asked.since <= row[2] + 1):
        return None
    if asked.since != row[1] or not 0 <= now - row[2] < 5:
        values = (asked.since, now, row[0])
        connection.execute("UPDATE experiments SET since = ?, looked = ? WHERE number = ?", values)
    return int(row[0])


def begin(connection: sqlite3.Connection, plane: str, asked: Asked, spec: Spec, now: float) -> int:
    (assigned,) = connection.execute("SELECT coalesce(max(seq), 0) FROM assignments").fetchone()
    (heard,) = connection.execute("SELECT coalesce(max(seq), 0) FROM outcomes").fetchone()
    who = (plane, asked.model, asked.release, spec.text, spec.keep)
    made = connection.execute(
        "INSERT INTO experiments (plane, model, release, spec, keep, since, looked, base, assigned, heard) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*who, asked.since, now, assigned, assigned, heard),
    )
    return int(made.lastrowid or 0)


class Join:
    """One experiment's join, brought up to date inside a transaction."""

    def __init__(self, connection: sqlite3.Connection, number: int, spec: Spec) -> None:
        self._ask, self._number, self._spec = connection.execute, number, spec
        self._tallies: dict[tuple[str, str], list[int]] = {}

    def advance(self, now: float) -> None:
        """Take in new assignments, then new outcomes, then windows that are over."""
        plane, model, base, assigned, heard = self._ask(
            "SELECT plane, model, base, assigned, heard FROM experiments WHERE number = ?", (self._number,)
        ).fetchone()
        rows = self._ask(
            "SELECT seq, id, release, unit, at FROM assignments WHERE plane = ? AND model = ? AND seq > ? "
            "ORDER BY seq LIMIT ?",
            (plane, model, assigned, STEP),
        ).fetchall()
        for seq, request, release, unit, at in rows:
            assigned = seq
            self._assign(request, release, request if self._spec.by_request else unit, at, heard)
        news = self._ask(
            "SELECT seq, id, name, value, at FROM outcomes WHERE seq > ? ORDER BY seq LIMIT ?", (heard, STEP)
        ).fetchall()
        for seq, request, name, value, at in news:
            heard = seq
            row = self._ask(
                "SELECT unit FROM assignments WHERE id = ? AND model = ? AND plane = ? "
                "AND seq > ? AND seq <= ?",
                (request, model, plane, base, assigned),
            ).fetchone()
            if row:
                self._hear(request if self._spec.by_request else row[0], name, value, at)
        self._expire(now)
        self._write()
        if rows or news:
            values = (assigned, heard, self._number)
            self._ask("UPDATE experiments SET assigned = ?, heard = ? WHERE number = ?", values)

    def _assign(self, request: str, release: str, unit: str, at: float, heard: int) -> None:
        if not unit:
            return
        made = self._ask(
            "INSERT OR IGNORE INTO units VALUES (?, ?, ?, ?, 0)", (self._number, unit, release, at)
        )
        if made.rowcount:
            self._add(release, UNITS, (1, 0))
            for name in self._spec.windows:
                self._ask(
                    "INSERT INTO answers VALUES (?, ?, ?, ?, ?, NULL, 0)",
                    (self._number, name, unit, release, at),
                )
        else:
            crossed = self._ask(
                "UPDATE units SET crossed = 1 WHERE experiment = ? AND unit = ? AND release <> ? "
                "AND crossed = 0 RETURNING release",
                (self._number, unit, release),
            ).fetchone()
            if crossed:
                self._add(crossed[0], UNITS, (0, 1))
        early = self._ask(
            "SELECT name, value, at FROM outcomes WHERE id = ? AND seq <= ? ORDER BY seq", (request, heard)
        ).fetchall()
        for name, value, received in early:
            self._hear(unit, name, value, received)

    def _hear(self, unit: str, name: str, value: float, received: float) -> None:
        if name not in self._spec.windows or not counts(value):
            return
        window = self._spec.windows[name]
        oldest = -1e18 if window is None else received - window - GRACE
        row = self._ask(
            "UPDATE answers SET value = ?, counted = ? WHERE experiment = ? AND name = ? AND unit = ? "
            "AND value IS NULL AND counted = 0 AND at >= ? RETURNING release",
            (int(value), int(window is None), self._number, name, unit, oldest),
        ).fetchone()
        if row and window is None:
            self._add(row[0], outcome_key(name), (1, int(value)))

    def _expire(self, now: float) -> None:
        """Count the units whose window is over."""
        for name, window in self._spec.windows.items():
            if window is None:
                continue
            over = (self._number, name, now - window - GRACE)
            counted = self._ask(
                "SELECT release, count(*), sum(coalesce(value, 0)) FROM answers "
                "WHERE experiment = ? AND name = ? AND counted = 0 AND at < ? GROUP BY release",
                over,
            ).fetchall()
            if counted:
                self._ask(
                    "UPDATE answers SET counted = 1 "
                    "WHERE experiment = ? AND name = ? AND counted = 0 AND at < ?",
                    over,
                )
            for release, units, ones in counted:
                self._add(release, outcome_key(name), (units, ones))

    def _add(self, release: str, name: str, more: Tally) -> None:
        row = self._tallies.setdefault((release, name), [0, 0])
        row[0] += more[0]
        row[1] += more[1]

    def _write(self) -> None:
        for (release, name), (trials, events) in self._tallies.items():
            self._ask(
                "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "trials = trials + excluded.trials, events = events + excluded.events",
                (self._number, release, name, trials, events),
            )


def measured(connection: sqlite3.Connection, number: int, plan: Plan) -> dict[str, Measured]:
    """Return release → the plan's tallies; the experiment is the instance that counts from 0."""
    stored: dict[str, dict[str, Tally]] = {}
    rows = connection.execute(
        "SELECT release, name, trials, events FROM tallies WHERE experiment = ?", (number,)
    )
    for release, name, trials, events in rows:
        stored.setdefault(release, {})[name] = (trials, events)
    found = {}
    for release, counted in stored.items():
        tallies = {f"{UNITS}@{number}": counted.get(UNITS, (0, 0))}
        for name, (outcome, zero) in named(plan).items():
            trials, ones = counted.get(outcome_key(outcome), (0, 0))
            tallies[f"{name}@{number}"] = (trials, trials - ones if zero else ones)
        found[release] = Measured(tallies)
    return found


# ---------------------------------------------------------------- forgetting
_OLDEST = {
    "assignments": "SELECT at FROM assignments ORDER BY seq LIMIT 1",
    "outcomes": "SELECT at FROM outcomes ORDER BY seq LIMIT 1",
}
_DROP = {
    "assignments": "DELETE FROM assignments WHERE at < ? AND seq IN "
    "(SELECT seq FROM assignments ORDER BY seq LIMIT ?) RETURNING plane, model, id",
    "outcomes": "DELETE FROM outcomes WHERE at < ? AND seq IN "
    "(SELECT seq FROM outcomes ORDER BY seq LIMIT ?) RETURNING '', '', ''",
}
_FORGET = (
    "DELETE FROM units WHERE experiment = ?",
    "DELETE FROM answers WHERE experiment = ?",
    "DELETE FROM tallies WHERE experiment = ?",
    "DELETE FROM experiments WHERE number = ?",
)


def prune(connection: sqlite3.Connection, now: float, labels: float = 0.0) -> None:
    """Drop, the oldest first and a part at a time, what no experiment can need any more.

    Outcomes are labels of predictions, too: they stay for `labels` seconds at least.
    """
    ask = connection.execute
    known = ask("SELECT number, plane, model, spec, keep, looked FROM experiments ORDER BY looked").fetchall()
    needed = max((row[4] for row in known), default=DAY)
    for table, oldest in _OLDEST.items():
        bound = now - (max(needed, labels) if table == "outcomes" else needed)
        first = ask(oldest).fetchone()
        if not first or first[0] >= bound:
            continue
        gone = ask(_DROP[table], (bound, STEP)).fetchall()
        for number, plane, model, spec, *_ in known:
            if json.loads(spec)["by_request"]:  # such a unit never comes again; its counts stay
                requests = [request for *owner, request in gone if owner == [plane, model]]
                _drop_units(connection, number, requests, list(json.loads(spec)["windows"]))
    if known and known[0][5] < now - KEPT:
        for statement in _FORGET:
            ask(statement, known[0][:1])


def _drop_units(connection: sqlite3.Connection, number: int, units: list[str], names: list[str]) -> None:
    connection.executemany(
        "DELETE FROM units WHERE experiment = ? AND unit = ?", [(number, unit) for unit in units]
    )
    connection.executemany(
        "DELETE FROM answers WHERE experiment = ? AND name = ? AND unit = ?",
        [(number, name, unit) for unit in units for name in names],
    )
