"""Reports, what changed and rollouts → one page, as values. Markdown and HTML draw the same page.

Every number is turned into text here, so the two drawings can't differ in what they say; they escape and
lay out, and decide nothing. A section is ranked by how much a decision needs it: what must be left out
for want of room is left out from the least important end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate.core import gate as compare
from tidegate.core.changes import Changes
from tidegate.core.exhibits import Cell, Chart, Comparison, Table
from tidegate.core.verdict import Finding, Verdict, worst
from tidegate.report.document import Report, plain

MOST_ROWS = 25  # of a table that is not folded
MOST_COMMITS = 10
MOST_MEASURED = 6000  # characters of a gate's measurements
SEVEREST_FIRST = (
    *(Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE),
    *(Verdict.PASS, Verdict.NOT_APPLICABLE),
)


# ---------------------------------------------------------------- values
@dataclass(frozen=True)
class Code:
    """Text that a reader may copy: an id, a path, a command."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Text that the eye should find first."""

    text: str


@dataclass(frozen=True)
class Link:
    """Words that lead to an address, which is ours and not from data."""

    text: str
    address: str


Shown = str | Code | Strong | Link | Verdict


@dataclass(frozen=True)
class Words:
    """A paragraph of parts."""

    parts: tuple[Shown, ...]


@dataclass(frozen=True)
class Grid:
    """A table; columns in `right` hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    right: frozenset[int] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Plot:
    """A chart to be drawn."""

    chart: Chart


@dataclass(frozen=True)
class Verbatim:
    """Text of a machine, as it is."""

    text: str


@dataclass(frozen=True)
class Fold:
    """Details that are shown on demand."""

    title: str
    blocks: tuple[Words | Grid | Plot | Verbatim, ...]


Block = Words | Grid | Plot | Verbatim | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading, and how its numbers were made: command and file."""

    title: str
    blocks: tuple[Block, ...]
    made: Words | None = None


@dataclass(frozen=True)
class Rollout:
    """How a release got through an environment; `findings` as its plane published them."""

    environment: str
    outcome: str
    findings: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Page:
    """What a reviewer reads: one verdict line, then sections, the most important first."""

    verdict: Verdict
    line: Words
    sections: tuple[Section, ...]
    title: str


@dataclass(frozen=True)
class Material:
    """What a page is made of.

    `facts` are the promotion's rows (name, value), `lead` its sentence; `changes` is None where nobody
    looked. `pending` maps a gate that can't have run yet to when it will, `files` a gate to its report's
    path; `links` say where the whole page is.
    """

    model: str
    reports: Sequence[Report]
    release: str = ""
    lead: str = ""
    facts: Sequence[tuple[str, str]] = ()
    rollouts: Sequence[Rollout] = ()
    changes: Changes | None = None
    pending: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    links: Words | None = None


# ---------------------------------------------------------------- the page
def page(material: Material) -> Page:
    """Return the page of a model's release. Without any report it is ERROR: nobody looked."""
    reports = _ordered(material.reports)
    verdict = worst(report.verdict for report in reports)
    sections = [
        *_promotion(material),
        _gates(material, reports),
        *(_rollout(each) for each in material.rollouts),
        *([changed(material.changes)] if material.changes else []),
        *_exhibited(reports, material.files),
        *_details(reports, material.files),
    ]
    name = f"{material.model} {material.release}".strip()
    line = (verdict, " ", Strong(material.model), *_release(material.release), f": {_headline(reports)}")
    return Page(verdict, Words(line), tuple(sections), f"{verdict.words}: {name}")


def one(report: Report, title: str = "") -> Page:
    """Return the page of one gate's report: verdict, findings, what it shows, measurements."""
    heading = title or f"{report.gate} of {report.model}"
    line = Words((report.verdict, " ", Strong(heading), f": {summary(report)}"))
    blocks = (*_found(report), *exhibits(report), *_measured(report))
    made = Words(("Made by ", Code(report.source.command), ".")) if report.source.command else None
    return Page(report.verdict, line, (Section("", blocks, made),), heading)


def _release(release: str) -> tuple[Shown, ...]:
    return (" ", Code(release)) if release else ()


# What a reviewer asks first comes first, each in a section of its own; what other gates show is folded with
# their findings: those named here, then a user's own in the order of their names.
TITLES = {
    "quality": "Metrics beside production's",
    "slices": "Worst slices",
    "drift": "Drift, by importance",
    "load": "Latency beside production's",
    "cost": "Cost beside production's",
}
PLACES = (*TITLES, "resources", "gpu", "variants", "data", "parity", "contract", "artifact")


def _ordered(reports: Sequence[Report]) -> list[Report]:
    places = {name: place for place, name in enumerate(PLACES)}
    return sorted(reports, key=lambda report: (places.get(report.gate, len(places)), report.gate))


