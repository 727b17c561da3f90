"""`tidegate history` (what ran when) and `tidegate doctor` (what this machine lacks)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate import wiring
from tidegate.commands.environments import known_environment
from tidegate.core.history import Entry, Kind, Revision, entries, iso, parse_moment, running_at
from tidegate.errors import ConfigError, PlatformError, Unreachable

if TYPE_CHECKING:
    from tidegate.doctor import Check

_Environment = Annotated[str, typer.Option("--env", "-e", help="staging, canary or production")]
_At = Annotated[
    str, typer.Option("--at", help="a date (the end of that day, UTC) or an ISO time: what ran then")
]
_Model = Annotated[str, typer.Option("--model", "-m", help="only this model")]
_Json = Annotated[bool, typer.Option("--json", help="print JSON")]
_Fetch = Annotated[bool, typer.Option(help="ask the remote for newer commits first")]
_MARKS = {
    Kind.PROMOTED: "green",
    Kind.ROLLED_BACK: "red",
    Kind.REMOVED: "yellow",
    Kind.SWITCHED: "cyan",
}


def history(
    environment: _Environment = "production",
    at: _At = "",
    model: _Model = "",
    as_json: _Json = False,
    fetch: _Fetch = True,
) -> None:
    """Say what ran where and when, from Git alone.

    Example: tidegate history --env production --at 2026-11-20
    """
    known_environment(environment)
    moment = _moment(at)
    checkout = wiring.find_checkout()
    revisions = _revisions(checkout, environment, fetch)
    found = [entry for entry in entries(environment, revisions) if model in ("", entry.model)]
    if moment is not None:
        found = running_at(found, moment)
    problems = [revision for revision in revisions if revision.models is None]
    if as_json:
        document = {
            "environment": environment,
            "at": None if moment is None else iso(moment),
            "entries": [entry.as_dict() for entry in found],
            "problems": [{"commit": p.commit, "at": iso(p.at), "problem": p.problem} for p in problems],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    _print(environment, found, moment)
    for revision in problems:
        typer.secho(
            f"commit {revision.commit[:8]} changed nothing: {revision.problem}", err=True, fg="yellow"
        )


def _moment(at: str) -> float | None:
    if not at:
        return None
    try:
        return parse_moment(at)
    except ValueError as error:
        raise ConfigError(
            f"`{at}` is no date", "Write it like 2026-11-20 or 2026-11-20T14:30:00+01:00."
        ) from error


def _revisions(checkout: Path, environment: str, fetch: bool) -> list[Revision]:
    """Read the commits; a remote that does not answer is said, and what is here is read."""
    from tidegate.adapters.git import log_releases, refresh

    spec = wiring.platform(checkout, environment).repository
    if fetch:
        try:
            refresh(checkout, spec.remote, spec.branch)
        except Unreachable as error:
            typer.secho(f"tidegate: {error}", err=True, fg="yellow")
    return log_releases(checkout, environment, remote=spec.remote, branch=spec.branch)


def _print(environment: str, found: list[Entry], moment: float | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    when = "" if moment is None else f" at {iso(moment)}"
    if not found:
        typer.echo(f"Git names no release in {environment}{when}.")
        return
    table = Table(title=f"{environment}{when}, as Git says", title_justify="left")
    for column in ("model", "release", "from", "until", "what", "by", "commit", "why"):
        table.add_column(column, overflow="fold", no_wrap=column in ("release", "from", "until", "commit"))
    for entry in found:
        colour = _MARKS[entry.kind]
        approved = f", approved by {entry.approved_by}" if entry.approved_by else ""
        table.add_row(
            entry.model,
            entry.release or "none",
            iso(entry.start).replace("T", " "),
            "now" if entry.end is None else iso(entry.end).replace("T", " "),
            f"[{colour}]{entry.kind}[/]",
            escape(f"{entry.author}{approved}"),
            entry.commit[:8],
            escape(" ".join(part for part in (entry.verdict, entry.why) if part)),
        )
    # Into a file or a pipe, a line is a line: nothing is cut to the width of a terminal that isn't there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def doctor(as_json: _Json = False) -> None:
    """Say what is missing on this machine, and how to get it; exit code 1 if something required is.

    Example: tidegate doctor
    """
    from tidegate.doctor import examine

    checks = examine(_checkout())
    if as_json:
        typer.echo(json.dumps({"checks": [check.as_dict() for check in checks]}, indent=2))
    else:
        for check in checks:
            _print_check(check)
    if not all(check.ok or not check.required for check in checks):
        raise typer.Exit(1)


def _checkout() -> Path | None:
    try:
        return wiring.find_checkout()
    except (ConfigError, PlatformError):
        return None


def _print_check(check: Check) -> None:
    mark, colour = ("✔", "green") if check.ok else ("✘", "red") if check.required else ("!", "yellow")
    typer.secho(f"{mark} ", fg=colour, nl=False)
    typer.echo(f"{check.name}: {check.found}")
    if not check.ok:
        typer.echo(f"    {check.action}")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(history)
    app.command()(doctor)
