"""What the parity gate must not pass: a service that computes features, or a prediction, in another way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tidegate import scoring
from tidegate.core.verdict import Verdict
from tidegate.selftest import graphs
from tidegate.selftest.frames import raw_column, settings
from tidegate.selftest.front import Asked, Reply
from tidegate.selftest.room import Fault, NotApplicable, Room, as_it_is
from tidegate.selftest.staged import MODEL, Make, answers, bento, fields, gone, healthy, service

FAIL, ERROR = Verdict.FAIL, Verdict.ERROR
QUICK: dict[str, Any] = {"rows": {"holdout": 30, "live": 30}, "drawn": 20, "timeout": 5}
LOOKED_AT = 500  # rows of the holdout by which it is told whether a fault changes anything
COARSE = 20  # tolerances between two numbers that are rounded to


def prepare(room: Room) -> None:
    """A healthy release in staging."""
    healthy(room)


# ---------------------------------------------------------------- what is heard
def _prediction(change: Callable[[Any, float], Any]) -> Make:
    """Return a fault: each prediction is answered as something else; `change` gets it and a coarse step."""

    def make(room: Room) -> None:
        step = _step(room)
        changed = {name: lambda value: change(value, step) for name in room.declared.columns}
        fields("/predict", **changed)(room)

    return make


def _step(room: Room) -> float:
    """Return a step that is coarse beside the tolerance."""
    return max(1e-4, COARSE * float(settings(room, "parity").tolerance))


def _rounded(value: Any, step: float) -> Any:
    return round(value / step) * step


def _inverted(room: Room) -> None:
    whole = 1 if room.declared.task == "classification" else 0
    _prediction(lambda value, step: whole - value)(room)


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


def _null_to_zero(room: Room) -> None:
    _seen_by(room, ZEROS)
    _features(lambda features: {name: value or 0.0 for name, value in features.items()})(room)


# ---------------------------------------------------------------- what is served; see staged.SPOILT
def _seen_by(room: Room, code: str) -> None:
    """Raise NotApplicable where some code, run on the pipeline's features, changes none of them enough."""
    matrix, names = _matrix(room)
    known: dict[str, Any] = {"rows": np.array(matrix), "names": names, "np": np}
    exec(code, known)  # noqa: S102 - one of the texts below
    after, before = (np.nan_to_num(np.asarray(one, np.float64), nan=1e30) for one in (known["rows"], matrix))
    if not (np.abs(after - before) > settings(room, "parity").tolerance).any():
        raise NotApplicable("it changes no feature of the holdout by more than the tolerance")


def _matrix(room: Room) -> tuple[Any, list[str]]:
    """Return features of some rows of the holdout, and their names."""
    names, compute = scoring.features(room.root, room.package, room.root / "build" / room.model / "model")
    return compute(room.frame("holdout").head(LOOKED_AT)), list(names)


def _computes(code: str) -> Make:
    """Return a fault: the service's `rows` of features go through some code first."""
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    spoil = service(
        f"def features(rows, request, names):\n    rows = np.array(rows)\n{body}\n    return rows\n"
    )

    def make(room: Room) -> None:
        _seen_by(room, code)
        spoil(room)

    return make


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
    rounded = {{name: np.round(np.asarray(columns[name], float) / {step}) * {step} for name in {names}}}
    return {{**columns, **rounded}}
"""


def _rounded_inside(room: Room) -> None:
    service(HIDDEN.format(step=_step(room), names=list(room.declared.columns)))(room)


def _other_weights(copy: Path) -> None:
    """Make the model another one: all that it answers is a twentieth less."""
    graphs.answer(copy / MODEL, 0.95, 0.0)


def _other_codes(room: Room) -> None:
    """Number categories, or words, otherwise than training did: neighbours' numbers are swapped."""
    path = room.edit(f"build/{room.model}/model") / "features.json"
    before = path.read_text()
    usual, _ = _matrix(room)
    for document in _swaps(json.loads(before)):
        path.write_text(json.dumps(document, ensure_ascii=False))
        try:
            other, _ = _matrix(room)
        except Exception:  # noqa: S112 - the model's own code refuses it: a service would not start, either
            continue
        if not np.array_equal(other, usual, equal_nan=True):
            break
    else:
        raise NotApplicable("features.json numbers no categories or words that the holdout holds")
    after = path.read_text()
    path.write_text(before)

    def edit(copy: Path) -> None:
        (copy / MODEL / "features.json").write_text(after)

    bento(edit)(room)


