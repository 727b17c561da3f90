"""Asking the agent of a plane on this machine, and following what comes of it."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tidegate.commands.environments import known_environment
from tidegate.errors import PlatformError, Refused

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Environment = Annotated[str, typer.Argument(help="canary or production")]
Model = Annotated[str, typer.Argument(help="the model's name")]
Reason = Annotated[str, typer.Option(help="Why; kept with the event, and in the commit if there is one.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the answer.")]
ForEnd = Annotated[float, typer.Option(help="Seconds to wait for the end.")]


@dataclass(frozen=True)
class Asking:
    """One request to the agent of a plane, and how its answer is told; `release` where it is about one."""

    verb: str
    environment: str
    model: str
    reason: str
    timeout: float
    as_json: bool
    release: str = ""

    def send(self) -> Asked:
        """Leave it for the agent and wait for the answer. Raises Refused when the agent can't do it."""
        from tidegate import wiring
        from tidegate.adapters.sqlite import SqliteInbox
        from tidegate.agent.locks import agent_runs

        known_environment(self.environment)
        checkout = wiring.find_checkout()
        spec, where = wiring.platform(checkout, self.environment), wiring.home(checkout)
        if not agent_runs(where.plane(spec.plane)):
            raise PlatformError(f"no agent runs plane {spec.plane} on this machine", "Start it: tidegate up")
        state, began = state_path(checkout), time.time()
        inbox = SqliteInbox(state)
        said = {"environment": self.environment, "model": self.model, "reason": self.reason}
        said |= {"by": getpass.getuser(), "release": self.release}
        request = inbox.send(spec.plane, self.verb, said)
        while (answer := inbox.result(request)) is None:
            if time.time() - began > self.timeout:
                raise PlatformError(
                    f"asked, but not answered after {self.timeout:.0f} s",
                    "It is followed when the agent comes to it. See what it does: tidegate status --watch",
                )
            time.sleep(0.1)
        if not answer.get("accepted"):
            raise Refused(str(answer["text"]), "See what runs: tidegate status")
        return Asked(self, state, spec.plane, began, str(answer["text"]), str(answer.get("release", "")))


@dataclass(frozen=True)
class Asked:
    """A request that the agent took up."""

    asking: Asking
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

    def follow(self, end: str = "rolled-back", also: Collection[str] = ()) -> None:
        """Print what happens to the release until an event of kind `end`. Raises Refused, PlatformError.

        `also` are further kinds that are followed whichever release they name.
        """
        from tidegate.adapters.sqlite import read_events

        told: set[tuple[float, str]] = set()
        while time.time() - self.began < self.asking.timeout:
            for event in read_events(self.state, self.plane, 20):
                # Another rollback of this model may end meanwhile: only what was asked for here is told.
                mine = event.model == self.asking.model and (
                    event.release == self.release or event.kind in also
                )
                if event.at < self.began or not mine or (event.at, event.kind) in told:
                    continue
                told.add((event.at, event.kind))
                if not self.asking.as_json:
                    typer.echo(f"{event.at - self.began:5.1f} s  {event.text}")
                if event.kind == "gave-up" or (event.kind == "unloaded" and end == "loaded"):
                    raise Refused(event.text, "See what runs: tidegate status")
                if event.kind == end:
                    took = round(event.at - self.began, 2)
                    said = {"release": event.release, "text": event.text, "took_s": took}
                    typer.echo(json.dumps(said)) if self.asking.as_json else None
                    return
            time.sleep(0.2)
        raise PlatformError(
            f"asked, but not finished after {self.asking.timeout:.0f} s{self._why()}",
            "Follow it: tidegate status --watch; it goes on.",
        )

    def _why(self) -> str:
        """Return what the agent says that keeps the release from it, as the end of a sentence."""
        from tidegate.adapters.sqlite import read_planes

        problems = read_planes(self.state).get(self.plane, {}).get("status", {}).get("problems", ())
        found = [str(problem) for problem in problems if self.release in str(problem)]
        return f": {'; '.join(found)}" if found else ""


def state_path(checkout: Path) -> Path:
    """Return the file of the agents' state, for readers without a lease."""
    from tidegate import wiring

    return wiring.state_path(wiring.platform(checkout, "production"), wiring.home(checkout))
