"""`tidegate gate …` and `tidegate schema …`: what gates there are, what each decides, how reports look."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate import gating, params, report, wiring
from tidegate.commands.gate_run import run
from tidegate.commands.gate_selftest import selftest
from tidegate.commands.known import COLORS, Json, Model, known_gate, known_model, or_three
from tidegate.core.verdict import Verdict
from tidegate.errors import ConfigError, TidegateError
from tidegate.report.document import plain

EXIT_CODES = "0 PASS (or not applicable), 1 FAIL, 2 INCONCLUSIVE, 3 ERROR"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    gate = typer.Typer(help="Gates: what a release is held to before it is promoted.", no_args_is_help=True)
    for name, command in (("list", listing), ("run", run), ("explain", explain), ("selftest", selftest)):
        gate.command(name)(command)
    app.add_typer(gate, name="gate")
    schema = typer.Typer(help="Schemas of what Tidegate writes.", no_args_is_help=True)
    schema.command("report")(schema_report)
    schema.command("rollout")(schema_rollout)
    schema.command("settings")(schema_settings)
    app.add_typer(schema, name="schema")


@dataclass(frozen=True)
class Listed:
    """A gate as it stands here. `verdict` is None where there is none that counts, and `state` says why."""

    gate: str
    needs: str
    decides: str
    state: str
    verdict: str | None
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@or_three
def listing(model: Model = "", as_json: Json = False) -> None:
    """List the gates with their thresholds and last verdicts; exit 3 if one can't be read.

    Example: tidegate gate list
    """
    root = wiring.find_checkout()
    read = params.load(root, gating.names(root))
    chosen = known_model(read, model)
    found = [_look_up(root, read, chosen, name) for name in gating.names(root)]
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
    else:
        _table(found)
    if not found or any(one.problem for one in found):
        raise typer.Exit(Verdict.ERROR.exit_code)


def _look_up(root: Path, read: params.Params, model: str, name: str) -> Listed:
    try:
        gate = gating.load(root, name)
        settings = plain(msgspec.to_builtins(read.settings(name, model, gate.settings)))
    except ConfigError as problem:
        return Listed(name, "", "", "can't run", None, str(problem), problem=str(problem))
    state, verdict, reason = _last(root, model, gate, settings)
    return Listed(name, gate.needs, gate.decides.split("\n", 1)[0], state, verdict, reason, settings)


def _last(root: Path, model: str, gate: gating.Gate[Any], settings: Any) -> tuple[str, str | None, str]:
    """Return what the last run says: its verdict, or that there was none, or that it counts no more."""
    path = gating.folder(root, model, gate.name) / f"{gate.name}.json"
    if not path.is_file():
        return "not run", None, ""
    found = report.read_report(path)
    if found.model:  # else it could not be read: an ERROR that says so
        release = "" if gate.needs == "files" else _packaged(root, model)
        now = report.current(found, root, model=model, release=release)
        if now is not found:
            return "stale", None, now.findings[0].reason
        if found.source.settings and found.source.settings != settings:
            return "stale", None, "its thresholds are others now"
    deciding = [one.reason for one in found.findings if one.verdict is found.verdict]
    return found.verdict.words, str(found.verdict), deciding[0]


def _packaged(root: Path, model: str) -> str:
    """Return the id of the release that is packaged here, or nothing."""
    try:
        return gating.Subject(model, gating.Settings(), root).record().id
    except TidegateError:
        return ""


def _table(found: list[Listed]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("gate", "last verdict", "needs", "thresholds"):
        table.add_column(name, overflow="fold")
    for one in found:
        color = COLORS.get(one.verdict or "", "")
        shown = f"[{color}]{one.state}[/]" if color else one.state
        thresholds = f"[red]{escape(one.problem)}[/]" if one.problem else escape(_brief(one.settings))
        table.add_row(one.gate, shown, one.needs, thresholds)
        if one.verdict != Verdict.PASS and one.reason and not one.problem:
            table.add_row("", "", "", f"[dim]{escape(one.reason)}[/]")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _brief(settings: dict[str, Any]) -> str:
    """Return the settings in a line or two: numbers as they are, of lists and mappings how many."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in settings.items() if value not in (None, ""))