def _swaps(value: Any) -> Iterator[Any]:
    """Yield JSON in which neighbours are swapped in one list of texts, or one mapping of words to numbers."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value):
        yield [value[1], value[0], *value[2:]]
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in _swaps(one))
    elif isinstance(value, dict) and len(value) > 1 and all(type(one) is int for one in value.values()):
        words = [name for name in value if name.isalnum()]
        pairs = dict(zip(words[::2], words[1::2], strict=False))
        turned = pairs | {second: first for first, second in pairs.items()}
        if turned:
            yield {name: value[turned.get(name, name)] for name in value}
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from ({**value, name: other} for other in _swaps(one))


# ---------------------------------------------------------------- what the pipeline has
def _missing(name: str) -> Make:
    return lambda room: room.edit(name.format(model=room.model)).unlink()


def _saved(change: Callable[[Any], Any]) -> Make:
    """Return a fault: the saved predictions are others."""

    def make(room: Room) -> None:
        name = f"build/{room.model}/predictions.parquet"
        frame = room.frame(name)
        changed = {column: change(frame[column].to_numpy()) for column in room.declared.columns}
        room.write(name, frame.assign(**changed))

    return make


def _fewer_saved(room: Room) -> None:
    name = f"build/{room.model}/predictions.parquet"
    room.write(name, room.frame(name).iloc[:10])


def _no_live(room: Room) -> None:
    room.write("live", room.frame("live").iloc[:0])


def _no_column(room: Room) -> None:
    room.write("holdout", room.frame("holdout").drop(columns=raw_column(room)))


def _training_code(room: Room) -> None:
    """Let training compute in another way than the Bento that was packaged before."""
    path = room.edit(f"models/{room.package}/features.py")
    path.write_text(path.read_text() + MORE)


MORE = """

_compute_columns = compute_columns


def compute_columns(columns, loaded):
    result = _compute_columns(columns, loaded)
    result[:, 0] += 1
    return result
"""


def _truncated_model(room: Room) -> None:
    for path in (room.edit(f"build/{room.model}/model")).glob("*.onnx"):
        path.write_bytes(path.read_bytes()[:-1000])


def _shuffle(values: Any) -> Any:
    return np.random.default_rng(1).permutation(values)


FAULTS = (
    Fault("parity", "no /features", ERROR, answers(lambda _, reply: reply.with_json({}, 404), "/features")),
    Fault("parity", "no feature is named", ERROR, _features(lambda features: {})),
    Fault("parity", "one feature is missing", FAIL, _features(_drop_one)),
    Fault("parity", "unknown is answered as 0", FAIL, _null_to_zero),
    Fault("parity", "predictions rounded", FAIL, _prediction(_rounded)),
    Fault("parity", "predictions constant", FAIL, _prediction(lambda value, step: 0.25)),
    Fault("parity", "predictions inverted", FAIL, _inverted),
    Fault("parity", "predictions NaN", FAIL, _prediction(lambda value, step: float("nan"))),
    Fault("parity", "predictions of the request before", FAIL, _late_by_one()),
    Fault("parity", "3% of responses failing", FAIL, answers(_some_fail)),
    Fault("parity", "another release answers", FAIL, fields("", release="0" * 12)),
    Fault("parity", "nobody answers", ERROR, gone),
    Fault("parity", "no row asked for", ERROR, as_it_is, {"rows": {"holdout": 0, "live": 0}}),
    Fault("parity", "no prediction declared", ERROR, lambda room: room.declare(prediction="")),
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
    Fault("parity", "one off in a feature", FAIL, _computes(ONE_OFF)),
    Fault("parity", "a feature of the time of the request", FAIL, _computes(NOW)),
    Fault("parity", "prediction rounded inside", FAIL, _rounded_inside),
    Fault("parity", "wrong model in the Bento", FAIL, bento(_other_weights)),
    Fault("parity", "categories or words numbered otherwise", FAIL, _other_codes),
)
