"""A recorded rollout as a picture: the evidence against it, each rate within its always-valid interval.

`svg` takes the colour of the page that it stands in; `png` has a ground of its own. The same recording
gives the same picture.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

from tidegate.core.recording import Recording
from tidegate.core.timeline import Course, courses, weights
from tidegate.report.page import visible
from tidegate.report.plots import COLOURS, INK, escape

WIDTH = 5.0  # inches of 72 points, as the other charts of reports
MOST_RATES = 6  # parts of checks that get a panel of their own, those nearest to failing first
MOST_TITLE = 78  # letters above a panel
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
LINES = tuple(colour for colour in COLOURS if colour != "#ef4444")  # red is the limits'
_FAILED, _LOWEST, _BEYOND = (
    "#ef4444",
    -2.0,
    1.5,
)  # colour; powers of ten: shown at least, shown past the limit


def svg(recording: Recording) -> str:
    """Return the picture as one `<svg>` element, to stand in a page; empty where nothing was looked at."""
    return _inline(_draw(recording, INK, "svg").decode(), recording) if recording.looks else ""


def png(recording: Recording) -> bytes:
    """Return the picture as a PNG, dark on white; without a look it says that there was none."""
    return _draw(recording, "#1f2937", "png")


def words(recording: Recording) -> str:
    """Return what the picture shows, for whoever does not see it."""
    told = [
        f"{each.name}: {each.verdict}, evidence {_power(each.points[-1].log_evidence)} of {each.threshold:g}"
        for each in courses(recording)
    ]
    return f"Evidence against {recording.release} by seconds. " + "; ".join(told)


def _power(log: float) -> str:
    return f"{math.exp(log):.3g}" if abs(log) < 500 else f"1e{log / math.log(10):.0f}"


def _draw(recording: Recording, ink: str, form: str) -> bytes:
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": _key(recording),
        "font.size": 8.5,
        "font.family": "sans-serif",
        "axes.prop_cycle": cycler(color=list(LINES)),
        **dict.fromkeys(_INKED, ink),
    }
    found = courses(recording)
    shown = sorted(found, key=_nearness, reverse=True)[:MOST_RATES]
    shown = [each for each in found if each in shown and any(p.observed is not None for p in each.points)]
    heights = [2.1, *([1.25] * len(shown)), 0.8]
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
        _evidence(panels[0], found)
        for axes, course in zip(panels[1:], shown, strict=False):
            _rate(axes, course, LINES[found.index(course) % len(LINES)])
        _weights(panels[-1], recording)
        for axes in panels:
            _dress(axes, recording)
        panels[0].set_title(_title(recording), loc="left", fontsize=9)
        figure.align_ylabels()
        file = io.BytesIO()
        more: Any = {"metadata": {"Date": None, "Creator": None}} if form == "svg" else {"dpi": 144}
        ground = {"transparent": True} if form == "svg" else {"facecolor": "white"}
        figure.savefig(file, format=form, **ground, **more)
    return file.getvalue()


def _nearness(course: Course) -> float:
    """How near to failing a part ever came; those that only watch come last."""
    most = max((point.log_evidence for point in course.points), default=0.0)
    return (most - math.log(course.threshold or 1)) - (100 if course.dry_run else 0)


def _title(recording: Recording) -> str:
    ended = recording.end.phase if recording.end else "under way"
    return _plain(f"{recording.model} {recording.release[:12]} → {recording.environment}: {ended}")


def _plain(text: str) -> str:
    return visible(text).replace("$", r"\$")


def _short(text: str) -> str:
    return _plain(text if len(text) <= MOST_TITLE else f"{text[: MOST_TITLE - 1]}…")


def _evidence(axes: Any, found: Sequence[Course]) -> None:
    """One line a part, in powers of ten, cut off a little beyond the threshold: it may be astronomic."""
    goals = [math.log10(each.threshold) for each in found if each.threshold > 0]
    top = max(goals, default=2.0) + _BEYOND
    for turn, each in enumerate(found):
        heights = [_within(p.log_evidence / math.log(10), _LOWEST, top) for p in each.points]
        style = ":" if each.dry_run else "-"
        colour = LINES[turn % len(LINES)]
        afters = [p.after for p in each.points]
        axes.plot(
            afters, heights, style, color=colour, linewidth=1.4, label=_plain(each.name), marker=_mark(afters)
        )
        if each.verdict == "FAIL":
            axes.plot(afters[-1:], heights[-1:], "X", color=_FAILED, markersize=7)
    for goal in sorted(set(goals)):
        axes.axhline(goal, color=_FAILED, linewidth=1.0, linestyle="--")
        place: Any = {"xycoords": ("axes fraction", "data"), "va": "bottom", "ha": "right"}
        axes.annotate(f"fails at {10**goal:.0f}", (0.62, goal), fontsize=7.5, color=_FAILED, **place)
    axes.set_ylim(_LOWEST - 0.2, top + 0.3)
    ticks = range(math.ceil(_LOWEST), math.floor(top) + 1)
    axes.set_yticks(list(ticks), [f"{10.0**tick:g}" for tick in ticks])
    axes.set_ylabel("evidence against")
    if found:
        axes.legend(loc="upper left", frameon=False, fontsize=7.5, ncols=2)


def _mark(values: Sequence[float]) -> str:
    return "." if len(values) <= 20 else ""


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _rate(axes: Any, course: Course, colour: str) -> None:
    """The rate that was seen, the interval that holds the true one, and the limit."""
    known = [p for p in course.points if p.observed is not None]
    afters, rates = [p.after for p in known], [100 * float(p.observed or 0) for p in known]
    limits = [100 * p.limit if p.limit is not None else math.nan for p in known]
    top = 1.6 * max([*rates, *(x for x in limits if x == x), 0.01])
    highs = [min(100 * p.high, top) if p.high is not None else top for p in known]
    lows = [100 * p.low if p.low is not None else 0.0 for p in known]
    axes.fill_between(afters, lows, highs, color=colour, alpha=0.2, linewidth=0)
    axes.plot(afters, rates, color=colour, linewidth=1.4, marker=_mark(afters))
    axes.plot(afters, limits, color=_FAILED, linewidth=1.0, linestyle="--")
    axes.set_ylim(0, top)
    axes.set_ylabel("%")
    note = " (dry run)" if course.dry_run else ""
    seen = (
        course.observed_text.partition(" over ")[0] if " over " in course.limit_text else course.observed_text
    )
    told = f"{course.name}{note}: {seen}, limit {course.limit_text}"
    axes.set_title(_short(told), loc="left", fontsize=7.5)


def _weights(axes: Any, recording: Recording) -> None:
    end = recording.looks[-1].at - recording.started if recording.looks else 1.0
    changes = [*weights(recording)]
    afters, heights = [c[0] for c in changes], [c[1] for c in changes]
    axes.step([*afters, end], [*heights, *heights[-1:]] or [0], where="post", color=COLOURS[5], linewidth=1.4)
    if any(mirror for _, _, mirror in changes):
        mirrored = [c[2] for c in changes]
        axes.step([*afters, end], [*mirrored, *mirrored[-1:]], where="post", color=COLOURS[4], linestyle=":")
    axes.set_ylim(-5, 105)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("weight, %")
    axes.set_xlabel("seconds since the rollout began" if recording.looks else "nothing was looked at")


def _dress(axes: Any, recording: Recording) -> None:
    axes.grid(axis="both", color="#808080", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for event in recording.events:
        if event.kind in ("breach", "verified"):
            colour = _FAILED if event.kind == "breach" else COLOURS[2]
            axes.axvline(event.at - recording.started, color=colour, linewidth=0.8, alpha=0.7)


def _inline(text: str, recording: Recording) -> str:
    """Return the bare element in the page's colour, with a title and what it shows in words."""
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    key = _key(recording)
    # matplotlib names what it clips by by where that lies in memory.
    for number, name in enumerate(dict.fromkeys(re.findall(r'<clipPath id="(\w+)"', body))):
        body = body.replace(name, f"{key}-clip{number}")
    box = re.search(r'viewBox="([\d. ]+)"', body)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    names = f'role="img" aria-labelledby="{key}-t {key}-d"'
    opening = f'<svg {spaces} viewBox="{box[1] if box else ""}" {names}>'
    told = f'<title id="{key}-t">{escape(_title(recording))}</title>'
    told += f'<desc id="{key}-d">{escape(words(recording))}</desc>'
    inner = body[body.index(">") + 1 :]
    return re.sub(r"\n\s*", "\n", f"{opening}{told}{inner}".replace(INK, "currentColor")).strip()


def _key(recording: Recording) -> str:
    """Return what tells this picture's ids from those of others in the same page."""
    raw = f"{recording.model}-{recording.environment}-{recording.release}-{recording.started:.0f}"
    return "ev-" + re.sub(r"[^A-Za-z0-9-]", "_", raw)
