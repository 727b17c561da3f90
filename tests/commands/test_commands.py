"""What commands say to a word that they don't know, with nothing to look at, and as JSON."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tidegate.cli import GROUPS
from tidegate.errors import ConfigError, TidegateError

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
