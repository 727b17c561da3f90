"""Tiny releases as container images: this machine's Python and its libraries, and tests/tiny_server.py."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.planes import TINY, tiny_record
from tidegate.adapters.containers import ContainerWorkloads
from tidegate.core.containers import Limits
from tidegate.core.images import identity, image_name
from tidegate.core.release import ImageRef, RegistryRef, ReleaseRecord
from tidegate.machine.containers import AT, Recipe, mark
from tidegate.machine.engine import Engine

# What an engine's processes may open and start here; a machine without systemd refuses podman's own numbers.
OPTIONS = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=20000:20000")
NOBODY = "65534"


@functools.cache
def usable() -> str:
    """Return why podman can't run a container here; "" when it can."""
    if shutil.which("podman") is None:
        return "podman is not installed"
    try:
        words = ["podman", "run", "--rm", "--network=none", *OPTIONS, base(), "python3", "-c", "print(7)"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.CalledProcessError as error:
        return f"podman: {error.stderr[-300:]}"
    return "" if done.stdout.strip() == "7" else f"podman runs nothing: {done.stderr[-300:]}"


def podman(*words: str, text: str | None = None) -> str:
    """Run podman; returns what it printed."""
    done = subprocess.run(
        ["podman", *words], input=text, capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout.strip()


@functools.cache
def base() -> str:
    """Import this machine's Python as an image, removed at the end; returns its id."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        python = Path(sys.executable).resolve()
        library = Path(sysconfig.get_paths()["stdlib"])
        for needed in (python, *_libraries(python, library)):
            _copy(needed, root)
        leave = shutil.ignore_patterns("test", "__pycache__", "site-packages", "dist-packages", "config-*")
        shutil.copytree(library, root / library.relative_to("/"), ignore=leave, symlinks=True)
        shutil.copy(TINY, root / "tiny_server.py")
        (root / "usr/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/bin/python3").unlink(missing_ok=True)
        (root / "usr/bin/python3").symlink_to(python)
        for name in ("tmp", "etc", "proc", "sys", "dev", "run", "var/tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "tmp").chmod(0o1777)  # podman copies it into the tmpfs that lies over it
        archive = Path(folder) / "root.tar"
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
        made = podman("import", "--quiet", str(archive))
    atexit.register(subprocess.run, ["podman", "rmi", "--force", made], capture_output=True)
    return made


def _libraries(python: Path, library: Path) -> set[Path]:
    """Return the shared libraries that Python and its modules ask for, the loader among them."""
    modules = [str(path) for path in (library / "lib-dynload").glob("*.so")]
    said = subprocess.run(["ldd", str(python), *modules], capture_output=True, text=True, check=False).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\t)(/\S+) \(", said, re.MULTILINE)}


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path.resolve(), target)


@functools.cache
def image_release(number: int = 1, *, command: str = "", user: str = NOBODY, host: str = "") -> ReleaseRecord:
    """Return a record whose image is here; its container serves by tiny_server.py, or runs `command`.

    Records of other test processes differ: their images may come and go. Version 0 is no version: no registry
    has them, and there is no alias to move.
    """
    record = tiny_record(os.getpid() * 100_000 + number)
    record = msgspec.structs.replace(record, registry=RegistryRef(record.model, 0))
    words = ["python3", "/tiny_server.py", "3000", record.id, host or "0.0.0.0"]
    shown = ["python3", "-c", command] if command else words
    labels = [f"LABEL {key}={json.dumps(value)}" for key, value in identity(record, "cpu").items()]
    lines = [f"FROM {base()}", *labels, f"USER {user}", "EXPOSE 3000/tcp", f"CMD {json.dumps(shown)}"]
    name = image_name(record, "cpu")
    podman("build", "--quiet", "--tag", name, "--file", "-", text="\n".join(lines) + "\n")
    made = podman("image", "inspect", "--format", "{{.Id}}", name)
    atexit.register(subprocess.run, ["podman", "rmi", "--force", made], capture_output=True)
    reference = ImageRef(name, f"sha256:{made}", "tiny", base())
    return msgspec.structs.replace(record, images={"cpu": reference})


@contextmanager
def containers_at(
    folder: Path, *, gpus: str = "", places: Mapping[str, str] | None = None, **limits: Any
) -> Iterator[ContainerWorkloads]:
    """Workloads of a plane in a folder, all of whose containers are gone at the end."""
    at = mark(folder, "staging")
    recipe = Recipe(Engine("podman"), Limits(gpus=gpus, **limits), OPTIONS, places or {})
    try:
        yield ContainerWorkloads(
            folder / "planes" / "staging", at, recipe, folder, rows=lambda _: [{"warm": 1}, {"warm": 2}]
        )
    finally:
        left = [one.name for one in recipe.engine.containers(f"{AT}={at}")]
        recipe.engine.stop(left, 1)
        recipe.engine.remove(left)
        assert recipe.engine.containers(f"{AT}={at}") == []
