"""The one page of a model's release: gathered from a checkout, written to build/, put into a promotion."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tidegate import changes, gating, report, shelf, staging, wiring
from tidegate.config import Platform, parse_record, read_record
from tidegate.core.promotion import Facts, Target
from tidegate.core.release import ReleaseRecord
from tidegate.core.verdict import Verdict
from tidegate.errors import NoData, TidegateError
from tidegate.files import write_atomic
from tidegate.promotion import Origin
from tidegate.report import html, markdown
from tidegate.report.page import Code, Link, Material, Page, Rollout, Words, page

UNPACKAGED = "runs once the release is packaged"
UNSTAGED = "runs against the release in staging"


# ---------------------------------------------------------------- gathering
def gather(
    root: Path, model: str, *, staged: bool | None = None, record: ReleaseRecord | None = None
) -> Material:
    """Return what a checkout knows of a model: its reports, held against its files, and what changed.

    A gate that can have run and did not report is ERROR, one whose turn comes later is pending. `staged` says
    whether those of staging can have run, by default whether one of them reports on the release that was
    packaged here. `record` is that of the release, by default the one packaged here. Raises NoData when
    nothing of the model was built here.
    """
    folder = root / "build" / model
    if not folder.is_dir():
        raise NoData(f"nothing of {model} was built here", "Run `dvc repro`.")
    record = record or packaged(root, model)
    release = record.id if record else ""
    found = {each.gate: each for each in report.read_folder(folder / "gates") if not _empty(each)}
    late = staging.gates(root)
    if staged is None:
        staged = bool(record) and any(found[g].source.release == release for g in late if g in found)
    names = list(dict.fromkeys([*gating.names(root), *late]))
    pending = {} if staged else dict.fromkeys(late, UNSTAGED)
    if record is None:
        pending |= {name: UNPACKAGED for name in names if name not in late and _needs(root, name) != "files"}
    shown = [
        report.current(each, root, model=model, release=release)
        for name, each in found.items()
        if name not in pending
    ]
    return Material(
        model,
        report.with_missing(shown, [name for name in names if name not in pending]),
        release=release,
        changes=changes.since_production(root, model, record),
        pending=pending,
        files={name: _file(root, model, name) for name in (*names, *found)},
    )


def _empty(found: report.Report) -> bool:
    """Tell whether this is only the pipeline's word that there are no gates of a user's own."""
    return found.gate == "added" and found.verdict is Verdict.NOT_APPLICABLE


def _file(root: Path, model: str, gate: str) -> str:
    return (gating.folder(root, model, gate) / f"{gate}.json").relative_to(root).as_posix()


def _needs(root: Path, name: str) -> str:
    """Return when a gate can run. One that can't be loaded is due at once, and so shown as missing."""
    try:
        return gating.load(root, name).needs
    except (TidegateError, ImportError, SyntaxError):
        return "files"


def packaged(root: Path, model: str) -> ReleaseRecord | None:
    """Return the record that was packaged here last, or None. Raises ConfigError when it can't be read."""
    path = root / "build" / model / "release.yaml"
    if not path.is_file():
        return None
    return read_record(path.read_text(), path.name)


def write(root: Path, material: Material, *, share: int = 1) -> tuple[Page, str]:
    """Write a page as build/<model>/report.md and report.html; return it and its Markdown.

    `share` is how many pages must fit into one comment.
    """
    whole = page(material)
    folder = root / "build" / material.model
    again = (
        "With plots, as one file: ",
        Code("dvc pull"),
        ", then ",
        Code(f"tidegate report build {material.model}"),
    )
    led = page(replace(material, links=material.links or Words(again)))
    text = markdown.draw(led, markdown.LIMIT // max(1, share) - 10)
    write_atomic(folder / "report.md", text)
    write_atomic(folder / "report.html", html.draw(whole))
    return whole, text


# ---------------------------------------------------------------- promotions
def known(origin: Origin, target: Target, rollout: Rollout | None = None) -> Material:
    """Return what a promotion's page is made of: what was built here, else what was kept when it was.

    Beyond staging, a gate that still waits for its turn is ERROR. Where nothing is known of this release
    there are no reports, and so is the page.
    """
    first = target.environment == "staging"
    kept = shelf.take(origin, target.model, target.release)
    here = _here(origin, target, staged=False if first else None)
    if here is not None and (first or not here.pending):
        material = here
    else:
        material = kept or here or Material(target.model, (), release=target.release)
    if material.pending and not first:
        missed = report.with_missing(material.reports, list(material.pending))
        material = replace(material, reports=missed, pending={})
    before = [
        r for r in (kept.rollouts if kept else ()) if not rollout or r.environment != rollout.environment
    ]
    return replace(material, rollouts=(*before, *([rollout] if rollout else [])))


def _here(origin: Origin, target: Target, *, staged: bool | None) -> Material | None:
    """Return what this checkout knows of a release; nothing where it was built for another one.

    A workflow's checkout may hold the reports of staging's gates, and no release.yaml: main has the record.
    """
    try:
        record = packaged(origin.checkout, target.model)
        if record is None:
            text = origin.read(origin.look(), target.record)
            record = parse_record(text, target.record) if text else None
        if record is None or record.id != target.release:
            return None
        return gather(origin.checkout, target.model, staged=staged, record=record)
    except TidegateError:
        return None


def body(origin: Origin, target: Target, material: Material) -> Callable[[Facts], str]:
    """Return what makes a promotion's body: the page, kept in Git as one HTML file too, and linked.

    A remote that does not take that file stops nothing; the body says so.
    """

    def make(facts: Facts) -> str:
        link = keep(origin, material, target.release)
        lead = replace(material, lead=facts.lead, facts=facts.rows, links=link)
        return markdown.draw(page(lead))

    return make


def keep(origin: Origin, material: Material, name: str) -> Words:
    """Keep a page on origin under `name`; return the words that lead there, or say why it is not there."""
    whole = page(material)
    drawn = {"report.md": markdown.draw(whole), "report.html": html.draw(whole)}
    try:
        commit = shelf.put(origin, material, name, drawn)
    except TidegateError as error:
        return Words((f"The page with its plots could not be kept on {origin.remote}: {error.message}.",))
    command = Code(f"tidegate report show {name.removeprefix('branch/')} --open")
    base = web(wiring.platform(origin.checkout, "staging"))
    if not base:
        return Words(("With plots, as one file: ", command))
    return Words(
        (
            *("With plots, as one file: ", Link("report.html", f"{base}/raw/{commit}/report.html")),
            *(" (save it, then open it), or ", command, ". In full: "),
            Link("report.md", f"{base}/blob/{commit}/report.md"),
        )
    )


def web(spec: Platform) -> str:
    """Return the address at which people see the repository, or nothing where the forge has no pages."""
    if spec.forge.adapter != "github":
        return ""
    server = os.environ.get("GITHUB_SERVER_URL") or spec.forge.api.replace("//api.", "//").removesuffix(
        "/api/v3"
    )
    return f"{server.rstrip('/')}/{spec.forge.repository or os.environ.get('GITHUB_REPOSITORY', '')}"
