"""The command-line program: parses, prints, maps errors to exit codes; no decisions.

Each group of commands lives in `tidegate/commands/` and adds itself by `register(app)`.
"""

from __future__ import annotations

import importlib
import sys

import typer

from tidegate.errors import TidegateError

GROUPS = (
    "planes",
    "status",
    "rollouts",
    "releases",
    "outcomes",
    "predictions",
    "model",
    "images",
    "features",
    "tune",
    "gates",
    "forge",
    "pulls",
    "report",
    "history",
    "explain",
    "replay",
    "ui",
    "demo",
)

app = typer.Typer(
    name="tidegate",
    help="GitOps continuous delivery for machine-learning models.",
    epilog="Start with `tidegate demo`, or `tidegate doctor` to see what this machine lacks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the program; one line for an expected error, exit code 1; 130 after Ctrl-C."""
    for group in GROUPS:
        importlib.import_module(f"tidegate.commands.{group}").register(app)
    try:
        app()
    except TidegateError as error:
        typer.secho(f"tidegate: {error}", err=True, fg="red")
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("tidegate: interrupted", err=True)
        sys.exit(130)