def _shown(value: Any) -> str:
    if not isinstance(value, dict | list):
        return str(value)
    inner = list(value.values()) if isinstance(value, dict) else value
    if len(value) > 4 or any(isinstance(one, dict | list) for one in inner):
        return f"({len(value)})"
    parts = [f"{name} {one}" for name, one in value.items()] if isinstance(value, dict) else map(str, value)
    return f"({', '.join(parts)})"


# ---------------------------------------------------------------- explain
@or_three
def explain(
    name: Annotated[str, typer.Argument(help="The gate's name.")],
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Say what a gate decides, from which inputs, by which thresholds, and how to fix a failure.

    Example: tidegate gate explain drift
    """
    root = wiring.find_checkout()
    gate = gating.load(root, known_gate(root, name))
    read = params.load(root, gating.names(root))
    chosen = known_model(read, model)
    settings = read.settings(name, chosen, gate.settings)
    thresholds = read.values(name, chosen, settings, f"gates/{gating.stem(name)}.py")
    state, verdict, reason = _last(root, chosen, gate, plain(msgspec.to_builtins(settings)))
    if as_json:
        document = {
            "gate": name,
            "model": chosen,
            "decides": gate.decides,
            "inputs": gate.inputs,
            "needs": gate.needs,
            "thresholds": [asdict(one) for one in thresholds],
            "fix": gate.fix,
            "exit_codes": {str(one): one.exit_code for one in Verdict},
            "last": {"state": state, "verdict": verdict, "reason": reason},
        }
        typer.echo(json.dumps(document, indent=1))
        return
    for line in _explained(gate, chosen, thresholds):
        typer.echo(line)
    typer.echo(f"Last run: {state}" + (f" ({reason})" if reason else ""))


_NEEDS = {
    "files": "It needs the files that `dvc repro` makes.",
    "release": "It needs a packaged release (`dvc repro`); --release names another one.",
    "endpoint": "It needs --endpoint, the model's address on staging (`tidegate status` shows it).",
}


def _explained(gate: gating.Gate[Any], model: str, thresholds: list[params.Value]) -> Iterator[str]:
    yield gate.decides
    yield f"\nInputs: {gate.inputs}\n{_NEEDS[gate.needs]}"
    yield f"\nThresholds for {model}, and where each is said:"
    width = min(max((len(one.path) for one in thresholds), default=0), 40)
    for one in thresholds:
        value = json.dumps(one.value, ensure_ascii=False) if one.value is not None else "not set"
        shown = value if len(value) <= 60 else f"{value[:57]}…"
        yield f"  {one.path:<{width}}  {shown}  ({one.where})"
    yield f"\nIf it fails: {gate.fix}"
    yield f"Exit codes: {EXIT_CODES}."
    yield f"Run it: tidegate gate run {gate.name} {model}" + (
        " --endpoint URL" if gate.needs == "endpoint" else ""
    )


# ---------------------------------------------------------------- schema
def schema_report() -> None:
    """Print the JSON schema (draft 2020-12) of the reports that gates write.

    Example: tidegate schema report
    """
    typer.echo(json.dumps(report.schema(), indent=2))


def schema_rollout() -> None:
    """Print the JSON schema (draft 2020-12) of rollout.yaml, so that an editor completes and explains it.

    Example: tidegate schema rollout > rollout.schema.json
    """
    from tidegate import config

    typer.echo(json.dumps(config.rollout_schema(), indent=2))


def schema_settings() -> None:
    """Print the JSON schema (draft 2020-12) of services/<model>/settings.yaml: how a model is served.

    Example: tidegate schema settings > settings.schema.json
    """
    from tidegate import settings

    typer.echo(json.dumps(settings.schema(), indent=2))
