"""The local forge with real git and act: pushes run workflows, promotions follow one another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import yaml

from tidegate import gating, plumbing, report
from tidegate.adapters.act import stop_tree
from tidegate.adapters.git import GitRepository
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.core.verdict import Finding, Verdict
from tidegate.forge.runs import Run, RunStore, stop
from tidegate.packaging import record_text

ROOT = Path(__file__).parents[2]
TIDEGATE = Path(sys.executable).with_name("tidegate")
ADA = "Ada <ada@example.org>"
CHECKOUT = "actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8"
RECORD = ReleaseRecord(
    model="tiny",
    commit="c" * 40,
    pipeline="sha256:p",
    registry=RegistryRef("tiny", 1),
    artifact="sha256:a",
    bento=BentoRef("tiny:1", "sha256:b"),
    gates={"data": "PASS"},
)
# Stands for the real gate, which needs a service: looks at what it is told and writes a real report.
GATE = """
import sys
from pathlib import Path
from tidegate import report
from tidegate.core.verdict import Finding, Verdict
name, model, url, release = Path(sys.argv[0]).stem, sys.argv[1], sys.argv[3], sys.argv[5]
verdict = Verdict.FAIL if "bad" in url else Verdict.PASS
finding = Finding("endpoint", verdict, url, None, "asked " + url)
found = report.Report(name, model, (finding,), source=report.Source(release=release))
report.write(found, Path("build") / model / "gates")
sys.exit(found.exit_code)
"""


class Forge:
    """A forge, a clone of it, and the commands of a user."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bare = root / "origin.git"
        self.clone = root / "clone"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT", "TIDEGATE_"))}
        self.env = {**kept, "TIDEGATE_HOME": str(root / "home")}
        (root / "template" / "envs").mkdir(parents=True)
        self.tidegate("forge", "init", str(self.bare), "--workflows", "all", cwd=root / "template")
        self.git("clone", "--quiet", str(self.bare), str(self.clone), cwd=root)
        self.git("checkout", "--quiet", "-b", "main")
        for key, value in (("user.name", "Ada"), ("user.email", "ada@example.org")):
            self.git("config", key, value)
        self.store = RunStore(self.bare)

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd or self.clone,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def git(self, *arguments: str, cwd: Path | None = None, **env: str) -> str:
        done = self.run("git", *arguments, cwd=cwd, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip() + done.stderr

    def tidegate(self, *arguments: str, cwd: Path | None = None, code: int = 0) -> str:
        done = self.run(str(TIDEGATE), *arguments, cwd=cwd)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def push(self, files: dict[str, str], message: str = "Change", branch: str = "main", **env: str) -> str:
        for name, text in files.items():
            path = self.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("push", "origin", f"HEAD:refs/heads/{branch}", **env)

    def workflow(self, name: str, command: str, on: str = "push", more: str = "") -> dict[str, str]:
        text = f"name: {name}\non: {on}\n{more}\njobs:\n  job:\n    runs-on: ubuntu-latest\n    steps:\n"
        text += f"      - uses: {CHECKOUT}\n      - run: {json.dumps(command)}\n"
        return {f".github/workflows/{name}.yml": text}

    def until(self, number: int, *states: str, seconds: float = 30) -> Run:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if number in [run.number for run in self.store.list()]:
                run = self.store.get(number)
                if run.state in states:
                    return run
            time.sleep(0.05)
        raise AssertionError(f"run {number} is not {states}: {self.store.list()}")


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    found = Forge(tmp_path)
    yield found
    stop(found.store, (), stop_tree)


def test_push_runs_and_streams(forge: Forge) -> None:
    """A push runs its workflows in order, shows their output to the pusher, and records them."""
    files = {
        **forge.workflow("promote", "echo promoting"),
        **forge.workflow("train", "echo tra''ining; git log -1"),
    }
    said = forge.push(files, "First commit")
    assert "remote: [train/job]   | training" in said
    assert "First commit" in said
    assert said.index("| training") < said.index("| promoting")
    assert [(run.workflow, run.state) for run in forge.store.list()] == [
        ("promote", "passed"),
        ("train", "passed"),
    ]
    assert "training" in forge.tidegate("forge", "log", "1", "--forge", str(forge.bare))
    runs = json.loads(forge.tidegate("forge", "runs", "--json", "--forge", str(forge.bare)))
    assert [run["number"] for run in runs] == [2, 1]
    assert not list((forge.bare / "tidegate" / "work").iterdir())


def test_filters_decide(forge: Forge) -> None:
    """A push that a workflow's paths do not name starts nothing."""
    forge.push(forge.workflow("train", "echo training", "{push: {paths: ['models/**']}}"))
    forge.push({"README.md": "x"})
    assert forge.store.list() == []
    forge.push({"models/a.py": "x"})
    assert [run.state for run in forge.store.list()] == ["passed"]


def test_failure_is_told(forge: Forge) -> None:
    """A step that fails makes a failed run, the pusher reads it, and the push itself stands."""
    said = forge.push(forge.workflow("ci", "exit 3"))
    assert "remote: tidegate: ci (run 1) failed" in said
    assert forge.store.get(1).state == "failed"


def test_skipped_by_act_is_a_failure(forge: Forge) -> None:
    """A job that act would skip and call a success is a failed run."""
    files = forge.workflow("ci", "echo hi")
    name = ".github/workflows/ci.yml"
    said = forge.push({name: files[name].replace("ubuntu-latest", "windows-latest")})
    assert "windows-latest" in said
    assert forge.store.get(1).state == "failed"


def test_self_hosted_runs_here(forge: Forge) -> None:
    """A job for a self-hosted runner, as GitHub needs it, runs on the local forge unchanged."""
    files = forge.workflow("ci", "echo ran here")
    name = ".github/workflows/ci.yml"
    said = forge.push({name: files[name].replace("ubuntu-latest", "self-hosted")})
    assert "| ran here" in said
    assert forge.store.get(1).state == "passed"


def test_output_is_plain(forge: Forge) -> None:
    """Colours and act's word about Docker reach neither the pusher nor the log; the rest does, in order."""
    said = forge.push(forge.workflow("ci", "printf '\\033[1;31mred\\033[0m\\n'; echo time=1 docker"))
    log = forge.store.log(1).read_text()
    for text in (said, log):
        assert "\033" not in text
        assert "valid docker" not in text
        assert text.index("| red") < text.index("| time=1 docker") < text.index("(run 1) passed")


def test_run_sees_little_of_the_host(forge: Forge) -> None:
    """Of the pusher's environment a run sees only what it needs; home and environment are the forge's."""
    said = forge.push(forge.workflow("ci", "env"), SECRET_OF_HOST="xyzzy", TIDEGATE_HOME="/nowhere")
    assert "xyzzy" not in said
    assert f"TIDEGATE_HOME={forge.root / 'home'}" in said
    assert f"TIDEGATE_VENV={sys.prefix}" in said


def test_runs_do_not_start_runs(forge: Forge) -> None:
    """What a run pushes to its own forge arrives and starts nothing."""
    forge.push(forge.workflow("ci", "git push origin HEAD:refs/heads/made"))
    assert plumbing.resolve(forge.bare, "refs/heads/made")
    assert len(forge.store.list()) == 1


def test_agent_commits_start_nothing(forge: Forge) -> None:
    """A commit with the agent's verdict, and a push that is no branch, start nothing."""
    said = forge.push(forge.workflow("ci", "echo hi"), "Roll back\n\nTidegate-Verdict: FAIL")
    assert "starts no workflow" in said
    forge.git("push", "origin", "HEAD:refs/tidegate/status/production")
    assert forge.store.list() == []


def test_pusher_need_not_follow(forge: Forge) -> None:
    """With TIDEGATE_FOLLOW=0 a push returns at once and the run goes on."""
    began = time.monotonic()
    forge.push(forge.workflow("ci", "sleep 4; echo done"), TIDEGATE_FOLLOW="0")
    assert forge.store.get(1).state in ("queued", "running"), "the push waited for the run"
    forge.until(1, "passed")
    assert time.monotonic() - began >= 4


def test_killed_pusher_leaves_the_run(forge: Forge) -> None:
    """A pusher that is killed does not take the run with it."""
    forge.push({"a": "1"}, TIDEGATE_FOLLOW="0")
    for name, text in forge.workflow("ci", "sleep 2; echo survived").items():
        (forge.clone / name).parent.mkdir(parents=True)
        (forge.clone / name).write_text(text)
    forge.git("add", "-A")
    forge.git("commit", "--quiet", "-m", "Add ci")
    pusher = subprocess.Popen(
        ["git", "push", "origin", "HEAD:main"],
        cwd=forge.clone,
        env=forge.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    forge.until(1, "running")
    os.killpg(pusher.pid, signal.SIGKILL)
    pusher.wait()
    assert forge.until(1, "passed").state == "passed"
    assert "survived" in forge.store.log(1).read_text()


def test_concurrency_group_follows(forge: Forge) -> None:
    """Runs of one concurrency group never overlap; each waits for the one before."""
    files = forge.workflow("ci", "sleep 1", more="concurrency: one")
    forge.push(files, TIDEGATE_FOLLOW="0")
    forge.push({"b": "2"}, TIDEGATE_FOLLOW="0")
    first, second = forge.until(1, "passed"), forge.until(2, "passed")
    assert second.started >= first.started + 1


def test_time_limit(forge: Forge) -> None:
    """A run longer than its jobs' limits is ended with all that it started, and says so."""
    files = forge.workflow("ci", "sleep 300 & sleep 301")
    name = ".github/workflows/ci.yml"
    limited = files[name].replace("runs-on:", "timeout-minutes: 0.05\n    runs-on:")
    forge.push({name: limited}, TIDEGATE_FOLLOW="0")
    run = forge.until(1, "timed-out")
    assert "longer than 0.05 minutes" in run.detail
    assert not _processes_of(forge)


def test_stop(forge: Forge) -> None:
    """`forge stop` ends a run and leaves no process of it."""
    forge.push(forge.workflow("ci", "sleep 300"), TIDEGATE_FOLLOW="0")
    forge.until(1, "running")
    stopped = json.loads(forge.tidegate("forge", "stop", "--json", "--forge", str(forge.bare)))
    assert [(run["number"], run["state"]) for run in stopped] == [(1, "stopped")]
    assert "no run to stop" in forge.tidegate("forge", "stop", "--forge", str(forge.bare))
    assert forge.store.get(1).state == "stopped"
    assert not _processes_of(forge)
    assert not list((forge.bare / "tidegate" / "work").iterdir())


def test_lost_run(forge: Forge) -> None:
    """A run whose process is gone without a word is lost, not running for ever."""
    forge.push(forge.workflow("ci", "sleep 300"), TIDEGATE_FOLLOW="0")
    run = forge.until(1, "running")
    family = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, signal.SIGKILL)
    assert forge.until(1, "lost").state == "lost"
    for process in family:
        stop_tree(process.pid)


def _processes_of(forge: Forge) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TIDEGATE_RUN") == str(forge.bare):
                found.append(process)
        except psutil.Error:
            continue
    return found


# ---------------------------------------------------------------- promotions
def agent_says(
    forge: Forge, environment: str, release: str, phase: str, url: str = "http://127.0.0.1:9/"
) -> None:
    """Publish what the agent of a plane would that has taken up main's newest commit."""
    plane = "staging" if environment == "staging" else "production"
    check = {"name": "errors", "verdict": "PASS", "observed": 0.01, "limit": 0.02, "reason": "it holds"}
    entry = {"release": release, "phase": phase, "reason": "", "weight": 100, "findings": [check]}
    document = {"plane": plane, "url": url, "models": {"tiny": {environment: entry}}, "problems": []}
    document["commit"] = plumbing.resolve(forge.bare, "refs/heads/main")
    GitRepository(str(forge.bare), "main", forge.root / f"{plane}.git").publish(f"status/{plane}", document)


@pytest.fixture
def house(forge: Forge) -> Forge:
    """A forge with this repository's envs/, promote workflow and set-up action, and a packaged release."""
    for name in ("envs", ".github/actions"):
        shutil.copytree(ROOT / name, forge.clone / name)
    shutil.rmtree(forge.clone / "envs" / "releases", ignore_errors=True)
    for environment in ("staging", "canary", "production"):
        (forge.clone / "envs" / environment / "release.yaml").write_text("# what runs\nmodels: {}\n")
    promote = (ROOT / ".github" / "workflows" / "promote.yml").read_text()
    files = {".github/workflows/promote.yml": promote, ".gitignore": "build/\n"}
    files |= {f"gates/{name}.py": GATE for name in gating.ON_STAGING}
    forge.push(files, TIDEGATE_FOLLOW="0")
    forge.until(1, "passed")
    package(forge, RECORD)
    return forge


def package(forge: Forge, record: ReleaseRecord) -> None:
    folder = forge.clone / "build" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "release.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(record)))
    finding, source = Finding("Bento", Verdict.PASS, None, None, "as told"), report.Source(release=record.id)
    report.write(report.Report("artifact", "tiny", (finding,), source=source), folder / "gates")


def release_on_main(forge: Forge, environment: str) -> str:
    return plumbing.read(forge.bare, "main", f"envs/{environment}/release.yaml") or ""


def test_from_package_to_production(house: Forge) -> None:
    """Each merge starts the workflow that waits for the agent, runs the stage's gates and opens the next."""
    release = RECORD.id
    said = house.tidegate("promote", "--all", "--to", "staging")
    assert f"pull request 1: Promote tiny {release} to staging" in said
    for number, (environment, phase) in enumerate(
        [("staging", "Healthy"), ("canary", "Verified"), ("production", "Healthy")], 1
    ):
        before = release_on_main(house, environment)
        house.tidegate("pr", "merge", str(number), "--as", ADA, "--reason", "looks good", "--detach")
        agent_says(house, environment, release, phase)
        said = house.tidegate("forge", "log", str(number + 1), "--follow")
        assert f"promote (run {number + 1}) passed" in said
        assert release_on_main(house, environment) != before
        assert release_on_main(house, environment).startswith("# what runs\nmodels:\n")
    pulls = json.loads(house.tidegate("pr", "list", "--all", "--json"))
    assert [(p["branch"].split("/")[1], p["state"]) for p in reversed(pulls)] == [
        *(("staging", "merged"), ("canary", "merged"), ("production", "merged")),
    ]
    assert "contract" in pulls[1]["body"], "the staging gates' report goes with the canary's promotion"
    assert "| errors | 0.01 | 0.02 |" in pulls[0]["body"], "the canary's numbers go with production's"
    for told in ("Rollout in staging", "Rollout in canary", "| **contract** | ✅ PASS |"):
        assert told in pulls[0]["body"], "all that is known goes with production's"
    assert house.tidegate("report", "show", release).startswith("**")
    assert plumbing.read(house.bare, "main", f"envs/releases/tiny/{release}.yaml")
    canary = plumbing.git(house.bare, "diff", "--numstat", f"refs/pull/{2}/head^", f"refs/pull/{2}/head")
    assert canary.split("\t")[2] == "envs/canary/release.yaml"


def test_promote_twice_is_one_pull_request(house: Forge) -> None:
    """Promoting the same release again neither pushes nor opens anything new; merged, it is nothing to do."""
    house.tidegate("promote", "tiny", "--to", "staging")
    head = plumbing.resolve(house.bare, f"refs/heads/promote/staging/tiny/{RECORD.id}")
    house.tidegate("promote", "tiny", "--to", "staging")
    assert plumbing.resolve(house.bare, f"refs/heads/promote/staging/tiny/{RECORD.id}") == head
    assert len(json.loads(house.tidegate("pr", "list", "--json"))) == 1
    house.tidegate("pr", "merge", "1", "--as", ADA, "--reason", "looks good", "--detach")
    assert "nothing to promote" in house.tidegate("promote", "tiny", "--to", "staging")


def test_a_release_that_nobody_has_looked_at_goes_nowhere(house: Forge) -> None:
    """Without the artifact gate's word on this very release no promotion is opened."""
    (house.clone / "build" / "tiny" / "gates" / "artifact.json").unlink()
    said = house.tidegate("promote", "--all", "--to", "staging", code=1)
    assert f"tiny {RECORD.id} does not enter staging" in said
    assert json.loads(house.tidegate("pr", "list", "--all", "--json")) == []


def test_second_release_changes_one_line(house: Forge) -> None:
    """A promotion over an earlier one changes exactly one line of release.yaml."""
    house.tidegate("promote", "tiny", "--to", "staging")
    house.tidegate("pr", "merge", "1", "--as", ADA, "--reason", "looks good", "--detach")
    package(house, replace_record(commit="d" * 40))
    house.tidegate("promote", "tiny", "--to", "staging")
    stat = plumbing.git(house.bare, "diff", "--numstat", "main", "refs/pull/2/head", "--", "envs/staging")
    assert stat == "1\t1\tenvs/staging/release.yaml"


def replace_record(**fields: str) -> ReleaseRecord:
    return msgspec.structs.replace(RECORD, **fields)


OTHER = replace_record(commit="e" * 40)


def test_a_release_without_a_record_goes_nowhere(house: Forge) -> None:
    """A line that names what has no record ends the promotion at once, and says what to correct."""
    house.push({"envs/staging/release.yaml": "models:\n  tiny: bbbbbbbbbbbb\n"}, TIDEGATE_FOLLOW="0")
    stop(house.store, (), stop_tree)
    said = house.tidegate("promote", "--continue", "--since", "HEAD~1", code=1)
    assert "bbbbbbbbbbbb of tiny, which has no record" in said
    assert "Correct the line" in said


@pytest.mark.parametrize(
    ("phase", "url"), [("RolledBack", "http://x/"), ("Healthy", "http://bad/"), ("Healthy", "")]
)
def test_no_way_on(house: Forge, phase: str, url: str) -> None:
    """A rollout that failed, a gate that fails, and an endpoint that is not known open no next promotion."""
    house.tidegate("promote", "tiny", "--to", "staging")
    house.tidegate("pr", "merge", "1", "--as", ADA, "--reason", "looks good", "--detach")
    agent_says(house, "staging", RECORD.id, phase, url)
    said = house.tidegate("forge", "log", "2", "--follow", code=1)
    assert "promote (run 2) failed" in said
    assert len(json.loads(house.tidegate("pr", "list", "--all", "--json"))) == 1


def test_merge_as_json_waits_for_its_runs(house: Forge) -> None:
    """`pr merge --json` prints one document when the workflows have ended, and exits as they did."""
    house.push(house.workflow("promote", "exit 3"), TIDEGATE_FOLLOW="0")
    house.tidegate("promote", "tiny", "--to", "staging")
    merge = ("pr", "merge", "1", "--as", ADA, "--reason", "looks good", "--json")
    done = house.run(str(TIDEGATE), *merge)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["commit"] == plumbing.resolve(house.bare, "refs/heads/main")
    assert [run["state"] for run in found["runs"]] == ["failed"]


def test_refusals(house: Forge) -> None:
    """Out of order, unknown, self-approved and rejected promotions are refused in one line."""
    assert "no record" in house.tidegate("promote", "tiny", "--to", "canary", "--release", RECORD.id, code=1)
    house.tidegate("promote", "tiny", "--to", "staging")
    me = "tidegate <tidegate@localhost>"
    assert "can't approve" in house.tidegate("pr", "merge", "1", "--as", me, "--reason", "mine", code=1)
    house.git("pull", "--quiet", "origin", "main")
    house.push(
        {f"envs/releases/tiny/{RECORD.id}.rejected.yaml": "reason: errors 30% > 2%\n"}, TIDEGATE_FOLLOW="0"
    )
    assert "was rejected" in house.tidegate("pr", "merge", "1", "--as", ADA, "--reason", "again", code=1)
    assert "errors 30% > 2%" in house.tidegate("promote", "tiny", "--to", "staging", code=1)


@pytest.mark.parametrize(
    ("correction", "promoted"), [(None, False), (RECORD.id, False), (OTHER.id, True)], ids=str
)
def test_a_correction_of_main(house: Forge, correction: str | None, promoted: bool) -> None:
    """A push that mends a release.yaml promotes only what differs from the last tree that could be read."""
    path = "envs/staging/release.yaml"
    records = {f"envs/releases/tiny/{r.id}.yaml": record_text(r) for r in (RECORD, OTHER)}
    house.push({path: f"models:\n  tiny: {RECORD.id}\n", **records}, TIDEGATE_FOLLOW="0")
    house.push({path: "models:\n  tiny: <<<<<<<\n"}, "Break it", TIDEGATE_FOLLOW="0")
    stop(house.store, (), stop_tree)
    before = house.git("rev-parse", "HEAD")
    text = f"models:\n  tiny: {correction}\n" if correction else "models: {}\n"
    house.push({path: text}, "Mend it", TIDEGATE_FOLLOW="0")
    stop(house.store, (), stop_tree)
    said = house.tidegate("promote", "--continue", "--since", before, "--timeout", "0", code=int(promoted))
    assert f"{before[:12]}, before this push, can't be read" in said
    assert "the last that can" in said
    assert (f"tiny {correction} in staging" in said) == promoted
    assert ("nothing was promoted by this push" in said) != promoted


def test_main_that_was_never_readable(house: Forge) -> None:
    """Where no tree before a correction can be read, nothing counts as promoted, and that is said."""
    house.git("checkout", "--quiet", "--orphan", "broken")
    path = "envs/staging/release.yaml"
    house.push({path: "models: {tiny: no}\n"}, branch="broken", TIDEGATE_FOLLOW="0")
    before = house.git("rev-parse", "HEAD")
    house.push({path: f"models: {{tiny: {RECORD.id}}}\n"}, branch="broken", TIDEGATE_FOLLOW="0")
    stop(house.store, (), stop_tree)
    said = house.tidegate("promote", "--continue", "--since", before)
    assert "nothing counts as promoted" in said


def test_main_that_is_not_readable(house: Forge) -> None:
    """A push that leaves main unreadable fails the promotion, and names the file and the line."""
    house.push({"envs/staging/release.yaml": "models:\n  tiny: <<<<<<<\n"}, TIDEGATE_FOLLOW="0")
    stop(house.store, (), stop_tree)
    assert "envs/staging/release.yaml:2" in house.tidegate("promote", "--continue", code=1)


def test_an_old_document_is_not_an_answer(house: Forge) -> None:
    """What an agent published before a promotion was merged does not end the wait for it."""
    house.tidegate("promote", "tiny", "--to", "staging")
    agent_says(house, "staging", RECORD.id, "Healthy")
    house.tidegate("pr", "merge", "1", "--as", ADA, "--reason", "looks good", "--detach")
    stop(house.store, (), stop_tree)
    house.git("pull", "--quiet", "origin", "main")
    said = house.tidegate("promote", "--continue", "--timeout", "1", code=1)
    assert "not through staging after 1 s (the agent has not taken it up yet)" in said


def test_waiting_ends_with_the_agents_reason(house: Forge) -> None:
    """A wait that runs out says what the agent said last, and fails."""
    house.tidegate("promote", "tiny", "--to", "staging")
    house.tidegate("pr", "merge", "1", "--as", ADA, "--reason", "looks good", "--detach")
    stop(house.store, (), stop_tree)
    house.git("pull", "--quiet", "origin", "main")
    agent_says(house, "staging", RECORD.id, "Pending")
    said = house.tidegate("promote", "--continue", "--timeout", "1", code=1)
    assert "not through staging after 1 s (Pending" in said
