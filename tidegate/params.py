"""What params.yaml says: which models there are, and what each gate holds them to.

Everything that can't be meant is refused with its line: a key that nothing reads, a section of no gate or
model, a number that is none. Stages and gates check their own sections; a section that has no reader here
must be one that the pipeline (dvc.yaml) names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tidegate.config import merge
from tidegate.core import names
from tidegate.core.task import TASKS, Declaration
from tidegate.documents import Lines, convert, read_yaml
from tidegate.errors import ConfigError, NoData, suggest

FILE = "params.yaml"
DECLARED = ("task", "label", "prediction", "group")
OF_A_MODEL = ("package", *DECLARED, "prepare", "train", "evaluate", "gates")
BY_TASK = "tasks"  # in a gate's shared section: what counts for models of one task
AT_THE_TOP = ("models", "gates")
S = TypeVar("S")


@dataclass(frozen=True)
class Value:
    """One setting as it counts: its path in the gate's section, what it is, and where that is said."""

    path: str
    value: Any
    where: str


@dataclass(frozen=True)
class Params:
    """params.yaml as it was read; `lines` are those of its keys."""

    document: Mapping[str, Any]
    lines: Lines

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        return tuple(self.document["models"])

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates that have a section, for all models or for one."""
        own = [name for model in self.models for name in self._of(model)]
        return tuple(dict.fromkeys([*self.document["gates"], *own]))

    def known(self, model: str) -> str:
        """Return the model's name. Raises ConfigError, with the closest one, when there is none of it."""
        if model not in self.models:
            raise ConfigError(f"no model is called `{model}`", suggest(model, self.models), where=FILE)
        return model

    def package(self, model: str) -> str:
        """Return a model's folder in models/ and services/. Raises ConfigError for an unknown model."""
        return _package(model, self.document["models"][self.known(model)])

    def declared(self, model: str) -> Declaration:
        """Return what a model is for. Raises ConfigError, with the line, for what can't be meant."""
        of = self.document["models"][self.known(model)]
        at = f"$.models.{model}"
        said = {name: of[name] for name in DECLARED if name in of}
        return convert(said, Declaration, where=FILE, lines=self.lines, at=at)

    def settings(self, gate: str, model: str, shape: type[S]) -> S:
        """Return a gate's settings for a model: `gates.<gate>`, and `models.<model>.gates.<gate>` over it.

        Between them lies `gates.<gate>.tasks.<task>`, what counts for all models of the declared task.
        Raises ConfigError, with the line, for an unknown model, a missing section, and a key that is unknown,
        missing or of another type than the gate's.
        """
        self.known(model)
        if gate not in self.document["gates"] and gate not in self._of(model):
            raise ConfigError(
                f"gate `{gate}` has no section under `gates:`",
                suggest(gate, self.gates, "Add one; sections are: {}."),
                where=FILE,
            )
        value, lines = self._section(gate, model)
        return convert(value, shape, where=FILE, lines=lines, at=f"$.{gate}")

    def values(self, gate: str, model: str, settings: Any, script: str) -> list[Value]:
        """Return every setting of a gate, and the line that says it; `script` holds what no line does."""
        _, lines = self._section(gate, model)
        found = []
        for path, value in _leaves(msgspec.to_builtins(settings), ""):
            line = lines.get(f"$.{gate}.{path}")
            found.append(Value(path, value, f"{FILE}:{line}" if line else f"{script} (its default)"))
        return found

    def _of(self, model: str) -> Mapping[str, Any]:
        return self.document["models"][model].get("gates") or {}

    def _section(self, gate: str, model: str) -> tuple[Any, Lines]:
        """Return a gate's merged section, and the line of each of its keys as `$.<gate>.…`."""
        shared, own = self.document["gates"].get(gate) or {}, self._of(model).get(gate) or {}
        base = {name: value for name, value in shared.items() if name != BY_TASK}
        task = self.document["models"][model].get("task", "")
        by_task = (shared.get(BY_TASK) or {}).get(task) or {}
        lines: Lines = {}
        starts = (f"$.gates.{gate}", f"$.gates.{gate}.{BY_TASK}.{task}", f"$.models.{model}.gates.{gate}")
        for start in starts:
            lines |= {
                f"$.{gate}{path[len(start) :]}": line
                for path, line in self.lines.items()
                if path == start or path.startswith((f"{start}.", f"{start}["))
            }
        return merge(merge(base, by_task), own), lines


def load(root: Path, gates: Sequence[str] = ()) -> Params:
    """Read a checkout's params.yaml; `gates` are those it may have sections for.

    Raises NoData when it is not there, ConfigError for what can't be meant.
    """
    path = root / FILE
    if not path.is_file():
        raise NoData(f"{FILE} is not in {root.name}/", f"Get it back with `git checkout -- {FILE}`.")
    return read(path.read_text(), gates=gates, pipeline=_text(root / "dvc.yaml"))


def package(root: Path, model: str) -> str:
    """Return a model's folder in models/ and services/: as declared, else its name as Python writes it.

    Raises ConfigError for a params.yaml that can't be meant.
    """
    models = load(root).document["models"] if (root / FILE).is_file() else {}
    return _package(model, models.get(model) or {})


