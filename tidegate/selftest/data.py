"""Faults of the `data` gate: unreadable files, rows that can't be right, columns that know too much."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from tidegate.core.verdict import Verdict
from tidegate.selftest.frames import change, cut, missing, put, settings, shrink, without
from tidegate.selftest.room import Fault, Room

ROWS = 4000  # of each split
QUICK: dict[str, Any] = {}
HOLDOUT = "data/{model}/holdout.parquet"


def prepare(room: Room) -> None:
    """Make the splits small, and put a release of as many rows into production."""
    shrink(room, ROWS)
    _produced(room, ROWS)


def _produced(room: Room, rows: int) -> None:
    made_of = {"train": rows, "holdout": rows}
    room.in_production(msgspec.structs.replace(room.original, rows=made_of))


# ---------------------------------------------------------------- columns by what params.yaml says of them
def _label(room: Room) -> str:
    return str(settings(room, "data").label)


def _order(room: Room) -> str:
    return str(settings(room, "data").ordered_by)


def _which(room: Room, **wanted: Any) -> str:
    """Return the first column of a type and with such rules, which is neither label, order nor key."""
    known = settings(room, "data")
    kind = wanted.pop("type", None)
    taken = {known.label, known.ordered_by, *(known.key if "among" not in wanted else ())}
    for name, spec in known.columns.items():
        has = all(bool(getattr(spec, rule)) is there for rule, there in wanted.items())
        if name not in taken and has and kind in (None, spec.type):
            return str(name)
    raise LookupError(f"no column of type {kind} with {wanted}")


def _number(room: Room) -> str:
    return _which(room, type="number", within=True)


def _category(room: Room) -> str:
    return _which(room, among=True)


def _measured(room: Room) -> str:
    return _which(room, mean=True)


def _often_empty(room: Room) -> str:
    known = settings(room, "data").columns
    return str(max(known, key=lambda name: known[name].nulls))


# ---------------------------------------------------------------- faults
def _one_out_of_range(room: Room) -> None:
    name = _number(room)
    high = settings(room, "data").columns[name].within[1]
    frame = room.frame("holdout")
    frame.loc[7, name] = high + 1
    room.write("holdout", frame)


def _same_flight_again(room: Room) -> None:
    """Some rows come twice, with another value in a column that is not of the key."""
    frame, name = room.frame("train"), _number(room)
    again = frame.head(20).assign(**{name: frame[name].mean()})
    room.write("train", _joined(frame, again))


def _joined(*frames: Any) -> Any:
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def _trained_on_the_holdout(room: Room) -> None:
    room.write("train", _joined(room.frame("train"), room.frame("holdout").head(50)))


def _dated_anew(room: Room) -> None:
    """Rows of train come again in the holdout, under a day of the holdout."""
    frame, name = room.frame("holdout"), _order(room)
    days = frame[name].sample(50, random_state=1).to_numpy()
    again = room.frame("train").sample(50, random_state=1).assign(**{name: days})
    room.write("holdout", _joined(frame, again))


def _from_the_future(room: Room) -> None:
    """Train reaches into the holdout's time, with rows of its own."""
    frame, name = room.frame("train"), _order(room)
    later = np.where(np.arange(len(frame)) < len(frame) - 20, frame[name], room.frame("holdout")[name].max())
    room.write("train", frame.assign(**{name: later}))


def _label_in_a_column(room: Room) -> None:
    """A column within its range that is the label and some noise."""
    name, frame = _number(room), room.frame("train")
    low, high = settings(room, "data").columns[name].mean or settings(room, "data").columns[name].within
    noise = np.random.default_rng(1).normal(0, 0.5, len(frame))
    told = np.clip(0.4 + 0.2 * (frame[_label(room)] + noise), 0, 1)
    room.write("train", frame.assign(**{name: low + (high - low) * told}))


