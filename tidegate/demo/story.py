"""The plot of the demo: three releases on their way, one of which must come back by itself."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidegate.adapters.local_forge import LocalForge
from tidegate.adapters.sqlite import read_events, read_planes
from tidegate.demo import changes
from tidegate.demo.screen import Screen
from tidegate.demo.traffic import Traffic
from tidegate.errors import PlatformError, TidegateError
from tidegate.forge.runs import RunStore
from tidegate.ports import Pull

REVIEWER = "Robin Reviewer <robin@example.org>"
_IDENTITY = "-c user.name=Dana -c user.email=dana@example.org "  # the developer's; not shown each time
PATIENCE = 420.0  # seconds for any single thing to happen


@dataclass
class Release:
    """What became of one pushed change; `marks` are epoch seconds in the order in which they happened."""

    what: str
    expected: str
    release: str = ""
    fate: str = "pushed"
    marks: dict[str, float] = field(default_factory=dict)


class Stage:
    """The demo's folder: a forge, a clone with its planes, and its crowd."""

    def __init__(self, source: Path, folder: Path, screen: Screen, model: str = "") -> None:
        self.source, self.folder, self.screen = source, folder, screen
        self.shown = changes.shown(source, model)
        self.model = self.shown.model
        self.forge_path, self.clone = folder / "forge.git", folder / "clone"
        self.answers, self.log = folder / "answers.csv", folder / "demo.log"
        self.home = self.clone / ".tidegate"
        self.traffic: Traffic | None = None
        self.since = 0  # the forge's newest run before the last push
        self.releases: list[Release] = []
        dropped = ("GIT_", "GITHUB_", "TIDEGATE_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        self.environment["PYTHONPATH"] = str(self.clone)
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    # ------------------------------------------------------------ commands
    def run(self, *command: str, show: bool = False, cwd: Path | None = None) -> str:
        """Run a command in the clone; its lines go to demo.log and, one at a time, to the screen."""
        shown = shlex.join(command).replace(f"{sys.executable} -m ", "").replace(_IDENTITY, "")
        if show:
            self.screen.say(f"$ {shown}", "bold cyan")
        output: list[str] = []
        with self.log.open("a") as log:
            log.write(f"$ {shown}\n")
            process = subprocess.Popen(
                command,
                cwd=cwd or self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            try:
                for line in process.stdout or ():
                    log.write(line)
                    output.append(line)
                    if line.strip():
                        self.screen.now(line.strip().removeprefix("remote:").strip()[:150])
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()
        if code:
            tail = "".join(output[-12:]).strip()
            raise PlatformError(f"`{shown}` ended with {code}:\n{tail}\n", f"All of it is in {self.log}.")
        return "".join(output)

    def git(self, *arguments: str, show: bool = False) -> str:
        """Run git in the clone as the developer."""
        return self.run("git", *shlex.split(_IDENTITY), *arguments, show=show)

    def tidegate(self, *arguments: str, show: bool = False) -> str:
        """Run a tidegate command in the clone, by the clone's own code."""
        return self.run(sys.executable, "-m", "tidegate", *arguments, show=show)

    # ------------------------------------------------------------ looking
    def line(self, environment: str) -> dict[str, Any]:
        """Return what the plane's agent says of an environment now; empty when it says nothing yet."""
        for documents in read_planes(self.home / "state.db").values():
            found = documents.get("status", {}).get("models", {}).get(self.model, {}).get(environment)
            if found:
                return dict(found)
        return {}

    def events(self) -> list[dict[str, Any]]:
        """Return the production agent's events."""
        found = read_events(self.home / "state.db", "production", 100_000)
        return [{"at": e.at, "kind": e.kind, "release": e.release, "text": e.text} for e in found]

    def wait(self, what: str, done: Callable[[], Any]) -> Any:
        """Wait until something is there; a workflow that fails meanwhile ends the demo with its log."""
        self.screen.now(what)
        end = time.time() + PATIENCE
        while time.time() < end:
            found = done()
            if found:
                return found
            if self.traffic and not self.traffic.alive():
                raise PlatformError(
                    "nobody asks any more: Locust stopped", f"See {self.folder / 'locust.log'}."
                )
            time.sleep(0.3)
        raise PlatformError(f"{what}: not within {PATIENCE:.0f} s", f"See {self.log} and `tidegate status`.")

    def last_run(self) -> int:
        """Return the number of the forge's newest run; 0 before the first."""
        return max((run.number for run in RunStore(self.forge_path).list()), default=0)

    def pull_request(self, environment: str) -> Pull:
        """Wait for the open promotion to an environment; a run after `since` that fails ends the demo."""

        def look() -> Pull | None:
            for pull in LocalForge(self.forge_path).list():
                if pull.state == "open" and pull.branch.startswith(f"promote/{environment}/{self.model}/"):
                    return pull
            self._check_runs(self.since)
            return None

        found: Pull = self.wait(f"waiting for the pull request to {environment}", look)
        return found

    def _check_runs(self, since: int) -> None:
        store = RunStore(self.forge_path)
        for run in store.list():
            if run.number > since and run.state not in ("queued", "running", "passed"):
                tail = "\n".join(store.log(run.number).read_text(errors="replace").splitlines()[-15:])
                raise PlatformError(
                    f"the workflow {run.workflow} {run.state}:\n{tail}\n",
                    f"See: tidegate forge log {run.number} --forge {self.forge_path}",
                )

    def merge(self, pull: Pull, reason: str) -> None:
        """Merge a promotion as the second person, without waiting for what it starts."""
        self.screen.say(f"pull request #{pull.number}: {pull.title}", "bold")
        number = str(pull.number)
        self.tidegate("pr", "merge", number, "--as", REVIEWER, "--reason", reason, "--detach", show=True)


# ---------------------------------------------------------------- acts
def prepare(stage: Stage) -> None:
    """Make the forge and the clone, and start the planes."""
    stage.folder.mkdir(parents=True)
    stage.screen.say(f"a forge and a clone in {stage.folder}")
    stage.run(
        "git", "clone", "--quiet", "--no-hardlinks", str(stage.source), str(stage.clone), cwd=stage.folder
    )
    stage.git("checkout", "--quiet", "-B", "main")
    shown, opening = stage.shown, stage.shown.show.opening
    if shown.others:  # each would be trained and gated as well: minutes more, and nothing more to see
        stage.screen.say(f"it shows {shown.model}; the clone leaves out {', '.join(shown.others)}")
        changes.keep_only(stage.clone, shown.model)
    changes.start_afresh(stage.clone)
    changes.apply(stage.clone, opening.edits)
    stage.git("add", "--all", "envs")
    stage.git("commit", "--quiet", "--all", "--allow-empty", "--message", opening.what, show=True)
    forge = str(stage.forge_path)
    stage.tidegate("forge", "init", forge, "--workflows", "train,release,promote", show=True)
    stage.git("remote", "set-url", "origin", forge)


def release(stage: Stage, change: changes.Change, expected: str) -> Release:
    """Push a change and follow it as far as it gets."""
    what, edits = change.what, change.edits
    made = Release(what, expected)
    stage.releases.append(made)
    stage.screen.say(f"── {what} ──", "bold magenta")
    if edits:
        stage.git("pull", "--quiet", "--rebase", "origin", "main")
        changes.apply(stage.clone, edits)
        stage.git("commit", "--quiet", "--all", "--message", what, show=True)
    stage.since = stage.last_run()
    made.marks["push"] = time.time()
    stage.git("push", "origin", "HEAD:main", show=True)
    if not edits:
        stage.tidegate("up", show=True)
    pull = stage.pull_request("staging")
    made.release = pull.branch.rsplit("/", 1)[-1]
    stage.screen.say(f"trained, gated and packaged: release {made.release}", "green")
    made.marks["packaged"] = time.time()
    stage.merge(pull, "the gates of the pipeline pass")
    if not stage.traffic:
        rows(stage)
    _until(stage, made, "staging", ("Healthy",))
    stage.screen.say(f"{made.release} runs in staging; its gates ask it", "green")
    pull = stage.pull_request("canary")
    made.marks["staging gates pass"] = time.time()
    stage.merge(pull, "the gates of staging pass")
    if not stage.traffic:
        _until(stage, made, "canary", ("Progressing", "Verified"))
        board(stage)
    phase = _until(stage, made, "canary", ("Verified", "Healthy", "RolledBack"))
    if phase == "RolledBack":
        return _rolled_back(stage, made)
    made.marks["canary verified"] = time.time()
    stage.screen.say(f"the canary is verified: {_reasons(stage.line('canary'))}", "green")
    stage.merge(stage.pull_request("production"), "the canary held its objectives")
    _until(stage, made, "production", ("Healthy",))
    made.marks["in production"] = time.time()
    made.fate = "in production"
    stage.screen.say(f"{made.release} is in production", "bold green")
    return made


def _until(stage: Stage, made: Release, environment: str, phases: Sequence[str]) -> str:
    """Wait until the release is in one of these phases; anything final that is not wanted is an error."""

    def look() -> str:
        line = stage.line(environment)
        if line.get("release") != made.release:
            return ""
        phase = str(line["phase"])
        seen = f", {line['seen']} requests" if line["seen"] else ""
        stage.screen.now(f"{environment} {phase} at {line['weight']}%{seen}  {line['reason']}")
        if phase == "RolledBack" and phase not in phases:
            raise PlatformError(f"{made.release} was rolled back: {line['reason']}", f"See {stage.log}.")
        return phase if phase in phases else ""

    return str(stage.wait(f"{made.release} in {environment}: waiting for {' or '.join(phases)}", look))


def _reasons(line: dict[str, Any]) -> str:
    blocking = [f["reason"] for f in line.get("findings", ()) if f.get("blocking")]
    return "; ".join(blocking) or "no objective was broken"


def _rolled_back(stage: Stage, made: Release) -> Release:
    made.fate = "rolled back"
    line = stage.line("canary")
    stage.screen.say(f"rolled back by itself: {line['reason']}", "bold red")
    stage.git("fetch", "--quiet", "origin")
    stage.screen.say("and Git says so too:", "bold")
    message = stage.git("log", "-1", "--format=%an: %s%n%n%b", "origin/main")
    for text in message.strip().splitlines():
        stage.screen.say(f"    {text}")
    return made


def rows(stage: Stage) -> None:
    """Write what the crowd will ask about: rows that a client would send."""
    stage.run(sys.executable, "-m", stage.shown.program, str(stage.folder / "rows.jsonl"))


def board(stage: Stage) -> None:
    """Let the crowd in, through production's router."""
    from tidegate import planes
    from tidegate.config import Home

    url = planes.url(Home(stage.home), "production")
    asked, output = stage.folder / "rows.jsonl", stage.folder / "locust.log"
    show = stage.shown.show
    stage.traffic = Traffic(url, asked, stage.answers, stage.model, output, show.rate)
    stage.screen.say(f"{show.asked} at {url}/{stage.model}/predict", "bold")


def tell(stage: Stage) -> None:
    """The whole plot."""
    prepare(stage)
    release(stage, changes.Change("The first release", ()), "in production")
    release(stage, stage.shown.show.bad, "rolled back")
    release(stage, stage.shown.show.good, "in production")


def end(stage: Stage) -> None:
    """Leave no process behind; what was written stays to look at."""
    if stage.traffic:
        stage.traffic.stop()
    if not stage.clone.exists():
        return
    for command in (("forge", "stop", "--forge", str(stage.forge_path)), ("down", "--quiet")):
        try:
            stage.tidegate(*command)
        except TidegateError as error:
            stage.screen.say(str(error), "red")


def clear(folder: Path) -> None:
    """Remove what an earlier demo left, its processes first."""
    from tidegate import planes
    from tidegate.config import Home

    home = folder / "clone" / ".tidegate"
    if home.is_dir():
        planes.down(Home(home))
    if folder.exists():
        shutil.rmtree(folder)
