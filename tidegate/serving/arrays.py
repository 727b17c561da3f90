"""Checked columns as arrays: how nulls are written among values of each kind; see `columns`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def nothing(values: Array) -> Array:
    """Return where a checked column is null."""
    if values.dtype == object:
        return np.fromiter((value is None for value in values.tolist()), bool, len(values))
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.isnat(values) if values.dtype.kind == "M" else np.zeros(len(values), bool)


def filled(kind: str, value: Any, count: int) -> Array:
    """Return a checked column of the same value in each row."""
    return np.repeat(array(kind, [value]), count)


def array(kind: str, values: Sequence[Any]) -> Array:
    """Return a column as an array of its kind; nulls are None in `values`."""
    if kind == "text":
        return np.array(values, dtype=object)
    if kind == "number":
        return np.array(values, dtype=np.float64)
    if kind == "date":
        return np.array(values, dtype="datetime64[D]")
    if kind in ("integer", "flag") and None not in values:
        try:
            return np.array(values, dtype=np.int64 if kind == "integer" else np.bool_)
        except OverflowError:  # beyond 64 bits, which JSON has no word for
            pass
    return objects(values)


def objects(values: Sequence[Any]) -> Array:
    """Return Python's own values as an array of one dimension, lists among them included."""
    result = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        result[index] = value
    return result
