"""What every store of outcomes promises, asked of the fake and of SQLite; and Envoy's journal, read on."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import A, B
from tests.planes import eventually, plane_up, tiny_servers
from tidegate.adapters.journal import EnvoyJournal
from tidegate.adapters.outcomes import OutcomeMeasures, SqliteOutcomes, read_outcomes
from tidegate.core.outcomes import GRACE, Outcome
from tidegate.core.plan import AbTest, Bandit, Check, Key, Mirror, Plan, Ratio, Seconds
from tidegate.errors import ConfigError, NoData, PlatformError
from tidegate.outcomes import Entry, Few, Place, Seen, accept, keep, read
from tidegate.ports import Asked, Measured, Route
from tidegate.testing import FakeOutcomes

TEST = AbTest(Key(header="x-user"), "bought", Ratio(0.1), Ratio(0.05))
AB = Plan("abTest", ab_test=TEST)
BANDIT = Plan("bandit", bandit=Bandit("bought"))


def replace_test(**changes: Any) -> AbTest:
    """The A/B test with other settings."""
    return msgspec.structs.replace(TEST, **changes)


class ListJournal:
    """A journal in memory, one file of lines that are entries."""

    name = "list"

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.wrote = True
        self.tidied: list[Place] = []

    def read(self, place: Place) -> tuple[list[Entry], Place]:
        if not self.wrote:
            raise NoData("no request was journaled", "Send a request.")
        return self.entries[place.offset : place.offset + 3], Place(
            1, min(len(self.entries), place.offset + 3)
        )

    def tidy(self, place: Place) -> None:
        self.tidied.append(place)


class Desk:
    """One store of outcomes with a journal and a clock: the fake's or SQLite's."""

    def __init__(self, folder: Path | None) -> None:
        self.now, self.folder = 1000.0, folder
        self.journal = ListJournal()
        self.fake = FakeOutcomes(lambda: self.now)
        self.open()

    def open(self) -> None:
        """Open the store, or, for SQLite, another process's view of it."""
        if self.folder is None:
            self.store: Any = self.fake
            self.measures: Any = self.fake
            return
        path = self.folder / "home" / "outcomes.db"
        self.store = SqliteOutcomes(path, lambda: self.now)
        self.measures = OutcomeMeasures(path, self.journal, "production", lambda: self.now)

    def close(self) -> None:
        """Close what was opened."""
        if self.folder is not None:
            self.store.close()
            self.measures.close()

    def served(self, request: str, release: str, unit: str = "", model: str = "toy", at: float = -1) -> None:
        """Journal one request."""
        entry = Entry(request, model, release, unit, self.now if at < 0 else at)
        self.journal.entries.append(entry)
        self.fake.journal.append(entry)

    def said(self, request: str, value: float = 1, name: str = "bought") -> int:
        """Record one outcome."""
        return int(self.store.record([Outcome(request, name, value)]))

    def asked(self, plan: Plan = AB, since: float = 900.0, model: str = "toy") -> dict[str, Measured]:
        """Ask as the agent does; enough looks that a long journal is read to its end."""
        asked = Asked(model, "production", B, A, since, plan, {A: ("h:1",), B: ("h:2",)})
        for _ in range(1 + len(self.journal.entries) // 3):
            found = self.measures.read(asked)
        return dict(found)

    def counted(self, plan: Plan = AB, **more: Any) -> dict[str, dict[str, tuple[int, int]]]:
        """Return release → tally without its instance."""
        return {
            release: {key.partition("@")[0]: row for key, row in found.tallies.items()}
            for release, found in self.asked(plan, **more).items()
        }


@pytest.fixture(params=["fake", "sqlite"])
def desk(request, tmp_path):
    made = Desk(tmp_path if request.param == "sqlite" else None)
    yield made
    made.close()


# ---------------------------------------------------------------- the contract
def test_outcomes_are_counted_for_the_release_that_answered(desk):
    """An outcome that comes later counts for the release that its request's user first saw."""
    assert desk.asked() == {}
    desk.served("r1", A, "ann")
    desk.served("r2", B, "bob")
    desk.served("r3", B, "cat")
    desk.said("r2", 1)
    desk.said("r3", 0)
    assert desk.counted() == {
        A: {"units": (1, 0), "outcome:bought": (0, 0)},
        B: {"units": (2, 0), "outcome:bought": (2, 1)},
    }


def test_the_same_outcome_twice_is_one(desk):
    """Recording is idempotent by request and name, and says how many were new; the first value stays."""
    desk.asked()
    desk.served("r1", B, "ann")
    assert [desk.said("r1", 1), desk.said("r1", 0), desk.said("r1", 1, "liked")] == [1, 0, 1]
    assert desk.counted()[B]["outcome:bought"] == (1, 1)


def test_an_outcome_that_comes_before_its_journal_line_counts(desk):
    """The router writes its journal a moment after it answered: an outcome waits for it."""
    desk.asked()
    desk.said("r1", 1)
    assert desk.counted() == {}
    desk.served("r1", B, "ann")
    assert desk.counted()[B]["outcome:bought"] == (1, 1)


def test_what_was_journaled_before_the_experiment_is_not_its_own(desk):
    """Requests of an earlier stage count nowhere: an experiment begins when it is first asked for."""
    for n in range(10):
        desk.served(f"old{n}", A, "ann")
    assert desk.asked() == {}
    desk.served("r1", B, "ann")
    assert desk.counted() == {B: {"units": (1, 0), "outcome:bought": (0, 0)}}


def test_a_unit_belongs_to_the_release_that_it_first_saw(desk):
    """A user who is served by both arms counts for the first, and as crossed."""
    desk.asked()
    desk.served("r1", A, "ann")
    desk.counted()
    desk.served("r2", B, "ann")
    desk.said("r2", 1)
    assert desk.counted() == {A: {"units": (1, 1), "outcome:bought": (1, 1)}}


def test_a_window_counts_what_nothing_came_of(desk):
    """With a window a unit counts once it is over, as 0 without an outcome; a late one changes nothing."""
    plan = Plan("abTest", ab_test=replace_test(window=Seconds(60)))
    desk.asked(plan)
    desk.served("r1", B, "ann")
    desk.served("r2", B, "bob")
    desk.said("r1", 1)
    assert desk.counted(plan)[B]["outcome:bought"] == (0, 0)
    desk.now += 61 + GRACE
    assert desk.counted(plan)[B]["outcome:bought"] == (2, 1)
    desk.said("r2", 1)
    assert desk.counted(plan)[B]["outcome:bought"] == (2, 1)


def test_a_bandit_counts_requests(desk):
    """Without users each request is a unit of its own."""
    desk.asked(BANDIT)
    for n in range(4):
        desk.served(f"r{n}", B if n else A, "")
    desk.said("r1")
    desk.said("r0", 0)
    assert desk.counted(BANDIT) == {
        A: {"units": (1, 0), "outcome:bought": (1, 0)},
        B: {"units": (3, 0), "outcome:bought": (1, 1)},
    }


def test_a_check_of_an_outcome_is_counted_by_its_name(desk):
    """A check that wants few counts ones, one that wants many counts zeros."""
    checks = (
        Check("returns", "outcome", Ratio(0.1), outcome="bought"),
        Check("sales", "outcome", Ratio(0.9), outcome="bought", better="higher"),
    )
    plan = Plan(checks=checks)
    assert set(desk.measures.names(plan)) == {"units", "returns", "sales"}
    desk.asked(plan)
    for n in range(3):
        desk.served(f"r{n}", B)
        desk.said(f"r{n}", int(n == 0))
    assert desk.counted(plan)[B] == {"units": (3, 0), "returns": (3, 1), "sales": (3, 2)}


def test_a_retried_rollout_is_another_experiment(desk):
    """The same release rolled out again begins at 0, under another instance; its pauses do not."""
    desk.asked()
    desk.served("r1", B, "ann")
    first = desk.asked()[B].tallies
    desk.now += 10
    assert desk.asked(since=910.0)[B].tallies == first  # its beginning was moved on by a pause
    desk.now += 100
    assert desk.asked(since=1100.0) == {}
    desk.served("r2", B, "ann")
    again = desk.asked(since=1100.0)[B].tallies
    assert {key.partition("@")[0]: row for key, row in again.items()} == {
        "units": (1, 0),
        "outcome:bought": (0, 0),
    }
    assert not set(again) & set(first)


def test_models_are_counted_apart(desk):
    """One request id may stand in two models' journals: each counts its own."""
    desk.asked()
    desk.asked(model="other")
    desk.served("r1", B, "ann", model="toy")
    desk.served("r1", A, "ann", model="other")
    desk.said("r1")
    assert desk.counted() == {B: {"units": (1, 0), "outcome:bought": (1, 1)}}
    assert desk.counted(model="other") == {A: {"units": (1, 0), "outcome:bought": (1, 1)}}


def test_nothing_ever_journaled_is_no_data(desk):
    """Where there is no journal and nothing was counted, nobody looked: NoData, not a count of 0."""
    desk.journal.wrote = desk.fake.wrote = False
    with pytest.raises(NoData):
        desk.asked()


def test_only_plans_with_outcomes_or_journals_are_asked(desk):
    """A plan without outcomes asks for nothing, but one that mirrors keeps the journal read."""
    assert desk.measures.names(Plan()) == ()
    assert desk.measures.names(Plan("shadow", mirror=Mirror(50))) == ("units",)
    assert desk.measures.names(AB) == ("units", "outcome:bought")


# ---------------------------------------------------------------- how outcomes stand
class Log:
    """A log of predictions in memory; None is where nothing was ever logged."""

    def __init__(self, known: dict[str, Seen] | None) -> None:
        self.known = known

    def seen(self, requests: Any) -> dict[str, Seen]:
        if self.known is None:
            raise NoData("there are no predictions yet", "Send a request.")
        return {request: self.known[request] for request in requests if request in self.known}


def test_an_outcome_that_contradicts_is_told_and_the_first_stays(desk):
    """A second word with another value is conflicting, the same again is not; nothing changes."""
    desk.asked()
    desk.served("r1", B, "ann")
    desk.served("r2", B, "bob")
    desk.asked()
    said = [Outcome("r1", "bought", 1), Outcome("r2", "bought", 1), Outcome("r1", "bought", 0)]
    kept = keep(desk.store, said)
    assert (kept.new, kept.conflicting) == (2, Few(1, ("r1",)))
    again = keep(desk.store, [Outcome("r1", "bought", 1), Outcome("r2", "bought", 0)])
    assert (again.new, again.conflicting) == (0, Few(1, ("r2",)))
    assert desk.counted()[B]["outcome:bought"] == (2, 2)


def test_an_outcome_after_its_window_is_late(desk):
    """What comes after its user's window is told; what came within is not, also when it is said again."""
    plan = Plan("abTest", ab_test=replace_test(window=Seconds(60)))
    desk.asked(plan)
    for name in ("r1", "r2"):
        desk.served(name, B, name)
    desk.asked(plan)
    assert keep(desk.store, [Outcome("r1", "bought", 1)]).late == Few()
    desk.now += 61 + GRACE
    desk.served("r3", B, "r2")  # the window is the user's, and began at his first request
    desk.asked(plan)
    late = keep(desk.store, [Outcome(name, "bought", 1) for name in ("r1", "r2", "r3")])
    assert late.late == Few(2, ("r2", "r3"))
    assert keep(desk.store, [Outcome("r2", "liked", 1)]).late == Few()  # nobody set it a window
    assert desk.counted(plan)[B]["outcome:bought"] == (2, 1)


def test_an_outcome_is_late_by_what_the_log_knows(desk):
    """A request that only the log knows has its experiment's window; older than is kept is late, too."""
    plan = Plan("abTest", ab_test=replace_test(window=Seconds(60)))
    desk.asked(plan, since=1000.0)
    desk.now += 200
    desk.asked(plan, since=1000.0)
    log = Log({"old": Seen("toy", 1100.0), "new": Seen("toy", 1190.0), "other": Seen("other", 1100.0)})
    said = [Outcome(name, "bought", 1) for name in ("old", "new", "other")]
    assert keep(desk.store, said, log).late == Few(1, ("old",))
    ancient = Log({"gone": Seen("other", 1000.0)})
    assert keep(desk.store, [Outcome("gone", "bought", 1)], ancient, 100.0).late == Few(1, ("gone",))
    assert keep(desk.store, [Outcome("gone", "bought", 1)], ancient, 300.0).late == Few()


def test_a_request_that_nobody_knows_is_told_and_kept(desk):
    """Neither log nor journal has it: it is counted as unknown, with the first ids, and kept all the same."""
    desk.asked()
    desk.served("journaled", B, "ann")
    desk.asked()
    log = Log({"logged": Seen("toy", 1000.0)})
    strangers = [f"s{n}" for n in range(7)]
    said = [Outcome(name, "bought", 1) for name in ("journaled", "logged", *strangers)]
    kept = keep(desk.store, said, log)
    assert kept.unknown == Few(7, tuple(strangers[:5]))
    assert kept.new == 9
    assert keep(desk.store, said, log).new == 0


@pytest.mark.parametrize("log", [None, Log(None)])
def test_without_a_log_nobody_claims_to_know(desk, log):
    """Where nothing was ever logged, unknown is None and the note says why: not 0, and not all of them."""
    kept = keep(desk.store, [Outcome("r1", "bought", 1)], log)
    assert kept.unknown is None
    assert "can't be told" in kept.note
    assert kept.as_dict()["unknown"] is None


def test_a_number_is_kept_where_no_experiment_counts_it(desk):
    """Minutes late are a label like any other; an experiment's outcome takes 0 or 1, and nothing is kept."""
    desk.asked()
    assert desk.said("r1", 17.5, "minutes") == 1
    with pytest.raises(ConfigError, match=r"`bought` of r2 is 17.5.*0 or 1"):
        desk.store.record([Outcome("r1", "liked", 1), Outcome("r2", "bought", 17.5)])
    assert desk.said("r1", 1, "liked") == 1


def test_a_number_said_before_the_experiment_does_not_count(desk):
    """What was said as a number before somebody asked for 0 or 1 is no trial, and breaks nothing."""
    assert desk.said("r1", 17.5) == 1
    assert desk.said("r2", 1) == 1
    desk.asked()
    desk.served("r1", B, "ann")
    desk.served("r2", B, "bob")
    assert desk.counted()[B] == {"units": (2, 0), "outcome:bought": (1, 1)}


requests = st.tuples(
    st.sampled_from("abcdefgh"), st.sampled_from([A, B]), st.sampled_from(["ann", "bob", ""])
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("served"), requests),
        st.tuples(st.just("said"), st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 1))),
        st.tuples(st.just("look"), st.floats(0, 100)),
    ),
    max_size=30,
)
_numbers = itertools.count()


