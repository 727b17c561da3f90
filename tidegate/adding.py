"""A new model's files, made of templates, and a model's removal: all of it or nothing.

What is made lies in `models/<package>/`, `services/<package>/` and one section of params.yaml, where all
else finds it. The templates are in `tidegate/templates/model/`, with what fills them beside.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from tidegate import params
from tidegate.config import ENVIRONMENTS, parse_release_file
from tidegate.core import names, params_file
from tidegate.errors import ConfigError, NoData, Refused, suggest
from tidegate.files import write_atomic
from tidegate.plumbing import git

TEMPLATES = Path(__file__).parent / "templates" / "model"
FOLDERS = ("models", "services")
#: Where each template goes; what has no template is an empty package.
FILES = {
    "models": ("__init__", "prepare", "features", "score", "train"),
    "services": ("__init__", "schema", "service"),
}


@dataclass(frozen=True)
class Model:
    """A model to be made: its files' texts by path from the checkout's root, and the new params.yaml."""

    name: str
    package: str
    files: dict[str, str]
    params: str
    line: int  # of params.yaml, where its section begins


def kinds() -> tuple[str, ...]:
    """Return the kinds of models that there are templates for."""
    return tuple(sorted(path.stem for path in TEMPLATES.glob("*.yaml")))


# ---------------------------------------------------------------- adding
def plan(root: Path, name: str, kind: str) -> Model:
    """Return what a new model is made of, without writing anything.

    Raises Refused for a name that can't be used or is taken and for files that are in the way, ConfigError
    for a params.yaml that has no place for it.
    """
    if kind not in kinds():
        raise Refused(f"there is no kind `{kind}` of models", suggest(kind, kinds(), "Kinds are: {}."))
    text = _params(root)
    check_name(root, name, params.read(text, pipeline=_pipeline(root)))
    content = filled(name, kind)
    section = content.pop(params.FILE)
    _not_there(root, names.package_of(name), content)
    try:
        edited = params_file.add_model(text, name, section)
    except ValueError as error:
        raise _no_place(error) from error
    read = params.read(edited, pipeline=_pipeline(root))
    read.declared(name)
    return Model(name, names.package_of(name), content, edited, read.lines[f"$.models.{name}"])


def check_name(root: Path, name: str, known: params.Params) -> None:
    """Raise Refused, with the next action, for a name that no new model can have."""
    wrong = names.new_fault(name)
    if wrong:
        raise Refused(*wrong)
    package = names.package_of(name)
    if name in known.models:
        raise Refused(
            f"params.yaml has a model `{name}` already",
            f"Find another name, or: tidegate model remove {name}",
        )
    owner = next((model for model in known.models if known.package(model) == package), "")
    if owner:
        raise Refused(f"models/{package} is `{owner}`'s", f"Call it `{name}-model`.")
    modules = [f"{folder}/{package}.py" for folder in FOLDERS if (root / folder / f"{package}.py").exists()]
    if modules:
        raise Refused(f"{modules[0]} is a module that models share", f"Call it `{name}-model`.")


def _not_there(root: Path, package: str, content: dict[str, str]) -> None:
    """Raise Refused for folders that exist: another's work must not be mixed with this."""
    for folder in FOLDERS:
        path = root / folder / package
        left = [file for file in path.rglob("*") if "__pycache__" not in file.parts] if path.is_dir() else []
        if left or (path.exists() and not path.is_dir()):
            raise Refused(
                f"{folder}/{package} is there already, and no model of params.yaml's",
                "Move it away, or find another name.",
            )


