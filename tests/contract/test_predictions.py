"""The log of predictions: nothing is lost or doubled whatever is killed when, and erased is erased."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.planes import eventually
from tidegate.adapters.outcomes import SqliteOutcomes
from tidegate.adapters.predictions import Erased, PredictionStore, files, merging
from tidegate.core.outcomes import Outcome
from tidegate.errors import ConfigError, Refused, Unreachable
from tidegate.serving import predictions
from tidegate.serving.engine import Call
from tidegate.serving.predictions import PredictionLog

DAY = 86400.0
NOON = 20_000 * DAY + DAY / 2  # of some day in 2024
NAMES = ("hour", "distance")


class Log:
    """A folder that services write to at times of our choosing, and its store."""

    def __init__(self, folder: Path, outcomes: Path | None = None) -> None:
        self.folder, self.now = folder, NOON
        self.store = PredictionStore(folder, outcomes, now=lambda: self.now)

    def service(
        self, release: str = "abc", model: str = "toy", names: tuple[str, ...] = NAMES
    ) -> PredictionLog:
        """A service that writes here."""
        said = {"model": model, "release": release, "model_version": "7", "plane": "p", "features": names}
        return PredictionLog(self.folder, said, 10_000_000)

    def note(
        self, *names: str, inputs: Any = None, at: float = NOON, close: bool = True, **service: Any
    ) -> None:
        """Write down predictions made at a time."""
        log = self.service(**service)
        seen = np.array([[17.0, np.nan]], np.float32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predictions.time, "time", lambda: at)
            for name in names:
                body = json.dumps({"tailnum": "N1"} if inputs is None else inputs).encode()
                log.row(Call(name, 0.0, body), seen, {"score": 0.25, "late": True}, "computed", 1.5)
            log.close()
        if not close:
            for path in self.folder.glob("segments/*/*.closed"):
                path.rename(path.with_suffix(".open"))

    def ids(self) -> list[str]:
        """All that SQL sees, doubles included."""
        return [row[0] for row in self.ask("SELECT request_id FROM predictions ORDER BY request_id")]

    def ask(self, text: str) -> list[tuple[Any, ...]]:
        """Rows of an answer."""
        return list(self.store.query(text, rows=100_000).rows)

    def parts(self) -> list[Path]:
        """Every Parquet file."""
        return sorted(self.folder.glob("model=*/day=*/*.parquet"))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """An empty log with a store of outcomes."""
    return Log(tmp_path / "predictions", tmp_path / "outcomes.db")


# ---------------------------------------------------------------- asking
def test_the_newest_record_is_seen_before_and_after_it_is_converted(log: Log) -> None:
    """SQL sees segments under way, closed ones and Parquet alike, with the same columns and types."""
    text = "SELECT * FROM predictions"
    log.note("a", close=False)
    before = log.store.query(text)
    log.store.convert()
    after = log.store.query(text)
    named = [dict(zip(found.columns, found.rows[0], strict=True)) for found in (before, after)]
    assert named[0] == named[1]
    kinds = [dict(zip(found.columns, found.types, strict=True)) for found in (before, after)]
    assert kinds[0] == kinds[1]
    assert kinds[0]["features"].replace('"', "") == "STRUCT(hour FLOAT, distance FLOAT)"
    assert (named[0]["model"], named[0]["day"].isoformat()) == ("toy", "2024-10-04")
    assert not list(log.folder.glob("segments/*/*"))


def test_features_answers_and_inputs_are_asked_by_name(log: Log) -> None:
    """What was not known is null, so that a mean is one of what was known."""
    log.note("a", inputs={"plane": {"year": 1999}})
    asked = "features.hour, features.distance, prediction.score, inputs->'plane'->>'year'"
    asked += ", avg(features.distance)"
    assert log.ask(f"SELECT {asked} FROM predictions GROUP BY ALL") == [(17.0, None, 0.25, "1999", None)]


def test_models_and_releases_with_other_features_stand_in_one_table(log: Log) -> None:
    """A feature that a release does not have is null in its rows, and no value moves to another name."""
    log.note("a")
    log.note("b", names=("distance", "hour"), release="def")
    log.store.convert()
    log.note("c", model="other", names=("hour", "new"))
    rows = log.ask("SELECT request_id, features.hour, features.distance, model FROM predictions ORDER BY 1")
    assert rows == [("a", 17.0, None, "toy"), ("b", None, 17.0, "toy"), ("c", 17.0, None, "other")]
    assert [dict(each.features) for each in log.store.find("b")] == [{"distance": 17.0, "hour": None}]


def test_outcomes_are_joined_by_request_id(log: Log, tmp_path: Path) -> None:
    """Each prediction with each of its outcomes is a row of `labelled`."""
    log.note("a", "b")
    outcomes = SqliteOutcomes(tmp_path / "outcomes.db", lambda: NOON)
    outcomes.record([Outcome("a", "late", 1), Outcome("a", "angry", 0), Outcome("elsewhere", "late", 1)])
    outcomes.close()
    asked = "SELECT request_id, outcome, value, prediction.score FROM labelled ORDER BY outcome"
    assert log.ask(asked) == [("a", "angry", 0, 0.25), ("a", "late", 1, 0.25)]
    assert log.ask("SELECT count(*) FROM outcomes") == [(3,)]


def test_an_empty_log_answers(log: Log) -> None:
    """Before anything was written there are no rows, and no error."""
    assert log.ask("SELECT count(*) FROM labelled") == [(0,)]
    assert (log.store.find("a"), log.store.known({"a"})) == ([], set())
    assert log.store.convert().predictions == 0


def test_a_request_is_found_wherever_it_is(log: Log) -> None:
    """Of several releases that answered it all are found, and of many requests the known ones."""
    log.note("a", "ab")
    log.note("a", release="mirror", at=NOON + 1)
    log.store.convert()
    log.note("b")
    assert [each.release for each in log.store.find("a")] == ["abc", "mirror"]
    assert log.store.known({"a", "b", "c", "ab"}) == {"a", "b", "ab"}


@pytest.mark.parametrize(
    "text",
    [
        "COPY (SELECT 1) TO '{folder}/x.csv'",
        "COPY predictions TO '{part}'",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW predictions",
        "ATTACH '{folder}/x.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '99GB'",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('{folder}/erasures.jsonl')",
        "SELECT * FROM '{folder}/work.lock'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('{folder}/*/*/*')",
        "SELECT * FROM log",
        "EXPORT DATABASE '{folder}/x'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/x.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{part}' (FORMAT parquet, USE_TMP_FILE false)",
        "explain /* */ (ANALYZE) COPY (SELECT 1) TO '{part}' (FORMAT parquet, USE_TMP_FILE false)",
    ],
)
def test_sql_reads_these_tables_and_nothing_else(log: Log, text: str) -> None:
    """Whatever would write, or read another file, is refused, and leaves all as it was."""
    log.note("a")
    log.store.convert()
    before = {path: path.stat().st_mtime_ns for path in log.folder.rglob("*") if path.suffix != ".lock"}
    with pytest.raises((Refused, ConfigError)):
        log.store.query(text.format(folder=log.folder, part=log.parts()[0]))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(log.folder.glob("x*"))
    assert log.ids() == ["a"]


@pytest.mark.parametrize("how", ["EXPLAIN", "explain analyze", "EXPLAIN (ANALYZE, FORMAT json)"])
def test_how_a_select_is_answered_may_be_asked(log: Log, how: str) -> None:
    """A plan is read like an answer."""
    log.note("a")
    assert log.ask(f"{how} SELECT count(*) FROM predictions")


def test_a_misspelt_column_is_answered_with_those_there_are(log: Log) -> None:
    """The error names every column, the fields of structs one by one."""
    log.note("a")
    with pytest.raises(ConfigError) as error:
        log.ask("SELECT hour FROM predictions")
    assert "features.hour" in error.value.action
    assert "prediction.score" in error.value.action
    with pytest.raises(ConfigError) as error:
        log.ask("SELECT * FROM prediction")
    assert "predictions" in error.value.action


def test_a_question_is_bounded_in_time_rows_and_memory(log: Log) -> None:
    """What takes too long or too much is stopped, and more rows than were asked for are said."""
    with pytest.raises(Refused, match=r"over 0\.2 s"):
        log.store.query("SELECT count(*) FROM range(1000000000000) a, range(1000) b", seconds=0.2)
    with pytest.raises(Refused, match="MB"):
        log.store.query("SELECT list(range) FROM range(100000000)", megabytes=64)
    found = log.store.query("SELECT * FROM range(10)", rows=3)
    assert (len(found.rows), found.more) == (3, True)


# ---------------------------------------------------------------- files
def test_days_are_partitions_and_small_files_become_one(log: Log) -> None:
    """Each record lies in its own day (UTC); a day that is over has one file, sorted by time."""
    for number in range(3):
        log.note(f"late-{number}", at=NOON - DAY - number)
        log.note(f"now-{number}", at=NOON)
    log.store.convert()
    assert len(log.parts()) == 6
    assert log.store.compact() == log.store.compact().__class__(3, 1)
    days = [path.parent.name for path in log.parts()]
    assert days == ["day=2024-10-03", *["day=2024-10-04"] * 3]
    merged = pq.read_table(log.parts()[0], partitioning=None)
    assert merged.column("request_id").to_pylist() == ["late-2", "late-1", "late-0"]
    assert len(log.ids()) == len(set(log.ids())) == 6
    assert log.store.compact().before == 0


def test_many_files_of_today_are_merged_as_well(log: Log) -> None:
    """A day that goes on does not become thousands of files."""
    for number in range(merging.FEW):
        log.note(f"r-{number:02}")
    log.store.convert()
    assert log.store.compact().after == 1
    assert log.ids() == [f"r-{number:02}" for number in range(merging.FEW)]


def test_a_segment_over_midnight_is_two_days(log: Log) -> None:
    """Records of one segment go where they belong."""
    service = log.service()
    with pytest.MonkeyPatch.context() as patch:
        for name, at in (("a", NOON + DAY / 2 - 1), ("b", NOON + DAY / 2 + 1)):
            patch.setattr(predictions.time, "time", lambda at=at: at)
            service.row(Call(name, 0.0, b"{}"), None, {}, "computed", 1.0)
        service.close()
    log.store.convert()
    assert [path.parent.name for path in log.parts()] == ["day=2024-10-04", "day=2024-10-05"]
    assert log.ids() == ["a", "b"]


def test_days_that_are_too_old_go(log: Log) -> None:
    """What is younger stays, to the day."""
    for age in (0, 1, 29, 30, 31, 400):
        log.note(f"{age:03}", at=NOON - age * DAY)
    log.store.convert()
    assert log.store.retain(30) == 2
    assert log.ids() == ["000", "001", "029", "030"]
    assert len(list(log.folder.glob("model=toy/day=*"))) == 4


def test_what_a_crash_left_of_a_segment_is_kept(log: Log) -> None:
    """A service that was killed in the middle of a write costs that write; a file of rubbish is set aside."""
    log.note("a", close=False)
    (torn,) = log.folder.glob("segments/toy/*")
    torn.write_bytes(torn.read_bytes() + b"\x40\x00\x00\x00half")
    rubbish = torn.with_name("0-1-x.closed")
    rubbish.write_bytes(b"rubbish")
    found = log.store.convert()
    assert (found.predictions, found.lost_bytes, found.damaged) == (1, 8, (rubbish.name,))
    assert rubbish.with_suffix(".damaged").exists()
    assert log.ids() == ["a"]


def test_a_young_segment_is_left_to_its_service(log: Log) -> None:
    """Only segments begun over `settle` seconds ago are closed."""
    log.note("young", at=time.time(), close=False)
    log.now = time.time()
    assert log.store.convert(settle=3600).segments == 0
    log.now += 7200
    assert log.store.convert(settle=3600).segments == 1


def test_files_are_the_users_alone(log: Log) -> None:
    """Nobody else may read them, whatever the umask says."""
    log.note("a")
    log.store.convert()
    log.store.erase("toy", "tailnum", "N2")
    modes = {path: path.stat().st_mode & 0o077 for path in log.folder.rglob("*")}
    assert {path.name for path, mode in modes.items() if mode} == set()


# ---------------------------------------------------------------- crashes
class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it."""


