"""The main job as a user would type it, on a small slice of the flights: real forge, act, planes, Bentos."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.rig import MODEL, ROOT, Traffic, eventually
from tidegate import planes
from tidegate.adapters.envoy import EnvoyRouter
from tidegate.adapters.local_forge import LocalForge
from tidegate.adapters.mlflow import MlflowRegistry
from tidegate.config import Home
from tidegate.demo import changes, story
from tidegate.demo.screen import Screen
from tidegate.forge.runs import Run, RunStore
from tidegate.machine import processes
from tidegate.machine.layout import INSTANCE, Layout

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

RATE = 60.0  # requests a second
TRAIN = "> python -m models.flight_delay.train"
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


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[story.Stage]:
    folder = tmp_path_factory.mktemp("main") / "job"
    made = story.Stage(ROOT, folder, Screen(lambda: ""))
    try:
        yield made
    finally:
        story.end(made)
        assert processes.carrying({INSTANCE: str(made.home)}) == []


def _slice(clone: Path) -> None:
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


def _push(stage: story.Stage, message: str) -> dict[str, Run]:
    """Commit and push as the developer; return the runs that this started and that are over, by workflow."""
    runs = RunStore(stage.forge_path)
    stage.since = stage.last_run()
    before = {run.number for run in runs.list()}
    stage.git("commit", "--quiet", "--all", "--message", message)
    stage.git("push", "origin", "HEAD:main")
    return {run.workflow: run for run in runs.list() if run.number not in before}


def _release(stage: story.Stage, message: str) -> str:
    """Push a change of the release, whose pipeline must pass; return what the pipeline said."""
    runs = _push(stage, message)
    said = _said(stage, runs)
    assert (runs["train"].state, runs["release"].state) == ("passed", "passed"), said
    return said


def _said(stage: story.Stage, runs: dict[str, Run]) -> str:
    store = RunStore(stage.forge_path)
    return "".join(store.log(runs[n].number).read_text(errors="replace") for n in ("train", "release"))


def _phase(stage: story.Stage, environment: str, release: str, *phases: str) -> None:
    def look() -> bool:
        line = stage.line(environment)
        assert line.get("release") != release or line["phase"] != "RolledBack" or "RolledBack" in phases, line
        return line.get("release") == release and line["phase"] in phases

    stage.wait(f"{release} in {environment}: {phases}", look)


def _to_staging(stage: story.Stage) -> str:
    """Merge the promotion to staging of what was just packaged; returns the release."""
    pull = stage.pull_request("staging")
    stage.merge(pull, "gates pass")
    return pull.branch.rsplit("/", 1)[-1]


def _to_canary(stage: story.Stage) -> None:
    stage.merge(stage.pull_request("canary"), "the gates of staging pass")


def _git_says(stage: story.Stage, path: str) -> Any:
    stage.git("fetch", "--quiet", "origin")
    return yaml.safe_load(stage.git("show", f"origin/main:{path}"))


def _wanted(stage: story.Stage, environment: str) -> str:
    return str(_git_says(stage, f"envs/{environment}/release.yaml")["models"][MODEL])


def _weights(stage: story.Stage, plane: str) -> dict[str, int]:
    at = Layout(Home(stage.home), plane)
    return {r: w for r, w in EnvoyRouter(at.envoy, at.admin).read()[MODEL].weights.items() if w}


def test_from_push_to_production_and_back_by_itself(stage: story.Stage) -> None:
    """A sound release reaches production; a bad one comes back from canary; Git and planes agree."""
    story.prepare(stage)
    _slice(stage.clone)
    began = time.monotonic()
    said = _release(stage, "A small slice of the flights")
    assert said.count(TRAIN) == 1, "release takes what train has made"
    stage.tidegate("up")
    print(f"{time.monotonic() - began:.0f} s: packaged")
    good = _to_staging(stage)
    story.rows(stage)
    rows = tuple(json.loads(line) for line in (stage.folder / "rows.jsonl").read_text().splitlines())
    with Flights(planes.url(Home(stage.home), "production"), RATE, rows=rows) as traffic:
        stage.traffic = traffic  # type: ignore[assignment]
        _to_canary(stage)
        _phase(stage, "canary", good, "Verified", "Healthy")
        stage.merge(stage.pull_request("production"), "the canary held its objectives")
        _phase(stage, "production", good, "Healthy")
        print(f"{time.monotonic() - began:.0f} s: {good} in production")
        since = traffic.mark()

        stage.git("pull", "--quiet", "--rebase", "origin", "main")
        changes.apply(stage.clone, stage.shown.show.bad.edits)
        said = _release(stage, "Count what passengers ask by season")
        assert TRAIN not in said, "the model did not change"
        bad = _to_staging(stage)
        assert bad != good
        _to_canary(stage)
        _phase(stage, "canary", bad, "RolledBack")
        print(f"{time.monotonic() - began:.0f} s: {bad} rolled back")
        _agree(stage, good, bad)
        _unrelated(stage, bad)
        time.sleep(1)
        assert traffic.alive()
    print(f"{time.monotonic() - began:.0f} s: the end")
    assert traffic.failed(bad, since=since) == {}, "stable failed nobody"
    assert any(not answer.ok and answer.release == bad for answer in traffic.answers[since:])
    assert traffic.by(good) > 200
    _down(stage)


def _agree(stage: story.Stage, good: str, bad: str) -> None:
    """Git, status, router, registry and history tell the same."""
    assert [_wanted(stage, e) for e in ("staging", "canary", "production")] == [bad, good, good]
    rejection = _git_says(stage, f"envs/releases/{MODEL}/{bad}.rejected.yaml")
    assert (rejection["release"], rejection["environment"], rejection["verdict"]) == (bad, "canary", "FAIL")
    assert "error rate" in rejection["reason"]
    assert _weights(stage, "production") == {good: 100}
    assert _weights(stage, "staging") == {bad: 100}
    status = {p["plane"]: p for p in json.loads(stage.tidegate("status", "--json"))["planes"]}
    models = status["production"]["models"][MODEL]
    assert (models["production"]["release"], models["production"]["phase"]) == (good, "Healthy")
    assert (models["canary"]["release"], models["canary"]["phase"]) == (bad, "RolledBack")
    assert status["production"]["problems"] == status["staging"]["problems"] == []
    versions = {
        release: _git_says(stage, f"envs/releases/{MODEL}/{release}.yaml")["registry"]["version"]
        for release in (good, bad)
    }
    registry = MlflowRegistry(f"sqlite:///{stage.home / 'mlflow' / 'mlflow.db'}")
    mirrored = {"staging": versions[bad], "canary": versions[good], "production": versions[good]}
    eventually(lambda: registry.aliases(MODEL) == mirrored, "MLflow's aliases mirror Git")
    _history(stage, good, bad)


def _history(stage: story.Stage, good: str, bad: str) -> None:
    found = {}
    for environment in ("canary", "production"):
        said = json.loads(stage.tidegate("history", "--env", environment, "--json"))
        assert said["problems"] == []
        found[environment] = sorted(said["entries"], key=lambda entry: str(entry["from"]))
    assert [(e["release"], e["kind"]) for e in found["production"]] == [(good, "promoted")]
    assert [(e["release"], e["kind"]) for e in found["canary"]] == [
        (good, "promoted"),
        (bad, "promoted"),
        (good, "rolled-back"),
    ]
    assert found["canary"][1]["approved_by"].startswith("Robin Reviewer")
    assert found["canary"][2]["verdict"] == "FAIL"


def _unrelated(stage: story.Stage, bad: str) -> None:
    """A push that changes nothing of the release runs no stage again, and a rejected one stays rejected."""
    stage.git("pull", "--quiet", "--rebase", "origin", "main")
    pulls = LocalForge(stage.forge_path).list()
    path = stage.clone / "params.yaml"
    text = path.read_text()
    assert text.count("p95: 300") == 1
    path.write_text(text.replace("p95: 300", "p95: 301"))  # of a gate that runs in staging
    runs = _push(stage, "Be a little more patient")
    said = _said(stage, runs)
    # The one looks outside of the checkout, the others hold each gate's settings and each Bento to account.
    always = {"models.stores", f"tidegate gate run --added {MODEL}", f"gates.artifact {MODEL}"}
    assert set(re.findall(r"> python -m (.+)", said)) <= always
    assert (runs["train"].state, runs["release"].state) == ("passed", "failed"), said
    assert f"release {bad} of {MODEL} was rejected: error rate" in said
    assert LocalForge(stage.forge_path).list() == pulls


def _down(stage: story.Stage) -> None:
    """Nothing that this home started is left, twice."""
    mark = {INSTANCE: str(stage.home)}
    assert processes.carrying(mark)
    assert re.fullmatch(r"stopped \d+ processes\n", stage.tidegate("down"))
    assert processes.carrying(mark) == []
    assert stage.tidegate("down") == "nothing was running\n"
