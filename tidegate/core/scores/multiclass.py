"""Metrics of one probability each of several classes: labels are places from 0, values [n, K].

What is made of two classes is the mean over all classes, each against the others; every class must be among
the labels. The Brier score is halved, so that with two classes every metric but the calibration error (here
that of the class that is called) is that of `core.scores.binary`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tidegate.core.scores import binary
from tidegate.core.scores.metric import Floats, Mean, Metric, Sample, Seen, average, ratio

LEAST = 1e-15  # of a probability, in a loss


def called(sample: Sample) -> Floats:
    """Return the place of the class that each row is called: the most probable, the first of equals."""
    found: Floats = sample.values.argmax(axis=1).astype(np.float64)
    return found


def right(sample: Sample) -> Floats:
    """Return 1.0 for the rows that are called what they are."""
    found: Floats = (called(sample) == sample.labels).astype(np.float64)
    return found


def top(sample: Sample) -> Floats:
    """Return the probability of the class that each row is called."""
    found: Floats = sample.values.max(axis=1)
    return found


def losses(sample: Sample) -> Floats:
    """Return each row's log loss in nats."""
    own = sample.values[np.arange(len(sample.labels)), sample.labels.astype(np.intp)]
    found: Floats = -np.log(np.clip(own, LEAST, 1.0))
    return found


def expected_losses(sample: Sample) -> Floats:
    """Return the log loss that each row's own probabilities expect: their entropy, in nats."""
    clipped = np.clip(sample.values, LEAST, 1.0)
    found: Floats = -(sample.values * np.log(clipped)).sum(axis=1)
    return found


def each(sample: Sample) -> list[tuple[Floats, Floats, Floats]]:
    """Return for each class whether a row is of it, whether it is called so, and its probability."""
    said = called(sample)
    return [
        ((sample.labels == k).astype(np.float64), (said == k).astype(np.float64), sample.values[:, k])
        for k in range(sample.values.shape[1])
    ]


def _brier(sample: Sample) -> Floats:
    truth = np.eye(sample.values.shape[1])[sample.labels.astype(np.intp)]
    found: Floats = ((sample.values - truth) ** 2).sum(axis=1) / 2
    return found


def _macro(one: Callable[[Floats, Floats, Floats], Seen]) -> Callable[[Sample], Seen]:
    return lambda sample: average([one(*of) for of in each(sample)])


def _counted(weight: Callable[[Floats, Floats], Floats]) -> Callable[[Sample], float]:
    """Return of how many rows one share would be as sure as the mean over the classes' shares."""

    def count(sample: Sample) -> float:
        rows = [float(weight(truth, said).sum()) for truth, said, _ in each(sample)]
        return len(rows) / math.sqrt(sum(1 / max(one, 1.0) ** 2 for one in rows))

    return count


def _area(truth: Floats, said: Floats, values: Floats) -> Seen:
    return binary.area(truth, values)


def _precision(truth: Floats, said: Floats, values: Floats) -> Seen:
    return binary.average_precision(truth, values)


_right = Mean(right)
METRICS = (
    Metric("auc", True, _macro(_area), method="DeLong, macro", classes=True),
    Metric(
        "average_precision",
        True,
        _macro(_precision),
        classes=True,
    ),
    Metric("log_loss", False, Mean(losses), "nats"),
    Metric("excess_loss", False, Mean(lambda s: losses(s) - expected_losses(s)), "nats"),
    Metric("brier", False, Mean(_brier)),
    Metric(
        "calibration_error",
        False,
        lambda s: binary.calibration(right(s), top(s)),
        method="paired rows, and the bias of small gaps",
        bias=lambda s: binary.calibration_bias(right(s), top(s)),
    ),
    Metric("accuracy", True, _right, counted=_right.counted),
    Metric(
        "recall",
        True,
        _macro(lambda truth, said, _: ratio(said, truth)),
        classes=True,
        counted=_counted(lambda truth, said: truth),
    ),
    Metric(
        "precision",
        True,
        _macro(lambda truth, said, _: ratio(truth, said)),
        classes=True,
        counted=_counted(lambda truth, said: said),
    ),
    Metric(
        "macro_f1",
        True,
        _macro(lambda truth, said, _: binary.f1(truth, said)),
        classes=True,
        counted=_counted(lambda truth, said: (truth + said) / 2),
    ),
)
