"""`tidegate explain`: what a rollout was decided by, look by look."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.errors import ConfigError, NoData, suggest

if TYPE_CHECKING:
    from tidegate.adapters.recordings import FileRecorder
    from tidegate.core.recording import Recording
    from tidegate.core.timeline import Course

WIDTH = 100  # columns of a plot at most
LOWEST = -2.0  # the power of ten at which a plot of evidence begins
_COLOURS = {"FAIL": "red", "breach": "red", "PASS": "green", "verified": "green", "rolled-back": "red"}


def recorder() -> FileRecorder:
    """Return the recordings of this checkout's home."""
    from tidegate import wiring
    from tidegate.adapters.recordings import FileRecorder

    return FileRecorder(wiring.home(wiring.find_checkout()).root / "recordings")


def find(named: str) -> tuple[str, Recording]:
    """Return (name, recording) of a file, a name, a release id's beginning, or `latest`.

    Raises NoData, and ConfigError for a file that is none or a beginning that several releases share.
    """
    from tidegate.adapters.recordings import read_lines

    path = Path(named)
    if path.suffix == ".jsonl" or path.is_file():
        return path.name, read(str(path), read_lines(path))
    kept = recorder()
    name = _chosen(named, kept.list())
    return name, read(name, kept.read(name))


def _chosen(named: str, names: Sequence[str]) -> str:
    if not names:
        raise NoData("no rollout was recorded yet", "Promote a release, with `tidegate up` running.")
    if named == "latest" or named in names:
        return names[0] if named == "latest" else named
    releases = {name: name.rsplit("/", 1)[-1].split("-", 1)[-1] for name in names}
    found = [name for name in names if releases[name].startswith(named) or name.endswith(named)]
    if not found:
        raise ConfigError(
            f"no recording is called `{named}`", suggest(named, names, "List them: tidegate explain")
        )
    if len({releases[name].rsplit("-", 1)[0] for name in found}) > 1:
        raise ConfigError(f"`{named}` begins several releases", f"Name one of: {', '.join(found[:8])}.")
    return found[0]


def read(name: str, lines: Sequence[Mapping[str, Any]]) -> Recording:
    """Return a recording of its lines. Raises ConfigError, with the first that is not one of it."""
    from tidegate.core.recording import NotARecording, parse

    try:
        return parse(lines)
    except NotARecording as problem:
        raise ConfigError(f"is no recording: {problem}", "Name another.", where=name) from problem


