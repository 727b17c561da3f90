"""A model that answers something else: its ONNX graph, whatever is in it, with a sum behind each output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.selftest.room import NotApplicable

SPOILT = "before_it_was_spoilt"


def answer(folder: Path, factor: float, added: float) -> None:
    """Let every ONNX file of a folder answer `factor` times what it did, and `added` more.

    Raises NotApplicable where a file has no output of numbers.
    """
    import onnx

    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path)
        outputs = [one for one in model.graph.output if _type(one) is not None]
        if not outputs:
            raise NotApplicable(f"{path.name} has no output of numbers")
        for one in outputs:
            _behind(model.graph, one, factor, added)
        onnx.save(model, path)


def _type(output: Any) -> Any:
    from onnx import TensorProto

    kind = output.type.tensor_type.elem_type
    numbers = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    return kind if output.type.HasField("tensor_type") and kind in numbers else None


def _behind(graph: Any, output: Any, factor: float, added: float) -> None:
    """Put a product and a sum behind an output, under the output's name."""
    import numpy as np
    from onnx import helper, numpy_helper

    before = f"{output.name}_{SPOILT}"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == output.name:
                    names[place] = before
    numbers = helper.tensor_dtype_to_np_dtype(_type(output))
    for role, value in (("factor", factor), ("added", added)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, numbers), f"{before}_{role}"))
    graph.node.append(helper.make_node("Mul", [before, f"{before}_factor"], [f"{before}_product"]))
    graph.node.append(helper.make_node("Add", [f"{before}_product", f"{before}_added"], [output.name]))
