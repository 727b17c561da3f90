"""Score features by the exported model, as the service does; evaluation sees what users will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def session(path: Path) -> Any:
    """Open model.onnx on one thread, without the warning that the converter's label output causes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def score(opened: Any, matrix: np.ndarray) -> np.ndarray:
    """Return the probability of being late for each row of features: float64 `[n]`."""
    if not len(matrix):
        return np.empty(0)
    # Only the probabilities: the label output is declared with the wrong shape.
    probabilities = opened.run(["probabilities"], {"features": matrix})[0]
    return np.asarray(probabilities[:, 1], dtype=np.float64)
