"""Metrics of an order of the rows of each group."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import paired, scores, slices
from tidegate.core.scores import Sample, ranking
from tidegate.core.task import Declaration

DECLARED = Declaration("ranking", "grade", "score", group="query")
METRICS = scores.of(DECLARED)
EACH = {"ndcg": ranking.ndcg, "mrr": ranking.reciprocal_ranks, "map": ranking.average_precisions}


def drawn(seed: int, groups: int = 300, signal: float = 0.6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return grades from 0 to 3, scores of few values that know of them, and groups of 1 to 30 rows."""
    random = np.random.default_rng(seed)
    group = random.permutation(np.repeat(np.arange(groups), random.integers(1, 31, groups)))
    grades = random.choice(4, len(group), p=[0.7, 0.15, 0.1, 0.05])
    return grades, np.round(signal * grades + random.normal(size=len(group)), 1), group


def of(grades: Any, score: Any, group: Any) -> Sample:
    """Return rows that are ranked in groups."""
    return scores.sample(DECLARED, grades, score, groups=group)


def by_group(grades: np.ndarray, score: np.ndarray, group: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (grades, scores) of each group that can be ranked."""
    found = [(grades[group == one], score[group == one]) for one in np.unique(group)]
    return [pair for pair in found if (pair[0] > 0).any()]


def test_ndcg_agrees_with_scikit_learn() -> None:
    """Ties included, it is the mean of the reference's over the groups with a good row."""
    from sklearn import metrics

    rows = drawn(1)
    each = [metrics.ndcg_score([g], [s], k=10) if len(g) > 1 else 1.0 for g, s in by_group(*rows)]
    assert METRICS["ndcg"].value(of(*rows)) == pytest.approx(np.mean(each))


def test_map_agrees_with_scikit_learn() -> None:
    """Ties included, it is the mean of the reference's label ranking precision over the same groups."""
    from sklearn import metrics

    rows = drawn(2)
    each = [metrics.label_ranking_average_precision_score([g > 0], [s]) for g, s in by_group(*rows)]
    assert METRICS["map"].value(of(*rows)) == pytest.approx(np.mean(each))


def test_mrr_counts_a_tie_as_after_all_its_equals() -> None:
    """The first good row is second in one group, first in another, and one of three equals in the last."""
    grades = [0, 2, 0, 1, 0, 0, 0, 1]
    score = [3, 2, 1, 9, 1, 5, 5, 5]
    group = ["a", "a", "a", "b", "b", "c", "c", "c"]
    assert METRICS["mrr"].value(of(grades, score, group)) == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)


def test_one_score_for_every_row_is_no_good_ranking() -> None:
    """A model that says nothing does no better than a random order, in any metric."""
    grades, _, group = drawn(3)
    random = np.random.default_rng(4).random(len(grades))
    for metric in METRICS.values():
        assert (
            metric.value(of(grades, np.ones(len(grades)), group))
            <= metric.value(of(grades, random, group)) + 0.02
        )


def test_a_perfect_order_is_1_and_groups_do_not_mix() -> None:
    """Scores that are offset by group order each group all the same."""
    grades, _, group = drawn(5)
    rows = of(grades, grades + 100.0 * (group % 7), group)
    assert METRICS["ndcg"].value(rows) == pytest.approx(1)
    assert METRICS["ndcg"].value(rows) > METRICS["ndcg"].value(of(grades, -grades, group))


def test_the_order_of_rows_does_not_count() -> None:
    """Rows that are read in another order give the same numbers."""
    rows = drawn(6)
    order = np.random.default_rng(7).permutation(len(rows[0]))
    for metric in METRICS.values():
        assert metric.value(of(*rows)) == pytest.approx(metric.value(of(*(one[order] for one in rows))))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_influence_is_what_a_groups_weight_does(name: str) -> None:
    """A unit is a group: giving one twice moves a metric by its influence / groups."""
    grades, score, group = drawn(8, groups=800)
    before, influences = METRICS[name].seen(of(grades, score, group))
    assert len(influences) == 800
    assert influences.mean() == pytest.approx(0, abs=1e-9)
    for one in range(0, 800, 130):
        again = group == np.unique(group.astype(str))[one].astype(int)
        twice = of(
            np.append(grades, grades[again]),
            np.append(score, score[again]),
            np.append(group, np.full(again.sum(), 99_999)),
        )
        moved = METRICS[name].value(twice) - before
        assert moved * 801 == pytest.approx(influences[one], rel=0.03, abs=0.03)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_interval_is_as_wide_as_a_bootstrap_of_groups(name: str) -> None:
    """Within a fifth of the width that resampling whole groups gives: rows of a group are not independent."""
    grades, score, group = drawn(9, groups=400)
    random = np.random.default_rng(10)
    other = score + random.normal(scale=0.7, size=len(score))
    metric = METRICS[name]
    pair = [of(grades, one, group) for one in (score, other)]
    found = paired.difference(metric, *pair, confidence=0.95)
    mine, theirs = (np.nan_to_num(EACH[name](one)) for one in pair)
    good = ranking.any_good(pair[0])
    draws = []
    for _ in range(400):
        kept = random.integers(0, len(good), len(good))
        draws.append(np.average(mine[kept] - theirs[kept], weights=good[kept]))
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(draws), rel=0.2)


def test_groups_without_a_good_row_are_left_out_and_none_is_nan() -> None:
    """They are neither a success nor a failure; where there is no other, there is no metric."""
    grades, score, group = drawn(11)
    before = [metric.value(of(grades, score, group)) for metric in METRICS.values()]
    more = of(np.append(grades, [0, 0]), np.append(score, [1, 2]), np.append(group, [777, 777]))
    assert [metric.value(more) for metric in METRICS.values()] == pytest.approx(before)
    assert all(math.isnan(metric.value(of([0, 0], [1, 2], ["a", "a"]))) for metric in METRICS.values())


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.floats(-10, 10), st.integers(0, 4)), min_size=1, max_size=40
    ),
    name=st.sampled_from(sorted(METRICS)),
)
def test_a_metric_is_a_share_or_nan_whatever_the_rows(rows: list[Any], name: str) -> None:
    """No rows make a metric raise, and each stays between 0 and 1."""
    found = METRICS[name].value(of(*(np.array(column) for column in zip(*rows, strict=True))))
    assert math.isnan(found) or -1e-12 <= found <= 1 + 1e-12


def test_a_slice_must_not_cut_a_group_apart() -> None:
    """A column that all rows of a group share can be cut by; one that differs within a group can't."""
    rows = of(*drawn(12))
    shared = np.array(["a", "b"], dtype=object)[rows.groups % 2]
    assert not slices.splits(shared, rows)
    assert slices.splits(np.arange(len(shared)) % 2, rows)
    part = rows.at(shared == "a")
    assert len(part) == len(np.unique(rows.groups[shared == "a"]))


@pytest.mark.parametrize(
    ("grades", "group", "told"),
    [([1, -1], ["a", "a"], "below 0"), ([1, 0], None, "needs the `query`"), ([1, 0], ["a"], "needs the")],
)
def test_what_can_not_be_ranked_is_refused(grades: Any, group: Any, told: str) -> None:
    """A grade below 0, and rows without their group, raise."""
    with pytest.raises(ValueError, match=told):
        of(grades, [1.0, 2.0], group)
