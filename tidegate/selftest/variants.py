"""Faults of the `variants` gate: variants that lost too much, and files that can't be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.core.verdict import Verdict
from tidegate.files import digest_folder
from tidegate.selftest import champion
from tidegate.selftest.room import Fault, Room, as_it_is

FEW: dict[str, Any] = {"rows": 1000, "timed": 5}
QUICK = FEW


def prepare(room: Room) -> None:
    """Give the model a variant that is no other than itself, in place of its own."""
    folder = _folder(room)
    for path in folder.glob("model.*.onnx"):
        path.unlink()
    shutil.copyfile(folder / "model.onnx", folder / "model.same.onnx")
    (room.edit(f"services/{room.package}") / "settings.yaml").write_text("variant: same\n")
    _as_evaluated(room)


def _folder(room: Room) -> Path:
    return room.edit(f"build/{room.model}/model")


def _as_evaluated(room: Room) -> None:
    """Let importance.json, which evaluation writes with the predictions, be of the files that are here."""
    path = room.edit(f"build/{room.model}/importance.json")
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"artifact": digest_folder(_folder(room))}))


def _variant(change: Callable[[Room, Path], None]) -> Callable[[Room], None]:
    """Return a fault that changes the variant, and evaluates it as if it had always been so."""

    def make(room: Room) -> None:
        change(room, _folder(room) / "model.same.onnx")
        _as_evaluated(room)

    return make


def _after(
    path: Path, operators: list[tuple[str, dict[str, Any], list[tuple[str, np.ndarray[Any, Any]]]]]
) -> None:
    """Append operators to what the model answers last; each has further inputs that are constants."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    answer = model.graph.output[-1].name
    for node in model.graph.node:
        node.output[:] = [f"{answer}/before" if name == answer else name for name in node.output]
    value = f"{answer}/before"
    for place, (operator, attributes, constants) in enumerate(operators):
        named = [(f"{answer}/{place}/{name}", array) for name, array in constants]
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in named)
        made = answer if place + 1 == len(operators) else f"{answer}/{place}"
        inputs = [value, *(name for name, _ in named)]
        model.graph.node.append(helper.make_node(operator, inputs, [made], **attributes))
        value = made
    onnx.save(model, path)


def _scaled(path: Path, factor: float, more: float) -> None:
    """Let the model answer `factor` times what it did, and `more`."""
    _after(
        path,
        [
            ("Mul", {}, [("factor", np.array(factor, dtype=np.float32))]),
            ("Add", {}, [("more", np.array(more, dtype=np.float32))]),
        ],
    )


def _classes(room: Room) -> int:
    """Return how many numbers a row the model's file answers with: one but for a classification."""
    return len(room.declared.classes) or (2 if room.declared.task == "classification" else 1)


def _turned(room: Room, path: Path) -> None:
    """Let each class have the probability of the next; let numbers and orders be turned round."""
    count = _classes(room)
    if count == 1:
        return _scaled(path, -1.0, 0.0)
    order = np.roll(np.arange(count, dtype=np.int64), 1)
    return _after(path, [("Gather", {"axis": 1}, [("order", order)])])


def _dull(room: Room, path: Path) -> None:
    """Let probabilities lie near those of a model that knows nothing, and numbers near 0."""
    count = _classes(room)
    _scaled(path, 0.1, 0.9 / count if count > 1 else 0.0)


def _no_number(room: Room, path: Path) -> None:
    _scaled(path, float("nan"), 0.0)


def _cut(room: Room, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(room: Room, path: Path) -> None:
    path.write_bytes(b"")


def _not_there(room: Room) -> None:
    """Serve a variant that the model has not."""
    (room.edit(f"services/{room.package}") / "settings.yaml").write_text("variant: gone\n")


def _not_there_for_gpus(room: Room) -> None:
    """Name a variant for GPUs that the model has not: nothing but its name is wrong."""
    (room.edit(f"services/{room.package}") / "settings.yaml").write_text("gpu: {variant: sane}\n")


def _unknown_key(room: Room) -> None:
    (room.edit(f"services/{room.package}") / "settings.yaml").write_text("varient: same\n")


def _no_rows(room: Room) -> None:
    champion.first(0)(room)


def _no_margin(room: Room) -> None:
    room.settings("variants", {"margins": dict.fromkeys(_margins(room))})


def _margins(room: Room) -> Any:
    from gates.variants import VariantsSettings
    from tidegate import params

    return params.load(room.root).settings("variants", room.model, VariantsSettings).margins


def _fault(name: str, expected: Verdict, make: Any, **settings: Any) -> Fault:
    return Fault("variants", name, expected, make, settings)


FAULTS = (
    _fault("variant that says the contrary", Verdict.FAIL, _variant(_turned)),
    _fault("variant that lost nearly all it knew", Verdict.FAIL, _variant(_dull)),
    _fault("variant that answers NaN", Verdict.ERROR, _variant(_no_number)),
    _fault("variant cut in half", Verdict.ERROR, _variant(_cut)),
    _fault("variant that is empty", Verdict.ERROR, _variant(_empty)),
    _fault("served variant that is not there", Verdict.FAIL, _not_there),
    _fault("variant for GPUs that is not there", Verdict.FAIL, _not_there_for_gpus),
    _fault("settings with an unknown key", Verdict.ERROR, _unknown_key),
    _fault("predictions of another model", Verdict.ERROR, champion.stale),
    _fault("predictions of other rows", Verdict.ERROR, champion.other_rows),
    _fault("holdout without rows", Verdict.ERROR, _no_rows),
    _fault("fewer rows than min_rows", Verdict.INCONCLUSIVE, as_it_is, rows=100, min_rows=500),
    _fault("no metric with a margin", Verdict.ERROR, _no_margin),
    _fault("wrong metric key", Verdict.ERROR, as_it_is, margins={"acu": 0.01}),
    _fault("negative margin", Verdict.ERROR, as_it_is, margins={"auc": -0.01}),
)
