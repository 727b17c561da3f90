"""`tidegate gate …`: list, run and explain gates, and prove that each can say no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from tidegate import gating, params, report, wiring
from tidegate.core.verdict import Verdict, worst
from tidegate.errors import ConfigError, TidegateError, suggest

if TYPE_CHECKING:
    from tidegate.selftest.runner import Result

P = ParamSpec("P")
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml; not needed with one.")]
_COLORS = {"PASS": "green", "FAIL": "red", "ERROR": "magenta", "INCONCLUSIVE": "yellow"}

gate = typer.Typer(help="Gates: what a release is held to before it is promoted.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(gate, name="gate")


def _or_three(command: Callable[P, None]) -> Callable[P, None]:
    """Exit with 3 where nobody could look: 1 means FAIL here."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except TidegateError as problem:
            typer.secho(f"tidegate: {problem}", err=True, fg="red")
            raise typer.Exit(Verdict.ERROR.exit_code) from problem

    return wrapped


# ---------------------------------------------------------------- run
@dataclass(frozen=True)
class _Asked:
    """How gates are to be run: what the command line says beside their names."""

    root: Path
    model: str
    endpoint: str
    release: str
    out: Path | None
    quiet: bool

    def options(self, needs: gating.Needs | None) -> list[str]:
        """Return a script's options; a gate of files takes no endpoint, so with --all it gets none."""
        shown = [*(["--out", str(self.out)] if self.out else [])]
        if self.endpoint and needs in (None, "endpoint"):
            shown += ["--endpoint", self.endpoint]
        if self.release and needs in (None, "endpoint", "release"):
            shown += ["--release", self.release]
        return shown


@gate.command("run")
@_or_three
def run(
    name: Annotated[str, typer.Argument(help="The gate's name; left out with --all and --added.")] = "",
    model: Model = "",
    every: Annotated[bool, typer.Option("--all", help="All gates that can run here.")] = False,
    added: Annotated[
        bool, typer.Option("--added", help="Those of your own that need only files, as dvc.yaml does.")
    ] = False,
    endpoint: Annotated[str, typer.Option(metavar="URL", help="The model's address on staging.")] = "",
    release: Annotated[str, typer.Option(metavar="ID", help="The release that is to be looked at.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the reports.")] = None,
    as_json: Json = False,
) -> None:
    """Run a gate, or all of them: exit 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR; of several, the worst.

    With --json it prints the gate's report, and with --all a list of {gate, verdict, why, report}.
    Example: tidegate gate run quality
    """
    root = wiring.find_checkout()
    if every or added:
        if model:
            raise ConfigError("--all and --added take a model, and no gate's name", f"Leave out `{name}`.")
        name, model = "", name
    elif not name:
        raise ConfigError("which gate?", "Name one, or say --all; `tidegate gate list` shows them.")
    else:
        _known_gate(root, name)
    asked = _Asked(root, _model(root, model), endpoint, release, out, as_json)
    if added:
        raise typer.Exit(gating.added(root, asked.model))
    if every:
        raise typer.Exit(_run_all(asked))
    code, found = _run(asked, name, None)
    if as_json:
        typer.echo(report.to_json(found), nl=False)
    raise typer.Exit(code)


def _run(asked: _Asked, name: str, needs: gating.Needs | None) -> tuple[int, report.Report]:
    """Run a gate's script; return its exit code and what it reported."""
    # The checkout goes first on the path, so that gates/ and models/ are this checkout's.
    environment = {**os.environ, "PYTHONPATH": str(asked.root)}
    command = [sys.executable, f"gates/{gating.stem(name)}.py", asked.model, *asked.options(needs)]
    folder = asked.root / (asked.out or gating.folder(asked.root, asked.model, name))
    path = folder / f"{name}.json"
    before = _written(path)
    done = subprocess.run(
        command, cwd=asked.root, env=environment, stdout=sys.stderr if asked.quiet else None, check=False
    )
    found = report.read_report(path)
    if _written(path) == before:  # an earlier run's report, or none, says nothing about this one
        reason = f"the gate wrote no report (exit code {done.returncode})"
        found = report.broken(name, asked.model, reason)
    return done.returncode, found


