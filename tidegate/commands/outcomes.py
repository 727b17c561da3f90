"""The command that says what came of a request: what A/B tests and bandits are decided by."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tidegate.errors import ConfigError
from tidegate.outcomes import Few, Kept

Request = Annotated[str, typer.Argument(help="The request's id: x-request-id of its answer.", metavar="ID")]
Name = Annotated[str, typer.Option("--name", help="Which outcome, as rollout.yaml calls it.")]
Value = Annotated[str, typer.Option("--value", help="1 if it happened, 0 if not; or what number came of it.")]
File = Annotated[str, typer.Option("--file", help="A .csv (id,name,value) or .jsonl of many; - is stdin.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("outcome")(outcome)


def outcome(
    request: Request = "", name: Name = "", value: Value = "", file: File = "", as_json: Json = False
) -> None:
    """Say what came of a request that a model answered; a second word on the same one changes nothing.

    Example: tidegate outcome 3f1c9b20-77aa-4bd0-9d36-0a6c8f6e5b11 --name converted --value 1
    """
    from tidegate import outcomes, wiring
    from tidegate.adapters.outcomes import FILE, SqliteOutcomes

    if bool(request) == bool(file):
        raise ConfigError("say of one request, or of a file", "Give a request's id, or --file.")
    if file and value:
        raise ConfigError("--value goes with one request", "Write the values into the file.")
    if file:
        said = outcomes.read(_text(file), "stdin" if file == "-" else file, name)
    else:
        said = [outcomes.parse({"id": request, "name": name, "value": value}, "")]
    checkout = wiring.find_checkout()
    where, spec = wiring.home(checkout), wiring.platform(checkout, "production")
    log = wiring.predictions(spec, where) if wiring.predictions_path(spec, where).is_dir() else None
    store = SqliteOutcomes(where.root / FILE)
    try:
        kept = outcomes.keep(store, said, log, float(spec.predictions.retain))
    finally:
        store.close()
    if as_json:
        typer.echo(json.dumps(kept.as_dict()))
    else:
        _print(kept)


def _print(kept: Kept) -> None:
    old = kept.said - kept.new
    typer.echo(f"{kept.new} kept" + (f", {old} known already" if old else ""))
    for few, text in (
        (kept.conflicting, "said before otherwise, which stays"),
        (kept.late, "late: after the window of their experiment, or after predictions are kept"),
        (
            kept.unknown or Few(),
            "unknown, and kept: neither the log of predictions nor a journal has them",
        ),
    ):
        if few.count:
            more = ", …" if few.count > len(few.first) else ""
            typer.secho(f"{few.count} {text}: {', '.join(few.first)}{more}", fg="yellow")
    if kept.note:
        typer.secho(kept.note, err=True)


def _text(file: str) -> str:
    """Return a file's text, or what is piped in."""
    try:
        return sys.stdin.buffer.read().decode() if file == "-" else Path(file).read_text()
    except UnicodeDecodeError as error:
        raise ConfigError("it is not UTF-8 text", "Write it as CSV or JSON lines.", where=file) from error
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", "See that it is there.", where=file) from error
