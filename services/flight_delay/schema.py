"""What a request to flight-delay and its answer may say. Each rule is here: nothing is decided by accident.

- A field that is not declared is refused by name: a misspelt field would else silently count as missing.
- `plane`, `weather`, each of their fields, and `tailnum` may be null or left out: unknown is a value that
  the model was trained with. The other fields are required.
- A carrier or an airport that the model never saw is accepted if it is written like one; `features.py`
  maps it to "unknown".
- `recent`, how late carrier, route and plane were lately, is looked up online where it is left out or null;
  where it is given, nulls and all, it is taken as it is.
- Numbers are bounded far outside of anything observed: the bounds catch wrong units, not rare weather.
  NaN and Infinity are not JSON; null is how to say "not known".
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta


def _number(unit: str, low: float, high: float) -> Any:
    return Annotated[float, Meta(ge=low, le=high, description=f"{unit}, from {low:g} to {high:g}, or null")]


# \Z, not $: `$` lets a trailing newline through.
Airport = Annotated[
    str, Meta(pattern=r"^[A-Z]{3}\Z", description="an airport's code of three capital letters")
]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base: unknown fields are refused."""


class Plane(_Request, frozen=True):
    """The aircraft, as far as it is known."""

    # Whole, but 1999.0 will do: a column with gaps is one of floats wherever rows come from a table.
    year: (
        Annotated[float, Meta(ge=1900, le=2100, multiple_of=1, description="the year it was built, or null")]
        | None
    ) = None
    seats: (
        Annotated[float, Meta(ge=1, le=1000, multiple_of=1, description="a number of seats, or null")] | None
    ) = None


class Weather(_Request, frozen=True):
    """The hour's weather at the origin, as far as it is known."""

    temp: _number("°F", -150, 200) | None = None
    dewp: _number("°F", -150, 200) | None = None
    humid: _number("percent", 0, 110) | None = None
    wind_dir: _number("degrees", 0, 360) | None = None
    wind_speed: _number("mph", 0, 2000) | None = None  # the source itself holds a 1,048
    wind_gust: _number("mph", 0, 2000) | None = None
    precip: _number("inches", 0, 100) | None = None
    pressure: _number("millibars", 500, 1500) | None = None
    visib: _number("miles", 0, 1000) | None = None


def _share(text: str) -> Any:
    return Annotated[float, Meta(ge=0, le=1, description=f"{text}, from 0 to 1, or null")]


class Recent(_Request, frozen=True):
    """The share of late arrivals up to now, as far as it is known."""

    carrier_late: _share("of the carrier's, over a day") | None = None
    route_late: _share("of the route's, over a day") | None = None
    plane_late: _share("of the aircraft's, over a week") | None = None


class Flight(_Request, frozen=True):
    """One scheduled departure."""

    date: Annotated[datetime.date, Meta(description="a calendar date written YYYY-MM-DD")]
    sched_dep_time: Annotated[
        str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z", description="a local time written HH:MM")
    ]
    carrier: Annotated[
        str,
        Meta(pattern=r"^[A-Z0-9]{2,3}\Z", description="a carrier's code of two or three capitals or digits"),
    ]
    flight: Annotated[int, Meta(ge=1, le=99999, description="the flight's number")]
    origin: Airport
    dest: Airport
    distance: Annotated[float, Meta(ge=1, le=20000, description="miles from origin to destination")]
    tailnum: (
        Annotated[str, Meta(max_length=16, description="the aircraft's registration, or null")] | None
    ) = None
    plane: Plane | None = None
    weather: Weather | None = None
    recent: Recent | None = None


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """How likely a flight is to arrive late."""

    probability: Annotated[
        float, Meta(ge=0, le=1, description="the probability that it arrives over 15 minutes late")
    ]
    late: Annotated[bool, Meta(description="whether that counts as late")]
