"""Answers made beforehand for known entities, by a release's own code, and handed to the online store.

Their keys hold the release: what one release answered is never another's answer.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tidegate import bentos, frames, ports
from tidegate.core.release import ReleaseRecord
from tidegate.errors import Fatal, NoData

TIMEOUT = 3600.0  # seconds
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


class Made(NamedTuple):
    """Answers as they are stored, by key, and what was said of rows that got none."""

    answers: Mapping[str, bytes]
    refused: str


class _Line(msgspec.Struct):
    key: str
    answer: msgspec.Raw


def compute(store: Path, record: ReleaseRecord, rows: Path, features: str) -> Made:
    """Return the answers of a release's Bento in `store` to a file of requests, a JSON object a line.

    `features` is the address of the store that it looks up what rows lack, empty for none. Raises
    ReleaseNotFound when the Bento is not the record's, NoData when it makes none beforehand, Fatal when it
    fails.
    """
    bentos.verify(store, record)
    with tempfile.TemporaryDirectory(prefix="tidegate-beforehand-") as folder:
        out = Path(folder) / "answers.jsonl"
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= bentos.serve_environment(store, record)
        environment |= {"TIDEGATE_FEATURES": features} if features else {}
        command = [sys.executable, "-P", "-m", "tidegate.serving.beforehand", record.bento.tag]
        try:
            done = subprocess.run(
                [*command, str(rows.absolute()), str(out)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Fatal(
                f"{record.id} did not answer all rows in {TIMEOUT:g} s", "Give fewer rows."
            ) from error
        if done.returncode == 2:
            text = f"release {record.id} makes no answers beforehand"
            raise NoData(text, "Declare `precomputed` in its service; see docs/features.md.")
        if done.returncode not in (0, 1) or not out.is_file():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise Fatal(
                f"release {record.id} can't answer beforehand: {last}", "Try `tidegate package` again."
            )
        lines = [msgspec.json.decode(line, type=_Line) for line in out.read_bytes().splitlines()]
    return Made({line.key: bytes(line.answer) for line in lines}, done.stderr if done.returncode else "")


def store(into: ports.FeatureStore, record: ReleaseRecord, made: Made, ttl: float) -> None:
    """Store the answers for `ttl` seconds, beside those that are there already."""
    into.write(f"predictions:{record.model}:{record.id}", made.answers, ttl, replace=False)


def requests(root: Path, package: str, path: Path, into: Path) -> int:
    """Write a file of rows as requests, a line each, and return how many; .jsonl is taken as it is.

    Those of a .parquet file become requests by models/<package>/features.py. Raises NoData for an empty file.
    """
    if path.suffix == ".parquet":
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        frame = frames.read(path)
        try:
            features = importlib.import_module(f"models.{package}.features")
            made: list[Any] = features.to_rows({name: frame[name].to_numpy() for name in frame.columns})
        except (ImportError, KeyError, ValueError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Fatal(f"{path} makes no requests ({reason})", "Compare it with features.py.") from error
        lines = [msgspec.json.encode(row) for row in made]
    else:
        try:
            lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        except OSError as error:
            raise NoData(
                f"{path} can't be read: {error.strerror}", "Name a .jsonl or .parquet file."
            ) from error
    if not lines:
        raise NoData(f"{path} has no rows", "Name a file that has some.")
    into.write_bytes(b"\n".join(lines) + b"\n")
    return len(lines)
