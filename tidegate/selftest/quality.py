"""Faults of the `quality` gate: candidates that are worse, and comparisons that compare nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from tidegate.core import scores
from tidegate.core.verdict import Verdict
from tidegate.selftest import champion
from tidegate.selftest.champion import path, predict, values
from tidegate.selftest.frames import constant, settings
from tidegate.selftest.room import Fault, NotApplicable, Room

QUICK: dict[str, Any] = {}
HUGE = 1e9  # what no metric is above
PREFERRED = ("log_loss", "relative_error", "ndcg")  # of what a margin is spoilt by


def prepare(room: Room) -> None:
    """Put the packaged release into production, and an equal of it beside; margins fit fewer rows."""
    champion.challenge(room)
    wider = champion.wider(room)
    margins = {name: wider * number for name, number in settings(room, "quality").against.items()}
    room.settings("quality", {"margins": margins})


def _metric(room: Room, section: str) -> str:
    """Return a metric that has a limit (`limits`) or a margin (`margins`)."""
    known = scores.kept(getattr(settings(room, "quality"), section))
    return next((name for name in PREFERRED if name in known), next(iter(known)))


def _over(section: str, number: Callable[[float], float]) -> Callable[[Room], None]:
    """Return a fault in a metric's limit or margin."""

    def make(room: Room) -> None:
        name = _metric(room, section)
        before = getattr(settings(room, "quality"), section)[name]
        room.settings("quality", {section: {name: number(before)}})

    return make


def _misspelt(room: Room) -> None:
    name = _metric(room, "limits")
    room.settings("quality", {"limits": {f"{name[1]}{name[0]}{name[2:]}": 0.5}})


def _lax(room: Room) -> None:
    """Let every limit be kept by every number: what holds back is then that there is none."""
    metrics = scores.of(room.declared)
    limits = {n: 0.0 if metrics[n].higher_is_better else HUGE for n in settings(room, "quality").limits}
    room.settings("quality", {"limits": limits})


def _shuffle(room: Room) -> None:
    """Give each row another row's label, in the holdout and the predictions alike."""
    name = room.declared.label
    for split in ("holdout", path(room)):
        frame = room.frame(split)
        order = np.random.default_rng(1).permutation(len(frame))
        room.write(split, frame.assign(**{name: frame[name].to_numpy()[order]}))


def _one_label(room: Room) -> None:
    for split in ("holdout", path(room)):
        constant(split)(room)
    _lax(room)


def _invert(room: Room) -> None:
    champion.move(room, lambda found, random: -found)


def _constant(room: Room) -> None:
    predict(room, values(room).mean(axis=0))


def _some(number: float, rows: Any) -> Callable[[Room], None]:
    """Return a fault that puts a number into some rows' predictions."""

    def make(room: Room) -> None:
        found = values(room)
        found[rows] = number
        predict(room, found)

    return make


def _percent(room: Room) -> None:
    if room.declared.task != "classification":
        raise NotApplicable("the model predicts no probability")
    predict(room, 100 * values(room))


def _of_a_decision(room: Room) -> None:
    """Hold decisions to a limit where none is a yes: there is no precision then."""
    if scores.kind(room.declared) != "binary":
        raise NotApplicable("no metric of the model depends on a threshold")
    _lax(room)
    room.settings("quality", {"limits": {"precision": 0.0}, "threshold": 1.0})


def _by(step: champion.Floats) -> champion.Change:
    return lambda found, random: found + step


def _twice_the_margin(room: Room) -> None:
    """Spoil the candidate by noise until a metric is worse than it was by twice its margin."""
    name = _metric(room, "margins")
    metric, margin = scores.of(room.declared)[name], settings(room, "quality").against[name]
    before = values(room)
    noise = np.random.default_rng(2).normal(size=before.shape)
    sign = -1 if metric.higher_is_better else 1
    best = metric.value(champion.sample(room, before))
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        after = champion.moved(room, before, _by(middle * noise))
        worse = sign * (metric.value(champion.sample(room, after)) - best)
        low, high = (middle, high) if worse < 2 * margin else (low, middle)
    predict(room, after)


