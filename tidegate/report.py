"""Findings and measurements → JSON and Markdown; for gates, promotions and rollbacks alike.

Reading fails closed: a report that is missing, unreadable, of an unknown form, empty, or whose
verdict is not the worst of its findings is an ERROR report.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tidegate.core import gate as compare
from tidegate.core.verdict import Finding, Verdict, worst
from tidegate.files import write_atomic

SCHEMA = 1
MAX_BYTES = 4 * 1024 * 1024
FOLD_FROM = 25  # findings; of longer tables only what does not hold is unfolded
_MARKS = {Verdict.PASS: "✅", Verdict.INCONCLUSIVE: "🟡", Verdict.ERROR: "⚠️", Verdict.FAIL: "❌"}


@dataclass(frozen=True)
class Report:
    """What was looked at and what was found. `gate` names the gate, or e.g. `promotion`, `rollback`."""

    gate: str
    model: str
    findings: tuple[Finding, ...]
    measurements: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst finding's verdict; without findings ERROR."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR."""
        return self.verdict.exit_code

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON types; numbers that JSON lacks (NaN, ±inf) become null."""
        document = {
            "schema": SCHEMA,
            "gate": self.gate,
            "model": self.model,
            "verdict": str(self.verdict),
            "findings": [finding.as_dict() for finding in self.findings],
            "measurements": dict(self.measurements),
        }
        plain: dict[str, Any] = _plain(document)
        return plain


def broken(gate: str, model: str, reason: str) -> Report:
    """Return the ERROR report of a gate that could not look."""
    return Report(gate, model, (compare.error(gate, reason),))


def to_json(report: Report) -> str:
    """Return the report as indented JSON, the same bytes for the same report."""
    return json.dumps(report.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(report: Report, title: str = "") -> str:
    """Return the report as Markdown that GitHub renders: verdict first, then the findings, then details."""
    heading = title or f"{report.gate} of {report.model}"
    lines = [f"**{_MARKS[report.verdict]} {report.verdict}** {_cell(heading)}: {_summary(report)}", ""]
    findings = _by_severity(report.findings) or [compare.error(report.gate, "nothing was looked at")]
    broken_ones = [finding for finding in findings if finding.verdict is not Verdict.PASS]
    if len(findings) <= FOLD_FROM:
        lines += _table(findings)
    else:
        lines += _table(broken_ones) if broken_ones else []
        held = _table([finding for finding in findings if finding.verdict is Verdict.PASS])
        lines += ["", *_folded(f"{len(findings) - len(broken_ones)} findings that hold", held)]
    if report.measurements:
        shown = json.dumps(_plain(dict(report.measurements)), indent=1, ensure_ascii=False)
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
    lines = [f"**{_MARKS[verdict]} {verdict}** {_cell(models)}: {counted or 'no gate reported'}", ""]
    lines += ["| gate | verdict | findings | what decided |", "| --- | --- | ---: | --- |"]
    for report in everything:
        decided = _by_severity(report.findings)
        reason = decided[0].reason if decided and report.verdict is not Verdict.PASS else _summary(report)
        state = f"{_MARKS[report.verdict]} {report.verdict}"
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
        cells = [name, *shown, f"{_MARKS[verdict]} {verdict}", str(row.get("reason", ""))]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join([head, "", *lines])


def with_missing(reports: Sequence[Report], expected: Sequence[str]) -> list[Report]:
    """Return the reports, and an ERROR report for each expected gate that is not among them."""
    model = next((report.model for report in reports), "")
    there = {report.gate for report in reports}
    return [
        *reports,
        *(broken(name, model, "this gate did not report") for name in expected if name not in there),
    ]


def write(report: Report, folder: Path) -> Path:
    """Write `<gate>.md`, then `<gate>.json`, each whole or not at all; returns the JSON's path."""
    write_atomic(folder / f"{report.gate}.md", to_markdown(report))
    path = folder / f"{report.gate}.json"
    write_atomic(path, to_json(report))
    return path


_SHOWN = ("observed_text", "limit_text")


class _FindingForm(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    verdict: Verdict
    observed: float | str | None
    limit: float | str | None
    reason: str


class _ReportForm(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    gate: str
    model: str
    verdict: Verdict
    findings: list[_FindingForm]
    measurements: dict[str, Any]


def read_report(path: Path) -> Report:
    """Read a report that `write` wrote; whatever is wrong with it becomes an ERROR report, never a PASS."""
    name = path.stem
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES // 1024} KiB")
        form = msgspec.json.decode(data, type=_ReportForm)
        if form.schema != SCHEMA:
            raise ValueError(f"its schema is {form.schema}, and this version reads {SCHEMA}")
        if form.gate != name:
            raise ValueError(f"it is the report of `{form.gate}`")
        report = Report(
            form.gate,
            form.model,
            tuple(Finding(f.name, f.verdict, f.observed, f.limit, f.reason) for f in form.findings),
            form.measurements,
        )
        if not report.findings:
            raise ValueError("it has no findings")
        if report.verdict is not form.verdict:
            raise ValueError(f"it says {form.verdict}, and its findings say {report.verdict}")
    except (OSError, ValueError, msgspec.MsgspecError) as problem:
        reason = "it is not there" if isinstance(problem, FileNotFoundError) else str(problem)
        return broken(name, "", f"the report {path.name} can't be used: {reason}")
    return report


def read_folder(folder: Path) -> list[Report]:
    """Read every `*.json` report of a folder, in name order; empty when there is none."""
    return [read_report(path) for path in sorted(folder.glob("*.json"))]


def _table(findings: Sequence[Finding]) -> list[str]:
    lines = ["| name | observed | limit | verdict | reason |", "| --- | ---: | ---: | --- | --- |"]
    for finding in findings:
        cells = [finding.name, _value(finding.observed), _value(finding.limit)]
        cells += [f"{_MARKS[finding.verdict]} {finding.verdict}", finding.reason]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return lines


def _folded(summary: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{_cell(summary)}</summary>", "", *lines, "", "</details>"]


def _by_severity(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(
        findings,
        key=lambda f: [Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.PASS].index(f.verdict),
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


def _plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and non-finite numbers into what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
