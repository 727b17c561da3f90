"""models/flight_delay: the same bytes each time, and an export that is what was trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from models import evaluate
from models.flight_delay import features, train
from models.flight_delay.score import score, session
from tidegate.core import curves, scores
from tidegate.core.task import Declaration
from tidegate.errors import PlatformError

ROOT = Path(__file__).parents[2]
WIDTH = len(features.FEATURES)
PARAMETERS = {
    "rounds": 20,
    "hide": 0.02,
    "seed": 7,
    "lightgbm": {"num_leaves": 15, "feature_fraction": 0.7, "bagging_fraction": 0.8, "bagging_freq": 1},
}


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    """3,000 rows of random features whose label follows two of them."""
    random = np.random.default_rng(1)
    matrix = random.normal(size=(3000, WIDTH)).astype(np.float32)
    late = (matrix[:, 1] + matrix[:, 9] + random.normal(size=3000) > 1).astype(np.int8)
    return matrix, late


@pytest.fixture(scope="module")
def booster(sample: tuple[np.ndarray, np.ndarray]) -> lgb.Booster:
    return train.fit(*sample, PARAMETERS)[0]


def test_training_again_gives_the_same_bytes(
    sample: tuple[np.ndarray, np.ndarray], booster: lgb.Booster, tmp_path: Path
) -> None:
    """Two trainings export the same bytes; another seed does not."""
    again, losses = train.fit(*sample, PARAMETERS)
    other, _ = train.fit(*sample, {**PARAMETERS, "seed": 8})
    paths = [tmp_path / name for name in ("one", "two", "other")]
    for path, trained in zip(paths, (booster, again, other), strict=True):
        train.export(train.in_float32(trained), path)
    one, two, three = (path.read_bytes() for path in paths)
    assert one == two
    assert one != three
    assert len(losses) == PARAMETERS["rounds"]
    assert losses[-1] < losses[0]


def test_the_trees_beside_the_export_are_its_own(
    sample: tuple[np.ndarray, np.ndarray], booster: lgb.Booster
) -> None:
    """The text is the same for two trainings, predicts and explains as the booster does, and is smaller."""
    trees = train.in_float32(booster)
    text = train.as_text(trees)
    assert text == train.as_text(train.in_float32(train.fit(*sample, PARAMETERS)[0]))
    again = lgb.Booster(model_str=text)
    for asked in ({}, {"pred_contrib": True}):
        assert np.array_equal(again.predict(sample[0], **asked), trees.predict(sample[0], **asked))
    assert len(text) < len(trees.model_to_string())


def test_what_the_holdout_looks_like_travels_with_the_model(sample: tuple[np.ndarray, np.ndarray]) -> None:
    """What callers' rows are compared with: the mean answer, and the share of rows without a feature."""
    matrix = sample[0][:4].copy()
    matrix[0, -1] = np.nan
    found = train.seen(matrix, np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32))
    assert (found["rows"], found["score"]) == (4, pytest.approx(0.25))
    assert {name: share for name, share in found["missing"].items() if share} == {features.FEATURES[-1]: 0.25}
    assert list(found["missing"]) == list(features.FEATURES)


_EXPORT = """
import sys
from pathlib import Path
from typing import Any
import lightgbm
from models.flight_delay import train
train.export(lightgbm.Booster(model_file=sys.argv[1]), Path(sys.argv[2]))
"""


def test_every_process_exports_the_same_bytes(booster: lgb.Booster, tmp_path: Path) -> None:
    """The export does not depend on the order of Python's sets, which differs from process to process."""
    booster.save_model(tmp_path / "booster.txt")
    exported = set()
    for seed in ("1", "20"):  # without the ordering, 20 and about one in ten others differ
        command = [sys.executable, "-c", _EXPORT, str(tmp_path / "booster.txt"), str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, check=True, timeout=120)
        exported.add((tmp_path / seed).read_bytes())
    assert len(exported) == 1


