"""Real images for tests: where they can be built, on which base, and what this kind of machine asks for."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.images import OPTIONS, usable
from tests.toy_bento import toy_release
from tidegate.adapters import debian
from tidegate.adapters.builder import EngineBuilder
from tidegate.bentos import bento_digest, bento_path
from tidegate.config import Home
from tidegate.core.containerfile import entries
from tidegate.core.release import BentoRef, ReleaseRecord

ROOT = Path(__file__).parents[1]
BUILDER = EngineBuilder("podman", OPTIONS)


@functools.cache
def unbuildable() -> str:
    """Return why no image can be built here on a base of our own; "" when it can."""
    if why := usable():
        return why
    if BUILDER.inspect(debian.base_name()) is None and (os.geteuid() or not shutil.which("debootstrap")):
        return "a base is made by root with debootstrap"
    return ""


@functools.cache
def base() -> str:
    """Return the base's name; it is made once, and stays: its name says what it was made by."""
    debian.make(BUILDER)
    return debian.base_name()


def git(folder: Path, *words: str) -> str:
    """Run git as somebody; returns what it printed."""
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def checkout(root: Path, *, base: str, locks: Sequence[str] = ("requirements.lock",)) -> str:
    """Make a repository with envs/ and locks, whose images are built on a base; returns its commit."""
    for name in ("staging", "canary", "production"):
        (root / "envs" / name).mkdir(parents=True)
        (root / "envs" / name / "platform.yaml").write_text(f"plane: {name}\n")
    images: dict[str, Any] = {"base": base, "gpuBase": base, "build": list(OPTIONS), "run": list(OPTIONS)}
    (root / "envs" / "platform.yaml").write_text(yaml.safe_dump({"images": images}))
    for name in locks:
        shutil.copyfile(ROOT / name, root / name)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "envs", *locks)
    git(root, "commit", "--quiet", "-m", "Begin")
    return git(root, "rev-parse", "HEAD")


def toy(root: Path, commit: str, pins: Sequence[str] = (), version: str = "1") -> ReleaseRecord:
    """Write a toy Bento with these packages into a checkout's store; returns its record, the last packaged.

    The model's name is of this process only, and so is its image's.
    """
    store = Home.find(root).root / "bentoml"
    record = toy_release(store, version)
    folder = bento_path(store, record.bento.tag)
    (folder / "env" / "python").mkdir(parents=True)
    locked = entries((ROOT / "requirements.lock").read_text())
    lines = [locked[name].split(" ")[0] for name in pins]
    (folder / "env" / "python" / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    made = msgspec.structs.replace(
        record,
        model=f"toy-{os.getpid()}",
        commit=commit,
        bento=BentoRef(record.bento.tag, bento_digest(folder)),
    )
    last = root / "build" / made.model / "release.yaml"
    last.parent.mkdir(parents=True, exist_ok=True)
    last.write_text(yaml.safe_dump(msgspec.to_builtins(made)))
    return made
