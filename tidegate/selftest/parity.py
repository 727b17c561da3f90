"""What the parity gate must not pass: a service that computes features, or a prediction, in another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.core.verdict import Verdict
from tidegate.selftest.front import Asked, Reply
from tidegate.selftest.room import Fault, Room, as_it_is
from tidegate.selftest.staged import MODEL, Make, answers, bento, fields, gone, healthy, service

FAIL, ERROR = Verdict.FAIL, Verdict.ERROR
QUICK: dict[str, Any] = {"rows": {"holdout": 30, "live": 30}, "drawn": 20, "timeout": 5}


def prepare(room: Room) -> None:
    """A healthy release in staging."""
    healthy(room)


# ---------------------------------------------------------------- what is heard
def _prediction(change: Callable[[Any], Any]) -> Make:
    """Return a fault: each prediction is answered as something else."""

    def make(room: Room) -> None:
        fields("/predict", **{str(_settings(room)["prediction"]): change})(room)

    return make


def _settings(room: Room) -> Any:
    import yaml

    params = yaml.safe_load((room.root / "params.yaml").read_text())
    return params["models"][room.model]["gates"]["parity"]


def _features(change: Callable[[dict[str, Any]], Any]) -> Make:
    return fields("/features", features=change)


def _late_by_one() -> Make:
    """Return a fault: each request gets the answer to the one before it."""
    before: list[Reply] = []

    def change(asked: Asked, reply: Reply) -> Reply:
        before.append(reply)
        return before[-2] if len(before) > 1 else reply

    def make(room: Room) -> None:
        before.clear()
        answers(change, "/predict")(room)

    return make


def _some_fail(asked: Asked, reply: Reply) -> Reply:
    return reply.with_json({}, 500) if asked.number % 33 == 0 else reply


def _drop_one(features: dict[str, Any]) -> dict[str, Any]:
    return dict(list(features.items())[1:])


def _null_to_zero(features: dict[str, Any]) -> dict[str, Any]:
    return {name: value or 0.0 for name, value in features.items()}


# ---------------------------------------------------------------- what is served; see staged.SPOILT
def _computes(code: str) -> Make:
    """Return a fault: the service's `rows` of features go through some code first."""
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    return service(
        f"def features(rows, request, names):\n    rows = np.array(rows)\n{body}\n    return rows\n"
    )


SWAPPED = "rows[:, [1, 2]] = rows[:, [2, 1]]"
CELSIUS = """
place = next((i for i, name in enumerate(names) if "temp" in name), len(names) - 1)
rows[:, place] = (rows[:, place] - 32) / 1.8
"""
# To the minute: a service that starts looks at its examples twice, and must see the same in both ways.
NOW = """
import datetime
rows[:, 0] = datetime.datetime.now().minute
"""
FLOAT16 = "rows = rows.astype(np.float16).astype(np.float32)"
FLOAT32 = "rows = (rows.astype(np.float64) * 0.1).astype(np.float32) * np.float32(10)"
ZEROS = "rows = np.nan_to_num(rows)"
ONE_OFF = "rows[:, 1] += 1"
HIDDEN = """
def answer(columns, rows):
    name = next(iter(columns))
    return {**columns, name: np.round(columns[name].astype(float), 4)}
"""


def _other_weights(copy: Path) -> None:
    """Make the model another one: each leaf of its trees says a little more."""
    import onnx

    path = copy / MODEL / "model.onnx"
    model = onnx.load(path)
    changed = 0
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("class_weights", "target_weights"):
                attribute.floats[:] = [1.05 * value for value in attribute.floats]
                changed += 1
    if not changed:
        raise LookupError("the model has no trees: this fault can't be planted")
    onnx.save(model, path)


def _other_codes(copy: Path) -> None:
    """Swap two categories' codes: what training numbered 0 and 1 is 1 and 0 here."""
    path = copy / MODEL / "features.json"
    content = json.loads(path.read_text())
    lists = [one for one in content["vocabulary"].values() if len(one) > 1]
    for one in lists:
        one[0], one[1] = one[1], one[0]
    path.write_text(json.dumps(content))


# ---------------------------------------------------------------- what the pipeline has
def _missing(name: str) -> Make:
    return lambda room: room.edit(name.format(model=room.model)).unlink()


