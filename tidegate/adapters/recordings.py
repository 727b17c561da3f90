"""Recordings as files of JSON lines: `<folder>/<plane>/<model>/<environment>-<release>-<when>.jsonl`.

The agent appends after it has stored; nothing here may disturb it, so what can't be written is said once
in its log and left out.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.errors import ConfigError, NoData

log = logging.getLogger(__name__)

KEPT = 200  # recordings of one model on one plane
LARGEST = 16 * 1024 * 1024  # bytes of one recording; beyond them only events and ends are added
MOST_OWED = 100  # lines of one recording, and recordings, that wait for the disk
TAIL = 16384  # bytes in which the last look or the end of a recording surely is
ENDING = ".jsonl"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*){2}")


class FileRecorder:
    """Keeps recordings under a folder, the newest `kept` of each model on each plane."""

    def __init__(self, folder: Path, kept: int = KEPT, largest: int = LARGEST) -> None:
        self.folder, self.kept, self.largest = folder, kept, largest
        self._owed: dict[str, list[Mapping[str, Any]]] = {}
        self._said = ""

    def append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to a recording; never raises. A new one makes room by removing the oldest.

        Looks that can't be written are lost; what a recording is unreadable without is written later.
        """
        owed = self._owed.pop(name, [])
        try:
            self._append(self._path(name), [*owed, *lines])
            self._said = ""
        except Exception as problem:  # whatever it is, a rollout matters more than its recording
            kept = [*owed, *_small(lines)]
            if len(self._owed) < MOST_OWED and len(kept) < MOST_OWED:
                self._owed[name] = kept
            if type(problem).__name__ != self._said:
                log.warning("%s is not recorded: %s", name, problem)
            self._said = type(problem).__name__

    def _append(self, path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        if not lines:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            size = file.seek(0, 2)
            if size >= self.largest:
                lines = [*([] if _is_full(file) else [{"kind": "full"}]), *_small(lines)]
            text = "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines).encode()
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # a crash cut the last line: it must not swallow this one
                    text = b"\n" + text
            if file.write(text) != len(text):
                file.truncate(size)
                raise OSError("only a part could be written, the disk is full")
        if not size:
            self._make_room(path.parent)

    def _make_room(self, folder: Path) -> None:
        for path in sorted(folder.glob(f"*{ENDING}"), key=_age, reverse=True)[self.kept :]:
            path.unlink(missing_ok=True)

    def list(self) -> Sequence[str]:
        """Return the names of all recordings, the one written last first."""
        found = sorted(self.folder.glob(f"*/*/*{ENDING}"), key=_age, reverse=True)
        return [path.relative_to(self.folder).as_posix().removesuffix(ENDING) for path in found]

    def read(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a recording's lines but those cut short by a crash. Raises NoData, ConfigError."""
        path = self._path(name)
        if not path.is_file():
            raise NoData(f"there is no recording {name}", "List them: tidegate explain")
        return read_lines(path)

    def ending(self, name: str) -> Mapping[str, str]:
        """Return `phase` and `verdict` as the end of a file says, without reading all of it."""
        try:
            with self._path(name).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL))
                tail = _lines(file.read())
        except OSError as problem:
            raise NoData(f"there is no recording {name}", "List them: tidegate explain") from problem
        told = [line for line in tail if line.get("kind") in ("look", "end")]
        last = told[-1] if told else {}
        return {"phase": str(last.get("phase", "Pending")), "verdict": str(last.get("verdict", ""))}

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"`{name}` can't be a recording's name", "List them: tidegate explain")
        return self.folder / f"{name}{ENDING}"


def read_lines(path: Path) -> list[Mapping[str, Any]]:
    """Return a file's JSON lines but those that a crash cut short. Raises ConfigError for another file."""
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise ConfigError(
            f"it can't be read: {problem.strerror}", "Name another.", where=str(path)
        ) from problem
    return _lines(raw)


def _lines(raw: bytes) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for text in raw.split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


def _small(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [line for line in lines if line.get("kind") != "look"]


def _is_full(file: Any) -> bool:
    file.seek(max(0, file.seek(0, 2) - 65536))
    return b'{"kind":"full"}' in file.read()


def _age(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except OSError:  # removed meanwhile
        return 0.0, path.name