def _written(path: Path) -> tuple[int, int] | None:
    """Return what tells one writing of a file from another; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _run_all(asked: _Asked) -> int:
    """Run what can run here, tell of the rest why not, and return the worst exit code."""
    shown: list[dict[str, Any]] = []
    ran: list[Verdict] = []
    for name in gating.names(asked.root):
        why = ""
        try:
            needs = gating.load(asked.root, name).needs
            why = _why_not(asked, needs)
        except ConfigError as problem:
            found = report.broken(name, asked.model, str(problem))
            code = found.exit_code
            typer.echo(f"{found.verdict:<14} {name} of {asked.model}: {problem}", err=asked.quiet)
        else:
            if not why:
                code, found = _run(asked, name, needs)
        if why:
            typer.echo(f"{'not run':<14} {name}: {why}", err=asked.quiet)
            shown.append({"gate": name, "verdict": None, "why": why, "report": None})
            continue
        # What the report says must be what the script exited with, or neither counts.
        ran.append(found.verdict if found.exit_code == code else Verdict.ERROR)
        about = {"gate": name, "verdict": str(ran[-1]), "why": "", "report": found.as_dict()}
        shown.append(about)
    counts = Counter(verdict.words for verdict in ran)
    waiting = len(shown) - len(ran)
    total = ", ".join(f"{count} {words}" for words, count in sorted(counts.items())) or "none ran"
    typer.echo(f"{len(ran)} gates: {total}" + (f"; {waiting} not run" if waiting else ""), err=asked.quiet)
    if asked.quiet:
        typer.echo(json.dumps(shown, indent=1))
    return worst(ran).exit_code


def _why_not(asked: _Asked, needs: gating.Needs) -> str:
    """Return why a gate can't run here, or nothing."""
    if needs == "endpoint" and not asked.endpoint:
        return "needs --endpoint, the model's address on staging"
    packaged = asked.root / "build" / asked.model / "release.yaml"
    if needs == "release" and not asked.release and not packaged.is_file():
        return "needs a packaged release: `dvc repro`, or --release"
    return ""


def _known_gate(root: Path, name: str) -> None:
    known = gating.names(root)
    if name not in known:
        raise ConfigError(f"no gate is called `{name}`", suggest(name, known))


# ---------------------------------------------------------------- selftest
@gate.command("selftest")
@_or_three
def selftest(
    model: Model = "",
    gates: Annotated[
        list[str] | None, typer.Option("--gate", help="Only this gate; may be repeated.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="So many gates at once (those that time things: one).")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Run every gate against seeded faults, made of the real data and service that `dvc repro` left here.

    Exits 0 if each verdict is the expected one, none is PASS, and each gate passes where nothing is broken.
    Example: tidegate gate selftest --gate data
    """
    from tidegate.selftest import crew, runner

    root = wiring.find_checkout()
    chosen = _model(root, model)
    for name in gates or ():
        _known_gate(root, name)
    suites = [runner.suite(root, name) for name in gating.names(root) if name in (gates or (name,))]
    # A user's gate may come without faults; one of ours may not.
    bare = [one.gate for one in suites if not one.faults and one.gate in gating.BUILTIN]
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
    if bare or not results or not all(one.as_expected for one in results):
        raise typer.Exit(1)


def _as_dict(one: Result) -> dict[str, Any]:
    return {
        "gate": one.gate,
        "fault": one.fault,
        "verdict": one.verdict and str(one.verdict),
        "expected": str(one.expected),
        "reason": one.reason,
    }


def _progress(total: int) -> Any:
    """Return a context manager that shows how far the selftest is, on a terminal, and what to tell it."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    @contextmanager
    def shown() -> Any:
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("starting", total=total)

            def tell(one: Result) -> None:
                bar.update(task, advance=1, description=f"{one.gate}: {one.fault}")

            yield tell

    return shown()


def _short(reason: str) -> str:
    return reason if len(reason) <= 300 else f"{reason[:300]}…"


def _table(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("gate", "fault", "verdict", "expected", ""):
        table.add_column(name, overflow="fold")
    for one in results:
        verdict = one.verdict.words if one.verdict else "none"
        color = _COLORS.get(str(one.verdict), "")
        mark = "[green]✓[/]" if one.as_expected else "[bold red]✗[/]"
        shown = f"[{color}]{verdict}[/]" if color else verdict
        table.add_row(one.gate, escape(one.fault), shown, one.expected.words, mark)
        if not one.as_expected:
            table.add_row("", f"[red]{escape(_short(one.reason))}[/]", "", "", "")
    Console(width=None if sys.stdout.isatty() else 200).print(table)


# ---------------------------------------------------------------- models
def _model(root: Path, given: str) -> str:
    """Return the model that was named, or the only one. Raises ConfigError, NoData."""
    read = params.load(root, gating.names(root))
    if given or len(read.models) == 1:
        return read.known(given or read.models[0])
    raise ConfigError(f"which model? There are {len(read.models)}", f"Name one of: {', '.join(read.models)}.")
