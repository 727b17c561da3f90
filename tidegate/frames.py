"""Parquet files as data frames; what can't be read is no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.errors import NoData


def read(path: Path) -> Any:
    """Return a parquet file as a data frame.

    Raises NoData when it can't be read, or has two columns of one name.
    """
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as problem:
        first = str(problem).strip().splitlines()[0]
        raise NoData(f"{path.name} can't be read as parquet: {first}", "Run `dvc repro`.") from problem
    if not frame.columns.is_unique:
        raise NoData(f"{path.name} has two columns of one name", "Correct prepare.py.")
    return frame
