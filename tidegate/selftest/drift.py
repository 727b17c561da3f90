"""Faults of the `drift` gate: data that moved, a model that answers otherwise, nothing to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.core.verdict import Verdict
from tidegate.files import digest_folder
from tidegate.selftest import graphs
from tidegate.selftest.frames import (
    change,
    cut,
    label,
    missing,
    put,
    raw_column,
    settings,
    shares,
    shrink,
    without,
    wrongly,
)
from tidegate.selftest.room import Fault, NotApplicable, Room

QUICK: dict[str, Any] = {}
TRAIN, IMPORTANCE = "data/{model}/train.parquet", "build/{model}/importance.json"


def prepare(room: Room) -> None:
    """Keep of both splits the rows that the gate samples of them."""
    drift = settings(room, "drift")
    shrink(room, drift.rows, drift.seed)


# ---------------------------------------------------------------- columns by what params.yaml says of them
def _of_kind(kind: str) -> Callable[[Room], str]:
    """Return what picks the most important column of a kind, never the label."""

    def name(room: Room) -> str:
        drift, known = settings(room, "drift"), shares(room)
        some = [one for one, spec in drift.columns.items() if spec.kind == kind and one != label(room)]
        if not some:
            raise NotApplicable(f"the model has no column of kind {kind}")
        return str(max(some, key=lambda one: known.get(one, 0.0)))

    return name


_number, _category, _time, _text = (_of_kind(kind) for kind in ("number", "category", "time", "text"))


def _held_by_its_mean(room: Room) -> str:
    """Return a compared number whose units the data gate tells by its mean, else the most important one."""
    compared = settings(room, "drift").columns
    for name, spec in settings(room, "data").columns.items():
        if spec.mean and name in compared and compared[name].kind == "number":
            return str(name)
    return _number(room)


# ---------------------------------------------------------------- changes
def _shifted(values: Any) -> Any:
    return values + values.std()


def _other_unit(values: Any) -> Any:
    return (values - 32) / 1.8


def _far_smaller_unit(values: Any) -> Any:
    return values / 33.8639


def _renamed(values: Any) -> Any:
    return values.replace({values.mode()[0]: "renamed"})


def _hour_later(values: Any) -> Any:
    return values.map(lambda clock: f"{min(int(clock[:2]) + 1, 23):02d}{clock[2:]}")


def _another_language(values: Any) -> Any:
    """Return texts as long as before in words that nobody has seen: each letter is the next one."""
    return values.map(lambda text: "".join(chr(ord(one) + 1) if one.isalpha() else one for one in str(text)))


def _twice_as_long(values: Any) -> Any:
    return values.map(lambda text: f"{text} {text}")


def _nearly_empty(room: Room) -> None:
    """Leave one value less than decides anything."""
    least, name = settings(room, "drift").min_values, raw_column(room)
    if least < 2:
        raise NotApplicable("one value is enough (`min_values`)")
    frame = room.frame("holdout")
    room.settings("drift", {"predictions": None})  # the model may have no answer to nothing
    few = frame[name].astype("object").where(np.arange(len(frame)) < least - 1, None)
    room.write("holdout", frame.assign(**{name: few.infer_objects()}))


def _too_few(room: Room) -> None:
    least = settings(room, "drift").min_rows
    if least < 2:
        raise NotApplicable("one row is enough (`min_rows`)")
    room.write("train", room.frame("train").head(least - 1))


def _length(room: Room) -> None:
    name = _text(room)
    if settings(room, "drift").columns[name].length is None:
        raise NotApplicable(f"`{name}` has no limit of its length")
    put("holdout", lambda _: name, _twice_as_long)(room)


def _model(factor: float, added: float) -> Callable[[Room], None]:
    """Return a fault that changes what the ONNX file answers, and the digest its importances are known by."""

    def make(room: Room) -> None:
        folder = room.edit(f"build/{room.model}/model")
        graphs.answer(folder, factor, added)
        _relabel(room.edit(IMPORTANCE.format(model=room.model)), digest_folder(folder))

    return make


def _relabel(path: Path, digest: str) -> None:
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**document, "artifact": digest}))


def _other_model(room: Room) -> None:
    _relabel(room.edit(IMPORTANCE.format(model=room.model)), "sha256:" + "0" * 64)


def _drop(name: Callable[[Room], str]) -> Callable[[Room], None]:
    return lambda room: room.write("holdout", room.frame("holdout").drop(columns=name(room)))


FAULTS: tuple[Fault, ...] = tuple(
    Fault("drift", *fault)
    for fault in (
        ("empty input", Verdict.ERROR, change("holdout", lambda frame: frame.head(0))),
        ("missing file", Verdict.ERROR, missing(TRAIN)),
        ("truncated parquet", Verdict.ERROR, cut(TRAIN)),
        ("one row", Verdict.INCONCLUSIVE, change("holdout", lambda frame: frame.head(1))),
        ("too few rows", Verdict.INCONCLUSIVE, _too_few),
        ("missing column", Verdict.FAIL, _drop(raw_column)),
        ("column without a limit", Verdict.FAIL, change("holdout", lambda frame: frame.assign(new=1))),
        ("column without values", Verdict.ERROR, put("holdout", raw_column, lambda values: None)),
        ("column nearly without values", Verdict.INCONCLUSIVE, _nearly_empty),
        ("text in a column of numbers", Verdict.ERROR, put("holdout", _number, lambda values: "many")),
        ("numbers in a column of texts", Verdict.ERROR, put("holdout", _text, lambda values: 7)),
        ("a shift of one column", Verdict.FAIL, put("holdout", _number, _shifted)),
        ("times an hour late", Verdict.FAIL, put("holdout", _time, _hour_later)),
        ("units changed (°F to °C)", Verdict.FAIL, put("train", _held_by_its_mean, _other_unit)),
        ("units changed (hPa to inHg)", Verdict.FAIL, put("holdout", _number, _far_smaller_unit)),
        ("category renamed", Verdict.FAIL, put("holdout", _category, _renamed)),
        ("texts of another language", Verdict.FAIL, put("holdout", _text, _another_language)),
        ("texts twice as long", Verdict.FAIL, _length),
        ("labels flipped, mixed up or in another unit", Verdict.FAIL, wrongly("holdout")),
        ("labels missing", Verdict.FAIL, _drop(label)),
        ("predictions constant", Verdict.FAIL, _model(0.0, 0.5)),
        ("predictions all NaN", Verdict.FAIL, _model(float("nan"), 0.0)),
        ("model missing", Verdict.ERROR, missing("build/{model}/model/model.onnx")),
        ("importances missing", Verdict.ERROR, missing(IMPORTANCE)),
        ("truncated JSON", Verdict.ERROR, cut(IMPORTANCE)),
        ("importances of another model", Verdict.ERROR, _other_model),
        ("no columns to compare", Verdict.ERROR, without("drift", "columns")),
        ("label nobody has", Verdict.ERROR, lambda room: room.declare(label="gone")),
        ("wrong threshold key", Verdict.ERROR, lambda room: room.settings("drift", {"prediction": 0.5})),
        ("negative threshold", Verdict.ERROR, lambda room: room.settings("drift", {"predictions": -0.5})),
        (
            "threshold that is no number",
            Verdict.ERROR,
            lambda room: room.settings("drift", {"weight": "half"}),
        ),
    )
)
