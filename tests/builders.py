"""Small real things that several rooms' tests need; add, don't rewrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def tiny_model(folder: Path, *, late: float = 0.3, rows: int = 3) -> Path:
    """Write an artifact of flight-delay as training does; it answers `late` plus 0.001 an hour of the day.

    Missing features count as 0, as unknown as they are; made by hand in milliseconds, not trained.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save_model

    from models.flight_delay import features

    count = len(features.FEATURES)
    weights = np.zeros((count, 1), dtype=np.float32)
    weights[features.FEATURES.index("hour")] = 0.001
    constants = {"zero": np.float32(0), "one": np.float32(1), "weights": weights, "bias": np.float32(late)}
    nodes = [
        helper.make_node("IsNaN", ["input"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "input"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["late"]),
        helper.make_node("Sub", ["one", "late"], ["on_time"]),
        helper.make_node("Concat", ["on_time", "late"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("input", TensorProto.FLOAT, [None, count])],
        [value("label", TensorProto.INT64, [None]), value("probabilities", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model)
    folder.mkdir(parents=True)
    save_model(model, folder / "model.onnx")
    seen = features.Vocabulary.of({"carrier": ["UA"], "origin": ["EWR"], "dest": ["IAH"]})
    (folder / "features.json").write_text(json.dumps(features.document(seen)))
    (folder / "examples.json").write_text(json.dumps([flight_row() for _ in range(rows)]))
    return folder


def flight_row(**changes: Any) -> dict[str, Any]:
    """Return a sound request to flight-delay, with changes."""
    row = {
        "date": "2013-07-04",
        "sched_dep_time": "17:45",
        "carrier": "UA",
        "flight": 1545,
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "distance": 1400,
        "plane": {"year": 1999, "seats": 149},
        "weather": {
            "temp": 75.0,
            "dewp": 60.1,
            "humid": 61.0,
            "wind_dir": 230,
            "wind_speed": 10.4,
            "wind_gust": None,
            "precip": 0.0,
            "pressure": 1015.2,
            "visib": 10.0,
        },
    }
    return {**row, **changes}


class GateRoom:
    """A checkout just large enough for gate scripts: params.yaml, data/, build/, envs/ of model `toy`."""

    def __init__(self, root: Path, gate: str, settings: dict[str, Any]) -> None:
        self.root, self.gate = root, gate
        self.data, self.build = root / "data" / "toy", root / "build" / "toy"
        self.data.mkdir(parents=True)
        self.build.mkdir(parents=True)
        self.set(settings)

    def set(self, settings: dict[str, Any], model: dict[str, Any] | None = None) -> None:
        """Write params.yaml: the gate's section, and what the model lays over it."""
        own = {self.gate: model} if model else {}
        content = {"models": {"toy": {"gates": own}}, "gates": {self.gate: settings}}
        (self.root / "params.yaml").write_text(json.dumps(content))  # JSON is YAML

    def run(self, *arguments: str) -> tuple[int, Any]:
        """Run the real script as a process; return its exit code and the report it wrote."""
        import os
        import subprocess
        import sys

        from tidegate import report

        script = Path(__file__).parents[1] / "gates" / f"{self.gate}.py"
        done = subprocess.run(
            [sys.executable, str(script), "toy", *arguments],
            cwd=self.root,
            env={**os.environ, "TIDEGATE_HOME": str(self.root / ".tidegate")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        print(done.stdout, done.stderr)
        return done.returncode, report.read_report(self.build / "gates" / f"{self.gate}.json")