@pytest.mark.parametrize("plan", [AB, BANDIT, Plan("abTest", ab_test=replace_test(window=Seconds(30)))])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=steps)
def test_sqlite_joins_as_the_rules_say(plan, story, tmp_path):
    """However requests, outcomes and looks mix, SQLite's counts are those of the whole join made anew."""
    real, fake = Desk(tmp_path / str(next(_numbers))), Desk(None)
    try:
        assert real.counted(plan) == fake.counted(plan)
        for kind, what in [*story, ("look", 0.0), ("look", 1000.0)]:
            for desk in (real, fake):
                if kind == "served":
                    desk.served(*what)
                elif kind == "said":
                    desk.said(*what)
                else:
                    desk.now += what
            if kind == "look":
                assert real.counted(plan) == fake.counted(plan)
    finally:
        real.close()


# ---------------------------------------------------------------- SQLite's own
def database(desk: Desk) -> sqlite3.Connection:
    """Another reader of the store's file."""
    assert desk.folder
    return sqlite3.connect(desk.folder / "home" / "outcomes.db")


@pytest.fixture
def real(tmp_path):
    made = Desk(tmp_path)
    yield made
    made.close()


def test_users_are_stored_as_salted_hashes(real):
    """No byte of what tells users apart is in the file, and two files know a user by different names."""
    real.asked()
    real.served("r1", B, "ann@example.org")
    real.counted()
    names = [row[0] for row in database(real).execute("SELECT unit FROM units")]
    assert len(names) == 1
    files = list((real.folder / "home").glob("outcomes.db*"))
    assert not any(b"ann@example" in path.read_bytes() for path in files)
    other = Desk(real.folder / "other")
    other.asked()
    other.served("r1", B, "ann@example.org")
    other.counted()
    assert [row[0] for row in database(other).execute("SELECT unit FROM units")] != names
    other.close()


