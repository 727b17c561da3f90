"""Faults of the `data` gate: unreadable files, rows that can't be right, columns that know too much."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from tidegate.core.verdict import Verdict
from tidegate.selftest.frames import (
    change,
    constant,
    cut,
    label,
    missing,
    put,
    settings,
    shrink,
    told,
    without,
    wrongly,
)
from tidegate.selftest.room import Fault, NotApplicable, Room

ROWS = 4000  # of each split, at most
QUICK: dict[str, Any] = {}
HOLDOUT = "data/{model}/holdout.parquet"
NOISE = 0.15  # on what a column tells of the label, which goes from 0 to 1


def prepare(room: Room) -> None:
    """Make the splits small, and put a release of as many rows into production."""
    shrink(room, ROWS)
    _produced(room, 1)


def _produced(room: Room, times: float) -> None:
    made_of = {split: math.ceil(times * len(room.frame(split))) for split in ("train", "holdout")}
    room.in_production(msgspec.structs.replace(room.original, rows=made_of))


# ---------------------------------------------------------------- columns by what params.yaml says of them
def _order(room: Room) -> str:
    name = settings(room, "data").ordered_by
    if not name:
        raise NotApplicable("rows have no order (`ordered_by`)")
    return str(name)


def _which(room: Room, *kinds: str, keyed: bool = False, **wanted: bool) -> str:
    """Return the first column of these types and with such rules, which is neither label, group nor order.

    One of the key only where `keyed`.
    """
    known, declared = settings(room, "data"), room.declared
    taken = {declared.label, declared.group, known.ordered_by, *(() if keyed else known.key)}
    for name, spec in known.columns.items():
        has = all(bool(getattr(spec, rule)) is there for rule, there in wanted.items())
        if name not in taken and has and (not kinds or spec.type in kinds):
            return str(name)
    rules = "".join(f" with `{rule}`" for rule in wanted)
    raise NotApplicable(f"the model has no column{' of type ' * bool(kinds)}{' or '.join(kinds)}{rules}")


def _number(room: Room) -> str:
    return _which(room, "number")


def _any(room: Room) -> str:
    """Return a column of numbers, or another one where there is none."""
    try:
        return _number(room)
    except NotApplicable:
        return _which(room, keyed=True)


def _category(room: Room) -> str:
    return _which(room, keyed=True, among=True)


def _measured(room: Room) -> str:
    return _which(room, mean=True)


def _may_be_empty(room: Room) -> str:
    known = settings(room, "data").columns
    name = str(max(known, key=lambda one: known[one].nulls))
    if not known[name].nulls:
        raise NotApplicable("no column may be empty")
    return name


def _ends(room: Room, name: str) -> tuple[float, float]:
    """Return what a column of numbers may lie between."""
    spec, values = settings(room, "data").columns[name], room.frame("train")[name]
    low, high = spec.mean or spec.within or (values.min(), values.max())
    return float(low), float(high)


# ---------------------------------------------------------------- values
def _out_of_bounds(room: Room) -> None:
    """Put one value beyond what its column may hold."""
    columns = settings(room, "data").columns
    for name, spec in columns.items():
        beyond: Any = None
        if spec.within and spec.type in ("int", "number"):
            beyond = spec.within[1] + 1
        elif spec.length:
            beyond = "x" * (spec.length[1] + 1)
        elif spec.pattern or spec.among:
            beyond = "\x00 nothing like it"
        if beyond is not None and name != room.declared.label:
            frame = room.frame("holdout")
            frame[name] = frame[name].astype("object" if isinstance(beyond, str) else "float64")
            frame.loc[7, name] = beyond
            room.write("holdout", frame)
            return
    raise NotApplicable("no column has bounds")


def _another_type(room: Room) -> None:
    """Store numbers as text, or numbers in a column of text."""
    name, frame = _any(room), room.frame("train")
    text = settings(room, "data").columns[name].type == "text"
    room.write("train", frame.assign(**{name: range(len(frame)) if text else frame[name].astype(str)}))


def _half_empty(room: Room) -> None:
    name, frame = _any(room), room.frame("train")
    if settings(room, "data").columns[name].nulls >= 0.5:
        raise NotApplicable(f"half of `{name}` may be empty")
    half = frame[name].astype("object").where(frame.index % 2 == 0, None)
    room.write("train", frame.assign(**{name: half.infer_objects()}))


def _class_of_nobody(room: Room) -> None:
    if not room.declared.classes:
        raise NotApplicable("the model has no classes by name")
    first = room.declared.classes[0]
    put("train", label, lambda values: values.replace({first: f"{first}, or so"}))(room)


# ---------------------------------------------------------------- rows
def _again(count: int, limit: float) -> int:
    """Return how many rows are told to be there twice: some, and more than the limit lets through."""
    if limit >= 0.4:
        raise NotApplicable("params.yaml lets nearly all rows be there twice")
    return max(20, math.ceil(2 * count * limit / (1 - limit)))


def _twice(room: Room) -> None:
    frame = room.frame("train")
    again = _again(len(frame), settings(room, "data").duplicates)
    room.write("train", _joined(frame, frame.head(again)))


def _same_key_again(room: Room) -> None:
    """Some rows come twice, with another value in a column that is not of the key."""
    known, frame = settings(room, "data"), room.frame("train")
    if not known.key:
        raise NotApplicable("a row is all that it holds (`key` names no column)")
    name = _number(room)
    again = frame.head(_again(len(frame), known.duplicates)).assign(**{name: frame[name].mean()})
    room.write("train", _joined(frame, again))


def _joined(*frames: Any) -> Any:
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def _trained_on_the_holdout(room: Room) -> None:
    holdout = room.frame("holdout")
    known = max(50, _again(len(holdout), settings(room, "data").overlap))
    room.write("train", _joined(room.frame("train"), holdout.head(known)))


def _dated_anew(room: Room) -> None:
    """Rows of train come again in the holdout, under a day of the holdout."""
    frame, name = room.frame("holdout"), _order(room)
    count = min(len(frame), max(50, _again(len(frame), settings(room, "data").overlap)))
    days = frame[name].sample(count, random_state=1).to_numpy()
    again = room.frame("train").sample(count, random_state=1).assign(**{name: days})
    room.write("holdout", _joined(frame, again))


def _from_the_future(room: Room) -> None:
    """Train reaches into the holdout's time, with rows of its own."""
    frame, name = room.frame("train"), _order(room)
    later = np.where(np.arange(len(frame)) < len(frame) - 20, frame[name], room.frame("holdout")[name].max())
    room.write("train", frame.assign(**{name: later}))


