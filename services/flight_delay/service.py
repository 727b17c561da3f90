"""flight-delay's service: one flight in, the probability that it arrives over 15 minutes late out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bentoml
import msgspec
import numpy as np
import numpy.typing as npt

from models.flight_delay import features
from services.flight_delay.schema import Delay, Flight
from tidegate.serving import Lookup, ModelService, OnnxModel, Precomputed, artifact, settings

LATE_FROM = 0.5  # the probability from which `late` is true


@bentoml.service(name="flight_delay", service_class=ModelService)
class FlightDelay:
    """Answers `POST /predict` and `POST /features`."""

    request, response = Flight, Delay
    score, decision = "probability", "late"
    feature_names = features.FEATURES
    online = Lookup("recent", features.KEYS)
    # A caller that names the flight and knows no more gets what was computed with all that was known of it.
    precomputed = Precomputed(
        "{carrier}{flight}:{origin}-{dest}:{date}T{sched_dep_time}", unless=("weather", "recent")
    )

    def __init__(self) -> None:
        folder = artifact(Path(__file__), "flight-delay")
        self.model = OnnxModel(folder, settings(Path(__file__)))
        self.vocabulary = features.load(folder / "features.json")

    def features(self, flight: Flight) -> npt.NDArray[np.float32]:
        """Return what the model sees of a flight: one row, in the order of `feature_names`."""
        return features.compute([msgspec.to_builtins(flight)], self.vocabulary)

    def features_of_columns(self, columns: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Return what the model sees of many flights: a row each."""
        flat = {name.replace(".", "_"): values for name, values in columns.items()}
        return features.compute_columns(flat, self.vocabulary)

    def predict(self, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Return the probability of a late arrival, and whether that counts as late, of each row."""
        probability = self.model(rows)[:, 1]
        return {"probability": probability, "late": probability >= LATE_FROM}
