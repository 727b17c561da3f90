"""BentoML's store: builds a Bento from a checkout, once, and never changes one that is there.

A build is a subprocess in a store of its own, moved into the shared one by a single rename: two runs at
once, or one that is killed, leave nothing half-made. Nothing is downloaded and nothing is resolved: the
Bento's requirements are the pins of `requirements.lock` that its serving packages need.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tidegate.bentos import MODEL, SOURCE, Source, bento_digest, bento_path
from tidegate.core.release import BentoRef
from tidegate.errors import ConfigError, PlatformError
from tidegate.files import digest_folder, write_atomic

SERVING_PACKAGES = (
    "bentoml",
    "grpcio",
    "hiredis",
    "httptools",
    "msgspec",
    "numpy",
    "nvidia-ml-py",
    "onnxruntime",
    "protobuf",
    "pyarrow",
    "redis",
    "uvicorn",
    "uvloop",
)
SHELL = ("__init__.py", "files.py", "serve.py", "serving/*.py")  # what a Bento carries of tidegate/
BUILD_TIMEOUT = 300


class BentoStore:
    """A BentoML home folder."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def path(self, tag: str) -> Path:
        """Return where a Bento lies; raises ReleaseNotFound for what is not a tag."""
        return bento_path(self._home, tag)

    def exists(self, tag: str) -> bool:
        """Tell whether a Bento is here."""
        return (self.path(tag) / "bento.yaml").is_file()

    def digest(self, tag: str) -> str:
        """Return a Bento's digest; raises ReleaseNotFound."""
        return bento_digest(self.path(tag))

    def build(self, source: Source) -> BentoRef:
        """Build the Bento of a source, or return the one that was built of the same.

        Its tag is `<name>:<version>-<commit7>`; if that one was built of something else (a registry that
        began anew), the source's digest is added, since a Bento is never replaced: it may be running.
        Raises PlatformError with BentoML's own words when the service can't be imported.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        # BentoML reads no file below a folder whose name starts with a dot, as `.tidegate` does; the
        # built Bento must be on the store's own disk, to be renamed into it.
        with (
            tempfile.TemporaryDirectory(prefix="tidegate-build-") as outside,
            tempfile.TemporaryDirectory(prefix=".building-", dir=self._home) as inside,
        ):
            context = Path(outside) / "context"
            _stage(source, context)
            identity = _source_digest(context)
            tag = f"{source.package}:{source.version}-{source.commit[:7]}"
            if self.exists(tag) and _source_digest(self.path(tag) / SOURCE) != identity:
                tag = f"{tag}-{identity.removeprefix('sha256:')[:7]}"
            if not self.exists(tag):
                self._move(_run_build(context, tag, Path(inside) / "store"), tag)
        return BentoRef(tag, self.digest(tag))

    def _move(self, built: Path, tag: str) -> None:
        target = self.path(tag)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(built, target)
        except OSError:
            if not self.exists(tag):  # else another run was first, with the same
                raise
        write_atomic(target.parent / "latest", tag.partition(":")[2])


def _source_digest(folder: Path) -> str:
    """Return what a Bento's source is, without the options that BentoML writes out again."""
    return digest_folder(folder, keep=lambda name: name != "bentofile.yaml" and "__pycache__" not in name)


