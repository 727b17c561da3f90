"""Commands on the log of predictions: `tidegate predictions query`, `compact`, `erase`, and `show`."""

from __future__ import annotations

import csv
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.commands import precompute, prediction_show
from tidegate.commands.environments import known_environment
from tidegate.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from tidegate.adapters.predictions import PredictionStore, Table
    from tidegate.config import Platform

_Environment = Annotated[str, typer.Option("--env", "-e", help="Whose platform.yaml names the log.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, with a header.")]
_Rows = Annotated[int, typer.Option("--rows", min=1, max=1_000_000, help="Rows that are shown at most.")]
_Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="How long the answer may take.")]
_Sql = Annotated[str, typer.Argument(help="One SELECT, in DuckDB's SQL.", metavar="SQL")]
_Model = Annotated[str, typer.Argument(help="The model whose predictions they are.")]
_Key = Annotated[str, typer.Option("--key", help="A field of the request (plane.year), or request_id.")]
_Value = Annotated[str, typer.Option("--value", help="What the field says of the subject.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")]

SHOWN = 200  # rows of a table on a screen, unless more are asked for


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    group = typer.Typer(help="Ask, keep in order and erase the log of predictions.", no_args_is_help=True)
    group.command()(query)
    group.command()(compact)
    group.command()(prediction_show.show)
    group.command()(erase)
    group.command()(precompute.precompute)
    group.command(hidden=True)(keep)
    app.add_typer(group, name="predictions")


def _store(environment: str) -> tuple[PredictionStore, Platform]:
    from tidegate import wiring

    checkout = wiring.find_checkout()
    spec = wiring.platform(checkout, known_environment(environment))
    return wiring.predictions(spec, wiring.home(checkout)), spec


# ---------------------------------------------------------------- asking
def query(
    sql: _Sql,
    environment: _Environment = "production",
    rows: _Rows = SHOWN,
    seconds: _Seconds = 30.0,
    as_json: _Json = False,
    as_csv: _Csv = False,
) -> None:
    """Ask the log by SQL: predictions, outcomes, and labelled (a prediction with each of its outcomes).

    A feature is features.age, an answer's field prediction.score, what was sent inputs->>'user';
    each has model, day, time (UTC), release, arm, source, latency_ms. It is only read.

    Example: tidegate predictions query "SELECT release, count(*), avg(prediction.score) FROM
    predictions WHERE day = current_date AND features.age > 17 GROUP BY release"
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv are two forms", "Choose one.")
    store, _ = _store(environment)
    found = store.query(sql, rows=rows, seconds=seconds)
    if as_json:
        named = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
        typer.echo(json.dumps({"rows": named, "more": found.more}, indent=2, default=_written))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(found.columns)
        writer.writerows([[_cell(value) for value in row] for row in found.rows])
    else:
        _print(found)
    if found.more:
        typer.secho(f"there are more than {rows} rows: see more of them by --rows", err=True, fg="yellow")


def _print(found: Table) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid()
    numbers = ("INT", "FLOAT", "DOUBLE", "DECIMAL", "BIGINT", "HUGEINT")
    for name, kind in zip(found.columns, found.types, strict=True):
        right = kind.endswith(numbers) or kind.startswith("DECIMAL")
        grid.add_column(escape(name), justify="right" if right else "left", overflow="fold")
    for row in found.rows:
        grid.add_row(*(escape(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else 200).print(grid)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, default=_written)
    return value if isinstance(value, str) else str(_written(value))


def _written(value: Any) -> Any:
    """Return a value of SQL as JSON can say it."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    return value if isinstance(value, (int, float, bool)) else str(value)


# ---------------------------------------------------------------- keeping
def compact(environment: _Environment = "production", as_json: _Json = False) -> None:
    """Turn what services have written into Parquet, merge small files, and forget what is too old.

    The planes' agents do so every minute; it does no harm beside them. Example: tidegate predictions compact
    """
    store, spec = _store(environment)
    converted = store.convert()
    compacted = store.compact()
    forgotten = store.retain(float(spec.predictions.retain) / 86400)
    if as_json:
        document = {
            "converted": converted.predictions,
            "segments": converted.segments,
            "lost_bytes": converted.lost_bytes,
            "damaged": list(converted.damaged),
            "merged": {"before": compacted.before, "after": compacted.after},
            "forgotten_files": forgotten,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(f"{converted.predictions} predictions of {converted.segments} segments became Parquet")
    typer.echo(f"{compacted.before} files became {compacted.after}, {forgotten} were forgotten")
    if converted.lost_bytes:
        typer.echo(f"{converted.lost_bytes} bytes were cut short by a crash of a service")
    for name in converted.damaged:
        typer.secho(f"{name} can't be read and was set aside", err=True, fg="yellow")


def keep(
    folder: Annotated[Path, typer.Argument(help="The log.")],
    settle: Annotated[float, typer.Option(help="Seconds that a segment may grow.")] = 30.0,
    days: Annotated[float, typer.Option(help="Days that are kept.")] = 90.0,
    outcomes: Annotated[Path | None, typer.Option(help="The file of outcomes, kept as long.")] = None,
    parent: Annotated[int, typer.Option(help="End at once when this process no longer is the parent.")] = 0,
) -> None:
    """Do what an agent does for the log each minute, unless somebody else is at it.

    Example: tidegate predictions keep .tidegate/predictions --days 90
    """
    from tidegate import wiring
    from tidegate.machine import processes

    if parent:
        processes.end_with(parent)
    store = wiring.prediction_log(folder, outcomes)
    try:
        converted = store.convert(settle=settle, wait=0.0)
        store.compact(wait=0.0)
        store.retain(days, wait=0.0)
        if outcomes is not None:
            wiring.prune_outcomes(outcomes, days * 86400)
    except Unreachable:  # two agents share a home: the other one does it
        return
    if converted.damaged:
        raise ConfigError(f"segments can't be read: {', '.join(converted.damaged)}", "They were set aside.")


# ---------------------------------------------------------------- erasing
def erase(
    model: _Model,
    key: _Key,
    value: _Value,
    environment: _Environment = "production",
    yes: _Yes = False,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> None:
    """Erase all predictions of a subject, and their outcomes; a field of its requests or an id names it.

    What stays is when, how many, and a keyed hash of the value. Example: tidegate predictions erase
    my-model --key user --value 42
    """
    store, _ = _store(environment)
    if not yes and not dry_run:
        would = store.erase(model, key, value, dry_run=True)
        typer.echo(f"{would.predictions} predictions of {model} where {key} is {value}", err=True)
        if would.predictions:
            typer.confirm("Erase them for good?", abort=True, err=True)
    found = store.erase(model, key, value, dry_run=dry_run)
    if as_json:
        document = {"predictions": found.predictions, "files": found.files, "outcomes": found.outcomes}
        document |= {"dry_run": dry_run}
        typer.echo(json.dumps(document, indent=2))
    else:
        verb = "would be erased" if dry_run else "erased"
        typer.echo(f"{found.predictions} predictions {verb} from {found.files} files")
        if found.outcomes:
            typer.echo(f"{found.outcomes} outcomes of theirs went with them")
