"""What a report is, and its JSON. Reading fails closed.

A report that is missing, unreadable, of an unknown form, empty, or whose verdict is not the worst of its
findings is an ERROR report; so is one whose inputs are no longer what it was made from (`current`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidegate.core import gate as compare
from tidegate.core.exhibits import Chart, Comparison, Table
from tidegate.core.verdict import Finding, Verdict, worst
from tidegate.files import digest

SCHEMA = 2
MAX_BYTES = 4 * 1024 * 1024


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a report's numbers come from.

    `command` makes it again; `inputs` are the files and folders that were read, relative to the checkout,
    each with its sha256; `settings` the thresholds that it was held to; `release` the release that was looked
    at, where there was one; `against` the release that it was compared with.
    """

    command: str = ""
    inputs: Mapping[str, str] = {}
    settings: Mapping[str, Any] = {}
    release: str = ""
    against: str = ""


@dataclass(frozen=True)
class Report:
    """What was looked at and what was found. `gate` names the gate, or e.g. `promotion`, `rollback`."""

    gate: str
    model: str
    findings: tuple[Finding, ...]
    measurements: Mapping[str, Any] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    source: Source = Source()

    @property
    def verdict(self) -> Verdict:
        """The worst finding's verdict; without findings ERROR."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def reason(self) -> str:
        """The reason of the first of its worst findings; nothing without findings."""
        return next((f.reason for f in self.findings if f.verdict is self.verdict), "")

    @property
    def exit_code(self) -> int:
        """0 PASS or not applicable, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR."""
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
            "comparisons": [msgspec.to_builtins(one) for one in self.comparisons],
            "charts": [msgspec.to_builtins(one, enc_hook=_scalar) for one in self.charts],
            "tables": [msgspec.to_builtins(one, enc_hook=_scalar) for one in self.tables],
            "source": msgspec.to_builtins(self.source, enc_hook=_scalar),
        }
        result: dict[str, Any] = plain(document)
        return result


def _scalar(value: Any) -> Any:
    """Turn numpy's numbers into Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(type(value))


def broken(gate: str, model: str, reason: str) -> Report:
    """Return the ERROR report of a gate that could not look."""
    return Report(gate, model, (compare.error(gate, reason),))


def to_json(report: Report) -> str:
    """Return the report as indented JSON, the same bytes for the same report."""
    return json.dumps(report.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and non-finite numbers into what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


# ---------------------------------------------------------------- reading
class _FindingForm(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    verdict: Verdict
    observed: float | str | None
    limit: float | str | None
    reason: str


class _ReportForm(msgspec.Struct, forbid_unknown_fields=True):
    """The report of a gate: the worst finding is its verdict."""

    schema: Literal[2]
    gate: str
    model: str
    verdict: Verdict
    findings: list[_FindingForm]
    measurements: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    source: Source


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of what `to_json` writes."""
    (reference,), components = msgspec.json.schema_components([_ReportForm], ref_template="#/$defs/{name}")
    definitions = {name.lstrip("_"): body for name, body in components.items()}
    text = json.dumps({"$defs": definitions, **reference}).replace("#/$defs/_", "#/$defs/")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tidegate report"}
    document: dict[str, Any] = {**head, **json.loads(text)}
    return document


def read_report(path: Path) -> Report:
    """Read a report that `write` wrote; whatever is wrong with it becomes an ERROR report, never a PASS."""
    name = path.stem
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES // 1024} KiB")
        form = _decode(data)
        if form.gate != name:
            raise ValueError(f"it is the report of `{form.gate}`")
        report = Report(
            form.gate,
            form.model,
            tuple(Finding(f.name, f.verdict, f.observed, f.limit, f.reason) for f in form.findings),
            form.measurements,
            form.comparisons,
            form.charts,
            form.tables,
            form.source,
        )
        if not report.findings:
            raise ValueError("it has no findings")
        if report.verdict is not form.verdict:
            raise ValueError(f"it says {form.verdict}, and its findings say {report.verdict}")
    except (OSError, ValueError, msgspec.MsgspecError) as problem:
        reason = "it is not there" if isinstance(problem, FileNotFoundError) else str(problem)
        return broken(name, "", f"the report {path.name} can't be used: {reason}")
    return report


def _decode(data: bytes) -> _ReportForm:
    """Raises ValueError or MsgspecError; a report of another schema is told by that, not by its fields."""
    said = msgspec.json.decode(data)
    number = said.get("schema") if isinstance(said, dict) else None
    if number != SCHEMA:
        raise ValueError(f"its schema is {number}, and this version reads {SCHEMA}")
    return msgspec.json.decode(data, type=_ReportForm)


def current(report: Report, root: Path, *, model: str, release: str = "") -> Report:
    """Return the report if it is about this model, this release and the files that are in `root` now.

    Otherwise an ERROR report that says what it is about: numbers of yesterday's files, or of another
    release, say nothing. Where it names no release (a gate of the pipeline), its inputs alone tell.
    """
    if report.model and report.model != model:
        return broken(report.gate, model, f"this report is about {report.model}, not {model}")
    if release and report.source.release and report.source.release != release:
        return broken(
            report.gate, model, f"this report is about release {report.source.release}, not {release}"
        )
    for name, known in report.source.inputs.items():
        try:
            now = digest(root / name)
        except OSError:
            return broken(report.gate, model, f"this report was made from {name}, which is not here")
        if now != known:
            reason = (
                f"this report is stale: {name} is {now[:19]}… now, and was {known[:19]}… when it was made"
            )
            return broken(report.gate, model, f"{reason}. Run `{report.source.command}`")
    return report


def read_folder(folder: Path) -> list[Report]:
    """Read every `*.json` report of a folder and its folder `added`, in name order; empty without any."""
    paths = [*folder.glob("*.json"), *(folder / "added").glob("*.json")]
    return [read_report(path) for path in sorted(paths, key=lambda path: path.stem)]


def with_missing(reports: Sequence[Report], expected: Sequence[str]) -> list[Report]:
    """Return the reports, and an ERROR report for each expected gate that is not among them."""
    model = next((report.model for report in reports), "")
    there = {report.gate for report in reports}
    return [
        *reports,
        *(broken(name, model, "this gate did not report") for name in expected if name not in there),
    ]
