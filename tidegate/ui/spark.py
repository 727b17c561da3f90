"""The evidence of a rollout under way as a small picture: each check's way to its threshold over time. Pure.

Drawn anew at each look, so it is a few hundred characters of SVG, coloured by the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tidegate.core.recording import Recording
from tidegate.core.timeline import Course, courses

WIDTH, HEIGHT = 300.0, 64.0
LOW, HIGH = -0.35, 1.12  # of the way to the threshold: what is shown below nothing, and above it
POINTS = 80
COLOURS = 5  # of the style sheet


def svg(recording: Recording) -> str:
    """Return an `<svg>` element, or nothing where fewer than two looks were made."""
    known = enumerate(courses(recording, POINTS))  # a check's colour is that of its place among all
    shown = [(place, each) for place, each in known if len(each.points) > 1 and each.threshold > 1]
    if not shown:
        return ""
    found = [course for _, course in shown]
    end = max(course.points[-1].after for course in found)
    begin = min(course.points[0].after for course in found)
    lines = "".join(
        f'<polyline class="s{place % COLOURS}" points="{_points(course, begin, end)}">'
        f"<title>{escape(course.name)}</title></polyline>"
        for place, course in shown
    )
    rules = "".join(
        f'<line class="{name}" x1="0" x2="{WIDTH:g}" y1="{_up(way):.1f}" y2="{_up(way):.1f}"/>'
        for name, way in (("nothing", 0.0), ("threshold", 1.0))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(words(found))}">{rules}{lines}</svg>'
    )


def words(found: Sequence[Course]) -> str:
    """Return the picture in words."""
    told = [f"{course.name} at {100 * min(1.0, max(0.0, _way(course, -1))):.0f}%" for course in found]
    return f"Evidence on its way to the threshold that fails a check: {', '.join(told)}"


def _way(course: Course, place: int) -> float:
    """How far the evidence is to its threshold, on a log scale, held to what is shown."""
    return min(HIGH, max(LOW, course.points[place].log_evidence / math.log(course.threshold)))


def _up(way: float) -> float:
    return HEIGHT * (HIGH - way) / (HIGH - LOW)


def _points(course: Course, begin: float, end: float) -> str:
    span = max(end - begin, 1e-9)
    return " ".join(
        f"{WIDTH * (point.after - begin) / span:.1f},{_up(_way(course, place)):.1f}"
        for place, point in enumerate(course.points)
    )
