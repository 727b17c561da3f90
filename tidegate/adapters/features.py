"""The online store's writing side: a file on this machine, or a Redis. Services read it by themselves.

Keys are `entity_type:entity_id:feature_name`, values JSON. Each key belongs to whoever wrote it last; a run
that replaces removes what its owner had written before and not again: nothing outlives what it was made of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.errors import PlatformError, Unreachable
from tidegate.machine.database import Database
from tidegate.ports import Kept

if TYPE_CHECKING:
    import redis

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL, owner TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_owner ON entries (owner);
"""
_DAMAGED = "Move it away and materialize again: it holds nothing that can't be made anew."
_OWNER = "tidegate:owner:"  # + owner, in Redis: the set of its keys
_AT_ONCE = 5000  # keys of one command


class SqliteFeatures:
    """The store as one file, read by services on the same machine."""

    def __init__(self, path: Path) -> None:
        self._file = Database(path, _SCHEMA, _DAMAGED)

    def write(self, owner: str, values: Mapping[str, bytes], ttl: float, *, replace: bool = True) -> int:
        """Store values for `ttl` seconds, all or none; return how many of the owner's older keys went."""
        now = time.time()
        rows = [(key, value, now + ttl, owner) for key, value in values.items()]
        with self._file.writing() as connection:
            connection.execute("DELETE FROM entries WHERE expires <= ?", (now,))
            gone = 0
            if replace:
                held = {
                    key for (key,) in connection.execute("SELECT key FROM entries WHERE owner=?", (owner,))
                }
                old = sorted(held - values.keys())
                connection.executemany("DELETE FROM entries WHERE key=?", ((key,) for key in old))
                gone = len(old)
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
        return gone

    def read(self, keys: Sequence[str]) -> Mapping[str, Kept]:
        """Return what is known, by key."""
        found, now = {}, time.time()
        with self._file.reading() as connection:
            for key in keys:
                text = "SELECT value, expires FROM entries WHERE key=? AND expires > ?"
                row = connection.execute(text, (key, now)).fetchone()
                if row is not None:
                    found[key] = Kept(row[0], row[1] - now)
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RedisFeatures:
    """The store in a Redis, shared by machines."""

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        import redis

        with _translated(address):
            self._redis: redis.Redis = redis.Redis.from_url(
                address, socket_timeout=timeout, socket_connect_timeout=timeout
            )
        self._address = address

    def write(self, owner: str, values: Mapping[str, bytes], ttl: float, *, replace: bool = True) -> int:
        """Store values for `ttl` seconds, all or none; return how many of the owner's older keys went.

        Without `replace` they go in parts, each of which is stored whole: nobody else waits for all of them.
        """
        names = sorted(values)
        with _translated(self._address):
            if replace:
                return self._written(owner, values, names, ttl, replace=True)
            for start in range(0, len(names), _AT_ONCE):
                self._written(owner, values, names[start : start + _AT_ONCE], ttl, replace=False)
        return 0

    def _written(
        self, owner: str, values: Mapping[str, bytes], names: Sequence[str], ttl: float, *, replace: bool
    ) -> int:
        index, ms = _OWNER + owner, max(int(1000 * ttl), 1)

        def change(pipe: Any) -> int:
            held = {key.decode() for key in pipe.smembers(index)} if replace else set()
            old = sorted(held - values.keys())
            pipe.multi()
            gone = len(old)
            for start in range(0, gone, _AT_ONCE):
                pipe.delete(*old[start : start + _AT_ONCE])
            if replace:
                pipe.delete(index)
            for name in names:
                pipe.set(name, values[name], px=ms)
            for start in range(0, len(names), _AT_ONCE):
                pipe.sadd(index, *names[start : start + _AT_ONCE])
            pipe.pexpire(index, ms)
            return gone

        # Begun anew where another run of the same owner came between.
        gone: Any = self._redis.transaction(change, index, value_from_callable=True)  # type: ignore
        return int(gone)

    def read(self, keys: Sequence[str]) -> Mapping[str, Kept]:
        """Return what is known, by key."""
        with _translated(self._address):
            pipe = self._redis.pipeline(transaction=True)
            for key in keys:
                pipe.get(key)
                pipe.pttl(key)
            said = pipe.execute()
        pairs = zip(keys, said[::2], said[1::2], strict=True)
        return {key: Kept(value, max(ms, 0) / 1000) for key, value, ms in pairs if value is not None}

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()


@contextmanager
def _translated(address: str) -> Iterator[None]:
    import redis

    shown = address.rsplit("@", 1)[-1].removeprefix("redis://")  # without a password
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Unreachable(f"the feature store {shown} does not answer: {error}", "Is it up?") from error
    except (redis.RedisError, ValueError) as error:
        raise PlatformError(
            f"the feature store {shown} refuses: {error}", "Correct stores.features in envs/platform.yaml."
        ) from error
