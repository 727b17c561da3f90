"""What each feature added: exactly by LightGBM's trees, else sampled; never of another answer."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.flight_delay import features, train
from models.flight_delay.score import score, session
from tests.builders import tiny_model
from tests.toys import onnx_model
from tidegate.adapters.lightgbm import LOG_ODDS, TREES, Trees, contributions
from tidegate.adapters.onnx import asker
from tidegate.core.shapley import sampled
from tidegate.errors import NoData, PlatformError
from tidegate.explaining import explain, orders

WIDTH = len(features.FEATURES)
PARAMETERS = {"rounds": 20, "hide": 0.02, "seed": 7, "lightgbm": {"num_leaves": 15}}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """500 rows of random features, some of them missing."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(500, WIDTH)).astype(np.float32)
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    return matrix


@pytest.fixture(scope="module")
def folder(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's files: the ONNX and its trees."""
    made = tmp_path_factory.mktemp("model")
    late = (np.nan_to_num(rows[:, 1] + rows[:, 9]) > 0.5).astype(np.int8)
    trees = train.in_float32(train.fit(rows, late, PARAMETERS)[0])
    train.export(trees, made / "model.onnx")
    (made / TREES).write_text(train.as_text(trees))
    return made


def named(row: np.ndarray) -> dict[str, float | None]:
    """Features as they are written down."""
    values = [None if math.isnan(value) else float(value) for value in row]
    return dict(zip(features.FEATURES, values, strict=True))


# ---------------------------------------------------------------- trees
def test_contributions_add_up_to_what_the_onnx_answers(folder, rows):
    """Base plus contributions are the log-odds of the served model's probability, of every row."""
    found = contributions(folder, rows)
    assert found.shape == (len(rows), WIDTH + 1)
    probability = 1 / (1 + np.exp(-found.sum(axis=1)))
    assert np.abs(probability - score(session(folder / "model.onnx"), rows)).max() < 1e-6
    assert Trees(folder).unit == LOG_ODDS


def test_a_feature_that_no_tree_asks_adds_nothing(folder, rows):
    """A column that no tree splits by has the contribution 0 in every row; one that decides has not."""
    trees = Trees(folder)
    splits = re.findall(r"^split_feature=(.*)$", (folder / TREES).read_text(), re.MULTILINE)
    used = {int(index) for split in splits for index in split.split()}
    unused = [index for index in range(WIDTH) if index not in used]
    found = trees.contributions(rows)[:, :-1]
    assert not found[:, unused].any()
    assert np.abs(found[:, features.FEATURES.index("hour")]).max() > 0.1


def test_trees_are_exact_by_the_definition():
    """TreeSHAP's values for a tree of three features are those of all 3! orders, summed by hand."""
    random = np.random.default_rng(5)
    matrix = random.normal(size=(400, 3))
    label = matrix[:, 0] * matrix[:, 1] + matrix[:, 2]
    settings = {"num_leaves": 6, "verbose": -1, "num_threads": 1, "deterministic": True, "learning_rate": 1.0}
    booster = lgb.train(settings, lgb.Dataset(matrix, label), num_boost_round=1)
    tree = booster.dump_model()["tree_info"][0]["tree_structure"]

    def expected(node: dict[str, Any], row: np.ndarray, known: frozenset[int]) -> float:
        if "leaf_value" in node:
            return float(node["leaf_value"])
        sides = (node["left_child"], node["right_child"])
        if node["split_feature"] in known:
            right = int(row[node["split_feature"]] > node["threshold"])
            return expected(sides[right], row, known)
        counts = [side.get("internal_count", side.get("leaf_count")) for side in sides]
        values = [expected(side, row, known) for side in sides]
        return float(np.average(values, weights=counts))

    for row in matrix[:20]:
        wanted = np.zeros(3)
        for order in itertools.permutations(range(3)):
            for place, feature in enumerate(order):
                before = frozenset(order[:place])
                added = expected(tree, row, before | {feature}) - expected(tree, row, before)
                wanted[feature] += added / 6
        found = booster.predict(row[None], pred_contrib=True)[0]
        assert found[:3] == pytest.approx(wanted, abs=1e-9)


def test_no_trees_are_no_data(tmp_path):
    """A model without trees.txt says so, and what to do."""
    with pytest.raises(NoData, match=TREES) as caught:
        contributions(tmp_path, np.zeros((1, 3)))
    assert caught.value.action


@pytest.mark.parametrize("text", ["", "nonsense", "tree\nversion=v4\n"])
def test_broken_trees_are_said(tmp_path, text):
    """A trees.txt that is none is a PlatformError, not a crash."""
    (tmp_path / TREES).write_text(text)
    with pytest.raises(PlatformError, match=TREES):
        contributions(tmp_path, np.zeros((1, 3)))


def test_rows_of_another_width_are_refused(folder):
    """Fewer features than the trees know are not padded."""
    with pytest.raises(PlatformError, match=f"know {WIDTH} features"):
        contributions(folder, np.zeros((1, 3)))


# ---------------------------------------------------------------- any model
@settings(deadline=None, max_examples=50)
@given(
    weights=arrays.arrays(np.float64, 4, elements=st.floats(-5, 5)),
    row=arrays.arrays(np.float64, 4, elements=st.floats(-5, 5)),
)
def test_of_a_sum_each_term_is_its_own_share(weights, row):
    """For a linear model the sampling is exact: each weight times the distance to the background's mean."""
    background = np.random.default_rng(1).normal(size=(20, 4))
    values, errors, base = sampled(lambda rows: rows @ weights, row, background, passes=20)
    assert values == pytest.approx(weights * (row - background.mean(axis=0)), abs=1e-9)
    assert base == pytest.approx(float((background @ weights).mean()), abs=1e-9)
    assert (errors >= 0).all()


def test_sampling_adds_up_and_is_near_the_exact_value():
    """Of a model with interactions: the sum is the prediction, and all orders' mean is within its error."""

    def ask(rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows[:, 0] * rows[:, 1] + rows[:, 2] ** 2 * rows[:, 0])

    background = np.zeros((1, 3))
    row = np.array([2.0, 3.0, 1.0])
    values, errors, base = sampled(ask, row, background, passes=400)
    assert base + values.sum() == pytest.approx(8.0)
    assert values == pytest.approx([4.0, 3.0, 1.0], abs=1e-9)  # each half of its product, by symmetry
    assert (errors < 0.5).all()


def test_the_same_seed_gives_the_same_values():
    """Asked twice the answer is the same, to the last digit; another seed differs within the errors."""
    background = np.random.default_rng(1).normal(size=(30, 5))

    def ask(rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(rows.sum(axis=1)) + rows[:, 0] * rows[:, 1] * rows[:, 2])

    row = np.ones(5)
    one, two = sampled(ask, row, background), sampled(ask, row, background)
    other = sampled(ask, row, background, seed=4)
    assert np.array_equal(one[0], two[0])
    assert not np.array_equal(one[0], other[0])
    assert (np.abs(one[0] - other[0]) < 6 * (one[1] + other[1]) + 1e-12).all()


def test_a_model_is_asked_for_each_of_its_numbers(folder, rows):
    """The probability's columns are told apart by name; outputs that are no floats are left out."""
    found = asker(folder / "model.onnx")(rows)
    assert set(found) == {"probabilities[0]", "probabilities[1]"}
    assert found["probabilities[1]"] == pytest.approx(score(session(folder / "model.onnx"), rows))


# ---------------------------------------------------------------- both
def test_trees_explain_what_was_answered(folder, rows):
    """The shares add up to the log-odds of the answer's own field, exactly."""
    probability = float(score(session(folder / "model.onnx"), rows[:1])[0])
    found = explain(folder, named(rows[0]), {"probability": probability, "late": True}, list)
    assert (found.of, found.unit, found.method) == ("probability", LOG_ODDS, "TreeSHAP, exact")
    assert 1 / (1 + math.exp(-found.total)) == pytest.approx(probability, abs=1e-6)
    assert all(share.error is None for share in found.shares)
    sizes = [abs(share.value) for share in found.by_size()]
    assert sizes == sorted(sizes, reverse=True)


def test_features_in_another_order_are_the_same(folder, rows):
    """Features are taken by name: the order in which they were written down changes nothing."""
    probability = float(score(session(folder / "model.onnx"), rows[:1])[0])
    there = named(rows[0])
    back = dict(reversed(there.items()))
    answer = {"probability": probability}
    assert explain(folder, back, answer, list) == explain(folder, there, answer, list)


def test_without_trees_the_model_is_asked(tmp_path):
    """A model that has only its ONNX is explained against other predictions, and says its error."""
    folder = tiny_model(tmp_path / "model")
    random = np.random.default_rng(1)
    matrix = random.integers(0, 24, size=(30, WIDTH)).astype(np.float32)
    answers = asker(folder / "model.onnx")(matrix)["probabilities[1]"]
    answer = {"probability": float(answers[0]), "late": False}
    found = explain(folder, named(matrix[0]), answer, lambda: [named(row) for row in matrix[1:]])
    assert (found.of, found.unit) == ("probability", "probability")
    assert "sampled" in found.method
    assert "29 other predictions" in found.method
    assert found.total == pytest.approx(answer["probability"], abs=1e-6)
    shares = {share.name: share for share in found.shares}
    hours = matrix[:, features.FEATURES.index("hour")]
    assert shares["hour"].error is not None
    assert shares["hour"].value == pytest.approx(0.001 * (hours[0] - hours[1:].mean()), abs=0.002)
    assert all(abs(share.value) < 1e-6 for name, share in shares.items() if name != "hour")


@pytest.mark.parametrize(
    ("objective", "unit", "as_answered"),
    [
        ("regression", "", lambda total: total),
        ("quantile", "", lambda total: total),
        ("poisson", "log", math.exp),
        ("tweedie", "log", math.exp),
        ("cross_entropy", LOG_ODDS, lambda total: 1 / (1 + math.exp(-total))),
    ],
)
def test_trees_of_another_task_are_explained_in_its_unit(tmp_path, objective, unit, as_answered):
    """A regression adds up to its answer in the label's unit, a count to its logarithm; no number is taken
    for a probability."""
    random = np.random.default_rng(5)
    matrix = random.normal(size=(300, 3))
    label = 1 / (1 + np.exp(-matrix[:, 0])) if objective == "cross_entropy" else np.exp(matrix[:, 0])
    settings = {"objective": objective, "verbose": -1, "num_threads": 1, "deterministic": True}
    booster = lgb.train(
        settings, lgb.Dataset(matrix, label, feature_name=["a", "b", "c"]), num_boost_round=10
    )
    (tmp_path / TREES).write_text(booster.model_to_string())
    answer = {"late": 1 / (1 + math.exp(-0.25)), "minutes": float(booster.predict(matrix[:1])[0])}
    found = explain(tmp_path, dict(zip("abc", matrix[0].tolist(), strict=True)), answer, list)
    assert (found.of, found.unit, found.method) == ("minutes", unit or "minutes", "TreeSHAP, exact")
    assert as_answered(found.total) == pytest.approx(answer["minutes"], abs=1e-6)


def test_the_file_that_gave_the_answer_is_asked(tmp_path):
    """Of a model in several files the one whose number was answered explains it; of classes, the answered."""
    weights = np.random.default_rng(2).normal(size=(3, 3))
    onnx_model(tmp_path / "model.onnx", weights, "probabilities", softmax=True)
    onnx_model(tmp_path / "model.int8.onnx", np.round(weights), "probabilities", softmax=True)
    matrix = np.random.default_rng(1).normal(size=(30, 3))
    seen = [dict(zip("abc", row, strict=True)) for row in matrix.tolist()]
    for variant in ("model.onnx", "model.int8.onnx"):
        outputs = [float(values[0]) for values in asker(tmp_path / variant)(matrix[:1]).values()]
        for place, said in enumerate(("no", "maybe", "yes")):
            answer = {"said": said, **dict(zip(("no", "maybe", "yes"), outputs, strict=True))}
            found = explain(tmp_path, seen[0], answer, lambda: seen[1:])
            assert (found.of, found.unit) == (said, said)
            assert found.total == pytest.approx(outputs[place], abs=1e-6)


def test_many_features_take_fewer_orders():
    """As many as before for what a table has; of a text's tokens so few that a person can wait for them."""
    assert [orders(count) for count in (1, 25, 32, 64, 256, 5000)] == [200, 200, 200, 50, 20, 20]


def test_few_others_are_no_background(tmp_path):
    """With less than ten predictions to compare with there is no explanation, and the error says when."""
    folder = tiny_model(tmp_path / "model")
    row = named(np.ones(WIDTH, dtype=np.float32))
    with pytest.raises(NoData, match="3 other predictions"):
        explain(folder, row, {"probability": 0.301}, lambda: [row] * 3)


@pytest.mark.parametrize("trees", [True, False])
def test_an_answer_that_is_not_the_models_is_not_explained(folder, rows, tmp_path, trees):
    """Where the model gives another number than was answered, its contributions would explain nothing."""
    here = folder if trees else tiny_model(tmp_path / "model")
    others = [named(row) for row in rows[1:20]]
    with pytest.raises(NoData, match="none of the answer's numbers"):
        explain(here, named(rows[0]), {"probability": 17.5, "late": True}, lambda: others)


def test_other_features_are_not_explained(folder, rows):
    """Features of another version of the model don't fit its trees: said, not guessed."""
    row = named(rows[0])
    row["surprise"] = row.pop("hour")
    with pytest.raises(NoData, match="not those of the model's trees"):
        explain(folder, row, {"probability": 0.5}, list)


def test_no_features_are_said(folder):
    """A prediction that came from elsewhere than the model (precomputed) has no features to explain."""
    with pytest.raises(NoData, match="not written down"):
        explain(folder, {}, {"probability": 0.5}, list)


def test_explaining_changes_no_file(folder, rows):
    """The artifact stays what its digest says."""
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    probability = float(score(session(folder / "model.onnx"), rows[:1])[0])
    explain(folder, named(rows[0]), {"probability": probability}, list)
    assert before == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
