"""Score the holdout with the exported model, and write what there is to see about it.

Writes into build/<model>/: predictions.parquet (the holdout's rows in order: label and predictions, in the
columns that params.yaml declares), metrics.json (those of the declared task), importance.json (how much
the answers depend on each raw column, for the drift gate) and plots/. The same functions measure here and in
the quality gate.

Run it as `python -m models.evaluate MODEL`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.layout import Layout, run
from tidegate import frames, params, scored, scoring
from tidegate.core import curves, importance, scores
from tidegate.core.exhibits import Chart
from tidegate.core.scores import Sample
from tidegate.core.task import Declaration
from tidegate.errors import Fatal, NoData
from tidegate.files import digest_folder

# Not what depends on where a probability becomes a yes: the quality gate's settings say that.
MEASURED: Mapping[scores.Kind, tuple[str, ...]] = {
    "binary": ("auc", "log_loss", "brier", "calibration_error"),
    "multiclass": ("auc", "log_loss", "brier", "calibration_error", "accuracy", "macro_f1"),
    "regression": tuple(scores.REGISTRY["regression"]),
    "ranking": tuple(scores.REGISTRY["ranking"]),
}
MODEL = "model"  # what charts call its line
Count = Annotated[int, msgspec.Meta(ge=1)]


class Importance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many rows of the holdout, of which each raw column is shuffled `repeats` times, by `seed`."""

    rows: Count
    repeats: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `evaluate`: `bins` of what is drawn in bins."""

    importance: Importance
    bins: Count = curves.BINS


def measure(rows: Sample, classes: tuple[str, ...] = ()) -> dict[str, float | None]:
    """Return the holdout's metrics, rounded to 6 places so that a diff shows what differs; None is none."""
    metrics = scores.REGISTRY[rows.kind]
    found = {name: metrics[name].value(rows) for name in MEASURED[rows.kind]}
    found |= _facts(rows, classes)
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in found.items()} | {
        "rows": len(rows.labels)
    }


def _facts(rows: Sample, classes: tuple[str, ...]) -> dict[str, float]:
    """Return what labels and predictions are like, beside which metrics are read."""
    if rows.kind == "binary":
        return {"base_rate": float(rows.labels.mean()), "mean_probability": float(rows.values.mean())}
    if rows.kind == "multiclass":
        rates = {f"rate_{name}": float((rows.labels == k).mean()) for k, name in enumerate(classes)}
        return rates | {f"mean_{name}": float(rows.values[:, k].mean()) for k, name in enumerate(classes)}
    if rows.kind == "regression":
        return {"mean_label": float(rows.labels.mean()), "mean_prediction": float(rows.values.mean())}
    return {"groups": float(len(rows))}


def depends_on(
    rows: pd.DataFrame, names: tuple[str, ...], predict: importance.Predict, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how much the answers to a seeded sample of rows change with each raw column, and its share."""
    seed = parameters["seed"]
    taken = rows.sample(min(parameters["rows"], len(rows)), random_state=seed)
    columns = {name: taken[name].to_numpy() for name in names}
    found = importance.changes(predict, columns, repeats=parameters["repeats"], seed=seed)
    shares = {name: value for name, value in importance.shares(found).items() if math.isfinite(value)}
    return {
        "rows": len(taken),
        "repeats": parameters["repeats"],
        "seed": seed,
        "changes": {name: round(value, 6) for name, value in found.items()},
        "shares": {name: round(value, 6) for name, value in shares.items()},
    }


def points(chart: Chart) -> list[dict[str, Any]]:
    """Return a chart's line of the model as DVC draws it: a point a row, beside other revisions' lines."""
    (own,) = (one for one in chart.series if one.name == MODEL)
    return [{"x": x, "y": y} for x, y in zip(own.x, own.y, strict=True)]


def table(frame: pd.DataFrame, declared: Declaration, predictions: np.ndarray) -> pa.Table:
    """Return predictions.parquet's columns: the label as it is in the data, and each prediction."""
    columns = predictions.T if declared.classes else [predictions]
    label = {declared.label: pa.array(frame[declared.label].to_numpy())}
    return pa.table(label | dict(zip(declared.columns, columns, strict=True)))


def evaluate(layout: Layout) -> dict[str, float | None]:
    """Score, measure and write; return the metrics.

    Raises Fatal or NoData for predictions or labels that are not what was declared.
    """
    read = params.load(layout.root)
    declared, package = read.declared(layout.model), layout.package
    parameters = layout.parameters("evaluate", Parameters)
    holdout = frames.read(layout.data("holdout"))
    wanted = [declared.label, *([declared.group] if declared.group else [])]
    lost = [name for name in wanted if name not in holdout]
    if lost:
        raise NoData(f"holdout.parquet has no column {', '.join(lost)}", "Correct prepare.py or params.yaml.")
    predict = scoring.scorer(layout.root, package, layout.artifact)
    found = scored.predictions(predict(holdout), declared, "the model")
    groups = holdout[declared.group].to_numpy() if declared.group else None
    try:
        rows = scores.sample(declared, holdout[declared.label].to_numpy(), found, groups=groups)
    except ValueError as problem:
        raise Fatal(f"holdout.parquet: {problem}", "Correct prepare.py, or the declaration.") from problem

    layout.build.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(holdout, declared, found), layout.build / "predictions.parquet", compression="zstd")
    _plots(layout.build / "plots", curves.charts({MODEL: rows}, declared.classes, parameters["bins"]))
    known = {"artifact": digest_folder(layout.artifact)}
    names = scoring.columns(layout.root, package)
    known |= depends_on(holdout, names, predict, parameters["importance"])
    _write_json(layout.build / "importance.json", known)
    metrics = measure(rows, declared.classes)
    _write_json(layout.build / "metrics.json", metrics)
    return metrics


def _plots(folder: Path, charts: tuple[Chart, ...]) -> None:
    """Write each chart into a folder that holds nothing else: another task draws other ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for chart in charts:
        name = re.sub(r"[^a-z0-9]+", "-", chart.title.lower()).strip("-")
        _write_json(folder / f"{name}.json", points(chart))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def main() -> None:
    """Evaluate the model that is named."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("model", help="the model's name in params.yaml")
    metrics = evaluate(Layout(parser.parse_args().model))
    shown = (f"{name} {'none' if value is None else f'{value:,.6g}'}" for name, value in metrics.items())
    print("  ".join(shown), flush=True)


if __name__ == "__main__":
    run(main)
