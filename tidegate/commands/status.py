"""The `status` command: what runs where, as a tree that can be followed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def state_path(checkout: Path) -> Path:
    """Return the file of the agents' state."""
    from tidegate import wiring

    return wiring.state_path(wiring.platform(checkout, "production"), wiring.home(checkout))


def snapshot(checkout: Path, events: int = 8) -> dict[str, Any]:
    """Return what every plane of this checkout's home does now, as JSON types."""
    from tidegate import planes as running
    from tidegate import wiring
    from tidegate.adapters.sqlite import read_events, read_planes
    from tidegate.agent.locks import agent_runs

    where, state = wiring.home(checkout), state_path(checkout)
    stored = read_planes(state)
    planes = []
    for name in running.names(checkout):
        documents = stored.get(name, {})
        planes.append(
            {
                "plane": name,
                "url": "",
                "commit": "",
                "models": {},
                "problems": [],
                **documents.get("status", {}),
                "agent": "running" if agent_runs(where.plane(name)) else "stopped",
                "events": [
                    {"at": e.at, "kind": e.kind, "model": e.model, "release": e.release, "text": e.text}
                    for e in read_events(state, name, events)
                ],
            }
        )
    return {"home": str(where.root), "planes": planes}


_COLOURS = {
    "Healthy": "green",
    "Verified": "green",
    "Progressing": "cyan",
    "Pending": "yellow",
}
_MARKS = {"PASS": "[green]✔[/]", "FAIL": "[red]✘[/]", "INCONCLUSIVE": "[yellow]…[/]", "ERROR": "[red]?[/]"}


def render(found: dict[str, Any]) -> Any:
    """Return the tree that `status` draws."""
    from rich.console import Group
    from rich.markup import escape
    from rich.tree import Tree

    trees = []
    for plane in found["planes"]:
        agent = (
            "[green]agent runs[/]"
            if plane["agent"] == "running"
            else "[red]stopped[/] (start it: tidegate up)"
        )
        at = f" at {plane['commit'][:7]}" if plane["commit"] else ""
        tree = Tree(f"[bold]{plane['plane']}[/] plane  {plane['url']}  {agent}{at}")
        for model, environments in plane["models"].items():
            branch = tree.add(f"[bold]{escape(model)}[/]")
            for environment, line in environments.items():
                _draw(branch, environment, line)
        for problem in plane["problems"]:
            tree.add(f"[red]problem[/] {escape(problem)}")
        if plane["events"]:
            recent = tree.add("[dim]lately[/]")
            for event in plane["events"][-5:]:
                clock = time.strftime("%H:%M:%S", time.localtime(event["at"]))
                recent.add(f"[dim]{clock}[/] {escape(event['text'])}")
        trees.append(tree)
    return Group(*trees)


def _draw(branch: Any, environment: str, line: dict[str, Any]) -> None:
    from rich.markup import escape

    colour = _COLOURS.get(line["phase"], "red" if line["release"] else "dim")
    text = f"{environment:<11} {line['release'] or '–':<12}  [{colour}]{line['phase']}[/]"
    if line["release"]:
        text += f"  {line['weight']:>3}%"
    if line["seen"] is not None:
        text += f"  step {line['step'] + 1}  {line['seen']} requests"
    if line["reason"]:
        text += f"  [dim]{escape(line['reason'])}[/]"
    node = branch.add(text)
    for finding in line["findings"]:
        note = " (dry run)" if finding.get("dry_run") else ""
        node.add(
            f"{_MARKS.get(finding['verdict'], '?')} {finding['name']}{note}: {escape(finding['reason'])}"
        )


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what runs where: releases, rollout steps, weights, and each check with both numbers.

    Example: tidegate status --watch
    """
    from tidegate import wiring

    checkout = wiring.find_checkout()
    if as_json:
        typer.echo(json.dumps(snapshot(checkout), indent=2))
        return
    from rich.console import Console

    if not watch:
        Console().print(render(snapshot(checkout)))
        return
    from rich.live import Live

    with Live(render(snapshot(checkout)), refresh_per_second=4, screen=sys.stdout.isatty()) as live:
        while True:
            time.sleep(0.5)
            live.update(render(snapshot(checkout)))


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    app.command()(status)
