"""What commands on gates share: names that must be known, and 3 where nobody could look."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from tidegate import gating, params
from tidegate.core.verdict import Verdict
from tidegate.errors import ConfigError, TidegateError, suggest

P = ParamSpec("P")
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml; not needed with one.")]
COLORS = {"PASS": "green", "FAIL": "red", "ERROR": "magenta", "INCONCLUSIVE": "yellow"}


def or_three(command: Callable[P, None]) -> Callable[P, None]:
    """Exit with 3 where nobody could look: 1 means FAIL here."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except TidegateError as problem:
            typer.secho(f"tidegate: {problem}", err=True, fg="red")
            raise typer.Exit(Verdict.ERROR.exit_code) from problem

    return wrapped


def known_gate(root: Path, name: str) -> str:
    """Return a gate's name. Raises ConfigError, with the closest one."""
    known = gating.names(root)
    if name not in known:
        raise ConfigError(f"no gate is called `{name}`", suggest(name, known))
    return name


def known_model(read: params.Params, given: str) -> str:
    """Return the model that was named, or the only one. Raises ConfigError."""
    if given or len(read.models) == 1:
        return read.known(given or read.models[0])
    raise ConfigError(f"there are {len(read.models)} models", f"Name one of: {', '.join(read.models)}.")
