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
