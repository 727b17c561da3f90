"""LightGBM: what each feature added to a prediction of boosted trees, exactly, by their text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.errors import NoData, PlatformError

TREES = "trees.txt"  # in the artifact; training writes it
LOG_ODDS = "log-odds"
# What trees add up, by the objective they were trained for, where an answer is not their sum itself.
UNITS = {"binary sigmoid:1": LOG_ODDS, "cross_entropy": LOG_ODDS}
UNITS |= dict.fromkeys(("poisson", "gamma", "tweedie"), "log")
SUMS = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg")


class Trees:
    """The trees in an artifact's folder; raises NoData where there are none that can be explained."""

    def __init__(self, folder: Path) -> None:
        path = folder / TREES
        if not path.is_file():
            raise NoData(f"the model's files hold no {TREES}", "Let training write LightGBM's text there.")
        import lightgbm

        try:
            text = path.read_text()
            self._booster = lightgbm.Booster(model_str=text)
        except (lightgbm.basic.LightGBMError, OSError, UnicodeDecodeError) as error:
            raise PlatformError(
                f"{TREES} can't be read: {error}", "Train the model again: dvc repro"
            ) from error
        if self._booster.num_model_per_iteration() != 1:
            raise NoData(f"{TREES} answers several classes at once", "Explain it by asking the model.")
        self.names: tuple[str, ...] = tuple(self._booster.feature_name())
        self.unit = _unit(text)

    def answers(self, rows: Any) -> npt.NDArray[np.float64]:
        """Return [n]: what the trees answer, in the label's own unit: of two classes a probability."""
        found = self._booster.predict(np.asarray(rows, dtype=np.float64), num_threads=1)
        return np.asarray(found, dtype=np.float64)

    def contributions(self, rows: Any) -> npt.NDArray[np.float64]:
        """Return [n, F + 1]: what each feature added, then the base; their sum is the trees' sum.

        In `unit`: log-odds for a model of two classes, "" where the sum is the answer. Raises PlatformError
        for rows of another width.
        """
        matrix = np.asarray(rows, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != len(self.names):
            raise PlatformError(
                f"the trees know {len(self.names)} features, the rows have the shape {matrix.shape}",
                "Give each row the features that the model was trained with.",
            )
        found = self._booster.predict(matrix, pred_contrib=True, num_threads=1)
        return np.asarray(found, dtype=np.float64)


def _unit(text: str) -> str:
    """Return what the trees add up; "" where the sum is what they answer."""
    found = re.search(r"^objective=(.*)$", text, re.MULTILINE)
    named = found[1].strip() if found else ""
    if named in SUMS:
        return ""
    return UNITS.get(named) or UNITS.get(named.partition(" ")[0], "the trees' sum")


def contributions(folder: Path, rows: Any) -> npt.NDArray[np.float64]:
    """Return [n, F + 1] of the trees in an artifact's folder: `Trees.contributions`."""
    return Trees(folder).contributions(rows)
