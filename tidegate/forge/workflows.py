"""What a push to the local forge does: which workflows it starts, and one run from checkout to verdict."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

from tidegate import plumbing
from tidegate.core import triggers
from tidegate.documents import read_yaml
from tidegate.errors import TidegateError
from tidegate.forge.runs import Run, RunStore, Settings
from tidegate.ports import Pull

WORKFLOWS = ".github/workflows"
RUN = "TIDEGATE_RUN"  # in a run's environment: the forge that it belongs to
DEFAULT_MINUTES = 60.0


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
    problems = triggers.unmapped(workflow, triggers.LABELS)
    if problems:
        return replace(run, state="failed", started=time.time(), detail="; ".join(problems))
    group = triggers.group(workflow, run.workflow, run.ref, run.commit, run.event)
    with store.group(group, run.number):
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


def work(store: RunStore, numbers: Sequence[int], runner: Runner) -> None:
    """Run recorded runs one after another, each held `alive` from now on."""
    with contextlib.ExitStack() as held:
        for number in numbers:
            held.enter_context(store.alive(number))
            store.save(replace(store.get(number), pid=os.getpid()))
        for number in numbers:
            execute(store, number, runner)
