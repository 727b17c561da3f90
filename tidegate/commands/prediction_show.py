"""`tidegate predictions show`: the whole story of one prediction."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.commands.environments import known_environment
from tidegate.errors import NoData

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.core.predictions import Prediction
    from tidegate.core.shapley import Explained
    from tidegate.explaining import Named
    from tidegate.ports import Event
    from tidegate.story import Story

SHOWN = 10  # predictions of one request
OTHERS = 200  # predictions to compare with, where a model has no trees
EVENTS = 10_000  # as many as are kept
BAR = 24  # characters of the longest contribution

_Request = Annotated[
    str,
    typer.Argument(help="The request's id: x-request-id of its answer; id/7 is its row 7.", metavar="ID"),
]
_Environment = Annotated[
    str, typer.Option("--env", "-e", help="Whose platform.yaml says where the log lies.")
]
_Explain = Annotated[bool, typer.Option(help="Compute what each feature added.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(
    request: _Request,
    environment: _Environment = "production",
    explain: _Explain = True,
    as_json: _Json = False,
) -> None:
    """Tell the whole story of one prediction: what was asked, seen and answered, by whom, and why.

    Example: tidegate predictions show 3f1c9b20-77aa-4bd0-9d36-0a6c8f6e5b11
    """
    from tidegate import story

    stories, more = _stories(request, known_environment(environment), explain)
    if as_json:
        typer.echo(json.dumps([story.document(each) for each in stories], indent=2, default=str))
    else:
        console = _console()
        for each in stories:
            _print(console, each)
    if more:
        typer.secho(
            f"{more} more predictions of this request: name one of its rows, {request}/0 and on", err=True
        )


def _stories(request: str, environment: str, explained: bool) -> tuple[list[Story], int]:
    from tidegate import config, planes, story, wiring
    from tidegate.adapters.outcomes import FILE, read_outcomes
    from tidegate.adapters.sqlite import read_events

    checkout = wiring.find_checkout()
    where, spec = wiring.home(checkout), wiring.platform(checkout, environment)
    log = wiring.predictions(spec, where)
    found = log.find(request)
    if not found:
        raise NoData(
            f"no prediction is logged for request `{request:.60}`",
            "Take the id from the answer's x-request-id, or list the newest: tidegate predictions query "
            "'SELECT request_id, time FROM predictions ORDER BY time DESC LIMIT 10'",
        )
    files, state = config.read_envs(checkout), wiring.state_path(spec, where)
    events: dict[str, list[Event]] = {
        plane: read_events(state, plane, EVENTS)
        for plane in {each.plane for each in found[:SHOWN]} | set(planes.names(checkout))
    }
    ids = {name for each in found for name in (each.request_id, each.request_id.rpartition("/")[0]) if name}
    outcomes = read_outcomes(where.root / FILE, sorted(ids))
    told = []
    for each in found[:SHOWN]:
        others = _others(log, each)
        told.append(
            story.tell(
                each,
                files,
                wiring.bentos_path(spec, where),
                events.get(each.plane, []),
                outcomes,
                others if explained else None,
            )
        )
    return told, max(0, len(found) - SHOWN)


def _others(log: Any, prediction: Prediction) -> Any:
    """Return what gives the features of other predictions of a release: always the same ones."""
    quoted = [
        text.replace("'", "''") for text in (prediction.model, prediction.release, prediction.request_id)
    ]
    model, release, request = quoted

    def others() -> list[Named]:
        table = log.query(
            f"SELECT features FROM predictions WHERE model = '{model}' AND release = '{release}' "  # noqa: S608
            f"AND request_id <> '{request}' AND features IS NOT NULL ORDER BY hash(request_id) LIMIT {OTHERS}"
        )
        rows = [row[0] for row in table.rows]
        names = prediction.features
        return [{name: row[name] for name in names} for row in rows if set(names) <= set(row)]

    return others


# ---------------------------------------------------------------- for people
def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 200, highlight=False)


def _print(console: Console, story: Story) -> None:
    from rich.text import Text

    from tidegate.core.history import iso

    prediction = story.prediction
    answer = ", ".join(f"{name} {_value(value)}" for name, value in prediction.prediction.items())
    console.print(Text(f"{prediction.request_id}  {answer or 'no answer was written down'}", style="bold"))
    lines = [
        ("when", f"{iso(prediction.at).replace('T', ' ')}, {prediction.latency_ms:.2f} ms"),
        ("model", f"{prediction.model} {prediction.model_version}"),
        ("release", _release(story)),
        ("where", _where(story)),
        ("answered", f"{prediction.source}, asked by {prediction.protocol}"),
    ]
    lines += [("outcome", _outcome(story, o)) for o in story.outcomes] or [("outcome", "none came yet")]
    lines += [("then", f"{_after(story, event.at)}: {event.text}") for event in story.course.after]
    for name, text in lines:
        console.print(Text(f"  {name:<9} {text}"))
    console.print(Text(f"  {'asked':<9} {json.dumps(prediction.inputs)}"))
    _features(console, story)
    for note in story.notes:
        console.print(Text(f"  {note}", style="yellow"))


def _release(story: Story) -> str:
    record, release = story.record, story.prediction.release
    if record is None:
        return release
    made = f"commit {record.commit[:8]}, MLflow {record.registry.name} version {record.registry.version}"
    return f"{release} ({made}, artifact {record.artifact[:19]}…)"


def _where(story: Story) -> str:
    prediction, course = story.prediction, story.course
    parts = [f"plane {prediction.plane}" if prediction.plane else "outside of a plane"]
    if prediction.arm:
        parts.append(f"arm {prediction.arm}")
    if course.before:
        role = f"{course.role} in {course.environment}" if course.environment else course.role
        parts.append(f"{role}; last event before: {course.before.text}")
    return ", ".join(parts)


def _outcome(story: Story, outcome: Any) -> str:
    return f"{outcome.name} = {outcome.value:g}, {_after(story, outcome.at)}"


def _after(story: Story, at: float) -> str:
    seconds = at - story.prediction.at
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.1f} {unit} later"
    return f"{seconds:.1f} s later"


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower()


def _features(console: Console, story: Story) -> None:
    from rich.table import Table
    from rich.text import Text

    features, explained = story.prediction.features, story.explained
    if not features:
        console.print(Text("  no features were written down"))
        return
    shares = {share.name: share for share in explained.by_size()} if explained else {}
    names = [*shares, *(name for name in features if name not in shares)]
    table = Table(box=None, padding=(0, 2), title=_title(explained), title_justify="left")
    table.add_column("feature")
    table.add_column("as used", justify="right")
    if explained:
        table.add_column(f"added, {explained.unit}", justify="right")
        table.add_column("")
    longest = max((abs(share.value) for share in shares.values()), default=0.0) or 1.0
    for name in names:
        value = features.get(name)
        row = [name, "missing" if value is None else f"{value:g}"]
        if explained:
            share = shares[name]
            error = "" if share.error is None else f" ± {share.error:.2g}"
            bar = ("+" if share.value > 0 else "-") * round(BAR * abs(share.value) / longest)
            row += [f"{share.value:+.4f}{error}", bar]
        table.add_row(*map(Text, row), style="dim" if value is None else None)
    console.print(table)


def _title(explained: Explained | None) -> str:
    if explained is None:
        return "Features"
    text = f"What made {explained.of}: base {explained.base:+.4f}, all together {explained.total:+.4f} "
    return f"{text}{explained.unit} ({explained.method})"
