"""The local forge's workflow runs: received with a push, recorded, run one after another, followed.

A run is a folder `<bare repository>/tidegate/runs/<n>/` with `run.json`, `log`, and `alive`, a file that
its runner holds locked: a record that says `running` without that lock was lost with its machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from tidegate import plumbing
from tidegate.core import triggers
from tidegate.documents import read_yaml
from tidegate.errors import Refused, TidegateError
from tidegate.files import write_atomic
from tidegate.ports import Pull

WORKFLOWS = ".github/workflows"
RUN = "TIDEGATE_RUN"  # in a run's environment: the forge that it belongs to
OPEN_STATES = ("queued", "running")
DEFAULT_MINUTES = 60.0
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


class Runner(Protocol):
    """Runs one workflow of a checkout and returns its exit status; 124 stands for out of time."""

    def __call__(
        self,
        checkout: Path,
        workflow: Path,
        event: tuple[str, Mapping[str, Any]],
        log: IO[bytes],
        *,
        scratch: Path,
        extra: Mapping[str, str],
        limit: float,
    ) -> int: ...


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


def receive(
    store: RunStore, pushed: Iterable[str], pulls: Sequence[Pull], say: Callable[[str], None]
) -> list[int]:
    """Record the runs that a push starts and return their numbers in the order to run them.

    `pushed` are the lines of a post-receive hook: `old new ref`. A workflow runs once a push: as `push`
    if its filters say so, else as `pull_request` if the branch has an open one.
    """
    settings = store.settings()
    numbers = []
    for line in pushed:
        before, commit, ref = line.split()
        if commit == plumbing.ZERO:
            continue
        if triggers.skipped(plumbing.git(store.repository, "log", "-1", "--format=%B", commit)):
            say(f"tidegate: {ref.removeprefix('refs/heads/')} says that it starts no workflow")
            continue
        changed = changed_paths(store.repository, before, commit, settings.base)
        pull = next((p for p in pulls if p.state == "open" and ref == f"refs/heads/{p.branch}"), None)
        for name, workflow in _workflows(store, settings, commit, say):
            event = _event(workflow, ref, changed, pull, settings.base)
            if event:
                number = pull.number if pull else 0
                run = store.create(Run(0, name, event, ref, before, commit, pull=number))
                numbers.append(run.number)
    return numbers


def _event(
    workflow: Mapping[Any, Any], ref: str, changed: Sequence[str], pull: Pull | None, base: str
) -> str | None:
    if triggers.triggered(workflow, "push", ref, changed):
        return "push"
    if pull and triggers.triggered(workflow, "pull_request", f"refs/heads/{base}", changed):
        return "pull_request"
    return None


def _workflows(
    store: RunStore, settings: Settings, commit: str, say: Callable[[str], None]
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the workflows of a commit that the forge runs, in order; one that can't be read is named."""
    paths = plumbing.git(store.repository, "ls-tree", "--name-only", commit, f"{WORKFLOWS}/").split("\n")
    files = {Path(p).stem: p for p in paths if p.endswith((".yml", ".yaml"))}
    for name in triggers.in_order(files):
        if settings.workflows and name not in settings.workflows:
            continue
        try:
            workflow, _ = read_yaml(plumbing.read(store.repository, commit, files[name]) or "", files[name])
            if isinstance(workflow, Mapping):
                triggers.triggered(workflow, "push", "refs/heads/main", ())
                yield name, workflow
        except (TidegateError, triggers.BadWorkflow) as error:
            say(f"tidegate: {name} does not run: {error}")


def changed_paths(repository: Path, before: str, commit: str, base: str) -> list[str]:
    """Return the paths that a push changed; for a new branch, against where it left `base`."""
    start = before
    if before == plumbing.ZERO or plumbing.resolve(repository, before) is None:
        main = plumbing.resolve(repository, f"refs/heads/{base}")
        start = f"{main}..." if main and main != commit else ""
    if not start:
        listed = plumbing.git(repository, "ls-tree", "-r", "--name-only", "-z", commit)
    elif start.endswith("..."):
        listed = plumbing.git(repository, "diff", "--name-only", "-z", f"{start}{commit}")
    else:
        listed = plumbing.git(repository, "diff", "--name-only", "-z", start, commit)
    return [path for path in listed.split("\0") if path]