def _margin_as_it_is(room: Room) -> None:
    """Let a margin be by how much the candidate is worse: on either side of that is as likely as not."""
    import pandas as pd

    real = pd.read_parquet(room.source / path(room))[list(room.declared.columns)]
    theirs = champion.sample(room, real.to_numpy(np.float64)[:: champion.thinned(room)])
    mine, metrics = champion.sample(room), scores.of(room.declared)
    worse = {
        name: (metrics[name].value(mine) - metrics[name].value(theirs))
        * (-1 if metrics[name].higher_is_better else 1)
        for name in settings(room, "quality").against
    }
    name = max(worse, key=worse.__getitem__)
    room.settings("quality", {"margins": {name: max(worse[name], 0.0)}})


def _truncate(room: Room) -> None:
    file = room.edit(path(room))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _remove(room: Room) -> None:
    room.edit(path(room)).unlink()


def _no_predictions(room: Room) -> None:
    room.write(path(room), room.frame(path(room)).drop(columns=room.declared.columns[-1]))


def _no_record(room: Room) -> None:
    record = msgspec.structs.replace(room.original, pipeline="sha256:of another run")
    room.in_production(record)
    (room.root / "envs" / "releases" / room.model / f"{record.id}.yaml").unlink()


def _no_commit(room: Room) -> None:
    room.in_production(msgspec.structs.replace(room.original, commit="0" * 40))


def _few(room: Room) -> None:
    least = settings(room, "quality").min_rows
    if least < 3:
        raise NotApplicable("hardly a row is enough (`min_rows`)")
    champion.first(least - 1)(room)


def _fault(name: str, expected: Verdict, make: Any) -> Fault:
    return Fault("quality", name, expected, make)


FAULTS = (
    _fault("labels shuffled", Verdict.FAIL, _shuffle),
    _fault("predictions inverted", Verdict.FAIL, _invert),
    _fault("predictions constant", Verdict.FAIL, _constant),
    _fault("worse by twice the margin", Verdict.FAIL, _twice_the_margin),
    _fault("all-NaN metric", Verdict.ERROR, _some(np.nan, slice(None))),
    _fault("NaN in one prediction", Verdict.ERROR, _some(np.nan, 7)),
    _fault("infinite prediction", Verdict.ERROR, _some(np.inf, 7)),
    _fault("NaN in one metric", Verdict.ERROR, _of_a_decision),
    _fault("one label for all rows", Verdict.ERROR, _one_label),
    _fault("percents for probabilities", Verdict.ERROR, _percent),
    _fault("champion equal to candidate", Verdict.ERROR, champion.own_champion),
    _fault("champion missing in the registry", Verdict.ERROR, champion.lost_version),
    _fault("champion's files changed in the registry", Verdict.ERROR, champion.other_files),
    _fault("champion's record missing", Verdict.ERROR, _no_record),
    _fault("champion's commit not in this clone", Verdict.ERROR, _no_commit),
    _fault("fewer rows than min_rows", Verdict.INCONCLUSIVE, _few),
    _fault("too few rows for the margin", Verdict.INCONCLUSIVE, _margin_as_it_is),
    _fault("empty predictions", Verdict.ERROR, champion.first(0)),
    _fault("predictions missing", Verdict.ERROR, _remove),
    _fault("predictions truncated", Verdict.ERROR, _truncate),
    _fault("a column of predictions missing", Verdict.ERROR, _no_predictions),
    _fault("predictions of other rows", Verdict.ERROR, champion.other_rows),
    _fault("predictions of another model", Verdict.ERROR, champion.stale),
    _fault("wrong metric key", Verdict.ERROR, _misspelt),
    _fault("negative margin", Verdict.ERROR, _over("margins", lambda old: -old)),
    _fault("NaN as a limit", Verdict.ERROR, _over("limits", lambda old: float("nan"))),
)
