"""What a person says of a rollout: pause, resume, approve, abort, rollback, retry; and the agent itself."""

from __future__ import annotations

import getpass
import json
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from tidegate.commands.environments import known_environment
from tidegate.errors import PlatformError, Refused

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _state_path(checkout: Path) -> Path:
    from tidegate import wiring

    return wiring.state_path(wiring.platform(checkout, "production"), wiring.home(checkout))


# ---------------------------------------------------------------- asking the agent
Environment = Annotated[str, typer.Argument(help="canary or production")]
Model = Annotated[str, typer.Argument(help="the model's name")]
Reason = Annotated[str, typer.Option(help="Why; kept with the event, and in the commit if there is one.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the answer.")]


@dataclass(frozen=True)
class _Asking:
    """One request to the agent of a plane, and how its answer is told."""

    verb: str
    environment: str
    model: str
    reason: str
    timeout: float
    as_json: bool

    def send(self) -> _Asked:
        """Leave it for the agent and wait for the answer. Raises Refused when the agent can't do it."""
        from tidegate import wiring
        from tidegate.adapters.sqlite import SqliteInbox
        from tidegate.agent.locks import agent_runs

        known_environment(self.environment)
        checkout = wiring.find_checkout()
        spec, where = wiring.platform(checkout, self.environment), wiring.home(checkout)
        if not agent_runs(where.plane(spec.plane)):
            raise PlatformError(f"no agent runs plane {spec.plane} on this machine", "Start it: tidegate up")
        state, began = _state_path(checkout), time.time()
        inbox = SqliteInbox(state)
        request = inbox.send(
            spec.plane,
            self.verb,
            {
                "environment": self.environment,
                "model": self.model,
                "reason": self.reason,
                "by": getpass.getuser(),
            },
        )
        while (answer := inbox.result(request)) is None:
            if time.time() - began > self.timeout:
                raise PlatformError(
                    f"asked, but not answered after {self.timeout:.0f} s",
                    "It is followed when the agent comes to it. See what it does: tidegate status --watch",
                )
            time.sleep(0.1)
        if not answer.get("accepted"):
            raise Refused(str(answer["text"]), "See what runs: tidegate status")
        return _Asked(self, state, spec.plane, began, str(answer["text"]), str(answer.get("release", "")))


@dataclass(frozen=True)
class _Asked:
    """A request that the agent took up."""

    asking: _Asking
    state: Path
    plane: str
    began: float
    text: str
    release: str

    def tell(self) -> None:
        """Print the answer."""
        if self.asking.as_json:
            typer.echo(json.dumps({"release": self.release, "text": self.text}))
        else:
            typer.echo(self.text)

    def follow(self) -> None:
        """Print what happens until the release has left, and Git says so. Raises Refused, PlatformError."""
        from tidegate.adapters.sqlite import read_events

        told: set[tuple[float, str]] = set()
        while time.time() - self.began < self.asking.timeout:
            for event in read_events(self.state, self.plane, 20):
                # Another rollback of this model may end meanwhile: only what was asked for here is told.
                mine = (event.model, event.release) == (self.asking.model, self.release)
                if event.at < self.began or not mine or (event.at, event.kind) in told:
                    continue
                told.add((event.at, event.kind))
                if not self.asking.as_json:
                    typer.echo(f"{event.at - self.began:5.1f} s  {event.text}")
                if event.kind == "gave-up":
                    raise Refused(event.text, "See what runs: tidegate status")
                if event.kind == "rolled-back":
                    took = round(event.at - self.began, 2)
                    end = {"release": event.release, "text": event.text, "took_s": took}
                    typer.echo(json.dumps(end)) if self.asking.as_json else None
                    return
            time.sleep(0.2)
        raise PlatformError(
            f"asked, but not finished after {self.asking.timeout:.0f} s",
            "Follow it: tidegate status --watch; it goes on.",
        )


def rollback(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Go back to the last verified release at once, and write it to Git.

    Example: tidegate rollback production flight-delay --reason "complaints from Denver"
    """
    _Asking("rollback", environment, model, reason, timeout, as_json).send().follow()


def abort(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Take back a rollout that is under way, and write it to Git; what has settled is not touched.

    Example: tidegate abort canary flight-delay --reason "wrong branch"
    """
    _Asking("abort", environment, model, reason, timeout, as_json).send().follow()


def pause(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Timeout = 15.0,
    as_json: AsJson = False,
) -> None:
    """Hold a rollout at its weight; its checks go on, and a breach still takes it back.

    Example: tidegate pause canary flight-delay --reason "waiting for the weekend"
    """
    _Asking("pause", environment, model, reason, timeout, as_json).send().tell()


def resume(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Timeout = 15.0,
    as_json: AsJson = False,
) -> None:
    """Let a paused rollout go on, or end the indefinite pause of its step.

    Example: tidegate resume canary flight-delay
    """
    _Asking("resume", environment, model, reason, timeout, as_json).send().tell()


def approve(
    environment: Environment,
    model: Model,
    reason: Reason = "",
    timeout: Timeout = 15.0,
    as_json: AsJson = False,
) -> None:
    """Let a rollout into the step that waits for a person, as soon as its checks let it.

    Example: tidegate approve production flight-delay --reason "looked at the pairs"
    """
    _Asking("approve", environment, model, reason, timeout, as_json).send().tell()


def retry(
    environment: Environment,
    model: Model,
    release: Annotated[str, typer.Argument(help="The release (default: the one rejected last).")] = "",
    reason: Annotated[str, typer.Option(help="What has changed since; said in the pull request.")] = "",
    as_json: AsJson = False,
) -> None:
    """Open the pull request that takes a rejection away and asks for the release again.

    Example: tidegate retry canary flight-delay --reason "the database was down, not the model"
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
    for verb in (pause, resume, approve, abort, retry, rollback):
        app.command()(verb)
    app.command(hidden=True)(agent)
    app.command(hidden=True)(mirror)
