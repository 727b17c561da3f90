"""The `ui` command: pages for a browser on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def ui(
    port: Annotated[
        int, typer.Option(help="The port.", min=0, show_default="ui.port of envs/platform.yaml")
    ] = 0,
    in_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON.")] = False,
) -> None:
    """Show what runs, rollouts with their evidence, history and reports as pages, until Ctrl-C.

    It listens on this machine only. Whoever has the printed link may approve, pause, resume, abort and
    roll back; without it the pages are read-only. Programs find the token in the home's file `ui.token`.

    Example: tidegate ui --open
    """
    import json

    from tidegate import wiring
    from tidegate.ui.server import open_browser, serve

    checkout = wiring.find_checkout()
    home = wiring.home(checkout)

    def told(address: str, link: str) -> None:
        if as_json:
            typer.echo(json.dumps({"url": address, "link": link}))
        else:
            typer.echo(f"Reading:  {address}")
            typer.echo(f"Acting:   {link}")
            typer.echo("Ctrl-C ends it.")
        if in_browser:
            open_browser(home.root, link)

    serve(checkout, port or wiring.platform(checkout, "production").ui.port, told)


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    app.command()(ui)
