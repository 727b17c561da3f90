"""Train the model, export it as ONNX, check the export, and log the run to MLflow.

Reads data/flight-delay/train.parquet; writes build/flight-delay/model/: model.onnx, features.json (what
`features.load` reads), examples.json (request rows to warm a service up with), holdout.json (the mean
answer and the missing features of the holdout, beside which callers' are seen) and trees.txt (the same trees
as LightGBM's text, which predictions are explained by). The same data, parameters and libraries give the
same bytes.

Run it as `python -m models.flight_delay.train`.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import lightgbm as lgb
import msgspec
import numpy as np
import pandas as pd

from models.flight_delay import features
from models.flight_delay.score import score, session
from models.layout import Layout, run
from models.tracking import log_run
from tidegate.errors import PlatformError, suggest
from tidegate.files import digest_folder

EXAMPLES = 50
TOLERANCE = 1e-5  # of a probability; float32 sums of 300 leaves differ by about 1e-7
OPSET = 15
# Bit-exact: the order of float additions must not change. One thread, since two that share a busy core
# wait for each other: 300 rounds then took 34 s in place of 4.
FIXED = {
    "objective": "binary",
    "metric": "binary_logloss",
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbose": -1,
}


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `train`: `rounds` of boosting, the share of rows to `hide` columns of, LightGBM's own."""

    rounds: Annotated[int, msgspec.Meta(ge=1)]
    hide: Annotated[float, msgspec.Meta(ge=0, le=1)]
    seed: Annotated[int, msgspec.Meta(ge=0)]
    lightgbm: dict[str, int | float | str | bool] = {}

    def __post_init__(self) -> None:
        # LightGBM takes an unknown parameter for a warning, and ours would quietly replace one of its own.
        fixed = {*FIXED, "seed", "num_iterations"}
        known = {name for names in _aliases() for name in names}
        ours = {name for names in _aliases() if names & fixed for name in names}
        for name in self.lightgbm:
            if name in ours:
                raise ValueError(f"lightgbm: `{name}` is set by train.py, by `rounds` or by `seed`")
            if name not in known:
                raise ValueError(f"lightgbm: no parameter is called `{name}`. {suggest(name, sorted(known))}")


def _aliases() -> list[set[str]]:
    """Return the names of each of LightGBM's parameters."""
    return [{name, *more} for name, more in lgb.basic._ConfigAliases._get_all_param_aliases().items()]


