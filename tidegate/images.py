"""A release's container images: their names, how environments have them built, and which one Git recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tidegate import config
from tidegate.core.images import VARIANTS, difference, image_name
from tidegate.core.release import ImageRef, ReleaseRecord
from tidegate.errors import ConfigError, ReleaseNotFound

__all__ = [
    "VARIANTS",
    "Builder",
    "Inspected",
    "Making",
    "image_name",
    "images_path",
    "kept",
    "making",
    "variant_of",
    "verify",
]

Said = TypeVar("Said")


@dataclass(frozen=True)
class Inspected:
    """An image that is here: its id (`sha256:…` of its configuration), labels and bytes."""

    id: str
    labels: Mapping[str, str]
    size: int


class Builder(Protocol):
    """Builds images without a network. Raises PlatformError, and Unreachable when it does not answer."""

    def inspect(self, name: str) -> Inspected | None:
        """Return an image by name or id, or None when it is not here."""

    def pull(self, name: str) -> Inspected:
        """Return an image that is here, or is fetched now."""

    def build(
        self, context: Path, file: Path, name: str, *, timestamp: int, target: str = "", again: bool = False
    ) -> Inspected:
        """Build an image, every file and itself dated `timestamp`; `again` uses nothing built before."""

    def push(self, name: str, to: str) -> None:
        """Copy an image to a registry, or wherever the engine reaches."""

    def has(self, name: str, path: str) -> bool:
        """Tell whether an image has a file."""

    def read(self, name: str, path: str) -> str | None:
        """Return the text of a file of an image, or None."""


def verify(record: ReleaseRecord, variant: str, image_id: str, labels: Mapping[str, str] | None) -> None:
    """Refuse an image that is not the release's recorded one, by its id and labels as the engine tells them.

    Both come from `podman image inspect` or `docker image inspect`: `.Id` and `.Config.Labels`. Raises
    ReleaseNotFound with what differs.
    """
    differs = difference(record, variant, image_id, labels)
    if differs:
        raise ReleaseNotFound(*differs)


def kept(checkout: Path, record: ReleaseRecord, variant: str, builder: Builder) -> ImageRef | None:
    """Return a release's recorded image if it is here: on a newer base it would be made another one.

    Raises ConfigError for a file of images that can't be meant.
    """
    there = checkout / images_path(record)
    if not there.is_file():
        return None
    images = config.parse_images(there.read_text(), images_path(record)).images
    reference: ImageRef | None = images.get(variant)  # type: ignore[call-overload]
    found = builder.inspect(reference.id) if reference else None
    recorded_so = msgspec.structs.replace(record, images=images)
    if found is None or difference(recorded_so, variant, found.id, found.labels):
        return None
    return reference


def images_path(record: ReleaseRecord) -> str:
    """Return where a release's images are written down, relative to the checkout."""
    return f"envs/releases/{record.model}/{record.id}.images.yaml"


# ---------------------------------------------------------------- how they are built
@dataclass(frozen=True)
class Making:
    """How the images of one variant are built: by which engine, on which base, with which options of it."""

    engine: str
    base: str
    build: tuple[str, ...] = ()


def variant_of(spec: config.Platform) -> str:
    """Return the variant that an environment runs as containers; "" where it runs processes."""
    if not spec.workloads.contained:
        return ""
    return "gpu" if spec.workloads.gpus else "cpu"


def making(
    specs: Mapping[str, config.Platform], variant: str = "", *, engine: str = "", base: str = ""
) -> Making:
    """Return how environments have a variant built: as those say that run it, else those with containers.

    Where all run processes it is as staging says. `engine` and `base` win over them. One image runs in all
    of them: raises ConfigError where they differ.
    """
    contained = {name: spec for name, spec in specs.items() if variant_of(spec)}
    same = {name: spec for name, spec in contained.items() if variant_of(spec) == variant}
    asked = same or contained or {"staging": specs["staging"]}
    said = {name: spec.images for name, spec in asked.items()}
    # An image that another engine built is not there for the one that has to run it.
    engines = {
        name: one.engine or (asked[name].workloads.adapter if asked[name].workloads.contained else "podman")
        for name, one in said.items()
    }
    key = "gpuBase" if variant == "gpu" else "base"
    bases = {name: one.gpu_base if variant == "gpu" else one.base for name, one in said.items()}
    return Making(
        engine or _agreed("engine", engines, "--engine"),
        base or _agreed(key, bases, "--base"),
        _agreed("build", {name: one.build for name, one in said.items()}),
    )


def _agreed(key: str, said: Mapping[str, Said], option: str = "") -> Said:
    """Return what environments say together. Raises ConfigError that names them and the key."""
    values = list(said.values())
    if all(value == values[0] for value in values):
        return values[0]
    each = ", ".join(f"{json.dumps(value)} in {name}" for name, value in said.items())
    once = f"Write images.{key} once, in envs/platform.yaml, and in no environment's own."
    action = f"{once} `{option}` says it for one build." if option else once
    raise ConfigError(f"environments that share an image differ in images.{key}: {each}", action)
