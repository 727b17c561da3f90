"""What each feature added to one prediction: the result's form, and a sampling that asks any model. Pure.

A Shapley value is what a feature adds to the prediction, averaged over all orders in which features could
become known, others being those of a background row (Shapley 1953; sampled by orders, each with its
reverse: Mitchell, Cooper, Frank and Holmes, "Sampling permutations for Shapley value estimation", JMLR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PASSES = 200  # orders, each asked both ways
SEED = 20131101


@dataclass(frozen=True)
class Share:
    """What one feature added; `error` is the sampling's standard error, None where it is exact."""

    name: str
    value: float
    error: float | None = None


@dataclass(frozen=True)
class Explained:
    """A prediction as a sum: `base` plus all shares is `total`, in `unit`; `of` is the answer's field."""

    of: str
    unit: str
    method: str
    base: float
    shares: tuple[Share, ...]

    @property
    def total(self) -> float:
        """The prediction in `unit`."""
        return self.base + sum(share.value for share in self.shares)

    def by_size(self) -> list[Share]:
        """Return the shares, the largest first."""
        return sorted(self.shares, key=lambda share: -abs(share.value))


def sampled(
    ask: Callable[[np.ndarray], np.ndarray],
    row: Sequence[float],
    background: np.ndarray,
    passes: int = PASSES,
    seed: int = SEED,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (values [F], their standard errors [F], base) of the prediction for `row`.

    `ask` maps rows [n, F] to n predictions, `background` [m, F] are rows to compare with. base + values is
    exactly what `ask` says of the row; base is the mean prediction of the background rows that were drawn.
    """
    draws = np.random.default_rng(seed)
    wanted = np.asarray(row, dtype=background.dtype)
    count = len(wanted)
    drawn = background[draws.permutation(np.arange(passes) % len(background))]
    orders = np.stack([draws.permutation(count) for _ in range(passes)])
    both = np.stack([orders, orders[:, ::-1]], axis=1).reshape(-1, count)  # [2 passes, F]
    steps = np.repeat(drawn, 2, axis=0)[:, None, :].repeat(count + 1, axis=1)  # [2 passes, F + 1, F]
    ranks = np.argsort(both, axis=1)  # a feature's place in the order
    known = ranks[:, None, :] < np.arange(count + 1)[None, :, None]
    steps = np.where(known, wanted, steps)
    asked: Any = np.asarray(ask(steps.reshape(-1, count)), dtype=np.float64).reshape(-1, count + 1)
    added = np.take_along_axis(np.diff(asked, axis=1), ranks, axis=1)  # by feature
    pairs = added.reshape(passes, 2, count).mean(axis=1)
    errors = pairs.std(axis=0, ddof=1) / np.sqrt(passes)
    return pairs.mean(axis=0), errors, float(asked[:, 0].mean())
