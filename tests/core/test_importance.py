"""How much a model leans on each column, and what that does to a limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import importance

RANDOM = np.random.default_rng(1)
COLUMNS = {name: RANDOM.normal(size=2000) for name in ("much", "little", "none")}


def answer(columns: Mapping[str, Any]) -> np.ndarray:
    """Three parts of one column, one of another, nothing of the last."""
    return np.asarray(3 * columns["much"] + columns["little"])


def test_changes_are_what_a_shuffled_column_does_to_the_answers() -> None:
    """In the unit of the answers: two draws of a normal differ by 1.13 of its deviation on average."""
    found = importance.changes(answer, COLUMNS, repeats=3, seed=1)
    assert found["none"] == 0.0
    assert found["little"] == pytest.approx(2 / math.sqrt(math.pi), rel=0.05)
    assert found["much"] == pytest.approx(3 * 2 / math.sqrt(math.pi), rel=0.05)
    assert importance.changes(answer, COLUMNS, repeats=3, seed=1) == found


def test_of_several_answers_the_mean_change_counts() -> None:
    """A column that one of two answers looks at counts half of what it would for both."""
    both = importance.changes(
        lambda columns: np.stack([columns["much"], columns["much"]], axis=1), COLUMNS, repeats=1, seed=1
    )
    one = importance.changes(
        lambda columns: np.stack([columns["much"], np.zeros(2000)], axis=1), COLUMNS, repeats=1, seed=1
    )
    assert one["much"] == pytest.approx(both["much"] / 2)
    assert one["little"] == 0.0


def test_shares_add_up_and_the_largest_comes_first() -> None:
    """A model that looks at nothing has no shares, and so no limits that anything keeps."""
    found = importance.shares({"a": 1.0, "b": 3.0, "c": 0.0})
    assert found == {"b": 0.75, "a": 0.25, "c": 0.0}
    assert list(found) == ["b", "a", "c"]
    assert all(math.isnan(share) for share in importance.shares({"a": 0.0, "b": 0.0}).values())


SHARE = st.floats(0, 1)


@given(SHARE, SHARE, st.integers(1, 200), SHARE)
def test_what_counts_more_may_move_by_less(less: float, more: float, columns: int, weight: float) -> None:
    """A limit never grows with importance, is never above what was declared, and weight 0 changes nothing."""
    less, more = sorted((less, more))
    tight, loose = (importance.limit(0.3, share, columns, weight) for share in (more, less))
    assert 0 < tight <= loose <= 0.3
    assert importance.limit(0.3, more, columns, 0.0) == 0.3


def test_limits_of_known_cases() -> None:
    """Four times the average: half the room. Average or less: all of it. Not known: no limit at all."""
    assert importance.limit(0.2, 4 / 20, 20, 0.5) == pytest.approx(0.1)
    assert importance.limit(0.2, 1 / 20, 20, 0.5) == pytest.approx(0.2)
    assert importance.limit(0.2, 0.0, 20, 1.0) == 0.2
    assert math.isnan(importance.limit(0.2, math.nan, 20, 0.5))
