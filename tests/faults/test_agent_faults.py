"""The agent is killed, stopped, doubled, or its clock and its disk go wrong: what runs is what Git says."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.rig import eventually
from tests.faults import disk
from tests.faults.plane import FaultPlane
from tests.faults.stories import NAMES, Local, MovedClock, Properties, Story
from tidegate.adapters.system import SystemClock
from tidegate.errors import LeaseLost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SEED = 20260101
STORIES = pytest.mark.parametrize("story", NAMES)
DAY = 86_400.0


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultPlane, str]]:
    """A plane whose home has a small disk of its own, and why it has none here."""
    root = tmp_path_factory.mktemp("agent")
    with disk.small_disk(root / "home") as no_disk, FaultPlane(root).running() as plane:
        yield plane, no_disk


@pytest.fixture
def plane(refused: tuple[FaultPlane, str]) -> FaultPlane:
    """The plane at rest."""
    refused[0].rest()
    return refused[0]


# ---------------------------------------------------------------- killed
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
    told.outcome(properties)


@STORIES
def test_an_agent_killed_after_a_journal_entry(
    plane: FaultPlane, properties: Properties, story: str, run: int
) -> None:
    """kill -9 right after the agent has stored an intent, each time another one: it is carried out."""
    told = Story(plane, story, "agent kill -9 after a journal entry")
    with Entries(plane, 1 + (3 * run) % 10) as entries:
        told.begin()
        # The last entries of a story may come after its end.
        eventually(lambda: entries.killed or told.done(), "the entry is there")
    told.watch.note = f"entries of the last run: {entries.seen}"
    told.watch.over()
    told.outcome(properties)


class Entries:
    """Sees each change of the agent's memory, and kills it right after one of them."""

    def __init__(self, plane: FaultPlane, fatal: int) -> None:
        self.plane, self.fatal = plane, fatal
        self.seen, self.killed = 0, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Entries:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _look(self) -> None:
        connection = sqlite3.connect(self.plane.home.root / "state.db")

        def stored() -> str:
            found = connection.execute("SELECT value FROM documents WHERE key = 'models'").fetchone()
            return str(found)

        last = stored()
        while not self._over.wait(0.001):
            now = stored()
            self.seen, last = self.seen + (now != last), now
            if self.seen >= self.fatal and self.plane.end_agent():
                self.killed = True
                break
        connection.close()


# ---------------------------------------------------------------- two of them
@STORIES
def test_a_second_agent_is_refused(plane: FaultPlane, properties: Properties, story: str, run: int) -> None:
    """Another agent, of this machine or of another one, is refused while the first does its work."""
    told = Story(plane, story, "a second agent")
    second, elsewhere = plane.agent_command(), Local(plane, SystemClock(), "elsewhere")
    told.begin()
    with elsewhere.running():
        assert second.wait(60) != 0
        said = second.stdout.read() if second.stdout else ""
        assert "an agent runs plane production already" in said, said
        eventually(lambda: not elsewhere.alive(), "the one of another machine is refused")
    assert isinstance(elsewhere.error, LeaseLost)
    told.watch.over()
    told.outcome(properties)


@STORIES
def test_an_agent_that_slept_through_its_lease(
    plane: FaultPlane, properties: Properties, story: str, run: int
) -> None:
    """Another agent takes over from one that hangs; the first one wakes up, and touches nothing."""
    told = Story(plane, story, "a hung agent is replaced")
    hung = plane.agent()
    told.begin()
    time.sleep(random.Random(f"{SEED} {story} {run}").uniform(0.0, 2.0))
    os.kill(hung, signal.SIGSTOP)
    time.sleep(3.2)  # the lease
    second = Local(plane, SystemClock(), "elsewhere")
    with second.running():
        eventually(lambda: second.agent.fence > 0 or not second.alive(), "the second has the lease")
        assert second.error is None
        told.watch.over()
        os.kill(hung, signal.SIGCONT)
        told.end()
        eventually(lambda: plane.agent() != hung, "the first has given up")
        assert second.alive()
    told.watch.outcome(properties)


# ---------------------------------------------------------------- clock
@STORIES
@pytest.mark.parametrize(("word", "by"), [("forward", DAY), ("back", -DAY)])
def test_a_clock_that_is_moved_by_a_day(
    plane: FaultPlane, properties: Properties, story: str, word: str, by: float, run: int
) -> None:
    """Moved by a day in mid-rollout, then set right and restarted: nothing stalls or is given up."""
    clock = MovedClock()
    plane.stop_agent()
    local = Local(plane, clock)
    try:
        with local.running():
            told = Story(plane, story, f"clock a day {word}")
            told.begin()
            time.sleep(random.Random(f"{SEED} {word} {story} {run}").uniform(0.3, 2.0))
            clock.by = by
            told.watch.over()
            told.outcome(properties)
            assert local.alive()
            plane.rest()
    finally:
        plane.start_agent()
    again = Story(plane, story, f"clock set right again after {word}")
    again.begin()
    again.watch.over()
    again.outcome(properties)


# ---------------------------------------------------------------- disk
@STORIES
def test_a_full_disk(
    plane: FaultPlane, refused: tuple[FaultPlane, str], properties: Properties, story: str, run: int
) -> None:
    """Nothing can be written for a while: what runs goes on, and then it is as if nothing had been."""
    if refused[1]:
        pytest.skip(f"no disk of its own can be mounted here: {refused[1]}")
    told = Story(plane, story, "disk full")
    told.begin()
    time.sleep(random.Random(f"{SEED} {story} {run}").uniform(0.0, 1.5))
    with disk.full(plane.home.root):
        time.sleep(2.5)
    told.watch.over()
    told.outcome(properties)


@STORIES
def test_a_read_only_disk(
    plane: FaultPlane, refused: tuple[FaultPlane, str], properties: Properties, story: str, run: int
) -> None:
    """An agent that is started while its home is read-only waits until it can write."""
    if refused[1]:
        pytest.skip(f"no disk of its own can be mounted here: {refused[1]}")
    told = Story(plane, story, "disk read-only")
    told.begin()
    time.sleep(random.Random(f"{SEED} {story} {run}").uniform(0.0, 1.5))
    with disk.read_only(plane.home.root) as why:
        if why:
            pytest.skip(f"nothing can be bound here: {why}")
        plane.end_agent()
        time.sleep(2.5)
    told.watch.over()
    told.outcome(properties)


@STORIES
def test_an_agent_that_may_not_write(plane: FaultPlane, properties: Properties, story: str, run: int) -> None:
    """Every write of the agent fails, as over a quota: what runs goes on, and then it converges."""
    told = Story(plane, story, "no write of the agent's arrives")
    told.begin()
    time.sleep(random.Random(f"{SEED} {story} {run}").uniform(0.0, 1.5))
    with disk.no_writes(plane.agent()):
        time.sleep(2.5)
    told.watch.over()
    told.outcome(properties)
