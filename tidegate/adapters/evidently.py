"""Drift of each column between two samples, measured by Evidently with the method named outright."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from tidegate.errors import ConfigError, NoData

Kind = Literal["number", "category"]

# Without a method, Evidently takes one by the number of rows, and the meaning of its value turns
# over: a p-value (low = drift) up to 1,000 rows, a distance (high = drift) above. Both of these are
# distances: the first in standard deviations of the reference, the second from 0 to 1.
METHODS: Mapping[Kind, str] = {"number": "wasserstein", "category": "jensenshannon"}


def distances(current: Any, reference: Any, columns: Mapping[str, tuple[Kind, float]]) -> dict[str, float]:
    """Return column → distance of `current` from `reference` (data frames), by each column's method.

    `columns` maps a column to its kind and its limit; the limit only colours Evidently's own tests,
    which must agree with it. Raises NoData for an empty sample, a column without any value or one that holds
    no numbers where it should, and ConfigError for a column that one of the samples lacks.
    """
    for name in columns:
        for role, frame in (("current", current), ("reference", reference)):
            if name not in frame:
                raise ConfigError(f"column `{name}` is not in the {role} data", "Correct `columns`.")
            if frame[name].notna().sum() == 0:
                raise NoData(f"column `{name}` has no value in the {role} data", "Look at the data gate.")
    if not columns:
        raise ConfigError("no column is named, so nothing would be compared", "Name some in `columns`.")
    return _read(_snapshot(current, reference, columns), list(columns))


def _snapshot(current: Any, reference: Any, columns: Mapping[str, tuple[Kind, float]]) -> dict[str, Any]:
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    names = list(columns)
    shape = DataDefinition(
        numerical_columns=[name for name in names if columns[name][0] == "number"],
        categorical_columns=[name for name in names if columns[name][0] == "category"],
    )
    metrics = [
        ValueDrift(column=name, method=METHODS[kind], threshold=limit)
        for name, (kind, limit) in columns.items()
    ]
    report = Report(metrics, include_tests=True)  # without it there are no tests, and all is well
    new = Dataset.from_pandas(_typed(current[names], columns), data_definition=shape)
    old = Dataset.from_pandas(_typed(reference[names], columns), data_definition=shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pandas' words to Evidently, not to us
        document: dict[str, Any] = report.run(new, old).dict()  # current comes first
    return document


def _typed(frame: Any, columns: Mapping[str, tuple[Kind, float]]) -> Any:
    kinds = {"number": "float64", "category": "object"}
    result = frame.copy()
    for name, (kind, _) in columns.items():
        try:
            result[name] = frame[name].astype(kinds[kind])
        except (TypeError, ValueError) as problem:
            text = f"column `{name}` holds what is no number: {problem}"
            raise NoData(text, "Look at the data gate.") from problem
    return result


def _read(document: Mapping[str, Any], names: list[str]) -> dict[str, float]:
    """Return each column's value; NaN where Evidently's test did not come to an end."""
    values = {m["config"]["column"]: float(m["value"]) for m in document["metrics"]}
    states = {t["metric_config"]["params"]["column"]: t["status"] for t in document["tests"]}
    if set(values) != set(names) or set(states) != set(names):
        raise NoData(
            f"Evidently answered for {len(values)} columns with {len(states)} tests; {len(names)} were asked",
            "Compare the installed Evidently with the lock file.",
        )
    return {name: values[name] if states[name] in ("SUCCESS", "FAIL") else math.nan for name in names}
