"""Pages kept in Git beside what they are about: refs/tidegate/reports/<model>/<name> on origin.

`name` is a release's id, or `branch/<branch>` for what is not a release yet. Each change is a commit on
top of the one before, so that an address with a commit's id stays good. Nothing here decides anything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tidegate import plumbing, report
from tidegate.core.changes import Changes
from tidegate.errors import Conflict, NoData, PlatformError, TidegateError
from tidegate.promotion import AUTOMATION, Origin
from tidegate.report.page import Material, Rollout

ROOT = "refs/tidegate/reports"
SHOWN = ("report.md", "report.html")
REST = "page.json"


class _Rest(msgspec.Struct, frozen=True):
    """What a page is made of beside its gates' reports."""

    changes: Changes | None
    rollouts: tuple[Rollout, ...]
    pending: Mapping[str, str]
    files: Mapping[str, str]


def put(origin: Origin, material: Material, name: str, drawn: Mapping[str, str]) -> str:
    """Keep a page with what it is made of; returns its commit, the one before when nothing changed.

    Raises Unreachable, Refused or Conflict when the remote does not take it.
    """
    folder, ref = origin.checkout, f"{ROOT}/{material.model}/{name}"
    rest = _Rest(material.changes, tuple(material.rollouts), material.pending, material.files)
    files = {
        **drawn,
        **{f"gates/{each.gate}.json": report.to_json(each) for each in material.reports},
        REST: msgspec.json.format(msgspec.json.encode(rest), indent=1).decode() + "\n",
    }
    tree = plumbing.tree(folder, plumbing.git(folder, "mktree", text=""), files)
    before = _fetch(origin, ref)
    if before and plumbing.git(folder, "rev-parse", f"{before}^{{tree}}") == tree:
        return before
    text = f"Report on {material.model} {name}\n"
    commit = plumbing.commit(folder, tree, (before,) if before else (), text, AUTOMATION)
    lease = f"--force-with-lease={ref}:{before or ''}"
    plumbing.git(
        folder, "push", "--quiet", lease, origin.remote, f"{commit}:{ref}", env={"TIDEGATE_FOLLOW": "0"}
    )
    return commit


def _fetch(origin: Origin, ref: str) -> str | None:
    try:
        plumbing.git(origin.checkout, "fetch", "--quiet", origin.remote, f"+{ref}:{ref}")
    except (PlatformError, Conflict) as error:  # git says "couldn't find remote ref" before the first
        if "find remote ref" in str(error):
            return None
        raise
    return plumbing.resolve(origin.checkout, ref)


def listed(origin: Origin) -> dict[tuple[str, str], str]:
    """Return (model, name) → commit of every page on the remote. Raises Unreachable."""
    found = {}
    for line in plumbing.git(origin.checkout, "ls-remote", origin.remote, f"{ROOT}/*").splitlines():
        commit, _, ref = line.partition("\t")
        model, _, name = ref.removeprefix(f"{ROOT}/").partition("/")
        found[(model, name)] = commit
    return found


def find(origin: Origin, name: str) -> tuple[str, str]:
    """Return the model and the commit of a release's page, or of a branch's. Raises NoData, Unreachable."""
    known = {rest: (model, commit, rest) for (model, rest), commit in listed(origin).items()}
    found = known.get(name) or known.get(f"branch/{name}")
    if found is None:
        raise NoData(
            f"there is no page of `{name}` on {origin.remote}",
            "Name a release (`tidegate history`) that was promoted with a report.",
        )
    model, commit, rest = found
    _fetch(origin, f"{ROOT}/{model}/{rest}")
    return model, commit


def drawn(origin: Origin, commit: str, name: str) -> str:
    """Return a kept page's text by its file's name, one of SHOWN. Raises NoData."""
    text = plumbing.read(origin.checkout, commit, name)
    if text is None:
        raise NoData(f"there is no {name} in {commit[:12]}", "Look at it with `git show`.")
    return text


def take(origin: Origin, model: str, release: str) -> Material | None:
    """Return what a release's kept page was made of, or None when there is none or it can't be read.

    A report that can't be read, or is about something else, is an ERROR report.
    """
    try:
        commit = _fetch(origin, f"{ROOT}/{model}/{release}")
        text = plumbing.read(origin.checkout, commit, REST) if commit else None
        rest = msgspec.json.decode(text, type=_Rest) if text else None
    except (TidegateError, msgspec.MsgspecError):
        return None
    if commit is None or rest is None:
        return None
    reports = []
    with tempfile.TemporaryDirectory(prefix="tidegate-page-") as folder:
        for line in plumbing.git(origin.checkout, "ls-tree", "--name-only", commit, "gates/").splitlines():
            path = Path(folder) / Path(line).name
            path.write_text(plumbing.read(origin.checkout, commit, line) or "")
            reports.append(_about(report.read_report(path), Path(folder), model, release))
    return Material(
        model,
        reports,
        release=release,
        rollouts=rest.rollouts,
        changes=rest.changes,
        pending=rest.pending,
        files=rest.files,
    )


def _about(found: report.Report, root: Path, model: str, release: str) -> report.Report:
    """Hold a kept report against model and release; the files it was made from are not looked for again."""
    import dataclasses

    bare = dataclasses.replace(found, source=msgspec.structs.replace(found.source, inputs={}))
    held = report.current(bare, root, model=model, release=release)
    return found if held is bare else held
