"""Commands of the one page: made of what was built here, or shown as it was kept in Git."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.errors import NoData

report = typer.Typer(help="The one page on which a reviewer decides.")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@report.command("build")
def report_build(
    model: Annotated[str, typer.Argument(help="The model (default: all that were built here).")] = "",
    as_json: _Json = False,
) -> None:
    """Write build/<model>/report.html and report.md of the gates' reports that are here.

    Exits as the worst gate does: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 ERROR.

    Example: tidegate report build my-model
    """
    from tidegate import pages, wiring
    from tidegate.core.verdict import worst

    root = wiring.find_checkout()
    models = [model] if model else sorted(path.parent.name for path in (root / "build").glob("*/gates"))
    if not models:
        raise NoData("nothing was built here, so no gate has reported", "Run `dvc repro`.")
    made: list[dict[str, Any]] = []
    verdicts = []
    for name in models:
        whole, _ = pages.write(root, pages.gather(root, name))
        verdicts.append(whole.verdict)
        made.append({"model": name, "verdict": str(whole.verdict), "files": _files(root, name)})
    if as_json:
        typer.echo(json.dumps(made, indent=1))
    else:
        for each in made:
            typer.echo(f"{each['verdict']:<14} {each['model']}: {', '.join(each['files'])}")
    raise typer.Exit(worst(verdicts).exit_code)


def _files(root: Path, model: str) -> list[str]:
    folder = root / "build" / model
    return [(folder / name).relative_to(root).as_posix() for name in ("report.html", "report.md")]


@report.command("show")
def report_show(
    name: Annotated[str, typer.Argument(metavar="RELEASE", help="A release's id, or a branch.")],
    page: Annotated[
        Path | None, typer.Option("--html", help="Write the page with plots to this file.")
    ] = None,
    in_browser: Annotated[
        bool, typer.Option("--open", help="Open the page with plots in a browser.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Show the page of a release as it was when it was promoted, from Git.

    Example: tidegate report show 82be568dc222 --open
    """
    import tempfile
    import webbrowser

    from tidegate import shelf
    from tidegate.commands.pulls import _origin
    from tidegate.files import write_atomic

    origin, _ = _origin()
    model, commit = shelf.find(origin, name)
    if as_json:
        material = shelf.take(origin, model, name)
        reports = [each.as_dict() for each in material.reports] if material else []
        typer.echo(
            json.dumps({"model": model, "release": name, "commit": commit, "reports": reports}, indent=1)
        )
        return
    if page is None and not in_browser:
        typer.echo(shelf.drawn(origin, commit, "report.md"))
        return
    path = page or Path(tempfile.gettempdir()) / f"tidegate-{model}-{commit[:12]}.html"
    write_atomic(path, shelf.drawn(origin, commit, "report.html"))
    typer.echo(str(path))
    if in_browser and not webbrowser.open(path.absolute().as_uri()):
        typer.echo("no browser answers here: open that file in one", err=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(report, name="report", no_args_is_help=True)
