"""Charts as mermaid's xychart, which GitHub draws by itself.

Its limits (seen with mermaid 11): plain decimals only, no gaps, the points of a line evenly spaced, bars of
several series drawn over each other, no legend, `&` and `<` shown as entities. So: what has no number in
every series is left out and said, a line over uneven numbers is resampled, bars of several series take
turns, and the caption names axes and colours.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from tidegate.core.exhibits import Cell, Chart

MOST_POINTS = 40  # of a line
MOST_BARS = 24  # in all
MOST_LABEL = 26  # characters
UPRIGHT_LABEL = 8  # characters; longer ones overlap below upright bars, so those lie down
COLOURS = (("🟦", "#3b82f6"), ("🟧", "#f59e0b"), ("🟩", "#10b981"), ("🟥", "#ef4444"), ("🟪", "#8b5cf6"))

_PALETTE = (
    f'themeVariables: {{xyChart: {{plotColorPalette: "{", ".join(colour for _, colour in COLOURS)}"}}}}'
)


@dataclass(frozen=True)
class _Drawn:
    """What can be drawn: names of places, or the two ends of a numeric axis; a row of numbers a series."""

    places: tuple[str, ...] | tuple[float, float]
    series: tuple[tuple[str, tuple[float, ...]], ...]
    left_out: int


def fenced(chart: Chart) -> str:
    """Return a chart as a fenced block with its caption, or nothing when it has no number to draw."""
    kind = "line" if crowded(chart) else chart.kind
    drawn = _bars(chart) if kind == "bar" else _line(chart)
    if drawn is None:
        return ""
    numbers = [number for _, row in drawn.series for number in row]
    low, high = limits(numbers, from_zero=chart.kind == "bar")
    lying = kind == "bar" and any(len(str(place)) > UPRIGHT_LABEL for place in drawn.places)
    height = max(160, 90 + 24 * len(drawn.places)) if lying else 300
    # Where a chart is drawn small, mermaid takes labels for narrower than they are: this keeps them whole.
    room = 12 + 2 * max(len(str(place)[:MOST_LABEL]) for place in drawn.places) if lying else 12
    lines = [
        "```mermaid",
        "---",
        f"config: {{xyChart: {{width: 640, height: {height}, xAxis: {{labelPadding: {room}}}, "
        f"yAxis: {{labelPadding: 12}}}}, {_PALETTE}}}",
        "---",
        f"xychart-beta{' horizontal' * lying}",
        f"  title {quoted(chart.title, 70)}",
        f"  x-axis {_axis(drawn.places)}",
        f"  y-axis {decimal(low)} --> {decimal(high)}",
        *(f"  {kind} [{', '.join(decimal(max(low, min(high, n))) for n in row)}]" for _, row in drawn.series),
        "```",
    ]
    caption = _caption(chart, drawn)
    return "\n".join(lines) + (f"\n\n{caption}" if caption else "")


def crowded(chart: Chart) -> bool:
    """Tell whether bars over numbers would be too many to tell apart: then they are drawn as lines."""
    bars = sum(len(series.x) for series in chart.series)
    return (
        chart.kind == "bar"
        and len(chart.series) > 1
        and bars > MOST_BARS
        and all(finite(x) for series in chart.series for x in series.x)
    )


def _caption(chart: Chart, drawn: _Drawn) -> str:
    # Not in the chart: where that is drawn small, mermaid lays an axis' title over its numbers.
    titles = [plain(title, 40) for title in (chart.y_title, chart.x_title)]
    parts = [" by ".join(title for title in titles if title)] if any(titles) else []
    if len(drawn.series) > 1:
        parts.append(" · ".join(f"{COLOURS[i][0]} {plain(s, 40)}" for i, (s, _) in enumerate(drawn.series)))
    hidden = len(chart.series) - len(drawn.series)
    if hidden > 0:
        parts.append(f"{hidden} more series are in report.html")
    if drawn.left_out:
        parts.append(f"{drawn.left_out} places are not drawn here")
    return f"<sub>{'; '.join(parts)}</sub>" if parts else ""


def _axis(places: Sequence[str] | tuple[float, float]) -> str:
    if places and isinstance(places[0], float):
        return f"{decimal(places[0])} --> {decimal(float(places[1]))}"
    # Equal names would be one place: blanks, which show as nothing, tell them apart.
    seen: set[str] = set()
    names = []
    for place in places:
        name = plain(str(place), MOST_LABEL)
        while name in seen or not name:
            name += " "
        seen.add(name)
        names.append(f'"{name}"')
    return f"[{', '.join(names)}]"


def _bars(chart: Chart) -> _Drawn | None:
    """Return bars; those of several series take turns, so that each has a place of its own."""
    series = [s for s in chart.series if any(finite(y) for y in s.y)][: len(COLOURS)]
    names = list(dict.fromkeys(x for s in series for x in s.x))
    maps = [{x: y for x, y in zip(s.x, s.y, strict=False) if y is not None and finite(y)} for s in series]
    whole = [name for name in names if all(name in each for each in maps)]
    shown = whole[: max(1, MOST_BARS // max(1, len(series)))]
    if not shown:
        return None
    places = tuple(_name(name) if turn == 0 else "" for name in shown for turn in range(len(series)))
    rows = tuple(
        (
            s.name,
            tuple(float(each[name]) if turn == own else 0.0 for name in shown for turn in range(len(series))),
        )
        for own, (s, each) in enumerate(zip(series, maps, strict=True))
    )
    return _Drawn(places, rows, len(names) - len(shown))


def _line(chart: Chart) -> _Drawn | None:
    """Return lines over numbers, resampled evenly where all have any; over names, the places all have."""
    series = [s for s in chart.series if any(finite(y) for y in s.y)][: len(COLOURS)]
    if not series:
        return None
    if not all(finite(x) for s in series for x in s.x):
        return _over_names(chart)
    points = [
        sorted(
            {float(x): float(y) for x, y in zip(s.x, s.y, strict=False) if finite(x) and finite(y)}.items()
        )
        for s in series
    ]
    start = max(row[0][0] for row in points)
    end = min(row[-1][0] for row in points)
    if not start < end:
        return _over_names(chart)
    many = min(MOST_POINTS, len(points[0])) if _even(points) else MOST_POINTS
    grid = [start + (end - start) * i / (many - 1) for i in range(many)]
    rows = tuple((s.name, tuple(_at(row, x) for x in grid)) for s, row in zip(series, points, strict=True))
    return _Drawn((start, end), rows, 0)


def _even(lines: Sequence[Sequence[tuple[float, float]]]) -> bool:
    """Tell whether all lines have the same places, evenly spaced: then none of them needs a new one."""
    places = [x for x, _ in lines[0]]
    steps = [b - a for a, b in itertools.pairwise(places)]
    alike = all([x for x, _ in line] == places for line in lines)
    return alike and max(steps) - min(steps) <= 1e-6 * max(steps)


def _over_names(chart: Chart) -> _Drawn | None:
    series = [s for s in chart.series if any(finite(y) for y in s.y)][: len(COLOURS)]
    maps = [{x: y for x, y in zip(s.x, s.y, strict=False) if y is not None and finite(y)} for s in series]
    names = list(dict.fromkeys(x for s in series for x in s.x))
    shown = [name for name in names if all(name in each for each in maps)][:MOST_POINTS]
    if not shown:
        return None
    rows = tuple(
        (s.name, tuple(float(each[name]) for name in shown)) for s, each in zip(series, maps, strict=True)
    )
    return _Drawn(tuple(_name(name) for name in shown), rows, len(names) - len(shown))


def _at(points: Sequence[tuple[float, float]], x: float) -> float:
    """Return the value at `x`, linear between two points."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * ((x - x0) / (x1 - x0)) if x > x0 else y0
    return points[-1][1]


