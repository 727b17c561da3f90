"""The workflow files keep their promises: pinned, no rights by default, no logic, runnable by act."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.core import triggers

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
NAMES = ["ci", "promote", "release", "train"]


def workflow(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    return found


def steps(document: dict[Any, Any]) -> list[dict[str, Any]]:
    jobs = document.get("jobs") or {"action": document.get("runs", {})}
    return [step for job in jobs.values() for step in job.get("steps", [])]


def test_the_four_are_there() -> None:
    """The workflows are the four that the architecture names."""
    assert [path.stem for path in FILES] == NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_rights_by_default(path: Path) -> None:
    """Each workflow starts from no permission, and gives each job its own."""
    document = yaml.safe_load(path.read_text())
    assert document["permissions"] == {}
    assert all(job["permissions"] for job in document["jobs"].values())


@pytest.mark.parametrize("path", FILES + ACTIONS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_actions_are_pinned(path: Path) -> None:
    """Every action is the checkout at a 40-hex commit with its version named, or one of this repository."""
    for line in path.read_text().splitlines():
        used = re.search(r"uses:\s*(\S+)(.*)", line)
        if used and not used[1].startswith("./.github/actions/"):
            assert re.fullmatch(r"actions/checkout@[0-9a-f]{40}", used[1]), line
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", used[2]), line


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_credentials_are_not_kept(path: Path) -> None:
    """No checkout leaves a token in the working tree."""
    checkouts = [s for s in steps(yaml.safe_load(path.read_text())) if "checkout" in s.get("uses", "")]
    assert checkouts
    assert all(s["with"]["persist-credentials"] is False for s in checkouts)


@pytest.mark.parametrize("path", FILES + ACTIONS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_no_logic_in_yaml(path: Path) -> None:
    """A `run:` is one command; nothing in it is expanded from the event."""
    for step in steps(yaml.safe_load(path.read_text())):
        command = step.get("run", "echo")
        assert "\n" not in command.strip()
        assert not re.search(r"[;|&]|\$\{\{|\bif\b|\bfor\b", command), command


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_header_says_what_starts_it(path: Path) -> None:
    """A reader learns from the first line what starts a workflow."""
    assert path.read_text().startswith("# Started by: ")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_act_runs_every_job(path: Path) -> None:
    """No job would be skipped by act, each has a time limit, and the lock's name can be filled in."""
    document = yaml.safe_load(path.read_text())
    assert triggers.unmapped(document, triggers.LABELS) == []
    assert all("timeout-minutes" in job for job in document["jobs"].values())
    triggers.group(document, path.stem, "refs/heads/main", "c0ffee")


@pytest.mark.parametrize(
    ("ref", "changed", "started"),
    [
        ("main", ["models/flight_delay/train.py"], ["ci", "train", "release"]),
        ("topic", ["params.yaml"], ["ci", "train"]),
        ("main", ["pyproject.toml"], ["ci", "train", "release"]),
        ("main", ["envs/canary/release.yaml"], ["ci", "promote"]),
        (
            "main",
            ["envs/staging/release.yaml", "envs/releases/m/aaaaaaaaaaaa.yaml", "dvc.lock"],
            ["ci", "promote"],
        ),
        ("main", ["envs/canary/rollout.yaml"], ["ci"]),
        ("main", ["README.md"], ["ci"]),
        ("promote/canary/m/aaaaaaaaaaaa", ["envs/canary/release.yaml"], []),
        ("promote/staging/m/aaaaaaaaaaaa", ["dvc.lock", "envs/staging/release.yaml"], []),
    ],
)
def test_what_a_push_starts(ref: str, changed: list[str], started: list[str]) -> None:
    """A push starts what its files call for; a promotion's branch nothing, its merge never a release."""
    found = [n for n in NAMES if triggers.triggered(workflow(n), "push", f"refs/heads/{ref}", changed)]
    assert triggers.in_order(found) == started


def test_training_and_release_watch_the_same_paths() -> None:
    """What is trained on a branch is what is released on main."""
    train, release = workflow("train")[True], workflow("release")[True]
    assert train["push"]["paths"] == train["pull_request"]["paths"] == release["push"]["paths"]


@pytest.mark.parametrize("name", ["train", "release"])
def test_what_was_made_is_shared_when_a_gate_fails(name: str) -> None:
    """A failed gate stops neither the sharing of what was trained nor the report, which may comment."""
    found = {step["name"]: step for step in steps(workflow(name)) if "name" in step}
    assert found["Share what was made"]["if"] == found["Report"]["if"] == "${{ !cancelled() }}"
    assert "GITHUB_TOKEN" in found["Report"]["env"]


def test_a_push_and_its_pull_request_train_one_after_the_other() -> None:
    """Both events of one branch have the same concurrency group."""
    groups = {
        triggers.group(workflow("train"), "train", "refs/heads/topic", "c0ffee", event)
        for event in ("push", "pull_request")
    }
    assert groups == {"train-topic"}


LINTERS = pytest.mark.parametrize("command", [["actionlint"], ["zizmor", "--offline", "--quiet", ".github"]])


def lint(command: list[str], root: Path) -> None:
    program = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run([program, *command[1:]], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@LINTERS
def test_linters(command: list[str]) -> None:
    """The workflow linters find nothing."""
    lint(command, ROOT)


@LINTERS
def test_linters_accept_a_runner_of_ones_own(command: list[str], tmp_path: Path) -> None:
    """The change that README asks for, `runs-on: self-hosted`, is no finding of the linters."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    (tmp_path / ".git").mkdir()  # where actionlint looks for the repository's root
    for path in (tmp_path / ".github" / "workflows").glob("*.yml"):
        path.write_text(path.read_text().replace("ubuntu-latest", "self-hosted"))
    lint(command, tmp_path)
