"""What commands say to a word that they don't know, with nothing to look at, and as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tidegate.cli import GROUPS
from tidegate.errors import ConfigError, NoData, TidegateError

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
@pytest.mark.parametrize("command", [("promote", "tiny", "--to"), ("history", "--env")], ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("word", "action"),
    [("canry", "Did you mean `canary`?"), ("xyz", "Name one of: staging, canary, production.")],
)
def test_an_environment_that_is_none(
    checkout: Path, command: tuple[str, ...], word: str, action: str
) -> None:
    """A misspelt environment is named as such, with the closest one, or with all of them."""
    error = refused(*command, word)
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
