"""Commands that change Git and nothing else: the local forge, pull requests, promotions."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.errors import Refused, TidegateError

forge = typer.Typer(help="A forge on this machine: a bare repository that runs its workflows through act.")
pr = typer.Typer(help="Pull requests, on the local forge or on GitHub.")
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
    from tidegate.runs import RunStore

    if where is None:
        checkout = wiring.find_checkout()
        where = Path(remote_url(checkout, wiring.platform(checkout, "staging").repository.remote))
    return RunStore(where)


def _origin() -> tuple[Any, Any]:
    """Return this checkout's view of its remote, and its forge."""
    from tidegate import promotion, wiring

    checkout = wiring.find_checkout()
    spec = wiring.platform(checkout, "staging")
    origin = promotion.Origin(checkout, spec.repository.remote, spec.repository.branch)
    return origin, wiring.forge(spec, checkout)


# ---------------------------------------------------------------- forge
@forge.command("init")
def forge_init(
    folder: Annotated[Path, typer.Argument(help="Where to make the bare repository.")],
    workflows: Annotated[str, typer.Option(help="Names to run, with commas (default: all there are).")] = "",
) -> None:
    """Make a forge: a bare repository that runs the workflows of every pushed branch.

    Example: tidegate forge init ~/forge.git --workflows train,release,promote
    """
    from tidegate.adapters import local_forge
    from tidegate.config import Home
    from tidegate.runs import RunStore, Settings

    local_forge.init(folder, _program())
    chosen = tuple(name.strip() for name in workflows.split(",") if name.strip())
    RunStore(folder).configure(Settings(str(Home.find(Path.cwd()).root), sys.prefix, chosen))
    _say(f"forge ready: git remote add origin {folder.absolute()} && git push origin main")


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
    from tidegate.runs import follow as follow_runs

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
) -> None:
    """Stop runs and all that they started.

    Example: tidegate forge stop 3
    """
    from tidegate.adapters.act import stop_tree
    from tidegate.runs import stop

    for run in stop(_store(where), numbers or (), stop_tree):
        _say(f"stopped {run.workflow} (run {run.number})")


@forge.command("receive", hidden=True)
def forge_receive(folder: Path) -> None:
    """Start the workflows of a push (called by the forge's hook; reads `old new ref` lines)."""
    from tidegate import runs
    from tidegate.adapters.local_forge import FOLLOW, LocalForge

    store = runs.RunStore(folder)
    numbers = runs.receive(store, sys.stdin.read().splitlines(), LocalForge(folder).list(), _say)
    if not numbers:
        return
    runs.start(store, numbers, _program())
    named = ", ".join(f"{store.get(number).workflow} (run {number})" for number in numbers)
    _say(f"tidegate: starting {named}; `tidegate forge log N --follow` shows one")
    if os.environ.get(FOLLOW) != "0":
        runs.follow(store, numbers, _say)


@forge.command("work", hidden=True)
def forge_work(folder: Path, numbers: list[int]) -> None:
    """Run recorded runs one after another (started by `receive` in a session of its own)."""
    from tidegate import runs
    from tidegate.adapters import act

    store = runs.RunStore(folder)
    runs.work(store, numbers, act.run)


