"""What the demo changes in its clone: a fresh start, an edit that looks right and is not, its correction.

The edits are a model's own: `models/<package>/demo.py` names them as `SHOW`, and run as a program it writes
the requests of the demo's crowd into the file it is given, one row of JSON a line.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tidegate import config, params
from tidegate.core.params_file import remove_model
from tidegate.core.release_file import set_release
from tidegate.errors import ConfigError, NoData, Refused


@dataclass(frozen=True)
class Edit:
    """Replace one passage, which must be there exactly once."""

    path: str
    old: str
    new: str


PARAMS = "params.yaml"


@dataclass(frozen=True)
class Change:
    """What is pushed at once: its commit's message, and the edits."""

    what: str
    edits: Sequence[Edit]


@dataclass(frozen=True)
class Show:
    """What a model's demo.py brings: how the clone begins, a release to be taken back, one to stay.

    `bad` must pass every gate and fail for some of the crowd's requests; `good` is laid over it. `asked` says
    in a line who asks about what, `rate` how many requests a second all of them send together.
    """

    opening: Change
    bad: Change
    good: Change
    asked: str
    rate: int = 120


@dataclass(frozen=True)
class Shown:
    """The model that the demo shows, the program that writes its requests, and the models left out."""

    model: str
    program: str
    show: Show
    others: tuple[str, ...]


def shown(root: Path, asked: str = "") -> Shown:
    """Return the model that was asked for, or the first of params.yaml that brings a demo.

    Raises ConfigError for a model that is not there, and NoData where there is no demo.
    """
    found = params.load(root)
    for model in (found.known(asked),) if asked else found.models:
        package = found.package(model)
        path = root / "models" / package / "demo.py"
        if path.is_file():
            others = tuple(name for name in found.models if name != model)
            return Shown(model, f"models.{package}.demo", _show(path), others)
    raise NoData(
        f"{asked} brings no demo" if asked else "no model in params.yaml brings a demo",
        "Write models/<package>/demo.py: tidegate/demo/changes.py says what belongs into it.",
    )


def _show(path: Path) -> Show:
    spec = importlib.util.spec_from_file_location(f"tidegate_demo_of_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise ConfigError("it is no Python module", "Write it anew.", where=str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, "SHOW", None)
    if not isinstance(found, Show):
        raise ConfigError("it names no SHOW", "Say `SHOW = Show(…)` there.", where=str(path))
    return found


def keep_only(root: Path, model: str) -> None:
    """Take all other models out of a clone's params.yaml. Raises Refused for one that does not allow it."""
    path = root / params.FILE
    text = path.read_text()
    for name in params.read(text).models:
        if name != model:
            try:
                text = remove_model(text, name)
            except ValueError as error:
                raise Refused(
                    f"{name} can't be taken out of {params.FILE}: {error}", "Lay it out in lines."
                ) from error
    path.write_text(text)


PLATFORM = "envs/platform.yaml"
PLATFORMS = {
    PLATFORM: "forge: {adapter: local}\n",
    "envs/staging/platform.yaml": "plane: staging\n",
    "envs/canary/platform.yaml": "plane: production\n",
    "envs/production/platform.yaml": "plane: production\nworkloads: {replicas: 2}\n",
}


def start_afresh(root: Path) -> bool:
    """Make a clone the demo's own: nothing released, a local forge, stores at home, any port.

    A repository in use names releases that a new home lacks, and a forge, ports and stores that are not
    the demo's to touch. Returns whether anything had to be changed.
    """
    before = config.read_envs(root)
    after = {path: text for path, text in before.items() if not path.startswith("envs/releases/")}
    for name in config.ENVIRONMENTS:
        path = f"envs/{name}/release.yaml"
        for model in config.parse_release_file(after[path], path):
            after[path] = set_release(after[path], model, None)
    mine = config.Platform()
    found = [config.parse_platform(before, name) for name in config.ENVIRONMENTS]
    if any(
        (p.forge, p.stores, p.repository, p.router) != (mine.forge, mine.stores, mine.repository, mine.router)
        for p in found
    ):
        after |= PLATFORMS | {PLATFORM: _with_prices(PLATFORMS[PLATFORM], before.get(PLATFORM, ""))}
    for path in before.keys() - after.keys():
        (root / path).unlink()
    for path, text in after.items():
        if before.get(path) != text:
            (root / path).write_text(text)
    return before != after


def _with_prices(text: str, before: str) -> str:
    """Return a platform with the prices of another: what a machine costs is the same in a demo."""
    prices = (yaml.safe_load(before) or {}).get("prices")
    return text + (yaml.safe_dump({"prices": prices}) if prices else "")


def apply(root: Path, edits: Sequence[Edit]) -> None:
    """Edit a checkout's files; raises Refused when a passage is not there exactly once."""
    for edit in edits:
        path = root / edit.path
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise Refused(
                f"the demo's edit does not fit {edit.path}: {text.count(edit.old)} such passages",
                "Bring the model's demo.py in line with what it edits.",
            )
        path.write_text(text.replace(edit.old, edit.new))
