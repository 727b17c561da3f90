"""Score the holdout with the exported model, and write what there is to see about it.

Writes into build/flight-delay/: metrics.json, predictions.parquet (the holdout's rows in order: `late`,
`probability`), importance.json (how much the answers depend on each raw column, for the drift gate) and
plots/. The same functions measure here and in the quality gate.

Run it as `python -m models.flight_delay.evaluate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.flight_delay import features
from models.flight_delay.score import score, session
from models.layout import Layout, run
from tidegate.core import importance, scores
from tidegate.files import digest_folder

ROC_POINTS = 200
Count = Annotated[int, msgspec.Meta(ge=1)]


class Importance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many rows of the holdout, of which each raw column is shuffled `repeats` times, by `seed`."""

    rows: Count
    repeats: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `evaluate`: `bins` of the calibration curve and of the distribution of probabilities."""

    bins: Count
    importance: Importance


def measure(late: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return the holdout's metrics, rounded to 6 places so that a diff shows what differs."""
    found = {
        "auc": scores.auc(late, probability),
        "log_loss": scores.log_loss(late, probability),
        "brier": float(np.mean((probability - late) ** 2)),
        "calibration_error": scores.calibration_error(late, probability),
        "base_rate": float(late.mean()),
        "mean_probability": float(probability.mean()),
    }
    return {name: round(value, 6) for name, value in found.items()} | {"rows": len(late)}


def roc(late: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Return the ROC curve at about `ROC_POINTS` evenly spaced ranks, both ends included."""
    order = np.argsort(-probability, kind="stable")
    caught = np.concatenate([[0], np.cumsum(late[order])]) / max(late.sum(), 1)
    alarms = np.concatenate([[0], np.cumsum(1 - late[order])]) / max((1 - late).sum(), 1)
    kept = np.unique(np.linspace(0, len(late), ROC_POINTS + 1).astype(int))
    return [
        {"false_positive_rate": round(float(alarms[i]), 6), "true_positive_rate": round(float(caught[i]), 6)}
        for i in kept
    ]


def calibration(late: np.ndarray, probability: np.ndarray, bins: int) -> list[dict[str, float]]:
    """Return mean probability and rate of late flights for each bin of equal width that is not empty."""
    places = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "probability": round(float(probability[inside].mean()), 6),
            "late_rate": round(float(late[inside].mean()), 6),
            "rows": int(inside.sum()),
        }
        for index in range(bins)
        if (inside := places == index).any()
    ]


def distribution(probability: np.ndarray, bins: int) -> list[dict[str, float]]:
    """Return the share of rows in each bin of equal width, empty ones included."""
    counts, edges = np.histogram(probability, bins=bins, range=(0.0, 1.0))
    middles = (edges[:-1] + edges[1:]) / 2
    return [
        {"probability": round(float(middle), 6), "share": round(float(count / len(probability)), 6)}
        for middle, count in zip(middles, counts, strict=True)
    ]


def depends_on(
    rows: pd.DataFrame, predict: importance.Predict, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how much the answers to a seeded sample of rows change with each raw column, and its share."""
    seed = parameters["seed"]
    taken = rows.sample(min(parameters["rows"], len(rows)), random_state=seed)
    columns = {name: taken[name].to_numpy() for name in features.COLUMNS}
    found = importance.changes(predict, columns, repeats=parameters["repeats"], seed=seed)
    return {
        "rows": len(taken),
        "repeats": parameters["repeats"],
        "seed": seed,
        "changes": {name: round(value, 6) for name, value in found.items()},
        "shares": {name: round(value, 6) for name, value in importance.shares(found).items()},
    }


def main() -> None:
    """Score, measure and write."""
    layout = Layout("flight-delay")
    parameters = layout.parameters("evaluate", Parameters)
    bins = parameters["bins"]
    holdout = pd.read_parquet(layout.data("holdout"))
    vocabulary = features.load(layout.artifact / "features.json")
    opened = session(layout.artifact / "model.onnx")

    def predict(columns: Mapping[str, Any]) -> np.ndarray:
        return score(opened, features.compute_columns(columns, vocabulary))

    probability = predict(holdout)
    late = holdout[features.LABEL].to_numpy().astype(np.int64)

    layout.build.mkdir(parents=True, exist_ok=True)
    columns = {features.LABEL: late.astype(np.int8), "probability": probability}
    pq.write_table(pa.table(columns), layout.build / "predictions.parquet", compression="zstd")
    plots = layout.build / "plots"
    _write_json(plots / "roc.json", roc(late, probability))
    _write_json(plots / "calibration.json", calibration(late, probability, bins))
    _write_json(plots / "distribution.json", distribution(probability, bins))
    known = {"artifact": digest_folder(layout.artifact)}
    _write_json(
        layout.build / "importance.json", known | depends_on(holdout, predict, parameters["importance"])
    )
    metrics = measure(late, probability)
    _write_json(layout.build / "metrics.json", metrics)
    print("  ".join(f"{name} {value:,.6g}" for name, value in metrics.items()), flush=True)


def _write_json(path: Any, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    run(main)
