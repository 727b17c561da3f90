"""The one page of a model's release: gathered from a checkout, written to build/, put into a promotion."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tidegate import changes, gating, report, shelf, wiring
from tidegate.config import Platform
from tidegate.core.promotion import Facts, Target
from tidegate.core.release import ReleaseRecord
from tidegate.documents import convert, read_yaml
from tidegate.errors import NoData, TidegateError
from tidegate.files import write_atomic
from tidegate.promotion import Origin
from tidegate.report import html, markdown
from tidegate.report.page import Code, Link, Material, Page, Rollout, Words, page

LATER: Mapping[str, str] = {
    "release": "runs once the release is packaged",
    "endpoint": "runs against the release in staging",
}
STAGES = ("files", "release", "endpoint")  # each can run what those before it can


# ---------------------------------------------------------------- gathering
def gather(root: Path, model: str, *, stage: str = "") -> Material:
    """Return what a checkout knows of a model: its reports, held against its files, and what changed.

    `stage` is how far the model is (one of STAGES; by default as far as its files and reports say): gates
    that can run by then and did not report are ERROR, later ones are pending. Raises NoData when nothing of
    the model was built here.
    """
    folder = root / "build" / model
    if not folder.is_dir():
        raise NoData(f"nothing of {model} was built here", "Run `dvc repro`.")
    record = packaged(root, model)
    release = record.id if record else ""
    found = {each.gate: each for each in report.read_folder(folder / "gates")}
    needs = _needs(root)
    stage = stage or _stage(found, needs, record)
    due = [name for name, need in needs.items() if STAGES.index(need) <= STAGES.index(stage)]
    pending = {name: LATER[need] for name, need in needs.items() if name not in due}
    shown = [
        report.current(each, root, model=model, release=release)
        for name, each in found.items()
        if name not in pending
    ]
    return Material(
        model,
        report.with_missing(shown, due),
        release=release,
        changes=changes.since_production(root, model, record),
        pending=pending,
        files={name: _file(root, model, name) for name in (*needs, *found)},
    )


def _file(root: Path, model: str, gate: str) -> str:
    return (gating.folder(root, model, gate) / f"{gate}.json").relative_to(root).as_posix()


def _stage(found: Mapping[str, report.Report], needs: Mapping[str, str], record: ReleaseRecord | None) -> str:
    """Return how far a model is; an endpoint's report counts if it is about the release packaged here."""
    if record is None:
        return "files"
    asked = [found[name] for name, need in needs.items() if need == "endpoint" and name in found]
    return "endpoint" if any(each.source.release == record.id for each in asked) else "release"


def _needs(root: Path) -> dict[str, str]:
    """Return gate → when it can run. One that can't be loaded is due at once, and so shown as missing."""
    needs: dict[str, str] = {}
    for name in gating.names(root):
        try:
            needs[name] = gating.load(root, name).needs
        except (TidegateError, ImportError, SyntaxError):
            needs[name] = "files"
    return needs


def packaged(root: Path, model: str) -> ReleaseRecord | None:
    """Return the record that was packaged here last, or None. Raises ConfigError when it can't be read."""
    path = root / "build" / model / "release.yaml"
    if not path.is_file():
        return None
    value, lines = read_yaml(path.read_text(), path.name)
    return convert(value, ReleaseRecord, where=path.name, lines=lines)


def write(root: Path, material: Material, *, share: int = 1) -> tuple[Page, str]:
    """Write a page as build/<model>/report.md and report.html; return it and its Markdown.

    `share` is how many pages must fit into one comment.
    """
    whole = page(material)
    folder = root / "build" / material.model
    text = markdown.draw(whole, markdown.LIMIT // max(1, share) - 10)
    write_atomic(folder / "report.md", text)
    write_atomic(folder / "report.html", html.draw(whole))
    return whole, text


# ---------------------------------------------------------------- promotions
def known(origin: Origin, target: Target, rollout: Rollout | None = None) -> Material:
    """Return what a promotion's page is made of: what was built here, else what was kept when it was.

    Where neither is about this release there are no reports, and the page is ERROR.
    """
    stage = "release" if target.environment == "staging" else "endpoint"
    kept = shelf.take(origin, target.model, target.release)
    before = tuple(kept.rollouts) if kept else ()
    try:
        here = gather(origin.checkout, target.model, stage=stage)
    except TidegateError:
        here = None
    if here is not None and here.release == target.release and (stage == "release" or not kept or not before):
        material = here
    else:
        material = kept or Material(target.model, (), release=target.release)
    others = tuple(r for r in before if rollout is None or r.environment != rollout.environment)
    return replace(material, rollouts=(*others, *([rollout] if rollout else [])))


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
