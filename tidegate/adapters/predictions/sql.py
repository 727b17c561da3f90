"""SQL over the log by DuckDB: read-only, bounded in time and memory, and blind to every other file."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tidegate.adapters.predictions.tables import BASE
from tidegate.errors import ConfigError, Refused, TidegateError, suggest
from tidegate.machine.database import read_only

VIEWS = ("predictions", "outcomes", "labelled")
_OUTCOMES = pa.schema(
    [
        ("request_id", pa.string()),
        ("name", pa.string()),
        ("value", pa.float64()),
        ("time", pa.timestamp("us")),
    ]
)
_EXPLAIN = re.compile(r"\A\s*explain\b\s*(?:analyze\b|\([^)]*\))?", re.IGNORECASE)
_LABELLED = """
CREATE VIEW labelled AS SELECT predictions.*, outcomes.name AS outcome, outcomes.value AS value,
outcomes.time AS outcome_time FROM predictions JOIN outcomes USING (request_id)
"""


@dataclass(frozen=True)
class Table:
    """A result: the columns' names and types, the rows, and whether there are more than were asked for."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool = False


@dataclass(frozen=True)
class Sources:
    """What the views are made of: Parquet files, tables of what is not converted yet, a file of outcomes."""

    parquet: Sequence[Path]
    fresh: Sequence[pa.Table]
    outcomes: Path | None = None


@dataclass(frozen=True)
class Limits:
    """Of one question: rows of its answer, seconds, memory."""

    rows: int = 10_000
    seconds: float = 30.0
    megabytes: int = 1024


def ask(text: str, sources: Sources, limits: Limits) -> Table:
    """Answer one SELECT; raises ConfigError for SQL that means nothing, Refused for what may not be done."""
    with _connected(sources.parquet, limits.megabytes) as connection:
        _views(connection, sources, bool(re.search(r"outcomes|labelled", text, re.IGNORECASE)))
        _shut(connection)
        timer = threading.Timer(limits.seconds, connection.interrupt)
        timer.daemon = True
        try:
            _refuse_others(connection, text)
            timer.start()
            connection.execute(text)
            described = connection.description or []
            found = connection.fetchmany(limits.rows + 1)
        except duckdb.Error as error:
            raise _explained(error, connection, limits) from error
        finally:
            timer.cancel()
    return Table(
        tuple(str(column[0]) for column in described),
        tuple(str(column[1]) for column in described),
        tuple(found[: limits.rows]),
        len(found) > limits.rows,
    )


def holding(parquet: Sequence[Path], request_id: str) -> list[Path]:
    """Return the files that have a request, or rows of it."""
    if not parquet:
        return []
    of = _files(parquet, "filename=true")
    # Two questions: an equality is answered by the files' Bloom filters, a range of ids by statistics.
    text = (
        f"SELECT DISTINCT filename FROM {of} WHERE request_id = $1 UNION "  # noqa: S608 - our own files
        f"SELECT DISTINCT filename FROM {of} WHERE request_id >= $1 || '/' AND request_id < $1 || '0'"
    )
    with _connected(parquet, 512) as connection:
        rows = connection.execute(text, [request_id]).fetchall()
    return sorted(Path(row[0]) for row in rows)


def seen(parquet: Sequence[Path], ids: Collection[str]) -> list[tuple[str, str, float]]:
    """Return (id, model, when) of those that are requests, or rows of requests; the newest is the last."""
    if not parquet:
        return []
    of = _files(parquet)
    text = (
        f"SELECT id, model, max(epoch(time)) AS moment FROM asked JOIN {of} ON id = request_id "  # noqa: S608
        "GROUP BY ALL UNION ALL "
        f"SELECT id, model, max(epoch(time)) AS moment FROM asked JOIN {of} "
        "ON contains(request_id, '/') AND id = regexp_replace(request_id, '/[0-9]+$', '') "
        "GROUP BY ALL ORDER BY moment"
    )
    with _connected(parquet, 1024) as connection:
        connection.register("asked", pa.table({"id": pa.array(sorted(ids), pa.string())}))
        return [(row[0], row[1], float(row[2])) for row in connection.execute(text).fetchall()]


# ---------------------------------------------------------------- the connection
@contextmanager
def _connected(parquet: Sequence[Path], megabytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"SET memory_limit = '{int(megabytes)}MB'")
        connection.execute("SET threads = 2")  # what serves has the rest
        connection.execute("SET temp_directory = ''")
        connection.execute("SET python_enable_replacements = false")  # no variable of ours is a table
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        if parquet:
            connection.execute(f"SET allowed_paths = [{', '.join(map(_quoted, parquet))}]")
        yield connection
    finally:
        connection.close()


