"""Reports as Markdown that GitHub renders by itself: verdict first, then findings, then details."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.core import gate as compare
from tidegate.core.verdict import Finding, Verdict, worst
from tidegate.files import write_atomic
from tidegate.report.document import Report, plain, to_json, with_missing

FOLD_FROM = 25  # findings; of longer tables only what does not hold is unfolded
_MARKS = {
    Verdict.NOT_APPLICABLE: "➖",
    Verdict.PASS: "✅",
    Verdict.INCONCLUSIVE: "🟡",
    Verdict.ERROR: "⚠️",
    Verdict.FAIL: "❌",
}


def to_markdown(report: Report, title: str = "") -> str:
    """Return the report as Markdown that GitHub renders: verdict first, then the findings, then details."""
    heading = title or f"{report.gate} of {report.model}"
    lines = [f"**{_MARKS[report.verdict]} {report.verdict.words}** {_cell(heading)}: {_summary(report)}", ""]
    findings = _by_severity(report.findings) or [compare.error(report.gate, "nothing was looked at")]
    broken_ones = [finding for finding in findings if finding.verdict is not Verdict.PASS]
    if len(findings) <= FOLD_FROM:
        lines += _table(findings)
    else:
        lines += _table(broken_ones) if broken_ones else []
        held = _table([finding for finding in findings if finding.verdict is Verdict.PASS])
        lines += ["", *_folded(f"{len(findings) - len(broken_ones)} findings that hold", held)]
    if report.measurements:
        shown = json.dumps(plain(dict(report.measurements)), indent=1, ensure_ascii=False)
        fenced = ["```json", shown.replace("```", "` ` `"), "```"]
        lines += ["", *_folded("Measurements", fenced)]
    return "\n".join(lines) + "\n"


def combine(reports: Sequence[Report], expected: Sequence[str] = ()) -> str:
    """Return one Markdown page of many reports: a verdict line, a table of gates, details folded.

    A gate of `expected` that did not report is shown as ERROR; so is a page without any report.
    """
    everything = with_missing(reports, expected)
    verdict = worst(report.verdict for report in everything)
    counted = ", ".join(
        f"{sum(r.verdict is v for r in everything)} {v}"
        for v in Verdict
        if any(r.verdict is v for r in everything)
    )
    models = ", ".join(sorted({report.model for report in everything if report.model}))
    lines = [f"**{_MARKS[verdict]} {verdict.words}** {_cell(models)}: {counted or 'no gate reported'}", ""]
    lines += ["| gate | verdict | findings | what decided |", "| --- | --- | ---: | --- |"]
    for report in everything:
        decided = _by_severity(report.findings)
        reason = decided[0].reason if decided and report.verdict is not Verdict.PASS else _summary(report)
        state = f"{_MARKS[report.verdict]} {report.verdict.words}"
        cells = (report.gate, state, str(len(report.findings)), reason)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    for report in everything:
        lines += ["", *_folded(f"{report.gate}: {report.verdict}", [to_markdown(report)])]
    return "\n".join(lines) + "\n"


def rollout_section(environment: str, outcome: str, findings: Sequence[Mapping[str, Any]]) -> str:
    """Return a finished rollout as Markdown: how it ended, and each check with both numbers.

    `findings` are as a plane publishes them; what is not one is left out, and their absence is said.
    """
    head = f"Rollout in {environment}: {outcome}"
    rows = [f for f in findings if isinstance(f, Mapping) and str(f.get("verdict")) in set(Verdict)]
    if not rows:
        return f"{head}\n\nThe agent published no numbers of it."
    lines = ["| check | observed | limit | verdict | reason |", "| --- | ---: | ---: | --- | --- |"]
    for row in rows:
        name = f"{row.get('name', '')}{' (dry run)' if row.get('dry_run') else ''}"
        verdict = Verdict(str(row["verdict"]))
        shown = [str(row.get(key) or _value(row.get(key.removesuffix("_text")))) for key in _SHOWN]
        cells = [name, *shown, f"{_MARKS[verdict]} {verdict.words}", str(row.get("reason", ""))]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join([head, "", *lines])


def write(report: Report, folder: Path) -> Path:
    """Write `<gate>.md`, then `<gate>.json`, each whole or not at all; returns the JSON's path."""
    write_atomic(folder / f"{report.gate}.md", to_markdown(report))
    path = folder / f"{report.gate}.json"
    write_atomic(path, to_json(report))
    return path


_SEVEREST_FIRST = (
    Verdict.FAIL,
    Verdict.ERROR,
    Verdict.INCONCLUSIVE,
    Verdict.PASS,
    Verdict.NOT_APPLICABLE,
)
_SHOWN = ("observed_text", "limit_text")


def _table(findings: Sequence[Finding]) -> list[str]:
    lines = ["| name | observed | limit | verdict | reason |", "| --- | ---: | ---: | --- | --- |"]
    for finding in findings:
        cells = [finding.name, _value(finding.observed), _value(finding.limit)]
        cells += [f"{_MARKS[finding.verdict]} {finding.verdict.words}", finding.reason]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return lines


def _folded(summary: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{_cell(summary)}</summary>", "", *lines, "", "</details>"]


def _by_severity(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(
        findings,
        key=lambda f: _SEVEREST_FIRST.index(f.verdict),
    )


def _summary(report: Report) -> str:
    total = len(report.findings)
    held = sum(finding.verdict is Verdict.PASS for finding in report.findings)
    return f"{held} of {total} findings hold" if total else "nothing was looked at"


def _value(value: float | str | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else compare.show(value)


def _cell(text: str) -> str:
    """Escape what would end a table's cell or start HTML; values in reasons come from data."""
    flat = " ".join(text.split())
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", flat).replace("|", "\\|")
