"""The command `demo`: the main job from `git push` to production, and one rollback."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.errors import PlatformError


def demo(
    model: Annotated[
        str, typer.Option("--model", help="Which model to show; else the first that brings a demo.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON at the end.")] = False,
) -> None:
    """Watch three releases go from git push towards production, and a bad one come back by itself.

    Everything is real and local: a forge with workflows under .tidegate/demo/, two planes, and users
    that ask what the model's own demo.py says. Takes a few minutes and asks nothing. A demo made before is
    removed first. Example: tidegate demo --model my-model
    """
    from tidegate import wiring
    from tidegate.demo import story, summary
    from tidegate.demo.screen import Screen
    from tidegate.files import write_atomic
    from tidegate.ui.seen import snapshot
    from tidegate.ui.terminal import render

    checkout = wiring.find_checkout()
    folder = wiring.home(checkout).root / "demo"

    def picture() -> Any:
        return render(snapshot(stage.clone)) if (stage.home / "state.db").exists() else ""

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # each must leave no process behind
        signal.signal(number, signal.default_int_handler)
    began = time.time()
    screen = Screen(picture)
    stage = story.Stage(checkout, folder, screen, model)  # a wrong name loses nothing of an earlier demo
    story.clear(folder)
    with screen:
        try:
            story.tell(stage)
            time.sleep(5)  # the crowd goes on for a moment under the last release
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            screen.say("stopping what was started", "dim")
            story.end(stage)
    answers = _answers(stage.answers, summary)
    releases = [vars(release) for release in stage.releases]
    found = summary.summarise(answers, stage.events(), releases, time.time() - began)
    missing = summary.shortcomings(found)
    found["ok"] = not missing
    write_atomic(folder / "summary.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(screen, stage, found)
    if missing:
        raise PlatformError("the demo did not go as it must: " + "; ".join(missing), f"See {stage.log}.")


def _answers(path: Path, summary: Any) -> list[Any]:
    """Read the crowd's log; its last line may be cut when they were stopped."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [summary.read_answer(line) for line in lines if line.endswith("\n")]


def _print(screen: Any, stage: Any, found: dict[str, Any]) -> None:
    from rich.table import Table

    activate = Path(sys.executable).parent / "activate"
    timeline = Table("when", "event", title="What production's agent did", title_justify="left", box=None)
    for event in stage.events():
        timeline.add_row(screen.clock(event["at"]), event["text"])
    screen.console.print("", timeline)
    numbers = Table("", "", title="Summary", title_justify="left", show_header=False, box=None)
    for release in found["releases"]:
        numbers.add_row(release["what"], f"{release['release']}  {release['fate']}")
    numbers.add_row("from push to production", f"{found['push_to_production_s']} s")
    for part, seconds in found["push_to_production_parts_s"].items():
        numbers.add_row(f"    {part}", f"{seconds} s")
    numbers.add_row(
        "from the first bad response to weight 0", f"{found['first_bad_response_to_weight_zero_s']} s"
    )
    numbers.add_row("from weight 0 to the revert on origin", f"{found['weight_zero_to_revert_pushed_s']} s")
    numbers.add_row(
        "requests",
        f"{found['requests_total']}, failed by stable {found['requests_failed_by_stable']}, "
        f"by the bad canary {found['requests_failed_by_canary']}",
    )
    screen.console.print("", numbers)
    screen.console.print(
        f"\nLook around: . {activate} && cd {stage.clone}; tidegate status; tidegate history; "
        f"tidegate pr list --all; tidegate forge runs\n"
        f"The numbers: {stage.folder / 'summary.json'}. `make clean` removes it all.",
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(demo)
