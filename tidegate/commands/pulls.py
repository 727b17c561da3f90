"""Commands of pull requests and promotions: they change Git and nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.commands.environments import known_environment
from tidegate.errors import NoData, Refused, TidegateError

pr = typer.Typer(help="Pull requests, on the local forge or on GitHub.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _say(line: str) -> None:
    print(line, flush=True)


def _origin() -> tuple[Any, Any]:
    """Return this checkout's view of its remote, and its forge."""
    from tidegate import promotion, wiring

    checkout = wiring.find_checkout()
    spec = wiring.platform(checkout, "staging")
    origin = promotion.Origin(checkout, spec.repository.remote, spec.repository.branch)
    return origin, wiring.forge(spec, checkout)


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
        by = f" by {pull.merged_by}" if pull.merged_by else ""
        by += f": {pull.reason}" if pull.reason else ""
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

    With --json it waits as well, and prints one document at the end: the merge commit and the runs.

    Example: tidegate pr merge 2 --as 'Ada <ada@example.org>' --reason 'gates pass'
    """
    from tidegate.adapters.local_forge import LocalForge
    from tidegate.forge.runs import RunStore, follow

    _, where = _origin()
    commit = where.merge(number, approver, reason)
    _poke()
    if not as_json:
        _say(f"merged {number} as {commit[:12]}")
    store = RunStore(where.path) if isinstance(where, LocalForge) else None
    started = sorted(run.number for run in store.list() if run.commit == commit) if store else []
    passed = detach or store is None or follow(store, started, (lambda line: None) if as_json else _say)
    if as_json:
        runs = [asdict(store.get(run)) for run in started] if store else []
        _say(json.dumps({"number": number, "commit": commit, "runs": runs}, indent=1))
    if not passed:
        raise typer.Exit(1)


def _poke() -> None:
    """Let the agents of this machine look at Git at once; those of others see it when they poll."""
    from tidegate import planes, wiring
    from tidegate.adapters.sqlite import SqliteInbox
    from tidegate.agent.locks import agent_runs

    checkout = wiring.find_checkout()
    home = wiring.home(checkout)
    for plane in planes.names(checkout):
        if agent_runs(home.plane(plane)):
            SqliteInbox(wiring.state_path(wiring.platform(checkout, plane), home)).send(plane, "poke", {})


@pr.command("report")
def pr_report(as_json: AsJson = False) -> None:
    """Write this checkout's gate reports to the job summary, and as one comment to its branch's pull request.

    Example: tidegate pr report
    """
    from tidegate import wiring

    in_job = bool(os.environ.get("GITHUB_STEP_SUMMARY"))
    text = _report(wiring.find_checkout(), in_job)
    if in_job:
        _summarise(text)
    elif not as_json:
        _say(text)
    branch = os.environ.get("GITHUB_HEAD_REF") or os.environ.get("GITHUB_REF_NAME", "")
    written, problem = [], ""
    try:
        _, where = _origin()
        for pull in where.list():
            if pull.state == "open" and pull.branch == branch:
                where.comment(pull.number, "tidegate-report", text)
                written.append(pull.number)
    except TidegateError as error:
        # A pull request from a fork has a token that can't comment; the summary has the report.
        problem = f"the report was not written to a pull request: {error}"
    if as_json:
        _say(json.dumps({"report": text, "pulls": written, "problem": problem}, indent=1))
        return
    for number in written:
        _say(f"report written to pull request {number}")
    if problem:
        _say(f"tidegate: {problem}")


def _report(checkout: Path, in_job: bool) -> str:
    """Return each built model's page, and write it; raises NoData where nobody has built anything yet."""
    from tidegate import pages

    models = sorted(path.parent.name for path in (checkout / "build").glob("*/gates"))
    texts = [pages.write(checkout, pages.gather(checkout, model), share=len(models))[1] for model in models]
    # A job has just run the pipeline, which may have ended in its first stage: that is worth a report.
    if not texts and not in_job and not any((checkout / "build").glob("*/*")):
        raise NoData("nothing was built here, so no gate has reported", "Run `dvc repro`.")
    return "\n\n".join(texts) or "**No gate reported.** The pipeline ended before its gates; see the log."


def _summarise(text: str) -> None:
    """Add to the job's summary, where this runs in a job."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a") as file:
            file.write(text + "\n")


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

    --continue is what the workflow runs: it prints a log, and takes no --json.

    Example: tidegate promote my-model --to canary
    """
    from tidegate.core.promotion import ORDER

    if go_on and as_json:
        raise Refused("--continue prints a log as it goes, and no JSON", "Leave out --json.")
    if go_on:
        _go_on(since, timeout)
        return
    if not to or bool(model) == every:
        raise Refused("a promotion needs a model (or --all) and --to", f"--to is one of {', '.join(ORDER)}.")
    known_environment(to)
    if to == "staging":
        _refuse_disposable()
    pulls = _open(model, to, release, every)
    if as_json:
        _say(json.dumps([asdict(pull) for pull in pulls], indent=1))
        return
    for pull in pulls:
        _say(f"pull request {pull.number}: {pull.title}  {pull.url}")
    if not pulls:
        _say(f"nothing to promote: main says so already for {to}")


def _refuse_disposable() -> None:
    """Refuse a release that is made on a machine that is thrown away: its Bento goes with it."""
    from tidegate import wiring

    if os.environ.get("RUNNER_ENVIRONMENT") != "github-hosted":
        return
    bentos = wiring.platform(wiring.find_checkout(), "staging").stores.bentos
    if wiring.store_scheme(bentos)[0] == "":
        raise Refused(
            f"the Bento lies in {bentos} of a GitHub-hosted machine, which goes, and no plane could start it",
            "Give the jobs `runs-on: self-hosted`, on the machine that serves: README, On GitHub, step 3.",
        )


def _open(model: str, to: str, release: str, every: bool) -> list[Any]:
    from tidegate import pages, promotion, staging
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
            target = Target(to, name, chosen)
            if record:
                staging.admit(origin.checkout, name, chosen)
            body = pages.body(origin, target, pages.known(origin, target))
            pull = promotion.promote(origin, where, target, record=record, body=body)
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
    targets = promotion.merged(origin, since or "HEAD^1", "HEAD", _say)
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
    from tidegate import pages, promotion, staging, wiring
    from tidegate.adapters.system import SystemClock
    from tidegate.core.promotion import Outcome, findings
    from tidegate.report import Rollout

    if origin.read(origin.look(), target.record) is None:
        raise Refused(
            f"{target.path} names {target.release} of {target.model}, which has no record {target.record}",
            "Correct the line: the planes keep what they had.",
        )
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
    rollout = Rollout(target.environment, reason, findings(target, status))
    if target.environment == "staging":
        promotion.pull_artifacts(origin.checkout)
        try:
            staging.run_gates(origin.checkout, target, str(status.get("url", "")), _say)
        except Refused:  # no promotion will show the page, and who corrects the release wants to see it
            _summarise(_report(origin.checkout, in_job=True))
            raise
    following = target.next()
    if following is None:
        _say(f"{name} is in {target.environment}")
        return
    body = pages.body(origin, following, pages.known(origin, following, rollout))
    pull = promotion.promote(origin, where, following, body=body)
    _say(f"pull request {pull.number}: {pull.title}  {pull.url}" if pull else f"{name} is there already")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(pr, name="pr", no_args_is_help=True)
    app.command("promote")(promote)
