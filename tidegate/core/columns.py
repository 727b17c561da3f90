"""What a column may hold, and how many rows of a data frame break that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Range = tuple[float, float]
Characters = Annotated[int, msgspec.Meta(ge=0)]


def check_range(name: str, ends: Range | None) -> None:
    """Raise ValueError unless both ends are numbers, the lower first; a NaN would let everything through."""
    if ends is not None and not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] <= ends[1]):
        raise ValueError(f"`{name}` must be two numbers, the lower first, not {list(ends)}")


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one column may hold; `nulls` is the largest share of nulls, `within` both ends included.

    `mean` is where the mean of its known values must lie: other units are in range row by row, and not there.
    `length` is the least and greatest number of characters of a text.
    """

    type: Literal["text", "int", "number", "flag"]
    nulls: Share = 0.0
    within: Range | None = None
    mean: Range | None = None
    pattern: str = ""
    among: tuple[str, ...] = ()
    length: tuple[Characters, Characters] | None = None

    def __post_init__(self) -> None:
        """Refuse a range that holds nothing."""
        check_range("within", self.within)
        check_range("mean", self.mean)
        check_range("length", self.length)
        if self.type != "text" and (wrong := [n for n in ("length", "pattern", "among") if getattr(self, n)]):
            raise ValueError(f"`{wrong[0]}` is a rule for text, and the column's type is {self.type}")


def is_kind(values: Any, kind: str) -> bool:
    """Tell whether a column's stored type is of a kind; an int column with nulls is stored as floats."""
    from pandas.api import types

    if kind == "text":
        return types.infer_dtype(values, skipna=True) in ("string", "empty")
    if kind == "flag":
        return types.is_bool_dtype(values) or set(values.dropna().unique()) <= {0, 1}
    if types.is_bool_dtype(values) or not types.is_numeric_dtype(values):
        return False
    return kind == "number" or bool((values.dropna() % 1 == 0).all())


def is_numeric(values: Any) -> bool:
    """Tell whether a column has a mean: it holds numbers, or true and false."""
    from pandas.api import types

    return bool(types.is_numeric_dtype(values))


def broken_rows(frame: Any, columns: Mapping[str, Column]) -> dict[str, int]:
    """Return column → how many of its rows break the schema; all of them when its type does."""
    from pandera.errors import SchemaErrors

    try:
        _schema(columns).validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        whole = set(cases.loc[cases["index"].isna(), "column"])
        rows = cases.groupby("column")["index"].nunique()
        return {str(name): len(frame) if name in whole else int(count) for name, count in rows.items()}
    return {}


def _schema(columns: Mapping[str, Column]) -> Any:
    """Return the pandera schema of these columns; nulls are counted apart, against their own limits.

    Nothing is coerced: numbers that are stored as text would reach training as text.
    """
    import pandera.pandas as pa

    def checks(spec: Column) -> list[Any]:
        return [
            pa.Check(lambda values: is_kind(values, spec.type), name="type", ignore_na=False),
            *([pa.Check.in_range(*spec.within, name="within")] if spec.within else []),
            *([pa.Check.str_matches(spec.pattern, name="pattern")] if spec.pattern else []),
            *([pa.Check.isin(spec.among, name="among")] if spec.among else []),
            *([pa.Check.str_length(*spec.length, name="length")] if spec.length else []),
        ]

    return pa.DataFrameSchema({k: pa.Column(None, checks(s), nullable=True) for k, s in columns.items()})


def repeated(frame: Any, key: tuple[str, ...] = ()) -> int:
    """Return how many rows of a data frame are equal, in `key` or in all columns, to an earlier one.

    Two nulls are equal here. Raises KeyError for a column of the key that is not there.
    """
    return int(frame.duplicated(list(key) or None).sum())


def shared(earlier: Any, later: Any, key: tuple[str, ...]) -> int:
    """Return how many rows of `later` are equal, in the columns of `key`, to some row of `earlier`.

    Two nulls are equal here. Raises KeyError for a column of the key that is not there.
    """
    import numpy as np
    import pandas as pd

    names = list(key)
    both = pd.concat([earlier[names], later[names]], ignore_index=True)
    groups = both.groupby(names, dropna=False, sort=False).ngroup().to_numpy()
    return int(np.isin(groups[len(earlier) :], groups[: len(earlier)]).sum())
