"""An engine that builds images: podman or docker, as a command."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.errors import PlatformError, Unreachable
from tidegate.images import Inspected

TIMEOUT = 3600.0  # seconds for a build
QUICK = 120.0  # seconds for a question


@dataclass(frozen=True)
class EngineBuilder:
    """Builds by `engine`, with `options` added to each build."""

    engine: str = "podman"
    options: tuple[str, ...] = ()

    def inspect(self, name: str) -> Inspected | None:
        """Return an image of that name, or None when it is not here. Raises PlatformError, Unreachable."""
        done = self._run("image", "inspect", name, refused=True)
        if done.returncode:
            said = done.stderr.decode(errors="replace").lower()
            if "no such" in said or "not known" in said or "not found" in said:
                return None
            raise _told(f"{self.engine} image inspect {name}", done.stderr)
        (found,) = json.loads(done.stdout)
        labels = (found.get("Config") or {}).get("Labels") or {}
        return Inspected(f"sha256:{found['Id'].removeprefix('sha256:')}", labels, int(found.get("Size") or 0))

    def pull(self, name: str) -> Inspected:
        """Return an image that is here already, or is fetched now. Raises PlatformError, Unreachable."""
        found = self.inspect(name)
        if found is None:
            self._run("pull", "--quiet", name, timeout=TIMEOUT)
            found = self.inspect(name)
        if found is None:
            raise PlatformError(f"{self.engine} pulled {name}, and it is not here", "Run it by hand.")
        return found

    def build(
        self, context: Path, file: Path, name: str, *, timestamp: int, target: str = "", again: bool = False
    ) -> Inspected:
        """Build an image without a network, every file and the image itself dated `timestamp`.

        No stage is kept beside what is named; `again` uses nothing of an earlier build. Raises PlatformError
        with the engine's last words.
        """
        with tempfile.TemporaryDirectory(prefix="tidegate-built-") as folder:
            said = Path(folder) / "id"
            self._run(
                *("build", "--quiet", "--network", "none", "--file", str(file), "--iidfile", str(said)),
                *(("--target", target) if target else ()),
                *(("--no-cache",) if again else ()),
                *_dated(self.engine, timestamp),
                *self.options,
                str(context),
                timeout=TIMEOUT,
            )
            made = said.read_text().strip()
            if self.engine == "podman":
                made = self._settle(made, Path(folder) / "settled")
        self._run("tag", made, name)
        built = self.inspect(name)
        if built is None:
            raise PlatformError(f"{self.engine} built {name}, and it is not here", "Run it by hand.")
        return built

    def _settle(self, made: str, folder: Path) -> str:
        """Return the same image with a configuration that holds no names of what built it.

        buildah writes its container's random id and host name into it. The layers are here already: an image
        of them is made by a manifest alone, and the first one is removed.
        """
        (found,) = json.loads(self._run("image", "inspect", made).stdout)
        folder.mkdir()
        for name, content in settled(found).items():
            (folder / name).write_bytes(content)
        image = self._run("pull", "--quiet", f"dir:{folder}", timeout=TIMEOUT).stdout.decode().split()[-1]
        if image != made.removeprefix("sha256:"):
            self._run("image", "rm", made)
        return image

    def has(self, name: str, path: str) -> bool:
        """Tell whether an image has a file; nothing of it is run."""
        return self._copied(name, path) is not None

    def read(self, name: str, path: str) -> str | None:
        """Return the text of a file of an image, or None when there is none; nothing of it is run."""
        copied = self._copied(name, path)
        if copied is None:
            return None
        with tarfile.open(fileobj=io.BytesIO(copied)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    return file.read().decode(errors="replace")
        return None

    def _copied(self, name: str, path: str) -> bytes | None:
        made = self._run("create", "--network", "none", name, "/none").stdout.decode().strip()
        try:
            done = self._run("cp", f"{made}:{path}", "-", refused=True)
        finally:
            self._run("rm", "--force", made)
        return None if done.returncode else done.stdout

    def push(self, name: str, to: str) -> None:
        """Copy an image to a registry, or wherever the engine's transports reach. Raises PlatformError."""
        if self.engine == "docker":
            self._run("tag", name, to)
            self._run("push", "--quiet", to, timeout=TIMEOUT)
        else:
            self._run("push", "--quiet", name, to, timeout=TIMEOUT)

    def remove(self, *names: str) -> None:
        """Take names away, and the images that nothing names then. Raises PlatformError."""
        if names:
            self._run("image", "rm", *names)

    def _run(
        self, *arguments: str, timeout: float = QUICK, refused: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        if shutil.which(self.engine) is None:
            raise PlatformError(
                f"{self.engine} is not installed",
                "Install it, or name the other one: `images: {engine: podman|docker}` in envs/platform.yaml.",
            )
        try:
            done = subprocess.run(
                [self.engine, *arguments],
                capture_output=True,
                timeout=timeout,
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
            )
        except subprocess.TimeoutExpired as error:
            text = f"{self.engine} {arguments[0]}: no end after {timeout:g} s"
            raise Unreachable(text, "Look at the machine's load, then repeat.") from error
        if done.returncode and not refused:
            raise _told(f"{self.engine} {' '.join(arguments[:2])}", done.stderr or done.stdout)
        return done


def settled(found: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a `dir:` image that has an inspected one's layers, settings and history, only.

    Two images that were built of the same get the same configuration, and so the same id.
    """
    inside = {key: value for key, value in (found.get("Config") or {}).items() if value}
    inside["Labels"] = {
        key: value for key, value in (inside.get("Labels") or {}).items() if not key.startswith("io.buildah.")
    }
    inside.pop("Hostname", None)
    if found.get("Healthcheck"):
        inside["Healthcheck"] = found["Healthcheck"]
    layers = found["RootFS"]["Layers"]
    configuration = {
        "architecture": found["Architecture"],
        "os": found["Os"],
        "created": found["Created"],
        "config": inside,
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": found["History"],
    }
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest()
    kind = "application/vnd.docker"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.distribution.manifest.v2+json",
        "config": {
            "mediaType": f"{kind}.container.image.v1+json",
            "size": len(text),
            "digest": f"sha256:{digest}",
        },
        "layers": [
            {"mediaType": f"{kind}.image.rootfs.diff.tar", "size": 0, "digest": layer} for layer in layers
        ],
    }
    version = b"Directory Transport Version: 1.1\n"
    return {digest: text, "manifest.json": json.dumps(manifest).encode(), "version": version}


def _told(command: str, said: bytes) -> PlatformError:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    words = "\n".join(lines[-12:]) or "failed"
    hint = "Correct what it says; limits or a runtime go into `images: {build: […], run: […]}`."
    return PlatformError(f"{command}: {words}", hint)


def _dated(engine: str, timestamp: int) -> Sequence[str]:
    """Return what makes two builds the same but for nothing: one time for all files, and no cached stages.

    HEALTHCHECK is known to docker's own format only.
    """
    if engine == "docker":
        return ("--build-arg", f"SOURCE_DATE_EPOCH={timestamp}")
    return ("--format", "docker", "--layers=false", "--timestamp", str(timestamp), "--pull=never")
