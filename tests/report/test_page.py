"""The one page: what a reviewer reads first, what is never left out, and what is never taken for PASS."""

from __future__ import annotations

import pytest

from tidegate import report
from tidegate.core import gate
from tidegate.core.changes import Changes, Commit, Data, Dependency, File, Parameter
from tidegate.core.verdict import Verdict
from tidegate.report.page import Material, Rollout, page


def good(name: str = "data") -> report.Report:
    """A report that passes."""
    source = report.Source(command=f"tidegate gate run {name} toy", release="aaaabbbbcccc")
    return report.Report(name, "toy", (gate.at_most("nulls", 0.1, 0.2),), {"rows": 7}, source=source)


def bad(name: str = "quality") -> report.Report:
    """A report that fails."""
    return report.Report(name, "toy", (gate.at_least("auc", 0.6, 0.7), gate.at_most("loss", 1, 2)))


def drawn(*reports: report.Report, **more: object) -> str:
    """The page of some reports as Markdown."""
    return report.draw(page(Material("toy", reports, **more)))  # type: ignore[arg-type]


def test_the_first_line_is_the_verdict_and_why() -> None:
    """One line says how it ended, which gate decided and with which numbers, and how the others ended."""
    first = drawn(good(), bad()).splitlines()[0]
    assert first.startswith(
        "**❌ FAIL** **toy**: quality FAIL (auc 0.6 < limit 0.7). Of 2 gates: 1 FAIL, 1 PASS"
    )


def test_each_gate_has_a_row_that_says_what_decided_and_which_command_made_it() -> None:
    """The worst gate comes first; a number in the page can be made again by the command beside it."""
    rows = [line for line in drawn(good(), bad()).splitlines() if line.startswith("| **")]
    assert rows[0].startswith("| **quality** | ❌ FAIL | auc 0.6 < limit 0.7 |")
    assert rows[1] == "| **data** | ✅ PASS | 1 of 1 findings hold | `tidegate gate run data toy` |"


def test_without_a_report_the_page_is_an_error() -> None:
    """Nobody looked, so nobody can say that it is good."""
    assert page(Material("toy", ())).verdict is Verdict.ERROR
    assert drawn().startswith("**⚠️ ERROR** **toy**: no gate reported")


def test_a_gate_that_does_not_apply_is_shown_as_such() -> None:
    """It has its reason in the table, is counted apart, and is nowhere called passed."""
    none = report.Report("gpu", "toy", (gate.not_applicable("gpu", "no GPU is declared"),))
    text = drawn(good(), none)
    assert "| **gpu** | ➖ not applicable | no GPU is declared |" in text
    assert "1 PASS, 1 not applicable" in text.splitlines()[0]


def test_a_gate_whose_turn_comes_later_is_pending() -> None:
    """What can't have run yet is neither missing nor passed."""
    text = drawn(good(), pending={"load": "runs in staging", "data": "again"})
    assert "| **load** | ⏳ not yet | runs in staging | – |" in text
    assert text.count("**data**") == 1


def test_what_changed_is_told_with_both_values() -> None:
    """Parameters, data, code and dependencies, each with what production has and what the candidate has."""
    found = Changes(
        against="aaaabbbbcccc",
        since="1" * 40,
        until="2" * 40,
        parameters=(Parameter("models.toy.train.rounds", "300", "400"),),
        data=(Data("data/toy/train.parquet", "a" * 32, "b" * 32, 1000, 1200),),
        files=(File("models/toy/features.py", 12, 3),),
        commits=(Commit("c" * 40, "Know the season"),),
        dependencies=(Dependency("lightgbm", "4.6", None),),
    )
    text = drawn(good(), changes=found)
    for row in (
        "| `models.toy.train.rounds` | 300 | 400 |",
        "| `data/toy/train.parquet` | aaaaaaaa, 1,000 bytes | bbbbbbbb, 1,200 bytes |",
        "| `cccccccc` | Know the season |",
        "| `models/toy/features.py` | 12 | 3 |",
        "| `lightgbm` | 4.6 | – |",
        "`git diff 111111111111..222222222222`",
    ):
        assert row in text


def test_what_could_not_be_compared_is_said_and_is_not_the_same() -> None:
    """A part that nobody could read is named, and never among what is the same as in production."""
    found = Changes(against="aaaabbbbcccc", since="1" * 40, until="2" * 40, problems=("data: no dvc.lock",))
    text = drawn(good(), changes=found)
    assert "Not known: data: no dvc.lock" in text
    assert "The same as in production: parameters, code, dependencies." in text
    lost = Changes(against="aaaabbbbcccc", since="1" * 40, until="2" * 40, problems=("commit 1 is not here",))
    assert "The same" not in drawn(good(), changes=lost)


def test_nothing_in_production_is_said() -> None:
    """A first release is compared with nothing, and the page says so."""
    assert "Nothing is in production" in drawn(good(), changes=Changes(until="2" * 40))


def test_a_rollouts_numbers_are_a_table() -> None:
    """Each check is a row with both numbers and its verdict, dry runs named; without any, that is said."""
    check = {"name": "errors", "verdict": "PASS", "observed": 0.001, "limit": 0.02, "reason": "0.1% | 2%"}
    texts = {"observed_text": "0.1%", "limit_text": "2%"}
    trial = {**check, "name": "latency", "verdict": "FAIL", "dry_run": True}
    seen = [Rollout("canary", "Verified", [{**check, **texts}, trial, {"verdict": "?"}])]
    text = drawn(good(), rollouts=[*seen, Rollout("staging", "Healthy", [])])
    assert "### Rollout in canary: Verified" in text
    assert "| errors | 0.1% | 2% | ✅ PASS | 0.1% \\| 2% |" in text
    assert "| latency (dry run) | 0.001 | 0.02 | ❌ FAIL |" in text
    assert "published no numbers" in text


@pytest.mark.parametrize("limit", [200, 1000, 3000])
def test_what_does_not_fit_is_left_out_and_said(limit: int) -> None:
    """Whatever the room, the verdict's line stays, and the page says that something is missing."""
    many = [
        report.Report(f"g{i}", "toy", tuple(gate.at_most(f"c{j}", 1, 2) for j in range(20))) for i in range(9)
    ]
    text = report.draw(page(Material("toy", many)), limit)
    assert len(text) <= limit
    assert text.startswith("**✅ PASS** **toy**")
    assert "Left out" in text
