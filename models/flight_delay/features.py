"""The one place where a feature is computed; training, evaluation and the service import it.

Numpy only, since it travels with the service. There are two forms of input: a *row*, the JSON object
that a request carries, and *columns*, the same rows flattened (`plane.year` → `plane_year`) as the
parquet files hold them. Both give bit-identical features; a test holds them to it.

Rules, so that nothing is handled by accident:

- a carrier, origin or destination that training did not see has the code -1;
- a missing plane or weather, a field of theirs that is null or absent, NaN and ±infinity are all the
  same thing, NaN, which the model was trained with; -0.0 is 0.0;
- date, time, carrier, origin, dest and distance must be there: a row without one raises `KeyError`
  or `ValueError`. The service's schema refuses such rows first, and names the field;
- how late carrier, route and plane were lately is no caller's to know: `recent` computes it of arrivals,
  for training as of each departure, and for the online store as of now. A row may carry it (`recent`).

The day of the year is left out on purpose: the model is trained on January to April, so every value
it meets in service would lie outside of what it saw (holdout log loss 0.503 with it, 0.502 without).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import repeat
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

CATEGORIES = ("carrier", "origin", "dest")
PLAIN = ("date", "sched_dep_time", "carrier", "flight", "tailnum", "origin", "dest", "distance")
PLANE = ("year", "seats")
WEATHER = (
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
)  # fmt: skip
#: How late the carrier, the route and the plane were lately: over how many seconds before the moment.
WINDOWS = {"carrier_late": 86400, "route_late": 86400, "plane_late": 7 * 86400}
RECENT = tuple(WINDOWS)
PLANE_COLUMNS = tuple(f"plane_{name}" for name in PLANE)
WEATHER_COLUMNS = tuple(f"weather_{name}" for name in WEATHER)
RECENT_COLUMNS = tuple(f"recent_{name}" for name in RECENT)

#: The flattened row, column by column.
COLUMNS = (*PLAIN, *PLANE_COLUMNS, *WEATHER_COLUMNS, *RECENT_COLUMNS)

#: Under which key of the online store each of `RECENT` lies, by the request's own fields, and for how long.
TTL = 12 * 3600  # seconds: half a window
KEYS = {
    "carrier_late": "carrier:{carrier}:late",
    "route_late": "route:{origin}-{dest}:late",
    "plane_late": "plane:{tailnum}:late",
}

#: The column that is predicted, 1 or 0; no row of a request has it.
LABEL = "late"

#: What the model sees, in this order.
FEATURES = (
    "weekday", "hour", "minute", *CATEGORIES, "distance", "plane_age", "plane_seats", *WEATHER_COLUMNS,
    *RECENT_COLUMNS,
)  # fmt: skip

SCHEMA = 1
UNKNOWN = -1
_FEWEST = 3  # arrivals in a window; of fewer a share says nothing
_MONDAY_OF_EPOCH = 3  # 1970-01-01 was a Thursday, and Monday counts as 0


@dataclass(frozen=True)
class Vocabulary:
    """What training saw: each category's values and their codes."""

    carrier: Mapping[str, int]
    origin: Mapping[str, int]
    dest: Mapping[str, int]

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]]) -> Vocabulary:
        """Number each category's values in the order given."""
        return cls(**{name: {value: code for code, value in enumerate(values[name])} for name in CATEGORIES})


