"""Drift of each column between two samples, measured by Evidently with the method named outright."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from tidegate.errors import ConfigError, NoData

Kind = Literal["number", "category", "text"]
PLACES = 9

# Without a method, Evidently takes one by the number of rows, and the meaning of its value turns
# over: a p-value (low = drift) up to 1,000 rows, a distance (high = drift) above. All of these are
# distances: the first in standard deviations of the reference, the others from 0 to 1. That of texts is how
# well a classifier of words tells on unseen texts which sample they are of: 2 AUC - 1, 0 for not at all.
METHODS: Mapping[Kind, str] = {
    "number": "wasserstein",
    "category": "jensenshannon",
    "text": "abs_text_content_drift",
}


def distances(current: Any, reference: Any, columns: Mapping[str, Kind]) -> dict[str, float]:
    """Return column → distance of `current` from `reference` (data frames), by the method of its kind.

    Nulls are left out. The functions are those that a report of Evidently calls (`ValueDrift`), and give the
    same numbers; a report draws each column as well, which takes ten times as long as to measure it. Raises
    NoData for a column without any value or one that holds no numbers, no texts or no words where it should,
    and ConfigError for a column that one of the samples lacks.
    """
    if not columns:
        raise ConfigError("no column is named, so nothing would be compared", "Name some in `columns`.")
    new, old = _values(current, "current", columns), _values(reference, "reference", columns)
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    types = {"number": ColumnType.Numerical, "category": ColumnType.Categorical, "text": ColumnType.Text}
    found = {}
    for name, kind in columns.items():
        measure = get_stattest(old[name], new[name], types[kind], METHODS[kind])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas' and scikit-learn's words to Evidently, not to us
            try:
                # The threshold decides only what Evidently calls drifted; the gate decides by the distance.
                score = float(measure(old[name], new[name], types[kind], 0.1).drift_score)
            except ValueError as problem:  # texts without a word, or too few to learn from
                text = f"column `{name}` can't be compared: {problem}"
                raise NoData(text, "Look at the data gate.") from problem
        distance = max(0.0, 2 * score - 1) if kind == "text" else score
        # Evidently adds categories up in the order of a set, which is another in each process.
        found[name] = round(distance, PLACES)
    return found


def _values(frame: Any, role: str, columns: Mapping[str, Kind]) -> dict[str, Any]:
    """Return each column's known values, in the type that its method needs."""
    import numpy as np

    found = {}
    for name, kind in columns.items():
        if name not in frame:
            raise ConfigError(f"column `{name}` is not in the {role} data", "Correct `columns`.")
        try:
            values = frame[name].astype("float64" if kind == "number" else "object")
        except (TypeError, ValueError) as problem:
            text = f"column `{name}` of the {role} data holds what is no number: {problem}"
            raise NoData(text, "Look at the data gate.") from problem
        known = values.replace([np.inf, -np.inf], np.nan).dropna() if kind == "number" else values.dropna()
        if kind == "text" and not all(isinstance(one, str) for one in known):
            raise NoData(
                f"column `{name}` of the {role} data holds what is no text", "Look at the data gate."
            )
        if known.empty:
            raise NoData(f"column `{name}` has no value in the {role} data", "Look at the data gate.")
        found[name] = known
    return found
