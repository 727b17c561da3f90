"""What AnswerMeasures makes of journals that grow, turn over, are cut, spoilt or missing."""

from __future__ import annotations

import itertools
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.adapters import answers
from tidegate.adapters.answers import AnswerMeasures, recent
from tidegate.core.plan import Check, Mirror, Plan, Ratio
from tidegate.errors import NoData, Unreachable
from tidegate.ports import Asked

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
OTHERWISE = Check("otherwise", "disagreement", Ratio(0.05))
APART = Check("apart", "score-difference", Ratio(0.05), difference=0.1)
PLAN = Plan(strategy="shadow", mirror=Mirror(), checks=(OTHERWISE, APART))


def _asked(plan: Plan = PLAN, since: float = 0.0, environment: str = "canary") -> Asked:
    return Asked("toy", environment, A, B, since, plan, {A: ("a:1",), B: ("b:1",)})


def _line(number: object, score: float | None = 0.5, at: float = 10.0, **more: Any) -> bytes:
    decision = None if score is None else score >= 0.5
    said = {"id": str(number), "at": at, "score": score, "decision": decision, "status": 200, "ms": 1.0}
    return json.dumps({**said, "answer": {"score": score}, **more}).encode() + b"\n"


def _add(folder: Path, name: str, *lines: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    with path.open("ab") as file:
        file.write(b"".join(lines))
    return path


def _read(measures: AnswerMeasures, asked: Asked | None = None) -> dict[str, tuple[int, int]]:
    """Return check → (pairs, events)."""
    (found,) = measures.read(asked or _asked()).values()
    return {key.partition("@")[0]: tally for key, tally in found.tallies.items()}


def _begun(folder: Path) -> AnswerMeasures:
    """Return a reader that has looked once at a folder with a file of each arm."""
    for release in (A, B):
        _add(folder, f"{release}.1")
    measures = AnswerMeasures(folder)
    assert _read(measures) == {"otherwise": (0, 0), "apart": (0, 0)}
    return measures


def test_pairs_are_judged_by_each_check(tmp_path: Path) -> None:
    """A pair is a trial of each check: its decisions for one, a distance of scores for the other."""
    measures = _begun(tmp_path)
    _add(tmp_path, f"{B}.1", *(_line(n, 0.45) for n in range(4)))
    _add(tmp_path, f"{A}.1", _line(0, 0.45), _line(1, 0.5), _line(2, 0.3), _line(3, 0.9))
    assert _read(measures) == {"otherwise": (4, 2), "apart": (4, 2)}


@pytest.mark.parametrize(
    ("check", "said", "missing"),
    [(OTHERWISE, {"decision": None}, "decision"), (APART, {"score": None}, "score")],
)
def test_a_check_of_what_no_answer_names_is_no_data(
    tmp_path: Path, check: Check, said: dict[str, Any], missing: str
) -> None:
    """A service without a decision (a score is none) or a score makes the check blind, and never passed."""
    for release in (A, B):
        _add(tmp_path, f"{release}.1")
    plan = Plan(strategy="shadow", mirror=Mirror(), checks=(check,))
    measures = AnswerMeasures(tmp_path)
    measures.read(_asked(plan))
    for release in (A, B):
        _add(tmp_path, f"{release}.1", *(_line(n, **said) for n in range(3)))
    with pytest.raises(NoData, match=rf"have no {missing}, so {check.metric} has nothing to compare"):
        measures.read(_asked(plan))
    for release in (A, B):
        _add(tmp_path, f"{release}.1", _line("named"))
    assert _read(measures, _asked(plan)) == {check.name: (1, 0)}


@given(cut=st.lists(st.integers(0, 2000), max_size=6))
def test_lines_may_come_in_pieces(tmp_path_factory: pytest.TempPathFactory, cut: list[int]) -> None:
    """Wherever a look falls within a line, each answer is read once and whole."""
    folder = tmp_path_factory.mktemp("answers")
    measures = _begun(folder)
    _add(folder, f"{B}.1", *(_line(n) for n in range(10)))
    text = b"".join(_line(n, 0.1 * n) for n in range(10))
    edges = sorted({0, len(text), *(at % len(text) for at in cut)})
    for start, end in itertools.pairwise(edges):
        _add(folder, f"{A}.1", text[start:end])
        found = _read(measures)
    assert found["otherwise"] == (10, 5)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n\n",
        b"not json\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b"{}\n",
        b'{"id": 7, "at": 1, "status": 200, "ms": 1}\n',
        b'{"id": "a", "at": "now", "status": 200, "ms": 1}\n',
        b'{"id": "a", "at": 1e999, "status": 200, "ms": 1}\n',
        b"[" * 20_000 + b"\n",
        b"x" * 200_000 + b"\n",
        b'{"id": "cut off, as by a full disk\n',
    ],
    ids=range(11),
)
def test_garbage_between_answers_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    """A line that is none costs itself, and never the ones around it."""
    measures = _begun(tmp_path)
    _add(tmp_path, f"{A}.1", _line(1), garbage, _line(2))
    _add(tmp_path, f"{B}.1", _line(1), _line(2))
    assert _read(measures)["otherwise"] == (2, 0)


