"""Commands about what runs: `status`, `rollback`, and the agent that supervisord starts."""

from __future__ import annotations

import getpass
import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.commands.environments import known_environment
from tidegate.errors import PlatformError, Refused

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _state_path(checkout: Path) -> Path:
    from tidegate import wiring

    return wiring.state_path(wiring.platform(checkout, "production"), wiring.home(checkout))


def snapshot(checkout: Path, events: int = 8) -> dict[str, Any]:
    """Return what every plane of this checkout's home does now, as JSON types."""
    from tidegate import planes as running
    from tidegate import wiring
    from tidegate.adapters.sqlite import read_events, read_planes
    from tidegate.agent.locks import agent_runs

    where, state = wiring.home(checkout), _state_path(checkout)
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
    as_json: AsJson = False,
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


def rollback(
    environment: Annotated[str, typer.Argument(help="canary or production")],
    model: Annotated[str, typer.Argument(help="the model's name")],
    reason: Annotated[str, typer.Option(help="Why; kept in the commit.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Go back to the last verified release at once, and write it to Git.

    Example: tidegate rollback production flight-delay --reason "complaints from Denver"
    """
    from tidegate import wiring
    from tidegate.adapters.sqlite import SqliteInbox, read_events
    from tidegate.agent.locks import agent_runs

    known_environment(environment)
    checkout = wiring.find_checkout()
    spec, where = wiring.platform(checkout, environment), wiring.home(checkout)
    if not agent_runs(where.plane(spec.plane)):
        raise PlatformError(f"no agent runs plane {spec.plane} on this machine", "Start it: tidegate up")
    inbox, began = SqliteInbox(_state_path(checkout)), time.time()
    payload = {"environment": environment, "model": model, "reason": reason, "by": getpass.getuser()}
    request = inbox.send(spec.plane, "rollback", payload)
    answer, told = None, set()
    while time.time() - began < timeout:
        answer = answer or inbox.result(request)
        if answer and not answer.get("accepted"):
            raise Refused(str(answer["text"]), "See what runs: tidegate status")
        for event in read_events(_state_path(checkout), spec.plane, 20):
            key = (event.at, event.kind)
            # Another rollback of this model may end meanwhile: only what was asked for here is told.
            mine = answer and (event.model, event.release) == (model, answer.get("release", event.release))
            if event.at >= began and mine and key not in told:
                told.add(key)
                if not as_json:
                    typer.echo(f"{event.at - began:5.1f} s  {event.text}")
                if event.kind == "gave-up":
                    raise Refused(event.text, "See what runs: tidegate status")
                if event.kind == "rolled-back":
                    if as_json:
                        took = round(event.at - began, 2)
                        typer.echo(json.dumps({"release": event.release, "text": event.text, "took_s": took}))
                    return
        time.sleep(0.2)
    raise PlatformError(
        f"asked, but not finished after {timeout:.0f} s", "Follow it: tidegate status --watch; it goes on."
    )


def agent(plane: Annotated[str, typer.Option(help="The plane to keep as Git says.")]) -> None:
    """Run one plane's agent in the foreground; `tidegate up` does this under supervisord.

    Example: tidegate agent --plane production
    """
    import logging

    from tidegate import planes, wiring
    from tidegate.agent.locks import agent_lock
    from tidegate.agent.loop import Agent

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    checkout = wiring.find_checkout()
    where = wiring.home(checkout)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    with agent_lock(where.plane(plane)):
        spec = wiring.platform(checkout, plane)
        ports = wiring.agent_ports(spec, where, checkout)
        holder = f"{socket.gethostname()}:{where.root}"
        made = Agent(plane, ports, holder=holder, spec=spec.agent, url=planes.url(where, plane))
        made.run(lambda: bool(stopped))


def mirror(
    aliases: Annotated[str, typer.Argument(help="JSON: model → alias → version or null")],
    parent: Annotated[int, typer.Option(help="End at once when this process no longer is the parent.")] = 0,
) -> None:
    """Point the registry's aliases where Git points; the agent calls this after each promotion.

    Example: tidegate mirror '{"flight-delay": {"production": 7}}'
    """
    from tidegate import wiring
    from tidegate.machine import processes

    if parent:
        processes.end_with(parent)
    checkout = wiring.find_checkout()
    registry = wiring.registry(wiring.platform(checkout, "production"), wiring.home(checkout))
    for model, wanted in json.loads(aliases).items():
        present = registry.aliases(model)
        for alias, version in wanted.items():
            if present.get(alias) != version:
                registry.set_alias(model, alias, version)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(status)
    app.command()(rollback)
    app.command(hidden=True)(agent)
    app.command(hidden=True)(mirror)