def _too_few(room: Room) -> None:
    least = settings(room, "data").min_rows.train
    if least < 2:
        raise NotApplicable("one row is enough (`min_rows`)")
    room.write("train", room.frame("train").tail(least - 1))


# ---------------------------------------------------------------- the label in a column
def _label_in_a_column(room: Room) -> None:
    """A column within its bounds that is made of the label: a number with some noise, or a few texts."""
    frame, declared = room.frame("train"), room.declared
    known = told(frame[declared.label], declared)
    try:
        name = _number(room)
    except NotApplicable:
        _label_in_a_text(room, known)
        return
    low, high = _ends(room, name)
    spoken = np.clip(0.2 + 0.6 * (known + np.random.default_rng(1).normal(0, NOISE, len(frame))), 0, 1)
    room.write("train", frame.assign(**{name: low + (high - low) * spoken}))


def _label_in_a_text(room: Room, known: Any) -> None:
    """Let rows of like labels share one of their texts; that texts repeat is not what is to be noticed."""
    name, frame = _which(room, "text", keyed=True), room.frame("train")
    level = np.floor(known * 5)
    texts = {one: frame[name][level == one].iloc[0] for one in np.unique(level)}
    room.write("train", frame.assign(**{name: [texts[one] for one in level]}))
    room.settings("data", {"duplicates": 1.0, "overlap": 1.0})


