"""A release's container images: names, labels, and whether one is the recorded one. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.core.release import ReleaseRecord

VARIANTS = ("cpu", "gpu")
PREFIX = "localhost/tidegate"
EPOCH = 315532800  # 1980-01-01: the date of what has none of its own, as in wheels


def image_name(record: ReleaseRecord, variant: str) -> str:
    """Return what a release's image is called where it is built: `localhost/tidegate/<model>:<id>[-gpu]`."""
    suffix = "" if variant == "cpu" else f"-{variant}"
    return f"{PREFIX}/{record.model}:{record.id}{suffix}"


def identity(record: ReleaseRecord, variant: str) -> dict[str, str]:
    """Return the labels by which an image says what it is of; all of them are compared before it is run."""
    return {
        "org.opencontainers.image.revision": record.commit,
        "org.opencontainers.image.title": record.model,
        "tidegate.artifact": record.artifact,
        "tidegate.bento": record.bento.tag,
        "tidegate.bento-digest": record.bento.digest,
        "tidegate.model": record.model,
        "tidegate.model-version": str(record.registry.version),
        "tidegate.release": record.id,
        "tidegate.variant": variant,
    }


def difference(
    record: ReleaseRecord, variant: str, image_id: str, labels: Mapping[str, str] | None
) -> tuple[str, str] | None:
    """Return why an image is not the release's recorded one and what to do, or None when it is.

    `image_id` is its id with or without `sha256:`, `labels` its labels. A variant that is not recorded has
    no image: nothing says which one was meant.
    """
    name = f"image {image_name(record, variant)}"
    build = f"tidegate image {record.model} --release {record.id} --variant {variant}"
    recorded = (record.images or {}).get(variant)
    if recorded is None:
        return f"release {record.id} has no recorded {variant} image", f"Make it: `{build}`, and commit it."
    again = f"Remove it and build it again: `{build}`."
    found = labels or {}
    for key, value in identity(record, variant).items():
        if found.get(key) != value:
            return f"{name} says {key}={found.get(key, 'nothing')}, release {record.id} says {value}", again
    if _bare(image_id) != _bare(recorded.id):
        here, there = _bare(image_id)[:12], _bare(recorded.id)[:12]
        return f"{name} is not the recorded one: {here} is here, {there} recorded", again
    return None


def _bare(image_id: str) -> str:
    return image_id.removeprefix("sha256:")
