"""Score token ids by one of the model's files, as the service does; evaluation sees what users will."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOGETHER = 32  # rows at once; more are no faster on a CPU
ALONE = "int8"  # its activations are scaled by all that is computed at once: a row would depend on the others


class Opened(NamedTuple):
    """A session, and how many rows it is given at once."""

    session: Any
    together: int


def session(path: Path) -> Opened:
    """Open model.onnx or one of its variants, on all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores have other work, too
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Opened(opened, 1 if f".{ALONE}." in path.name else TOGETHER)


def score(opened: Opened, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the probabilities of each row of token ids: float64 `[n, 3]`, negative, neutral, positive."""
    lengths = (matrix != 0).sum(axis=1)
    result = np.zeros((len(matrix), 3))
    order = np.argsort(lengths, kind="stable")  # rows as long as each other have little padding
    for start in range(0, len(order), opened.together):
        rows = order[start : start + opened.together]
        part = np.ascontiguousarray(matrix[rows, : max(int(lengths[rows].max()), 1)])
        result[rows] = opened.session.run(["probabilities"], {"features": part})[0]
    return result