def test_a_restart_loses_and_doubles_nothing(real):
    """Another process goes on where the one before stored that it was: same counts, same instance."""
    real.asked()
    real.served("r1", B, "ann")
    real.said("r1")
    before = real.asked()
    real.close()
    real.open()
    assert real.asked() == before
    real.served("r2", B, "bob")
    assert real.counted()[B]["units"] == (2, 0)


def test_a_journal_that_is_read_twice_counts_once(real):
    """If the place in the journal is lost, the same requests change nothing."""
    real.asked()
    real.served("r1", B, "ann")
    before = real.asked()
    with database(real) as other:
        other.execute("DELETE FROM journals")
    assert real.asked() == before


def test_what_nobody_needs_any_more_is_dropped(real):
    """Assignments and outcomes go once no window can be open, the counts stay."""
    plan = Plan("abTest", ab_test=replace_test(window=Seconds(60)))
    real.asked(plan)
    real.served("r1", B, "ann")
    real.said("r1")
    real.now += 100
    before = real.counted(plan)
    real.now += 2 * 3600
    assert real.counted(plan) == before
    rows = database(real).execute("SELECT count(*) FROM assignments").fetchone()
    assert rows == database(real).execute("SELECT count(*) FROM outcomes").fetchone() == (0,)


def test_outcomes_stay_as_long_as_predictions(real):
    """As labels they are kept for as long as what was predicted is, whatever experiments need."""
    path = real.folder / "home" / "outcomes.db"
    measures = OutcomeMeasures(path, real.journal, "production", lambda: real.now, labels=30 * 86400)
    asked = Asked("toy", "production", B, A, 900.0, AB, {A: (), B: ()})
    measures.read(asked)
    real.said("r1")
    real.now += 29 * 86400
    measures.read(asked)
    assert [outcome.id for outcome in read_outcomes(path)] == ["r1"]
    real.now += 2 * 86400
    measures.read(asked)
    assert read_outcomes(path) == []
    measures.close()