@contextmanager
def killed_at(step: int) -> Iterator[Callable[[], int]]:
    """Kill whoever takes the n-th step at the disk, before it is done; gives how many were taken."""
    taken = 0

    def counting(real: Any) -> Any:
        def run(*args: Any, **named: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken > step:
                raise Killed
            return real(*args, **named)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "fsync"):
            patch.setattr(os, name, counting(getattr(os, name)))
        for name in ("unlink", "rename", "rmdir"):
            patch.setattr(Path, name, counting(getattr(Path, name)))
        patch.setattr(files.pq, "write_table", counting(pq.write_table))
        yield lambda: taken


WORK: dict[str, Callable[[Log], object]] = {
    "convert": lambda log: log.store.convert(),
    "compact": lambda log: log.store.compact(),
    "erase": lambda log: log.store.erase("toy", "tailnum", "N2"),
}


def written(log: Log) -> set[str]:
    """Two days of segments, some Parquet, and a subject to erase; returns all ids of the others."""
    for number in range(2):
        log.note(f"old-{number}", at=NOON - DAY)
        log.note(f"gone-{number}", at=NOON - DAY, inputs={"tailnum": "N2"})
    log.store.convert()
    log.note("new-0", close=False)
    log.note("gone-2", inputs={"tailnum": "N2"})
    return {"old-0", "old-1", "new-0"}


