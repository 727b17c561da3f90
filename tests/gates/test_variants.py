"""The variants gate: each file of a model beside the whole one, on the same rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gates import variants
from tests.builders import GateRoom, tiny_model
from tests.gates.test_quality import checkout, evaluated, flights
from tidegate.core.verdict import Verdict
from tidegate.scoring import scorer
from tidegate.selftest import variants as faults
from tidegate.selftest.room import Room

SETTINGS: dict[str, Any] = {
    "rows": 800,
    "min_rows": 200,
    "seed": 1,
    "margins": {"auc": 0.02, "log_loss": 0.02},
    "confidence": 0.95,
    "threshold": 0.5,
    "timed": 3,
}


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout of `toy`, evaluated by model.onnx, which is all that there is of it."""
    made: GateRoom = checkout(tmp_path, "variants", SETTINGS)
    frame = flights(1000)
    frame.to_parquet(made.data / "holdout.parquet")
    probability = scorer(made.root, "toy", made.build / "model")(
        {name: frame[name].to_numpy() for name in frame}
    )
    pd.DataFrame({"late": frame["late"], "probability": probability}).to_parquet(
        made.build / "predictions.parquet"
    )
    return made


def variant(room: GateRoom, name: str, late: float = 0.2) -> None:
    """Add a variant that answers `late` more than it should, as of before evaluation."""
    made = tiny_model(room.root / "made", late=late)
    shutil.copyfile(made / "model.onnx", room.build / "model" / f"model.{name}.onnx")
    shutil.rmtree(made)
    evaluated(room, room.build / "model")


def serve(room: GateRoom, text: str) -> None:
    """Write the service's settings."""
    folder = room.root / "services" / "toy"
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(text)


def test_a_model_of_one_file_has_nothing_to_compare(room: GateRoom) -> None:
    """Without variants the gate is not applicable, and says which file there is."""
    code, found = room.run()
    assert (code, found.verdict) == (0, Verdict.NOT_APPLICABLE)
    assert "has one file, model.onnx" in found.findings[0].reason


def test_an_equal_variant_passes_and_is_timed(room: GateRoom) -> None:
    """Each metric is named with its variant; what each file takes is apart from the report."""
    variant(room, "int8")
    code, found = room.run()
    assert (code, found.verdict) == (0, Verdict.PASS)
    assert {one.name for one in found.findings} == {"rows", "auc of int8", "log_loss of int8"}
    took = json.loads((room.build / "latency.json").read_text())["milliseconds_a_row"]
    assert set(took) == {"model.onnx", "model.int8.onnx"}
    assert all(value > 0 for value in took.values())
    assert found.measurements["rows"] == 800
    first = (room.build / "gates" / "variants.json").read_bytes()
    room.run()
    assert (room.build / "gates" / "variants.json").read_bytes() == first


def test_a_variant_that_loses_more_than_its_margin_fails(room: GateRoom) -> None:
    """The one that is off fails by its own name, and the sound one beside it does not."""
    variant(room, "fp16")
    variant(room, "int8", late=0.7)
    code, found = room.run()
    assert code == Verdict.FAIL.exit_code
    by_name = {one.name: one.verdict for one in found.findings}
    assert by_name["log_loss of int8"] is Verdict.FAIL
    assert by_name["log_loss of fp16"] is Verdict.PASS
    (table,) = found.tables
    assert [row[:2] for row in table.rows] == [
        (name, metric) for name in ("fp16", "int8") for metric in ("auc", "log_loss")
    ]


def test_a_served_variant_must_be_there(room: GateRoom) -> None:
    """Settings that name no file of the model fail, with the names that there are; so where there is none."""
    serve(room, "variant: fp16\n")
    code, found = room.run()
    assert code == Verdict.FAIL.exit_code
    variant(room, "int8")
    code, found = room.run()
    reasons = " ".join(one.reason for one in found.findings if one.verdict is Verdict.FAIL)
    assert code == Verdict.FAIL.exit_code
    assert "serves the variant `fp16`, and the model has int8" in reasons


@pytest.mark.parametrize(
    ("said", "verdict"), [("fp61", Verdict.FAIL), ("fp16", Verdict.PASS), ('""', None), ("null", None)]
)
def test_a_variant_named_for_gpus_must_be_there(room: GateRoom, said: str, verdict: Verdict | None) -> None:
    """A misspelt `gpu.variant` fails with the names that there are; what names no variant is no finding."""
    variant(room, "fp16")
    serve(room, f"gpu: {{variant: {said}}}\n")
    code, report = room.run()
    found = {one.name: one for one in report.findings if one.name.startswith("served")}
    assert code == (verdict or Verdict.PASS).exit_code
    assert [one.verdict for one in found.values()] == ([verdict] if verdict else [])
    if verdict:
        reason = found["served variant on a GPU"].reason
        assert f"serves the variant `{said}` on a GPU, and the model has fp16" in reason


def test_times_of_an_earlier_run_do_not_survive(room: GateRoom) -> None:
    """A variant that is gone leaves no time behind."""
    variant(room, "int8")
    room.run()
    (room.build / "model" / "model.int8.onnx").unlink()
    evaluated(room, room.build / "model")
    room.run()
    assert json.loads((room.build / "latency.json").read_text()) == {}


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_each_seeded_fault_is_noticed(room: GateRoom, tmp_path: Path, fault: Any) -> None:
    """What the selftest plants in a real checkout is noticed in a small one, too."""
    serve(room, "threads: 1\n")
    (room.root / "gates").symlink_to(Path(variants.__file__).parent)
    for name in ("dvc.yaml", "pyproject.toml"):
        (room.root / name).touch()
    made = Room.make(room.root, tmp_path / "fault", "toy")
    try:
        faults.prepare(made)
        fault.make(made)
        made.settings("variants", {"min_rows": 200, "timed": 2, **fault.settings})
        code = variants.GATE.main(["toy"], made.root)
    finally:
        made.close()
    assert code == fault.expected.exit_code