def test_what_is_known_of_a_request_is_erased(real):
    """A request that is to be forgotten leaves neither outcome nor assignment; the counts stay."""
    real.asked()
    real.served("r1", B, "ann")
    real.served("r2", B, "bob")
    real.said("r1")
    real.said("r2", 0)
    before = real.counted()
    assert real.store.erase(["r1", "never"]) == 1
    assert real.store.erase(["r1"]) == 0
    assert real.counted() == before
    assert [row.id for row in read_outcomes(real.folder / "home" / "outcomes.db")] == ["r2"]
    assert database(real).execute("SELECT id FROM assignments").fetchall() == [("r2",)]


def test_outcomes_are_read_without_writing(tmp_path):
    """All of them, or those of some requests, in the order in which they came; no file is none."""
    path = tmp_path / "outcomes.db"
    assert read_outcomes(path) == []
    store = SqliteOutcomes(path, lambda: 5.0)
    said = [Outcome("r2", "minutes", -3.25, 5.0), Outcome("r1", "late", 1, 5.0)]
    store.record(said)
    assert read_outcomes(path) == said
    assert read_outcomes(path, ["r1", "r9"]) == said[1:]
    assert read_outcomes(path, []) == []
    store.close()


def test_a_file_of_before_is_brought_up_to_date(real):
    """Values of 0 and 1 become numbers: nothing said is lost, told twice, or counted again."""
    real.asked()
    real.served("r1", B, "ann")
    real.served("r2", B, "bob")
    real.said("r1")
    before = real.counted()
    real.said("gone")
    real.close()
    with database(real) as old:
        old.executescript(OLD)
    old.close()
    real.open()
    assert real.counted() == before
    assert real.said("r1") == 0
    assert real.said("r2", 0) == 1
    assert real.said("r1", 17.5, "minutes") == 1
    assert real.counted()[B]["outcome:bought"] == (2, 1)
    kind = "SELECT type FROM pragma_table_info('outcomes') WHERE name = 'value'"
    assert database(real).execute(kind).fetchone() == ("REAL",)
    tables = {row[0] for row in database(real).execute("SELECT name FROM sqlite_schema")}
    assert "outcome_of_request" in tables
    assert "outcomes_before" not in tables