def document(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what features.json holds."""
    values = {name: list(getattr(vocabulary, name)) for name in CATEGORIES}
    return {"schema": SCHEMA, "features": list(FEATURES), "vocabulary": values}


def load(path: Path) -> Vocabulary:
    """Read features.json; raises ValueError when it was written for other features than these."""
    content = json.loads(path.read_text())
    if content.get("schema") != SCHEMA or content.get("features") != list(FEATURES):
        raise ValueError(f"{path} lists other features than this code computes; train the model again")
    return Vocabulary.of(content["vocabulary"])


def _number(value: Any) -> float:
    """Null and non-finite are missing; a boolean or a text is not a number."""
    if value is None:
        return nan
    if isinstance(value, (bool, str)):
        raise ValueError(f"{value!r} is not a number")
    number = float(value) + 0.0  # a client may write -0.0 for 0: the same number, and so the same bits
    return number if isfinite(number) else nan


def _numbers(group: Mapping[str, Any] | None, names: Sequence[str]) -> list[float]:
    """Return `_number` of each name, without a call for those that are plain floats, as nearly all are."""
    if not group:
        return [nan] * len(names)
    get = group.get
    return [
        value + 0.0 if type(value := get(name)) is float and isfinite(value) else _number(value)
        for name in names
    ]


def compute_row(row: Mapping[str, Any], vocabulary: Vocabulary) -> list[float]:
    """Return one row's features as a list of `len(FEATURES)` floats, in a few microseconds."""
    day = date.fromisoformat(row["date"])
    clock = row["sched_dep_time"]
    year, seats = _numbers(row.get("plane"), PLANE)
    return [
        day.weekday(),
        int(clock[:2]),
        int(clock[3:5]),
        vocabulary.carrier.get(row["carrier"], UNKNOWN),
        vocabulary.origin.get(row["origin"], UNKNOWN),
        vocabulary.dest.get(row["dest"], UNKNOWN),
        _number(row["distance"]),
        day.year - year,
        seats,
        *_numbers(row.get("weather"), WEATHER),
        *_numbers(row.get("recent"), RECENT),
    ]


def compute(rows: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> np.ndarray:
    """Return the features of JSON rows: float32 `[len(rows), len(FEATURES)]`."""
    values = [compute_row(row, vocabulary) for row in rows]
    return np.array(values, dtype=np.float32).reshape(len(values), len(FEATURES))


def compute_columns(columns: Mapping[str, Any], vocabulary: Vocabulary) -> np.ndarray:
    """Return the features of flattened rows: float32 `[n, len(FEATURES)]`.

    `columns` maps each of `COLUMNS` to an array of n values: a data frame will do.
    """
    days = np.asarray(columns["date"]).astype("datetime64[D]")
    years = days.astype("datetime64[Y]").astype(np.int64) + 1970
    # "HH:MM" as fixed-width text is five code points: 48 is "0".
    clock = np.asarray(columns["sched_dep_time"]).astype("U5").view(np.uint32).reshape(-1, 5).astype(int) - 48
    made = {
        "weekday": (days.astype(np.int64) + _MONDAY_OF_EPOCH) % 7,
        "hour": clock[:, 0] * 10 + clock[:, 1],
        "minute": clock[:, 3] * 10 + clock[:, 4],
        "plane_age": years - _finite(columns["plane_year"]),
    }
    for name in CATEGORIES:
        made[name] = _codes(np.asarray(columns[name]), getattr(vocabulary, name))
    result = np.empty((len(days), len(FEATURES)), dtype=np.float32)
    for index, name in enumerate(FEATURES):
        result[:, index] = made[name] if name in made else _finite(columns[name])
    return result


def recent(arrivals: Mapping[str, Any], columns: Mapping[str, Any], moments: Any) -> dict[str, np.ndarray]:
    """Return `RECENT_COLUMNS` of flights: shares of late arrivals from 0 to 1, NaN for under 3 arrivals.

    `arrivals` maps `carrier`, `origin`, `dest` and `tailnum` to whose each arrival is, `observed` to when it
    was seen (seconds, UTC), `late` to 1 or 0. `columns` has the flights' own four, `moments` as of when each
    is asked. What is observed at the moment itself or later has no part in it.
    """
    ids, wanted = entities(arrivals), entities(columns)
    return {
        f"recent_{name}": _share_late(arrivals, ids[name], wanted[name], np.asarray(moments), window)
        for name, window in WINDOWS.items()
    }


def entities(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return whose lateness each of `RECENT` is, as its key in the online store; "" is not known."""
    texts = {name: np.asarray(columns[name]) for name in ("carrier", "origin", "dest", "tailnum")}
    known = {name: np.array([isinstance(one, str) for one in values]) for name, values in texts.items()}
    made = {}
    for name, template in KEYS.items():
        used = [field for field in texts if f"{{{field}}}" in template]
        whole = np.logical_and.reduce([known[field] for field in used])
        rows = zip(*(texts[field] for field in used), strict=True)
        keys = [template.format(**dict(zip(used, row, strict=True))) for row in rows]
        made[name] = np.where(whole, np.array(keys, dtype=str), "")
    return made


def _share_late(arrivals: Any, ids: np.ndarray, wanted: np.ndarray, moments: Any, window: int) -> np.ndarray:
    known, codes = np.unique(ids, return_inverse=True)
    places = np.searchsorted(known, wanted)
    # One sorted line for all ids, a block of time for each: two searches find both ends of every window.
    block = np.int64(1) << 40
    line = codes * block + np.asarray(arrivals["observed"], dtype=np.int64)
    order = np.argsort(line, kind="stable")
    line = line[order]
    late = np.concatenate([[0], np.cumsum(np.asarray(arrivals["late"], dtype=np.int64)[order])])
    end = places * block + moments.astype(np.int64)
    first, last = (np.searchsorted(line, at, side="left") for at in (end - window, end))
    enough = np.isin(wanted, known) & (wanted != "") & (last - first >= _FEWEST)
    return np.where(enough, (late[last] - late[first]) / np.where(enough, last - first, 1), nan)


def _finite(values: Any) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64) + 0.0
    return np.where(np.isfinite(numbers), numbers, nan)


def _codes(values: np.ndarray, known: Mapping[str, int]) -> np.ndarray:
    return np.fromiter(map(known.get, values.tolist(), repeat(UNKNOWN)), np.int64, len(values))


def to_rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn flattened rows into the JSON rows that a client would send.

    A plane or weather none of whose fields is known becomes null, as does each unknown field. `recent` is
    always there, if only with nulls: without it a service would look up what is so now.
    """
    arrays = {name: np.asarray(columns[name]).tolist() for name in COLUMNS}
    rows = []
    for index in range(len(arrays["date"])):
        flat = {name: _plain(values[index]) for name, values in arrays.items()}
        row = {name: flat[name] for name in PLAIN}
        groups = {"plane": _nested(flat, "plane", PLANE), "weather": _nested(flat, "weather", WEATHER)}
        recent = {name: flat[f"recent_{name}"] for name in RECENT}
        rows.append(row | groups | {"recent": recent})
    return rows


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Flatten JSON rows into columns; the reverse of `to_rows`."""
    result = {name: np.array([row.get(name) for row in rows], dtype=object) for name in PLAIN}
    for group, names in (("plane", PLANE), ("weather", WEATHER), ("recent", RECENT)):
        inner = [row.get(group) or {} for row in rows]
        for name in names:
            result[f"{group}_{name}"] = np.array([_number(one.get(name)) for one in inner], dtype=float)
    return result


def _plain(value: Any) -> Any:
    """NaN becomes null; a whole float (a year, seats) becomes an integer, as a client would write it."""
    if isinstance(value, float):
        if not isfinite(value):
            return None
        return int(value) if value.is_integer() else value
    return value


def _nested(flat: Mapping[str, Any], group: str, names: Sequence[str]) -> dict[str, Any] | None:
    inner = {name: flat[f"{group}_{name}"] for name in names}
    return inner if any(value is not None for value in inner.values()) else None