def test_a_line_without_an_end_is_not_kept(tmp_path: Path) -> None:
    """A file that never ends its line costs no memory."""
    measures = _begun(tmp_path)
    tracemalloc.start()
    for _ in range(40):
        _add(tmp_path, f"{A}.1", b"x" * 1_000_000)
        _read(measures)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2_000_000


def test_a_file_that_turned_over_is_read_to_its_end(tmp_path: Path) -> None:
    """What was written before and after a rotation counts, each once."""
    measures = _begun(tmp_path)
    path = _add(tmp_path, f"{A}.1", _line(1), _line(2))
    _add(tmp_path, f"{B}.1", *(_line(n) for n in range(1, 6)))
    assert _read(measures)["otherwise"] == (2, 0)
    _add(tmp_path, f"{A}.1", _line(3))
    os.replace(path, f"{path}.1")
    _add(tmp_path, f"{A}.1", _line(4))
    assert _read(measures)["otherwise"] == (4, 0)
    os.replace(path, f"{path}.1")
    _add(tmp_path, f"{A}.1", _line(5))
    assert _read(measures)["otherwise"] == (5, 0)


def test_a_file_that_was_cut_is_read_anew(tmp_path: Path) -> None:
    """What somebody emptied is no reason to stop."""
    measures = _begun(tmp_path)
    path = _add(tmp_path, f"{A}.1", _line(1), _line(2))
    _add(tmp_path, f"{B}.1", _line(1), _line(2), _line(3))
    _read(measures)
    path.write_bytes(_line(3))
    assert _read(measures)["otherwise"] == (3, 0)


def test_another_process_of_a_release_is_read_from_its_beginning(tmp_path: Path) -> None:
    """A replica that was started meanwhile counts whole, and so does the second of stable."""
    measures = _begun(tmp_path)
    _add(tmp_path, f"{A}.2", _line(1), _line(2))
    _add(tmp_path, f"{B}.7", _line(2), _line(1))
    _add(tmp_path, f"{A}0.1", _line(3))  # another release whose name begins alike
    _add(tmp_path, f"{A}-baseline.1", _line(3))
    _add(tmp_path, f"{B}.1", _line(3))
    assert _read(measures)["otherwise"] == (2, 0)


def test_what_was_before_the_rollout_does_not_count(tmp_path: Path) -> None:
    """Neither what was there at the first look, nor answers that are older than the rollout."""
    for release in (A, B):
        _add(tmp_path, f"{release}.1", _line(1))
    measures, asked = AnswerMeasures(tmp_path), _asked(since=100)
    assert _read(measures, asked)["otherwise"] == (0, 0)
    for release in (A, B):
        _add(tmp_path, f"{release}.1", _line(2, at=99), _line(3, at=101))
    assert _read(measures, asked)["otherwise"] == (1, 0)


def test_another_rollout_counts_for_itself(tmp_path: Path) -> None:
    """Two environments of a plane, and a release that is tried again, have sums and keys of their own."""
    measures = _begun(tmp_path)
    for release in (A, B):
        _add(tmp_path, f"{release}.1", _line(1))
    first = measures.read(_asked())[A].tallies
    second = measures.read(_asked(environment="production"))[A].tallies
    assert set(first).isdisjoint(second)
    assert set(second.values()) == {(0, 0)}
    assert set(measures.read(_asked())[A].tallies.values()) == {(1, 0)}