def test_export_takes_the_same_branch_at_every_threshold(booster: lgb.Booster, tmp_path: Path) -> None:
    """On float32 features just below, at and above each threshold the export agrees with LightGBM."""
    path = tmp_path / "model.onnx"
    train.export(train.in_float32(booster), path)
    nodes = booster.trees_to_dataframe().dropna(subset=["threshold"])
    near = nodes["threshold"].to_numpy().astype(np.float32)
    beside = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)]
    rows = np.zeros((3 * len(near), WIDTH), dtype=np.float32)
    for part, values in enumerate((near, *beside)):
        for index, (name, value) in enumerate(zip(nodes["split_feature"], values, strict=True)):
            rows[part * len(near) + index, features.FEATURES.index(name)] = value
    assert train.check_export(booster, path, rows, seed=1) < 1e-6


def test_export_that_differs_is_refused(
    sample: tuple[np.ndarray, np.ndarray], booster: lgb.Booster, tmp_path: Path
) -> None:
    """An export of another model raises, with the difference and the limit."""
    other, _ = train.fit(*sample, {**PARAMETERS, "rounds": 5})
    train.export(train.in_float32(other), tmp_path / "model.onnx")
    with pytest.raises(PlatformError, match=r"differs from LightGBM by .* > 1e-05"):
        train.check_export(booster, tmp_path / "model.onnx", sample[0], seed=1)


def test_hiding_takes_whole_groups_and_leaves_the_input() -> None:
    """A hidden row lacks all of its weather, its plane or what is recent; the input stays as it was."""
    matrix = np.zeros((2000, WIDTH), dtype=np.float32)
    hidden = np.isnan(train.hide(matrix, 0.1, np.random.default_rng(1)))
    assert not np.isnan(matrix).any()
    for prefix in ("weather_", "plane_", "recent_"):
        group = hidden[:, [name.startswith(prefix) for name in features.FEATURES]]
        assert (group.all(axis=1) == group.any(axis=1)).all()
        assert 0.07 < group[:, 0].mean() < 0.13
    others = [not name.startswith(("weather_", "plane_", "recent_")) for name in features.FEATURES]
    assert not hidden[:, others].any()


def test_nothing_scores_to_nothing(booster: lgb.Booster, tmp_path: Path) -> None:
    """No rows give no probabilities, and no error."""
    train.export(train.in_float32(booster), tmp_path / "model.onnx")
    empty = np.empty((0, WIDTH), dtype=np.float32)
    assert score(session(tmp_path / "model.onnx"), empty).shape == (0,)


def test_metrics_of_a_known_case() -> None:
    """Two of three pairs in the right order are an AUC of 2/3; the other numbers follow by hand."""
    found = evaluate.measure(_rows([1, 0, 0, 0], [0.5, 0.2, 0.2, 0.8]))
    assert found["auc"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["brier"] == pytest.approx((0.25 + 0.04 + 0.04 + 0.64) / 4)
    assert (found["base_rate"], found["mean_probability"], found["rows"]) == (0.25, 0.425, 4)


def test_plots_of_a_known_case() -> None:
    """The ROC never falls and ends at 1,1; calibration lies near; the distribution is of all rows."""
    random = np.random.default_rng(1)
    probability = random.random(1000)
    rows = _rows((random.random(1000) < probability).astype(int), probability)
    roc, calibration, distribution = (
        [(point["x"], point["y"]) for point in evaluate.points(chart)]
        for chart in curves.charts({evaluate.MODEL: rows}, (), 10)
    )
    assert (roc[0][0], roc[-1]) == (0, (1, 1))
    assert roc == sorted(roc)
    assert len(calibration) == 10
    assert all(abs(rate - probability) < 0.2 for probability, rate in calibration)
    assert sum(share for _, share in distribution) == pytest.approx(1)


def _rows(late: Any, probability: Any) -> scores.Sample:
    declared = Declaration("classification", features.LABEL, "probability")
    return scores.sample(declared, np.asarray(late), np.asarray(probability))
