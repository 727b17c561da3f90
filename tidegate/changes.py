"""What changed since production's release: reads two commits and dvc.lock; `core.changes` compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidegate import plumbing
from tidegate.baseline import released
from tidegate.core import changes as core
from tidegate.core.release import ReleaseRecord
from tidegate.documents import read_yaml
from tidegate.errors import ConfigError, TidegateError
from tidegate.packaging import Layout, pipeline_digest_of

MOST_COMMITS = 200  # subjects read; the page shows fewer, and says so


def since_production(root: Path, model: str, candidate: ReleaseRecord | None = None) -> core.Changes:
    """Return what differs between production's release and the candidate, by default what HEAD has.

    What can't be read is named in `problems`, and never taken for "nothing changed".
    """
    try:
        until = candidate.commit if candidate else plumbing.git(root, "rev-parse", "HEAD")
        production = released(root, model)
    except TidegateError as error:
        return core.Changes(problems=(str(error),))
    if production is None:
        return core.Changes(until=until)
    found = core.Changes(against=production.id, since=production.commit, until=until)
    for commit in (production.commit, until):
        if not plumbing.resolve(root, f"{commit}^{{commit}}"):
            text = f"commit {commit[:12]} is not in this clone (`git fetch --unshallow` brings it)"
            return _with(found, problems=(text,))
    return _compare(root, model, production, candidate, found)


def _with(found: core.Changes, **fields: Any) -> core.Changes:
    import msgspec

    changed: core.Changes = msgspec.structs.replace(found, **fields)
    return changed


def _compare(
    root: Path, model: str, production: ReleaseRecord, candidate: ReleaseRecord | None, found: core.Changes
) -> core.Changes:
    old, new = found.since, found.until
    paths = Layout(root, model).inputs
    problems: list[str] = []
    parts: dict[str, Any] = {}
    readers: dict[str, Callable[[], Any]] = {
        "parameters": lambda: core.parameters(
            _yaml(root, old, "params.yaml"), _yaml(root, new, "params.yaml"), model
        ),
        "data": lambda: core.data(_lock(root, production), _lock(root, candidate), model),
        "dependencies": lambda: core.dependencies(
            plumbing.read(root, old, "requirements.lock") or "",
            plumbing.read(root, new, "requirements.lock") or "",
        ),
        "code": lambda: core.files(
            plumbing.git(
                root, "diff", "--numstat", "--no-renames", "--end-of-options", old, new, "--", *paths
            )
        ),
        "commits": lambda: core.commits(_log(root, old, new, paths)),
    }
    for name, read in readers.items():
        try:
            parts[{"code": "files"}.get(name, name)] = read()
        except (TidegateError, ValueError) as error:
            problems.append(f"{name}: {error}")
    return _with(found, **parts, problems=tuple(problems))


def _log(root: Path, old: str, new: str, paths: tuple[str, ...]) -> str:
    limit = f"--max-count={MOST_COMMITS}"
    return plumbing.git(root, "log", "--no-merges", limit, "--format=%H%x09%s", f"{old}..{new}", "--", *paths)


def _yaml(root: Path, commit: str, path: str) -> Any:
    text = plumbing.read(root, commit, path)
    return read_yaml(text, path)[0] if text else {}


def _lock(root: Path, record: ReleaseRecord | None) -> Any:
    """Return the dvc.lock that a release was built by: it is committed together with the release's record.

    Without a release, and for one whose record is not committed yet, it is that of the checkout. Raises
    ConfigError unless its stages are those that the record names.
    """
    text = None
    if record is not None:
        path = f"envs/releases/{record.model}/{record.id}.yaml"
        added = plumbing.git(
            root, "log", "--format=%H", "--diff-filter=A", "--max-count=1", "HEAD", "--", path
        )
        text = plumbing.read(root, added, "dvc.lock") if added else None
    if text is None:
        file = root / "dvc.lock"
        text = file.read_text() if file.is_file() else ""
    if not text:
        raise ConfigError("there is no dvc.lock", "Run `dvc repro`.")
    value, _ = read_yaml(text, "dvc.lock")
    if record is not None and pipeline_digest_of(value, record.model) != record.pipeline:
        raise ConfigError(f"the dvc.lock that release {record.id} was built by is not known here", "")
    return value