def _package(model: str, section: Mapping[str, Any]) -> str:
    """Return what a section declares, or what follows from the name; `read` has seen to both."""
    return str(section.get("package") or names.package_of(model))


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def read(text: str, *, gates: Sequence[str] = (), pipeline: str = "") -> Params:
    """Check a params.yaml as far as it can be without the gates' own settings. Raises ConfigError.

    Without `gates`, any section under `gates:` is one of a gate.
    """
    document, lines = read_yaml(text, FILE)
    _numbers(document, "$", lines)
    top = _mapping(document, "$", lines, "the file")
    _keys(top, "$", lines, AT_THE_TOP, pipeline)
    models = _mapping(top.get("models"), "$.models", lines, "`models`")
    shared = _mapping(top.get("gates"), "$.gates", lines, "`gates`")
    if not models:
        raise ConfigError("no model is named under `models:`", "Add one.", where=_at("$.models", lines))
    _gates(shared, "$.gates", lines, gates)
    for name, model in models.items():
        at = f"$.models.{name}"
        _keys(_mapping(model, at, lines, f"model `{name}`"), at, lines, OF_A_MODEL, pipeline)
        own = _mapping((model or {}).get("gates"), f"{at}.gates", lines, f"`gates` of model `{name}`")
        _gates(own, f"{at}.gates", lines, gates)
    named = {k: v or {} for k, v in models.items()}
    _names(named, lines)
    return Params({"models": named, "gates": shared}, lines)


def _at(path: str, lines: Lines) -> str:
    return f"{FILE}:{lines[path]}" if path in lines else FILE


def _mapping(value: Any, at: str, lines: Lines, what: str) -> dict[str, Any]:
    """Return the mapping, or an empty one for nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must be a mapping", "Write `key: value` lines.", where=_at(at, lines))
    for name in value:
        if not isinstance(name, str):
            raise ConfigError(
                f"the key `{name}` of {what} is no text", "Write it in quotes.", where=_at(at, lines)
            )
    return value


def _keys(value: Mapping[str, Any], at: str, lines: Lines, known: Sequence[str], pipeline: str) -> None:
    for name in value:
        if name not in known and not _read_by(pipeline, at, name):
            raise ConfigError(
                f"unknown key `{name}`",
                suggest(name, known, "Known keys are: {}; others must be named in dvc.yaml."),
                where=_at(f"{at}.{name}", lines),
            )


def _read_by(pipeline: str, at: str, name: str) -> bool:
    """Tell whether a stage of dvc.yaml depends on a section: a model may have stages of its own."""
    if at == "$":
        return bool(re.search(rf"^\s*- {re.escape(name)}(\.|$)|\$\{{{re.escape(name)}\b", pipeline, re.M))
    model = re.escape(at.removeprefix("$.models."))
    return bool(
        re.search(rf"\bmodels\.(\$\{{key\}}|{model})\.{re.escape(name)}\b", pipeline)
        or re.search(rf"\$\{{item\.{re.escape(name)}\b", pipeline)
    )


def _names(models: Mapping[str, Mapping[str, Any]], lines: Lines) -> None:
    """Refuse a name that is none, and a folder that is none or another model's.

    Code is run, written and removed by these names: one that leads elsewhere would take what is there.
    """
    taken: dict[str, str] = {}
    for name, model in models.items():
        at = f"$.models.{name}"
        wrong = names.name_fault(name)
        if wrong:
            raise ConfigError(*wrong, where=_at(at, lines))
        at = f"{at}.package" if "package" in model else at
        said = model.get("package")
        wrong = names.package_fault(names.package_of(name) if said is None else said)
        if wrong:
            raise ConfigError(*wrong, where=_at(at, lines))
        other = taken.setdefault(_package(name, model), name)
        if other != name:
            raise ConfigError(
                f"`{name}` has the package `{_package(name, model)}`, which is `{other}`'s",
                "Give each model folders of its own in models/ and services/.",
                where=_at(at, lines),
            )


def _gates(sections: Mapping[str, Any], at: str, lines: Lines, known: Sequence[str]) -> None:
    for name, section in sections.items():
        where = _at(f"{at}.{name}", lines)
        if known and name not in known:
            raise ConfigError(
                f"no gate is called `{name}`: there is no gates/{name.replace('-', '_')}.py",
                suggest(name, known, "Gates are: {}."),
                where=where,
            )
        inner = _mapping(section, f"{at}.{name}", lines, f"gate `{name}`")
        if at == "$.gates":
            _by_task(inner.get(BY_TASK), f"{at}.{name}.{BY_TASK}", lines)


def _by_task(value: Any, at: str, lines: Lines) -> None:
    for task, section in _mapping(value, at, lines, f"`{BY_TASK}`").items():
        if task not in TASKS:
            raise ConfigError(
                f"no task is called `{task}`",
                suggest(task, TASKS, "Tasks are: {}."),
                where=_at(f"{at}.{task}", lines),
            )
        _mapping(section, f"{at}.{task}", lines, f"task `{task}`")


def _numbers(value: Any, at: str, lines: Lines) -> None:
    """Refuse .nan and .inf: no comparison with them means anything."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(
            f"`{at.removeprefix('$.')}` is {value}, no number to compare with",
            "Write a finite number.",
            where=_at(at, lines),
        )
    if isinstance(value, dict):
        for name, inner in value.items():
            _numbers(inner, f"{at}.{name}", lines)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _numbers(inner, f"{at}[{index}]", lines)


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{at}.{name}" if at else str(name))
    else:
        yield at, value
