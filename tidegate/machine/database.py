"""A SQLite file that several processes write: opened once, patient, and never half written.

Write-ahead log with `synchronous=FULL`: what was committed is on the disk, and a reader never waits for
the writer. A file that breaks is reported, never replaced.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from tidegate.errors import PlatformError, TidegateError, Unreachable

BUSY_SECONDS = 5.0
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_TOOBIG}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PLAIN = "Move it away and start again; what it held is lost."


def _busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


_PATIENTLY = Retrying(
    retry=retry_if_exception(_busy),
    wait=wait_random(0.005, 0.05),
    stop=stop_after_delay(BUSY_SECONDS),
    reraise=True,
)


def translate(error: Exception, path: Path, damaged: str = _PLAIN) -> TidegateError:
    """Return our error for one of SQLite's or of the file system's; `damaged` says what to do then."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes' lowest byte is the primary
    if code in _BUSY:
        return Unreachable(f"{path} is locked by another process", "It is tried again.")
    if code in _FULL:
        return PlatformError(f"{path} can't be written: {error}", "Make room on its disk; nothing is lost.")
    if code in _BROKEN:
        return PlatformError(f"{path} is damaged: {error}", damaged)
    return PlatformError(f"{path} can't be used: {error}", "See that its folder exists and is writable.")


class Database:
    """One connection to the file, opened at the first use; threads take turns with it."""

    def __init__(
        self,
        path: Path,
        schema: str,
        damaged: str = _PLAIN,
        busy: float = BUSY_SECONDS,
        upgrade: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """Name the file; `upgrade` brings one of an older version up to date, in transactions of its own."""
        self.path = path
        self._schema, self._damaged, self._patience, self._upgrade = schema, damaged, busy, upgrade
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> sqlite3.Connection:
        """Return the connection; the file is made, with its tables, when it isn't there."""
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made = sqlite3.connect(
                self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            try:
                # Two that make the file at once may each be told that it is locked without having waited:
                # SQLite's own patience does not cover the change to a write-ahead log.
                for attempt in _PATIENTLY.copy():
                    with attempt:
                        made.execute("PRAGMA journal_mode=WAL")
                        made.execute("PRAGMA synchronous=FULL")
                        made.executescript(self._schema)
                        if self._upgrade:
                            self._upgrade(made)
            except BaseException:
                made.close()
                raise
            self._connection = made
        return self._connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, and translate what goes wrong."""
        with self._lock:
            try:
                yield self.open()
            except (sqlite3.Error, OSError) as error:
                raise translate(error, self.path, self._damaged) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside one transaction: all of it is stored, or nothing is."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")  # the lock first, so that what is read here stays true
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled it back already
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def read_only(path: Path, damaged: str = _PLAIN) -> Iterator[sqlite3.Connection]:
    """Give a connection that can't write, while others do."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        try:
            yield connection
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path, damaged) from error
