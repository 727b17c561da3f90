"""`tidegate predictions precompute`: answers for known entities before anybody asks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tidegate.commands.environments import known_environment
from tidegate.errors import ConfigError

_Environment = Annotated[str, typer.Option("--env", "-e", help="The environment whose release answers.")]
_Model = Annotated[str, typer.Argument(help="The model's name.")]
_Rows = Annotated[Path, typer.Argument(help="Requests: a .jsonl file, or a .parquet of a split.")]
_Ttl = Annotated[float, typer.Option("--hours", min=0.001, help="How long the answers hold.")]
_To = Annotated[str, typer.Option("--to", help="Another store: sqlite:///file or redis://host:6379/0.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def precompute(
    model: _Model,
    rows: _Rows,
    environment: _Environment = "production",
    hours: _Ttl = 24.0,
    to: _To = "",
    as_json: _Json = False,
) -> None:
    """Answer requests by an environment's release now; the service gives these answers to who asks the same.

    Example: tidegate predictions precompute my-model tomorrow.jsonl --hours 30
    """
    from tidegate import config, params, precomputing, wiring

    root = wiring.find_checkout()
    home, spec = wiring.home(root), wiring.platform(root, known_environment(environment))
    read = params.load(root)
    package = read.package(model)
    desired = config.load(root)
    release = desired.environments[environment].releases.get(model, "")
    if not release:
        raise ConfigError(f"no release of {model} is in {environment}", "Promote one, or name another --env.")
    record, into = desired.records[release], wiring.features(spec, home, to)
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-rows-") as folder:
            asked = Path(folder) / "rows.jsonl"
            count = precomputing.requests(root, package, rows, asked)
            typer.secho(f"{count:,} rows are answered by {release} …", err=True, dim=True)
            address = wiring.features_address(spec, home, to)
            made = precomputing.compute(wiring.bentos_path(spec, home), record, asked, address)
        precomputing.store(into, record, made, 3600 * hours)
    finally:
        into.close()
    refused = len(made.refused.splitlines())
    if as_json:
        done = {"model": model, "release": release, "rows": count, "stored": len(made.answers)}
        typer.echo(json.dumps({**done, "seconds": 3600 * hours}))
    else:
        typer.echo(f"{len(made.answers):,} answers of {release} stored, for {hours:g} h")
    if refused:
        typer.secho(made.refused.rstrip(), err=True, fg="yellow")
        raise typer.Exit(1)
