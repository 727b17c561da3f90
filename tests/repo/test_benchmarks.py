"""What `make bench` tells is complete, explained, and never silently missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import __main__ as program
from bench.registry import GROUPS, CannotRun, Goal, Group, Measured, run

ROOT = Path(__file__).resolve().parents[2]


def test_every_entry_is_explained() -> None:
    """The headings of docs/benchmarks.md are the names of the entries, all of them and no others."""
    text = (ROOT / "docs/benchmarks.md").read_text()
    told = [name for line in re.findall(r"^## (.+)$", text, re.M) for name in line.split(", ")]
    assert sorted(told) == sorted(name for group in GROUPS for name in group.names)


def _raises(error: Exception) -> Mapping[str, Measured]:
    raise error


@pytest.mark.parametrize(
    ("error", "note"),
    [(CannotRun("no model"), "cannot run: no model"), (KeyError("x"), "broke: KeyError: 'x'")],
)
def test_an_entry_that_cannot_run_says_why(error: Exception, note: str) -> None:
    """It is there, without a value, not ok, and with the reason; it takes no other entry along."""
    (row,) = run(Group({"some-entry": ("s", Goal(at_most=1))}, lambda: _raises(error)))
    assert (row["name"], row["value"], row["ok"], row["note"]) == ("some-entry", None, False, note)


def test_an_entry_that_its_group_forgets_is_told() -> None:
    """A name without a number is not ok."""
    rows = run(Group({"a": ("s", Goal()), "b": ("s", Goal())}, lambda: {"a": Measured(1)}))
    assert [(row["name"], row["ok"], row["note"]) for row in rows] == [
        ("a", True, ""),
        ("b", False, "was not measured"),
    ]


@pytest.mark.parametrize(
    ("goal", "value", "peer", "ok"),
    [
        (Goal(at_most=2), 2, None, True),
        (Goal(at_most=2), 2.1, None, False),
        (Goal("ratio", at_least=1), 30, 20, True),
        (Goal("ratio", at_least=1), 10, 20, False),
        (Goal("ratio", at_least=1), 10, None, False),
        (Goal("difference", at_most=1), 1.4, 0.5, True),
        (Goal("difference", at_most=1), 1.6, 0.5, False),
    ],
)
def test_a_goal_is_kept_or_missed(goal: Goal, value: float, peer: float | None, ok: bool) -> None:
    """Bounds are inclusive, and a goal beside a peer is missed without one."""
    assert goal.met(value, peer) is ok


def test_running_one_entry_keeps_the_others_numbers(tmp_path: Path) -> None:
    """`--only` replaces its entry in bench.json; what is no entry any more is dropped; damage is survived."""
    path = tmp_path / "bench.json"
    path.write_text('[{"name": "a", "value": 1}, {"name": "b", "value": 1}, {"name": "gone", "value": 1}]')
    rows = [{"name": "b", "value": 2}]
    assert program._merged(path, rows, ["a", "b"]) == [{"name": "a", "value": 1}, {"name": "b", "value": 2}]
    path.write_text('{"half')
    assert program._merged(path, rows, ["a", "b"]) == rows
