"""Commands on the online store: `tidegate features materialize` and `get`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tidegate.commands.environments import known_environment
from tidegate.core.history import iso, parse_moment
from tidegate.errors import ConfigError

if TYPE_CHECKING:
    from tidegate import ports

_Environment = Annotated[
    str, typer.Option("--env", "-e", help="Whose platform.yaml says where the store is.")
]
_Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml.")]
_AsOf = Annotated[
    str, typer.Option("--as-of", help="An ISO time (UTC if it names no zone); by default the newest data's.")
]
_To = Annotated[str, typer.Option("--to", help="Another store: sqlite:///file or redis://host:6379/0.")]
_Keys = Annotated[list[str], typer.Argument(help="entity_type:entity_id:feature_name, as in user:42:clicks.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    group = typer.Typer(help="Fill the store of online features, and look into it.", no_args_is_help=True)
    group.command()(materialize)
    group.command()(get)
    app.add_typer(group, name="features")


def _store(environment: str, to: str) -> tuple[Path, ports.FeatureStore]:
    from tidegate import wiring

    root = wiring.find_checkout()
    spec = wiring.platform(root, known_environment(environment))
    return root, wiring.features(spec, wiring.home(root), to)


def materialize(
    model: _Model,
    as_of: _AsOf = "",
    to: _To = "",
    environment: _Environment = "production",
    as_json: _Json = False,
) -> None:
    """Compute a model's online features as of a moment, and store them, all or none.

    Again as of the same moment it stores the same. Example: tidegate features materialize my-model
    --as-of 2013-07-04T12:00
    """
    from tidegate import materializing, params

    root, into = _store(environment, to)
    try:
        read = params.load(root)
        package = read.package(model)
        typer.secho(f"computing {model}'s online features …", err=True, dim=True)
        found = materializing.snapshot(root, package, _moment(as_of) if as_of else None)
        done = materializing.store(into, model, found)
    finally:
        into.close()
    if as_json:
        document = {"model": model, "as_of": iso(done.as_of), "keys": done.keys, "removed": done.removed}
        typer.echo(json.dumps({**document, "ttl": found.ttl, "features": dict(done.by_feature)}))
        return
    kinds = ", ".join(f"{count:,} {name}" for name, count in done.by_feature.items())
    typer.echo(f"{done.keys:,} keys as of {iso(done.as_of)}, for {found.ttl / 3600:g} h: {kinds}")
    if done.removed:
        typer.echo(f"{done.removed:,} that are not known any more removed")


def get(
    model: _Model,
    keys: _Keys,
    to: _To = "",
    environment: _Environment = "production",
    as_json: _Json = False,
) -> None:
    """Show what the store holds under keys, and for how long; 1 when one of them is not there.

    Example: tidegate features get my-model user:42:clicks page:home:clicks
    """
    from tidegate import params

    root, store = _store(environment, to)
    try:
        params.load(root).known(model)
        found = store.read(keys)
    finally:
        store.close()
    if as_json:
        known = {
            key: {"value": msgspec.json.decode(one.value), "left": one.left} for key, one in found.items()
        }
        typer.echo(json.dumps({key: known.get(key) for key in keys}))
    else:
        for key in keys:
            one = found.get(key)
            typer.echo(f"{key}  " + (f"{one.value.decode()}  for {one.left:,.0f} s more" if one else "–"))
    if len(found) < len(set(keys)):
        raise typer.Exit(1)


def _moment(text: str) -> float:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise ConfigError(f"`{text}` is no ISO time", "Write it as 2013-07-04T12:00.") from error
