"""Commands about what runs: `rollback`, and the agent that supervisord starts."""

from __future__ import annotations

import getpass
import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tidegate.commands.environments import known_environment
from tidegate.errors import PlatformError, Refused

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _state_path(checkout: Path) -> Path:
    from tidegate import wiring

    return wiring.state_path(wiring.platform(checkout, "production"), wiring.home(checkout))


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
    app.command()(rollback)
    app.command(hidden=True)(agent)
    app.command(hidden=True)(mirror)
