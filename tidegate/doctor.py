"""What this machine needs for Tidegate, whether it is there, and how to get it.

Every check looks and changes nothing; one that can't look says so and counts as failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tidegate import config, wiring
from tidegate.core.release import ReleaseRecord
from tidegate.errors import TidegateError
from tidegate.machine.containers import Recipe
from tidegate.machine.processes import is_free

GIT_NEEDED = (2, 38)  # merge-tree --write-tree
PYTHON_NEEDED = (3, 11)
DISK_NEEDED = 3 * 2**30  # bytes: a demo's Bentos, models and logs, with room to spare
MEMORY_NEEDED = 2 * 2**30  # bytes available: two planes and a training
SOCKET_LONGEST = 107  # bytes, of a unix socket's path on Linux (103 on macOS)
PROGRAMS = {
    "envoy": "routes requests",
    "act": "runs workflows on this machine",
    "supervisord": "keeps workloads running",
    "dvc": "runs the pipeline's stages",
    "bentoml": "builds and serves models",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. Without a `required` one, `tidegate` can't work here."""

    name: str
    ok: bool
    found: str
    action: str = ""  # how to get it
    required: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the check as JSON types."""
        return asdict(self)


def examine(checkout: Path | None) -> list[Check]:
    """Look at everything, in the order in which it is needed; `checkout` None means that there is none."""
    checks = [check_python(), check_git(), *check_programs(), check_memory(), check_compiler()]
    if checkout is None:
        action = "Go to a clone of your repository; without one only this was looked at."
        return [*checks, Check("checkout", False, "no envs/ here or above", action)]
    checks.append(Check("checkout", True, str(checkout)))
    where = wiring.home(checkout)
    checks += [check_home(where.root), check_disk(where.root)]
    try:
        platforms = {name: wiring.platform(checkout, name) for name in config.ENVIRONMENTS}
        config.load(checkout)
    except TidegateError as error:
        return [*checks, Check("envs/", False, error.message, error.action)]
    checks.append(Check("envs/", True, "every file parses"))
    checks += check_sockets(where, platforms)
    checks += check_ports(where, platforms)
    checks += check_stores(where, platforms)
    checks += check_containers(where, platforms, config.load(checkout))
    checks += check_remotes(checkout, platforms)
    return checks


# ---------------------------------------------------------------- the machine
def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Whether this Python is new enough."""
    needed = ".".join(map(str, PYTHON_NEEDED))
    found = f"{version[0]}.{version[1]} at {sys.executable}"
    return Check("python", version >= PYTHON_NEEDED, found, f"Install Python {needed} or newer.")


def check_git(program: str = "git") -> Check:
    """Whether git is here and can merge trees without a work tree."""
    needed = ".".join(map(str, GIT_NEEDED))
    action = f"Install git {needed} or newer (apt install git, brew install git)."
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("git", False, f"can't be run: {error}", action)
    match = re.search(r"(\d+)\.(\d+)", said)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    return Check("git", version >= GIT_NEEDED, said.strip() or "says no version", action)


def check_programs(folder: Path | None = None) -> Iterator[Check]:
    """Whether the programs that come with the package are beside this Python, or on PATH."""
    beside = folder or Path(sys.executable).parent
    for name, purpose in PROGRAMS.items():
        at = shutil.which(name, path=str(beside)) or shutil.which(name)
        action = "Run: make setup (or: pip install tidegate)."
        yield Check(name, at is not None, at or f"not found ({purpose})", action)


def check_memory() -> Check:
    """Whether enough memory is free; a warning only."""
    import psutil

    free = psutil.virtual_memory().available
    action = f"Close something: {_size(MEMORY_NEEDED)} are comfortable."
    return Check("memory", free >= MEMORY_NEEDED, f"{_size(free)} available", action, required=False)


def check_compiler() -> Check:
    """Whether C can be compiled; a warning only, since just the gpu gate's faults are made of it."""
    at = shutil.which("cc") or shutil.which("gcc")
    action = "For `tidegate gate selftest` and the tests, install gcc and libc6-dev."
    return Check("C compiler", at is not None, at or "not found", action, required=False)


# ---------------------------------------------------------------- the home
def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_home(root: Path) -> Check:
    """Whether the home can be written; proven by writing, since permissions alone don't say it."""
    at = _existing(root)
    try:
        with tempfile.NamedTemporaryFile(dir=at, prefix=".tidegate-doctor-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return Check(
            "home", False, f"{root} can't be written: {error}", "Set TIDEGATE_HOME to a folder of yours."
        )
    return Check("home", True, str(root))


def check_disk(root: Path) -> Check:
    """Whether the home's disk has room."""
    free = shutil.disk_usage(_existing(root)).free
    action = f"Make room: {_size(DISK_NEEDED)} are needed, or set TIDEGATE_HOME to another disk."
    return Check("disk", free >= DISK_NEEDED, f"{_size(free)} free", action)


