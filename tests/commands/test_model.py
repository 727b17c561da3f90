"""`tidegate model add` and `remove`: all of a model's files or none, and nobody else's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.repo.test_house import ROOT
from tidegate import adding, gating, params, settings
from tidegate.commands.model import model as program
from tidegate.errors import ConfigError, Refused, TidegateError

KINDS = ("classification", "regression")
NAMES = ("disease-progress", "zoo", "a-name-of-a-model-as-long-as-it-can-be-1")
TOY = """\
models:
  # the only one
  toy:
    package: toy
    task: regression
    label: y
    prediction: guess   # its field

gates: {}
"""


def git(root: Path, *arguments: str) -> None:
    """Run git in a checkout as somebody."""
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed checkout with one model, `toy`, in which commands are run."""
    root = tmp_path / "checkout"
    for path, text in {
        "params.yaml": TOY,
        "dvc.yaml": "stages: {}\n",
        "models/__init__.py": "",
        "models/layout.py": "",
        "models/toy/prepare.py": "",
        "tidegate/__init__.py": "",  # the linter sorts imports by what is in the checkout
        "services/toy/service.py": "",
        "envs/staging/release.yaml": "models: {}\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    git(root, "init", "--quiet", ".")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "toy")
    monkeypatch.chdir(root)
    return root


def tree(root: Path) -> dict[str, str]:
    """Return every file's text by its path."""
    files = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


def run(*arguments: str) -> str:
    """Run `tidegate model …`; raise what it raises."""
    done = CliRunner().invoke(program, arguments)
    if done.exception:
        raise done.exception
    return done.stdout


# ---------------------------------------------------------------- what is written
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_rendered_is_clean(checkout: Path, name: str, kind: str) -> None:
    """A new model's files, whatever it is called, pass the linter and are formatted."""
    shutil.copy(ROOT / "pyproject.toml", checkout)
    run("add", name, "--kind", kind)
    package = name.replace("-", "_")
    made = [f"models/{package}", f"services/{package}"]
    ours = 'lint.isort.known-first-party = ["models", "services", "tidegate"]'
    for command in (["check", "--config", ours], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *made],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for path in checkout.rglob(f"*/{package}/*.py"):
        compile(path.read_text(), str(path), "exec")


@pytest.mark.parametrize("kind", KINDS)
def test_params_say_what_every_gate_needs(checkout: Path, kind: str) -> None:
    """Beside this repository's own models, the new section is what each gate and the declaration accept."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, checkout)
    before = (checkout / "params.yaml").read_text()
    run("add", "disease-progress", "--kind", kind)
    read = params.load(checkout)
    declared = read.declared("disease-progress")
    assert declared.task == kind
    assert all(line in (checkout / "params.yaml").read_text() for line in before.splitlines())
    for name in gating.names(ROOT):
        read.settings(name, "disease-progress", gating.load(ROOT, name).settings)
    said = settings.load(checkout, "disease-progress")
    assert said.threads == 1


def test_comments_and_layout_of_params_stay(checkout: Path) -> None:
    """The new section is put into the text; every other byte is where it was."""
    line = json.loads(run("add", "zoo", "--kind", "regression", "--json"))["params"]
    text = (checkout / "params.yaml").read_text()
    assert text.splitlines()[line - 1] == "  zoo:"
    cut = text.index("  zoo:\n")
    assert text[:cut] + text[text.index("\ngates: {}") :] == TOY


def test_a_dry_run_writes_nothing(checkout: Path) -> None:
    """--dry-run names the files and leaves the checkout as it was."""
    before = tree(checkout)
    said = run("add", "zoo", "--kind", "regression", "--dry-run")
    assert "models/zoo/train.py" in said
    assert "nothing is written" in said
    assert tree(checkout) == before


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("Disease", "Call it `disease`"),
        ("disease_progress", "Call it `disease-progress`"),
        ("2nd", "disease-progress"),
        ("", "disease-progress"),
        ("../../etc", "Call it `etc`"),
        ("a--b", "Call it `a-b`"),
        ("class", "Call it `class-model`"),
        ("none", "Call it `none-model`"),
        ("true", "Call it `true-model`"),
        ("on", "Call it `on-model`"),
        ("no", "Call it `no-model`"),
        ("null", "Call it `null-model`"),
        ("layout", "Call it `layout-model`"),
        ("toy", "tidegate model remove toy"),
        ("x" * 41, "shorter"),
    ],
)
def test_a_bad_name_is_refused_with_what_to_do(checkout: Path, name: str, action: str) -> None:
    """A name that can't be a model's, or is taken, writes nothing and says the next action."""
    before = tree(checkout)
    with pytest.raises(Refused) as refused:
        run("add", "--kind", "regression", "--", name)
    assert action in refused.value.action
    assert tree(checkout) == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none", "`None` is a word of Python's, and no class's name"),
        ("off", "`off` is read as False in YAML, and no text"),
        ("null", "`null` is read as None in YAML, and no text"),
    ],
)
def test_a_name_that_its_files_can_not_hold_says_why(checkout: Path, name: str, says: str) -> None:
    """The cause is the word that the name would be in Python or YAML, not what fails of it later."""
    with pytest.raises(Refused, match=says):
        adding.plan(checkout, name, "regression")


def test_a_package_that_another_model_declares_is_refused(checkout: Path) -> None:
    """A new model gets folders of its own: the name says whose the folders are."""
    (checkout / "params.yaml").write_text(TOY.replace("package: toy", "package: a_zoo"))
    with pytest.raises(Refused, match="models/a_zoo is `toy`'s"):
        adding.plan(checkout, "a-zoo", "regression")


def test_files_in_the_way_are_refused(checkout: Path) -> None:
    """A folder of that name, committed or not, is nobody's to write into."""
    (checkout / "services" / "zoo").mkdir()
    (checkout / "services" / "zoo" / "notes.txt").write_text("mine")
    before = tree(checkout)
    with pytest.raises(Refused, match="services/zoo is there already"):
        run("add", "zoo", "--kind", "regression")
    assert tree(checkout) == before


def test_an_unknown_kind_is_refused_with_the_known_ones(checkout: Path) -> None:
    """Nothing is guessed: the kinds are named."""
    with pytest.raises(Refused) as refused:
        run("add", "zoo", "--kind", "ranking")
    assert all(kind in refused.value.action for kind in KINDS)


def test_a_params_file_in_another_layout_is_refused(checkout: Path) -> None:
    """Where the section has no place of its own, no file is written at all."""
    value = yaml.safe_load(TOY)
    (checkout / "params.yaml").write_text(json.dumps(value))
    before = tree(checkout)
    with pytest.raises(ConfigError, match="can't be edited"):
        run("add", "zoo", "--kind", "regression")
    assert tree(checkout) == before


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("written", range(10))
def test_all_files_or_none(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, written: int, error: BaseException
) -> None:
    """Whatever stops it, after any number of files, nothing of it is left."""
    before = tree(checkout)
    real, done = adding.write_atomic, []

    def write(path: Path, text: str) -> None:
        if len(done) == written:
            done.append(path)
            raise error
        done.append(path)
        real(path, text)

    planned = adding.plan(checkout, "zoo", "regression")
    monkeypatch.setattr(adding, "write_atomic", write)
    with pytest.raises(type(error)):
        adding.write(checkout, planned)
    assert tree(checkout) == before
    assert not (checkout / "models" / "zoo").exists()
    monkeypatch.undo()
    adding.write(checkout, planned)


# ---------------------------------------------------------------- removing
def test_what_was_added_can_be_removed(checkout: Path) -> None:
    """A committed model goes with its folders and its section, and nothing else."""
    before = tree(checkout)
    run("add", "zoo", "--kind", "classification")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "zoo")
    told: Any = json.loads(run("remove", "zoo", "--json"))
    assert told == {"model": "zoo", "folders": ["models/zoo", "services/zoo"], "removed": True}
    assert tree(checkout) == before


