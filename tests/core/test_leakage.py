"""Columns that tell the label alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([0.0, math.nan] * 4, range(8)),
        ([1], [1]),
    ],
)
def test_no_label_to_look_at_is_no_number(labels: list[float], values: list[float]) -> None:
    """No rows, one class, more than two classes, unknown labels: NaN, which no limit keeps."""
    assert math.isnan(leakage.alone(np.array(labels), np.array(list(values)), seed=1))


def test_the_same_seed_gives_the_same_number_and_the_worst_comes_first() -> None:
    """Deterministic, and sorted by what a reader looks for."""
    columns = {"noise": NOISE, "late": LATE, "some": LATE + NOISE}
    found = leakage.each_alone(LATE, columns, seed=3)
    assert list(found) == ["late", "some", "noise"]
    assert found == leakage.each_alone(LATE, columns, seed=3)
