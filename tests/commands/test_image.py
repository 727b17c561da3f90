"""`tidegate image`: of one release or of all that were packaged, with an engine that builds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from tests.contract.test_imaging import Noting, Subject, subject
from tidegate import wiring
from tidegate.commands import images as commands
from tidegate.config import Home
from tidegate.core.images import identity
from tidegate.errors import Refused
from tidegate.images import Inspected

__all__ = ["subject"]


@pytest.fixture
def builder(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Noting:
    """What a checkout's images are built by, where one toy release was packaged; processes run it."""
    monkeypatch.setenv("TIDEGATE_HOME", str(Home.find(subject.order.checkout).root))
    monkeypatch.chdir(subject.order.checkout)
    monkeypatch.setattr(wiring, "builder", lambda making: subject.builder)
    monkeypatch.setattr(wiring, "image_tools", lambda making, where: subject.tools)
    return subject.builder


def contained(environment: str = "production", *, gpus: str = "", **how: Any) -> None:
    """Have an environment run containers, and say something of their images."""
    spec = {"workloads": {"adapter": "podman", "gpus": gpus}, "images": how}
    Path("envs", environment, "platform.yaml").write_text(yaml.safe_dump({"plane": environment, **spec}))


def ask(*words: str) -> Result:
    """Run the command."""
    app = typer.Typer()
    commands.register(app)
    return CliRunner().invoke(app, ["image", *words])


def answered(*words: str) -> Any:
    """Run the command for a program; returns the one document that it printed."""
    done = ask(*words, "--json")
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def bases(builder: Noting) -> list[str]:
    """Return what each release's image was built on, as it says itself."""
    names = [asked.text.partition('base.name="')[2].partition('"')[0] for asked in builder.asked]
    return [name for name in names if name]


def test_it_is_built_on_the_base_of_who_runs_it(builder: Noting, subject: Subject) -> None:
    """What production says of its images is heard, of one model and of all; `--base` wins."""
    contained(base="own:1")
    ask(subject.order.record.model)
    ask("--all", "--again")
    ask(subject.order.record.model, "--base", "other:1")
    assert bases(builder) == ["own:1", "own:1", "other:1"]


def test_nothing_is_built_of_settings_that_contradict_each_other(builder: Noting) -> None:
    """One variant's is refused before another's is built."""
    contained("staging", base="own:1")
    contained("canary", gpus="all", gpuBase="a:1")
    contained("production", gpus="all", gpuBase="b:1")
    assert "images.gpuBase" in str(ask("--all").exception)
    assert builder.asked == []


@pytest.mark.parametrize(
    "words",
    [
        ("--variant", "cpu"),
        ("--release", "0" * 12),
        ("--engine", "podman"),
        ("--base", "a:1"),
        ("--push", "registry.example.com/a:1"),
        ("--build-file", "Containerfile"),
    ],
    ids=lambda words: words[0],
)
def test_all_refuses_what_it_can_not_honour(builder: Noting, words: tuple[str, str]) -> None:
    """An option of one image is refused by name: nobody would notice that nothing was pushed."""
    contained()
    error = ask("--all", *words).exception
    assert isinstance(error, Refused)
    assert f"Leave out {words[0]}, or --all." in str(error)
    assert builder.asked == []


def test_a_file_that_is_only_written_is_not_pushed(builder: Noting, subject: Subject) -> None:
    """Options of a build are refused where none is made."""
    error = ask(subject.order.record.model, "--build-file", "f", "--push", "a:1", "--again").exception
    assert isinstance(error, Refused)
    assert "would ignore --push, --again" in str(error)
    assert not Path("f").exists()


def test_one_image_is_pushed_where_it_shall_go(builder: Noting, subject: Subject) -> None:
    """The image that was built is copied to the name that was given."""
    assert ask(subject.order.record.model, "--push", "registry.example.com/a:1").exit_code == 0
    assert builder.pushed == [(subject.order.name, "registry.example.com/a:1")]


def test_all_is_one_list_as_json(builder: Noting, subject: Subject) -> None:
    """Every image of every environment's variant is in one document, built now or kept."""
    contained("staging")
    contained("production", gpus="all")
    record = subject.order.record
    found = answered("--all")
    assert [(one["model"], one["release"], one["variant"]) for one in found] == [
        (record.model, record.id, "cpu"),
        (record.model, record.id, "gpu"),
    ]
    here = Inspected(found[0]["id"], identity(record, "cpu"), 42)
    builder.known[here.id] = here
    kept, built = answered("--all")
    assert "bytes" not in kept, "it was not built now"
    assert kept == {key: value for key, value in found[0].items() if key in kept}
    assert built == found[1]


def test_again_builds_what_is_recorded_and_here(builder: Noting, subject: Subject) -> None:
    """With `--all --again` a recorded image is not kept; without, it is."""
    contained()
    ask("--all")
    here = Inspected("sha256:" + "1" * 64, identity(subject.order.record, "cpu"), 42)
    builder.known[here.id] = here
    before = len(builder.asked)
    assert "recorded and here" in ask("--all").stdout
    assert len(builder.asked) == before
    ask("--all", "--again")
    assert len(builder.asked) == before + 2, "what is installed, and the release"


def test_where_nothing_was_packaged_it_says_what_packages(builder: Noting, subject: Subject) -> None:
    """None of none is done, so the workflow goes on; a person is told what comes first."""
    contained()
    Path("build", subject.order.record.model, "release.yaml").unlink()
    done = ask("--all")
    assert done.exit_code == 0
    assert "nothing was packaged here" in done.stdout
    assert "`dvc repro`" in done.stdout
    assert answered("--all") == []


def test_where_processes_run_the_list_is_empty(builder: Noting) -> None:
    """A program gets a document, too, where there is nothing to build."""
    assert answered("--all") == []
    assert builder.asked == []
