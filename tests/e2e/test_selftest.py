"""Every gate against every seeded fault, and a gate of one's own in the pipeline, on a whole `dvc repro`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.repo.test_added_gate import added_to
from tidegate import gating, params, plumbing, report
from tidegate.core.verdict import Verdict

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
MODEL = "flight-delay"


def run(clone: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the clone, by the clone's own code and stores."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**plumbing.environment(), "PATH": path, "PYTHONPATH": str(clone)}
    return subprocess.run(
        command,
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as it is now, committed, in which the whole pipeline has run on all flights."""
    folder = tmp_path_factory.mktemp("selftest") / "clone"
    subprocess.run(
        ["git", "clone", "--quiet", str(ROOT), str(folder)], env=plumbing.environment(), check=True
    )
    changed = run(ROOT, "git", "ls-files", "-z", "--modified", "--others", "--exclude-standard").stdout
    for name in filter(None, changed.split("\0")):
        (folder / name).unlink(missing_ok=True)
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shutil.rmtree(folder / "envs" / "releases", ignore_errors=True)  # those of whoever works here
    (folder / "dvc.lock").unlink(missing_ok=True)
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    run(folder, "git", "add", "--all")
    run(folder, "git", *who, "commit", "--quiet", "--allow-empty", "--message", "As it is now")
    done = run(folder, "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_gate_notices_every_fault(clone: Path) -> None:
    """At least 60, made of real flights and the real service: each verdict as expected, none of them PASS.

    What this model can't have is told with its reason, and is little of the whole.
    """
    done = run(clone, sys.executable, "-m", "tidegate", "gate", "selftest", MODEL, "--json")
    everything = json.loads(done.stdout or "[]")
    assert all(
        set(one) == {"gate", "fault", "verdict", "expected", "reason", "applies"} for one in everything
    )
    found = [one for one in everything if one["applies"]]
    left = [one for one in everything if not one["applies"]]
    assert all(one["verdict"] == "NOT_APPLICABLE" and one["reason"] for one in left)
    assert len(left) < len(everything) / 20
    assert [one for one in found if one["verdict"] != one["expected"]] == [], done.stderr
    assert done.returncode == 0, done.stderr
    assert not [one for one in found if one["verdict"] not in ("FAIL", "INCONCLUSIVE", "ERROR")]
    assert len({(one["gate"], one["fault"]) for one in found}) == len(found) >= 60
    assert set(Counter(one["gate"] for one in found)) == set(gating.BUILTIN)


@pytest.mark.parametrize("model", params.load(ROOT).models)
def test_the_pipelines_reports_are_what_the_schema_says(clone: Path, model: str) -> None:
    """Each report that `dvc repro` left of each model validates against `tidegate schema report`."""
    import jsonschema

    shown = run(clone, sys.executable, "-m", "tidegate", "schema", "report").stdout
    checker = jsonschema.Draft202012Validator(json.loads(shown))
    found = sorted((clone / "build" / model / "gates").rglob("*.json"))
    named = {path.stem for path in found if path.with_suffix(".md").is_file()}
    assert {"data", "drift", "quality", "slices", "variants", "artifact", "added"} <= named
    for path in found:
        if path.stem in named:  # beside the reports lie what they link to, as the bill of materials
            checker.validate(json.loads(path.read_text()))


def test_a_gate_of_ones_own_holds_the_pipeline(clone: Path) -> None:
    """docs/add-a-gate.md: the stage runs it, its FAIL stops the pipeline, and its own faults are noticed."""
    name = added_to(clone)
    stage = ("dvc", "repro", f"gate-added@{MODEL}")
    done = run(clone, *stage)
    assert done.returncode == 0, done.stdout + done.stderr
    path = clone / "build" / MODEL / "gates" / "added" / f"{name}.json"
    assert report.read_report(path).verdict is Verdict.PASS
    done = run(clone, sys.executable, "-m", "tidegate", "gate", "selftest", MODEL, "--json", "--gate", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["verdict"] for one in json.loads(done.stdout)] == ["FAIL", "ERROR"]
    settings = clone / "params.yaml"
    settings.write_text(settings.read_text().replace("days: 31", "days: 0"))
    assert run(clone, *stage).returncode != 0
    assert report.read_report(path).verdict is Verdict.FAIL
