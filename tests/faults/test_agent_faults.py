"""The agent is killed, stopped, doubled, or its clock and its disk go wrong: what runs is what Git says."""

from __future__ import annotations

import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.rig import eventually
from tests.faults.ledger import Watch
from tests.faults.plane import FaultPlane

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SEED = 20260101


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultPlane]:
    with FaultPlane(tmp_path_factory.mktemp("agent")).running() as plane:
        yield plane


@pytest.fixture
def plane(started: FaultPlane) -> FaultPlane:
    """The plane at rest."""
    started.rest()
    return started


class Story:
    """A promotion to production, or a dead candidate in canary: how it begins and how it has to end."""

    def __init__(self, plane: FaultPlane, name: str, fault: str) -> None:
        self.plane, self.name = plane, name
        bad = name == "rollback"
        self.new = plane.made.fresh("dead" if bad else "")
        self.watch: Watch = plane.watch(f"{fault}, {name}", self.new, blamed=bad)
        self.watch.planned = {0, 40, 100} if not bad else {0, 40}
        self.done = plane.left(self.new) if bad else plane.promoted(self.new)

    def begin(self) -> None:
        (self.plane.canary if self.name == "rollback" else self.plane.both)(self.new)

    def end(self, properties: list[tuple[str, object]]) -> None:
        """Wait for its end and hold the promises."""
        self.watch.converge(self.done, "what runs is what Git says")
        if self.name == "promotion":
            self.plane.settled(self.new)
        else:
            assert len(self.plane.commits(f"from {self.new.id} to")) == 1, "written to Git once"
        self.watch.outcome(properties)


STORIES = pytest.mark.parametrize("story", ["promotion", "rollback"])
Properties = list[tuple[str, object]]


@pytest.fixture
def properties(request: pytest.FixtureRequest) -> Properties:
    """What the table is made of."""
    found: Properties = request.node.user_properties
    return found


@STORIES
@pytest.mark.parametrize(("word", "number"), [("kill -9", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)])
def test_an_agent_that_ends_at_any_moment(
    plane: FaultPlane, properties: Properties, story: str, word: str, number: int, run: int
) -> None:
    """Killed or told to end at a random moment, the agent goes on where it was and nobody notices."""
    told = Story(plane, story, f"agent {word}")
    told.begin()
    time.sleep(random.Random(f"{SEED} {word} {story} {run}").uniform(0.0, 2.5))
    assert plane.end_agent(number)
    told.watch.over()
    told.end(properties)


@STORIES
def test_an_agent_killed_after_a_journal_entry(
    plane: FaultPlane, properties: Properties, story: str, run: int
) -> None:
    """kill -9 right after the agent has stored an intent, each time another one: it is carried out."""
    told = Story(plane, story, "agent kill -9 after a journal entry")
    entries = Entries(plane)
    with entries.until(1 + run % 12, plane.end_agent):
        told.begin()
        # A story has about a dozen entries; the last of them may come after its end.
        eventually(lambda: entries.killed or told.done(), "the entry is there")
    told.watch.note = "after entry 1 to 12"
    told.watch.over()
    told.end(properties)


class Entries:
    """Sees each transaction that somebody commits to the state's file."""

    def __init__(self, plane: FaultPlane) -> None:
        self.path = plane.home.root / "state.db"
        self.killed = False
        self._over = threading.Event()

    def until(self, number: int, kill: Callable[[], bool]) -> Entries:
        """Kill after the given entry."""
        self._thread = threading.Thread(target=self._look, args=(number, kill), daemon=True)
        return self

    def __enter__(self) -> Entries:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _look(self, number: int, kill: Callable[[], bool]) -> None:
        connection = sqlite3.connect(self.path)

        def stored() -> str:
            found = connection.execute("SELECT value FROM documents WHERE key = 'models'").fetchone()
            return str(found)

        last, seen = stored(), 0
        while not self._over.wait(0.001):
            now = stored()
            seen, last = seen + (now != last), now
            if seen >= number:
                self.killed = kill()
                break
        connection.close()
