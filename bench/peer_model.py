"""The model as both peers open it: the same file, the same options, the same vocabulary of features."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime

from models.flight_delay import features

folder = Path(os.environ["BENCH_MODEL"])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
vocabulary = features.load(folder / "features.json")
