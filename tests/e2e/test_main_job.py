"""The main job as a user would type it, on a small slice of the flights: real forge, act, planes, Bentos."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.e2e.job import (
    cut_down,
    failed_only_by,
    git_says,
    passengers,
    push,
    release,
    said_by,
    taken_back,
    to_production,
    to_staging,
    wanted,
    weights,
)
from tests.e2e.rig import MODEL, ROOT, eventually
from tidegate.adapters.local_forge import LocalForge
from tidegate.adapters.mlflow import MlflowRegistry
from tidegate.demo import story
from tidegate.demo.screen import Screen
from tidegate.machine import processes
from tidegate.machine.layout import INSTANCE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

TRAIN = "> python -m models.flight_delay.train"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[story.Stage]:
    folder = tmp_path_factory.mktemp("main") / "job"
    made = story.Stage(ROOT, folder, Screen(lambda: ""))
    try:
        yield made
    finally:
        story.end(made)
        assert processes.carrying({INSTANCE: str(made.home)}) == []


def test_from_push_to_production_and_back_by_itself(stage: story.Stage) -> None:
    """A sound release reaches production; a bad one comes back from canary; Git and planes agree."""
    story.prepare(stage)
    cut_down(stage.clone)
    began = time.monotonic()
    said = release(stage, "A small slice of the flights")
    assert said.count(TRAIN) == 1, "release takes what train has made"
    stage.tidegate("up")
    print(f"{time.monotonic() - began:.0f} s: packaged")
    good = to_staging(stage)
    with passengers(stage) as traffic:
        to_production(stage, good)
        print(f"{time.monotonic() - began:.0f} s: {good} in production")
        since = traffic.mark()
        bad, said = taken_back(stage)
        assert TRAIN not in said, "the model did not change"
        assert bad != good
        print(f"{time.monotonic() - began:.0f} s: {bad} rolled back")
        _agree(stage, good, bad)
        _unrelated(stage, bad)
        time.sleep(1)
        assert traffic.alive()
    print(f"{time.monotonic() - began:.0f} s: the end")
    failed_only_by(traffic, bad, since)
    assert traffic.by(good) > 200
    _down(stage)


def _agree(stage: story.Stage, good: str, bad: str) -> None:
    """Git, status, router, registry and history tell the same."""
    assert [wanted(stage, e) for e in ("staging", "canary", "production")] == [bad, good, good]
    rejection = git_says(stage, f"envs/releases/{MODEL}/{bad}.rejected.yaml")
    assert (rejection["release"], rejection["environment"], rejection["verdict"]) == (bad, "canary", "FAIL")
    assert "error rate" in rejection["reason"]
    assert weights(stage, "production") == {good: 100}
    assert weights(stage, "staging") == {bad: 100}
    status = {p["plane"]: p for p in json.loads(stage.tidegate("status", "--json"))["planes"]}
    models = status["production"]["models"][MODEL]
    assert (models["production"]["release"], models["production"]["phase"]) == (good, "Healthy")
    assert (models["canary"]["release"], models["canary"]["phase"]) == (bad, "RolledBack")
    assert status["production"]["problems"] == status["staging"]["problems"] == []
    versions = {
        release: git_says(stage, f"envs/releases/{MODEL}/{release}.yaml")["registry"]["version"]
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
    runs = push(stage, "Be a little more patient")
    said = said_by(stage, runs)
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