def _headline(reports: Sequence[Report]) -> str:
    """Return why, if anything holds it back, and how many gates ended how."""
    if not reports:
        return "no gate reported"
    told = [
        f"{report.gate} {report.verdict.words} ({_decisive(report)})"
        for report in sorted(reports, key=lambda report: SEVEREST_FIRST.index(report.verdict))
        if report.verdict.holds_back
    ]
    counted = {verdict: sum(report.verdict is verdict for report in reports) for verdict in SEVEREST_FIRST}
    counts = ", ".join(f"{number} {verdict.words}" for verdict, number in counted.items() if number)
    more = f"; and {len(told) - 2} more" if len(told) > 2 else ""
    return f"{'; '.join(told[:2])}{more}. Of {len(reports)} gates: {counts}" if told else f"{counts}"


def _decisive(report: Report) -> str:
    """Return the reason of the worst finding, or the sum of those that hold."""
    found = by_severity(report.findings)
    if not found or report.verdict is Verdict.PASS:
        return summary(report)
    return found[0].reason


def _promotion(material: Material) -> list[Section]:
    blocks: list[Block] = [Words((material.lead,))] if material.lead else []
    if material.links:
        blocks.append(material.links)
    if material.facts:
        blocks.append(Grid(("", ""), tuple((name, Code(value)) for name, value in material.facts if value)))
    return [Section("", tuple(blocks))] if blocks else []


def _gates(material: Material, reports: Sequence[Report]) -> Section:
    rows: list[tuple[Shown, ...]] = []
    for report in sorted(reports, key=lambda report: SEVEREST_FIRST.index(report.verdict)):
        command = Code(report.source.command) if report.source.command else "–"
        rows.append((Strong(report.gate), report.verdict, _decisive(report), command))
    known = {report.gate for report in reports}
    rows += [
        (Strong(name), "⏳ not yet", when, "–")
        for name, when in material.pending.items()
        if name not in known
    ]
    if not rows:
        return Section("Gates", (Words(("No gate reported.",)),))
    return Section("Gates", (Grid(("gate", "verdict", "what decided", "made by"), tuple(rows)),))


def _rollout(rollout: Rollout) -> Section:
    title = f"Rollout in {rollout.environment}: {rollout.outcome}"
    rows = [f for f in rollout.findings if isinstance(f, Mapping) and str(f.get("verdict")) in set(Verdict)]
    if not rows:
        return Section(title, (Words(("The agent published no numbers of it.",)),))
    cells: tuple[tuple[Shown, ...], ...] = tuple(
        (
            f"{row.get('name', '')}{' (dry run)' if row.get('dry_run') else ''}",
            *(str(row.get(f"{key}_text") or value(row.get(key))) for key in ("observed", "limit")),
            Verdict(str(row["verdict"])),
            str(row.get("reason", "")),
        )
        for row in rows
    )
    grid = Grid(("check", "observed", "limit", "verdict", "reason"), cells, frozenset({1, 2}))
    return Section(title, (grid,), Words(("Measured by the agent; see ", Code("tidegate status"), ".")))


# ---------------------------------------------------------------- what changed
def changed(changes: Changes) -> Section:
    """Return what differs from production's release; what could not be found out is said first."""
    title = "What changed since production's release"
    problems = tuple(Words(("⚠️ Not known: ", problem)) for problem in changes.problems)
    if not changes.against:
        told = () if problems else (Words(("Nothing is in production: all of it is new.",)),)
        return Section(title, (*problems, *told))
    between = f"{changes.since[:12]}..{changes.until[:12]}"
    blocks = [*problems, *_parameters(changes), *_data(changes), *_code(changes), *_dependencies(changes)]
    same = _same(changes)
    if same:
        blocks.append(Words((f"The same as in production: {', '.join(same)}.",)))
    made = Words(
        (
            *("Against release ", Code(changes.against), ": "),
            *(
                Code(f"git diff {between}"),
                " of params.yaml, requirements.lock and the code; data by dvc.lock.",
            ),
        )
    )
    return Section(title, tuple(blocks), made)


def _same(changes: Changes) -> list[str]:
    """Return what was compared and does not differ; what could not be read is not among it."""
    kinds = {
        "parameters": changes.parameters,
        "data": changes.data,
        "code": changes.files,
        "dependencies": changes.dependencies,
    }
    unread = {problem.partition(":")[0] for problem in changes.problems}
    if unread - {*kinds, "commits"}:
        return []
    return [kind for kind, found in kinds.items() if not found and kind not in unread]


def _parameters(changes: Changes) -> list[Block]:
    rows = tuple((Code(p.key), p.old or "–", p.new or "–") for p in changes.parameters)
    return _long(Grid(("parameter", "production", "candidate"), rows), "parameters")