def test_removal_is_refused_where_it_would_lose_something(checkout: Path) -> None:
    """The only model, one that no commit holds, and one that runs stay, each with the next action."""
    before = tree(checkout)
    with pytest.raises(Refused, match="the only model"):
        run("remove", "toy")
    assert tree(checkout) == before
    run("add", "zoo", "--kind", "regression")
    before = tree(checkout)
    with pytest.raises(Refused, match="not committed"):
        run("remove", "zoo")
    (checkout / "envs" / "staging" / "release.yaml").write_text("models:\n  toy: 82be568dc222\n")
    with pytest.raises(Refused) as refused:
        run("remove", "toy")
    assert "envs/staging/release.yaml" in refused.value.action
    with pytest.raises(TidegateError, match="no model is called `zo`"):
        run("remove", "zo")
    (checkout / "envs" / "staging" / "release.yaml").write_text("models: {}\n")
    assert tree(checkout) == before


def test_another_models_folders_are_never_removed(checkout: Path) -> None:
    """Where two models declare one package, or one that lies elsewhere, nothing is removed."""
    for package in ("toy", "../.."):
        text = TOY.replace("\ngates", f"\n  b-one:\n    package: {package}\n\ngates")
        (checkout / "params.yaml").write_text(text)
        before = tree(checkout)
        with pytest.raises(ConfigError, match=r"params\.yaml:\d+: .*package"):
            run("remove", "b-one")
        assert tree(checkout) == before
