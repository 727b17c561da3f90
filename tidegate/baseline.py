"""The release that runs in production, scored on the rows that a candidate is judged by."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tidegate import config, params, plumbing, scoring
from tidegate.core.release import ReleaseRecord
from tidegate.core.task import Declaration
from tidegate.documents import read_yaml
from tidegate.errors import ConfigError, Fatal, NoData
from tidegate.files import digest_folder
from tidegate.ports import Registry

CODE = ("features.py", "score.py")  # what a model's rows go through


def released(root: Path, model: str, environment: str = "production") -> ReleaseRecord | None:
    """Return the record of the release that an environment wants, or None when it wants none.

    Raises ConfigError when release.yaml or the record it names can't be read.
    """
    path = f"envs/{environment}/release.yaml"
    release = config.parse_release_file(_read(root, path), path).get(model)
    if release is None:
        return None
    record = f"envs/releases/{model}/{release}.yaml"
    return config.parse_record(_read(root, record), record)


def _read(root: Path, path: str) -> str:
    try:
        return (root / path).read_text()
    except OSError as error:
        raise ConfigError("can't be read", "Restore it from Git.", where=path) from error


@dataclass(frozen=True)
class Old:
    """A release to be scored again: whose checkout and package, what is declared now, its record."""

    root: Path
    package: str
    declared: Declaration
    record: ReleaseRecord


def predictions(old: Old, registry: Registry, columns: Mapping[str, Any]) -> tuple[Any, str]:
    """Fetch a release's model; return its predictions of `columns`, and whose code made them.

    `columns` are the raw rows'. Features and scores are computed by features.py and score.py as they were at
    the release's own commit, since a candidate may have changed them; of several classes, in the order that
    is declared now. Raises NoData when this clone lacks that commit, Fatal when the fetched files are not the
    record's, when model and code can't be brought together, or when another task was declared then.
    """
    record = old.record
    order = _order(old)
    with tempfile.TemporaryDirectory(prefix="tidegate-baseline-") as folder:
        files = registry.fetch(record.registry.name, record.registry.version, Path(folder) / "model")
        found = digest_folder(files)
        if found != record.artifact:
            raise Fatal(
                f"version {record.registry.version} of {record.registry.name} has the digest {found}, "
                f"and release {record.id} names {record.artifact}",
                "Find out who changed the registry's files.",
            )
        paths = [f"models/{old.package}/{name}" for name in CODE]
        codes = [_code(old.root, record, path) for path in paths]
        try:
            features, score = (
                _module(code, f"{old.package}_{Path(path).stem}_of_{record.id}")
                for code, path in zip(codes, paths, strict=True)
            )
            matrix = features.compute_columns(columns, features.load(files / "features.json"))
            opened = score.session(files / _served(old.root, old.package, record))
            made = np.asarray(score.score(opened, matrix))
        except Exception as error:
            raise Fatal(
                f"release {record.id} can't be scored with {' and '.join(paths)} of its commit: {error}",
                f"Look at `git show {record.commit[:12]}:{paths[0]}`, and at the version's features.json.",
            ) from error
    return made[:, order] if order and made.ndim == 2 else made, f"commit {record.commit[:12]}"


def _order(old: Old) -> list[int]:
    """Return where each class that is declared now stands in the release's own predictions.

    A release from before models declared themselves is taken for what is declared now.
    """
    document, _ = read_yaml(_code(old.root, old.record, params.FILE), params.FILE)
    said = ((document or {}).get("models") or {}).get(old.record.model) or {}
    if "task" not in said:
        return []
    named = said.get("prediction")
    then = tuple(named) if isinstance(named, list) else ()
    if (said["task"], said.get("label"), sorted(then)) != (
        old.declared.task,
        old.declared.label,
        sorted(old.declared.classes),
    ):
        raise Fatal(
            f"release {old.record.id} was declared to be something else: {said['task']} of "
            f"`{said.get('label')}`" + (f" into {', '.join(then)}" if then else ""),
            "Predictions of two kinds can't be compared: give the new model a name of its own.",
        )
    return [then.index(name) for name in old.declared.classes]


def same_code(root: Path, package: str, record: ReleaseRecord) -> bool:
    """Tell whether a release computed its features and scores by the code that this checkout has.

    Raises NoData when its commit is not in this clone.
    """
    paths = [f"models/{package}/{name}" for name in CODE]
    same = all(_code(root, record, path) == _read(root, path) for path in paths)
    return same and _served(root, package, record) == scoring.served_file(root, package)


def _served(root: Path, package: str, record: ReleaseRecord) -> str:
    """Return which of the model's files a release served; one without settings had one file."""
    name = scoring.settings_path(package)
    try:
        text = _code(root, record, name)
    except NoData:  # the commit is here, else its features.py had not been found
        return scoring.WHOLE
    return scoring.file_of(text, f"{name} of {record.commit[:12]}")


def _code(root: Path, record: ReleaseRecord, path: str) -> str:
    """Return a file as it was at a release's commit; any other code would feed its model something else."""
    shown = subprocess.run(
        ["git", "-C", str(root), "show", f"{record.commit}:{path}"],
        env=plumbing.environment(),
        capture_output=True,
        text=True,
    )
    if shown.returncode == 0:
        return shown.stdout
    raise NoData(
        f"release {record.id} was made of commit {record.commit[:12]}, and this clone has no {path} of it",
        "Get the whole history: `git fetch --unshallow`, or `fetch-depth: 0` in the workflow's checkout.",
    )


def _module(code: str, name: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up by its name
    try:
        exec(compile(code, f"{name}.py", "exec"), module.__dict__)  # noqa: S102 - this repository's own code
    except BaseException:
        del sys.modules[name]
        raise
    return module