def _data(changes: Changes) -> list[Block]:
    rows = tuple((Code(d.path), _hash(d.old, d.old_size), _hash(d.new, d.new_size)) for d in changes.data)
    return _long(Grid(("data", "production", "candidate"), rows), "files of data")


def _hash(name: str | None, size: int | None) -> str:
    if name is None:
        return "–"
    return name[:8] + (f", {compare.show(size)} bytes" if size is not None else "")


def _code(changes: Changes) -> list[Block]:
    if not changes.files and not changes.commits:
        return []
    added, removed = (sum(getattr(f, side) or 0 for f in changes.files) for side in ("added", "removed"))
    counted = f"{len(changes.files)} files, {added:,} lines added, {removed:,} removed"
    blocks: list[Block] = [Words((f"Code: {counted}; {len(changes.commits)} commits.",))]
    shown: list[tuple[Shown, ...]] = [(Code(c.id[:8]), c.subject) for c in changes.commits[:MOST_COMMITS]]
    more = len(changes.commits) - len(shown)
    if shown:
        blocks.append(
            Grid(("commit", "subject"), (*shown, *([("…", f"and {more} older ones")] if more else ())))
        )
    files = tuple((Code(f.path), _lines(f.added), _lines(f.removed)) for f in changes.files)
    if files:
        grid = Grid(("file", "added", "removed"), files, frozenset({1, 2}))
        blocks.append(Fold(f"{len(files)} files of code", (grid,)))
    return blocks


def _lines(count: int | None) -> str:
    return "binary" if count is None else f"{count:,}"


def _dependencies(changes: Changes) -> list[Block]:
    rows = tuple((Code(d.name), d.old or "–", d.new or "–") for d in changes.dependencies)
    return _long(Grid(("dependency", "production", "candidate"), rows), "dependencies")


def _long(grid: Grid, what: str) -> list[Block]:
    """Return a table that stays readable: beyond MOST_ROWS it is folded."""
    if not grid.rows:
        return []
    return [grid] if len(grid.rows) <= MOST_ROWS else [Fold(f"{len(grid.rows)} {what}", (grid,))]


# ---------------------------------------------------------------- gates
def _exhibited(reports: Sequence[Report], files: Mapping[str, str]) -> list[Section]:
    """Return the sections of the gates that a reviewer asks first, and every other comparison."""
    sections = [
        Section(TITLES[report.gate], tuple(exhibits(report)), _made(report, files))
        for report in reports
        if report.gate in TITLES and (report.comparisons or report.charts or report.tables)
    ]
    others = [report for report in reports if report.gate not in TITLES and report.comparisons]
    return sections + [
        Section(
            f"{report.gate.capitalize()} beside production's",
            (beside(report.comparisons, report.source.against),),
            _made(report, files),
        )
        for report in others
    ]


def _details(reports: Sequence[Report], files: Mapping[str, str]) -> list[Section]:
    """Return what every gate found, what else it shows, and what it measured, folded."""
    sections: list[Section] = []
    for report in reports:
        made = _made(report, files)
        rest = () if report.gate in TITLES else _shows(report)
        inner = (*((made,) if made else ()), *_found(report), *rest, *_measured(report))
        flat = tuple(b for block in inner for b in (block.blocks if isinstance(block, Fold) else (block,)))
        fold = Fold(f"{report.gate}: {report.verdict.words}, {summary(report)}", flat)
        sections.append(Section("All findings" if not sections else "", (fold,)))
    return sections


def _made(report: Report, files: Mapping[str, str]) -> Words | None:
    if not report.source.command:
        return None
    file = files.get(report.gate, f"{report.gate}.json")
    return Words(("Made by ", Code(report.source.command), ", in ", Code(file), "."))


def exhibits(report: Report) -> list[Block]:
    """Return what a gate shows: its comparisons with production, its tables, its charts."""
    compared = [beside(report.comparisons, report.source.against)] if report.comparisons else []
    return [*compared, *_shows(report)]


def _shows(report: Report) -> list[Block]:
    return [*(block for table in report.tables for block in tabled(table)), *map(Plot, report.charts)]


def beside(comparisons: Sequence[Comparison], against: str = "") -> Grid:
    """Return comparisons with production as a table: both numbers, the interval, and the word."""
    scales = {each.scale for each in comparisons}
    levels = " or ".join(sorted({_percent(each.confidence) for each in comparisons}))
    head = f"{' or '.join(sorted(scales))} ({levels} interval)"
    production = f"production {against}".strip()
    columns = ("measure", "so it is", "candidate", production, head, "accepted")
    rows = tuple(
        (
            Strong(re.sub(" (against|beside) production", "", each.name)),
            Strong(each.word),
            _with_unit(each.candidate, each.unit),
            _with_unit(each.production, each.unit),
            f"{_gap(each)} ({_end(each, each.low)} to {_end(each, each.high)})",
            _accepted(each),
        )
        for each in comparisons
    )
    return Grid(columns, rows, frozenset({2, 3, 4, 5}))


