"""A base image made here, by debootstrap, for machines that reach no registry.

Debian's smallest system with Python, and nothing of this machine in it. What differs from one run to the next
(logs, caches, times, the day in the password file) is left out or set, so that the same packages make the
same image.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tidegate.core.images import EPOCH, PREFIX
from tidegate.errors import PlatformError
from tidegate.images import Builder, Inspected

SUITE = "bookworm"  # its Python is the one that the lock is made for
PACKAGES = ("ca-certificates", "python3")
TIMEOUT = 1200.0
SOURCES = f"""deb http://deb.debian.org/debian {SUITE} main
deb http://deb.debian.org/debian {SUITE}-updates main
deb http://deb.debian.org/debian-security {SUITE}-security main
"""
# Run by sh in the new system's folder. Copyright files stay; the machine's own names and addresses go.
STRIP = r"""
set -eu
rm -rf dev/* run/* tmp/* var/tmp/* var/cache/* var/log/* var/lib/apt/lists/* var/lib/systemd
rm -rf usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bash-completion debootstrap
rm -f etc/resolv.conf etc/hostname etc/hosts etc/machine-id etc/*- var/lib/dpkg/*-old
rm -f var/lib/dbus/machine-id etc/.pwd.lock
find usr/share/doc -type f ! -name copyright -delete
find usr/share/doc -type l -delete
find usr/share/doc -depth -type d -empty -delete
find usr -name __pycache__ -prune -exec rm -rf {} +
sed -i -E 's/^([^:]*:[^:]*:)[0-9]+:/\1:/' etc/shadow
"""
COMPILE = (
    "PYTHONHASHSEED=0 python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3.11"
)
FILE = 'FROM scratch\nADD rootfs.tar /\nCMD ["python3"]\n'


def base_name() -> str:
    """Return what the base is called: by its recipe, so another recipe makes another one."""
    recipe = "\0".join((SUITE, *PACKAGES, SOURCES, STRIP, COMPILE, FILE))
    return f"{PREFIX}/base:{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


def make(builder: Builder, *, again: bool = False) -> Inspected:
    """Return the base image, made now if it is not here or shall be made `again`.

    Takes root, debootstrap, the network, and half a minute. Raises PlatformError.
    """
    name = base_name()
    found = None if again else builder.inspect(name)
    if found is not None:
        return found
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise PlatformError(
            "a base is made by root with debootstrap",
            "Install debootstrap and repeat as root, or name a base by `images: {base: …}` in platform.yaml.",
        )
    with tempfile.TemporaryDirectory(prefix="tidegate-base-") as folder:
        root, context = Path(folder) / "root", Path(folder) / "context"
        context.mkdir()
        include = ",".join(PACKAGES)
        _run("debootstrap", "--variant=minbase", f"--include={include}", SUITE, str(root))
        _run("sh", "-c", STRIP, cwd=root)
        (root / "etc/apt/sources.list").write_text(SOURCES)
        _run("chroot", str(root), "sh", "-c", COMPILE)
        archive = str(context / "rootfs.tar")
        same = ("--sort=name", "--numeric-owner", f"--mtime=@{EPOCH}", "--exclude=./dev/*")
        _run("tar", *same, "-C", str(root), "-cf", archive, ".")
        shutil.rmtree(root)
        (context / "Containerfile").write_text(FILE)
        return builder.build(context, context / "Containerfile", name, timestamp=EPOCH, again=again)


def _run(*command: str, cwd: Path | None = None) -> None:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(EPOCH),
    }
    kept = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise PlatformError(f"{command[0]}: no end after {TIMEOUT:g} s", "Check the network.") from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-4:]
        raise PlatformError(f"{command[0]}: " + "\n".join(said or ["failed"]), "Run it by hand to see more.")