OLD = """
CREATE TABLE older (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL,
  at REAL NOT NULL
) STRICT;
INSERT INTO older SELECT * FROM outcomes;
DROP TABLE outcomes;
ALTER TABLE older RENAME TO outcomes;
DELETE FROM outcomes WHERE id = 'gone';
CREATE UNIQUE INDEX outcome_of_request ON outcomes (id, name);
"""


def test_a_bandits_requests_are_dropped_and_their_counts_stay(real):
    """A request that can have no outcome any more leaves no row behind, only its count."""
    plan = Plan("bandit", bandit=Bandit("bought", window=Seconds(60)))
    real.asked(plan)
    real.served("r1", B)
    real.said("r1")
    real.now += 100
    before = real.counted(plan)
    assert before[B]["outcome:bought"] == (1, 1)
    real.now += 2 * 3600
    assert real.counted(plan) == before
    assert database(real).execute("SELECT count(*) FROM units").fetchone() == (0,)
    assert database(real).execute("SELECT count(*) FROM answers").fetchone() == (0,)


def test_outcomes_that_were_accepted_survive_a_kill(tmp_path):
    """Every outcome that `record` returned from is there after kill -9 of the process that recorded it."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tidegate.adapters.outcomes import SqliteOutcomes
        from tidegate.core.outcomes import Outcome
        store = SqliteOutcomes(Path(sys.argv[1]))
        for n in range(100000):
            store.record([Outcome(f"r{n}", "bought", 1)])
            print(n, flush=True)
        """
    )
    path = tmp_path / "outcomes.db"
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        for line in child.stdout:
            if int(line) >= 20:
                child.send_signal(signal.SIGKILL)
                break
        rest = child.stdout.read().split()
    last = int(rest[-1]) if rest else 20
    kept = sqlite3.connect(path).execute("SELECT count(*) FROM outcomes").fetchone()[0]
    assert kept >= last + 1


