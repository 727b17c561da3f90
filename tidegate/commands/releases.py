"""Releases beside each other on a plane: which are loaded, load and unload one, switch to one at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate.commands.asking import AsJson, Asking, Environment, ForEnd, Model, Reason, Timeout, state_path

Release = Annotated[str, typer.Argument(help="the release's id, as `tidegate releases` shows it")]
OneModel = Annotated[str, typer.Argument(help="Only this model's.")]


def releases(model: OneModel = "", as_json: AsJson = False) -> None:
    """Show which releases are loaded on each plane: why, since when, weight, replicas, memory and CPU.

    It reads the plane itself, so it works without an agent. Example: tidegate releases my-model
    """
    from tidegate import wiring

    found = [row for row in loaded(wiring.find_checkout()) if model in ("", row["model"])]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found, model)


def loaded(checkout: Path) -> list[dict[str, Any]]:
    """Return what is placed on each plane of a checkout, as JSON types."""
    from tidegate import planes

    return [row for plane in planes.names(checkout) for row in _of_plane(checkout, plane)]


def _of_plane(checkout: Path, plane: str) -> list[dict[str, Any]]:
    """Return what is placed on one plane, and what its agent last knew of each release."""
    from tidegate import wiring
    from tidegate.adapters.sqlite import read_planes
    from tidegate.core import loading
    from tidegate.core.state import ModelState
    from tidegate.errors import TidegateError
    from tidegate.machine import running
    from tidegate.machine.layout import Layout

    where = wiring.home(checkout)
    at = Layout(where, plane)
    found, problem = running.read(at)
    stored = read_planes(state_path(checkout)).get(plane, {}).get("models", {})
    known = {name: msgspec.convert(state, ModelState) for name, state in stored.items()}
    try:
        routes = wiring.router(wiring.platform(checkout, plane), where).read() if not problem else None
    except TidegateError:
        routes = None  # no weight is told then
    rows, now = [], time.time()
    for one in found:
        route = routes.get(one.model) if routes is not None else None
        rows.append(
            {
                "plane": plane,
                "model": one.model,
                "release": one.release,
                "version": one.version,
                "why": loading.why(known[one.model], one.release, now) if one.model in known else "not known",
                "weight": None if routes is None else (route.weights.get(one.release, 0) if route else 0),
                "replicas": len(one.processes),
                "up": sum(process.up for process in one.processes),
                "since": one.since,
                "memory": one.memory,
                "cpu_s": round(one.cpu, 2),
                "processes": [
                    {
                        "endpoint": process.endpoint,
                        "state": process.state,
                        "pid": process.pid or None,
                        "memory": process.memory,
                        "cpu_s": round(process.cpu, 2),
                    }
                    for process in one.processes
                ],
            }
        )
    return rows


def _show(found: list[dict[str, Any]], model: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not found:
        typer.echo(f"no release{f' of {model}' if model else ''} is loaded here. Start a plane: tidegate up")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("plane", "model", "release", "why"):
        table.add_column(column, no_wrap=True)
    for column in ("weight", "replicas", "up for", "memory", "CPU"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found:
        weight = "–" if row["weight"] is None else f"{row['weight']}%"
        replicas = (
            str(row["replicas"]) if row["up"] == row["replicas"] else f"{row['up']} of {row['replicas']}"
        )
        age = "–" if row["since"] is None else _age(time.time() - row["since"])
        numbers = (weight, replicas, age, f"{row['memory'] / 1e6:,.0f} MB", f"{row['cpu_s']:,.0f} s")
        table.add_row(row["plane"], row["model"], row["release"], row["why"], *numbers)
    console = Console()
    (console if console.is_terminal else Console(width=400)).print(table)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


# ---------------------------------------------------------------- what the agent does
def load(
    environment: Environment,
    model: Model,
    release: Release,
    reason: Reason = "",
    timeout: ForEnd = 120.0,
    as_json: AsJson = False,
) -> None:
    """Start a release and keep it up without traffic, to be switched to at once.

    Example: tidegate load production my-model 82be568dc222 --reason "the fair begins tomorrow"
    """
    Asking("load", environment, model, reason, timeout, as_json, release).send().follow("loaded")


def unload(
    environment: Environment,
    model: Model,
    release: Release,
    reason: Reason = "",
    timeout: Timeout = 15.0,
    as_json: AsJson = False,
) -> None:
    """Let go of a release that was loaded; one with traffic can't be unloaded.

    Example: tidegate unload production my-model 82be568dc222
    """
    Asking("unload", environment, model, reason, timeout, as_json, release).send().tell()


def switch(
    environment: Environment,
    model: Model,
    release: Release,
    reason: Reason = "",
    timeout: ForEnd = 120.0,
    as_json: AsJson = False,
) -> None:
    """Give a loaded release all traffic at once, and write it to Git; what ran stays loaded.

    It must have settled in that environment before: nothing watches it after. Example:
    tidegate switch production my-model 82be568dc222 --reason "the old one does better on Sundays"
    """
    asking = Asking("switch", environment, model, reason, timeout, as_json, release)
    asking.send().follow("switched", also=("weight-zero", "gave-up"))


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    for verb in (releases, load, unload, switch):
        app.command()(verb)
