"""The release that runs in production, scored on the rows that a candidate is judged by."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tidegate import config, plumbing
from tidegate.core.release import ReleaseRecord
from tidegate.errors import ConfigError, Fatal, NoData
from tidegate.files import digest_folder
from tidegate.ports import Registry

BATCH = 8192  # rows


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


def predictions(
    root: Path, package: str, record: ReleaseRecord, registry: Registry, columns: Mapping[str, Any]
) -> tuple[np.ndarray[Any, Any], str]:
    """Fetch a release's model; return its probabilities for `columns`, and whose code made the features.

    `columns` are the flattened rows. Features are computed by features.py as it was at the release's
    own commit, since a candidate may have changed them. Raises NoData when this clone lacks that commit,
    Fatal when the fetched files are not the record's, or model and code can't be brought together.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-baseline-") as folder:
        files = registry.fetch(record.registry.name, record.registry.version, Path(folder) / "model")
        found = digest_folder(files)
        if found != record.artifact:
            raise Fatal(
                f"version {record.registry.version} of {record.registry.name} has the digest {found}, "
                f"and release {record.id} names {record.artifact}",
                "Find out who changed the registry's files.",
            )
        path = f"models/{package}/features.py"
        code = _code(root, record, path)
        try:
            features = _module(code, f"{package}_features_of_{record.id}")
            matrix = features.compute_columns(columns, features.load(files / "features.json"))
            return _score(files / "model.onnx", matrix), f"commit {record.commit[:12]}"
        except Exception as error:
            raise Fatal(
                f"release {record.id} can't be scored with {path} of its commit: {error}",
                f"Look at `git show {record.commit[:12]}:{path}`, and at the version's features.json.",
            ) from error


def same_features(root: Path, package: str, record: ReleaseRecord) -> bool:
    """Tell whether a release computed its features by the code that this checkout has.

    Raises NoData when its commit is not in this clone.
    """
    path = f"models/{package}/features.py"
    return _code(root, record, path) == _read(root, path)


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


def _score(model: Path, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # converters declare `label` with a wrong shape: a warning a batch
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    parts = [
        session.run(["probabilities"], {source: matrix[start : start + BATCH]})[0][:, 1]
        for start in range(0, len(matrix), BATCH)
    ]
    return np.concatenate(parts)