def test_many_writers_lose_nothing(tmp_path):
    """Threads and the agent's reads at the same moment: each outcome is kept once."""
    desk = Desk(tmp_path)
    desk.asked()
    stores = [SqliteOutcomes(tmp_path / "home" / "outcomes.db") for _ in range(4)]

    def write(store: SqliteOutcomes) -> None:
        for n in range(25):
            store.record([Outcome(f"r{n}", "bought", 1)])

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for n in range(25):
        desk.served(f"r{n}", B, f"u{n}")
        desk.measures.read(Asked("toy", "production", B, A, 900.0, AB, {B: ("h:1",)}))
    for thread in threads:
        thread.join()
    assert desk.counted()[B] == {"units": (25, 0), "outcome:bought": (25, 25)}
    for store in stores:
        store.close()
    desk.close()


def test_a_damaged_file_is_said(tmp_path):
    """A file that is no database is a PlatformError, and stays as it was."""
    path = tmp_path / "outcomes.db"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(PlatformError, match="damaged"):
        SqliteOutcomes(path).record([Outcome("r1", "bought", 1)])
    assert path.read_bytes() == b"not a database " * 100


# ---------------------------------------------------------------- Envoy's journal
def line(request: str, release: str = B, unit: Any = "ann") -> str:
    """One line as Envoy writes it."""
    row = {
        "at": "2026-11-22T08:20:00.250Z",
        "id": request,
        "cluster": f"toy|{release}",
        "status": 200,
        "ms": 3,
    }
    return json.dumps(row | {"unit": unit}) + "\n"


