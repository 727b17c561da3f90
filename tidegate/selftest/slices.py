"""Faults of the `slices` gate: models that are broken in one place only, and slices that say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from tidegate.core.verdict import Verdict
from tidegate.selftest import champion
from tidegate.selftest.champion import move, names, path, predict
from tidegate.selftest.room import Fault, Room, as_it_is

QUICK: dict[str, Any] = {
    "min_rows": 400,
    "min_each": 80,
    "margins": {"auc": 0.35, "excess_loss": 0.30},
    "production": {"auc": 0.05, "log_loss": 0.04},
}


ANY = {"auc": 1.0, "excess_loss": 9.0, "log_loss": 9.0}  # margins that everything is within


def prepare(room: Room) -> None:
    """Put the packaged release into production, and an equal of it beside."""
    champion.challenge(room)


def _column(room: Room) -> str:
    """Return a declared column that is cut by its values as they are."""
    names: list[str] = [name for name, spec in _settings(room)["columns"].items() if not spec]
    return names[0]


def _settings(room: Room) -> Any:
    content = yaml.safe_load((room.root / "params.yaml").read_text())
    return content["models"][room.model]["gates"]["slices"]


def _replace(room: Room, **settings: Any) -> None:
    """Put settings in the place of others; `Room.settings` would lay them over."""
    file = room.root / "params.yaml"
    content = yaml.safe_load(file.read_text())
    content["models"][room.model]["gates"]["slices"] |= settings
    file.write_text(yaml.safe_dump(content))


def _commonest(room: Room) -> Any:
    """Mark the rows of the most frequent value of a declared column."""
    values = room.frame("holdout")[_column(room)]
    return (values == values.value_counts().index[0]).to_numpy()


def _invert_one(room: Room) -> None:
    move(room, lambda odds, random: -odds, _commonest(room))


def _flatten_one(room: Room) -> None:
    """Answer the same for all rows of one value: no worse than other models there, but than production's."""
    move(room, lambda odds, random: np.full(len(odds), odds.mean()), _commonest(room))


def _hidden(room: Room) -> None:
    """Invert where a number is high that no declared slice is cut by: only a search can find that."""
    frame = room.frame("holdout")
    kept = [name for name in _settings(room)["search"]["columns"] if name in frame]
    number = next(name for name in kept if frame[name].dtype.kind in "if")
    move(room, lambda odds, random: -odds, (frame[number] >= frame[number].quantile(0.75)).to_numpy())
    declared = {"half": {"of": number, "bins": 2}}
    _replace(room, columns=declared, search={"columns": [number], "depth": 2}, production={"auc": 1.0})


def _unfair(room: Room) -> None:
    """Call one group of a protected column positive more often, whatever its rows are like."""
    _replace(room, protected=[_column(room)], margins=dict(ANY), production=dict(ANY))
    move(room, lambda odds, random: odds + 1.5, _commonest(room))


def _unfair_of_few(room: Room) -> None:
    """Protect a column one of whose groups has fewer rows than can be judged."""
    frame = room.frame("holdout")
    column = _column(room)
    rare = frame[column].to_numpy().copy()
    rare[:60] = "a rare group"
    room.write("holdout", frame.assign(**{column: rare}))
    _replace(room, protected=[column], fairness={"demographic_parity": 1.0, "equal_opportunity": 1.0})


def _protect_nothing(room: Room) -> None:
    _replace(room, protected=["no_such_column"])


def _no_column(room: Room) -> None:
    room.in_production(None)  # which could not be scored without that column, either
    room.write("holdout", room.frame("holdout").drop(columns=_column(room)))


def _empty_column(room: Room) -> None:
    room.write("holdout", room.frame("holdout").assign(**{_column(room): None}))


def _no_slices(room: Room) -> None:
    _replace(room, columns={}, search={})


def _one_nan(room: Room) -> None:
    values = room.frame(path(room))[names(room)[1]].to_numpy().copy()
    values[np.flatnonzero(_commonest(room))[0]] = np.nan
    predict(room, values)


def _fault(name: str, expected: Verdict, make: Any, **settings: Any) -> Fault:
    return Fault("slices", name, expected, make, settings)


FAULTS = (
    _fault("predictions inverted in one slice", Verdict.FAIL, _invert_one),
    _fault("predictions constant in one slice", Verdict.FAIL, _flatten_one),
    _fault("inverted where nobody declared a slice", Verdict.FAIL, _hidden),
    _fault("a protected group treated unequally", Verdict.FAIL, _unfair),
    _fault("a protected group of sixty rows", Verdict.INCONCLUSIVE, _unfair_of_few),
    _fault("a protected column missing", Verdict.ERROR, _protect_nothing),
    _fault("slice support too small", Verdict.INCONCLUSIVE, as_it_is, min_each=10_000),
    _fault("too few rows for the margins", Verdict.INCONCLUSIVE, as_it_is, production={"auc": 0.0005}),
    _fault("empty list of slices", Verdict.ERROR, _no_slices),
    _fault("slice column missing", Verdict.ERROR, _no_column),
    _fault("slice column empty", Verdict.ERROR, _empty_column),
    _fault("NaN in one slice", Verdict.ERROR, _one_nan),
    _fault("empty predictions", Verdict.ERROR, champion.first(0)),
    _fault("predictions of other rows", Verdict.ERROR, champion.other_rows),
    _fault("predictions of another model", Verdict.ERROR, champion.stale),
    _fault("champion equal to candidate", Verdict.ERROR, champion.own_champion),
    _fault("wrong metric key", Verdict.ERROR, as_it_is, margins={"log_los": 0.1}),
    _fault("negative threshold", Verdict.ERROR, as_it_is, production={"auc": -0.01}),
)
