"""A trained model of this checkout, scored by its own code: models/<package>/features.py and score.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from tidegate.documents import read_yaml
from tidegate.errors import NoData

WHOLE = "model.onnx"


def columns(root: Path, package: str) -> tuple[str, ...]:
    """Return the raw columns that the model's features are made of. Raises NoData without features.py."""
    return tuple(_module(root, package, "features").COLUMNS)


def features(
    root: Path, package: str, artifact: Path
) -> tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Any]]:
    """Return the features' names, and what maps raw columns to them, `[n, F]`; see `scorer`."""
    code, compute = _computing(root, package, artifact)
    return tuple(code.FEATURES), compute


def settings_path(package: str) -> str:
    """Return where a service's settings are, from the checkout's root."""
    return f"services/{package}/settings.yaml"


def file_of(settings: str, where: str) -> str:
    """Return the name of that file of the model that a service runs on a CPU, by its settings' text.

    Raises NoData for settings that can't be read.
    """
    from tidegate.serving.settings import parse  # with it come BentoML and ONNX Runtime

    try:
        variant = parse(read_yaml(settings, where)[0]).variant
    except msgspec.ValidationError as problem:
        raise NoData(f"{where}: {problem}", "See `tidegate schema settings`.") from problem
    return f"model.{variant}.onnx" if variant else WHOLE


def served_file(root: Path, package: str) -> str:
    """Return the name of the file that is served, which is the one to judge; see `file_of`."""
    name = settings_path(package)
    return file_of((root / name).read_text(), name) if (root / name).is_file() else WHOLE


def scorer(root: Path, package: str, artifact: Path, file: str = "") -> Callable[[Mapping[str, Any]], Any]:
    """Return what maps raw columns to the model's answers: a number a row, or one a class, `[n, K]`.

    `artifact` is the model's folder, `file` which of its files is run, the one that is served if none is
    named. The code is that of `root`, whatever is imported already. Raises NoData when a part is missing;
    what the model's own code raises is passed on.
    """
    file = file or served_file(root, package)
    if not (artifact / file).is_file():
        raise NoData(f"the trained model has no {file}", "Run `dvc repro`.")
    _, compute = _computing(root, package, artifact)
    scoring = _module(root, package, "score")
    opened = scoring.session(artifact / file)
    return lambda columns: scoring.score(opened, compute(columns))


def _computing(root: Path, package: str, artifact: Path) -> tuple[ModuleType, Callable[..., Any]]:
    known = artifact / "features.json"
    if not known.is_file():
        raise NoData(f"the trained model has no {known.name}", "Run `dvc repro`.")
    code = _module(root, package, "features")
    loaded = code.load(known)
    return code, lambda columns: code.compute_columns(columns, loaded)


def _module(root: Path, package: str, name: str) -> ModuleType:
    path = root / "models" / package / f"{name}.py"
    if not path.is_file():
        raise NoData(f"there is no {path.relative_to(root)}", "Restore it from Git.")
    spec = importlib.util.spec_from_file_location(f"_scored_{package}_{name}", path)
    if spec is None or spec.loader is None:
        raise NoData(f"{path.relative_to(root)} is no Python module", "Restore it from Git.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module