@pytest.mark.parametrize("work", WORK)
def test_a_kill_at_any_step_neither_loses_nor_doubles(tmp_path: Path, work: str) -> None:
    """At once after the kill, and after whoever works next, each record is there exactly once."""
    step = 0
    while True:
        log = Log(tmp_path / f"{work}-{step}")
        stay = written(log)
        before = set(log.ids())
        with killed_at(step) as taken:
            try:
                WORK[work](log)
                done = True
            except Killed:
                done = False
        found = log.ids()
        assert len(found) == len(set(found)), (step, found)
        assert stay <= set(found) <= before, (step, found)
        if work != "erase":
            assert set(found) == before, (step, found)
        log.store.convert()
        log.store.compact()
        found = log.ids()
        assert len(found) == len(set(found)), (step, found)
        # An erasure that was written down is ended; one that was not never happened.
        assert set(found) in (before, stay), (step, found)
        if done and work == "erase":
            assert set(found) == stay
        if done:
            assert taken() <= step
            break
        step += 1
    assert step > 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["note", "open", *WORK]), st.integers(0, 12)), max_size=8))
def test_any_sequence_of_work_and_kills_keeps_every_record_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever is done in whatever order, and killed, others' records stay, and the erased ones stay away."""
    log = Log(tmp_path_factory.mktemp("log"))
    log.note("first")
    kept, subject, erased = {"first"}, set[str](), False
    for number, (what, step) in enumerate(steps):
        log.now += 1
        if what in ("note", "open"):
            log.note(f"r-{number}", at=log.now - DAY * (number % 2), close=what == "note")
            log.note(f"s-{number}", at=log.now - DAY, inputs={"tailnum": "N2"})
            kept.add(f"r-{number}")
            subject.add(f"s-{number}")
            continue
        with killed_at(step):
            try:
                WORK[what](log)
            except Killed:
                continue
        if what == "erase":
            subject, erased = set(), True
        assert {name for name in log.ids() if name[0] != "s"} == kept
    log.store.convert()
    found = log.ids()
    assert len(found) == len(set(found))
    assert {name for name in found if name[0] != "s"} == kept
    assert {name for name in found if name[0] == "s"} <= subject
    assert erased or "erase" in [what for what, _ in steps] or len(found) == len(kept | subject)