def check_sockets(where: config.Home, platforms: dict[str, config.Platform]) -> Iterator[Check]:
    """Whether the unix sockets' paths fit, and their folder can be made."""
    folder = where.sockets
    planes = {spec.plane for spec in platforms.values()}
    # supervisord first binds a name with its process id at the end, then renames it.
    longest = max((f"{folder}/{plane}.supervisor.4194304" for plane in planes), key=len)
    length = len(longest.encode())
    action = f"Set XDG_RUNTIME_DIR or TMPDIR to a shorter path (at most {SOCKET_LONGEST} bytes in all)."
    yield Check("socket paths", length <= SOCKET_LONGEST, f"{length} bytes: {longest}", action)
    writable = os.access(_existing(folder), os.W_OK)
    action = "Set XDG_RUNTIME_DIR or TMPDIR to a folder of yours."
    yield Check("socket folder", writable, str(folder), action)


def check_ports(where: config.Home, platforms: dict[str, config.Platform]) -> Iterator[Check]:
    """Whether each plane's port is free, or held by the plane itself."""
    for plane, port in sorted({(spec.plane, spec.router.port) for spec in platforms.values()}, key=str):
        if port == "auto":
            continue
        up = (where.sockets / f"{plane}.envoy").exists()
        taken = not is_free(int(port))
        state = "in use by the plane, as it seems" if taken and up else "in use" if taken else "free"
        action = (
            f"Stop what listens on {port}, or set router.port in envs/*/platform.yaml (auto: a free one)."
        )
        yield Check(f"port {port} ({plane})", up or not taken, state, action)


def check_stores(where: config.Home, platforms: dict[str, config.Platform]) -> Iterator[Check]:
    """Whether the folders of stores on this machine can be written; a server's address is only named."""
    seen: set[str] = set()
    for spec in platforms.values():
        stores = {"state": spec.stores.state, "registry": spec.stores.registry}
        stores |= {"dvc": spec.stores.dvc, "bentos": spec.stores.bentos}
        for name, template in stores.items():
            address = where.address(template)
            if f"{name} {address}" in seen:
                continue
            seen.add(f"{name} {address}")
            yield _refused(name, spec, where) or _store(name, address)


def _refused(name: str, spec: config.Platform, where: config.Home) -> Check | None:
    """Return the failed check of a store whose address no adapter takes, by the words of the wiring."""
    takes = {"state": wiring.state_path, "bentos": wiring.bentos_path, "registry": wiring.registry}
    try:
        if name in takes:
            takes[name](spec, where)
    except TidegateError as error:
        return Check(f"store {name}", False, error.message, error.action)
    return None


def _store(name: str, address: str) -> Check:
    path = address.removeprefix("sqlite:///")
    if "://" in path:
        return Check(f"store {name}", True, f"{address} (on a server; not asked)")
    at = _existing(Path(path).absolute())
    ok = os.access(at, os.W_OK)
    state = address if ok else f"{address} can't be written"
    return Check(
        f"store {name}", ok, state, f"Fix the permissions of {at}, or move it in envs/platform.yaml."
    )


# ---------------------------------------------------------------- containers
def check_containers(
    where: config.Home, platforms: dict[str, config.Platform], desired: config.Desired
) -> Iterator[Check]:
    """Whether each engine that runs releases answers, and has the images of what Git names."""
    asked: set[str] = set()
    for name, spec in platforms.items():
        if not spec.workloads.contained:
            continue
        try:
            recipe = wiring.recipe(spec, where)
            if spec.workloads.adapter not in asked:
                asked.add(spec.workloads.adapter)
                yield Check(spec.workloads.adapter, True, recipe.engine.version())
        except TidegateError as error:
            yield Check(spec.workloads.adapter, False, error.message, error.action)
            continue
        for model, release in desired.environments[name].releases.items():
            yield _image(recipe, name, model, desired.records[release])


def _image(recipe: Recipe, environment: str, model: str, record: ReleaseRecord) -> Check:
    name = f"image of {model} ({environment})"
    try:
        return Check(name, True, f"{record.id}, {recipe.image(record).id.removeprefix('sha256:')[:12]}")
    except TidegateError as error:
        return Check(name, False, error.message, error.action)


# ---------------------------------------------------------------- the remote
def check_remotes(checkout: Path, platforms: dict[str, config.Platform]) -> Iterator[Check]:
    """Whether each remote that the agent pulls is set and answers."""
    from tidegate.adapters.git import probe, remote_url

    for spec in sorted({spec.repository for spec in platforms.values()}, key=str):
        try:
            found = probe(remote_url(checkout, spec.remote), spec.branch)
        except TidegateError as error:
            yield Check(f"remote {spec.remote}", False, error.message, error.action)
        else:
            yield Check(f"remote {spec.remote}", True, found)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