def hide(matrix: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Return a copy in which a share of the rows has no weather, another no plane, another nothing recent.

    A whole hour's weather is missing for 0.1% of January to April but 3% of December: without this
    the trees would hardly know which way a missing value goes. What was so lately is missing altogether where
    the online store is away.
    """
    hidden = matrix.copy()
    for prefix in ("weather_", "plane_", "recent_"):
        columns = [index for index, name in enumerate(features.FEATURES) if name.startswith(prefix)]
        rows = np.flatnonzero(random.random(len(matrix)) < share)
        hidden[np.ix_(rows, columns)] = np.nan
    return hidden


def fit(
    matrix: np.ndarray, late: np.ndarray, parameters: Mapping[str, Any]
) -> tuple[lgb.Booster, list[float]]:
    """Train and return the booster and its training loss after each round."""
    seed = parameters["seed"]
    hidden = hide(matrix, parameters["hide"], np.random.default_rng(seed))
    data = lgb.Dataset(hidden, late, feature_name=list(features.FEATURES), free_raw_data=False)
    curves: dict[str, dict[str, list[float]]] = {}
    rounds = parameters["rounds"]
    started = time.monotonic()

    def progress(state: Any) -> None:
        if (state.iteration + 1) % 50 == 0 or state.iteration + 1 == rounds:
            loss, seconds = state.evaluation_result_list[0][2], time.monotonic() - started
            print(f"round {state.iteration + 1:4}/{rounds}  loss {loss:.4f}  {seconds:.0f} s", flush=True)

    booster = lgb.train(
        {**parameters["lightgbm"], **FIXED, "seed": seed},
        data,
        num_boost_round=rounds,
        valid_sets=[data],
        valid_names=["train"],
        callbacks=[lgb.record_evaluation(curves), progress],
    )
    return booster, curves["train"]["binary_logloss"]


def in_float32(booster: lgb.Booster) -> lgb.Booster:
    """Return the booster with each threshold as the largest float32 at or below it.

    Nothing changes for float32 features. ONNX rounds thresholds to the nearest float32 instead, and
    one flight in some thousands would then take another branch.
    """

    def lower(match: re.Match[str]) -> str:
        exact = np.array(match[1].split(), dtype=np.float64)
        near = np.clip(exact, np.finfo(np.float32).min, np.finfo(np.float32).max).astype(np.float32)
        below = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
        return "threshold=" + " ".join(repr(float(value)) for value in below)

    text = re.sub(r"^threshold=(.*)$", lower, booster.model_to_string(), flags=re.MULTILINE)
    # The sizes of the trees in the file's head are no longer right; without them the file is read through.
    return lgb.Booster(model_str=re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE))


def export(booster: lgb.Booster, path: Path) -> None:
    """Write the booster as ONNX; the same booster gives the same bytes."""
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = onnxmltools.convert_lightgbm(
        booster,
        name="flight-delay",  # by default a new UUID each time
        initial_types=[("features", FloatTensorType([None, len(features.FEATURES)]))],
        target_opset=OPSET,
        zipmap=False,
    )
    # The converter keeps the operator sets in a Python set, whose order is another in one process of ten.
    operators = sorted(model.opset_import, key=lambda one: one.domain)
    del model.opset_import[:]
    model.opset_import.extend(operators)
    path.write_bytes(model.SerializeToString(deterministic=True))


def as_text(booster: lgb.Booster) -> str:
    """Return the booster as LightGBM's text, without what only training needs: half the size."""
    unneeded = r"^(tree_sizes|split_gain|internal_value|internal_weight|leaf_weight)=.*\n"
    return re.sub(unneeded, "", booster.model_to_string(), flags=re.MULTILINE)


def check_export(booster: lgb.Booster, path: Path, matrix: np.ndarray, seed: int) -> float:
    """Return the largest difference between LightGBM and ONNX; raises PlatformError above TOLERANCE.

    Looked at on `matrix`, and on a draw of it with each feature missing that may be missing.
    """
    cases = [matrix]
    draw = np.random.default_rng(seed).choice(len(matrix), size=min(1000, len(matrix)), replace=False)
    for index, name in enumerate(features.FEATURES):
        if name.startswith(("plane_", "weather_", "recent_")):
            case = matrix[draw].copy()
            case[:, index] = np.nan
            cases.append(case)
    looked_at = np.concatenate(cases)
    served, trained = score(session(path), looked_at), booster.predict(looked_at)
    worst = float(np.max(np.abs(served - trained)))
    if not worst <= TOLERANCE:  # a NaN fails, too
        raise PlatformError(
            f"the ONNX export differs from LightGBM by {worst:.2g} > {TOLERANCE:g}",
            "Use the versions of requirements.lock, or fewer leaves.",
        )
    return worst


def examples(rows: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return request rows to warm a service up with; a few of them without weather or plane."""
    drawn = rows.sample(n=min(EXAMPLES, len(rows)), random_state=seed).sort_index()
    found = features.to_rows(drawn)
    for index, row in enumerate(found):
        if index % 10 == 0:
            row["weather"] = None
        if index % 10 == 5:
            row["plane"] = None
    return found


def seen(matrix: np.ndarray, answered: np.ndarray) -> dict[str, Any]:
    """Return what rows that the model has not learnt from look like: mean answer, share of missing features.

    Of the holdout, not of the training rows: those the model knows, and these are nearer to what comes.
    """
    missing = np.isnan(matrix).mean(axis=0).tolist()
    return {
        "rows": len(matrix),
        "score": round(float(np.mean(answered, dtype=np.float64)), 6),
        "missing": {name: round(share, 6) for name, share in zip(features.FEATURES, missing, strict=True)},
    }


def main() -> None:
    """Train, write the model's folder, check it on the holdout, log."""
    layout = Layout("flight-delay")
    parameters = layout.parameters("train", Parameters)
    rows = pd.read_parquet(layout.data("train"))
    vocabulary = features.Vocabulary.of({name: sorted(rows[name].unique()) for name in features.CATEGORIES})
    print(f"training on {len(rows):,} flights", flush=True)
    booster, losses = fit(
        features.compute_columns(rows, vocabulary), rows[features.LABEL].to_numpy(), parameters
    )

    folder = layout.artifact
    shutil.rmtree(folder, ignore_errors=True)  # a file of an older run would change the digest
    folder.mkdir(parents=True)
    trees = in_float32(booster)
    export(trees, folder / "model.onnx")
    (folder / "trees.txt").write_text(as_text(trees))
    _write_json(folder / "features.json", features.document(vocabulary))
    _write_json(folder / "examples.json", examples(rows, parameters["seed"]))

    holdout = pd.read_parquet(layout.data("holdout"))
    matrix = features.compute_columns(holdout, features.load(folder / "features.json"))
    difference = check_export(booster, folder / "model.onnx", matrix, parameters["seed"])
    _write_json(folder / "holdout.json", seen(matrix, score(session(folder / "model.onnx"), matrix)))
    digest = digest_folder(folder)
    print(f"model {digest}, at most {difference:.1g} away from LightGBM", flush=True)
    log_run(
        layout,
        parameters,
        {"rows": len(rows), "export_difference": difference},
        {"train_log_loss": losses},
        {"digest": digest},
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    run(main)
