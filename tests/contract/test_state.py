"""What every StateStore and Inbox promises, asked of the fakes and of SQLite."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidegate.adapters.sqlite import SqliteInbox, SqliteState, read_events, read_planes
from tidegate.errors import LeaseLost, PlatformError, Refused, Unreachable
from tidegate.ports import Event
from tidegate.testing import FakeInbox, FakeState


def event(text: str, plane: str = "production", at: float = 1.0) -> Event:
    """One event whose text is its name."""
    return Event(at, plane, "flight-delay", "3f9c02a7b51e", "weight", text, {"weight": 5})


@pytest.fixture(params=["fake", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "fake":
        yield FakeState()
    else:
        made = SqliteState(tmp_path / "home" / "state.db")
        yield made
        made.close()


@pytest.fixture(params=["fake", "sqlite"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "fake":
        yield FakeInbox()
    else:
        made = SqliteInbox(tmp_path / "home" / "state.db")
        yield made
        made.close()


# ---------------------------------------------------------------- state: the contract
def test_what_was_saved_is_loaded(store):
    """Documents come back as they were saved, key by key; None deletes one, others stay."""
    fence = store.acquire("production", "a", now=0, ttl=10)
    store.save("production", {"x": {"n": [1, 2.5, None, "ä"]}, "y": 1}, [], fence)
    store.save("production", {"y": None, "z": True}, [], fence)
    assert dict(store.load("production")) == {"x": {"n": [1, 2.5, None, "ä"]}, "z": True}


def test_a_plane_without_documents_is_empty(store):
    """A plane that nobody saved has no documents and no events, and another plane's are not its own."""
    fence = store.acquire("staging", "a", now=0, ttl=10)
    store.save("staging", {"x": 1}, [event("one", "staging")], fence)
    assert dict(store.load("production")) == {}
    assert list(store.events("production")) == []


def test_what_was_loaded_is_a_copy(store):
    """Changing what was loaded changes nothing in the store."""
    fence = store.acquire("production", "a", now=0, ttl=10)
    store.save("production", {"x": {"n": 1}}, [], fence)
    store.load("production")["x"]["n"] = 2
    assert store.load("production")["x"] == {"n": 1}


def test_the_newest_events_are_given_oldest_first(store):
    """`events` returns the newest ones up to the limit, in the order in which they were saved."""
    fence = store.acquire("production", "a", now=0, ttl=10)
    store.save("production", {}, [event("one"), event("two")], fence)
    store.save("production", {}, [event("three")], fence)
    assert [e.text for e in store.events("production")] == ["one", "two", "three"]
    assert list(store.events("production", limit=2)) == [event("two"), event("three")]
    assert list(store.events("production", limit=0)) == []


def test_the_holder_renews_with_the_same_number(store):
    """A holder that renews keeps its fencing number, before and after the lease ended."""
    first = store.acquire("production", "a", now=0, ttl=10)
    assert store.acquire("production", "a", now=5, ttl=10) == first
    assert store.acquire("production", "a", now=500, ttl=10) == first


def test_a_held_plane_is_not_taken(store):
    """While a lease lasts nobody else gets it; the error names the holder and how long."""
    store.acquire("production", "host-1", now=0, ttl=10)
    with pytest.raises(LeaseLost, match=r"host-1 for 6 s"):
        store.acquire("production", "b", now=4, ttl=10)
    assert store.acquire("staging", "b", now=4, ttl=10) == 1


def test_the_first_holder_cannot_write_after_a_takeover(store):
    """After a takeover the number is greater, and a save with the old one is LeaseLost and stores nothing."""
    old = store.acquire("production", "a", now=0, ttl=10)
    store.save("production", {"x": 1}, [], old)
    new = store.acquire("production", "b", now=11, ttl=10)
    assert new > old
    with pytest.raises(LeaseLost):
        store.save("production", {"x": 2}, [event("lost")], old)
    assert dict(store.load("production")) == {"x": 1}
    assert list(store.events("production")) == []
    with pytest.raises(LeaseLost):
        store.acquire("production", "a", now=12, ttl=10)
    assert store.acquire("production", "a", now=30, ttl=10) > new


def test_nobody_writes_without_a_lease(store):
    """A save on a plane that nobody acquired is LeaseLost."""
    with pytest.raises(LeaseLost):
        store.save("production", {"x": 1}, [], 1)


def test_a_save_that_is_not_json_stores_nothing(store):
    """A document or event that is no JSON raises TypeError, and neither part of the save is stored."""
    fence = store.acquire("production", "a", now=0, ttl=10)
    with pytest.raises(TypeError):
        store.save("production", {"x": 1, "y": object()}, [event("one")], fence)
    assert dict(store.load("production")) == {}
    assert list(store.events("production")) == []


