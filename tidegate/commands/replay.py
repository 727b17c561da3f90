"""`tidegate replay`: what a `rollout.yaml` would do, before it is trusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.core.plan import Plan
from tidegate.errors import ConfigError, suggest

if TYPE_CHECKING:
    from tidegate.core.recording import Recording
    from tidegate.core.traffic_models import Traffic
    from tidegate.core.trials import Job, Row

RESAMPLED = 20  # replays of a recording at other weights than its own
ENVIRONMENTS = ("canary", "production", "staging")


@dataclass(frozen=True)
class _Policy:
    """A plan, and where it would be used."""

    plan: Plan
    environment: str


def replay(
    recording: Annotated[
        str,
        typer.Argument(help="a recording (see `tidegate explain`) or its file; none: simulated traffic only"),
    ] = "",
    rollout: Annotated[Path, typer.Option("--rollout", help="The policy to try.")] = Path(
        "envs/canary/rollout.yaml"
    ),
    model: Annotated[str, typer.Option("--model", "-m", help="Its plan for this model.")] = "",
    environment: Annotated[str, typer.Option("--env", "-e", help="As if in this environment.")] = "",
    rate: Annotated[
        float,
        typer.Option(
            help="Simulated requests a second, of both releases.", show_default="20, or as recorded"
        ),
    ] = 0.0,
    errors: Annotated[
        float,
        typer.Option(help="Stable's simulated error rate, a share.", show_default="1%, or as recorded"),
    ] = -1.0,
    burst: Annotated[float, typer.Option(help="Errors come in clumps of so many, on average.")] = 1.0,
    minutes: Annotated[float, typer.Option(help="How long each candidate is looked at.")] = 30.0,
    runs: Annotated[
        int, typer.Option(min=10, help="Healthy candidates; a quarter as many of each sick one.")
    ] = 80,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers.")] = 1,
    simulate: Annotated[bool, typer.Option(help="Also try it on simulated traffic.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try a policy on a recorded rollout and on simulated traffic, beside the common threshold rules.

    Example: tidegate replay latest --rollout envs/canary/rollout.yaml
    """
    from tidegate.core.replay import unfit
    from tidegate.core.trials import jobs

    policy = _policy(rollout, model, environment)
    why = unfit(policy.plan)
    if why:
        raise ConfigError(
            f"can't be replayed: {why}", "Replay a canary, blueGreen or shadow.", where=str(rollout)
        )
    document: dict[str, Any] = {"rollout": str(rollout), "environment": policy.environment, "seed": seed}
    traffic = _given(rate, errors, burst, None)
    if recording:
        found, traffic = _recorded(recording, policy, seed, 60 * minutes, (rate, errors, burst))
        document["recording"] = found
    if simulate:
        made = jobs(policy.plan, policy.environment, traffic, runs, max(10, runs // 4), seed, 60 * minutes)
        document["traffic"] = _of_traffic(traffic) | {"minutes": minutes}
        document["simulated"] = [asdict(row) | {"share": row.share} for row in _simulated(made, as_json)]
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(document, policy)


# ---------------------------------------------------------------- what is asked
def _policy(path: Path, model: str, environment: str) -> _Policy:
    from tidegate.config import parse_rollout

    environment = environment or (path.parent.name if path.parent.name in ENVIRONMENTS else "canary")
    if environment not in ENVIRONMENTS:
        raise ConfigError(f"no environment is called `{environment}`", suggest(environment, ENVIRONMENTS))
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError("can't be read", "Name a rollout.yaml.", where=str(path)) from problem
    default, plans = parse_rollout(text, str(path), environment)
    if model and plans and model not in plans:
        typer.secho(f"{path} says nothing of {model}: its defaults are tried", err=True, fg="yellow")
    return _Policy(plans.get(model, default), environment)


def _given(rate: float, errors: float, burst: float, like: Traffic | None) -> Traffic:
    """Return the simulated traffic: what was asked for, else like a recording's, else the usual."""
    from dataclasses import replace

    from tidegate.core.traffic_models import Traffic

    usual = like or Traffic()
    try:
        return replace(
            usual, rate=rate or usual.rate, errors=errors if errors >= 0 else usual.errors, burst=burst
        )
    except ValueError as problem:
        raise ConfigError(f"no traffic is like that: {problem}", "See tidegate replay --help.") from problem


def _of_traffic(traffic: Traffic) -> dict[str, Any]:
    return {
        "rate": traffic.rate,
        "errors": traffic.errors,
        "burst": traffic.burst,
        "latency": "as recorded" if traffic.histogram else f"median {traffic.median:g} ms",
    }


# ---------------------------------------------------------------- what is done
def _recorded(
    named: str, policy: _Policy, seed: int, seconds: float, asked: tuple[float, float, float]
) -> tuple[dict[str, Any], Traffic]:
    """Replay a recording, and return what came of it and traffic like its own."""
    from tidegate.commands.explain import find
    from tidegate.core.replay import recorded, replay
    from tidegate.core.traffic_models import as_traffic
    from tidegate.core.trials import summarise

    name, found = find(named)
    looks, _ = recorded(found)
    if not looks or found.stable is None:
        raise ConfigError("no look of it counted two releases", "Name another.", where=name)
    once = replay(found, policy.plan, policy.environment, seed)
    again = [
        replay(found, policy.plan, policy.environment, seed + turn, seconds) for turn in range(RESAMPLED)
    ]
    row = summarise(name, "this rollout.yaml", again)
    document = {
        "name": name,
        "ended": _ended(found),
        "once": asdict(once),
        "resampled": asdict(row) | {"share": row.share},
    }
    return document, _given(*asked, as_traffic(looks, found.release))


def _ended(recording: Recording) -> dict[str, Any]:
    end = recording.end
    last = recording.looks[-1]
    return {
        "phase": end.phase if end else last.phase,
        "verdict": end.verdict if end else "",
        "reason": end.reason if end else last.reason,
        "seconds": (end.at if end else last.at) - recording.started,
    }


def _simulated(made: Sequence[Job], quiet: bool) -> list[Row]:
    from tidegate.replays import rows, simulate_all

    if quiet or not sys.stderr.isatty():
        return rows(made, simulate_all(made))
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("simulated rollouts", total=len(made))
        runs = simulate_all(made, told=lambda done: progress.advance(task, done))
    return rows(made, runs)


# ---------------------------------------------------------------- what is told
def _print(document: dict[str, Any], policy: _Policy) -> None:
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=160)
    if "recording" in document:
        _print_recording(document["recording"], console)
    if "simulated" in document:
        console.print(_table(document))
        for line in _notes(document, policy):
            console.print(line, highlight=False, markup=False)


def _print_recording(found: dict[str, Any], console: Any) -> None:
    ended, once, again = found["ended"], found["once"], found["resampled"]
    said = f"{ended['phase']} after {ended['seconds']:.0f} s"
    lines = [f"{found['name']}: {said}{': ' + ended['reason'] if ended['reason'] else ''}"]
    lines.append(f"with this policy, as it was recorded: {_became(once)}")
    median = f", {again['caught_median']:.0f} s after its first request" if again["left"] else ""
    lines.append(f"{again['runs']} times resampled, going on as before: left {again['left']} times{median}")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _became(once: dict[str, Any]) -> str:
    if once["left"] is not None:
        lost = f"{once['lost']} answers to users failed meanwhile"
        return f"left after {once['left']:.0f} s ({once['verdict']}), {lost}: {once['reason']}"
    if once["verified"] is not None:
        return f"verified after {once['verified']:.0f} s"
    return f"neither left nor verified in the {once['watched']:.0f} s that were recorded"


def _table(document: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    from tidegate.core.trials import POLICIES

    by_scenario: dict[str, dict[str, dict[str, Any]]] = {}
    for row in document["simulated"]:
        by_scenario.setdefault(row["scenario"], {})[row["policy"]] = row
    table = Table(title="Simulated rollouts", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate")
    for policy in POLICIES:
        table.add_column(policy, overflow="fold")
    for scenario, cells in by_scenario.items():
        table.add_row(scenario, *(_cell(cells[policy]) for policy in POLICIES))
    return table


def _cell(row: dict[str, Any]) -> str:
    """Return how many were left, when, and what that cost; of a healthy one also when it was promoted."""
    share = f"{100 * row['share']:.3g}%"
    if row["scenario"] == "healthy":
        between = f" ({100 * row['low']:.1f}–{100 * row['high']:.1f}%)"
        passed = f", verified in {row['verified_median']:.0f} s" if row["verified_median"] is not None else ""
        late = f", {row['late']} by the deadline" if row["late"] else ""
        return f"{share} left{between}{late}{passed}"
    when = f" in {row['median']:.0f} s" if row["median"] is not None else ""
    return f"{share} left{when}, {row['lost']:.0f} lost"


def _notes(document: dict[str, Any], policy: _Policy) -> list[str]:
    from tidegate.core.trials import wilson

    traffic, rows = document["traffic"], document["simulated"]
    runs = {row["scenario"]: row["runs"] for row in rows}
    healthy, others = runs.get("healthy", 0), min(runs.values())
    notes = [
        f"{traffic['rate']:.3g} requests/s, stable at {100 * traffic['errors']:.3g}% errors in clumps of "
        f"{traffic['burst']:g}, latency {traffic['latency']}; {healthy} healthy candidates, {others} of each "
        f"other, {traffic['minutes']:g} minutes each; seed {document['seed']}.",
        "left: rolled back, in the median of all seconds since its first request; lost: failed answers of "
        "the candidate until its weight was 0 (mean). Slower answers are not lost.",
    ]
    tolerated = [
        f"{check.name} {1 + float(check.against_stable.tolerance):g}×"
        for stage in policy.plan.stages
        for check in stage.checks
        if check.against_stable
    ]
    if tolerated:
        notes.append(f"The policy itself accepts, against stable: {', '.join(dict.fromkeys(tolerated))}.")
    own = next(row for row in rows if row["scenario"] == "healthy")
    if wilson(own["left"] - own["late"], own["runs"])[0] > policy.plan.alpha:
        notes.append(
            f"More healthy candidates fail than alpha ({policy.plan.alpha:g}) promises: errors that come in "
            "clumps are not independent. Give the checks a `burst`, or raise their limits."
        )
    return notes


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(replay)
