"""Faults of the `quality` gate: candidates that are worse, and comparisons that compare nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from tidegate.core import scores
from tidegate.core.verdict import Verdict
from tidegate.selftest import champion
from tidegate.selftest.champion import names, path, predict
from tidegate.selftest.room import Fault, Room, as_it_is

MARGIN = 0.02  # nats; a quarter of the rows can tell less than all of them
QUICK: dict[str, Any] = {"margins": {"auc": MARGIN, "log_loss": MARGIN, "calibration_error": 0.03}}


def prepare(room: Room) -> None:
    """Put the packaged release into production, and an equal of it beside."""
    champion.challenge(room)


def _shuffle(room: Room) -> None:
    """Give each row another row's label, in the holdout and the predictions alike."""
    label, _ = names(room)
    for name in ("holdout", path(room)):
        frame = room.frame(name)
        order = np.random.default_rng(1).permutation(len(frame))
        room.write(name, frame.assign(**{label: frame[label].to_numpy()[order]}))


def _one_class(room: Room) -> None:
    label, _ = names(room)
    for name in ("holdout", path(room)):
        room.write(name, room.frame(name).assign(**{label: 0}))


def _invert(room: Room) -> None:
    predict(room, 1 - _probabilities(room))


def _constant(room: Room) -> None:
    predict(room, 0.3)


def _all_nan(room: Room) -> None:
    predict(room, np.nan)


def _one_nan(room: Room) -> None:
    values = _probabilities(room)
    values[7] = np.nan
    predict(room, values)


def _percent(room: Room) -> None:
    predict(room, 100 * _probabilities(room))


def _probabilities(room: Room) -> Any:
    return room.frame(path(room))[names(room)[1]].to_numpy().copy()


def _twice_the_margin(room: Room) -> None:
    """Spoil the candidate by noise until its log loss is worse than it was by twice the margin."""
    label, _ = names(room)
    labels, before = room.frame(path(room))[label], _probabilities(room)
    noise = np.random.default_rng(2).normal(size=len(before))
    odds = np.log(before) - np.log1p(-before)
    low, high = 0.0, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        after = 1 / (1 + np.exp(-(odds + middle * noise)))
        worse = scores.log_loss(labels, after) - scores.log_loss(labels, before)
        low, high = (middle, high) if worse < 2 * MARGIN else (low, middle)
    predict(room, after)


def _truncate(room: Room) -> None:
    file = room.edit(path(room))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _remove(room: Room) -> None:
    room.edit(path(room)).unlink()


def _no_probability(room: Room) -> None:
    room.write(path(room), room.frame(path(room)).drop(columns=names(room)[1]))


def _no_record(room: Room) -> None:
    record = msgspec.structs.replace(room.original, pipeline="sha256:of another run")
    room.in_production(record)
    (room.root / "envs" / "releases" / room.model / f"{record.id}.yaml").unlink()


def _no_commit(room: Room) -> None:
    room.in_production(msgspec.structs.replace(room.original, commit="0" * 40))


def _fault(name: str, expected: Verdict, make: Any, **settings: Any) -> Fault:
    return Fault("quality", name, expected, make, settings)


FAULTS = (
    _fault("labels shuffled", Verdict.FAIL, _shuffle),
    _fault("predictions inverted", Verdict.FAIL, _invert),
    _fault("predictions constant", Verdict.FAIL, _constant),
    _fault("worse by twice the margin", Verdict.FAIL, _twice_the_margin),
    _fault("all-NaN metric", Verdict.ERROR, _all_nan),
    _fault("NaN in one probability", Verdict.ERROR, _one_nan),
    _fault("NaN in one metric", Verdict.ERROR, as_it_is, limits={"precision": 0.2}, threshold=0.999),
    _fault("one class only", Verdict.ERROR, _one_class, limits={"calibration_error": 1.0}),
    _fault("percents for probabilities", Verdict.ERROR, _percent),
    _fault("champion equal to candidate", Verdict.ERROR, champion.own_champion),
    _fault("champion missing in the registry", Verdict.ERROR, champion.lost_version),
    _fault("champion's files changed in the registry", Verdict.ERROR, champion.other_files),
    _fault("champion's record missing", Verdict.ERROR, _no_record),
    _fault("champion's commit not in this clone", Verdict.ERROR, _no_commit),
    _fault("fewer rows than min_rows", Verdict.INCONCLUSIVE, champion.first(600)),
    _fault("too few rows for the margin", Verdict.INCONCLUSIVE, as_it_is, margins={"auc": 0.00005}),
    _fault("empty predictions", Verdict.ERROR, champion.first(0)),
    _fault("predictions missing", Verdict.ERROR, _remove),
    _fault("predictions truncated", Verdict.ERROR, _truncate),
    _fault("predictions without probabilities", Verdict.ERROR, _no_probability),
    _fault("predictions of other rows", Verdict.ERROR, champion.other_rows),
    _fault("predictions of another model", Verdict.ERROR, champion.stale),
    _fault("wrong metric key", Verdict.ERROR, as_it_is, limits={"acu": 0.68}),
    _fault("negative margin", Verdict.ERROR, as_it_is, margins={"auc": -0.005}),
    _fault("NaN as a limit", Verdict.ERROR, as_it_is, limits={"auc": float("nan")}),
)
