"""Rows of a split as the requests that a client would send."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tidegate import frames
from tidegate.errors import Fatal, NoData


def requests(package: str, split: Path, *, rows: int, seed: int) -> list[dict[str, Any]]:
    """Return `rows` rows of a split's parquet file (all, where it has fewer), drawn by seed, as requests.

    `models/<package>/features.py` of the checkout that is on the path turns them into rows. Raises NoData
    when the file can't be read or is empty, Fatal when its columns make no requests.
    """
    frame = frames.read(split)
    if frame.empty:
        raise NoData(f"{split.name} has no rows", "Make it with `dvc repro`.")
    drawn = frame.sample(n=min(rows, len(frame)), random_state=seed)
    try:
        features = importlib.import_module(f"models.{package}.features")
        made: list[dict[str, Any]] = features.to_rows(
            {name: drawn[name].to_numpy() for name in drawn.columns}
        )
    except (ImportError, KeyError, ValueError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Fatal(f"{split.name} makes no requests ({reason})", "Compare it with features.py.") from error
    return made
