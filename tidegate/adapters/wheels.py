"""The wheels that an image is made of: fetched by this machine's pip, as it is configured, and kept.

An image is built without a network. So neither an index's address nor a certificate of this machine can get
into it, and what is installed is exactly what has a hash in the lock.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from tidegate.errors import PlatformError
from tidegate.files import digest_file

TIMEOUT = 1800.0  # seconds: a runtime for GPUs is a quarter of a gigabyte
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def fetch(requirements: str, allowed: Collection[str], cache: Path, into: Path, python: str = "3.11") -> int:
    """Put the wheels of requirements with hashes into a folder; return how many bytes they are.

    `allowed` are their sha256. Wheels are of Linux on this machine's kind of processor and of CPython
    `python`, whatever runs here; they are kept in `cache`. Raises PlatformError with pip's own words.
    """
    into.mkdir(parents=True, exist_ok=True)
    if not requirements.strip():
        return 0
    cache.mkdir(parents=True, exist_ok=True)
    _download(requirements, cache, python)
    total = 0
    for wheel in sorted(cache.glob("*.whl")):
        if digest_file(wheel).removeprefix("sha256:") in allowed:
            shutil.copyfile(wheel, into / wheel.name)
            total += wheel.stat().st_size
    return total


def _download(requirements: str, cache: Path, python: str) -> None:
    machine = _MACHINES.get(platform.machine(), platform.machine())
    platforms = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1", "linux")
    abi = f"cp{python.replace('.', '')}"
    with tempfile.TemporaryDirectory(prefix="tidegate-wheels-") as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(requirements)
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(cache)),
            *("--python-version", python, "--implementation", "cp"),
            *(word for one in (abi, "abi3", "none") for word in ("--abi", one)),
            *(word for one in platforms for word in ("--platform", f"{one}_{machine}")),
            *("--requirement", str(wanted)),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise PlatformError(f"pip download: no end after {TIMEOUT:g} s", "Check the network.") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
        raise PlatformError(
            f"the locked wheels can't be fetched: {said[-1].removeprefix('ERROR: ')}",
            "Check pip's configuration; each pin needs a wheel for Linux.",
        )


def uv() -> Path:
    """Return the locked uv of this environment, which installs inside an image too.

    Raises PlatformError when it is not here, or is not a program for Linux.
    """
    found = Path(sys.executable).parent / "uv"
    if not found.is_file():
        raise PlatformError(f"{found} is not there", "Run `make setup`.")
    with found.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            raise PlatformError("this machine's uv is none for Linux", "Build images on Linux, or in CI.")
    return found


def python(into: Path, version: str) -> None:
    """Put a Python of uv's own into a folder, for a base that has none. Raises PlatformError."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VIRTUAL_ENV")}
    command = [str(uv()), "python", "install", "--quiet", "--no-bin", "--install-dir", str(into), version]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["failed"])[-1]
        raise PlatformError(
            f"the base has no Python {version}, and uv can't fetch one: {said}",
            "Name a base that has it (`--base`), or set UV_PYTHON_INSTALL_MIRROR.",
        )
