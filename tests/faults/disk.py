"""Disks that go wrong: a small one of its own for a plane's home, full, read-only, or refusing to write."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

SIZE = 48  # MiB


def _mount(*arguments: str) -> str:
    """Mount something; returns why it can't be, or nothing."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=30)
    return done.stderr.strip()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """Give a folder a disk of its own; yields why that can't be had here (then it is a plain folder)."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        refused = _mount("-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(folder))
    except OSError as error:
        refused = str(error)
    try:
        yield refused
    finally:
        if not refused:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill a folder's disk, and whatever becomes free of it meanwhile."""
    ballast, over = folder / "ballast", threading.Event()

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            while not over.wait(0.002):
                for size in (1 << 20, 4096):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    try:
        yield
    finally:
        over.set()
        filling.join(10)
        ballast.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[str]:
    """Let nobody who opens a file from now on write to it; yields why that can't be had here."""
    refused = _mount("--bind", str(folder), str(folder))
    if not refused:
        refused = _mount("-o", "remount,bind,ro", str(folder))
    try:
        yield refused
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, timeout=30)


@contextlib.contextmanager
def no_writes(pid: int) -> Iterator[None]:
    """Let every write of a process to a file fail, as on a disk whose quota is used up."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