def limits(numbers: Sequence[float], *, from_zero: bool) -> tuple[float, float]:
    """Return the ends of an axis that holds all numbers with a little room; bars begin at 0."""
    low, high = min(numbers), max(numbers)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    largest = max(abs(low), abs(high))
    room = (high - low) * 0.05 if high - low > max(1e-4 * largest, 1e-9) else max(largest * 0.05, 1e-6)
    return (
        0.0 if low >= 0 and (from_zero or low < room) else low - room,
        0.0 if from_zero and low < high == 0 else high + room,
    )


def finite(number: Cell) -> TypeGuard[float]:
    """Tell whether this is a number that can be drawn; what is beyond 1e12 would not be readable."""
    return (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and math.isfinite(number)
        and abs(number) < 1e12
    )


def decimal(number: float) -> str:
    """Return a number without an exponent, which mermaid can't read."""
    places = max(0, min(15, 7 - math.floor(math.log10(abs(number))))) if number else 0
    shown = f"{number:.{places}f}"
    shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    return "0" if shown == "-0" else shown


def _name(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "–" if cell is None else f"{cell:.6g}"


def plain(text: str, most: int) -> str:
    """Return a text of letters, digits and signs that mean nothing to mermaid or to HTML."""
    kept = re.sub(r"[^\w .,:°%/()=+×÷–—·≥≤-]|_{2,}", " ", text)
    flat = " ".join(re.sub(r"://|www\.|(?<!\w)_|_(?!\w)", " ", kept).split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def quoted(text: str, most: int) -> str:
    """Return a text as mermaid's quoted one; a blank when nothing of it can be shown."""
    return f'"{plain(text, most) or " "}"'