def test_two_processes_at_once_do_no_harm(log: Log) -> None:
    """A service writes, two processes convert and compact, a reader asks: each record is there once."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tidegate.adapters.predictions import PredictionStore\n"
        "store = PredictionStore(Path(sys.argv[1]))\nprint(flush=True)\n"
        "for _ in range(6):\n    store.convert()\n    store.compact()\n"
    )
    command = [sys.executable, "-c", code, str(log.folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in started:
            assert process.stdout
            process.stdout.readline()
        names: list[str] = []
        while any(process.poll() is None for process in started):
            names.append(f"r-{len(names):04}")
            log.note(names[-1], at=time.time())
            assert len(log.ids()) == len(names)
        assert [process.returncode for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert log.ids() == names


def test_who_does_not_want_to_wait_is_told(log: Log) -> None:
    """While another process works, an agent leaves it to that one."""
    with log.store._files.working(), pytest.raises(Unreachable):
        PredictionStore(log.folder).convert(wait=0.0)


# ---------------------------------------------------------------- erasing
def everything(folder: Path) -> str:
    """All text that is left in a folder, compressed or not."""
    found = [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    return "".join(found) + str(
        [pq.read_table(p, partitioning=None).to_pylist() for p in folder.rglob("*.parquet")]
    )


def test_an_erased_subject_is_nowhere(log: Log) -> None:
    """Not in Parquet, not in segments under way, not in the audit, which says when and how many."""
    log.note("a", "b", inputs={"tailnum": "N14228"}, at=NOON - DAY)
    log.store.convert()
    log.note("c", inputs={"tailnum": "N14228"}, close=False)
    log.note("d", "e", inputs={"tailnum": "N5"})
    assert log.store.erase("toy", "tailnum", "N14228", dry_run=True) == Erased(3, 2)
    assert log.store.erase("toy", "tailnum", "N14228") == Erased(3, 2)
    assert log.ids() == ["d", "e"]
    assert "N14228" not in everything(log.folder)
    assert "N5" in everything(log.folder)
    audit = json.loads((log.folder / "erasures.jsonl").read_text())
    assert (audit["model"], audit["key"], audit["erased"], audit["at"]) == ("toy", "tailnum", 3, NOON)
    assert len(audit["hash"]) == 64


def test_what_was_still_on_its_way_is_erased_when_it_arrives(log: Log) -> None:
    """A record made before an erasure and written after it is dropped; one made after it is a new one."""
    log.note("a", inputs={"tailnum": "N2"}, at=NOON - 5)
    log.store.erase("toy", "tailnum", "N2")
    log.note("late", inputs={"tailnum": "N2"}, at=NOON - 1)
    log.note("after", inputs={"tailnum": "N2"}, at=NOON + 1)
    log.note("other", at=NOON - 1)
    assert log.ids() == ["after", "other"]
    assert log.store.find("late") == []
    log.store.convert()
    assert log.ids() == ["after", "other"]


@pytest.mark.parametrize(
    ("key", "value", "gone"),
    [
        ("tailnum", "N1", {"text"}),
        ("plane.year", "1999", {"whole", "float"}),
        ("flag", "true", {"flag"}),
        ("request_id", "text", {"text"}),
        ("tailnum", "", set()),
        ("tailnum", "null", set()),
    ],
)
def test_a_subject_is_named_by_any_field(log: Log, key: str, value: str, gone: set[str]) -> None:
    """Texts, numbers however they are written, flags, inner fields, and a request's id; null is nobody."""
    said = {
        "text": {"tailnum": "N1"},
        "whole": {"plane": {"year": 1999}},
        "float": {"plane": {"year": 1999.0}},
        "flag": {"flag": True},
        "null": {"tailnum": None},
    }
    for name, inputs in said.items():
        log.note(name, inputs=inputs)
    assert log.store.erase("toy", key, value).predictions == len(gone)
    assert set(log.ids()) == set(said) - gone


