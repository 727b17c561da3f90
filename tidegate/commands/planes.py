"""Commands of the planes: `up`, `down`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.errors import PlatformError

if TYPE_CHECKING:
    from tidegate.config import Home

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(up)
    app.command()(down)


def up(
    plane: Annotated[str, typer.Option(help="Only this plane; all that envs/ names by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Start the planes: router, supervisor and agent of each; returns when all are ready.

    Safe to repeat: a running plane is left as it is. Example: tidegate up --plane staging
    """
    from tidegate import planes, wiring

    checkout = wiring.find_checkout()
    home = wiring.home(checkout)
    started: list[str] = []
    answers: dict[str, str] = {}
    try:
        for name in [plane] if plane else planes.names(checkout):
            if not planes.running(home, name):
                started.append(name)
            answers[name] = planes.up(checkout, home, name)
            if not as_json:
                typer.echo(f"{name:12} {answers[name]}")
    except BaseException:
        for name in started:
            planes.stop(home, name)
        raise
    silent = {name: _silent(checkout, home, name) for name in answers}
    if as_json:
        typer.echo(json.dumps({"planes": answers, "silent": silent}))
    for name, models in silent.items():
        if models:
            text = f"on {name} no release of {', '.join(models)} answers yet"
            raise PlatformError(text, "The agent goes on trying; see why: tidegate status")


def _silent(checkout: Path, home: Home, plane: str) -> list[str]:
    """Wait for what ran here before; returns the models that still don't answer."""
    from tidegate import planes, wiring
    from tidegate.adapters.sqlite import read_planes

    stored = read_planes(wiring.state_path(wiring.platform(checkout, plane), home)).get(plane, {})
    models = [model for model, state in stored.get("models", {}).items() if state.get("stable")]
    return planes.await_served(home, plane, models)


def down(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop every process and container that this checkout's home started, and nothing else.

    Safe to repeat. Example: tidegate down
    """
    from tidegate import planes, wiring

    stopped = planes.down(wiring.home(wiring.find_checkout()))
    if as_json:
        typer.echo(json.dumps({"stopped": stopped}))
    elif not quiet:
        typer.echo(f"stopped {stopped} processes" if stopped else "nothing was running")
