"""Commands of the local forge, and of the stores that its runs share."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

forge = typer.Typer(help="A forge on this machine: a bare repository that runs its workflows through act.")
stores = typer.Typer(help="The stores that runs, agents and laptops share.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
At = Annotated[Path | None, typer.Option("--forge", help="The bare repository (default: origin).")]


def _say(line: str) -> None:
    print(line, flush=True)


def _program() -> Path:
    """The `tidegate` of this interpreter: hooks and runs must not depend on a PATH."""
    return Path(sys.executable).with_name("tidegate")


def _store(where: Path | None) -> Any:
    from tidegate import wiring
    from tidegate.adapters.git import remote_url
    from tidegate.forge.runs import RunStore

    if where is None:
        checkout = wiring.find_checkout()
        where = Path(remote_url(checkout, wiring.platform(checkout, "staging").repository.remote))
    return RunStore(where)


# ---------------------------------------------------------------- forge
@forge.command("init")
def forge_init(
    folder: Annotated[Path, typer.Argument(help="Where to make the bare repository.")],
    workflows: Annotated[
        str, typer.Option(help="Names to run, with commas, or `all` (default: train, release, promote).")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a forge: a bare repository that runs the workflows of every pushed branch.

    Run it inside of a clone: the forge's runs use this clone's stores and this program's environment.
    Example: tidegate forge init ~/forge.git
    """
    from tidegate import wiring
    from tidegate.adapters import local_forge
    from tidegate.forge.runs import RunStore, Settings

    checkout = wiring.find_checkout()
    chosen = _chosen(checkout, workflows)
    local_forge.init(folder, _program())
    settings = Settings(str(wiring.home(checkout).root), sys.prefix, chosen)
    RunStore(folder).configure(settings)
    if as_json:
        shown = {"forge": str(folder.absolute()), "home": settings.home, "venv": settings.venv}
        _say(json.dumps({**shown, "workflows": list(chosen) or "all"}, indent=1))
        return
    _say(f"workflows  {', '.join(chosen) or 'all'}\nstores     {settings.home}\nprograms   {settings.venv}")
    _say(f"forge ready: git remote add origin {folder.absolute()} && git push -u origin main")


def _chosen(checkout: Path, named: str) -> tuple[str, ...]:
    """Return the workflows to run; empty stands for all that a commit has."""
    from tidegate.core.triggers import DELIVERY
    from tidegate.errors import ConfigError, suggest
    from tidegate.forge.workflows import WORKFLOWS

    there = {path.stem for path in (checkout / WORKFLOWS).glob("*.y*ml")}
    if not named:  # `ci`, all tests at each push, is left to who asks for it
        return tuple(name for name in DELIVERY if name in there)
    if named == "all":
        return ()
    chosen = tuple(name.strip() for name in named.split(",") if name.strip())
    for name in chosen:
        if name not in there:
            hint = suggest(name, sorted(there), f"{WORKFLOWS}/ has: {{}}.")
            raise ConfigError(f"no workflow is called `{name}`", hint)
    return chosen


@forge.command("runs")
def forge_runs(where: At = None, as_json: AsJson = False) -> None:
    """List the workflow runs, newest first.

    Example: tidegate forge runs --json
    """
    runs = _store(where).list()
    if as_json:
        _say(json.dumps([asdict(run) for run in runs], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "workflow", "event", "branch", "commit", "state", "seconds", "")
    for run in runs:
        end = run.finished or time.time()
        seconds = f"{end - run.started:.1f}" if run.started else ""
        branch = run.ref.removeprefix("refs/heads/")
        table.add_row(
            str(run.number), run.workflow, run.event, branch, run.commit[:12], run.state, seconds, run.detail
        )
    Console().print(table)


@forge.command("log")
def forge_log(
    number: Annotated[int, typer.Argument(help="The run's number.")],
    where: At = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a run said; with --follow until it ends, and exit 1 unless it passed.

    Example: tidegate forge log 3 --follow
    """
    from tidegate.forge.runs import follow as follow_runs

    store = _store(where)
    run = store.get(number)
    if follow:
        raise typer.Exit(0 if follow_runs(store, [number], _say) else 1)
    text = store.log(number).read_text(errors="replace")
    _say(json.dumps({**asdict(run), "log": text}, indent=1) if as_json else text.rstrip("\n"))


@forge.command("stop")
def forge_stop(
    numbers: Annotated[list[int] | None, typer.Argument(help="Runs to stop (default: all).")] = None,
    where: At = None,
    as_json: AsJson = False,
) -> None:
    """Stop runs and all that they started.

    Example: tidegate forge stop 3
    """
    from tidegate.adapters.act import stop_tree
    from tidegate.forge.runs import stop

    stopped = stop(_store(where), numbers or (), stop_tree)
    if as_json:
        _say(json.dumps([asdict(run) for run in stopped], indent=1))
        return
    for run in stopped:
        _say(f"stopped {run.workflow} (run {run.number})")
    if not stopped:
        _say("no run to stop")


@forge.command("receive", hidden=True)
def forge_receive(folder: Path) -> None:
    """Start the workflows of a push (called by the forge's hook; reads `old new ref` lines)."""
    from tidegate.adapters.local_forge import FOLLOW, LocalForge
    from tidegate.forge import runs, workflows

    store = runs.RunStore(folder)
    numbers = workflows.receive(store, sys.stdin.read().splitlines(), LocalForge(folder).list(), _say)
    if not numbers:
        return
    workflows.start(store, numbers, _program())
    named = ", ".join(f"{store.get(number).workflow} (run {number})" for number in numbers)
    _say(f"tidegate: starting {named}; `tidegate forge log N --follow` shows one")
    if os.environ.get(FOLLOW) != "0":
        runs.follow(store, numbers, _say)


@forge.command("work", hidden=True)
def forge_work(folder: Path, numbers: list[int]) -> None:
    """Run recorded runs one after another (started by `receive` in a session of its own)."""
    from tidegate.adapters import act
    from tidegate.forge import runs, workflows

    store = runs.RunStore(folder)
    workflows.work(store, numbers, act.run)


@stores.command("link")
def stores_link(as_json: AsJson = False) -> None:
    """Point this checkout's DVC at the shared store that envs/platform.yaml names.

    Example: tidegate stores link
    """
    from tidegate import wiring

    checkout, address = wiring.find_checkout(), None
    if (checkout / "dvc.yaml").is_file():
        from tidegate.adapters import dvc

        address = wiring.home(checkout).address(wiring.platform(checkout, "staging").stores.dvc)
        dvc.link(checkout, address)
    if as_json:
        _say(json.dumps({"dvc": address}))
    else:
        _say(f"DVC store: {address}" if address else "no dvc.yaml here, so no DVC store to link")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(forge, name="forge", no_args_is_help=True)
    app.add_typer(stores, name="stores", no_args_is_help=True)