def test_all_rows_of_a_request_go_with_it(log: Log) -> None:
    """Named by its id, or one by one by theirs."""
    log.now = time.time() + 60
    service = log.service()
    columns = {"tailnum": np.array(["N1", "N2", "N3"], object)}
    for name in ("many", "more"):
        call = Call(name, 0.0, b"", "v2")
        service.rows(call, columns, np.zeros((3, 2), np.float32), {"score": np.zeros(3)}, 1.0)
    service.close()
    assert log.store.erase("toy", "request_id", "many").predictions == 3
    assert log.store.erase("toy", "request_id", "more/1").predictions == 1
    assert log.store.erase("toy", "tailnum", "N1").predictions == 1
    assert log.ids() == ["more/2"]


def test_whose_outcomes_go_is_told_before_predictions_do(log: Log) -> None:
    """Who is told sees each erased id while its prediction is still there: also of what arrives later."""
    told: list[tuple[list[str], bool]] = []

    def forget(requests: Sequence[str]) -> int:
        told.append((list(requests), bool(log.parts() or list(log.folder.glob("segments/*/*")))))
        return len(requests)

    log.store = PredictionStore(log.folder, now=lambda: log.now, forget=forget)
    log.note("a", inputs={"tailnum": "N2"})
    log.note("b")
    assert log.store.erase("toy", "tailnum", "N2").outcomes == 1
    log.note("late", inputs={"tailnum": "N2"})
    log.store.convert()
    assert told == [(["a"], True), (["late"], True)]


