"""What a gate shows beside its findings: comparisons with production, charts and tables, as plain values.

They are part of a report's published schema, so a page can draw every gate's without knowing the gate.
A number that does not exist is null; it is drawn as a gap, never as 0.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Word = Literal["better", "no worse", "worse", "cannot tell"]
Cell = str | float | None


class _Exhibit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base: immutable, unknown fields refused."""


class Comparison(_Exhibit, frozen=True):
    """A candidate's number beside production's, and what may be said of the two.

    `low` to `high` is the interval, at `confidence`, of candidate − production where `scale` is
    `difference`, of candidate ÷ production where it is `ratio`. `margin` is by how much the candidate may
    be worse, on the same scale (0.1 of a ratio: ten percent).
    """

    name: str
    word: Word
    candidate: float | None
    production: float | None
    low: float | None
    high: float | None
    margin: float | None
    higher_is_better: bool
    scale: Literal["difference", "ratio"] = "difference"
    confidence: float = 0.99
    unit: str = ""


class Series(_Exhibit, frozen=True):
    """One line of points, or one group of bars; `x` and `y` are of one length."""

    name: str
    x: tuple[Cell, ...]
    y: tuple[float | None, ...]


class Chart(_Exhibit, frozen=True):
    """Something that a person would rather look at than read."""

    title: str
    kind: Literal["line", "bar"]
    series: tuple[Series, ...]
    x_title: str = ""
    y_title: str = ""


class Table(_Exhibit, frozen=True):
    """Rows worth reading one by one; each row has a cell for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def word(
    low: float, high: float, margin: float, *, higher_is_better: bool, scale: str = "difference"
) -> Word:
    """Return what an interval of candidate − production (or candidate ÷ production) allows to be said.

    `better` when all of it lies on the better side of no difference, `no worse` when even its worse end
    stays within the margin, `worse` when even its better end is beyond it, else `cannot tell`.
    """
    none = 1.0 if scale == "ratio" else 0.0
    least_worse, most_worse = (none - high, none - low) if higher_is_better else (low - none, high - none)
    if most_worse < 0:
        return "better"
    if most_worse <= margin:
        return "no worse"
    return "worse" if least_worse > margin else "cannot tell"
