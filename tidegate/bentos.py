"""Where a Bento lies, what it is, and how it is started as one process: paths and values, no BentoML.

A workload is **one** process. `bentoml serve` starts two (a supervisor that imports the whole service
only to watch, and a worker that holds the socket), and a `kill -9` of the first leaves the second behind
on the port. supervisord is the supervisor here, so the Bento is served by its own copy of
`tidegate/serve.py`, which loads it by BentoML's public `bentoml.load` and `Service.to_asgi`.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from tidegate import params
from tidegate.core.release import ReleaseRecord
from tidegate.errors import ReleaseNotFound
from tidegate.files import digest_folder

SOURCE = "src"
MODEL = "model"  # the artifact's folder inside SOURCE
DESCRIPTION = "bento.yaml"
REQUIREMENTS = "requirements.txt"  # in SOURCE: the pins of all that serving needs


@dataclass(frozen=True)
class Source:
    """What a Bento is made of: a model's name, where its code and files are, and its version's number."""

    model: str
    checkout: Path
    artifact: Path
    digest: str
    version: int
    commit: str

    @property
    def package(self) -> str:
        """Return the model's folder in models/ and services/, which is the Bento's name too."""
        return params.package(self.checkout, self.model)


def bento_path(home_bentos: Path, tag: str) -> Path:
    """Return the folder of a Bento in a store (BENTOML_HOME); raises ReleaseNotFound for an odd tag."""
    name, _, version = tag.partition(":")
    if not re.fullmatch(r"[a-z0-9_.-]+", name) or not re.fullmatch(r"[A-Za-z0-9_.-]+", version):
        raise ReleaseNotFound(f"`{tag}` is not a Bento's tag (name:version)", "Package the model again.")
    return home_bentos / "bentos" / name / version


def bento_digest(path: Path) -> str:
    """Return `sha256:…` over all of a Bento that decides how it behaves: equal for two builds of the same.

    Left out are the build's time, a line of `bento.yaml`, and byte code, which is written by whoever imports
    the source first. Raises ReleaseNotFound when the folder is missing or not a Bento.
    """
    try:
        lines = (path / DESCRIPTION).read_text().splitlines()
        described = "\n".join(line for line in lines if not line.startswith("creation_time:"))
        files = digest_folder(path, keep=lambda name: name != DESCRIPTION and "__pycache__/" not in name)
        total = hashlib.sha256(f"{files}\n{described}".encode())
        return f"sha256:{total.hexdigest()}"
    except FileNotFoundError as error:
        raise ReleaseNotFound(
            f"no Bento in {path}", "Build it by `tidegate package`, or copy the Bento store here."
        ) from error


def verify(home_bentos: Path, record: ReleaseRecord) -> Path:
    """Return a record's Bento after comparing its digest; raises ReleaseNotFound with both digests."""
    path = bento_path(home_bentos, record.bento.tag)
    found = bento_digest(path)
    if found != record.bento.digest:
        raise ReleaseNotFound(
            f"Bento {record.bento.tag} is not the one of release {record.id}: "
            f"{found[:19]}… is here, {record.bento.digest[:19]}… is recorded",
            f"Delete {path} and build it again by `tidegate package {record.model}` at {record.commit[:7]}.",
        )
    return path


def other_packages(path: Path) -> list[str]:
    """Return `name 1.2, locked 1.1` for each package of this environment that differs from a Bento's pins.

    The Bento is served by the agent's own environment: what was tested with others may behave otherwise.
    """
    try:
        lines = (path / SOURCE / REQUIREMENTS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return [f"{REQUIREMENTS} can't be read"]
    found = []
    for line in lines:
        pin, _, condition = line.partition(";")
        name, _, locked = (part.strip() for part in pin.partition("=="))
        if not name or not locked:
            continue
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            if condition:  # for another system
                continue
            here = "missing"
        if here != locked:
            found.append(f"{name} {here}, locked {locked}")
    return found


def serve_command(tag: str, port: int) -> list[str]:
    """Return the command of one workload process on 127.0.0.1:`port`; run it with `serve_environment`.

    It answers on the port once the model is loaded and warm, exits 0 after SIGTERM when the requests in
    flight are answered, and has no child processes.
    """
    # -P: the Bento's own tidegate/ must win over one that lies in the current folder.
    return [sys.executable, "-P", "-m", "tidegate.serve", tag, "--port", str(port)]


def serve_environment(bentos: Path, record: ReleaseRecord) -> dict[str, str]:
    """Return what to add to a workload's environment (PATH and HOME come from the caller)."""
    return {
        "BENTOML_HOME": str(bentos),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.fspath(bento_path(bentos, record.bento.tag) / SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "OTEL_SDK_DISABLED": "true",
        "TIDEGATE_RELEASE": record.id,
        "TIDEGATE_MODEL_VERSION": str(record.registry.version),
        "TIDEGATE_ARTIFACT": record.artifact,
    }


def warmup_rows(path: Path) -> list[dict[str, Any]]:
    """Return the requests that a Bento brings along for its warm-up; empty when it brings none."""
    examples = path / SOURCE / MODEL / "examples.json"
    if not examples.is_file():
        return []
    return msgspec.json.decode(examples.read_bytes(), type=list[dict[str, Any]])
