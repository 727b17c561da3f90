"""Release records: what one is, its identity, and whether Git asks for something new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

ID_LENGTH = 12
_COPY = "-baseline"


class RegistryRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A numbered version in the model registry."""

    name: str
    version: int


class BentoRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A built Bento: `tag` is `name:version`, `digest` is `sha256:…` over its files."""

    tag: str
    digest: str


class ImageRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A container image of a release: `id` is `sha256:…` of its configuration, `base` what it was built on.

    `base` is the base image's name, `base_id` that image's id.
    """

    name: str
    id: str
    base: str
    base_id: str


class ReleaseRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one release is made of; immutable, and identified by its content.

    `commit` is the git commit (40 hex), `pipeline` the sha256 of those stages of dvc.lock that the model's
    files come from, `artifact` the sha256 of the model's files, `gates` each gate's verdict plus `report`,
    the sha256 of their reports; `rows` how many rows of each split it was made of, which the next candidate's
    data gate compares its own with. `images` holds the images made of the release, by variant (`cpu`, `gpu`);
    they name the release that they are of, so they are no part of what identifies it, and their file lies
    beside the record's.
    """

    model: str
    commit: str
    pipeline: str
    registry: RegistryRef
    artifact: str
    bento: BentoRef
    gates: Mapping[str, str]
    rows: Mapping[str, int] | None = None
    images: Mapping[str, ImageRef] | None = None

    @property
    def id(self) -> str:
        """The release's id: 12 hex digits of the sha256 of its canonical content."""
        return release_id(record_content(self))


def record_content(record: ReleaseRecord) -> dict[str, Any]:
    """Return what a record's own file says: all of it but the images, absent fields left out."""
    content: dict[str, Any] = msgspec.to_builtins(record)
    return {key: value for key, value in content.items() if key != "images" and value is not None}


def canonical(content: Mapping[str, Any]) -> bytes:
    """Return the one byte form of a record: JSON, keys sorted, no spaces, absent fields left out."""
    present = {key: value for key, value in content.items() if value is not None}
    return json.dumps(present, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def release_id(content: Mapping[str, Any]) -> str:
    """Return the 12 hex digits that name this content."""
    return hashlib.sha256(canonical(content)).hexdigest()[:ID_LENGTH]


def is_release_id(text: str) -> bool:
    """Tell whether `text` has the form of a release's id."""
    return len(text) == ID_LENGTH and all(c in "0123456789abcdef" for c in text)


def is_new(desired: str | None, applied: str | None, rejected: Collection[str]) -> bool:
    """Tell whether Git asks for a release that is neither applied nor rejected."""
    return desired is not None and desired != applied and desired not in rejected


def copy_of(release: str) -> str:
    """Return the name of a fresh copy of a release, which a candidate is compared with."""
    return release + _COPY


def original(release: str) -> str:
    """Return the release that a copy is of; any other release is its own."""
    return release.removesuffix(_COPY)