# ---------------------------------------------------------------- inbox: the contract
def test_requests_wait_in_order_for_their_plane(inbox):
    """A plane sees its unanswered requests, oldest first, and no other plane's."""
    first = inbox.send("production", "rollback", {"model": "flight-delay"})
    inbox.send("staging", "rollback", {})
    second = inbox.send("production", "pause", {})
    assert [(r.id, r.kind) for r in inbox.pending("production")] == [(first, "rollback"), (second, "pause")]
    assert inbox.pending("production")[0].payload == {"model": "flight-delay"}


def test_an_answered_request_waits_no_more(inbox):
    """An answer is found by the request's id, takes it off the queue, and is not replaced by a second one."""
    request = inbox.send("production", "rollback", {})
    assert inbox.result(request) is None
    inbox.done("production", request, {"ok": True})
    inbox.done("production", request, {"ok": False})
    assert inbox.result(request) == {"ok": True}
    assert list(inbox.pending("production")) == []


def test_an_unknown_request_is_refused(inbox):
    """A request of another plane, or of none, can't be answered."""
    request = inbox.send("production", "rollback", {})
    with pytest.raises(Refused):
        inbox.done("staging", request, {})
    with pytest.raises(Refused):
        inbox.done("production", request + 1, {})
    assert inbox.result(request + 1) is None


# ---------------------------------------------------------------- SQLite's own
def test_another_process_reads_while_the_agent_writes(tmp_path):
    """A reader sees the last complete save while a write is under way, and waits for nobody."""
    path = tmp_path / "state.db"
    assert read_planes(path) == {}
    assert read_events(path, "production") == []
    assert not path.exists()
    store = SqliteState(path)
    fence = store.acquire("production", "a", now=0, ttl=10)
    store.save("production", {"x": 1}, [event("one")], fence)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE documents SET value = '2'")
    assert read_planes(path) == {"production": {"x": 1}}
    assert [e.text for e in read_events(path, "production")] == ["one"]
    writer.execute("ROLLBACK")
    writer.close()


def test_a_file_that_is_just_being_made_holds_nothing_yet(tmp_path):
    """Who looks between the file's first page and its last table is told of nothing, not of a fault."""
    path = tmp_path / "state.db"
    made = sqlite3.connect(path)
    made.execute("PRAGMA journal_mode=WAL")
    assert (read_planes(path), read_events(path, "production")) == ({}, [])
    made.execute("CREATE TABLE documents (plane, key, value)")
    assert (read_planes(path), read_events(path, "production")) == ({}, [])
    made.close()


def test_a_locked_file_is_tried_again(tmp_path, monkeypatch):
    """A file that another process keeps locked is Unreachable, and the save works once it lets go."""
    monkeypatch.setattr("tidegate.adapters.sqlite.BUSY_SECONDS", 0.05)
    store = SqliteState(tmp_path / "state.db")
    fence = store.acquire("production", "a", now=0, ttl=10)
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable, match="locked"):
        store.save("production", {"x": 1}, [], fence)
    other.execute("ROLLBACK")
    other.close()
    store.save("production", {"x": 2}, [], fence)
    assert dict(store.load("production")) == {"x": 2}


def test_a_damaged_file_is_said_and_kept(tmp_path):
    """A file that is no database is a PlatformError for every reader, and is not overwritten."""
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database " * 100)
    for question in (
        lambda: SqliteState(path).load("production"),
        lambda: SqliteState(path).acquire("production", "a", 0, 1),
        lambda: SqliteInbox(path).pending("production"),
        lambda: read_planes(path),
    ):
        with pytest.raises(PlatformError, match="damaged"):
            question()
    assert path.read_bytes() == b"not a database " * 100


def test_a_folder_that_cannot_be_is_a_platform_error(tmp_path):
    """A path below a file is a PlatformError that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match=r"state\.db"):
        SqliteState(tmp_path / "file" / "state.db").load("production")


def test_a_full_database_keeps_the_last_save(tmp_path):
    """When the file can't grow, a save is a PlatformError, nothing of it is stored, reading goes on."""
    store = SqliteState(tmp_path / "state.db")
    fence = store.acquire("production", "a", now=0, ttl=10)
    store.save("production", {"x": 1}, [event("one")], fence)
    connection = store._file.open()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PlatformError, match="Make room"):
        store.save("production", {"x": 2, "big": "b" * 1_000_000}, [event("two")], fence)
    assert dict(store.load("production")) == {"x": 1}
    assert [e.text for e in store.events("production")] == ["one"]
    connection.execute("PRAGMA max_page_count = 100000")
    store.save("production", {"x": 3, "big": "b" * 1_000_000}, [], fence)
    assert store.load("production")["x"] == 3