def _label_in_the_nulls(room: Room) -> None:
    """A column that is filled in only once the label is known."""
    name, frame = _often_empty(room), room.frame("train")
    filled = frame[name].fillna(frame[name].mean()).where(frame[_label(room)] == 1)
    room.write("train", frame.assign(**{name: filled}))


def _no_record(room: Room) -> None:
    for path in (room.root / "envs" / "releases" / room.model).glob("*.yaml"):
        path.unlink()


def _to_celsius(fahrenheit: Any) -> Any:
    return (fahrenheit - 32) / 1.8


def _renamed(values: Any) -> Any:
    return values.replace({values.mode()[0]: "renamed"})


FAULTS: tuple[Fault, ...] = tuple(
    Fault("data", *fault)
    for fault in (
        ("empty input", Verdict.ERROR, change("train", lambda frame: frame.head(0))),
        ("missing file", Verdict.ERROR, missing(HOLDOUT)),
        ("truncated parquet", Verdict.ERROR, cut(HOLDOUT)),
        (
            "text instead of parquet",
            Verdict.ERROR,
            lambda room: room.edit(HOLDOUT.format(model=room.model)).write_text("a,b\n1,2\n") and None,
        ),
        (
            "missing column",
            Verdict.FAIL,
            lambda room: room.write("train", room.frame("train").drop(columns=_number(room))),
        ),
        (
            "column nobody declared",
            Verdict.FAIL,
            change("holdout", lambda frame: frame.assign(after_the_fact=1)),
        ),
        (
            "text in a column of numbers",
            Verdict.FAIL,
            put("train", _number, lambda values: values.astype(str)),
        ),
        ("one value out of range", Verdict.FAIL, _one_out_of_range),
        (
            "infinite value",
            Verdict.FAIL,
            put("train", _number, lambda values: values.where(values.index != 3, np.inf)),
        ),
        (
            "half of a column null",
            Verdict.FAIL,
            put("train", _number, lambda values: values.where(values.index % 2 == 0)),
        ),
        ("all of a column null", Verdict.FAIL, put("holdout", _category, lambda values: None)),
        ("category renamed", Verdict.FAIL, put("holdout", _category, _renamed)),
        ("units changed (°F to °C)", Verdict.FAIL, put("holdout", _measured, _to_celsius)),
        ("duplicate rows", Verdict.FAIL, change("train", lambda frame: _joined(frame, frame.head(20)))),
        ("duplicate keys, other values", Verdict.FAIL, _same_flight_again),
        ("time leak: holdout rows in train", Verdict.FAIL, _trained_on_the_holdout),
        ("time leak: train reaches into the holdout", Verdict.FAIL, _from_the_future),
        ("rows of train dated anew", Verdict.FAIL, _dated_anew),
        ("label leaked into a column", Verdict.FAIL, _label_in_a_column),
        ("label leaked into what is missing", Verdict.FAIL, _label_in_the_nulls),
        ("labels flipped", Verdict.FAIL, put("train", _label, lambda values: 1 - values)),
        ("one class only", Verdict.FAIL, put("holdout", _label, lambda values: 0 * values)),
        ("volume halved", Verdict.FAIL, lambda room: _produced(room, 3 * ROWS)),
        ("too few rows", Verdict.FAIL, change("train", lambda frame: frame.tail(300))),
        ("production's record gone", Verdict.ERROR, _no_record),
        ("no columns declared", Verdict.ERROR, without("data", "columns")),
        ("wrong threshold key", Verdict.ERROR, lambda room: room.settings("data", {"duplicate": 0})),
        ("negative threshold", Verdict.ERROR, lambda room: room.settings("data", {"duplicates": -0.1})),
        (
            "threshold that is no number",
            Verdict.ERROR,
            lambda room: room.settings("data", {"overlap": float("nan")}),
        ),
        ("range upside down", Verdict.ERROR, lambda room: room.settings("data", {"label_rate": [0.4, 0.1]})),
        ("label nobody has", Verdict.ERROR, lambda room: room.settings("data", {"label": "gone"})),
    )
)