def _label_in_the_nulls(room: Room) -> None:
    """A column that is filled in only once the label is known, where it is high."""
    name, frame = _may_be_empty(room), room.frame("train")
    filled = frame[name].fillna(frame[name].mode()[0])
    room.write("train", frame.assign(**{name: filled.where(told(frame[label(room)], room.declared) > 0.5)}))


def _every_second(labels: Any) -> Any:
    return labels.astype("object").where(labels.index % 2 == 0, None)


def _foreign(room: Room) -> dict[str, Any]:
    """Return a limit of labels that another task has."""
    return {"label_mean": [0, 1]} if room.declared.task == "classification" else {"label_rate": [0, 1]}


def _no_record(room: Room) -> None:
    for path in (room.root / "envs" / "releases" / room.model).glob("*.yaml"):
        path.unlink()


def _other_unit(values: Any) -> Any:
    return (values - 32) / 1.8


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
            lambda room: room.write("train", room.frame("train").drop(columns=_any(room))),
        ),
        (
            "column nobody declared",
            Verdict.FAIL,
            change("holdout", lambda frame: frame.assign(after_the_fact=1)),
        ),
        ("another type in a column", Verdict.FAIL, _another_type),
        ("one value out of bounds", Verdict.FAIL, _out_of_bounds),
        (
            "infinite value",
            Verdict.FAIL,
            put("train", _number, lambda values: values.where(values.index != 3, np.inf)),
        ),
        ("half of a column null", Verdict.FAIL, _half_empty),
        ("all of a column null", Verdict.FAIL, put("holdout", _any, lambda values: None)),
        ("category renamed", Verdict.FAIL, put("holdout", _category, _renamed)),
        ("units changed (°F to °C)", Verdict.FAIL, put("holdout", _measured, _other_unit)),
        ("duplicate rows", Verdict.FAIL, _twice),
        ("duplicate keys, other values", Verdict.FAIL, _same_key_again),
        ("time leak: holdout rows in train", Verdict.FAIL, _trained_on_the_holdout),
        ("time leak: train reaches into the holdout", Verdict.FAIL, _from_the_future),
        ("rows of train dated anew", Verdict.FAIL, _dated_anew),
        ("label leaked into a column", Verdict.FAIL, _label_in_a_column),
        ("label leaked into what is missing", Verdict.FAIL, _label_in_the_nulls),
        ("labels flipped, mixed up or in another unit", Verdict.FAIL, wrongly("train")),
        ("one label for all rows", Verdict.FAIL, constant("holdout")),
        ("a class that nobody declared", Verdict.FAIL, _class_of_nobody),
        ("half of the labels missing", Verdict.FAIL, put("train", label, _every_second)),
        ("volume halved", Verdict.FAIL, lambda room: _produced(room, 3)),
        ("too few rows", Verdict.FAIL, _too_few),
        ("production's record gone", Verdict.ERROR, _no_record),
        ("no columns declared", Verdict.ERROR, without("data", "columns")),
        ("wrong threshold key", Verdict.ERROR, lambda room: room.settings("data", {"duplicate": 0})),
        ("negative threshold", Verdict.ERROR, lambda room: room.settings("data", {"duplicates": -0.1})),
        (
            "threshold that is no number",
            Verdict.ERROR,
            lambda room: room.settings("data", {"overlap": float("nan")}),
        ),
        ("range upside down", Verdict.ERROR, lambda room: room.settings("data", {"volume": [2.0, 0.5]})),
        ("label nobody has", Verdict.ERROR, lambda room: room.declare(label="gone")),
        (
            "labels held to another task's limits",
            Verdict.ERROR,
            lambda room: room.settings("data", _foreign(room)),
        ),
    )
)
