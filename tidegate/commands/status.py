"""The `status` command: what runs where, as a tree that can be followed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

PERIOD = 0.5  # seconds between two looks at what the agents stored
PIPE_WIDTH = 400  # columns where there is no terminal: a line is a line


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --watch a line a change.")
    ] = False,
) -> None:
    """Show what runs where: releases, rollout steps, weights, and each check with both numbers.

    Example: tidegate status --watch
    """
    from tidegate import wiring
    from tidegate.ui.seen import snapshot

    checkout = wiring.find_checkout()
    if watch:
        _follow(checkout, as_json)
    elif as_json:
        from tidegate.commands.releases import loaded

        typer.echo(json.dumps({**snapshot(checkout), "releases": loaded(checkout)}, indent=2))
    else:
        from tidegate.ui.terminal import render

        _console().print(render(snapshot(checkout)))


def _console() -> Any:
    """Return a console; where there is no terminal nothing is cut to the width of one."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _follow(checkout: Path, as_json: bool) -> None:
    """Draw again and again; Ctrl-C is how it ends, so it is no error."""
    try:
        if as_json or not sys.stdout.isatty():
            _print_changes(checkout, as_json)
        else:
            _redraw(checkout)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # e.g. `| head`
        sys.stderr.close()


def _documents(checkout: Path) -> Iterator[dict[str, Any]]:
    """Give what runs, again and again; what can't be read is a problem of the last one that could."""
    from tidegate.errors import TidegateError
    from tidegate.ui.seen import snapshot

    found: dict[str, Any] = {"planes": []}
    while True:
        try:
            found = snapshot(checkout)
            yield found
        except TidegateError as error:
            yield {**found, "planes": [*found["planes"], {"plane": "this machine", "problems": [str(error)]}]}
        time.sleep(PERIOD)


def _print_changes(checkout: Path, as_json: bool) -> None:
    """Print each change: a line of JSON, or the tree under the time of day."""
    from tidegate.ui.terminal import render

    console, last = _console(), None
    for found in _documents(checkout):
        news = {key: value for key, value in found.items() if key != "at"}
        if news == last:
            continue
        last = news
        if as_json:
            typer.echo(json.dumps(found))
        else:
            console.rule(time.strftime("%H:%M:%S"), align="left")
            console.print(render(found))
        sys.stdout.flush()


def _redraw(checkout: Path) -> None:
    """Draw over the last picture on the terminal's other screen: nothing is cleared, so nothing flickers.

    Terminals that can (DEC mode 2026) show a picture only when it is whole; others pass over the words.
    """
    from rich.live import Live

    from tidegate.ui.terminal import Fitted, render

    console = _console()
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False) as live:
        for found in _documents(checkout):
            sys.stdout.write("\x1b[?2026h")
            live.update(Fitted(render(found)), refresh=True)
            sys.stdout.write("\x1b[?2026l")
            sys.stdout.flush()


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    app.command()(status)
