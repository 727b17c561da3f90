"""`tidegate gate selftest`: every gate against seeded faults."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate import gating, params, wiring
from tidegate.commands.known import COLORS, Json, Model, known_gate, known_model, or_three

if TYPE_CHECKING:
    from tidegate.selftest.crew import Tell
    from tidegate.selftest.runner import Result


@or_three
def selftest(
    model: Model = "",
    gates: Annotated[
        list[str] | None, typer.Option("--gate", help="Only this gate; may be repeated.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="So many gates at once; those that time things run alone.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run every gate against seeded faults, made of the real data and service that `dvc repro` left here.

    Exits 0 if each verdict is the expected one, none is PASS, and each gate passes where nothing is broken.
    A fault that the model can't have is told as not applicable, and enough must be caught all the same.
    Example: tidegate gate selftest --gate data
    """
    from tidegate.selftest import crew, runner

    root = wiring.find_checkout()
    chosen = known_model(params.load(root, gating.names(root)), model)
    for name in gates or ():
        known_gate(root, name)
    suites = [runner.suite(root, name) for name in gating.names(root) if name in (gates or (name,))]
    bare = crew.bare(suites)
    with _progress(sum(1 + len(one.faults) for one in suites)) as tell:
        team = crew.Crew(root, wiring.home(root), chosen, jobs or os.cpu_count() or 1, tell=tell)
        results = team.run(suites)
    # A control that passes is no fault: the list holds it only where it does not.
    listed = [one for one in results if not (one.is_control and one.as_expected)]
    if as_json:
        print(json.dumps([_as_dict(one) for one in listed], indent=1))
    else:
        _table(results)
        typer.echo(crew.counted(results))
    for name in bare:
        typer.secho(f"{name} has no fault: nothing shows that it can fail", err=True, fg="red")
    thin = runner.thin(suites, results)
    for name, why in thin.items():
        typer.secho(f"{name}: {why}", err=True, fg="red")
    if bare or thin or not results or not all(one.as_expected for one in results):
        raise typer.Exit(1)


def _as_dict(one: Result) -> dict[str, Any]:
    return {
        "gate": one.gate,
        "fault": one.fault,
        "verdict": one.verdict and str(one.verdict),
        "expected": str(one.expected),
        "reason": one.reason,
        "applies": one.applies,
    }


@contextmanager
def _progress(total: int) -> Iterator[Tell]:
    """Show on a terminal how far the selftest is, by what it is told."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda one: bar.update(task, advance=1, description=f"{one.gate}: {one.fault}")


def _short(reason: str) -> str:
    return reason if len(reason) <= 300 else f"{reason[:300]}…"


def _table(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("gate", "fault", "verdict", "expected", "", "seconds"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    for one in results:
        verdict = one.verdict.words if one.verdict else "none"
        color = COLORS.get(str(one.verdict), "")
        mark = "[green]✓[/]" if one.as_expected else "[bold red]✗[/]"
        mark = mark if one.applies else "–"
        shown = f"[{color}]{verdict}[/]" if color else verdict
        table.add_row(one.gate, escape(one.fault), shown, one.expected.words, mark, f"{one.seconds:.1f}")
        if not one.applies:
            table.add_row("", escape(_short(one.reason)), "", "", "", "")
        elif not one.as_expected:
            table.add_row("", f"[red]{escape(_short(one.reason))}[/]", "", "", "", "")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
