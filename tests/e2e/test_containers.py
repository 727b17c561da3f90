"""The main job with releases as containers: real forge, act, podman, Envoy, and a small slice of flights."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.job import (
    cut_down,
    failed_only_by,
    git_says,
    passengers,
    release,
    taken_back,
    to_production,
    to_staging,
    weights,
)
from tests.e2e.rig import MODEL, ROOT
from tests.images import OPTIONS, podman, usable
from tidegate.demo import story
from tidegate.demo.screen import Screen
from tidegate.machine import processes
from tidegate.machine.containers import AT, mark
from tidegate.machine.engine import Engine, Seen
from tidegate.machine.layout import INSTANCE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def _contained(clone: Path, base: str) -> None:
    """Have both planes run containers, one a release, of images on a base that was made here."""
    for name in ("staging", "production"):
        path = clone / "envs" / name / "platform.yaml"
        spec = yaml.safe_load(path.read_text())
        spec["workloads"] = {"adapter": "podman", "replicas": 1, "memory": "1g"}
        spec["images"] = {"base": base, "run": list(OPTIONS), "build": list(OPTIONS)}
        path.write_text(yaml.safe_dump(spec))


def _containers(stage: story.Stage) -> list[Seen]:
    """Return every container of both planes."""
    engine = Engine("podman")
    labels = (f"{AT}={mark(stage.home, plane)}" for plane in ("staging", "production"))
    return [one for label in labels for one in engine.containers(label)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[story.Stage]:
    if why := usable():
        pytest.skip(why)
    made = story.Stage(ROOT, tmp_path_factory.mktemp("contained") / "job", Screen(lambda: ""))
    try:
        yield made
    finally:
        story.end(made)
        left = _containers(made)
        built = _built(made) if made.clone.is_dir() else []
        subprocess.run(["podman", "rmi", "--force", *built], capture_output=True, check=False)
        assert left == []
        assert processes.carrying({INSTANCE: str(made.home)}) == []


def _built(stage: story.Stage) -> list[str]:
    """Return the images of releases that this test's workflows have built."""
    commits = stage.git("log", "--all", "--format=%H").split()
    words = ("images", "--format", "{{.Id}}", "--filter")
    return [
        one for c in commits for one in podman(*words, f"label=org.opencontainers.image.revision={c}").split()
    ]


def _runs(stage: story.Stage, plane: str, wanted: str) -> Seen:
    """Return the one container of a release on a plane."""
    label = f"{AT}={mark(stage.home, plane)}"
    (found,) = (o for o in Engine("podman").containers(label) if o.labels["tidegate.release"] == wanted)
    return found


def test_releases_travel_as_containers(stage: story.Stage) -> None:
    """A sound one is built, gated and served as an image; a bad one comes back by itself; none is left."""
    story.prepare(stage)
    base = json.loads(stage.tidegate("base-image", "--json"))["name"]
    cut_down(stage.clone)
    _contained(stage.clone, base)
    began = time.monotonic()
    said = release(stage, "A small slice of the flights, in containers")
    assert "image     localhost/tidegate/" in said, "the workflow builds what it promotes"
    stage.tidegate("up")
    print(f"{time.monotonic() - began:.0f} s: packaged, and its image built")
    good = to_staging(stage)
    with passengers(stage) as traffic:
        to_production(stage, good)
        print(f"{time.monotonic() - began:.0f} s: {good} in production")
        _recorded(stage, good)
        since = traffic.mark()
        _heals(stage, good)
        bad, _ = taken_back(stage)
        print(f"{time.monotonic() - began:.0f} s: {bad} rolled back")
        assert weights(stage, "production") == {good: 100}
        rejection = git_says(stage, f"envs/releases/{MODEL}/{bad}.rejected.yaml")
        assert (rejection["environment"], rejection["verdict"]) == ("canary", "FAIL")
    failed_only_by(traffic, bad, since)
    _seen(stage, good)
    stage.tidegate("down")
    assert _containers(stage) == []


def _recorded(stage: story.Stage, good: str) -> None:
    """What runs is the image that Git holds the digest of."""
    images: dict[str, Any] = git_says(stage, f"envs/releases/{MODEL}/{good}.images.yaml")["images"]
    for plane in ("staging", "production"):
        name = _runs(stage, plane, good).name
        assert podman("inspect", "--format", "{{.Image}}", name) in images["cpu"]["id"]


def _heals(stage: story.Stage, good: str) -> None:
    """Staging's container is removed by hand, and there again a moment later, on its port."""
    before = _runs(stage, "staging", good)
    podman("rm", "--force", "--time", "0", before.name)

    def back() -> bool:
        found = [one for one in _containers(stage) if one.name == before.name]
        return bool(found and found[0].pid)

    stage.wait("the container is run again", back)
    assert _runs(stage, "staging", good).labels["tidegate.port"] == before.labels["tidegate.port"]


def _seen(stage: story.Stage, good: str) -> None:
    """What the operator's commands say of containers is what runs, and the log of predictions is written."""
    rows = json.loads(stage.tidegate("releases", "--json"))
    (row,) = (row for row in rows if row["plane"] == "production" and row["release"] == good)
    assert (row["up"], row["weight"]) == (1, 100)
    assert row["memory"] > 2**20
    status = {p["plane"]: p for p in json.loads(stage.tidegate("status", "--json"))["planes"]}
    assert status["production"]["problems"] == status["staging"]["problems"] == []
    assert any((stage.home / "predictions").rglob("*.*"))
