"""Faults of the `slices` gate: models that are broken in one place only, and slices that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from tidegate.core import slices
from tidegate.core.verdict import Verdict
from tidegate.selftest import champion, frames
from tidegate.selftest.champion import move, predict, values
from tidegate.selftest.room import Fault, NotApplicable, Room, as_it_is

QUICK: dict[str, Any] = {}
ANY = 9.0  # a margin that everything is within
WIDER = 1.4  # margins, where rows were left out
MORE = 1.6  # rows of each label, there


def prepare(room: Room) -> None:
    """Put the packaged release into production, and an equal of it beside; margins fit fewer rows."""
    champion.challenge(room)
    if champion.thinned(room) == 1:
        return
    known = _settings(room)
    wider = {
        name: {key: WIDER * value for key, value in getattr(known, name).items() if value is not None}
        for name in ("margins", "production")
    }
    least = {"min_rows": int(known.min_rows / WIDER), "min_each": int(known.min_each * MORE)}
    room.settings("slices", wider | least)


def _settings(room: Room) -> Any:
    return frames.settings(room, "slices")


def _replace(room: Room, **settings: Any) -> None:
    """Put settings in the place of others; `Room.settings` would lay them over."""
    file = room.root / "params.yaml"
    content = yaml.safe_load(file.read_text())
    content["models"][room.model].setdefault("gates", {}).setdefault("slices", {}).update(settings)
    file.write_text(yaml.safe_dump(content))


def _within_anything(room: Room, *sections: str) -> None:
    known = _settings(room)
    room.settings("slices", {name: dict.fromkeys(getattr(known, name), ANY) for name in sections})


# ---------------------------------------------------------------- places
def _column(room: Room) -> str:
    """Return the holdout's column of the first declared slices."""
    for name, spec in _settings(room).columns.items():
        return str(spec.of or name)
    raise NotApplicable("params.yaml declares no column to cut by")


def _commonest(room: Room) -> Any:
    """Mark the rows of the largest declared slice that leaves as many rows beside it as a slice needs."""
    frame, known = room.frame("holdout"), _settings(room)
    best = None
    for name, spec in known.columns.items():
        found = frame[spec.of or name].to_numpy()
        groups = slices.binned(found, spec.bins) if spec.bins else slices.texts(found, spec.part)
        for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
            fits = count <= len(frame) - known.min_rows
            if fits and (best is None or count > best.sum()):
                best = groups == group
    if best is None:
        raise NotApplicable("params.yaml declares no column that cuts the rows")
    return best


def _invert_one(room: Room) -> None:
    move(room, lambda found, random: -found, _commonest(room))


def _flatten_one(room: Room) -> None:
    """Answer the same for all rows of a slice: no worse than other models there, but than production's.

    Of numbers and scores it is the greatest: where rows are few, the mean may be nearly as good.
    """
    one = np.mean if room.declared.task == "classification" else np.max
    move(room, lambda found, random: np.full(found.shape, one(found, axis=0)), _commonest(room))


def _hidden(room: Room) -> None:
    """Invert where a number is high that no declared slice is cut by: only a search can find that."""
    frame, known = room.frame("holdout"), _settings(room)
    kept = [name for name in known.search.columns if name in frame and frame[name].dtype.kind in "if"]
    if not kept:
        raise NotApplicable("slices are searched in no column of numbers")
    number = kept[0]
    move(room, lambda found, random: -found, (frame[number] >= frame[number].quantile(0.75)).to_numpy())
    declared = {"half": {"of": number, "bins": 2}}
    search = {"columns": [number], "depth": 2}
    _within_anything(room, "production")
    _replace(room, columns=declared, search=search)


# ---------------------------------------------------------------- groups that are to be treated alike
def _decides(room: Room) -> None:
    if room.declared.task != "classification":
        raise NotApplicable("what is measured of protected groups are rates of a decision, and there is none")


