"""sentiment's service: one text in, how likely it is negative, neutral or positive out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bentoml
import msgspec
import numpy as np
import numpy.typing as npt

from models.sentiment import features
from services.sentiment.schema import Sentiment, Text
from tidegate.serving import ModelService, OnnxModel, artifact, settings

CLASSES = ("negative", "neutral", "positive")  # in the order of the model's output
TOGETHER = {"cpu": 32, "cuda": 256}  # rows at once: more are no faster, and take memory
ALONE = "int8"  # its activations are scaled by all that is computed at once: a row would depend on the others


@bentoml.service(name="sentiment", service_class=ModelService)
class SentimentOfTexts:
    """Answers `POST /predict` and `POST /features`."""

    request, response = Text, Sentiment
    score, decision = "negative", "sentiment"
    feature_names = features.FEATURES

    def __init__(self) -> None:
        folder = artifact(Path(__file__), "sentiment")
        self.model = OnnxModel(folder, settings(Path(__file__)))
        self.tokenizer = features.load(folder / "features.json")

    def features(self, text: Text) -> npt.NDArray[np.float32]:
        """Return what the model sees of a text: the numbers of its tokens, one row."""
        return features.compute([msgspec.to_builtins(text)], self.tokenizer)

    def features_of_columns(self, columns: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Return what the model sees of many texts: a row each."""
        return features.compute_columns(columns, self.tokenizer)

    def predict(self, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Return the likeliest class and the probability of each, of each row."""
        found = np.empty((len(rows), len(CLASSES)), dtype=np.float32)
        running = self.model.running
        together = 1 if running.variant == ALONE else TOGETHER[running.provider]
        order = np.argsort(np.count_nonzero(rows, axis=1), kind="stable")  # equally long: less padding
        for start in range(0, len(order), together):
            part = order[start : start + together]
            found[part] = self.model(features.used(rows[part]))
        likeliest = np.array(CLASSES, dtype=object)[found.argmax(axis=1)]
        return {"sentiment": likeliest, **{name: found[:, place] for place, name in enumerate(CLASSES)}}
