"""`tidegate features`: what is stored, what is shown, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tidegate import config
from tidegate.commands import features
from tidegate.errors import ConfigError, NoData, TidegateError

ONLINE = """
from tidegate.materializing import Snapshot

def values(as_of):
    moment = 1_000_000.0 if as_of is None else as_of
    found = {"shop:1:sales": moment} if moment < 2_000_000 else {}
    return Snapshot(moment, {**found, "shop:2:sales": 0.5} if found else {}, 3600.0)
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one model, `shops-online`, that has online features."""
    for name in config.ENVIRONMENTS:
        folder = tmp_path / "envs" / name
        folder.mkdir(parents=True)
        (folder / "platform.yaml").write_text("{}\n")
        (folder / "release.yaml").write_text("models: {}\n")
    (tmp_path / "params.yaml").write_text(
        "models: {shops: {package: shops_of_a_test, gates: {}}}\ngates: {}\n"
    )
    package = tmp_path / "models" / "shops_of_a_test"
    package.mkdir(parents=True)
    (package / "online.py").write_text(ONLINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    """Return exit code and what was printed; an error of ours is raised."""
    app = typer.Typer()
    features.register(app)
    done = CliRunner().invoke(app, ["features", *arguments])
    if isinstance(done.exception, TidegateError):
        raise done.exception
    return done.exit_code, done.stdout


@pytest.fixture(autouse=True)
def models(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `models` be found in the checkout as well as here."""
    import models

    monkeypatch.setattr(models, "__path__", [*models.__path__, str(checkout / "models")])


def test_a_run_says_what_it_stored_and_get_shows_it(checkout: Path) -> None:
    """Keys by feature, as of when, for how long; each key's value and time left, and 1 for one not there."""
    code, said = run("materialize", "shops", "--json")
    assert code == 0
    assert json.loads(said) == {
        "model": "shops", "as_of": "1970-01-12T13:46:40Z", "keys": 2, "removed": 0, "ttl": 3600.0,
        "features": {"shop:sales": 2},
    }  # fmt: skip
    code, said = run("get", "shops", "shop:2:sales", "--json")
    assert (code, json.loads(said)["shop:2:sales"]["value"]) == (0, 0.5)
    code, said = run("get", "shops", "shop:2:sales", "shop:9:sales")
    assert code == 1
    assert "shop:2:sales  0.5  for 3," in said
    assert "shop:9:sales  –" in said
    assert (checkout / "home" / "features" / "features.db").is_file()


def test_again_as_of_the_same_moment_is_the_same(checkout: Path) -> None:
    """A repeated run changes nothing, as of another moment it replaces the values."""
    for moment in ("1970-01-05", "1970-01-05", "1970-01-06T00:00"):
        run("materialize", "shops", "--as-of", moment)
    _, said = run("get", "shops", "shop:1:sales", "--json")
    assert json.loads(said)["shop:1:sales"]["value"] == 5 * 86400.0


def test_a_moment_of_which_nothing_is_known_leaves_the_store(checkout: Path) -> None:
    """No values as of a moment is an error, and what was stored stays."""
    run("materialize", "shops")
    with pytest.raises(NoData, match="what is stored stays"):
        run("materialize", "shops", "--as-of", "2030-01-01")
    assert run("get", "shops", "shop:2:sales")[0] == 0


def test_another_store_can_be_named(checkout: Path) -> None:
    """`--to` fills another store, and leaves the platform's alone."""
    run("materialize", "shops", "--to", f"sqlite:///{checkout / 'other.db'}")
    assert run("get", "shops", "shop:2:sales")[0] == 1
    assert run("get", "shops", "shop:2:sales", "--to", f"sqlite:///{checkout / 'other.db'}")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["materialize", "shop"], "no model is called `shop`"),
        (["materialize", "shops", "--as-of", "noon"], "`noon` is no ISO time"),
        (["materialize", "shops", "--to", "http://host"], "no feature store"),
        (["materialize", "shops", "--env", "prod"], "prod"),
        (["get", "shop", "a:b:c"], "no model is called `shop`"),
    ],
)
def test_what_can_not_be_meant_is_refused(checkout: Path, arguments: list[str], problem: str) -> None:
    """A model, a moment, a store or an environment that is none is named."""
    with pytest.raises(ConfigError, match=problem):
        run(*arguments)
