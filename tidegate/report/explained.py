"""A recorded rollout in words and tables: what was seen when, what it was held to, how it ended and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tidegate.core.counts import Counts
from tidegate.core.recording import Recording
from tidegate.core.timeline import Course, Stretch, courses, steps, stretches
from tidegate.report import evidence
from tidegate.report.html import STYLE, Element, element

COLUMNS = ("after", "step", "weight", "looks", "candidate", "stable", "what")


@dataclass(frozen=True)
class Row:
    """One line of the timeline; `kind` is `look` or that of an event. `after` in seconds since then."""

    after: float
    kind: str
    step: str
    weight: str
    looks: str
    candidate: str
    stable: str
    what: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The line's cells, as COLUMNS names them."""
        parts = (self.step, self.weight, self.looks, self.candidate, self.stable, self.what)
        return (f"{self.after:.0f} s", *parts)


def timeline(recording: Recording) -> list[Row]:
    """Return what happened in order: events, and the looks between two changes as one line."""
    rows = [*_looked(recording), *_happened(recording)]
    return sorted(rows, key=lambda row: row.after)


def _looked(recording: Recording) -> Iterator[Row]:
    total = steps(recording)
    for stretch in stretches(recording):
        weight = f"{stretch.weight}%" + (f" + {stretch.mirror}% mirrored" if stretch.mirror else "")
        yield Row(
            stretch.last - recording.started,
            "look",
            f"{stretch.step + 1}/{total}",
            weight,
            str(stretch.looks),
            _errors(stretch.candidate),
            _errors(stretch.stable),
            _said(stretch),
        )


def _errors(counts: Counts) -> str:
    if not counts.requests:
        return "–"
    return f"{counts.errors}/{counts.requests} errors ({100 * counts.errors / counts.requests:.3g}%)"


def _said(stretch: Stretch) -> str:
    """Return what the last look of a stretch made of each check, in few words."""
    if stretch.blind:
        return f"could not look: {stretch.reason}"
    failed = [check for check in stretch.checks if check["verdict"] == "FAIL"]
    if failed:
        return ", ".join(f"{c['name']} FAIL: {_against(c)}" for c in failed)
    passed = [str(check["name"]) for check in stretch.checks if check["verdict"] == "PASS"]
    most = max(stretch.checks, key=lambda c: float(c.get("log_evidence") or 0.0), default=None)
    told = [f"most against it: {most['name']}, {_against(most)}"] if most else [stretch.reason]
    return "; ".join([*told, *([f"proven: {', '.join(passed)}"] if passed else [])])


def _against(check: Mapping[str, Any]) -> str:
    return f"evidence {power(float(check.get('log_evidence') or 0.0))} of {check.get('threshold', 0):g}"


def _happened(recording: Recording) -> Iterator[Row]:
    for event in recording.events:
        yield Row(event.at - recording.started, event.kind, "", "", "", "", "", event.text)


def power(log: float) -> str:
    """Return exp(log) as people read it: 0.4, 137, 2.1e5."""
    if -5 < log < math.log(9999):
        return f"{math.exp(log):.3g}"
    exponent = math.floor(log / math.log(10))
    return f"{math.exp(log - exponent * math.log(10)):.1f}e{exponent}"


# ---------------------------------------------------------------- checks
CHECK_COLUMNS = ("check", "verdict", "observed", "limit", "evidence", "fails at", "with confidence")


def check_cells(course: Course) -> tuple[str, ...]:
    """Return what a check's part said last, as CHECK_COLUMNS names it."""
    last = course.points[-1]
    high = f"at most {100 * last.high:.3g}%" if last.high is not None else "–"
    between = (
        f"{100 * last.low:.3g}% to {100 * last.high:.3g}%" if last.low and last.high is not None else high
    )
    name = f"{course.name} (dry run)" if course.dry_run else course.name
    numbers = (power(last.log_evidence), f"{course.threshold:g}")
    return (name, course.verdict, course.observed_text or "–", course.limit_text or "–", *numbers, between)


def headline(recording: Recording) -> str:
    """Return who went where."""
    stable = f", stable is {recording.stable}" if recording.stable else ", the first release"
    return f"{recording.model} {recording.release} → {recording.environment}{stable}"


def ending(recording: Recording) -> str:
    """Return how and why it ended."""
    began = datetime.fromtimestamp(recording.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    last = recording.looks[-1].at if recording.looks else recording.started
    if recording.end is None:
        state = recording.looks[-1].phase if recording.looks else "Pending"
        why = recording.looks[-1].reason if recording.looks else "nothing was looked at yet"
        return f"began {began}; {state} after {last - recording.started:.0f} s: {why}"
    end = recording.end
    verdict = f" ({end.verdict})" if end.verdict else ""
    why = f" because {end.reason}" if end.reason else ""
    return f"began {began}; {end.phase}{verdict} after {end.at - recording.started:.0f} s{why}"


def document(recording: Recording) -> dict[str, Any]:
    """Return all of it as JSON types."""
    looked = [asdict(stretch) for stretch in stretches(recording)]
    for stretch in looked:
        for arm in ("candidate", "stable"):
            stretch[arm] = {key: stretch[arm][key] for key in ("requests", "errors")}
        stretch["checks"] = [dict(check) for check in stretch["checks"]]
    return {
        "model": recording.model,
        "environment": recording.environment,
        "release": recording.release,
        "stable": recording.stable,
        "started": recording.started,
        "end": asdict(recording.end) if recording.end else None,
        "timeline": looked,
        "events": [asdict(event) for event in recording.events],
        "checks": [asdict(course) for course in courses(recording)],
        "full": recording.full,
    }


# ---------------------------------------------------------------- a page
def page(recording: Recording) -> str:
    """Return a self-contained HTML page, light or dark as the reader's machine is."""
    head = element(
        "head",
        Element('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", headline(recording)),
        Element(f"<style>{STYLE}</style>"),
    )
    rows = [(row.cells, row.kind) for row in timeline(recording)]
    checks = [(check_cells(each), each.verdict) for each in courses(recording)]
    body = element(
        "body",
        element("h1", element("span", headline(recording)), cls=_outcome(recording)),
        element("p", ending(recording)),
        element("figure", Element(evidence.svg(recording))),
        element("h2", "Checks"),
        _table(CHECK_COLUMNS, checks),
        element("h2", "Timeline"),
        _table(COLUMNS, rows),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _outcome(recording: Recording) -> str:
    verdict = recording.end.verdict if recording.end else ""
    return verdict if verdict in ("PASS", "FAIL", "ERROR") else "INCONCLUSIVE"


_OF_EVENTS = {"breach": "FAIL", "rolled-back": "FAIL", "verified": "PASS", "healthy": "PASS"}


def _table(columns: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], str]]) -> Element:
    names = element("tr", *(element("th", column, scope="col") for column in columns))
    lines = [element("tr", *(_td(cell, kind) for cell in cells)) for cells, kind in rows]
    table = element("table", element("thead", names), element("tbody", *lines))
    return element("div", table, cls="scroll", tabindex="0")


def _td(cell: str, kind: str) -> Element:
    length = "long" if len(cell) > 40 else "short"
    return element("td", cell, cls=f"{length} {_OF_EVENTS.get(kind, kind)}")
