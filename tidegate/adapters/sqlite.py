"""The agent's memory and its inbox, in one SQLite file.

A save is on the disk when it returns (machine.database). A file that breaks is reported, never replaced,
since the rejected releases in it must not be forgotten silently.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.errors import LeaseLost, Refused
from tidegate.machine.database import BUSY_SECONDS, Database, read_only
from tidegate.ports import Event, Request

KEPT_EVENTS = 10_000  # a plane; older ones are dropped, Git has the history
_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
  plane TEXT PRIMARY KEY, holder TEXT NOT NULL, fence INTEGER NOT NULL, expires REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS documents (
  plane TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (plane, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, plane TEXT NOT NULL, model TEXT NOT NULL,
  release TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_of_plane ON events (plane, id);
CREATE TABLE IF NOT EXISTS requests (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, plane TEXT NOT NULL, kind TEXT NOT NULL,
  payload TEXT NOT NULL, result TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS requests_open ON requests (plane, id) WHERE result IS NULL;
"""
_DAMAGED = "Move it away and restart the agent: it learns from Git and the plane what runs."


def _database(path: Path) -> Database:
    return Database(path, _SCHEMA, _DAMAGED, BUSY_SECONDS)


class SqliteState:
    """`ports.StateStore` in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._file = _database(path)

    def acquire(self, plane: str, holder: str, now: float, ttl: float) -> int:
        """Take or renew the lease; the same holder keeps its fencing number, a new one gets the next."""
        with self._file.writing() as connection:
            row = connection.execute(
                "SELECT holder, fence, expires FROM leases WHERE plane = ?", (plane,)
            ).fetchone()
            if row and row[0] != holder and row[2] > now:
                raise LeaseLost(
                    f"plane {plane} is held by {row[0]} for {row[2] - now:.0f} s more",
                    "Stop that agent, or wait until its lease ends.",
                )
            fence = int(row[1]) if row and row[0] == holder else (int(row[1]) if row else 0) + 1
            connection.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (plane, holder, fence, now + ttl)
            )
            return fence

    def load(self, plane: str) -> Mapping[str, Any]:
        """Return the plane's documents."""
        with self._file.reading() as connection:
            return _documents(connection, plane)

    def save(self, plane: str, documents: Mapping[str, Any], events: Sequence[Event], fence: int) -> None:
        """Store documents and events in one transaction, in which the fence is checked too."""
        rows = [(plane, key, _text(value)) for key, value in documents.items() if value is not None]
        gone = [(plane, key) for key, value in documents.items() if value is None]
        with self._file.writing() as connection:
            row = connection.execute("SELECT holder, fence FROM leases WHERE plane = ?", (plane,)).fetchone()
            if row is None or row[1] != fence:
                taker = row[0] if row else "nobody yet"
                raise LeaseLost(
                    f"plane {plane} was taken over by {taker}", "Stop this agent; the other one goes on."
                )
            connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", rows)
            connection.executemany("DELETE FROM documents WHERE plane = ? AND key = ?", gone)
            if events:
                _append(connection, plane, events)

    def events(self, plane: str, limit: int = 100) -> Sequence[Event]:
        """Return the newest events, oldest first."""
        with self._file.reading() as connection:
            return _events(connection, plane, limit)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _append(connection: sqlite3.Connection, plane: str, events: Sequence[Event]) -> None:
    connection.executemany(
        "INSERT INTO events (at, plane, model, release, kind, text, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(e.at, e.plane, e.model, e.release, e.kind, e.text, _text(dict(e.data))) for e in events],
    )
    connection.execute(
        "DELETE FROM events WHERE plane = ? AND id <= "
        "(SELECT id FROM events WHERE plane = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (plane, plane, KEPT_EVENTS),
    )


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _documents(connection: sqlite3.Connection, plane: str) -> dict[str, Any]:
    rows = connection.execute("SELECT key, value FROM documents WHERE plane = ?", (plane,))
    return {key: json.loads(value) for key, value in rows}


def _events(connection: sqlite3.Connection, plane: str, limit: int) -> list[Event]:
    rows = connection.execute(
        "SELECT at, plane, model, release, kind, text, data FROM events WHERE plane = ? "
        "ORDER BY id DESC LIMIT ?",
        (plane, max(0, limit)),
    )
    found = [
        Event(at, plane, model, release, kind, text, json.loads(data))
        for at, plane, model, release, kind, text, data in rows
    ]
    return found[::-1]


class SqliteInbox:
    """`ports.Inbox` in the file at `path`, which may be the state's."""

    def __init__(self, path: Path) -> None:
        self._file = _database(path)

    def send(self, plane: str, kind: str, payload: Mapping[str, Any]) -> int:
        """Queue a request."""
        with self._file.writing() as connection:
            made = connection.execute(
                "INSERT INTO requests (at, plane, kind, payload) VALUES (?, ?, ?, ?)",
                (time.time(), plane, kind, _text(dict(payload))),
            )
            return int(made.lastrowid or 0)

    def pending(self, plane: str) -> Sequence[Request]:
        """Return unanswered requests, oldest first."""
        with self._file.reading() as connection:
            rows = connection.execute(
                "SELECT id, plane, kind, payload FROM requests "
                "WHERE plane = ? AND result IS NULL ORDER BY id",
                (plane,),
            )
            return [Request(row[0], row[1], row[2], json.loads(row[3])) for row in rows]

    def done(self, plane: str, request: int, result: Mapping[str, Any]) -> None:
        """Answer a request once."""
        with self._file.writing() as connection:
            found = connection.execute(
                "UPDATE requests SET result = coalesce(result, ?) WHERE id = ? AND plane = ?",
                (_text(dict(result)), request, plane),
            )
            if found.rowcount == 0:
                raise Refused(f"plane {plane} has no request {request}", "List them with pending().")

    def result(self, request: int) -> Mapping[str, Any] | None:
        """Return a request's answer."""
        with self._file.reading() as connection:
            row = connection.execute("SELECT result FROM requests WHERE id = ?", (request,)).fetchone()
            found: Mapping[str, Any] | None = json.loads(row[0]) if row and row[0] else None
            return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_planes(path: Path) -> dict[str, dict[str, Any]]:
    """Return plane → documents without a lease, while an agent writes; empty when there is no file."""
    if not path.exists():
        return {}
    with read_only(path, _DAMAGED) as connection:
        if not _whole(connection):
            return {}
        rows = connection.execute("SELECT plane, key, value FROM documents ORDER BY plane, key")
        planes: dict[str, dict[str, Any]] = {}
        for plane, key, value in rows:
            planes.setdefault(plane, {})[key] = json.loads(value)
        return planes


def read_events(path: Path, plane: str, limit: int = 100) -> list[Event]:
    """Return a plane's newest events, oldest first, without a lease; empty when there is no file."""
    if not path.exists():
        return []
    with read_only(path, _DAMAGED) as connection:
        return _events(connection, plane, limit) if _whole(connection) else []


def _whole(connection: sqlite3.Connection) -> bool:
    """Tell whether all is there that `_SCHEMA` makes; its last part is missing in a file just being made."""
    made = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'requests_open'")
    return made.fetchone() is not None
