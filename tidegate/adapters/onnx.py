"""ONNX: whether a file is a model that the runtime can load by itself, told by parsing it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


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