class Envoy:
    """A writer of the journal that opens it anew when it is told to, as Envoy does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.hears = folder / "journal.jsonl", True
        self.told: list[str] = []
        self.file = self.path.open("a")
        monkeypatch.setattr("tidegate.adapters.journal.unix_http.post", self.post)

    def post(self, admin: Path, target: str) -> bytes:
        """Answer the admin interface."""
        from tidegate.errors import Unreachable

        self.told.append(target)
        if not self.hears:
            raise Unreachable("no answer", "Try again.")
        self.reopen()
        return b"OK"

    def reopen(self) -> None:
        self.file.close()
        self.file = self.path.open("a")

    def write(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()


@pytest.fixture
def envoy(tmp_path, monkeypatch):
    made = Envoy(tmp_path, monkeypatch)
    yield made
    made.file.close()


class Tail:
    """Reads on and on, as the store does."""

    def __init__(self, envoy: Envoy, large: int = 10**9) -> None:
        self.journal, self.place = EnvoyJournal(envoy.path, Path("/nowhere"), large), Place()

    def ids(self) -> list[str]:
        found: list[str] = []
        for _ in range(3):
            entries, self.place = self.journal.read(self.place)
            found += [entry.id for entry in entries]
            self.journal.tidy(self.place)
        return found


def test_the_journal_is_read_on(envoy):
    """Each line is read once; a line that is not finished yet waits."""
    tail = Tail(envoy)
    envoy.write(line("r1") + line("r2") + line("r3")[:20])
    assert tail.ids() == ["r1", "r2"]
    envoy.write(line("r3")[20:])
    assert tail.ids() == ["r3"]
    assert tail.ids() == []


def test_an_entry_says_whose_it_was_and_when(envoy):
    """Time, model, release and user are taken from the line; no user is an empty one."""
    envoy.write(line("r1") + line("r2", unit=None) + line("r3", unit="-"))
    entries, _ = EnvoyJournal(envoy.path, Path("/nowhere")).read(Place())
    assert entries[0] == Entry("r1", "toy", B, "ann", 1795335600.25)
    assert [entry.unit for entry in entries] == ["ann", "", ""]


@pytest.mark.parametrize(
    "garbage",
    [
        "\n",
        "{}\n",
        "null\n",
        "[1]\n",
        '{"id": 1}\n',
        "\x00\xff\n",
        '{"at": "x", "id": "r", "cluster": "a|b"}\n',
        line("-"),
        line("r9").replace("toy|", "toy"),
        '{"at": 3, "id": "r", "cluster": {}}\n',
        "x" * 3000 + "\n",
    ],
)
def test_garbage_is_passed_by(envoy, garbage):
    """What is no entry is skipped, and the lines after it are read."""
    envoy.write(line("r1") + garbage + line("r2"))
    assert Tail(envoy).ids() == ["r1", "r2"]


def test_a_line_without_an_end_does_not_stop_reading(envoy, monkeypatch):
    """Garbage longer than what is read at once is passed by."""
    monkeypatch.setattr("tidegate.adapters.journal.PART", 1000)
    envoy.write("x" * 2500 + "\n" + line("r1"))
    tail = Tail(envoy)
    assert [*tail.ids(), *tail.ids()] == ["r1"]


def test_a_journal_that_was_emptied_is_read_from_its_start(envoy):
    """After a truncation the file begins anew."""
    tail = Tail(envoy)
    envoy.write(line("r1") + line("r2"))
    assert tail.ids() == ["r1", "r2"]
    os.truncate(envoy.path, 0)
    envoy.reopen()
    envoy.write(line("r3"))
    assert tail.ids() == ["r3"]


def test_a_large_journal_is_begun_anew_without_a_loss(envoy):
    """It is renamed once read, Envoy opens a new one, the old one is dropped: each line is read once."""
    tail, found = Tail(envoy, large=1000), []
    for n in range(100):
        envoy.write(line(f"r{n}"))
        found += tail.ids()
    assert found == [f"r{n}" for n in range(100)]
    assert len(envoy.told) > 5
    assert sum(path.stat().st_size for path in envoy.path.parent.iterdir()) < 2000


def test_an_envoy_that_does_not_hear_goes_on_in_the_old_file(envoy):
    """Until Envoy has opened a new file its lines are read from the renamed one; it is told again."""
    tail = Tail(envoy, large=100)
    envoy.hears = False
    envoy.write(line("r1"))
    assert tail.ids() == ["r1"]
    envoy.write(line("r2"))
    assert tail.ids() == ["r2"]
    assert not envoy.path.exists()
    envoy.write(line("r3"))
    envoy.hears = True
    assert tail.ids() == ["r3"]
    envoy.write(line("r4"))
    assert tail.ids() == ["r4"]
    assert len(envoy.told) > 2


def test_lines_written_before_a_reopening_come_first(envoy):
    """What stands in the renamed file is read before the new one, also by a reader that never began."""
    envoy.write(line("r1"))
    os.rename(envoy.path, f"{envoy.path}.1")
    envoy.reopen()
    envoy.write(line("r2"))
    assert Tail(envoy).ids() == ["r1", "r2"]


def test_no_journal_is_no_data(tmp_path):
    """A file that is not there is NoData, which says what to do."""
    with pytest.raises(NoData, match="Send a request"):
        EnvoyJournal(tmp_path / "journal.jsonl", Path("/nowhere")).read(Place())


def test_the_store_reads_envoys_journal(envoy, tmp_path):
    """From the line that Envoy wrote to the count that a rollout is decided by, cookies cut out."""
    test = replace_test(unit=Key(cookie="uid"))
    asked = Asked("toy", "production", B, A, 1.0, Plan("abTest", ab_test=test), {A: (), B: ()})
    journal = EnvoyJournal(envoy.path, Path("/nowhere"), large=300)
    measures = OutcomeMeasures(tmp_path / "outcomes.db", journal, "production")
    assert measures.read(asked) == {}
    envoy.write(line("r1", unit="a=1; uid=ann") + line("r2", unit="uid=ann; b=2") + line("r3", A, "uid=bob"))
    envoy.write(line("r4", unit="other=cat"))
    store = SqliteOutcomes(tmp_path / "outcomes.db")
    assert accept(store, [{"id": "r2", "name": "bought", "value": 1}]).new == 1
    found = measures.read(asked)
    assert found[B].tallies == {"units@1": (1, 0), "outcome:bought@1": (1, 1)}
    assert found[A].tallies == {"units@1": (1, 0), "outcome:bought@1": (0, 0)}
    assert envoy.told == ["/reopen_logs"]
    measures.close()
    store.close()


def test_users_and_their_outcomes_are_counted_through_a_real_envoy(tmp_path):
    """Each user stays on one arm, and every line is read though the journal is begun anew many times."""
    with plane_up(tmp_path / "plane") as plane, tiny_servers() as servers:
        endpoints = {A: servers.start(A), B: servers.start(B)}
        route = Route({A: 50, B: 50}, endpoints, affinity=Key(header="x-user"), salt=B, journal=True)
        plane.router().apply({"toy": route})
        path = plane.layout.envoy / "journal.jsonl"
        measures = OutcomeMeasures(
            tmp_path / "outcomes.db", EnvoyJournal(path, plane.layout.admin, large=2000), "plane"
        )
        store = SqliteOutcomes(tmp_path / "outcomes.db")
        asked = Asked("toy", "production", B, A, 1.0, AB, endpoints)
        eventually(lambda: path.exists() and measures.read(asked) == {})
        for number in range(60):
            answer = plane.ask("/toy/predict", {"x-user": f"user-{number % 30}"})
            if number < 30:
                accept(store, {"id": answer.headers["x-request-id"], "name": "bought", "value": number % 2})
            if number % 10 == 0:
                measures.read(asked)

        def total(name: str) -> tuple[int, int]:
            rows = [found.tallies[f"{name}@1"] for found in measures.read(asked).values()]
            return sum(n for n, _ in rows), sum(k for _, k in rows)

        eventually(lambda: total("outcome:bought") == (30, 15))
        assert total("units") == (30, 0)
        assert all(found.tallies["units@1"][0] for found in measures.read(asked).values())
        eventually(lambda: measures.read(asked) and path.stat().st_size < 2000)
        measures.close()
        store.close()


# ---------------------------------------------------------------- what people and programs say
@pytest.mark.parametrize(
    "document",
    [
        {"id": "r1", "name": "bought", "value": 1},
        [{"id": "r1", "name": "bought", "value": True}],
        {"outcomes": [{"id": "r1", "name": "bought", "value": 1.0}]},
    ],
)
def test_a_document_of_outcomes_is_kept(document):
    """One outcome, a list, or a list under `outcomes`; the same again is nothing new."""
    store = FakeOutcomes(lambda: 5.0)
    assert accept(store, document).new == 1
    assert accept(store, document).new == 0


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (3, "JSON object"),
        ({"id": "r1", "value": 1}, "`name` is missing"),
        ([{"id": "r1", "name": "b", "value": 1}, {"id": "", "name": "b", "value": 1}], "outcome 2"),
        ({"id": "a b", "name": "b", "value": 1}, "request id"),
        ({"id": "r" * 201, "name": "b", "value": 1}, "request id"),
        ({"id": "r1", "name": "b@1", "value": 1}, "name"),
        ({"id": "r1", "name": "b", "value": "2 or 3"}, "not a number"),
        ({"id": "r1", "name": "b", "value": None}, "not a number"),
        ({"id": "r1", "name": "b", "value": float("nan")}, "not a number"),
        ({"id": "r1", "name": "b", "value": 10**400}, "not a number"),
        ({"id": "r1", "name": "b", "value": 1, "valeu": 1}, "Did you mean `value`"),
        ({"outcomes": [], "id": "r1"}, "nothing else"),
        ([{"id": "r", "name": "b", "value": 1}] * 10_001, "at most 10000"),
        ([[]], "not a JSON object"),
    ],
)
def test_a_wrong_document_is_refused_whole(document, said):
    """Nothing of a document with one wrong outcome is kept, and the error names it and what to do."""
    store = FakeOutcomes(lambda: 5.0)
    with pytest.raises(ConfigError, match=said) as caught:
        accept(store, document)
    assert caught.value.action
    assert "record" not in store.calls


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_document_is_kept_or_refused(document):
    """Whatever JSON is sent, the answer is a number or a ConfigError."""
    with contextlib.suppress(ConfigError):
        assert accept(FakeOutcomes(lambda: 5.0), document).new >= 0


@pytest.mark.parametrize(
    "text",
    [
        "id,name,value\nr1,bought,1\nr2,bought,0\n",
        "\ufeffid, value\n r1, true\nr2,0\n",
        '{"id": "r1", "name": "bought", "value": 1}\n\n{"id": "r2", "value": 0}\n',
    ],
)
def test_a_file_of_outcomes_is_read(text):
    """CSV with a header and JSON lines mean the same; rows without a name have the given one."""
    found = read(text, "o.csv", "bought")
    assert [(o.id, o.name, o.value) for o in found] == [("r1", "bought", 1), ("r2", "bought", 0)]
    assert keep(FakeOutcomes(lambda: 5.0), found).new == 2


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", "o:"),
        ("r1,bought,1\n", "o:1"),
        ("id,name,value\nr1,bought,1\nr2,bought\n", "o:3"),
        ("id,name,value\nr1,bought,1,9\n", "o:2"),
        ("id,name,value\nr1,bought,yes\n", "o:2"),
        ('{"id": "r1", "name": "b", "value": 1}\n{"id": \n', "o:2"),
        ('{"id": "r1", "name": "b", "value": 1}\n[1]\n', "o:2"),
    ],
)
def test_a_wrong_line_is_named(text, at):
    """The error says which line of the file is wrong."""
    with pytest.raises(ConfigError, match=at):
        read(text, "o")


def test_an_outcome_is_stamped_by_the_store():
    """When it was received is the store's word, not the sender's."""
    store = FakeOutcomes(lambda: 5.0)
    with pytest.raises(ConfigError, match="no `at`"):
        accept(store, {"id": "r1", "name": "b", "value": 1, "at": 1})