def _unfair(room: Room) -> None:
    """Let one group of a protected column be told the same more often, whatever its rows are like."""
    _decides(room)
    frame, column = room.frame("holdout"), _column(room)
    group = (frame[column] == frame[column].value_counts().index[0]).to_numpy()
    _within_anything(room, "margins", "production")
    _replace(room, protected=[column])
    lifted = np.array([3.0] + [0.0] * (len(room.declared.columns) - 1)) if room.declared.classes else 1.5
    move(room, lambda found, random: found + lifted, group)


def _unfair_of_few(room: Room) -> None:
    """Protect a column one of whose groups has fewer rows than can be judged."""
    _decides(room)
    frame, column = room.frame("holdout"), _column(room)
    rare = frame[column].astype("object").to_numpy().copy()
    rare[: max(_settings(room).min_each - 20, 2)] = "a rare group"
    room.write("holdout", frame.assign(**{column: [str(one) for one in rare]}))
    _within_anything(room, "margins", "production")
    _replace(room, protected=[column], fairness={"demographic_parity": 1.0, "equal_opportunity": 1.0})


def _protect_nothing(room: Room) -> None:
    _decides(room)
    _replace(room, protected=["no_such_column"])


# ---------------------------------------------------------------- nothing to look at
def _small(room: Room) -> None:
    _replace(room, min_rows=len(room.frame("holdout")))


def _no_column(room: Room) -> None:
    name = _column(room)
    room.in_production(None)  # which could not be scored without that column, either
    room.write("holdout", room.frame("holdout").drop(columns=name))


def _empty_column(room: Room) -> None:
    name = _column(room)
    room.in_production(None)
    room.write("holdout", room.frame("holdout").assign(**{name: None}))


def _no_slices(room: Room) -> None:
    _replace(room, columns={}, search={})


def _one_nan(room: Room) -> None:
    found = values(room)
    found[np.flatnonzero(_commonest(room))[0]] = np.nan
    predict(room, found)


def _margin(room: Room, number: float | None) -> None:
    """Give a metric beside production another margin; None is a hundredth of its own."""
    name, old = next((n, value) for n, value in _settings(room).production.items() if value is not None)
    room.settings("slices", {"production": {name: old / 100 if number is None else number}})


def _fault(name: str, expected: Verdict, make: Any, **settings: Any) -> Fault:
    return Fault("slices", name, expected, make, settings)


FAULTS = (
    _fault("predictions inverted in one slice", Verdict.FAIL, _invert_one),
    _fault("predictions constant in one slice", Verdict.FAIL, _flatten_one),
    _fault("inverted where nobody declared a slice", Verdict.FAIL, _hidden),
    _fault("a protected group treated unequally", Verdict.FAIL, _unfair),
    _fault("a protected group of few rows", Verdict.INCONCLUSIVE, _unfair_of_few),
    _fault("a protected column missing", Verdict.ERROR, _protect_nothing),
    _fault("slice support too small", Verdict.INCONCLUSIVE, _small),
    _fault("too few rows for the margins", Verdict.INCONCLUSIVE, lambda room: _margin(room, None)),
    _fault("empty list of slices", Verdict.ERROR, _no_slices),
    _fault("slice column missing", Verdict.ERROR, _no_column),
    _fault("slice column empty", Verdict.ERROR, _empty_column),
    _fault("NaN in one slice", Verdict.ERROR, _one_nan),
    _fault("empty predictions", Verdict.ERROR, champion.first(0)),
    _fault("predictions of other rows", Verdict.ERROR, champion.other_rows),
    _fault("predictions of another model", Verdict.ERROR, champion.stale),
    _fault("champion equal to candidate", Verdict.ERROR, champion.own_champion),
    _fault("wrong metric key", Verdict.ERROR, as_it_is, margins={"no_such_metric": 0.1}),
    _fault("negative threshold", Verdict.ERROR, lambda room: _margin(room, -0.01)),
)
