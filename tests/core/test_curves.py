"""Charts of predictions, whatever they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.core import test_multiclass, test_ranking, test_regression, test_scores
from tidegate.core import curves
from tidegate.core.exhibits import Chart
from tidegate.core.scores import Sample

SETS: dict[str, Any] = {
    "binary": lambda: test_scores.of(*test_scores.sample(1)),
    "multiclass": lambda: test_multiclass.of(*test_multiclass.drawn(1)),
    "regression": lambda: test_regression.of(*test_regression.drawn(1)),
    "ranking": lambda: test_ranking.of(*test_ranking.drawn(1)),
}


def drawn(rows: Sample) -> tuple[Chart, ...]:
    """Draw two equal sets."""
    return curves.charts({"one": rows, "two": rows}, test_multiclass.CLASSES)


@pytest.mark.parametrize("kind", SETS)
def test_every_chart_has_a_series_of_each_set(kind: str) -> None:
    """Of few points, of one length, finite; titles are distinct, since plots' files are called by them."""
    charts = drawn(SETS[kind]())
    assert len({chart.title for chart in charts}) == len(charts) >= 2
    for chart in charts:
        by_name = {one.name: one for one in chart.series}
        assert {"one", "two"} <= set(by_name)
        assert by_name["one"].y == by_name["two"].y
        for one in chart.series:
            assert 0 < len(one.x) == len(one.y) <= curves.POINTS
            assert np.isfinite([*one.x, *one.y]).all()


@pytest.mark.parametrize("kind", SETS)
def test_nothing_is_drawn_of_no_rows(kind: str) -> None:
    """An empty holdout has no charts, and raises nothing."""
    rows = SETS[kind]()
    assert drawn(rows.at(np.zeros(len(rows.labels), dtype=bool))) == ()


@pytest.mark.parametrize("kind", SETS)
def test_predictions_that_are_all_one_are_drawn(kind: str) -> None:
    """A constant has a chart like any other: that is what a person needs to see."""
    rows = SETS[kind]()
    flat = np.full_like(rows.values, 1 / 3)
    assert drawn(Sample(rows.kind, rows.labels, flat, groups=rows.groups))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_shares_of_rows_add_up(kind: str) -> None:
    """No row is left out of a bar chart, however far out it is."""
    (bars,) = (chart for chart in drawn(SETS[kind]()) if chart.kind == "bar")
    assert all(sum(y or 0 for y in one.y) == pytest.approx(1, abs=0.002) for one in bars.series)


def test_confusion_counts_each_row_once() -> None:
    """A row of the table for each label, with as many as there are; the diagonal is what is right."""
    rows = SETS["multiclass"]()
    table = curves.confusion(rows, test_multiclass.CLASSES)
    counts = np.array([row[1:] for row in table.rows], dtype=float)
    assert counts.sum(axis=1).tolist() == list(rows.support.values())
    accuracy = test_multiclass.METRICS["accuracy"].value(rows)
    assert np.trace(counts) / counts.sum() == pytest.approx(accuracy)
