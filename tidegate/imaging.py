"""From a release to its container image: the same release, the same image, wherever it is built.

Two images are made. The first holds what is installed, and is called by all that decides it, so that the
releases of a model share it and only the first of them pays for it; BentoML's own container file makes it.
The second adds the release's Bento, its bill of materials, labels, and how it is started.

Nothing is taken from a network while an image is built: wheels are fetched before, by their hashes.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tidegate import bentos, config, healthy, plumbing
from tidegate.core import containerfile, licences
from tidegate.core.images import EPOCH, PREFIX, identity, image_name
from tidegate.core.release import ImageRef, ReleaseRecord
from tidegate.errors import ConfigError, PlatformError, ReleaseNotFound
from tidegate.files import digest_file, write_atomic
from tidegate.images import Builder, Inspected, images_path

VERSION = "3.11"  # of CPython: what the lock is made for
LOCK, GPU_LOCK = "requirements.lock", "requirements-gpu.lock"
_PYTHONS = (f"/usr/bin/python{VERSION}", f"/usr/local/bin/python{VERSION}")


@dataclass(frozen=True)
class Order:
    """What shall be built: a release's variant, its Bento's folder, the checkout, and the base's name.

    `again` builds what is installed anew, too.
    """

    record: ReleaseRecord
    variant: str
    bento: Path
    checkout: Path
    base: str
    again: bool = False

    @property
    def name(self) -> str:
        """What the image is called."""
        return image_name(self.record, self.variant)


@dataclass(frozen=True)
class Tools:
    """What building asks of others: an engine, BentoML's container file, wheels, and a bill of materials.

    `wheels` puts the wheels of (requirements, allowed sha256) into a folder, `python` a Python for a base
    that has none; `uv` is the installer. `bill` writes (order, requirements, base's dpkg status, os-release).
    """

    builder: Builder
    generate: Callable[[str, Mapping[str, object]], str]
    wheels: Callable[[str, frozenset[str], Path], int]
    python: Callable[[Path, str], None]
    uv: Callable[[], Path]
    bill: Callable[[Order, str, str, str], str]


@dataclass(frozen=True)
class Built:
    """An image that was made, how large it is in bytes, and its bill of materials."""

    reference: ImageRef
    size: int
    bill: str


def recorded(checkout: Path, model: str, release: str = "") -> ReleaseRecord:
    """Return the record of a release, or of the one that was packaged here last.

    Raises ReleaseNotFound, ConfigError.
    """
    name = f"envs/releases/{model}/{release}.yaml" if release else f"build/{model}/release.yaml"
    try:
        text = (checkout / name).read_text()
    except OSError as error:
        raise ReleaseNotFound(
            f"there is no {name}", "Make it with `dvc repro`, or name a release."
        ) from error
    record = config.parse_record(text, name) if release else config.read_record(text, name)
    if record.model != model:
        raise ConfigError(
            f"it is the record of a release of {record.model}, not of {model}",
            "Restore the file from Git, or make it again with `dvc repro`.",
            where=name,
        )
    return record


def make(order: Order, tools: Tools, say: Callable[[str], None] = lambda line: None) -> Built:
    """Build the image of a release, whose Bento has been verified.

    Raises ConfigError when a pin has no hash in the lock of the release's commit, ReleaseNotFound when that
    commit is not here, PlatformError with the engine's words.
    """
    wanted = requirements(order)
    say(f"packages  {len(containerfile.pinned(wanted))}, as locked at {order.record.commit[:7]}")
    base = tools.builder.pull(order.base)
    say(f"base      {order.base}, {base.id[:19]}…")
    text = packages_text(order, tools)
    packages = _packages(order, tools, base, text, wanted, say)
    status = tools.builder.read(order.base, "/var/lib/dpkg/status") or ""
    system = tools.builder.read(order.base, "/usr/lib/os-release") or ""
    bill = tools.bill(order, wanted, status, system)
    with tempfile.TemporaryDirectory(prefix="tidegate-image-") as folder:
        context = Path(folder) / "context"
        file = _release_context(order, context, packages, base, bill)
        built = tools.builder.build(context, file, order.name, timestamp=date(order), again=order.again)
    say(f"image     {order.name}, {built.id[:19]}…, {built.size / 1e6:.0f} MB")
    return Built(ImageRef(order.name, built.id, order.base, base.id), built.size, bill)


def build_file(order: Order, tools: Tools) -> str:
    """Return the whole container file, of both parts, as one that builds in the same context."""
    text = packages_text(order, tools)
    return text + containerfile.release_file(
        "packages", labels(order, None), environment(order), parts(order)
    )


# ---------------------------------------------------------------- what is installed
def requirements(order: Order) -> str:
    """Return the Bento's pins with their hashes. Raises ConfigError, ReleaseNotFound."""
    path = order.bento / "env" / "python" / "requirements.txt"
    pins = path.read_text().splitlines() if path.is_file() else []
    lock = _at_commit(order, LOCK)
    gpu = _at_commit(order, GPU_LOCK) if order.variant == "gpu" else ""
    text, missing = containerfile.requirements(pins, lock, gpu)
    if missing:
        raise ConfigError(
            f"{', '.join(missing[:3])} of the Bento has no hash there at {order.record.commit[:7]}",
            "A release is made of what its commit locks: package it again.",
            where=LOCK,
        )
    return text


def _at_commit(order: Order, path: str) -> str:
    text = plumbing.read(order.checkout, order.record.commit, path)
    if text is None:
        raise ReleaseNotFound(
            f"commit {order.record.commit[:7]} of release {order.record.id} has no {path} here",
            "Fetch it (`git fetch --unshallow`), or make a release of a commit that has it.",
        )
    return text


def packages_text(order: Order, tools: Tools) -> str:
    """Return the container file of what is installed."""
    options = containerfile.image_options(order.base, VERSION)
    generated = tools.generate(order.record.bento.tag, options)
    return containerfile.packages_file(generated, order.base)


def _packages(
    order: Order, tools: Tools, base: Inspected, text: str, wanted: str, say: Callable[[str], None]
) -> str:
    """Return the name of the image of what is installed, built unless it is here."""
    asks = Path(healthy.__file__).read_text()
    decides = (base.id, text, wanted, asks, containerfile.CONFIGURED, digest_file(tools.uv()))
    key = hashlib.sha256("\0".join(decides).encode()).hexdigest()[:12]
    name = f"{PREFIX}/packages:{key}"
    if not order.again and tools.builder.inspect(name) is not None:
        say(f"installed {name}, made before")
        return name
    with tempfile.TemporaryDirectory(prefix="tidegate-image-") as folder:
        context = Path(folder)
        docker, python = context / "env" / "docker", context / "env" / "python"
        docker.mkdir(parents=True)
        python.mkdir(parents=True)
        shutil.copyfile(tools.uv(), docker / "uv")
        (docker / "uv.toml").write_text(containerfile.CONFIGURED)
        (docker / "healthy.py").write_text(asks)
        (docker / "entrypoint.sh").write_text("#!/bin/sh\n")  # of a stage from which nothing is started
        (python / "requirements.txt").write_text(wanted)
        total = tools.wheels(wanted, containerfile.hashes(wanted), python / "wheels")
        say(f"wheels    {total / 1e6:.0f} MB")
        if not any(tools.builder.has(order.base, path) for path in _PYTHONS):
            tools.python(docker / "python", VERSION)
        (context / "Containerfile").write_text(text)
        _plain(context)
        tools.builder.build(
            context,
            context / "Containerfile",
            name,
            timestamp=EPOCH,  # of every release's commit, it would be another layer in each
            target="packages",
            again=order.again,
        )
    say(f"installed {name}")
    return name


# ---------------------------------------------------------------- one release
def date(order: Order) -> int:
    """Return when the release's commit was made, in seconds since the epoch. Raises ReleaseNotFound."""
    try:
        return int(plumbing.git(order.checkout, "show", "-s", "--format=%ct", order.record.commit))
    except PlatformError as error:
        raise ReleaseNotFound(
            f"commit {order.record.commit[:7]} of release {order.record.id} is not here", "Fetch it."
        ) from error


def labels(order: Order, base: Inspected | None) -> dict[str, str]:
    """Return everything that an image says of itself."""
    about = {
        **identity(order.record, order.variant),
        "org.opencontainers.image.base.name": order.base,
        "org.opencontainers.image.created": datetime.fromtimestamp(date(order), UTC).isoformat(),
        "org.opencontainers.image.version": order.record.id,
    }
    return {**about, "tidegate.base-id": base.id} if base else about


def environment(order: Order) -> dict[str, str]:
    """Return what a workload's process finds in its environment, but for places, which are the image's."""
    plain = bentos.serve_environment(Path(containerfile.SCRATCH), order.record)
    # Whatever the model's settings say: an image for GPUs looks for one, and runs without.
    gpu = {"TIDEGATE_PROVIDER": "auto", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    return {**plain, **gpu} if order.variant == "gpu" else plain


def parts(order: Order) -> list[str]:
    """Return the files and folders of the Bento."""
    return sorted(path.name for path in order.bento.iterdir())


def _release_context(order: Order, context: Path, packages: str, base: Inspected, bill: str) -> Path:
    shutil.copytree(order.bento, context, ignore=shutil.ignore_patterns("__pycache__"))
    (context / "sbom.cdx.json").write_text(bill)
    _plain(context)
    file = context.parent / "Containerfile"
    file.write_text(
        containerfile.release_file(packages, labels(order, base), environment(order), parts(order))
    )
    return file


def _plain(folder: Path) -> None:
    """Give files the same rights on every machine: whoever built a Bento may have been strict with others."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or (path.stat().st_mode & 0o100)
            path.chmod(0o755 if executable else 0o644)


# ---------------------------------------------------------------- what is told
def licence(name: str, version: str) -> str | None:
    """Return a package's licence as SPDX, by what is installed here; None when that can't tell."""
    try:
        found: Any = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if found["Version"] != version:
        return None
    classifiers = found.get_all("Classifier") or []
    return licences.spdx(found.get("License-Expression"), found.get("License"), classifiers)


def model_files(order: Order) -> dict[str, str]:
    """Return name → sha256 of the model's files in the Bento."""
    folder = order.bento / bentos.SOURCE / bentos.MODEL
    return {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def distribution(release: str) -> tuple[str, str]:
    """Return a base's distribution and its version, by the text of its os-release."""
    lines = (line.partition("=") for line in release.splitlines())
    said = {key: value.strip("\"'") for key, _, value in lines}
    return said.get("ID", "linux"), said.get("VERSION_ID", "")


def write(order: Order, built: Built) -> tuple[str, str]:
    """Write an image beside its release's record, with those of other variants, and its bill of materials.

    Returns both files, relative to the checkout. Raises ConfigError when a file that is there can't be meant.
    """
    of, checkout = order.record, order.checkout
    bill = f"build/{of.model}/image-{order.variant}.cdx.json"
    path = images_path(of)
    there = checkout / path
    known = config.parse_images(there.read_text(), path).images if there.is_file() else {}
    images = {**msgspec.to_builtins(known), order.variant: msgspec.to_builtins(built.reference)}
    content = {"release": of.id, "model": of.model, "images": dict(sorted(images.items()))}
    head = f"# Images of release {of.id} of {of.model}. Written by `tidegate image`.\n"
    text = head + yaml.safe_dump(content, sort_keys=False, width=200)
    config.parse_images(text, path)  # what is written must be what will be read
    write_atomic(there, text)
    write_atomic(checkout / bill, built.bill)
    return path, bill


def told(record: ReleaseRecord, variant: str, image: ImageRef, **made: object) -> dict[str, object]:
    """Return a recorded image as JSON tells it, with what only one has that was made now."""
    about = {"model": record.model, "release": record.id, "variant": variant}
    return {**about, **msgspec.to_builtins(image), "recorded": images_path(record), **made}
