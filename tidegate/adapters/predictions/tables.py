"""From a segment's records to columns as Parquet keeps them, a table a day; and from rows back to records.

`features` and `prediction` are structs, so that SQL says `features.hour`; a number that was not known is
null. `inputs` is the request as JSON, in the shape of a request of one row whatever protocol it came by.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tidegate.core.predictions import Prediction
from tidegate.core.segments import ROWS, Segment, rows_of

DAY = 86400
TEXTS = ("release", "model_version", "plane", "arm", "protocol", "source")
BASE = pa.schema(
    [
        ("request_id", pa.string()),
        ("time", pa.timestamp("us")),  # UTC; `at` is a word of SQL
        *((name, pa.string()) for name in TEXTS),
        ("latency_ms", pa.float64()),
        ("inputs", pa.string()),
    ]
)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Row:
    """One prediction, its features still bytes."""

    request_id: str
    at: float
    inputs: bytes
    features: bytes | None
    prediction: Mapping[str, Any]
    latency_ms: float
    arm: str
    protocol: str
    source: str


def rows(segment: Segment) -> Iterator[Row]:
    """Return a segment's predictions, those of a request of many rows one by one."""
    for record in segment.records:
        kind, request, at, raw, features, answer, ms, arm, protocol, source = record[:10]
        if kind == ROWS:
            yield from _many(record)
        else:
            yield Row(request, at, raw, features, answer, ms, arm, protocol, source)


def _many(record: Sequence[Any]) -> Iterator[Row]:
    _, request, at, raw, features, answer, ms, arm, protocol, source, count, given = record
    said = {name: _values(*pair) for name, pair in answer.items()}
    inputs = rows_of(_inputs(protocol, raw, given), count)
    width = len(features) // count if features and count else 0
    for at_row in range(count):
        yield Row(
            f"{request}/{at_row}",
            at,
            _encode(inputs[at_row]),
            features[at_row * width : (at_row + 1) * width] if features else None,
            {name: values[at_row] for name, values in said.items()},
            ms,
            arm,
            protocol,
            source,
        )


def _inputs(protocol: str, raw: bytes, given: Any) -> dict[str, list[Any]]:
    """Return the columns of a request of many rows; none where its body can't be read."""
    try:
        if given is not None:
            return {name: _values(*pair) for name, pair in given.items()}
        if protocol == "arrow":
            return dict(pa.ipc.open_stream(raw).read_all().to_pydict())
        found = msgspec.json.decode(raw)
        columns: dict[str, list[Any]] = found.get("columns", found)
        return columns if all(isinstance(values, list) for values in columns.values()) else {}
    except (pa.ArrowException, msgspec.DecodeError, AttributeError, UnicodeDecodeError):
        return {}


def _values(kind: str, data: Any) -> list[Any]:
    """Return what a column was written from; what is no number, or no time, is null."""
    if not kind:
        return [None if value in ("NaT", "nan") else value for value in data]
    array = np.frombuffer(data, np.dtype(kind))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [value if math.isfinite(value) else None for value in array.tolist()]
    return list(array.tolist())


# ---------------------------------------------------------------- tables
def tables(segment: Segment, keep: Callable[[Row], bool] = lambda row: True) -> Mapping[str, pa.Table]:
    """Return day (UTC) → its predictions, sorted by time."""
    found: dict[int, list[Row]] = {}
    for row in rows(segment):
        if keep(row):
            found.setdefault(int(row.at // DAY), []).append(row)
    return {
        datetime.fromtimestamp(day * DAY, UTC).date().isoformat(): _table(segment, mine)
        for day, mine in sorted(found.items())
    }


def _table(segment: Segment, found: list[Row]) -> pa.Table:
    head = segment.head
    found.sort(key=lambda row: row.at)
    columns: dict[str, Any] = {
        "request_id": [row.request_id for row in found],
        "time": np.array([round(row.at * 1e6) for row in found], "datetime64[us]"),
        "release": [head.release] * len(found),
        "model_version": [head.model_version] * len(found),
        "plane": [head.plane] * len(found),
        **{name: [getattr(row, name) for row in found] for name in ("arm", "protocol", "source")},
        "latency_ms": [row.latency_ms for row in found],
        "inputs": [row.inputs.decode("utf-8", "replace") for row in found],
    }
    table = pa.table(columns, schema=BASE)
    for name, struct in (
        ("features", _features(head.features, [row.features for row in found])),
        ("prediction", _struct([row.prediction for row in found])),
    ):
        if struct is not None:
            table = table.append_column(name, struct)
    return table


def _features(names: Sequence[str], found: Sequence[bytes | None]) -> pa.Array | None:
    """Return a struct of float32; null where none were kept, or not as many as the model has names."""
    if not names:
        return None
    size = 4 * len(names)
    good = [row is not None and len(row) == size for row in found]
    empty = bytes(size)
    data = b"".join(row if fits and row else empty for row, fits in zip(found, good, strict=True))
    array = np.frombuffer(data, "<f4").reshape(len(found), len(names))
    parts = [pa.array(np.ascontiguousarray(column), mask=np.isnan(column)) for column in array.T]
    fields = [pa.field(name, pa.float32()) for name in names]
    return pa.StructArray.from_arrays(parts, fields=fields, mask=pa.array([not fits for fits in good]))


def _struct(found: Sequence[Mapping[str, Any]]) -> pa.Array | None:
    """Return answers as a struct of whatever fields they have; what has no one type is text."""
    names = list(dict.fromkeys(name for answer in found for name in answer))
    if not names:
        return None
    return pa.StructArray.from_arrays([_one_type([a.get(n) for a in found]) for n in names], names)


def _one_type(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        text = [value if isinstance(value, str) or value is None else str(value) for value in values]
        return pa.array(text, pa.string())
    return array.cast(pa.float64()) if pa.types.is_null(array.type) else array


# ---------------------------------------------------------------- back
def predictions(model: str, table: pa.Table) -> Iterable[Prediction]:
    """Return a table's rows as records."""
    for row in table.to_pylist():
        inputs: Any = {}
        with contextlib.suppress(msgspec.DecodeError):
            inputs = msgspec.json.decode(row["inputs"])
        yield Prediction(
            request_id=row["request_id"],
            at=row["time"].replace(tzinfo=UTC).timestamp(),
            model=model,
            **{name: row[name] for name in TEXTS},
            latency_ms=row["latency_ms"],
            features=row.get("features") or {},
            prediction=row.get("prediction") or {},
            inputs=inputs if isinstance(inputs, dict) else {},
        )