def test_an_edited_difference_counts_anew(tmp_path: Path) -> None:
    """Pairs that were judged by another distance are no part of the new sum, nor of its key."""
    measures = _begun(tmp_path)
    for release in (A, B):
        _add(tmp_path, f"{release}.1", _line(1))
    before = measures.read(_asked())[A].tallies
    edited = Check("apart", "score-difference", Ratio(0.05), difference=0.2)
    plan = Plan(strategy="shadow", mirror=Mirror(), checks=(edited,))
    after = measures.read(_asked(plan))[A].tallies
    assert set(before).isdisjoint(after)
    assert set(after.values()) == {(0, 0)}


def test_a_backlog_is_read_in_parts_and_in_the_order_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look reads a bounded part of what waits; pairs far apart in the files find each other."""
    monkeypatch.setattr(answers, "BUDGET", 400_000)
    monkeypatch.setattr(answers, "CHUNK", 10_000)
    measures, number = _begun(tmp_path), 20_000
    for release in (A, B):
        _add(tmp_path, f"{release}.1", *(_line(n, at=n / 100) for n in range(number)))
    seen = [_read(measures)["otherwise"][0]]
    assert 0 < seen[0] < number / 4
    while seen[-1] < number and len(seen) < 100:
        seen.append(_read(measures)["otherwise"][0])
    assert seen[-1] == number


def test_memory_is_bounded_without_twins(tmp_path: Path) -> None:
    """Stable answers ten times as many requests as are mirrored, or none are: what waits is bounded."""
    measures = _begun(tmp_path)
    lines = [_line(n, at=n / 10_000) for n in range(100_000)]
    tracemalloc.start()
    for part in range(0, len(lines), 20_000):
        _add(tmp_path, f"{B}.1", *lines[part : part + 20_000])
        _read(measures)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 12_000_000


def test_without_a_file_of_the_candidate_there_is_no_data(tmp_path: Path) -> None:
    """A candidate that writes nothing down is not one that agrees."""
    with pytest.raises(NoData, match="has to be built anew"):
        AnswerMeasures(tmp_path / "never").read(_asked())
    _add(tmp_path, f"{B}.1", _line(1))
    with pytest.raises(NoData, match=A):
        AnswerMeasures(tmp_path).read(_asked())


def test_what_can_not_be_read_is_unreachable(tmp_path: Path) -> None:
    """A file where the folder should be is told with its name."""
    (tmp_path / "answers").write_text("")
    with pytest.raises(Unreachable, match="answers"):
        AnswerMeasures(tmp_path / "answers").read(_asked())
    with pytest.raises(Unreachable, match="answers"):
        recent(tmp_path / "answers", A, B, 0)


def test_files_that_nobody_writes_are_removed(tmp_path: Path) -> None:
    """Processes come and go: after two days without a line their files are gone, others stay."""
    old, new = _add(tmp_path, f"{A}.1", _line(1)), _add(tmp_path, f"{A}.2", _line(1))
    other = tmp_path / "notes.txt"
    other.write_text("")
    for path in (old, other):
        os.utime(path, (1000, 1000))
    now = new.stat().st_mtime
    _read(AnswerMeasures(tmp_path, clock=lambda: now + 3600))
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "notes.txt"]


def test_a_summary_is_made_of_the_kept_files(tmp_path: Path) -> None:
    """Agreement, distance, latency and failures of a rollout's pairs, rotated files included."""
    path = _add(tmp_path, f"{A}.1", _line(1, 0.9), _line(2, 0.4), _line(9, 0.4, at=0.5))
    os.replace(path, f"{path}.1")
    _add(tmp_path, f"{A}.1", _line(3, status=500, score=None), b"garbage\n", _line(4, 0.1))
    _add(tmp_path, f"{B}.1", *(_line(n, 0.4, ms=3.0) for n in (1, 2, 3, 9)))
    made = recent(tmp_path, A, B, since=1.0)
    assert (made.pairs, made.compared, made.scored) == (3, 3, 2)
    assert made.agreement == pytest.approx(1 / 3)
    assert made.mean_difference == pytest.approx(0.25)
    assert (made.candidate.failed, made.stable.failed, made.stable.p99) == (1, 0, 3.0)
    assert recent(tmp_path / "never", A, B, 0).pairs == 0
