"""The main job's steps on a small slice of the flights, for tests that go all the way with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.rig import MODEL, Traffic
from tidegate import planes
from tidegate.adapters.envoy import EnvoyRouter
from tidegate.config import Home
from tidegate.demo import changes, story
from tidegate.forge.runs import Run, RunStore
from tidegate.machine.layout import Layout

RATE = 60.0  # requests a second
CHECKS = [{"name": "errors", "metric": "error-rate", "limit": "10%", "againstStable": {"tolerance": "50%"}}]
STEPS = {
    "canary": [
        {"setWeight": 10, "pause": {"duration": "1s", "minRequests": 10}},
        {"setWeight": 40, "pause": {"duration": "1s", "minRequests": 20}},
    ],
    "production": [{"setWeight": 100, "pause": {"duration": "1s", "minRequests": 50}}],
}


class Flights(Traffic):
    """Senders of the live months' flights, as the demo's passengers are."""

    def stop(self) -> None:
        self.__exit__()


def cut_down(clone: Path) -> None:
    """Cut the job down to a few thousand flights, few trees and rollouts of seconds."""
    params = yaml.safe_load((clone / "params.yaml").read_text())
    model = params["models"][MODEL]
    model["prepare"]["max_rows"] = 3000
    model["train"]["rounds"] = 30
    model["train"]["lightgbm"] |= {"num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 30}
    model["gates"]["quality"]["limits"] = {"auc": 0.58, "log_loss": 0.65, "calibration_error": 0.15}
    # Slices of 3,000 rows are small, so their intervals are wide.
    model["gates"]["slices"] |= {"min_rows": 150, "min_each": 20, "margins": {"auc": 0.6, "excess_loss": 0.6}}
    model["gates"]["slices"] |= {"production": {"auc": 0.5, "log_loss": 0.5}}
    # Draws of 3,000 rows lie further apart than those of 5,000 that the limits were made for.
    for column in model["gates"]["drift"]["columns"].values():
        column["limit"] = round(column["limit"] * 1.5, 3)
    # A machine that runs other tests beside is no place to hold anybody to a latency.
    model["gates"]["load"] = {"duration": 3, "min_requests": 50, "p50": 2000, "p95": 4000, "p99": 8000}
    model["gates"]["load"] |= {"min_throughput": 5, "error_rate": 0.01}
    model["gates"]["load"]["turns"] = {"margins": {"p50": 5.0, "p95": 10.0, "throughput": 0.9}}
    model["gates"]["resources"] = {"requests": 4000, "warmup": 500, "starts": 2, "start_up": 60, "cpu": 10.0}
    model["gates"]["resources"] |= {"margins": {"cpu": 5.0, "memory": 1.0, "size": 0.5}}
    model["gates"]["cost"] = {"budget_per_thousand": 0.1, "margin": 10.0}
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for name, steps in STEPS.items():
        path = clone / "envs" / name / "rollout.yaml"
        content = yaml.safe_load(path.read_text())
        content["defaults"] |= {"steps": steps, "checks": CHECKS}
        if name == "production":
            content["defaults"]["requiredSoakTime"] = "1s"
        path.write_text(yaml.safe_dump(content))


def push(stage: story.Stage, message: str) -> dict[str, Run]:
    """Commit and push as the developer; return the runs that this started and that are over, by workflow."""
    runs = RunStore(stage.forge_path)
    stage.since = stage.last_run()
    before = {run.number for run in runs.list()}
    stage.git("commit", "--quiet", "--all", "--message", message)
    stage.git("push", "origin", "HEAD:main")
    return {run.workflow: run for run in runs.list() if run.number not in before}


def release(stage: story.Stage, message: str) -> str:
    """Push a change of the release, whose pipeline must pass; return what the pipeline said."""
    runs = push(stage, message)
    said = said_by(stage, runs)
    assert (runs["train"].state, runs["release"].state) == ("passed", "passed"), said
    return said


def said_by(stage: story.Stage, runs: dict[str, Run]) -> str:
    """Return what the runs of train and release printed."""
    store = RunStore(stage.forge_path)
    return "".join(store.log(runs[n].number).read_text(errors="replace") for n in ("train", "release"))


def phase(stage: story.Stage, environment: str, release: str, *phases: str) -> None:
    """Wait until an environment has a release in one of these phases."""

    def look() -> bool:
        line = stage.line(environment)
        assert line.get("release") != release or line["phase"] != "RolledBack" or "RolledBack" in phases, line
        return line.get("release") == release and line["phase"] in phases

    stage.wait(f"{release} in {environment}: {phases}", look)


def to_staging(stage: story.Stage) -> str:
    """Merge the promotion to staging of what was just packaged; returns the release."""
    pull = stage.pull_request("staging")
    stage.merge(pull, "gates pass")
    return pull.branch.rsplit("/", 1)[-1]


def to_canary(stage: story.Stage) -> None:
    """Merge the promotion to the canary, once the gates of staging have passed."""
    stage.merge(stage.pull_request("canary"), "the gates of staging pass")


@contextmanager
def passengers(stage: story.Stage) -> Iterator[Flights]:
    """Have real flights asked about, through production's router."""
    story.rows(stage)
    rows = tuple(json.loads(line) for line in (stage.folder / "rows.jsonl").read_text().splitlines())
    with Flights(planes.url(Home(stage.home), "production"), RATE, rows=rows) as traffic:
        stage.traffic = traffic  # type: ignore[assignment]
        yield traffic


def to_production(stage: story.Stage, good: str) -> None:
    """Take a release from staging through the canary to production."""
    to_canary(stage)
    phase(stage, "canary", good, "Verified", "Healthy")
    stage.merge(stage.pull_request("production"), "the canary held its objectives")
    phase(stage, "production", good, "Healthy")


def taken_back(stage: story.Stage) -> tuple[str, str]:
    """Push the demo's bad change until the canary has rejected it; returns the release, and what was said."""
    stage.git("pull", "--quiet", "--rebase", "origin", "main")
    changes.apply(stage.clone, stage.shown.show.bad.edits)
    said = release(stage, stage.shown.show.bad.what)
    bad = to_staging(stage)
    to_canary(stage)
    phase(stage, "canary", bad, "RolledBack")
    return bad, said


def failed_only_by(traffic: Flights, bad: str, since: int) -> None:
    """Some of the bad release's own answers failed, and no other's."""
    assert traffic.failed(bad, since=since) == {}, "stable failed nobody"
    assert any(not answer.ok and answer.release == bad for answer in traffic.answers[since:])


def git_says(stage: story.Stage, path: str) -> Any:
    """Return a YAML file as the newest main on the remote has it."""
    stage.git("fetch", "--quiet", "origin")
    return yaml.safe_load(stage.git("show", f"origin/main:{path}"))


def wanted(stage: story.Stage, environment: str) -> str:
    """Return the release that the remote names."""
    return str(git_says(stage, f"envs/{environment}/release.yaml")["models"][MODEL])


def weights(stage: story.Stage, plane: str) -> dict[str, int]:
    """Return what a plane's router serves, release → percent."""
    at = Layout(Home(stage.home), plane)
    return {r: w for r, w in EnvoyRouter(at.envoy, at.admin).read()[MODEL].weights.items() if w}