def filled(name: str, kind: str) -> dict[str, str]:
    """Return the text of every file of a new model, by path; its section is called params.yaml."""
    package = names.package_of(name)
    known = yaml.safe_load((TEMPLATES / f"{kind}.yaml").read_text())
    known |= {"name": name, "package": package, "kind": kind}
    known["service"] = _class_name(name, {known["request"], known["answer"]})
    # It makes Python and YAML, in which HTML's escapes would be wrong.
    making = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    made = {}
    for folder, modules in FILES.items():
        for module in modules:
            made[f"{folder}/{package}/{module}.py"] = (
                "" if module == "__init__" else making.get_template(f"{module}.py.j2").render(known)
            )
    made[f"services/{package}/settings.yaml"] = making.get_template("settings.yaml.j2").render(known)
    made[params.FILE] = making.get_template("params.yaml.j2").render(known)
    return made


def _class_name(name: str, taken: set[str]) -> str:
    found = names.class_of(name)
    used = {*taken, "Any", "Mapping", "ModelService", "OnnxModel", "Path"}
    return f"{found}Service" if found in used else found


def write(root: Path, model: Model) -> None:
    """Write a planned model: all files, or, when anything stops it (Ctrl-C too), none."""
    with _all_or_none(root, model):
        for path, text in model.files.items():
            write_atomic(root / path, text)
        # Last: what params.yaml does not name does not exist for any other command.
        write_atomic(root / params.FILE, model.params)


@contextmanager
def _all_or_none(root: Path, model: Model) -> Iterator[None]:
    before = _params(root)
    try:
        yield
    except BaseException:
        for folder in FOLDERS:
            shutil.rmtree(root / folder / model.package, ignore_errors=True)
        if _params(root) != before:
            write_atomic(root / params.FILE, before)
        raise


# ---------------------------------------------------------------- removing
@dataclass(frozen=True)
class Removal:
    """A model to be removed: its folders, and params.yaml without it."""

    name: str
    folders: tuple[str, ...]
    params: str


def plan_removal(root: Path, name: str) -> Removal:
    """Return what removing a model takes, without doing it.

    Raises Refused for the only model, for one that runs somewhere, and for files that no commit holds.
    """
    text = _params(root)
    read = params.read(text, pipeline=_pipeline(root))
    package = read.package(name)
    if len(read.models) == 1:
        raise Refused(f"`{name}` is the only model, and a pipeline needs one", "Add another one first.")
    running = [env for env in ENVIRONMENTS if name in _wanted(root, env)]
    if running:
        raise Refused(
            f"`{name}` runs in {', '.join(running)}",
            f"Take its line out of envs/{running[0]}/release.yaml by a merged commit first.",
        )
    folders = tuple(f"{folder}/{package}" for folder in FOLDERS if (root / folder / package).is_dir())
    unsaved = git(root, "status", "--porcelain", "--", *folders).splitlines() if folders else []
    if unsaved:
        raise Refused(
            f"not committed: {unsaved[0][3:]}", "Commit it, so that it can be got back, or remove it."
        )
    try:
        return Removal(name, folders, params_file.remove_model(text, name))
    except ValueError as error:
        raise _no_place(error) from error


def remove(root: Path, removal: Removal) -> None:
    """Do it: params.yaml first, since what it does not name does not exist for any other command."""
    write_atomic(root / params.FILE, removal.params)
    for folder in removal.folders:
        shutil.rmtree(root / folder)


# ---------------------------------------------------------------- files
def _params(root: Path) -> str:
    try:
        return (root / params.FILE).read_text()
    except FileNotFoundError as error:
        raise NoData(
            f"{params.FILE} is not in {root.name}/", f"Get it back with `git checkout -- {params.FILE}`."
        ) from error


def _pipeline(root: Path) -> str:
    path = root / "dvc.yaml"
    return path.read_text() if path.is_file() else ""


def _wanted(root: Path, environment: str) -> Any:
    path = f"envs/{environment}/release.yaml"
    return parse_release_file((root / path).read_text(), path) if (root / path).is_file() else {}


def _no_place(error: ValueError) -> ConfigError:
    return ConfigError(
        f"{params.FILE} can't be edited: {error}",
        "Write `models:` as in the template's params.yaml: a model a line of its own, indented by 2 spaces.",
        where=params.FILE,
    )
