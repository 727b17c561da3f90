"""What differs between two releases: parameters, data, code, dependencies. Pure, from the files' contents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of params.yaml by its dotted key; None where it is not there."""

    key: str
    old: str | None
    new: str | None


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file or folder of data as dvc.lock knows it; hashes are its own, sizes bytes, None where absent."""

    path: str
    old: str | None
    new: str | None
    old_size: int | None
    new_size: int | None


class Dependency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A locked package's version; None where it is not locked."""

    name: str
    old: str | None
    new: str | None


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of code with its added and removed lines; None for a binary one."""

    path: str
    added: int | None
    removed: int | None


class Commit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A commit by its id and the first line of its message."""

    id: str
    subject: str


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate against the release that runs in production.

    `against` is that release, empty when there is none; `since` and `until` are the two commits. `problems`
    say what could not be found out, in which case the field it belongs to is empty and means nothing.
    """

    against: str = ""
    since: str = ""
    until: str = ""
    parameters: tuple[Parameter, ...] = ()
    data: tuple[Data, ...] = ()
    files: tuple[File, ...] = ()
    commits: tuple[Commit, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    problems: tuple[str, ...] = ()


def parameters(old: Any, new: Any, model: str) -> tuple[Parameter, ...]:
    """Return the values that differ between two contents of params.yaml, other models' left out."""
    before, after = _flat(_of(old, model)), _flat(_of(new, model))
    return tuple(
        Parameter(key, before.get(key), after.get(key))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    )


def _of(params: Any, model: str) -> Any:
    if not isinstance(params, Mapping):
        return {}
    models = params.get("models")
    own = {model: models[model]} if isinstance(models, Mapping) and model in models else {}
    return {**params, "models": own}


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Return dotted key → value as JSON; a list is one value, and so is an empty mapping."""
    if isinstance(value, Mapping) and value:
        inner = [_flat(each, f"{prefix}{key}.") for key, each in value.items()]
        return {key: text for part in inner for key, text in part.items()}
    name = prefix.removesuffix(".")
    return {name: json.dumps(value, ensure_ascii=False, default=str)} if name and value != {} else {}


def data(old: Any, new: Any, model: str) -> tuple[Data, ...]:
    """Return what differs of `data/` between two contents of dvc.lock, other models' stages left out."""
    before, after = _outputs(old, model), _outputs(new, model)
    found = []
    for path in sorted({*before, *after}):
        (was, was_size), (now, now_size) = before.get(path, _NONE), after.get(path, _NONE)
        if was != now:
            found.append(Data(path, was, now, was_size, now_size))
    return tuple(found)


_Output = tuple[str | None, int | None]  # hash, size
_NONE: _Output = (None, None)


def _outputs(lock: Any, model: str) -> dict[str, _Output]:
    stages = lock.get("stages") if isinstance(lock, Mapping) else None
    found: dict[str, _Output] = {}
    for name, stage in (stages if isinstance(stages, Mapping) else {}).items():
        _, _, key = str(name).partition("@")
        for out in stage.get("outs", ()) if isinstance(stage, Mapping) else ():
            path = str(out.get("path", ""))
            if path.startswith("data/") and key in ("", model):
                size = out.get("size")
                found[path] = (str(out.get("md5", "")), size if isinstance(size, int) else None)
    return found


def dependencies(old: str, new: str) -> tuple[Dependency, ...]:
    """Return what differs between two texts of requirements.lock (`name==version` lines)."""
    before, after = _versions(old), _versions(new)
    return tuple(
        Dependency(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def _versions(lock: str) -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in _PIN.findall(lock)}


def files(numstat: str) -> tuple[File, ...]:
    """Return what `git diff --numstat` printed, in its order."""
    lines = (line.split("\t", 2) for line in numstat.splitlines())
    return tuple(File(parts[2], *map(_count, parts[:2])) for parts in lines if len(parts) == 3)


def _count(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def commits(log: str) -> tuple[Commit, ...]:
    """Return what `git log --format=%H%x09%s` printed, in its order."""
    pairs = (line.partition("\t") for line in log.splitlines())
    return tuple(Commit(name, subject) for name, _, subject in pairs if name)
