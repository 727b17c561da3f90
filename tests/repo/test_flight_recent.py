"""models/flight_delay: how late carrier, route and plane were lately, with nothing of it from later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.flight_delay import features, prepare

DAY = 86400
arrivals_of = st.lists(
    st.tuples(
        st.sampled_from(["UA", "AA"]),
        st.sampled_from(["EWR", "JFK"]),
        st.sampled_from(["IAH", "MIA"]),
        st.sampled_from(["N1", "N2", None]),
        st.integers(20 * DAY, 30 * DAY) | st.sampled_from([21 * DAY, 22 * DAY, 28 * DAY]),
        st.booleans(),
    ),
    max_size=60,
)
moments_of = st.lists(st.integers(20 * DAY, 31 * DAY) | st.sampled_from([22 * DAY, 28 * DAY]), min_size=1)
FIELDS = ("carrier", "origin", "dest", "tailnum", "observed", "late")


def columns(rows: list[tuple[Any, ...]]) -> dict[str, np.ndarray]:
    """Rows of arrivals, column by column."""
    made = {name: [row[place] for row in rows] for place, name in enumerate(FIELDS)}
    kinds = {"observed": np.int64, "late": np.int64}
    return {name: np.array(values, dtype=kinds.get(name, object)) for name, values in made.items()}


def flights(count: int) -> dict[str, np.ndarray]:
    """So many flights of one carrier, route and plane."""
    same = {"carrier": "UA", "origin": "EWR", "dest": "IAH", "tailnum": "N1"}
    return {name: np.array([value] * count, dtype=object) for name, value in same.items()}


def by_hand(rows: list[tuple[Any, ...]], name: str, moment: int) -> float:
    """The share as a person would count it: one arrival after the other."""
    mine = {
        "carrier_late": lambda row: row[0] == "UA",
        "route_late": lambda row: row[1:3] == ("EWR", "IAH"),
        "plane_late": lambda row: row[3] == "N1",
    }[name]
    since = moment - {"carrier_late": DAY, "route_late": DAY, "plane_late": 7 * DAY}[name]
    seen = [row[5] for row in rows if mine(row) and since <= row[4] < moment]
    return sum(seen) / len(seen) if len(seen) >= 3 else float("nan")


@settings(deadline=None)
@given(arrivals_of, moments_of)
def test_shares_are_those_that_a_person_counts(rows: list[tuple[Any, ...]], moments: list[int]) -> None:
    """Each share equals the count over all arrivals, one by one, to the bit."""
    found = features.recent(columns(rows), flights(len(moments)), moments)
    for name in features.RECENT:
        expected = [by_hand(rows, name, moment) for moment in moments]
        np.testing.assert_array_equal(found[f"recent_{name}"], expected)


@settings(deadline=None)
@given(arrivals_of, st.integers(20 * DAY, 31 * DAY), st.data())
def test_nothing_known_later_has_a_part_in_it(
    rows: list[tuple[Any, ...]], moment: int, data: st.DataObject
) -> None:
    """Whatever arrives at the moment or later, however late, and however much of it: no feature changes."""
    before = features.recent(columns(rows), flights(1), [moment])
    known = [row for row in rows if row[4] < moment]
    later = [
        (*row[:4], max(row[4], moment), not row[5]) for row in (*rows, *data.draw(arrivals_of, label="later"))
    ]
    after = features.recent(columns(known + later), flights(1), [moment])
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


def test_an_unknown_plane_has_no_lateness() -> None:
    """Planes without a registration are not one plane, neither among arrivals nor among flights."""
    rows = [("UA", "EWR", "IAH", None, 21 * DAY, True)] * 5
    asked = flights(1) | {"tailnum": np.array([None], dtype=object)}
    found = features.recent(columns(rows), asked, [21 * DAY + 60])
    assert np.isnan(found["recent_plane_late"]).all()
    assert found["recent_carrier_late"] == 1.0


# ---------------------------------------------------------------- the source's clocks
AIRPORTS = pd.DataFrame(
    {"faa": ["IAH", "LAX", "HNL"], "tzone": ["America/Chicago", "America/Los_Angeles", "Pacific/Honolulu"]}
)


def flown(**changes: Any) -> pd.DataFrame:
    """One flight as the source has it: scheduled at 9:05 in New York, an hour and a half in the air."""
    row = {
        "time_hour": "2013-01-05T14:00:00Z", "sched_dep_time": 905, "dep_delay": 0.0, "air_time": 240.0,
        "arr_time": 1225.0, "arr_delay": 0.0, "carrier": "UA", "origin": "EWR", "dest": "IAH",
        "tailnum": "N1",
    }  # fmt: skip
    return pd.DataFrame([row | changes])


@pytest.mark.parametrize(
    ("changes", "observed"),
    [
        ({}, "2013-01-05T18:25Z"),
        # 23:30 at home, over midnight there and here
        ({"time_hour": "2013-01-06T04:00:00Z", "sched_dep_time": 2330, "arr_time": 250.0},
         "2013-01-06T08:50Z"),
        # half a day late: the next day's clock
        ({"dep_delay": 720.0, "arr_time": 25.0}, "2013-01-06T06:25Z"),
        ({"dest": "HNL", "air_time": 640.0, "arr_time": 1505.0}, "2013-01-06T01:05Z"),
        ({"arr_time": 2400.0, "dep_delay": 690.0}, "2013-01-06T06:00Z"),
        # the list of airports does not have it: Atlantic time, an hour before New York
        ({"dest": "SJU", "air_time": 200.0, "arr_time": 1345.0}, "2013-01-05T17:45Z"),
        # the hour that comes twice counts as the later one
        ({"time_hour": "2013-11-03T01:00:00Z", "sched_dep_time": 2105, "dest": "LAX", "air_time": 330.0,
          "dep_delay": 60.0, "arr_time": 130.0}, "2013-11-03T09:30Z"),
        # a clock from before the landing is tomorrow's: later than true, but not sooner
        ({"arr_time": 1155.0}, "2013-01-06T17:55Z"),
    ],
)  # fmt: skip
def test_an_arrival_is_seen_when_it_is_there(changes: dict[str, Any], observed: str) -> None:
    """The clock at the destination, without a date, becomes the moment of the arrival, never a sooner one."""
    (found,) = prepare.history(flown(**changes), AIRPORTS, 15)["observed"]
    assert pd.Timestamp(found, unit="s", tz="UTC") == pd.Timestamp(observed)


def test_what_never_arrived_was_never_seen() -> None:
    """A cancelled flight is no arrival, and 16 minutes are late, as in the label."""
    raw = pd.concat([flown(arr_delay=value) for value in (15.0, 16.0, float("nan"))], ignore_index=True)
    assert prepare.history(raw, AIRPORTS, 15)["late"].tolist() == [0, 1]


def test_prepared_rows_hold_what_was_known_at_their_departure() -> None:
    """Of four late arrivals, three were seen before the fourth flight left: it knows of just those."""
    legs = [
        flown(flight=day, arr_delay=30.0, year=2013, month=1, day=day, time_hour=f"2013-01-0{day}T14:00:00Z")
        for day in (2, 3, 4, 5)
    ]
    raw = pd.concat(legs, ignore_index=True).assign(
        distance=1400, **dict.fromkeys((*features.PLANE_COLUMNS, *features.WEATHER_COLUMNS), 1.0)
    )
    rows = prepare.label(raw, AIRPORTS, 15)
    assert rows["recent_plane_late"].isna().tolist() == [True, True, True, False]
    assert rows["recent_plane_late"].iloc[3] == 1.0
    assert rows["recent_carrier_late"].isna().all()  # one a day
