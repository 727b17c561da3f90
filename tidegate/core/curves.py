"""What a person looks at to judge predicted probabilities: ROC, calibration and distribution, as charts.

Each takes several sets of predictions of the same rows, by name, and gives each a series of at most `POINTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tidegate.core import scores
from tidegate.core.exhibits import Chart, Series

POINTS = 40
BINS = 20


def charts(labels: Any, sets: Mapping[str, Any]) -> tuple[Chart, ...]:
    """Return the three charts; none of no rows."""
    if not len(labels):
        return ()
    both = {name: scores.arrays(labels, values) for name, values in sets.items()}
    return (
        Chart(
            "ROC on the holdout",
            "line",
            tuple(_roc(name, *one) for name, one in both.items()),
            "false positive rate",
            "true positive rate",
        ),
        Chart(
            "Calibration on the holdout",
            "line",
            (*(_calibration(name, *one) for name, one in both.items()), _diagonal()),
            "mean probability",
            "rate",
        ),
        Chart(
            "Share of rows by probability",
            "bar",
            tuple(_distribution(name, one[1]) for name, one in both.items()),
            "probability",
            "share",
        ),
    )


def _roc(name: str, truth: Any, values: Any) -> Series:
    """Return the true positive rate at evenly spaced false positive rates, so that the sets share their x."""
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # ties are one step
    caught = np.concatenate([[0.0], np.cumsum(truth)[ends]]) / max(truth.sum(), 1)
    alarms = np.concatenate([[0.0], np.cumsum(1 - truth)[ends]]) / max((1 - truth).sum(), 1)
    x = np.linspace(0, 1, POINTS)
    return Series(name, _rounded(x), _rounded(np.interp(x, alarms, caught)))


def _calibration(name: str, truth: Any, values: Any) -> Series:
    """Return the rate in each bin of equal width that has rows, at the bin's mean probability."""
    place = scores.places(values, BINS)
    rows = np.bincount(place, minlength=BINS)
    kept = rows > 0
    x = np.bincount(place, values, BINS)[kept] / rows[kept]
    y = np.bincount(place, truth, BINS)[kept] / rows[kept]
    return Series(name, _rounded(x), _rounded(y))


def _diagonal() -> Series:
    ends = (0.0, 1.0)
    return Series("perfect", ends, ends)


def _distribution(name: str, values: Any) -> Series:
    share = np.bincount(scores.places(values, BINS), minlength=BINS) / len(values)
    return Series(name, _rounded((np.arange(BINS) + 0.5) / BINS), _rounded(share))


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
