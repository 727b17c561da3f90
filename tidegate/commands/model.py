"""Commands on a model: run a gate, package a release."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tidegate import report, wiring
from tidegate.core.verdict import Verdict
from tidegate.errors import ConfigError, TidegateError, suggest

Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("package")(package)
    app.command(
        "gate",
        help=f"{gate.__doc__}\n\n{_listing()}",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(gate)


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


def gate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The gate's name.")],
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print the gate's report as JSON.")] = False,
) -> None:
    """Run one gate of gates/, and exit as it does: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR.

    Further options go to the gate. Example: tidegate gate load flight-delay --endpoint http://127.0.0.1:8080/flight-delay
    """
    checkout = wiring.find_checkout()
    stem = name.replace("-", "_")
    script = _gates(checkout).get(stem)
    if script is None:
        unknown = _unknown(name, checkout)
        typer.secho(f"tidegate: {unknown}", err=True, fg="red")
        if as_json:
            typer.echo(report.to_json(report.broken(name, model, str(unknown))), nl=False)
        raise typer.Exit(Verdict.ERROR.exit_code)  # nobody looked: not the 1 that means FAIL
    # The checkout goes first on the path, so that gates/ and models/ are this checkout's.
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, str(script.relative_to(checkout)), model, *context.args]
    if not as_json:
        raise typer.Exit(subprocess.run(command, cwd=checkout, env=environment).returncode)
    path = _out(checkout, model, context.args) / f"{stem}.json"
    before = _written(path)
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=sys.stderr)
    found = report.read_report(path)
    if _written(path) == before:  # an earlier run's report, or none, says nothing about this one
        found = report.broken(stem, model, f"the gate wrote no report (exit code {done.returncode})")
    typer.echo(report.to_json(found), nl=False)
    raise typer.Exit(done.returncode)


def _out(checkout: Path, model: str, options: Sequence[str]) -> Path:
    """Return the folder that a gate reports to, as its own parser reads these options."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--out", type=Path, default=Path("build") / model / "gates")
    try:
        return checkout / Path(parser.parse_known_args(options)[0].out)
    except argparse.ArgumentError:  # the gate's own parser will say so
        return checkout / Path(parser.get_default("out"))


def _written(path: Path) -> tuple[int, int] | None:
    """Return what tells one writing of a file from another; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _gates(checkout: Path) -> dict[str, Path]:
    """Return the scripts of gates/ by name."""
    found = sorted((checkout / "gates").glob("[a-z]*.py"))
    return {path.stem: path for path in found}


def _unknown(name: str, checkout: Path) -> ConfigError:
    known = [stem.replace("_", "-") for stem in _gates(checkout)]
    return ConfigError(f"no gate is called `{name}`", suggest(name, known, "Known gates: {}."))


def _listing() -> str:
    """Return the gates of the checkout that we are in, each with its first line, for `--help`."""
    try:
        scripts = _gates(wiring.find_checkout())
    except TidegateError:
        return "Gates are the scripts of gates/ in your checkout."
    lines = ["Gates here:"]
    for stem, path in scripts.items():
        lines.append(f"{stem.replace('_', '-')}: {_first_line(path)}")
    return "\n\n".join(lines)


def _first_line(script: Path) -> str:
    """Return the first line of a script's docstring, without running it."""
    with script.open() as file:
        return file.readline().strip().removeprefix('"""').removesuffix('"""')
