"""Faults of the `drift` gate: data that moved, a model that answers otherwise, nothing to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.core.verdict import Verdict
from tidegate.files import digest_folder
from tidegate.selftest.frames import change, cut, missing, put, settings, shrink, without
from tidegate.selftest.room import Fault, Room

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
        drift = settings(room, "drift")
        shares = msgspec.json.decode((room.root / f"build/{room.model}/importance.json").read_bytes())[
            "shares"
        ]
        known = [one for one, spec in drift.columns.items() if spec.kind == kind and one != drift.label]
        return str(max(known, key=lambda one: shares[one]))

    return name


_number, _category, _time = (_of_kind(kind) for kind in ("number", "category", "time"))


def _label(room: Room) -> str:
    return str(settings(room, "drift").label)


def _fahrenheit(room: Room) -> str:
    """Return a column whose units the data gate tells by its mean."""
    return next(str(name) for name, spec in settings(room, "data").columns.items() if spec.mean)


# ---------------------------------------------------------------- changes
def _shifted(values: Any) -> Any:
    return values + values.std()


def _to_celsius(values: Any) -> Any:
    return (values - 32) / 1.8


def _to_inches(values: Any) -> Any:
    return values / 33.8639


def _renamed(values: Any) -> Any:
    return values.replace({values.mode()[0]: "renamed"})


def _hour_later(values: Any) -> Any:
    return values.map(lambda clock: f"{min(int(clock[:2]) + 1, 23):02d}{clock[2:]}")


def _nearly_empty(values: Any) -> Any:
    return values.where(np.arange(len(values)) < 20)


def _model(edit: Callable[[Any], None]) -> Callable[[Room], None]:
    """Return a fault that changes the ONNX file, and the digest by which its importances are known."""

    def make(room: Room) -> None:
        import onnx

        folder = room.edit(f"build/{room.model}/model")
        model = onnx.load(folder / "model.onnx")
        edit(model)
        onnx.save(model, folder / "model.onnx")
        _relabel(room.edit(IMPORTANCE.format(model=room.model)), digest_folder(folder))

    return make


def _relabel(path: Path, digest: str) -> None:
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**document, "artifact": digest}))


def _weights(value: float) -> Callable[[Any], None]:
    """Return what gives every leaf of the trees one value."""

    def edit(model: Any) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name in ("class_weights", "target_weights"):
                    count = len(attribute.floats)
                    del attribute.floats[:]
                    attribute.floats.extend([value] * count)

    return edit


def _other_model(room: Room) -> None:
    _relabel(room.edit(IMPORTANCE.format(model=room.model)), "sha256:" + "0" * 64)


FAULTS: tuple[Fault, ...] = tuple(
    Fault("drift", *fault)
    for fault in (
        ("empty input", Verdict.ERROR, change("holdout", lambda frame: frame.head(0))),
        ("missing file", Verdict.ERROR, missing(TRAIN)),
        ("truncated parquet", Verdict.ERROR, cut(TRAIN)),
        ("one row", Verdict.INCONCLUSIVE, change("holdout", lambda frame: frame.head(1))),
        ("too few rows", Verdict.INCONCLUSIVE, change("train", lambda frame: frame.head(500))),
        ("missing column", Verdict.FAIL, lambda room: _drop(room, _category(room))),
        ("column without a limit", Verdict.FAIL, change("holdout", lambda frame: frame.assign(new=1))),
        ("column without values", Verdict.ERROR, put("holdout", _number, lambda values: np.nan)),
        ("column nearly without values", Verdict.INCONCLUSIVE, put("holdout", _category, _nearly_empty)),
        ("text in a column of numbers", Verdict.ERROR, put("holdout", _number, lambda values: "many")),
        ("a shift of one column", Verdict.FAIL, put("holdout", _number, _shifted)),
        ("times an hour late", Verdict.FAIL, put("holdout", _time, _hour_later)),
        ("units changed (°F to °C)", Verdict.FAIL, put("train", _fahrenheit, _to_celsius)),
        ("units changed (hPa to inHg)", Verdict.FAIL, put("holdout", _number, _to_inches)),
        ("category renamed", Verdict.FAIL, put("holdout", _category, _renamed)),
        ("labels flipped", Verdict.FAIL, put("holdout", _label, lambda values: 1 - values)),
        ("labels missing", Verdict.FAIL, lambda room: _drop(room, _label(room))),
        ("predictions constant", Verdict.FAIL, _model(_weights(0.0))),
        ("predictions all NaN", Verdict.FAIL, _model(_weights(float("nan")))),
        ("model missing", Verdict.ERROR, missing("build/{model}/model/model.onnx")),
        ("importances missing", Verdict.ERROR, missing(IMPORTANCE)),
        ("truncated JSON", Verdict.ERROR, cut(IMPORTANCE)),
        ("importances of another model", Verdict.ERROR, _other_model),
        ("no columns to compare", Verdict.ERROR, without("drift", "columns")),
        ("wrong threshold key", Verdict.ERROR, lambda room: room.settings("drift", {"prediction": 0.5})),
        ("negative threshold", Verdict.ERROR, lambda room: room.settings("drift", {"predictions": -0.5})),
        (
            "threshold that is no number",
            Verdict.ERROR,
            lambda room: room.settings("drift", {"weight": "half"}),
        ),
    )
)


def _drop(room: Room, name: str) -> None:
    room.write("holdout", room.frame("holdout").drop(columns=name))
