"""Commands on a model: package a release."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import typer

from tidegate import wiring

Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("package")(package)


def package(model: Model, as_json: Json = False) -> None:
    """Build the Bento of a registered model whose gates passed, and write its release record.

    Example: tidegate package flight-delay
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
