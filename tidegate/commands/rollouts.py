"""What a person says of a rollout: pause, resume, approve, abort, rollback, retry; and the agent itself."""

from __future__ import annotations

import json
import signal
import socket
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from tidegate.commands.asking import AsJson, Asking, Environment, ForEnd, Model, Reason, Timeout
from tidegate.commands.environments import known_environment
from tidegate.errors import Refused


# ---------------------------------------------------------------- asking the agent
def rollback(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: ForEnd = 120.0,
    as_json: AsJson = False,
) -> None:
    """Go back to the last verified release at once, and write it to Git.

    Example: tidegate rollback production my-model --reason "complaints from a customer"
    """
    Asking("rollback", environment, model, reason, timeout, as_json).send().follow()


def abort(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: ForEnd = 120.0,
    as_json: AsJson = False,
) -> None:
    """Take back a rollout that is under way, and write it to Git; what has settled is not touched.

    Example: tidegate abort canary my-model --reason "wrong branch"
    """
    Asking("abort", environment, model, reason, timeout, as_json).send().follow()


def pause(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Timeout = 15.0,
    as_json: AsJson = False,
) -> None:
    """Hold a rollout at its weight; its checks go on, and a breach still takes it back.

    Example: tidegate pause canary my-model --reason "waiting for the weekend"
    """
    Asking("pause", environment, model, reason, timeout, as_json).send().tell()


def resume(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Timeout = 15.0,
    as_json: AsJson = False,
) -> None:
    """Let a paused rollout go on, or end the indefinite pause of its step.

    Example: tidegate resume canary my-model
    """
    Asking("resume", environment, model, reason, timeout, as_json).send().tell()


def approve(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Timeout = 15.0,
    as_json: AsJson = False,
) -> None:
    """Let a rollout into the step that waits for a person, as soon as its checks let it.

    Example: tidegate approve production my-model --reason "looked at the pairs"
    """
    Asking("approve", environment, model, reason, timeout, as_json).send().tell()


def retry(
    environment: Environment,
    model: Model,
    release: Annotated[str, typer.Argument(help="The release (default: the one rejected last).")] = "",
    reason: Annotated[str, typer.Option(help="What has changed since; said in the pull request.")] = "",
    as_json: AsJson = False,
) -> None:
    """Open the pull request that takes a rejection away and asks for the release again.

    Example: tidegate retry canary my-model --reason "the database was down, not the model"
    """
    from tidegate import pages, promotion, wiring
    from tidegate.core.promotion import Facts, Target

    known_environment(environment)
    checkout = wiring.find_checkout()
    spec = wiring.platform(checkout, environment)
    origin = promotion.Origin(checkout, spec.repository.remote, spec.repository.branch)
    main = origin.look()
    chosen = release or origin.last_rejected(main, environment, model)
    if not chosen:
        raise Refused(
            f"no release of {model} was rejected in {environment}",
            f"Promote one: tidegate promote {model} --to {environment}",
        )
    target = Target(environment, model, chosen)
    was, page = origin.rejected(main, target), pages.body(origin, target, pages.known(origin, target))

    def body(facts: Facts) -> str:
        lead = f"**Tried again.** It was rejected: {was}.\n\n" if was else "**Tried again.**\n\n"
        return lead + (f"Why again: {reason}\n\n" if reason else "") + page(facts)

    pull = promotion.promote(origin, wiring.forge(spec, checkout), target, body=body, again=True)
    if as_json:
        typer.echo(json.dumps([asdict(pull)] if pull else [], indent=1))
    elif pull:
        typer.echo(f"pull request {pull.number}: {pull.title}  {pull.url}")
    else:
        typer.echo(f"nothing to retry: main asks for {chosen} in {environment}, and nothing rejects it")


# ---------------------------------------------------------------- what the agent's process runs
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

    Example: tidegate mirror '{"my-model": {"production": 7}}'
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
    for verb in (pause, resume, approve, abort, retry, rollback):
        app.command()(verb)
    app.command(hidden=True)(agent)
    app.command(hidden=True)(mirror)
