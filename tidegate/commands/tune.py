"""`tidegate tune`: measures how a model is best served on this machine, and writes it into its settings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate import wiring
from tidegate.errors import ConfigError, Refused

if TYPE_CHECKING:
    from tidegate.core.tuning import Choice, Row, Setting
    from tidegate.tuning import Plan, Subject

Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml.")]


def tune(
    model: Model,
    p99: Annotated[float, typer.Option(help="Milliseconds that p99 may be.")] = 15.0,
    connections: Annotated[str, typer.Option(help="Callers at once, a list.")] = "8,32,64",
    seconds: Annotated[float, typer.Option(help="How long each is measured.")] = 2.0,
    cores: Annotated[int, typer.Option(help="Processes × threads at most (default: this machine's).")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and tell; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure threads, processes and batches, and write the best into services/<model>/settings.yaml.

    The highest rate whose p99 keeps the cap wins; a simpler setting within the noise is preferred, and so
    no batches. Example: tidegate tune my-model --p99 15
    """
    from tidegate import tuning

    checkout = wiring.find_checkout()
    asked = tuning.Plan(p99, _numbers(connections), _positive(seconds, "--seconds"), cores or _cores())
    _positive(p99, "--p99")
    subject = tuning.Subject.find(checkout, model)
    with _progress(model, tuning.steps(asked)) as say:
        choice = tuning.tune(subject, asked, say)
    changed = tuning.write(subject, choice.setting, dry=dry_run) if choice.setting else {}
    if as_json:
        typer.echo(json.dumps(_document(model, asked, choice, changed, dry_run), indent=2))
    else:
        _show(subject, asked, choice, changed, dry_run)
    if choice.setting is None:
        raise Refused(choice.reason, "Nothing was written. Raise --p99, or ask with fewer --connections.")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1 or found[-1] > 4096:
        raise ConfigError(f"--connections {text} is no list of numbers", "Write it like 8,32,64.")
    return found


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise ConfigError(f"{name} must be more than 0, not {value:g}", "Leave it out for the usual.")
    return value


def _cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(model: str, steps: int) -> Iterator[Callable[[str], None]]:
    """Show on a terminal how far it is; a line each where there is none."""
    if not sys.stderr.isatty():
        yield lambda text: typer.echo(f"measuring {text}", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"tuning {model}", total=steps)
        begun = [0]

        def say(text: str) -> None:
            bar.update(task, description=f"{model}: {text}", completed=begun[0])
            begun[0] += 1

        yield say


# ---------------------------------------------------------------- what is told
def _document(
    model: str, plan: Plan, choice: Choice, changed: dict[str, tuple[Any, Any]], dry_run: bool
) -> dict[str, Any]:
    rows = [
        {
            **asdict(row.setting),
            "gain": row.gain if row.gain != float("inf") else None,
            "rate": row.best.rate if row.best else None,
            "points": [asdict(point) for point in row.points],
        }
        for row in choice.rows
    ]
    return {
        "model": model,
        "p99_cap_ms": plan.cap,
        "cores": plan.cores,
        "seconds": plan.seconds,
        "noise": choice.noise,
        "chosen": asdict(choice.setting) if choice.setting else None,
        "reason": choice.reason,
        "tried": rows,
        "changed": {key: {"from": old, "to": new} for key, (old, new) in changed.items()},
        "written": bool(changed) and not dry_run,
        "replicas": choice.setting.workers if choice.setting else None,
    }


def _show(
    subject: Subject, plan: Plan, choice: Choice, changed: dict[str, tuple[Any, Any]], dry_run: bool
) -> None:
    from rich.console import Console

    from tidegate.core.tuning import NOISY

    console = Console()
    (console if console.is_terminal else Console(width=200)).print(_table(plan, choice))
    typer.echo(_plot(choice.rows, console.is_terminal))
    if choice.setting is None:
        return
    typer.echo(f"\nchosen    {choice.reason}")
    if choice.noise > NOISY:
        typer.secho(
            f"          the same setting's own runs lay {choice.noise:.0%} apart: measure again on a quieter "
            "machine, or longer (--seconds)",
            fg="yellow",
        )
    _told(subject, choice.setting, changed, dry_run)


def _told(subject: Subject, setting: Setting, changed: dict[str, tuple[Any, Any]], dry_run: bool) -> None:
    from tidegate import settings

    path = settings.place(subject.checkout, subject.model).relative_to(subject.checkout)
    told = ", ".join(f"{key} {old} → {new}" for key, (old, new) in changed.items())
    verb = "would say" if dry_run else "says now"
    typer.echo(f"settings  {path} {verb}: {told}" if told else f"settings  {path} says so already")
    now = wiring.platform(subject.checkout, "production").workloads.replicas
    typer.echo(
        f"planes    workloads: {{replicas: {setting.workers}}} in envs/<environment>/platform.yaml "
        f"carries it on a machine like this one (production has {now})"
    )


def _table(plan: Plan, choice: Choice) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"Requests/s (p99 in ms) by connections; what keeps p99 ≤ {plan.cap:g} ms counts"
    table.add_column("setting", no_wrap=True)
    for count in plan.connections:
        table.add_column(str(count), justify="right", no_wrap=True)
    for column in ("rows at once", "beside the simplest"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in choice.rows:
        cells = [f"{point.rate:,.0f} ({point.p99:.3g})" for point in row.points]
        batch = max((point.batch for point in row.points), default=0.0)
        gain = "–" if not row.gain or row.gain == float("inf") else f"{row.gain:.2f}"
        mark = "bold green" if row.setting == choice.setting else ""
        table.add_row(str(row.setting), *cells, f"{batch:.1f}" if batch else "–", gain, style=mark)
    return table


_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")


def _plot(rows: tuple[Row, ...], coloured: bool) -> str:
    """Draw rate by connections, a line a setting."""
    import shutil

    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(min(100, shutil.get_terminal_size((100, 24)).columns), 16)
    figure.legend(False)
    told = []
    for turn, row in enumerate(rows):
        letter, colour = "abcdefghijklmnopqrstuvwxyz"[turn % 26], _COLOURS[turn % len(_COLOURS)]
        marker = plotext.marker("braille" if coloured else letter).fill(colour)
        spots = [(float(point.connections), point.rate) for point in row.points]
        signal = figure.signal([x for x, _ in spots], [y for _, y in spots], marker=marker)
        figure.draw(signal.lines())
        sign = typer.style("━", fg=colour) if coloured else letter
        told.append(f"    {sign} {row.setting}")
    figure.title("requests/s by connections")
    figure.ruler("y").lim(0.0, max((point.rate for row in rows for point in row.points), default=1.0))
    return "\n".join([str(figure.build().string(not coloured)).rstrip(), *told])


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    app.command()(tune)
