"""Habits with files that several rooms share: atomic writes and digests of folders."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader or a crash sees the old one or the new one, never a part.

    A temporary name in the same folder, fsync, rename: the only way in which Envoy notices a change.
    Raises OSError and leaves the old file as it was (a full disk included).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def digest_file(path: Path) -> str:
    """Return `sha256:…` of one file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digest_folder(folder: Path, *, keep: Callable[[str], bool] = lambda name: True) -> str:
    """Return `sha256:…` over the relative names and contents of a folder's files, in name order.

    `keep` is asked with each file's POSIX name relative to the folder. Raises FileNotFoundError when
    no file is left: an empty folder has no identity.
    """
    names = sorted(
        name
        for path in folder.rglob("*")
        if path.is_file() and keep(name := path.relative_to(folder).as_posix())
    )
    if not names:
        raise FileNotFoundError(f"no files in {folder}")
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name}\0{digest_file(folder / name)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def digest(path: Path) -> str:
    """Return `sha256:…` of a file, or of a folder; raises FileNotFoundError when there is neither."""
    return digest_folder(path) if path.is_dir() else digest_file(path)


def size(folder: Path) -> int:
    """Return the bytes of a folder's files, byte code left out: whoever imports it first writes that."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files)
