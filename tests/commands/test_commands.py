"""What commands say to a word that they don't know, with nothing to look at, and as JSON."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tidegate.cli import GROUPS
from tidegate.errors import ConfigError, NoData, TidegateError
from tidegate.forge.runs import RunStore

TIDEGATE = Path(sys.executable).with_name("tidegate")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that was never built and has no remote; the current folder."""
    for variable in ("TIDEGATE_HOME", "GITHUB_STEP_SUMMARY", "GITHUB_HEAD_REF", "GITHUB_REF_NAME"):
        monkeypatch.delenv(variable, raising=False)
    for environment in ("staging", "canary", "production"):
        folder = tmp_path / "clone" / "envs" / environment
        folder.mkdir(parents=True)
        (folder / "release.yaml").write_text("models: {}\n")
        (folder / "platform.yaml").write_text("")
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


def ask(*arguments: str) -> Result:
    app = typer.Typer()
    for group in GROUPS:
        importlib.import_module(f"tidegate.commands.{group}").register(app)
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> TidegateError:
    error = ask(*arguments).exception
    assert isinstance(error, TidegateError), error
    return error


# ---------------------------------------------------------------- names
@pytest.mark.parametrize(
    "command",
    [("promote", "tiny", "--to"), ("history", "--env"), ("rollback", "--reason", "x", "--")],
    ids=lambda c: c[0],
)
@pytest.mark.parametrize(
    ("word", "action"),
    [("canry", "Did you mean `canary`?"), ("xyz", "Name one of: staging, canary, production.")],
)
def test_an_environment_that_is_none(
    checkout: Path, command: tuple[str, ...], word: str, action: str
) -> None:
    """A misspelt environment is named as such, with the closest one, or with all of them."""
    error = refused(*command, word, *(("tiny",) if command[0] == "rollback" else ()))
    assert isinstance(error, ConfigError)
    assert str(error) == f"`{word}` is not an environment. {action}"


# ---------------------------------------------------------------- nothing to look at
def test_a_report_of_nothing_built(checkout: Path) -> None:
    """Where nothing was built, `pr report` fails and says what to run, and blames no pipeline."""
    error = refused("pr", "report")
    assert isinstance(error, NoData)
    assert str(error) == "nothing was built here, so no gate has reported. Run `dvc repro`."


def test_a_report_of_a_pipeline_that_ended_early(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a job, or with something built, the pipeline ended before its gates, and the summary says so."""
    summary = checkout / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert ask("pr", "report").exit_code == 0
    assert "ended before its gates" in summary.read_text()
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    (checkout / "build" / "tiny" / "model").mkdir(parents=True)
    assert "ended before its gates" in ask("pr", "report").stdout


def test_a_report_as_json(checkout: Path) -> None:
    """`pr report --json` prints one JSON document: the report, where it was written, and what went wrong."""
    (checkout / "build" / "tiny" / "gates").mkdir(parents=True)
    (checkout / "build" / "tiny" / "gates" / "data.json").write_text("{}")
    found = json.loads(ask("pr", "report", "--json").stdout)
    assert "ERROR" in found["report"]
    assert found["pulls"] == []
    assert "was not written to a pull request" in found["problem"]


# ---------------------------------------------------------------- promotions
@pytest.mark.parametrize(("runner", "told"), [("github-hosted", True), ("self-hosted", False), ("", False)])
def test_a_release_of_a_machine_that_goes_is_refused(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, runner: str, told: bool
) -> None:
    """A Bento in a folder of a GitHub-hosted machine can't be started by any plane: nothing is promoted."""
    monkeypatch.setenv("RUNNER_ENVIRONMENT", runner)
    error = refused("promote", "tiny", "--to", "staging")
    assert ("README, On GitHub, step 3" in error.action) == told
    assert ("GitHub-hosted" in error.message) == told


def test_a_log_is_no_json(checkout: Path) -> None:
    """`promote --continue --json` is refused instead of printing a log where JSON was asked for."""
    assert "no JSON" in refused("promote", "--continue", "--json").message


# ---------------------------------------------------------------- a forge
def workflows(checkout: Path, *names: str) -> None:
    folder = checkout / ".github" / "workflows"
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.yml").write_text("on: push\n")


@pytest.mark.parametrize(
    ("there", "asked", "runs"),
    [
        (("ci", "promote", "release", "train", "nightly"), (), ["train", "release", "promote"]),
        (("ci", "promote"), (), ["promote"]),
        (("ci", "train"), ("--workflows", "ci, train"), ["ci", "train"]),
        (("ci", "train"), ("--workflows", "all"), "all"),
    ],
)
def test_a_forge_says_what_it_will_run(
    checkout: Path, tmp_path: Path, there: tuple[str, ...], asked: tuple[str, ...], runs: object
) -> None:
    """A new forge delivers, and runs all tests only if asked; it says so, and whose stores and programs."""
    workflows(checkout, *there)
    found = json.loads(ask("forge", "init", str(tmp_path / "forge.git"), "--json", *asked).stdout)
    assert found["workflows"] == runs
    assert found["home"] == str(checkout / ".tidegate")
    assert found["venv"] == sys.prefix
    settings = RunStore(tmp_path / "forge.git").settings()
    assert (list(settings.workflows) or "all", settings.home, settings.venv) == (
        *(runs, found["home"], found["venv"]),
    )
    shown = ask("forge", "init", str(tmp_path / "forge.git"), *asked).stdout
    assert all(text in shown for text in (found["home"], found["venv"], *runs))


def test_a_forge_runs_no_workflow_that_is_not_there(checkout: Path, tmp_path: Path) -> None:
    """A misspelt workflow is refused with the closest one, and no forge is made."""
    workflows(checkout, "ci", "train")
    error = refused("forge", "init", str(tmp_path / "forge.git"), "--workflows", "trian")
    assert str(error) == "no workflow is called `trian`. Did you mean `train`?"
    assert not (tmp_path / "forge.git").exists()


def test_a_forge_belongs_to_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a checkout there are no stores to use: refused with where to go, and no forge is made."""
    monkeypatch.chdir(tmp_path)
    error = refused("forge", "init", str(tmp_path / "forge.git"))
    assert isinstance(error, ConfigError)
    assert "Go to a clone" in str(error)
    assert not (tmp_path / "forge.git").exists()


# ---------------------------------------------------------------- JSON
def test_linked_stores_as_json(checkout: Path) -> None:
    """`stores link --json` names the store; null where there is no pipeline to link."""
    assert json.loads(ask("stores", "link", "--json").stdout) == {"dvc": None}
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=checkout, check=True)
    (checkout / "dvc.yaml").write_text("stages: {}\n")
    found = json.loads(ask("stores", "link", "--json").stdout)
    assert found == {"dvc": str(checkout / ".tidegate" / "dvc")}
