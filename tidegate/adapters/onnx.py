"""ONNX: whether a file is a model that the runtime can load by itself, told by parsing it; and asking one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tidegate.errors import NoData


def problem(path: Path, domains: Collection[str]) -> str:
    """Return why a file is no ONNX model, or needs more than its folder and `domains`; or nothing.

    `domains` are those of operators that the runtime brings along; others need a library of somebody's.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        return str(error).strip().split("\n", 1)[0] or "it can't be parsed"
    used = {node.domain for node in model.graph.node} | {function.domain for function in model.functions}
    if foreign := sorted(used - set(domains)):
        return f"it needs operators of {', '.join(foreign)}"
    folder = path.parent.resolve()
    places = [
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    outside = [place for place in places if not (folder / place).resolve().is_relative_to(folder)]
    return f"its weights lie outside of its folder, in {outside[0]}" if outside else ""


def asker(path: Path) -> Callable[[Any], dict[str, Any]]:
    """Return what maps rows of features [n, F] to the model's outputs that are numbers: name → [n].

    An output of several columns gives each one by its place, as in `scores[1]`. Raises NoData for a model
    that does not take one matrix of numbers.
    """
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    if len(inputs) != 1 or inputs[0].type not in kinds or len(inputs[0].shape) != 2:
        raise NoData("the model does not take one matrix of numbers", "Explain it by its own means.")

    names = [output.name for output in session.get_outputs() if output.type in kinds]

    def ask(rows: Any) -> dict[str, Any]:
        given = np.asarray(rows, dtype=kinds[inputs[0].type])
        found = {}
        for name, values in zip(names, session.run(names, {inputs[0].name: given}), strict=True):
            columns = np.asarray(values).reshape(len(given), -1)
            for index in range(columns.shape[1]):
                found[name if columns.shape[1] == 1 else f"{name}[{index}]"] = columns[:, index]
        return found

    return ask