def explain(
    rollout: Annotated[
        str, typer.Argument(help="a recording's name or file, a release id's beginning, or `latest`")
    ] = "",
    png: Annotated[Path | None, typer.Option(help="Write the plot as a PNG there.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plot and tables there.")] = None,
    plot: Annotated[bool, typer.Option(help="Draw in the terminal.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a rollout was decided by: each look's evidence and limit, events, the end and why.

    Without an argument it lists what was recorded. Example: tidegate explain latest --html rollout.html
    """
    if not rollout:
        _list(as_json)
        return
    from tidegate.report import evidence, explained

    name, recording = find(rollout)
    if png:
        _write(png, evidence.png(recording))
    if html:
        _write(html, explained.page(recording).encode())
    if as_json:
        typer.echo(json.dumps({"name": name, **explained.document(recording)}, indent=2))
        return
    _print(recording)
    if plot and recording.looks:
        typer.echo(draw(recording))
    for path in (png, html):
        if path:
            typer.echo(f"written: {path}")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as problem:
        raise ConfigError(
            f"can't be written: {problem.strerror}", "Name another.", where=str(path)
        ) from problem


def _list(as_json: bool) -> None:
    kept = recorder()
    found = [{"name": name, **kept.ending(name)} for name in kept.list()]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif not found:
        typer.echo("no rollout was recorded yet: they are while `tidegate up` runs")
    for each in [] if as_json else found:
        typer.secho(f"{each['phase']:<12}", fg=_COLOURS.get(each["verdict"]), nl=False)
        typer.echo(f" {each['name']}")


# ---------------------------------------------------------------- in the terminal
def _print(recording: Recording) -> None:
    from rich.console import Console
    from rich.text import Text

    from tidegate.core.timeline import courses
    from tidegate.report import explained

    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(Text(explained.headline(recording), style="bold"))
    console.print(Text(explained.ending(recording)))
    if recording.full:
        console.print(Text("the recording grew too large: later looks were left out", style="yellow"))
    rows = [(row.cells, row.kind) for row in explained.timeline(recording)]
    console.print(_table("Timeline", explained.COLUMNS, rows))
    checks = [(explained.check_cells(each), each.verdict) for each in courses(recording)]
    if checks:
        console.print(_table("Checks", explained.CHECK_COLUMNS, checks))


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for cells, kind in rows:
        table.add_row(*(Text(cell) for cell in cells), style=_COLOURS.get(kind, ""))
    return table


def draw(recording: Recording, coloured: bool | None = None) -> str:
    """Return the evidence, and the rate of the part nearest to failing, drawn with letters."""
    from tidegate.core.timeline import courses

    found = courses(recording)
    coloured = sys.stdout.isatty() if coloured is None else coloured
    decisive = max(found, key=lambda each: max(p.log_evidence for p in each.points) - 1000 * each.dry_run)
    drawn = [_evidence(found, coloured), _rate(decisive, coloured)]
    return "\n\n".join(each for each in drawn if each)


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    colour: str
    spots: list[tuple[float, float]]


_ANSI = {"gray": "bright_black", "orange": "yellow"} | {
    c: c for c in ("blue", "green", "magenta", "cyan", "red")
}
_LINES = ("blue", "orange", "green", "magenta", "cyan", "gray")


def _evidence(found: Sequence[Course], coloured: bool) -> str:
    goals = [math.log10(each.threshold) for each in found if each.threshold > 0]
    top = max(goals, default=2.0) + 1
    lines = [
        Line(
            each.name,
            _LINES[turn % len(_LINES)],
            [(p.after, min(max(p.log_evidence / math.log(10), LOWEST), top)) for p in each.points],
        )
        for turn, each in enumerate(found)
    ]
    ends = (found[0].points[0].after, found[0].points[-1].after)
    lines += [Line("fails at", "red", [(after, goal) for after in ends]) for goal in sorted(set(goals))[:1]]
    ticks = [*range(int(LOWEST), int(top) + 1)]
    return _plot("evidence against the release", lines, (LOWEST, top), ticks, coloured)


def _rate(course: Course, coloured: bool) -> str:
    known = [p for p in course.points if p.observed is not None]
    if not known:
        return ""
    top = 1.6 * max(100 * max(p.observed or 0, p.limit or 0) for p in known)
    told = (
        ("at most", "gray", [p.high for p in known]),
        ("seen", "blue", [p.observed for p in known]),
        ("at least", "gray", [p.low for p in known]),
        ("limit", "red", [p.limit for p in known]),
    )
    lines = [
        Line(
            name,
            colour,
            [(p.after, min(100 * v, top)) for p, v in zip(known, values, strict=True) if v is not None],
        )
        for name, colour, values in told
    ]
    title = f"{course.name} in %: the always-valid interval against the limit"
    return _plot(title, [line for line in lines if line.spots], (0.0, top), [], coloured)


def _plot(
    title: str, lines: Sequence[Line], limits: tuple[float, float], ticks: Sequence[int], coloured: bool
) -> str:
    """Draw with plotext, whose one figure is cleared for each; `ticks` are powers of ten."""
    import shutil

    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns), 18)
    figure.legend(False)  # it would stand on the lines
    signs = [_sign(line, turn, coloured) for turn, line in enumerate(lines)]
    for line, sign in zip(lines, signs, strict=True):
        marker = plotext.marker("braille" if coloured else sign).fill(line.colour)
        signal = figure.signal([x for x, _ in line.spots], [y for _, y in line.spots], marker=marker)
        figure.draw(signal.lines())
    figure.title(title)
    figure.label("seconds since the rollout began")
    figure.ruler("y").lim(*limits)
    if ticks:
        figure.ruler("y").ticks(list(ticks), [f"{10.0**tick:g}" for tick in ticks])
    told = "   ".join(f"{sign} {line.name}" for line, sign in zip(lines, signs, strict=True))
    return f"{str(figure.build().string(not coloured)).rstrip()}\n    {told}"


def _sign(line: Line, turn: int, coloured: bool) -> str:
    """Return what tells a line from others: its colour, or a letter where there are none."""
    if coloured:
        return typer.style("━", fg=_ANSI.get(line.colour))
    return "-" if line.colour == "red" else "abcdefghijklmnopqrstuvwxyz"[turn % 26]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(explain)
