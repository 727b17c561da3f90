"""`tidegate gate run`: one gate, or all that can run here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate import gating, params, report, wiring
from tidegate.commands.known import Json, Model, known_gate, known_model, or_three
from tidegate.core.verdict import Verdict, worst
from tidegate.errors import ConfigError


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


@or_three
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
        raise ConfigError("no gate is named", "Name one, or say --all; `tidegate gate list` shows them.")
    else:
        known_gate(root, name)
    asked = _Asked(
        root, known_model(params.load(root, gating.names(root)), model), endpoint, release, out, as_json
    )
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
            gate = gating.load(asked.root, name)
            needs = gate.needs
            why = _why_not(asked, needs)
            waits = [other for other in gate.after if any(s["gate"] == other and s["why"] for s in shown)]
            if waits and not why:
                why = f"rests on {', '.join(waits)}, not run here"
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
    typer.echo(
        f"{len(ran)} {'gate' if len(ran) == 1 else 'gates'}: {total}"
        + (f"; {waiting} not run" if waiting else ""),
        err=asked.quiet,
    )
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