def _percent(share: float) -> str:
    """Return a confidence in percent with as many digits as it takes not to call it certain."""
    digits = next((d for d in (3, 4, 5, 6) if float(f"{share * 100:.{d}g}") < 100 or share >= 1), 7)
    return f"{share * 100:.{digits}g}%"


def _with_unit(number: float | None, unit: str) -> str:
    return f"{value(number)} {unit}".rstrip() if number is not None else value(None)


def _gap(each: Comparison) -> str:
    if each.candidate is None or each.production is None:
        return "–"
    if each.scale == "ratio":
        return _end(each, each.candidate / each.production if each.production else None)
    return _end(each, each.candidate - each.production)


def _end(each: Comparison, number: float | None) -> str:
    if number is None:
        return "–"
    return f"×{number:.3f}" if each.scale == "ratio" else f"{number:+.3g}"


def _accepted(each: Comparison) -> str:
    """Return the end of what passes, on the scale of the interval beside it."""
    if each.margin is None:
        return "–"
    sign = -1 if each.higher_is_better else 1
    return (
        f"{'≥' if each.higher_is_better else '≤'} {_end(each, (each.scale == 'ratio') + sign * each.margin)}"
    )


def tabled(table: Table) -> list[Block]:
    """Return a gate's table in the order that the gate gave it; of a long one the beginning."""
    right = frozenset(
        place
        for place in range(len(table.columns))
        if any(_number(row[place]) for row in table.rows if len(row) > place)
        and not any(isinstance(row[place], str) for row in table.rows if len(row) > place)
    )
    rows = tuple(tuple(value(cell) for cell in row) for row in table.rows)
    first = Grid(table.columns, rows[:MOST_ROWS], right, table.title)
    if not rows:
        return [Words((Strong(table.title), ": nothing to show."))]
    rest = rows[MOST_ROWS:]
    if not rest:
        return [first]
    return [first, Words((f"… and {len(rest)} more rows in the report.",))]


def _number(cell: Cell) -> bool:
    return isinstance(cell, int | float)


def _found(report: Report) -> list[Block]:
    findings = by_severity(report.findings) or [compare.error(report.gate, "nothing was looked at")]
    if len(findings) <= MOST_ROWS:
        return [_findings(findings)]
    unhappy = [finding for finding in findings if finding.verdict is not Verdict.PASS]
    held = [finding for finding in findings if finding.verdict is Verdict.PASS]
    shown: list[Block] = [_findings(unhappy)] if unhappy else []
    return [*shown, Fold(f"{len(held)} findings that hold", (_findings(held),))] if held else shown


def _findings(findings: Sequence[Finding]) -> Grid:
    rows = tuple((f.name, value(f.observed), value(f.limit), f.verdict, f.reason) for f in findings)
    return Grid(("name", "observed", "limit", "verdict", "reason"), rows, frozenset({1, 2}))


def _measured(report: Report) -> list[Block]:
    if not report.measurements:
        return []
    text = json.dumps(plain(dict(report.measurements)), indent=1, ensure_ascii=False)
    if len(text) > MOST_MEASURED:
        text = f"{text[:MOST_MEASURED]}\n… {len(text) - MOST_MEASURED:,} more characters in the JSON"
    return [Fold("Measurements", (Verbatim(text),))]


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings with the worst first, else in the order that the gate gave them."""
    return sorted(findings, key=lambda finding: SEVEREST_FIRST.index(finding.verdict))


def summary(report: Report) -> str:
    """Return how many of a report's findings hold, and how many there was nothing to compare with."""
    counted = [f for f in report.findings if f.verdict is not Verdict.NOT_APPLICABLE]
    apart = len(report.findings) - len(counted)
    if not report.findings:
        return "nothing was looked at"
    if not counted:
        return report.findings[0].reason
    held = sum(finding.verdict is Verdict.PASS for finding in counted)
    return f"{held} of {len(counted)} findings hold" + (f", {apart} not applicable" if apart else "")


def value(number: Cell | Any) -> str:
    """Return a number or text as a person reads it; – for what is not there."""
    if number is None or number == "":
        return "–"
    if isinstance(number, bool) or not isinstance(number, int | float):
        return str(number)
    if 1e-9 < abs(number) < 1e-4:
        return f"{number:.{3 - math.floor(math.log10(abs(number)))}f}"
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e15 else compare.show(number)


_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(raw: str, *, keep_lines: bool = False) -> str:
    """Return a text without control characters, and without those that turn the direction of reading."""
    clean = _HIDDEN.sub(" ", raw)
    return clean if keep_lines else " ".join(clean.split())