def test_damaged_segments_are_forgotten_with_their_days(log: Log) -> None:
    """What can't be read may hold anybody's data: it is kept no longer than what can."""
    log.note("a")
    folder = log.folder / "segments" / "toy"
    old, young = (int((NOON - days * DAY) * 1000) for days in (100, 10))
    for stamp in (old, young):
        (folder / f"{stamp:013d}-1-x.closed").write_bytes(b"?")
    assert len(log.store.convert().damaged) == 2
    log.store.retain(90)
    assert [path.name for path in folder.glob("*.damaged")] == [f"{young:013d}-1-x.damaged"]


def test_another_models_predictions_stay(log: Log) -> None:
    """A key means something within one model only."""
    log.note("a")
    log.note("b", model="other")
    log.store.erase("toy", "tailnum", "N1")
    assert log.ids() == ["b"]


def test_an_unknown_key_or_model_is_refused(log: Log) -> None:
    """Nothing found would look like nothing left: the error names what there is, and no audit is written."""
    log.note("a", inputs={"tailnum": "N1", "plane": {"year": 1}})
    for model, key, hint in (
        ("toy", "tailnumber", "tailnum"),
        ("toy", "year", "plane.year"),
        ("tou", "x", "toy"),
    ):
        with pytest.raises(ConfigError) as error:
            log.store.erase(model, key, "N1")
        assert hint in error.value.action
    assert not (log.folder / "erasures.jsonl").exists()


def test_files_stay_where_they_are_while_somebody_reads(log: Log) -> None:
    """A conversion waits for who reads, and whoever comes to read after it has begun waits for it."""
    log.note("a")
    done = threading.Event()

    def work() -> None:
        log.store.convert()
        done.set()

    with log.store._files.reading():
        worker = threading.Thread(target=work)
        worker.start()
        eventually(lambda: list(log.folder.glob("model=*/day=*/.making-*")))
        assert not log.parts()
        assert log.folder.joinpath("segments/toy").iterdir()
    worker.join(30)
    assert done.is_set()
    assert len(log.parts()) == 1
    assert log.ids() == ["a"]
