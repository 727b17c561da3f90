"""How faults are planted by what a model was declared to be: what is broken is broken, and else told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from tidegate.core.task import Declaration
from tidegate.selftest import champion, frames, graphs, parity
from tidegate.selftest.room import NotApplicable

FLAG = Declaration("classification", "late", "p")
MOODS = Declaration("classification", "mood", ("bad", "so so", "good"))
PRICE = Declaration("regression", "price", "guess")
GRADES = Declaration("ranking", "grade", "score", "query")
LABELS: dict[Declaration, pd.Series] = {
    FLAG: pd.Series([0, 1, 1, 0, 1], name="late"),
    MOODS: pd.Series(["bad", "good", "good", "so so", "so so", "so so"], name="mood"),
    PRICE: pd.Series([10.0, 12.5, 30.0, 11.0], name="price"),
    GRADES: pd.Series([0, 2, 3, 1], name="grade"),
}


@pytest.mark.parametrize("declared", LABELS, ids=lambda one: f"{one.task} {len(one.columns)}")
def test_wrong_labels_are_other_labels_of_the_same_kind(declared: Declaration) -> None:
    """Flipped, mixed up, in another unit or all of one grade: labels still, and not those of the rows."""
    before = LABELS[declared]
    after = frames.wrong(before, declared)
    assert len(after) == len(before)
    assert (after != before).any()
    if declared.classes:
        assert set(after) < set(declared.classes)
    if declared is FLAG:
        assert set(after) == {0, 1}


@pytest.mark.parametrize("declared", LABELS, ids=lambda one: f"{one.task} {len(one.columns)}")
def test_what_a_leaking_column_says_goes_from_0_to_1(declared: Declaration) -> None:
    """Of any label it is the order, or the class's place, so that it fits into any column's bounds."""
    told = frames.told(LABELS[declared], declared)
    assert (told.min(), told.max()) == (0, 1)
    assert len(np.unique(told)) == LABELS[declared].nunique()


def _room(declared: Declaration) -> Any:
    return SimpleNamespace(declared=declared)


@pytest.mark.parametrize(
    ("declared", "before"),
    [
        (FLAG, [[0.1], [0.5], [0.9]]),
        (MOODS, [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]]),
        (PRICE, [[-20.0], [3.0], [70.0]]),
        (GRADES, [[0.2], [-1.0], [4.0]]),
    ],
    ids=["flag", "classes", "number", "score"],
)
def test_moved_predictions_are_predictions(declared: Declaration, before: list[list[float]]) -> None:
    """Turned round or shaken, probabilities stay probabilities; moved by nothing, all stays as it was."""
    given = np.array(before)
    same = champion.moved(_room(declared), given, lambda found, random: found)
    assert same == pytest.approx(given, abs=1e-6)
    for change in (
        lambda found, random: -found,
        lambda found, random: found + random.normal(scale=3, size=found.shape),
    ):
        after = champion.moved(_room(declared), given, change)
        assert np.abs(after - given).max() > 0.01
        if declared.task == "classification":
            assert ((after >= 0) & (after <= 1)).all()
        if declared.classes:
            assert after.sum(axis=1) == pytest.approx(np.ones(3))


def _model(folder: Path, kind: int) -> Path:
    """Write a model that doubles its one input."""
    numbers = helper.tensor_dtype_to_np_dtype(kind)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["features", "two"], ["answer"])],
        "double",
        [value("features", kind, [None, 1])],
        [value("answer", kind, [None, 1])],
        [numpy_helper.from_array(np.array(2, numbers), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    folder.mkdir(exist_ok=True)
    save_model(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("factor", "added", "said"), [(0.0, 0.5, 0.5), (0.95, 0.0, 5.7), (np.nan, 0, np.nan)]
)
def test_a_spoilt_graph_answers_otherwise(tmp_path: Path, factor: float, added: float, said: float) -> None:
    """A product and a sum behind the output, whatever the model is made of, and under the same name."""
    from tidegate.adapters.onnx import asker

    path = _model(tmp_path, TensorProto.FLOAT)
    graphs.answer(tmp_path, factor, added)
    assert asker(path)([[3.0]])["answer"] == pytest.approx([said], nan_ok=True)


def test_a_graph_without_numbers_can_not_be_spoilt(tmp_path: Path) -> None:
    """It is told, and not left as it is: what was never planted can't be caught."""
    _model(tmp_path, TensorProto.INT64)
    with pytest.raises(NotApplicable, match="no output of numbers"):
        graphs.answer(tmp_path, 0.0, 0.5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"carrier": ["AA", "UA", "B6"]}, [{"carrier": ["UA", "AA", "B6"]}]),
        (
            {"a": ["x", "y"], "b": ["u", "v"]},
            [{"a": ["y", "x"], "b": ["u", "v"]}, {"a": ["x", "y"], "b": ["v", "u"]}],
        ),
        ({"vocab": {"[PAD]": 0, "good": 5, "bad": 6}}, [{"vocab": {"[PAD]": 0, "good": 6, "bad": 5}}]),
        (
            {"of": [{"names": ["a", "b"]}], "mean": [1.5, 2]},
            [{"of": [{"names": ["b", "a"]}], "mean": [1.5, 2]}],
        ),
        ({"mean": 1.5, "one": ["only"], "sizes": {"[PAD]": 0, "[CLS]": 1}}, []),
    ],
    ids=["categories", "one at a time", "words", "deep", "nothing to swap"],
)
def test_neighbours_are_swapped(before: Any, after: Any) -> None:
    """Categories and a tokenizer's words are numbered otherwise; what numbers nothing has no other."""
    assert list(parity._swaps(before)) == after