def execute(store: RunStore, number: int, runner: Runner) -> Run:
    """Run one recorded run to its end and record how it ended."""
    run = store.save(replace(store.get(number), pid=os.getpid()))
    if run.state != "queued":
        return run
    work = store.folder / "work" / str(number)
    with store.log(number).open("ab", buffering=0) as log:
        try:
            run = _execute(store, run, work, runner, log)
        except (TidegateError, triggers.BadWorkflow) as error:
            run = replace(run, state="failed", detail=str(error))
        except OSError as error:
            run = replace(run, state="failed", detail=f"this machine said: {error}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        run = replace(run, finished=time.time())
        tail = f": {run.detail}" if run.detail else ""
        took = run.finished - (run.started or run.finished)
        log.write(f"tidegate: {run.workflow} (run {number}) {run.state} in {took:.1f} s{tail}\n".encode())
    return store.save(run)


def _execute(store: RunStore, run: Run, work: Path, runner: Runner, log: IO[bytes]) -> Run:
    settings = store.settings()
    checkout = _checkout(store.repository, run, work)
    path = next(p for p in (checkout / WORKFLOWS).iterdir() if p.stem == run.workflow)
    workflow, _ = read_yaml(path.read_text(), path.name)
    problems = triggers.unmapped(workflow, ("ubuntu-latest", "ubuntu-24.04", "ubuntu-22.04"))
    if problems:
        return replace(run, state="failed", started=time.time(), detail="; ".join(problems))
    with store.group(triggers.group(workflow, run.workflow, run.ref, run.commit), run.number):
        run = store.save(replace(run, state="running", started=time.time()))
        limit = triggers.minutes(workflow, DEFAULT_MINUTES) * 60
        extra = {
            "TIDEGATE_HOME": settings.home,
            "TIDEGATE_VENV": settings.venv,
            "TIDEGATE_INSTANCE": settings.home,
            RUN: str(store.repository),
            "TIDEGATE_RUN_ID": f"{store.repository}#{run.number}",
            "GITHUB_REPOSITORY": f"local/{store.repository.stem}",
        }
        event = (run.event, payload(run, store.repository, settings.base))
        status = runner(checkout, path, event, log, scratch=work / "act", extra=extra, limit=limit)
    state = {0: "passed", 124: "timed-out"}.get(status, "failed")
    detail = f"longer than {limit / 60:g} minutes" if state == "timed-out" else ""
    return replace(run, state=state, detail=detail)


def _checkout(repository: Path, run: Run, work: Path) -> Path:
    """Clone the pushed commit (not a worktree: its .git file would point into the forge)."""
    checkout = work / "checkout"
    work.mkdir(parents=True, exist_ok=True)
    plumbing.git(work, "clone", "--quiet", "--shared", "--no-checkout", str(repository), str(checkout))
    branch = run.ref.removeprefix("refs/heads/")
    plumbing.git(checkout, "checkout", "--quiet", "-B", branch, run.commit)
    return checkout


def payload(run: Run, repository: Path, base: str) -> dict[str, Any]:
    """Return the event's JSON as GitHub sends it, as far as workflows read it."""
    name = repository.stem
    about = {"full_name": f"local/{name}", "name": name, "owner": {"login": "local"}, "default_branch": base}
    if run.event == "pull_request":
        head = {"ref": run.ref.removeprefix("refs/heads/"), "sha": run.commit, "repo": about}
        pull = {"number": run.pull, "head": head, "base": {"ref": base, "repo": about}}
        return {"action": "synchronize", "number": run.pull, "pull_request": pull, "repository": about}
    return {
        "ref": run.ref,
        "before": run.before,
        "after": run.commit,
        "created": run.before == plumbing.ZERO,
        "deleted": False,
        "head_commit": {"id": run.commit},
        "repository": about,
    }


def start(store: RunStore, numbers: Sequence[int], tidegate: Path) -> None:
    """Start the process that runs these, in a session of its own: the pusher may go away."""
    environment = plumbing.environment({"TIDEGATE_INSTANCE": store.settings().home})
    with (store.folder / "runner.log").open("ab") as log:
        subprocess.Popen(
            [str(tidegate), "forge", "work", str(store.repository), *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=store.repository,
            env=environment,
            start_new_session=True,
        )


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


def work(store: RunStore, numbers: Sequence[int], runner: Runner) -> None:
    """Run recorded runs one after another, each held `alive` from now on."""
    with contextlib.ExitStack() as held:
        for number in numbers:
            held.enter_context(store.alive(number))
            store.save(replace(store.get(number), pid=os.getpid()))
        for number in numbers:
            execute(store, number, runner)


def stop(store: RunStore, numbers: Sequence[int], stop_tree: Callable[[int], None]) -> list[Run]:
    """Stop open runs (all when none is named) with their processes; returns those that were stopped."""
    runs = [
        run for run in store.list() if run.state in OPEN_STATES and (not numbers or run.number in numbers)
    ]
    stopped = []
    for run in runs:
        if run.pid:
            stop_tree(run.pid)
        stopped.append(store.save(replace(store.get(run.number), state="stopped", finished=time.time())))
    return stopped