_FILL = """
    import resource, signal, sys
    from pathlib import Path
    from tidegate.adapters.sqlite import SqliteState
    from tidegate.errors import PlatformError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write over the limit fails as on a full disk
    store = SqliteState(Path(sys.argv[1]))
    fence = store.acquire("production", "a", now=0, ttl=10)
    store.save("production", {"n": 0, "twin": 0}, [], fence)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    for n in range(1, 1000):
        try:
            store.save("production", {"n": n, "twin": n, "pad": str(n) * 20_000}, [], fence)
        except PlatformError as error:
            kept = store.load("production")
            print(n, kept["n"], kept["twin"], "|", error)
            sys.exit(0)
    sys.exit("the disk never filled")
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """When the disk refuses a write (a file-size limit), the save before it is whole, also afterwards."""
    path = tmp_path / "state.db"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_FILL), str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    numbers, _, said = done.stdout.partition("|")
    failed, kept, twin = (int(word) for word in numbers.split())
    assert kept == twin == failed - 1
    assert "Make room" in said
    found = read_planes(path)["production"]
    assert found["n"] == found["twin"] == kept
    again = sqlite3.connect(path)
    assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


_WRITE = """
    import sys
    from pathlib import Path
    from tidegate.adapters.sqlite import SqliteState

    store = SqliteState(Path(sys.argv[1]))
    fence = store.acquire("production", "a", now=0, ttl=10)
    n = 0
    while True:
        n += 1
        store.save("production", {"a": n, "b": n, "pad": "x" * 5000}, [], fence)
        print(n, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_save(tmp_path):
    """After kill -9 amid writes, both documents of a save agree, and nothing that was confirmed is lost."""
    path = tmp_path / "state.db"
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_WRITE), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        confirmed = [writer.stdout.readline() for _ in range(20)][-1]
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        found = read_planes(path)["production"]
        assert found["a"] == found["b"] >= int((rest or [confirmed])[-1])


def test_two_agents_at_once_give_one_holder(tmp_path):
    """Of many who ask for a plane at the same moment, exactly one gets it."""
    SqliteState(tmp_path / "state.db").load("x")
    taken, lost = [], []
    ready = threading.Barrier(8)

    def ask(name: str) -> None:
        store = SqliteState(tmp_path / "state.db")
        ready.wait()
        try:
            taken.append((name, store.acquire("production", name, now=0, ttl=10)))
        except LeaseLost:
            lost.append(name)
        finally:
            store.close()

    threads = [threading.Thread(target=ask, args=(f"agent-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert len(lost) == 7


def test_many_openers_of_a_new_file_all_succeed(tmp_path):
    """Agents and commands that open a file which is not there yet don't fail one another."""
    problems = []
    ready = threading.Barrier(6)

    def look() -> None:
        store = SqliteState(tmp_path / "new" / "state.db")
        ready.wait()
        try:
            store.load("production")
        except Exception as error:
            problems.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_threads_share_a_store(tmp_path):
    """Saves from several threads through one store are all there, each whole."""
    store = SqliteState(tmp_path / "state.db")
    fence = store.acquire("production", "a", now=0, ttl=10)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(store.save, "production", {str(n): n}, [event(str(n))], fence) for n in range(40)]
    assert [job.exception() for job in jobs] == [None] * 40
    assert dict(store.load("production")) == {str(n): n for n in range(40)}
    assert len(store.events("production")) == 40


def test_old_events_are_dropped(tmp_path, monkeypatch):
    """The file does not grow without end: of a plane's events the newest are kept."""
    monkeypatch.setattr("tidegate.adapters.sqlite.KEPT_EVENTS", 3)
    store = SqliteState(tmp_path / "state.db")
    fence = store.acquire("production", "a", now=0, ttl=10)
    for n in range(6):
        store.save("production", {}, [event(str(n))], fence)
    assert [e.text for e in store.events("production")] == ["3", "4", "5"]


def test_state_and_inbox_share_a_file(tmp_path):
    """A command queues a request in the file in which the agent keeps its state."""
    store = SqliteState(tmp_path / "state.db")
    fence = store.acquire("production", "a", now=0, ttl=10)
    request = SqliteInbox(tmp_path / "state.db").send("production", "rollback", {"model": "m"})
    store.save("production", {"x": 1}, [], fence)
    assert [r.id for r in SqliteInbox(tmp_path / "state.db").pending("production")] == [request]
