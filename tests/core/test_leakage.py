"""Columns that tell the label alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import leakage

COUNT = 4000
RANDOM = np.random.default_rng(7)
LATE = (RANDOM.random(COUNT) < 0.25).astype(int)
NOISE = RANDOM.normal(size=COUNT)


@pytest.mark.parametrize(
    "values",
    [
        LATE,
        LATE * 1000.0 + NOISE,
        -LATE * 10.0 + NOISE,
        np.where(LATE == 1, "no", "yes"),
        np.where(LATE == 1, NOISE * 0.1, np.sign(NOISE) * 5 + NOISE * 0.1),  # late lies in the middle
        np.where(LATE == 1, NOISE, np.nan),
        np.where(LATE == 1, "known", None),
    ],
    ids=["itself", "grows", "falls", "words", "middle", "empty number", "empty text"],
)
def test_a_column_that_tells_is_seen(values: np.ndarray) -> None:
    """Whether it grows with the label, falls, lies in the middle, is text, or is filled in late only."""
    assert leakage.alone(LATE, values, seed=1) > 0.99


@pytest.mark.parametrize(
    "values",
    [NOISE, np.zeros(COUNT), np.arange(COUNT), np.array([f"N{n}" for n in range(COUNT)]), [None] * COUNT],
    ids=["noise", "constant", "count", "names", "nothing"],
)
def test_a_column_that_tells_nothing_is_not(values: np.ndarray) -> None:
    """Noise, a constant and a name for each row score about 0.5: rates are learnt on other rows."""
    assert 0.5 <= leakage.alone(LATE, values, seed=1) < 0.55


def test_a_column_that_tells_a_little_scores_between() -> None:
    """The number is the AUC that a reader knows: of a shift by one standard deviation, 0.76."""
    assert leakage.alone(LATE, LATE + NOISE, seed=1) == pytest.approx(0.76, abs=0.02)


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([], []),
        ([1, 1, 1, 1], [1, 2, 3, 4]),
        ([0.0, math.nan] * 4, range(8)),
        ([1], [1]),
    ],
)
def test_no_label_to_look_at_is_no_number(labels: list[float], values: list[float]) -> None:
    """No rows, one label, unknown labels: NaN, which no limit keeps."""
    assert math.isnan(leakage.alone(np.array(labels), np.array(list(values)), seed=1))


def test_the_same_seed_gives_the_same_number_and_the_worst_comes_first() -> None:
    """Deterministic, and sorted by what a reader looks for."""
    columns = {"noise": NOISE, "late": LATE, "some": LATE + NOISE}
    found = leakage.each_alone(LATE, columns, seed=3)
    assert list(found) == ["late", "some", "noise"]
    assert found == leakage.each_alone(LATE, columns, seed=3)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=40),
    ranked=st.lists(st.integers(0, 4), min_size=40, max_size=40),
    group=st.lists(st.integers(0, 2), min_size=40, max_size=40),
)
def test_concordance_counts_pairs(labels: list[int], ranked: list[int], group: list[int]) -> None:
    """It is what counting each pair of different labels of one group gives, ties as a half."""
    count = len(labels)
    arrays = (np.array(labels, float), np.array(ranked[:count], float), np.array(group[:count]))
    for groups in (None, arrays[2]):
        within = np.zeros(count) if groups is None else groups
        pairs = [
            (ranked[i] > ranked[j]) + 0.5 * (ranked[i] == ranked[j])
            for i in range(count)
            for j in range(count)
            if labels[i] > labels[j] and within[i] == within[j]
        ]
        found = leakage.concordance(arrays[0], arrays[1], groups)
        assert found == pytest.approx(np.mean(pairs)) if pairs else math.isnan(found)


def test_for_two_labels_it_is_the_area_under_the_roc_curve() -> None:
    """The same number as scikit-learn's, so that a limit means what a reader thinks."""
    from sklearn.metrics import roc_auc_score

    ranked = np.round(LATE + NOISE, 1)
    assert leakage.concordance(LATE * 1.0, ranked) == pytest.approx(roc_auc_score(LATE, ranked))


NAMES = np.array(["bad", "fair", "good"], dtype=object)[np.digitize(NOISE, [-0.4, 0.4])]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (NAMES, 0.99, 1.0),
        (np.where(NAMES == "fair", 1.0, 0.0), 0.75, 0.9),  # tells one class of three from the others
        (RANDOM.normal(size=COUNT), 0.5, 0.55),
    ],
    ids=["itself", "one class", "noise"],
)
def test_of_classes_each_is_told_from_the_others(values: np.ndarray, low: float, high: float) -> None:
    """The mean over the classes: what tells all of them is 1, what tells one of three lies between."""
    assert low <= leakage.alone(NAMES, values, 1, classes=("bad", "fair", "good")) <= high


def test_a_number_is_told_by_its_order() -> None:
    """A column that grows with a number, and one that it was cut into, tell; noise does not."""
    columns = {"cube": NOISE**3, "third": NAMES, "noise": RANDOM.normal(size=COUNT)}
    found = leakage.each_alone(NOISE, columns, 1)
    assert found["cube"] > 0.97
    assert 0.8 < found["third"] < 0.95
    assert found["noise"] < 0.55


def test_rows_of_a_ranking_are_compared_within_their_group() -> None:
    """What differs only between groups tells nothing of the order in one, however much it tells of all."""
    group = np.arange(COUNT) // 8
    level = np.repeat(RANDOM.normal(size=COUNT // 8), 8)
    labels = 10 * level + NOISE
    assert leakage.alone(labels, level, 1) > 0.9
    assert leakage.alone(labels, level, 1, groups=group) == 0.5
    assert leakage.alone(labels, NOISE, 1, groups=group) > 0.9


def test_a_label_of_no_class_is_no_number() -> None:
    """A class that nobody declared, and none at all, give NaN and no sure number."""
    for odd in ("worst", None):
        labels = NAMES.copy()
        labels[5] = odd
        assert math.isnan(leakage.alone(labels, NOISE, 1, classes=("bad", "fair", "good")))
