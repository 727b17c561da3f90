"""The local forge's workflow runs: their records, waiting for one another, following and stopping them.

A run is a folder `<bare repository>/tidegate/runs/<n>/` with `run.json`, `log`, and `alive`, a file that
its runner holds locked: a record that says `running` without that lock was lost with its machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tidegate.errors import Refused
from tidegate.files import write_atomic

OPEN_STATES = ("queued", "running")
START_SECONDS = 60.0  # a recorded run without a process after this long is lost


@dataclass(frozen=True)
class Settings:
    """What `forge init` wrote: where runs find the shared stores and programs."""

    home: str
    venv: str
    workflows: tuple[str, ...] = ()  # empty: all that the commit has
    base: str = "main"


@dataclass(frozen=True)
class Run:
    """One run of one workflow. `state`: queued, running, passed, failed, timed-out, stopped or lost."""

    number: int
    workflow: str
    event: str
    ref: str
    before: str
    commit: str
    state: str = "queued"
    queued: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    pull: int = 0
    pid: int = 0
    detail: str = ""


class RunStore:
    """The records of one forge."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository.absolute()
        self.folder = self.repository / "tidegate"

    def settings(self) -> Settings:
        """Return the forge's settings. Raises Refused when there are none."""
        try:
            values = json.loads((self.folder / "forge.json").read_text())
        except FileNotFoundError as error:
            raise Refused(
                f"{self.repository} is not a forge of Tidegate", "Make one with `tidegate forge init DIR`."
            ) from error
        return Settings(**{**values, "workflows": tuple(values["workflows"])})

    def configure(self, settings: Settings) -> None:
        """Write the forge's settings."""
        write_atomic(self.folder / "forge.json", json.dumps(asdict(settings), indent=1))

    def create(self, run: Run) -> Run:
        """Give a run the next free number and record it."""
        base = self.folder / "runs"
        base.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name) for p in base.iterdir() if p.name.isdigit()), default=0)
        while True:
            number += 1
            with contextlib.suppress(FileExistsError):
                (base / str(number)).mkdir()  # atomic: two pushes never share a number
                break
        self.log(number).touch()
        return self.save(replace(run, number=number, queued=time.time()))

    def save(self, run: Run) -> Run:
        """Record a run as it is now."""
        write_atomic(self._path(run.number) / "run.json", json.dumps(asdict(run), indent=1))
        return run

    def get(self, number: int) -> Run:
        """Return one run. Raises Refused when there is none."""
        try:
            run = Run(**json.loads((self._path(number) / "run.json").read_text()))
        except FileNotFoundError as error:
            raise Refused(f"there is no run {number}", "See `tidegate forge runs`.") from error
        if run.state == "queued" and not run.pid and time.time() - run.queued > START_SECONDS:
            return replace(run, state="lost", detail="it was never started; see tidegate/runner.log")
        if run.state in OPEN_STATES and run.pid and not self._held(number):
            # Read again: it may have ended between the two looks.
            run = Run(**json.loads((self._path(number) / "run.json").read_text()))
            if run.state in OPEN_STATES:
                return replace(run, state="lost", detail="its process is gone")
        return run

    def list(self) -> Sequence[Run]:
        """Return all runs, newest first."""
        numbers = [int(p.parent.name) for p in (self.folder / "runs").glob("[0-9]*/run.json")]
        return [self.get(number) for number in sorted(numbers, reverse=True)]

    def log(self, number: int) -> Path:
        """Return where a run's output is."""
        return self._path(number) / "log"

    def _path(self, number: int) -> Path:
        return self.folder / "runs" / str(number)

    @contextlib.contextmanager
    def alive(self, number: int) -> Iterator[None]:
        """Hold the lock that tells others that this run has a process."""
        with (self._path(number) / "alive").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _held(self, number: int) -> bool:
        try:
            with (self._path(number) / "alive").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def group(self, name: str | None, number: int) -> Iterator[None]:
        """Wait for the other runs of a concurrency group; None waits for nothing."""
        if name is None:
            yield
            return
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / hashlib.sha256(name.encode()).hexdigest()[:16]).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def follow(store: RunStore, numbers: Sequence[int], say: Callable[[str], None], poll: float = 0.1) -> bool:
    """Say each line of these runs as it comes, one run after another; True when all passed."""
    passed = True
    for number in numbers:
        with store.log(number).open("r", errors="replace") as file:
            rest = ""  # a line that is not whole yet
            while True:
                # State first, then the rest of the log: nothing written before the end is missed.
                state = store.get(number).state
                *lines, rest = (rest + file.read()).split("\n")
                for line in lines:
                    say(line)
                if state not in OPEN_STATES:
                    break
                time.sleep(poll)
        passed = passed and state == "passed"
    return passed


def stop(store: RunStore, numbers: Sequence[int], stop_tree: Callable[[int], None]) -> list[Run]:
    """Stop open runs (all when none is named) with their processes; returns those that were stopped."""
    runs = [
        run for run in store.list() if run.state in OPEN_STATES and (not numbers or run.number in numbers)
    ]
    stopped = []
    for run in runs:
        if run.pid:
            stop_tree(run.pid)
        shutil.rmtree(store.folder / "work" / str(run.number), ignore_errors=True)
        stopped.append(store.save(replace(store.get(run.number), state="stopped", finished=time.time())))
    return stopped