def _shut(connection: duckdb.DuckDBPyConnection) -> None:
    """Leave nothing open but the files that were allowed, for good."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _views(connection: duckdb.DuckDBPyConnection, sources: Sources, outcomes: bool) -> None:
    empty = BASE.append(pa.field("model", pa.string())).append(pa.field("day", pa.date32())).empty_table()
    parts = []
    for number, table in enumerate([empty, *sources.fresh]):
        connection.register(f"_fresh_{number}", table)
        parts.append(f"FROM _fresh_{number}")
    if sources.parquet:
        parts.append(f"FROM {_files(sources.parquet)}")
    # By name: models, and releases of one, have other features and answers.
    connection.execute(f"CREATE VIEW _all AS {' UNION ALL BY NAME '.join(parts)}")
    connection.execute("CREATE VIEW predictions AS SELECT * REPLACE (inputs::JSON AS inputs) FROM _all")
    connection.register("outcomes", _outcomes(sources.outcomes if outcomes else None))
    connection.execute(_LABELLED)


def _outcomes(path: Path | None) -> pa.Table:
    rows: list[tuple[Any, ...]] = []
    if path is not None and path.is_file():
        with read_only(path) as connection:
            rows = connection.execute("SELECT id, name, value, at FROM outcomes").fetchall()
    ids, names, values, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    said = [list(ids), list(names), [float(v) for v in values], [round(at * 1e6) for at in times]]
    return pa.table([pa.array(s, f.type) for s, f in zip(said, _OUTCOMES, strict=True)], schema=_OUTCOMES)


def _files(paths: Sequence[Path], more: str = "") -> str:
    types = "hive_partitioning=true, hive_types={'model': VARCHAR, 'day': DATE}"
    listed = ", ".join(map(_quoted, paths))
    return f"read_parquet([{listed}], union_by_name=true, {types}{', ' + more if more else ''})"


def _quoted(path: Path) -> str:
    return "'" + str(path.absolute()).replace("'", "''") + "'"


# ---------------------------------------------------------------- what may be asked, and what went wrong
def _refuse_others(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Raise Refused unless it is one SELECT (or EXPLAIN of one)."""
    found = connection.extract_statements(text)
    if not found:
        raise ConfigError("there is no SQL", "Ask: SELECT count(*) FROM predictions")
    if len(found) > 1:
        raise Refused(f"{len(found)} statements at once", "Give one SELECT.")
    kind = found[0].type
    if kind == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE does what it explains: a COPY would write over a file that may be read.
        inner = _EXPLAIN.sub("", text, count=1)
        kinds = [one.type for one in connection.extract_statements(inner)] if inner != text else [kind]
        kind = kinds[0] if len(kinds) == 1 else kind
    if kind != duckdb.StatementType.SELECT:
        name = str(kind).rpartition(".")[2]
        raise Refused(f"{name} is not allowed: the log is only read", "Give a SELECT.")


def _explained(error: duckdb.Error, connection: duckdb.DuckDBPyConnection, limits: Limits) -> TidegateError:
    first = str(error).strip().splitlines()[0]
    if isinstance(error, duckdb.InterruptException):
        text = f"the answer took over {limits.seconds:g} s"
        return Refused(text, "Ask for fewer days (WHERE day = …), or allow more by --seconds.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return Refused(f"the answer needs over {limits.megabytes} MB", "Ask for fewer rows or columns.")
    if isinstance(error, duckdb.PermissionException):
        return Refused(first, f"Only these can be read: {', '.join(VIEWS)}.")
    table = re.search(r"Table with name (\S+) does not exist", first)
    if table:
        return ConfigError(f"there is no table `{table[1]}`", suggest(table[1], VIEWS))
    if isinstance(error, duckdb.BinderException):
        return ConfigError(first, f"The columns: {', '.join(_columns(connection))}.")
    return ConfigError(first, f"Write DuckDB's SQL over {', '.join(VIEWS)}.")


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Every column, of a struct each of its fields."""
    found = []
    for name, kind, *_ in connection.execute("DESCRIBE predictions").fetchall():
        inner = re.findall(r'(?:\(|, )("[^"]+"|\w+) ', kind) if kind.startswith("STRUCT") else []
        found += [f"{name}.{field.strip(chr(34))}" for field in inner] or [name]
    return found