def _saved(change: Callable[[Any], Any]) -> Make:
    """Return a fault: the saved predictions are others."""

    def make(room: Room) -> None:
        name = f"build/{room.model}/predictions.parquet"
        column, frame = _settings(room)["prediction"], room.frame(name)
        room.write(name, frame.assign(**{column: change(frame[column].to_numpy())}))

    return make


def _fewer_saved(room: Room) -> None:
    name = f"build/{room.model}/predictions.parquet"
    room.write(name, room.frame(name).iloc[:10])


def _no_live(room: Room) -> None:
    room.write("live", room.frame("live").iloc[:0])


def _no_column(room: Room) -> None:
    frame = room.frame("holdout")
    room.write("holdout", frame.drop(columns=frame.columns[3]))


def _training_code(room: Room) -> None:
    """Let training compute in another way than the Bento that was packaged before."""
    package = room.model.replace("-", "_")
    path = room.edit(f"models/{package}/features.py")
    path.write_text(path.read_text() + MORE)


MORE = """

_compute_columns = compute_columns


def compute_columns(columns, vocabulary):
    result = _compute_columns(columns, vocabulary)
    result[:, 0] += 1
    return result
"""


def _truncated_model(room: Room) -> None:
    path = room.edit(f"build/{room.model}/model") / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1000])


def _shuffle(values: Any) -> Any:
    return np.random.default_rng(1).permutation(values)


FAULTS = (
    Fault("parity", "no /features", ERROR, answers(lambda _, reply: reply.with_json({}, 404), "/features")),
    Fault("parity", "no feature is named", ERROR, _features(lambda features: {})),
    Fault("parity", "one feature is missing", FAIL, _features(_drop_one)),
    Fault("parity", "unknown is answered as 0", FAIL, _features(_null_to_zero)),
    Fault("parity", "predictions rounded", FAIL, _prediction(lambda value: round(value, 4))),
    Fault("parity", "predictions constant", FAIL, _prediction(lambda value: 0.25)),
    Fault("parity", "predictions inverted", FAIL, _prediction(lambda value: 1 - value)),
    Fault("parity", "predictions NaN", FAIL, _prediction(lambda value: float("nan"))),
    Fault("parity", "predictions of the request before", FAIL, _late_by_one()),
    Fault("parity", "3% of responses failing", FAIL, answers(_some_fail)),
    Fault("parity", "another release answers", FAIL, fields("", release="0" * 12)),
    Fault("parity", "nobody answers", ERROR, gone),
    Fault("parity", "no row asked for", ERROR, as_it_is, {"rows": {"holdout": 0, "live": 0}}),
    Fault("parity", "no prediction named", ERROR, as_it_is, {"prediction": ""}),
    Fault("parity", "negative tolerance", ERROR, as_it_is, {"tolerance": -1}),
    Fault("parity", "wrong threshold key", ERROR, as_it_is, {"tolerence": 1}),
    Fault("parity", "missing holdout", ERROR, _missing("data/{model}/holdout.parquet")),
    Fault("parity", "missing column", ERROR, _no_column),
    Fault("parity", "empty live stream", ERROR, _no_live),
    Fault("parity", "missing predictions", ERROR, _missing("build/{model}/predictions.parquet")),
    Fault("parity", "saved predictions of fewer rows", ERROR, _fewer_saved),
    Fault("parity", "all-NaN saved predictions", ERROR, _saved(lambda values: values * np.nan)),
    Fault("parity", "saved predictions shuffled", FAIL, _saved(_shuffle)),
    Fault("parity", "truncated model", ERROR, _truncated_model),
    Fault("parity", "training computes otherwise", FAIL, _training_code),
    Fault("parity", "feature order swapped", FAIL, _computes(SWAPPED)),
    Fault("parity", "units changed (°F to °C)", FAIL, _computes(CELSIUS)),
    Fault("parity", "float32 rounding", FAIL, _computes(FLOAT32)),
    Fault("parity", "float16 rounding", FAIL, _computes(FLOAT16)),
    Fault("parity", "unknown counts as 0", FAIL, _computes(ZEROS)),
    Fault("parity", "an hour off", FAIL, _computes(ONE_OFF)),
    Fault("parity", "a feature of the time of the request", FAIL, _computes(NOW)),
    Fault("parity", "prediction rounded inside", FAIL, service(HIDDEN)),
    Fault("parity", "wrong model in the Bento", FAIL, bento(_other_weights)),
    Fault("parity", "categories numbered otherwise", FAIL, bento(_other_codes)),
)
