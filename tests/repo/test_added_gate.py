"""docs/add-a-gate.md does what it says: one file, one section, and a gate is listed, run and explained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.test_house import ROOT
from tidegate import report
from tidegate.config import merge

MODEL = "flight-delay"
PAGE = (ROOT / "docs" / "add-a-gate.md").read_text()


def added_to(checkout: Path) -> str:
    """Do what the page says, in a checkout; return the gate's name."""
    (path, code), (_, section) = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    (checkout / path).write_text(code)
    params = checkout / "params.yaml"
    params.write_text(yaml.safe_dump(merge(yaml.safe_load(params.read_text()), yaml.safe_load(section))))
    return Path(path).stem


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's gates and parameters, the page's gate, and two splits with dates."""
    import pandas as pd

    root = tmp_path_factory.mktemp("added")
    for name in ("envs", "models", "tidegate", "dvc.yaml"):
        (root / name).symlink_to(ROOT / name)
    (root / "gates").mkdir()
    for path in (ROOT / "gates").glob("*.py"):
        (root / "gates" / path.name).symlink_to(path)
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "data" / "flight-delay").mkdir(parents=True)
    for split, first in (("train", date(2013, 1, 1)), ("holdout", date(2013, 5, 1))):
        days = [first + timedelta(days=day) for day in range(120)]
        frame = pd.DataFrame({"date": [str(day) for day in days]})
        frame.to_parquet(root / "data" / "flight-delay" / f"{split}.parquet")
    added_to(root)
    return root


def ask(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tidegate gate …` in the checkout."""
    command = [sys.executable, "-m", "tidegate", "gate", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_the_added_gate_is_one_among_the_others(checkout: Path) -> None:
    """It is listed with its limits, and explained with the line of each."""
    listed: list[dict[str, Any]] = json.loads(ask(checkout, "list", MODEL, "--json").stdout)
    (one,) = [one for one in listed if one["gate"] == "freshness"]
    assert (one["settings"], one["state"]) == ({"column": "date", "days": 31.0}, "not run")
    told = json.loads(ask(checkout, "explain", "freshness", MODEL, "--json").stdout)
    text = (checkout / "params.yaml").read_text().splitlines()
    for threshold in told["thresholds"]:
        line = int(threshold["where"].removeprefix("params.yaml:"))
        assert text[line - 1].strip().startswith(f"{threshold['path']}:")


def test_a_model_that_it_does_not_apply_to_goes_on(checkout: Path) -> None:
    """The stage asks every model; one whose rows have no date is told so, and not held up."""
    stage = ask(checkout, "run", "--added", "sentiment")
    assert (stage.returncode, "no column of dates is named" in stage.stdout) == (0, True)


def test_the_added_gate_says_yes_and_no(checkout: Path) -> None:
    """By its own command and in the pipeline's stage; the limit of the page passes, a stricter one fails."""
    assert ask(checkout, "run", "freshness", MODEL).returncode == 0
    stage = ask(checkout, "run", "--added", "flight-delay")
    assert stage.returncode == 0
    assert stage.stdout.startswith("PASS           freshness of flight-delay (")
    params = checkout / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("days: 31", "days: 0"))
    try:
        stage = ask(checkout, "run", "--added", "flight-delay")
        assert stage.returncode == 1
        shown = next(line for line in PAGE.splitlines() if line.startswith("FAIL"))
        assert stage.stdout.startswith(shown.rpartition(" (")[0])
        path = checkout / "build" / "flight-delay" / "gates" / "added" / "freshness.json"
        assert report.read_report(path).verdict == "FAIL"
        params.write_text(before.replace("days: 31", "day: 31"))
        stage = ask(checkout, "run", "freshness", MODEL)
        assert stage.returncode == 3
        assert "unknown key `day`. Did you mean `days`?" in stage.stdout
    finally:
        params.write_text(before)
