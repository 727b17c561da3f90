"""The table of faults at a test run's end; tests/conftest.py loads it, so that xdist's controller has it."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import pytest

PROPERTY = "fault"  # of a test's report: how a run's outcome comes back from xdist's workers


@dataclass
class Outcome:
    """One run: when what ran was what Git said again, what was seen meanwhile, who was turned away."""

    fault: str
    seconds: float | None = None  # from the fault's end to convergence
    weights: list[int] = field(default_factory=list)  # of the candidate, as Envoy served them
    requests: int = 0
    failed: int = 0  # without the candidate's own answers
    note: str = ""

    def told(self, properties: list[tuple[str, object]]) -> None:
        """Write it into a test's report."""
        properties.append((PROPERTY, json.dumps(asdict(self))))


def table(reports: Sequence[tuple[bool, Outcome]]) -> list[str]:
    """Return the lines of fault × runs → outcome, in the order in which faults were first seen."""
    by_fault: dict[str, list[tuple[bool, Outcome]]] = defaultdict(list)
    for passed, outcome in reports:
        by_fault[outcome.fault].append((passed, outcome))
    width = max((len(fault) for fault in by_fault), default=5)
    lines = [
        f"{'fault':<{width}}  runs  kept  converged s (median, max)  candidate's weights  requests  failed"
    ]
    for fault, runs in by_fault.items():
        seconds = [o.seconds for _, o in runs if o.seconds is not None]
        took = f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else "–"
        weights = sorted({w for _, o in runs for w in o.weights})
        requests, failed = sum(o.requests for _, o in runs), sum(o.failed for _, o in runs)
        kept = sum(passed for passed, _ in runs)
        notes = "; ".join(dict.fromkeys(o.note for _, o in runs if o.note))
        lines.append(
            f"{fault:<{width}}  {len(runs):>4}  {kept:>4}  {took:>25}  {weights!s:>19}  {requests:>8}  "
            f"{failed:>6}  {notes}".rstrip()
        )
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of what ran."""
    found = [
        (report.passed, Outcome(**json.loads(str(value))))
        for key in ("passed", "failed")
        for report in terminalreporter.stats.get(key, [])
        for name, value in report.user_properties
        if name == PROPERTY and report.when == "call"
    ]
    if found:
        terminalreporter.section("faults")
        for line in table(found):
            terminalreporter.line(line)
