"""A release's container images: their names, and whether one is what Git recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from tidegate import config
from tidegate.core.images import VARIANTS, difference, image_name
from tidegate.core.release import ReleaseRecord
from tidegate.errors import ReleaseNotFound

__all__ = ["VARIANTS", "Builder", "Inspected", "image_name", "images_path", "kept", "verify"]


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


def kept(checkout: Path, record: ReleaseRecord, variant: str, builder: Builder) -> bool:
    """Tell whether a release's recorded image is here: on a newer base it would be made another one.

    Raises ConfigError for a file of images that can't be meant.
    """
    there = checkout / images_path(record)
    if not there.is_file():
        return False
    images = config.parse_images(there.read_text(), images_path(record)).images
    reference = images.get(variant)  # type: ignore[call-overload]
    found = builder.inspect(reference.id) if reference else None
    recorded_so = msgspec.structs.replace(record, images=images)
    return found is not None and difference(recorded_so, variant, found.id, found.labels) is None


def images_path(record: ReleaseRecord) -> str:
    """Return where a release's images are written down, relative to the checkout."""
    return f"envs/releases/{record.model}/{record.id}.images.yaml"
