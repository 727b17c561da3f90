"""Two small services of other tasks than flight-delay's: a text into three classes, and a number in minutes.

Their models are ONNX made by hand, their shell is the real one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from tidegate.serving import OnnxModel

CLASSES = ("negative", "neutral", "positive")
TOKENS = 64
TEXTS = ["good", "bad", "a table", "Größe 大 \N{PILE OF POO}", 'say "no"\n\\ twice', "x" * 300]
Share = Annotated[float, Meta(ge=0, le=1)]


# ---------------------------------------------------------------- models
def onnx_model(path: Path, weights: np.ndarray, output: str, *, softmax: bool) -> Path:
    """Write a model of features [n, F]: their products with `weights` [F, K], as shares where `softmax`."""
    from onnx import TensorProto, checker, helper, numpy_helper, save_model

    nodes = [helper.make_node("MatMul", ["features", "weights"], ["sum" if softmax else output])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["sum"], [output], axis=1))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [value("features", TensorProto.FLOAT, [None, weights.shape[0]])],
        [value(output, TensorProto.FLOAT, [None, weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model)
    save_model(model, path)
    return path


def _folder(folder: Path, examples: list[dict[str, Any]], seen: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "examples.json").write_text(json.dumps(examples))
    (folder / "holdout.json").write_text(json.dumps(seen))
    return folder


def moods_folder(folder: Path) -> Path:
    """Write the artifact of the model of texts: token by token, each of a weight of its own."""
    made = _folder(folder, [{"text": text} for text in TEXTS[:3]], {"rows": 3, "score": 0.3})
    weights = np.random.default_rng(3).normal(size=(TOKENS, len(CLASSES))) / 300
    onnx_model(made / "model.onnx", weights, "probabilities", softmax=True)
    return made


def rides_folder(folder: Path, seen: dict[str, Any] | None = None) -> Path:
    """Write the artifact of the model of rides: 2 minutes a kilometre, and 4 a stop."""
    made = _folder(folder, [{"km": 3.5, "stops": 1}], seen or {"rows": 1, "score": 11.0})
    onnx_model(made / "model.onnx", np.array([[2.0], [4.0]]), "minutes", softmax=False)
    return made


# ---------------------------------------------------------------- a text into three classes
class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One text."""

    text: Annotated[str, Meta(min_length=1, max_length=1000, description="what was written")]


class Mood(msgspec.Struct, frozen=True, kw_only=True):
    """The likeliest class, and how likely each is."""

    mood: Literal["negative", "neutral", "positive"]
    negative: Share
    neutral: Share
    positive: Share


class Moods:
    """The service's own code."""

    request, response = Text, Mood
    score, decision = "positive", "mood"
    feature_names = tuple(f"token_{place:02}" for place in range(TOKENS))

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, OnnxModel(folder)

    def features(self, text: Text) -> Any:
        """Return the code points of the text's first characters, one row."""
        return self.features_of_columns({"text": [text.text]})

    def features_of_columns(self, columns: Mapping[str, Any]) -> Any:
        """Return the same of many texts."""
        rows = np.zeros((len(columns["text"]), TOKENS), dtype=np.float32)
        for row, text in zip(rows, columns["text"], strict=True):
            codes = [ord(letter) for letter in str(text)[:TOKENS]]
            row[: len(codes)] = codes
        return rows

    def predict(self, rows: Any) -> dict[str, Any]:
        """Return the likeliest class and the share of each."""
        shares = self.model(rows)
        likeliest = np.array(CLASSES, dtype=object)[shares.argmax(axis=1)]
        return {"mood": likeliest, **{name: shares[:, place] for place, name in enumerate(CLASSES)}}


# ---------------------------------------------------------------- a number in minutes
class Ride(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ride."""

    km: Annotated[float, Meta(ge=0, le=1000)]
    stops: Annotated[int, Meta(ge=0, le=100)]


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """How long it takes."""

    minutes: float


class Rides:
    """The service's own code."""

    request, response = Ride, Took
    score = "minutes"
    feature_names = ("km", "stops")

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, OnnxModel(folder, output="minutes")

    def features(self, ride: Ride) -> Any:
        """Return both numbers, one row."""
        return np.array([[ride.km, ride.stops]], dtype=np.float32)

    def predict(self, rows: Any) -> dict[str, Any]:
        """Return the minutes."""
        return {"minutes": self.model(rows)[:, 0]}


def service(name: str, instance: Any) -> Any:
    """Return an instance as BentoML would hold it."""
    return SimpleNamespace(name=name, inner=type(instance), instance=instance, config={})
