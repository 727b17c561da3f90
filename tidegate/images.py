"""A release's container images: their names, and whether one is what Git recorded."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.core.images import VARIANTS, difference, image_name
from tidegate.core.release import ReleaseRecord
from tidegate.errors import ReleaseNotFound

__all__ = ["VARIANTS", "image_name", "verify"]


def verify(record: ReleaseRecord, variant: str, image_id: str, labels: Mapping[str, str] | None) -> None:
    """Refuse an image that is not the release's recorded one, by its id and labels as the engine tells them.

    Both come from `podman image inspect` or `docker image inspect`: `.Id` and `.Config.Labels`. Raises
    ReleaseNotFound with what differs.
    """
    differs = difference(record, variant, image_id, labels)
    if differs:
        raise ReleaseNotFound(*differs)
