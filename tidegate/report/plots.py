"""Charts as inline SVG by matplotlib: text stays text, and lines and letters take the page's colour.

The same chart gives the same bytes: no date, ids from a fixed salt.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Sequence
from typing import Any

from tidegate.core.exhibits import Chart, Series
from tidegate.report.mermaid import finite
from tidegate.report.page import visible

_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
INK = "#010203"  # stands for the page's own colour, and is replaced by it
COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#64748b")
WIDTH = 5.0  # inches of 72 points: on a phone, one of which is a little narrower, letters stay readable
MOST_BARS = 30
MOST_LABEL = 28


def svg(chart: Chart, number: int) -> str:
    """Return a chart as an `<svg>` element whose ids are unique by `number`; nothing if it is empty."""
    series = [each for each in chart.series if any(finite(y) for y in each.y)]
    if not series:
        return ""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"tidegate-{number}",
        "font.size": 9.0,
        "font.family": "sans-serif",
        "axes.prop_cycle": cycler(color=list(COLOURS)),
        **dict.fromkeys(_INKED, INK),
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        # The browser draws the letters; that matplotlib's own font lacks some matters to nobody.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(WIDTH, _height(chart, series)), layout="constrained")
        axes = figure.subplots()
        draw = _draw_lines if chart.kind == "line" else _draw_bars if _lying(chart) else _draw_histogram
        draw(axes, series)
        _dress(axes, chart, len(series))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), chart, number)


def _lying(chart: Chart) -> bool:
    """Bars over names lie down, so that names of any length can be read; over numbers they stand."""
    return chart.kind == "bar" and not all(finite(x) for each in chart.series for x in each.x)


def _height(chart: Chart, series: Sequence[Series]) -> float:
    if not _lying(chart):
        return 2.8
    bars = len(_places(series)[:MOST_BARS])
    return max(1.8, 0.9 + bars * (0.12 + 0.14 * min(3, len(series))))


def _places(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(_label(x) for each in series for x in each.x))


def _label(cell: Any) -> str:
    text = cell if isinstance(cell, str) else "–" if cell is None else f"{cell:.6g}"
    # matplotlib reads `$…$` as mathematics, and would fail on what is none.
    flat = visible(text).replace("$", r"\$")
    return flat if len(flat) <= MOST_LABEL else f"{flat[: MOST_LABEL - 1]}…"


def _draw_bars(axes: Any, series: Sequence[Series]) -> None:
    places = _places(series)[:MOST_BARS]
    thick = 0.8 / len(series)
    for turn, each in enumerate(series):
        known = {_label(x): y for x, y in zip(each.x, each.y, strict=False) if finite(y)}
        spots = [(place, known[name]) for place, name in enumerate(places) if name in known]
        shift = (turn - (len(series) - 1) / 2) * thick
        axes.barh([p + shift for p, _ in spots], [y for _, y in spots], thick, label=_label(each.name))
    axes.set_yticks(range(len(places)), places)
    axes.invert_yaxis()
    axes.margins(y=0.02)


def _draw_histogram(axes: Any, series: Sequence[Series]) -> None:
    """Bars over numbers stand side by side within the smallest distance between two of them."""
    xs = sorted({float(x) for each in series for x in each.x if finite(x)})
    gap = min((b - a for a, b in itertools.pairwise(xs)), default=1.0)
    thick = 0.86 * gap / len(series)
    for turn, each in enumerate(series):
        spots = [(x, y) for x, y in zip(each.x, each.y, strict=False) if finite(x) and finite(y)]
        shift = (turn - (len(series) - 1) / 2) * thick
        axes.bar([x + shift for x, _ in spots], [y for _, y in spots], thick, label=_label(each.name))


def _draw_lines(axes: Any, series: Sequence[Series]) -> None:
    numeric = all(finite(x) for each in series for x in each.x)
    places = {name: place for place, name in enumerate(_places(series))}
    for each in series:
        xs = list(each.x) if numeric else [places[_label(x)] for x in each.x]
        ys = [y if finite(y) else float("nan") for y in each.y]
        marker = "o" if len(xs) <= 20 else ""
        axes.plot(xs, ys, label=_label(each.name), linewidth=1.4, marker=marker, markersize=3)
    if not numeric:
        every = max(1, -(-len(places) // 12))
        shown = list(places)[::every]
        turn = 35 if any(len(name) > 4 for name in shown) else 0
        axes.set_xticks([places[n] for n in shown], shown, rotation=turn, ha="right" if turn else "center")


def _dress(axes: Any, chart: Chart, series: int) -> None:
    lying = _lying(chart)
    across, up = (chart.y_title, chart.x_title) if lying else (chart.x_title, chart.y_title)
    axes.set_xlabel(_label(across))
    axes.set_ylabel(_label(up))
    axes.grid(
        axis="x" if lying else "y" if chart.kind == "bar" else "both",
        color="#808080",
        alpha=0.25,
        linewidth=0.6,
    )
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if series > 1:
        axes.legend(loc="best", frameon=False, fontsize=8)


def _inline(text: str, chart: Chart, number: int) -> str:
    """Return the bare element: no prolog, the page's colour for ink, a title and what it shows in words."""
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="([\d. ]+)"', body)
    names = f'role="img" aria-labelledby="t{number} d{number}"'
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = f'<svg {spaces} viewBox="{box[1] if box else ""}" {names}>'
    told = f'<title id="t{number}">{escape(chart.title)}</title>'
    told += f'<desc id="d{number}">{escape(words(chart))}</desc>'
    inner = body[body.index(">") + 1 :]
    return re.sub(r"\n\s*", "\n", f"{opening}{told}{inner}".replace(INK, "currentColor")).strip()


def words(chart: Chart) -> str:
    """Return what a chart shows for whoever does not see it: each series with its ends."""
    told = []
    for each in chart.series:
        numbers = [y for y in each.y if y is not None and finite(y)]
        if numbers:
            told.append(f"{each.name}: {len(numbers)} values from {min(numbers):.4g} to {max(numbers):.4g}")
    return f"{chart.kind} chart of {chart.y_title or 'values'} by {chart.x_title or 'place'}. " + "; ".join(
        told
    )


def escape(raw: str) -> str:
    """Escape text for HTML, within elements and attributes."""
    import html

    return html.escape(visible(raw), quote=True)