def _stage(source: Source, context: Path) -> None:
    """Lay out exactly what the Bento may contain: no more can slip in from the checkout."""
    root, package = source.checkout, source.package
    _check(source)  # what can't be meant is told here, not by a dead service
    wanted = [
        *(
            f"services/{package}/{path.name}"
            for kind in ("*.py", "*.yaml")
            for path in (root / "services" / package).glob(kind)
        ),
        f"services/{package}/service.py",
        f"models/{package}/features.py",
        *(path.relative_to(root).as_posix() for name in SHELL for path in (root / "tidegate").glob(name)),
    ]
    packages = [
        f"{folder}/__init__.py"
        for folder in ("services", f"services/{package}", "models", f"models/{package}")
    ]
    for name in [*wanted, *packages]:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_file():
            shutil.copyfile(root / name, context / name)
        elif name in packages:
            # Without it, a real package of that name anywhere on the path would be imported instead.
            (context / name).touch()
        else:
            raise ConfigError(f"{name} is missing", f"Write it, or remove {source.model}.", where=str(root))
    shutil.copytree(source.artifact, context / MODEL)
    manifest = {"model": source.model, "version": source.version, "digest": source.digest}
    (context / "artifact.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (context / "requirements.txt").write_text("\n".join(pins_of(root, source.model)) + "\n")
    options: Mapping[str, Any] = {
        "service": f"services.{package}.service",
        "name": package,
        "description": f"{source.model} version {source.version}, model {source.digest}.",
        "labels": {"model": source.model},
        "include": ["**"],
        "python": {"requirements_txt": "./requirements.txt", "lock_packages": False},
        "docker": {"python_version": f"{sys.version_info.major}.{sys.version_info.minor}"},
    }
    (context / "bentofile.yaml").write_text(yaml.safe_dump(options, sort_keys=False))


def _check(source: Source) -> None:
    """Raise ConfigError unless the settings can be read, and the files that they say are run are there."""
    from tidegate import settings  # imports BentoML, which asking for a Bento's path must not pay for
    from tidegate.serving.provider import gpu_variant, model_file

    root = source.checkout
    said = settings.load(root, source.model)
    try:
        model_file(source.artifact, said.variant)
        gpu_variant(source.artifact, said.gpu)
    except RuntimeError as error:
        where = settings.place(root, source.model).relative_to(root).as_posix()
        raise ConfigError(str(error), "Let train.py write it, or name another.", where=where) from error


def pins_of(checkout: Path, model: str) -> list[str]:
    """Return `name==version` of all that a model's Bento needs: the shell's packages and the service's own.

    Its own are those that its settings.yaml names under `packages`. Raises ConfigError for one that is not in
    requirements.lock.
    """
    from tidegate import settings

    lock = (checkout / "requirements.lock").read_text()
    own = [name.lower() for name in settings.load(checkout, model).packages]
    return serving_pins(lock, (*SERVING_PACKAGES, *own))


def _run_build(context: Path, tag: str, store: Path) -> Path:
    """Run `bentoml build` in a store of its own and return the Bento's folder."""
    store.mkdir()
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TIDEGATE_", "BENTOML_"))
        },
        "BENTOML_HOME": str(store),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(context),  # the Bento's own copies are what gets imported
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    version = tag.partition(":")[2]
    command = [sys.executable, "-P", "-m", "bentoml", "build", "--version", version, str(context)]
    try:
        done = subprocess.run(
            command, cwd=context, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise PlatformError(
            f"bentoml build took over {BUILD_TIMEOUT} s", "Look at the machine's load."
        ) from error
    built = bento_path(store, tag)
    if done.returncode or not (built / "bento.yaml").is_file():
        words = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()][-12:]
        raise PlatformError(
            "bentoml build failed:\n" + "\n".join(words), "Correct the service, then try again."
        )
    return built


def serving_pins(lock: str, packages: Iterable[str]) -> list[str]:
    """Return the `name==version` lines of requirements.lock that `packages` need, by its `# via` comments.

    Raises ConfigError for a package that is not in the lock.
    """
    pins: dict[str, str] = {}
    needs: dict[str, set[str]] = {}
    current = ""
    for line in lock.splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(\s*;[^\\]*)?", line)
        if pin:
            current = pin[1].lower()
            pins[current] = f"{pin[1]}=={pin[2]}{(pin[3] or '').rstrip()}"
        elif (
            current
            and (via := re.match(r"\s+#\s+(?:via\s+)?([A-Za-z0-9._-]+)\s*$", line))
            and via[1] != "via"
        ):
            needs.setdefault(via[1].lower(), set()).add(current)
    missing = sorted(set(packages) - set(pins))
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not pinned",
            "Add it to pyproject.toml and run `make lock`.",
            where="requirements.lock",
        )
    found: set[str] = set()
    open_ = list(packages)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += needs.get(name, ())
    found.discard("bentoml")  # `bentoml build` adds its own version, and pip refuses a line given twice
    return [pins[name] for name in sorted(found)]
