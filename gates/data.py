"""Is the data what the model was made for? Schema, types, ranges, nulls, volume, label rate."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tidegate import gating
from tidegate.core import gate


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one column may hold; `nulls` is the largest share of nulls, `within` both ends included."""

    type: Literal["text", "int", "number", "flag"]
    nulls: float = 0.0
    within: tuple[float, float] | None = None
    pattern: str = ""
    among: tuple[str, ...] = ()


class DataSettings(gating.Settings, frozen=True):
    """The `data` section; `ordered_by` names a column in which train must end before holdout begins."""

    min_rows: Mapping[str, int] = {}
    label: str = ""
    label_rate: tuple[float, float] = (0.0, 1.0)
    ordered_by: str = ""
    columns: Mapping[str, Column] = {}


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


def schema(columns: Mapping[str, Column]) -> Any:
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
        ]

    return pa.DataFrameSchema({k: pa.Column(None, checks(s), nullable=True) for k, s in columns.items()})


def broken_rows(frame: Any, columns: Mapping[str, Column]) -> dict[str, int]:
    """Return column → how many of its rows break the schema; all of them when its type does."""
    from pandera.errors import SchemaErrors

    try:
        schema(columns).validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        whole = set(cases.loc[cases["index"].isna(), "column"])
        rows = cases.groupby("column")["index"].nunique()
        return {str(name): len(frame) if name in whole else int(count) for name, count in rows.items()}
    return {}


def look_at(split: str, frame: Any, settings: DataSettings) -> list[Any]:
    """Return the findings of one split."""
    known = {name: spec for name, spec in settings.columns.items() if name in frame}
    volume = gate.at_least(f"{split}: rows", len(frame), settings.min_rows.get(split))
    findings = [volume, gate.expected(f"{split}: columns", list(frame), list(settings.columns), "columns")]
    if frame.empty:
        return [gate.enough(f"{split}: rows", 0, settings.min_rows.get(split))]
    broken = broken_rows(frame[list(known)], known)
    for name, spec in known.items():
        findings.append(gate.none_of(f"{split}: {name} values", broken.get(name, 0), len(frame), "rows"))
        nulls = float(frame[name].isna().mean())
        findings.append(gate.at_most(f"{split}: {name} nulls", nulls, spec.nulls))
    rate = float(frame[settings.label].mean()) if settings.label in frame else None
    return [*findings, gate.within(f"{split}: rate of {settings.label}", rate, *settings.label_rate)]


def look(subject: gating.Subject[DataSettings]) -> gating.Looked:
    """Look at the train and holdout splits."""
    import pandas as pd

    settings = subject.settings
    splits = {split: pd.read_parquet(subject.data(split)) for split in ("train", "holdout")}
    findings = [found for split, frame in splits.items() for found in look_at(split, frame, settings)]
    if settings.ordered_by and all(settings.ordered_by in frame for frame in splits.values()):
        last, first = (
            splits["train"][settings.ordered_by].astype(str).max(),
            splits["holdout"][settings.ordered_by].astype(str).min(),
        )
        findings.append(gate.precedes(f"order by {settings.ordered_by}", last, first))
    return gating.Looked(findings, {"rows": {split: len(frame) for split, frame in splits.items()}})


GATE = gating.Gate(
    "data",
    DataSettings,
    look,
    needs="files",
    inputs="The train and holdout splits in data/<model>/.",
    fix="Correct the source or prepare.py; change a limit only by a reviewed commit that says why.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
