"""What a release's images are called, what they must say to be run, and the file that holds their digests."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from tests.builders import A, B, envs, record
from tidegate.config import parse_desired, parse_images, parse_record
from tidegate.core.images import identity
from tidegate.core.release import ImageRef, ReleaseRecord
from tidegate.errors import ConfigError, ReleaseNotFound
from tidegate.images import image_name, verify
from tidegate.packaging import record_text

ID = "sha256:" + "1" * 64
IMAGE = ImageRef(f"localhost/tidegate/toy:{A}", ID, "localhost/base:1", "sha256:" + "2" * 64)
PATH = f"envs/releases/toy/{A}.images.yaml"


def imaged(**images: ImageRef) -> ReleaseRecord:
    """Return the record of release A with images."""
    return msgspec.structs.replace(record(1), images=images)


def text(release: str = A, model: str = "toy") -> str:
    """Return an images file."""
    content = {"release": release, "model": model, "images": {"cpu": msgspec.to_builtins(IMAGE)}}
    return yaml.safe_dump(content)


def test_each_variant_has_its_own_name() -> None:
    """The name holds model and release, and two variants never share one."""
    assert image_name(record(1), "cpu") == f"localhost/tidegate/toy:{A}"
    assert image_name(record(1), "gpu") == f"localhost/tidegate/toy:{A}-gpu"


def test_images_are_no_part_of_what_identifies_a_release() -> None:
    """A release keeps its id and its record's text when an image is made of it."""
    assert imaged(cpu=IMAGE).id == A
    assert record_text(imaged(cpu=IMAGE)) == record_text(record(1))


def test_the_recorded_image_is_taken() -> None:
    """An image with all labels and the recorded id passes, with the engine's `sha256:` or without."""
    for found in (ID, ID.removeprefix("sha256:")):
        verify(imaged(cpu=IMAGE), "cpu", found, {**identity(record(1), "cpu"), "other": "label"})


@pytest.mark.parametrize("label", sorted(identity(record(1), "cpu")))
def test_an_image_that_says_otherwise_is_refused(label: str) -> None:
    """One label that differs or is missing is enough, and the error names it."""
    said = identity(record(1), "cpu")
    for wrong in ({**said, label: "other"}, {k: v for k, v in said.items() if k != label}, None):
        with pytest.raises(ReleaseNotFound, match="tidegate image toy"):
            verify(imaged(cpu=IMAGE), "cpu", ID, wrong)


def test_another_id_is_refused() -> None:
    """Labels can be copied: an image with another id is not the recorded one."""
    with pytest.raises(ReleaseNotFound, match="333333333333 is here, 111111111111 recorded"):
        verify(imaged(cpu=IMAGE), "cpu", "3" * 64, identity(record(1), "cpu"))


def test_a_variant_that_is_not_recorded_is_refused() -> None:
    """Nothing recorded means nothing was meant: it fails closed and names the command."""
    for of in (record(1), imaged(cpu=IMAGE)):
        with pytest.raises(ReleaseNotFound, match="--variant gpu"):
            verify(of, "gpu", ID, identity(record(1), "gpu"))


def test_a_releases_images_are_read_with_its_record() -> None:
    """What Git says at a commit holds each release's images; the record beside it stays what it was."""
    files = envs(A, A) | {PATH: text()}
    assert parse_desired("c", files).records[A].images == {"cpu": IMAGE}
    assert parse_desired("c", envs(A, A)).records[A].images is None


@pytest.mark.parametrize("wrong", [text(release=B), text(model="other")])
def test_images_of_another_release_are_refused(wrong: str) -> None:
    """A file under one release's name can't give it another's image."""
    with pytest.raises(ConfigError, match="not of the release in its name"):
        parse_images(wrong, PATH)


def test_images_without_a_record_are_refused() -> None:
    """Images of a release that nobody recorded are a mistake that is told with the file's name."""
    unknown = "f" * 12
    path = f"envs/releases/toy/{unknown}.images.yaml"
    with pytest.raises(ConfigError, match="no record of toy"):
        parse_desired("c", envs(A, A) | {path: text(release=unknown)})


def test_an_unknown_variant_is_refused() -> None:
    """A variant is `cpu` or `gpu`."""
    with pytest.raises(ConfigError):
        parse_images(text().replace("cpu:", "tpu:"), PATH)


def test_a_record_that_holds_images_is_refused() -> None:
    """They would look as if the id covered them."""
    whole = yaml.safe_dump(msgspec.to_builtins(imaged(cpu=IMAGE)))
    with pytest.raises(ConfigError, match=r"images\.yaml"):
        parse_record(whole, f"envs/releases/toy/{A}.yaml")