# ---------------------------------------------------------------- pull requests
@pr.command("list")
def pr_list(
    every: Annotated[bool, typer.Option("--all", help="Merged and closed ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List pull requests, newest first.

    Example: tidegate pr list --all --json
    """
    _, where = _origin()
    pulls = [pull for pull in where.list() if every or pull.state == "open"]
    if as_json:
        _say(json.dumps([asdict(pull) for pull in pulls], indent=1))
        return
    for pull in pulls:
        by = f" by {pull.merged_by}: {pull.reason}" if pull.merged_by else ""
        _say(f"{pull.number:>4}  {pull.state:<7} {pull.head[:12]}  {pull.title}{by}")
    if not pulls:
        _say("no pull requests" if every else "no open pull requests (--all shows the merged ones)")


@pr.command("show")
def pr_show(number: int, as_json: AsJson = False) -> None:
    """Show a pull request with its report.

    Example: tidegate pr show 2
    """
    _, where = _origin()
    pull = next((p for p in where.list() if p.number == number), None)
    if pull is None:
        raise Refused(f"there is no pull request {number}", "See `tidegate pr list --all`.")
    if as_json:
        _say(json.dumps(asdict(pull), indent=1))
        return
    _say(f"#{pull.number} {pull.title} [{pull.state}]\n{pull.branch} at {pull.head[:12]}, by {pull.author}")
    _say(f"\n{pull.body}")


@pr.command("merge")
def pr_merge(
    number: int,
    approver: Annotated[str, typer.Option("--as", help="Who approves: 'Name <mail>'.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the merge commit.")],
    detach: Annotated[
        bool, typer.Option("--detach", help="Don't wait for the workflows that it starts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Approve and merge a pull request, then show the workflows that it starts (exit 1 if one fails).

    Example: tidegate pr merge 2 --as 'Ada <ada@example.org>' --reason 'gates pass'
    """
    from tidegate.adapters.local_forge import LocalForge
    from tidegate.runs import RunStore, follow

    _, where = _origin()
    commit = where.merge(number, approver, reason)
    _say(json.dumps({"number": number, "commit": commit}) if as_json else f"merged {number} as {commit[:12]}")
    if detach or as_json or not isinstance(where, LocalForge):
        return
    store = RunStore(where.path)
    started = sorted(run.number for run in store.list() if run.commit == commit)
    if not follow(store, started, _say):
        raise typer.Exit(1)


@pr.command("report")
def pr_report() -> None:
    """Write this checkout's gate reports to the job summary, and as one comment to its branch's pull request.

    Example: tidegate pr report
    """
    from tidegate import promotion, wiring

    checkout = wiring.find_checkout()
    models = sorted(path.parent.name for path in (checkout / "build").glob("*/gates"))
    text = "\n\n".join(section for model in models for section in promotion.sections(checkout, model))
    text = text or "**No gate reported.** The pipeline ended before its gates; see the log."
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a") as file:
            file.write(text + "\n")
    else:
        _say(text)
    branch = os.environ.get("GITHUB_HEAD_REF") or os.environ.get("GITHUB_REF_NAME", "")
    try:
        _, where = _origin()
        for pull in where.list():
            if pull.state == "open" and pull.branch == branch:
                where.comment(pull.number, "tidegate-report", text)
                _say(f"report written to pull request {pull.number}")
    except TidegateError as error:
        # A pull request from a fork has a token that can't comment; the summary has the report.
        _say(f"tidegate: the report was not written to a pull request: {error}")


# ---------------------------------------------------------------- promotions
def promote(
    model: Annotated[str, typer.Argument(help="The model; leave it out with --all or --continue.")] = "",
    to: Annotated[str, typer.Option(help="staging, canary or production.")] = "",
    release: Annotated[
        str, typer.Option(help="The release (default: as built, or as the one before has).")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Every model that was packaged here.")] = False,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Wait for what was merged, then promote it on.")
    ] = False,
    since: Annotated[str, typer.Option(help="With --continue: the commit before the push.")] = "",
    timeout: Annotated[float, typer.Option(help="With --continue: seconds to wait for the agent.")] = 1800,
    as_json: AsJson = False,
) -> None:
    """Open the pull request that promotes a release: one line of one release.yaml, with the report.

    Example: tidegate promote flight-delay --to canary
    """
    from tidegate.core.promotion import ORDER

    if go_on:
        _go_on(since, timeout)
        return
    if to not in ORDER or bool(model) == every:
        raise Refused("a promotion needs a model (or --all) and --to", f"--to is one of {', '.join(ORDER)}.")
    pulls = _open(model, to, release, every)
    if as_json:
        _say(json.dumps([asdict(pull) for pull in pulls], indent=1))
        return
    for pull in pulls:
        _say(f"pull request {pull.number}: {pull.title}  {pull.url}")
    if not pulls:
        _say(f"nothing to promote: main says so already for {to}")


def _open(model: str, to: str, release: str, every: bool) -> list[Any]:
    from tidegate import promotion
    from tidegate.core.promotion import ORDER, Target

    origin, where = _origin()
    pulls, refusals = [], []
    for name in promotion.built_models(origin.checkout) if every else [model]:
        record, chosen = None, release
        if to == "staging" and not release:
            built, record = promotion.new_release(origin.checkout, name)
            chosen = built.release
        elif not release:
            before = ORDER[ORDER.index(to) - 1]
            chosen = origin.releases(origin.look()).get(before, {}).get(name, "")
        if not chosen:
            raise Refused(f"no release of {name} is known to promote to {to}", "Name it with --release.")
        try:
            reports = promotion.sections(origin.checkout, name)
            pull = promotion.promote(origin, where, Target(to, name, chosen), record=record, reports=reports)
        except Refused as error:
            refusals.append(error)
            continue
        pulls += [pull] if pull else []
    if refusals and not pulls:
        raise refusals[0]
    for refused in refusals:
        _say(f"tidegate: {refused}")
    return pulls


def _go_on(since: str, timeout: float) -> None:
    """Wait for each merged promotion in turn; open the next one of those that got through."""
    from tidegate import promotion

    origin, where = _origin()
    targets = promotion.merged(origin, since or "HEAD^1", "HEAD")
    if not targets:
        _say("nothing was promoted by this push")
    failures = []
    for target in targets:
        try:
            _go_on_with(origin, where, target, timeout)
        except TidegateError as error:
            failures.append(error)
            _say(f"tidegate: {error}")
    if failures:
        raise typer.Exit(1)


def _go_on_with(origin: Any, where: Any, target: Any, timeout: float) -> None:
    from tidegate import promotion, wiring
    from tidegate.adapters.system import SystemClock
    from tidegate.core.promotion import Outcome

    plane = wiring.platform(origin.checkout, target.environment).plane
    result, reason, status = promotion.wait(origin, target, plane, SystemClock(), timeout, _say)
    name = f"{target.model} {target.release}"
    if result is Outcome.FAILED:
        raise Refused(
            f"{name} did not get through {target.environment}: {reason}", "Release a corrected one."
        )
    if result is Outcome.SUPERSEDED:
        _say(f"{name} was superseded in {target.environment}: {reason}")
        return
    reports = [f"Rollout in {target.environment}: {reason}"]
    if target.environment == "staging":
        promotion.pull_artifacts(origin.checkout)
        promotion.run_gates(origin.checkout, target, str(status.get("url", "")), _say)
        reports += promotion.sections(origin.checkout, target.model)
    following = target.next()
    if following is None:
        _say(f"{name} is in {target.environment}")
        return
    pull = promotion.promote(origin, where, following, reports=reports)
    _say(f"pull request {pull.number}: {pull.title}  {pull.url}" if pull else f"{name} is there already")


@stores.command("link")
def stores_link() -> None:
    """Point this checkout's DVC at the shared store that envs/platform.yaml names.

    Example: tidegate stores link
    """
    from tidegate import wiring

    checkout = wiring.find_checkout()
    if not (checkout / "dvc.yaml").is_file():
        _say("no dvc.yaml here, so no DVC store to link")
        return
    from tidegate.adapters import dvc

    address = wiring.home(checkout).address(wiring.platform(checkout, "staging").stores.dvc)
    dvc.link(checkout, address)
    _say(f"DVC store: {address}")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(forge, name="forge", no_args_is_help=True)
    app.add_typer(pr, name="pr", no_args_is_help=True)
    app.add_typer(stores, name="stores", no_args_is_help=True)
    app.command("promote")(promote)
