"""Commands on a model: add one, remove one, package a release."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tidegate import wiring
from tidegate.errors import ConfigError

if TYPE_CHECKING:
    from tidegate.core.strategies import Leg

Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

model = typer.Typer(help="Models of this checkout: add one with all its files, or remove one.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("package")(package)
    app.add_typer(model, name="model")


@model.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens, such as disease-progress.")],
    kind: Annotated[str, typer.Option(help="classification or regression.")],
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write the files of a new model, which run as they are on data that scikit-learn brings along.

    Example: tidegate model add disease-progress --kind regression
    """
    from tidegate import adding

    checkout = wiring.find_checkout()
    planned = adding.plan(checkout, name, kind)
    if not dry_run:
        adding.write(checkout, planned)
    if as_json:
        told = {"model": name, "package": planned.package, "kind": kind, "written": not dry_run}
        typer.echo(json.dumps({**told, "files": list(planned.files), "params": planned.line}, indent=2))
        return
    for path, text in planned.files.items():
        typer.echo(f"{path:44} {text.count(chr(10)):4} lines")
    typer.echo(f"params.yaml, from line {planned.line}")
    with contextlib.suppress(ConfigError):  # an envs/ that can't be read is told by what needs it
        waits = sum(leg.pause.min_requests for leg in _canary(checkout, name))
        typer.echo(f"its canary waits for {waits} requests, or what envs/canary/rollout.yaml says of it")
    typer.echo("nothing is written (--dry-run)" if dry_run else f"try it: dvc repro evaluate@{name}")


def _canary(checkout: Path, name: str) -> tuple[Leg, ...]:
    """Return the legs that a model's canary travels beside a stable release."""
    from tidegate import config
    from tidegate.core.strategies import legs

    return legs(config.load(checkout).environments["canary"].plan(name), "canary", "stable")


@model.command("remove")
def remove(name: Model, as_json: Json = False, dry_run: DryRun = False) -> None:
    """Remove a model that runs nowhere: its folders and its section of params.yaml; Git keeps what was.

    Example: tidegate model remove disease-progress
    """
    from tidegate import adding

    checkout = wiring.find_checkout()
    planned = adding.plan_removal(checkout, name)
    if not dry_run:
        adding.remove(checkout, planned)
    if as_json:
        told = {"model": name, "folders": list(planned.folders), "removed": not dry_run}
        typer.echo(json.dumps(told, indent=2))
        return
    done = "would be removed (--dry-run)" if dry_run else "removed"
    typer.echo(f"{done}: {', '.join([*planned.folders, f'`{name}` of params.yaml'])}")


def package(model: Model, as_json: Json = False) -> None:
    """Build the Bento of a registered model whose gates passed, and write its release record.

    Example: tidegate package my-model
    """
    from tidegate.packaging import Layout
    from tidegate.packaging import package as make

    checkout = wiring.find_checkout()
    layout = Layout(checkout, model)
    where = wiring.home(checkout)
    builder = wiring.bentos(wiring.platform(checkout, "staging"), where)
    record = make(layout, builder, lambda line: typer.echo(line, err=as_json))
    if as_json:
        path = layout.record(record.id).relative_to(checkout).as_posix()
        typer.echo(json.dumps({"id": record.id, "path": path, **msgspec.to_builtins(record)}, indent=2))
