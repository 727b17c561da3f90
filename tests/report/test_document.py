"""Reports: what is written is what is read, and whatever is wrong with one is an ERROR."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tidegate import report
from tidegate.core import gate
from tidegate.core.verdict import Finding, Verdict


def good(name: str = "data") -> report.Report:
    """A report that passes."""
    return report.Report(name, "toy", (gate.at_most("nulls", 0.1, 0.2),), {"rows": 7})


def bad(name: str = "quality") -> report.Report:
    """A report that fails."""
    return report.Report(name, "toy", (gate.at_least("auc", 0.6, 0.7), gate.at_most("loss", 1, 2)))


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Writing and reading change nothing, verdict and exit code included."""
    for written in (good(), bad()):
        again = report.read_report(report.write(written, tmp_path))
        assert again == written
        assert again.exit_code == written.exit_code


@pytest.mark.parametrize(
    ("finding", "code"),
    [
        (gate.at_most("x", 1, 2), 0),
        (gate.at_most("x", 3, 2), 1),
        (gate.enough("x", 1, 2), 2),
        (gate.at_most("x", None, 2), 3),
    ],
)
def test_exit_code_is_that_of_the_worst_finding(finding: Finding, code: int) -> None:
    """0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR, whatever stands beside it that passes."""
    assert report.Report("x", "toy", (gate.at_most("y", 1, 2), finding)).exit_code == code


def test_no_findings_is_an_error() -> None:
    """A report that looked at nothing has not passed, and its page says so."""
    empty = report.Report("data", "toy", ())
    assert empty.verdict is Verdict.ERROR
    assert "ERROR" in report.to_markdown(empty).splitlines()[0]
    assert "nothing was looked at" in report.to_markdown(empty)


def _break(change: dict[str, object]) -> str:
    return json.dumps({**good().as_dict(), **change})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        _break({"schema": 1}),
        _break({"findings": []}),
        _break({"verdict": "GOOD"}),
        _break({"gate": "quality"}),
        _break({"extra": 1}),
        json.dumps({k: v for k, v in good().as_dict().items() if k != "findings"}),
        json.dumps({**bad("data").as_dict(), "verdict": "PASS"}),
        "x" * (report.MAX_BYTES + 1),
    ],
)
def test_what_can_not_be_trusted_is_an_error(tmp_path: Path, text: str) -> None:
    """Broken, foreign, renamed, empty or self-contradicting reports are ERROR reports with a reason."""
    path = tmp_path / "data.json"
    path.write_text(text)
    found = report.read_report(path)
    assert found.verdict is Verdict.ERROR
    assert "data.json" in found.findings[0].reason


def test_a_missing_report_is_an_error(tmp_path: Path) -> None:
    """Absence is never PASS."""
    assert report.read_report(tmp_path / "load.json").verdict is Verdict.ERROR


def test_numbers_that_json_lacks_become_null() -> None:
    """NaN, infinities and numpy's types leave as plain JSON."""
    measured = {
        "nan": math.nan,
        "inf": [math.inf],
        "np": np.float32(0.5),
        "n": np.int64(3),
        "a": np.arange(2),
    }
    text = report.to_json(report.Report("x", "toy", good().findings, measured))
    assert json.loads(text)["measurements"] == {"nan": None, "inf": [None], "np": 0.5, "n": 3, "a": [0, 1]}


def test_markdown_begins_with_the_verdict_and_shows_the_worst_first() -> None:
    """The first line says how it ended; the first row says why."""
    lines = report.to_markdown(bad()).splitlines()
    assert "FAIL" in lines[0]
    assert lines[2].startswith("| name | observed | limit | verdict | reason |")
    assert "auc" in lines[4]
    assert "FAIL" in lines[4]


def test_text_from_data_can_not_break_the_table() -> None:
    """Pipes, newlines and tags in a reason stay inside their cell."""
    nasty = Finding("a|b", Verdict.FAIL, "x\ny", None, "<script>|</td>\n| PASS |")
    row = report.to_markdown(report.Report("x", "toy", (nasty,))).splitlines()[4]
    assert row.replace("\\|", "").count("|") == 6
    assert "<script>" not in row


def test_a_long_report_unfolds_only_what_does_not_hold() -> None:
    """Of many findings, the reader sees the failed ones at once and the others on demand."""
    many = tuple(gate.at_most(f"c{i}", 1, 2) for i in range(60))
    text = report.to_markdown(report.Report("x", "toy", (*many, gate.at_most("late", 3, 2))))
    unfolded = text.split("<details>")[0]
    assert "late 3 > limit 2" in unfolded
    assert "c7 " not in unfolded
    assert "c7 " in text


def test_a_report_that_can_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Nothing is half-written: what stood there stays when the new one fails."""
    path = report.write(good(), tmp_path)
    before = path.read_bytes()
    (tmp_path / "data.md").unlink()
    (tmp_path / "data.md").mkdir()
    with pytest.raises(OSError):
        report.write(bad("data"), tmp_path)
    assert path.read_bytes() == before
