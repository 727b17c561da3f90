"""Which releases were started on a plane, and on which ports: one file each, read by supervisord too.

`workloads/<model>.<release>.conf` is supervisord's configuration and the adapter's memory at once, so
that the two can't disagree: the first line holds record, ports, whether it is a copy, and a digest of the
rest. A file that is not whole (edited, half-written) counts as none. What containers serve lies in a folder
of its own, named after their engine, where supervisord does not look; such a file has a first line only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidegate.core.release import ReleaseRecord, copy_of
from tidegate.errors import PlatformError
from tidegate.files import write_atomic
from tidegate.machine.supervisord import program

Command = Callable[[ReleaseRecord, int], tuple[Sequence[str], Mapping[str, str]]]
ANSWERS = "TIDEGATE_ANSWERS"  # names a replica's folder for its answers to journaled requests
STOP_GRACE = 15  # seconds that the requests in flight have
WORKLOADS = "workloads"  # the folder of what supervisord keeps
_HEAD = "; tidegate "


@dataclass(frozen=True)
class Placed:
    """A started release: its record, the port of each replica, and whether it is a fresh copy beside it."""

    record: ReleaseRecord
    ports: tuple[int, ...]
    copy: bool = False

    @property
    def release(self) -> str:
        """What it is called among releases."""
        return copy_of(self.record.id) if self.copy else self.record.id

    @property
    def name(self) -> str:
        """What files and programs are called by."""
        return f"{self.record.model}.{self.release}"

    @property
    def programs(self) -> tuple[str, ...]:
        """The supervisord programs, one a replica."""
        return tuple(f"{self.name}.{index}" for index in range(len(self.ports)))


class Placements:
    """The files of one plane's folder; `kept` is the folder in it, named after who keeps the replicas."""

    def __init__(self, folder: Path, kept: str = WORKLOADS) -> None:
        self._folder = folder
        self._files = folder / kept

    @property
    def folder(self) -> Path:
        """The plane's folder."""
        return self._folder

    def log(self, name: str) -> Path:
        """Return where a program's output goes."""
        return self._folder / "logs" / f"{name}.log"

    @property
    def answers(self) -> Path:
        """Return where replicas write down their answers to journaled requests."""
        return self._folder / "answers"

    def mark(self, program_name: str) -> dict[str, str]:
        """Return what a replica's environment carries, so that it can be found without its supervisor."""
        return {"TIDEGATE_WORKLOAD": f"{self._folder}:{program_name}"}

    def read(self) -> dict[tuple[str, str], Placed]:
        """Return (model, release) → what was placed; files that are not whole are left out."""
        found = {}
        for path in sorted(self._files.glob("*.conf")):
            placed = _parse(path)
            if placed is not None and path.stem == placed.name:
                found[placed.record.model, placed.release] = placed
        return found

    def write(self, placed: Placed, body: str = "") -> None:
        """Store a placement; `body` is what supervisord reads of it. Raises PlatformError."""
        self.tidy()
        head = {"record": msgspec.to_builtins(placed.record), "ports": placed.ports, "sha256": _digest(body)}
        if placed.copy:
            head["copy"] = True
        try:
            self.log("x").parent.mkdir(parents=True, exist_ok=True)
            self.answers.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._path(placed.name), f"{_HEAD}{json.dumps(head)}\n{body}")
        except OSError as error:
            raise PlatformError(
                f"can't write {self._path(placed.name)}: {error.strerror}", "Make room or give access to it."
            ) from error

    def tidy(self) -> None:
        """Remove files that are not whole: because of one, supervisord would refuse to read any."""
        known = {found.name for found in self.read().values()}
        for path in self._files.glob("*.conf"):
            if path.stem not in known:
                path.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """Remove a placement; nothing if there is none."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._files / f"{name}.conf"


def programs(placements: Placements, placed: Placed, command: Command) -> str:
    """Return a release's sections of supervisord's configuration. Raises what `command` raises."""
    sections = []
    for name, port in zip(placed.programs, placed.ports, strict=True):
        words, environment = command(placed.record, port)
        sections.append(
            program(
                name,
                words,
                log=placements.log(name),
                environment={**environment, ANSWERS: str(placements.answers), **placements.mark(name)},
                # A replica needs seconds to load before it can fail: whoever exits within 20 s is
                # retried with a growing pause instead of at once.
                startsecs=20,
                startretries=60,
                stopwaitsecs=STOP_GRACE,
            )
        )
    return "\n".join(sections)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(path: Path) -> Placed | None:
    try:
        head, _, body = path.read_text().partition("\n")
        value = json.loads(head.removeprefix(_HEAD))
        if value["sha256"] != _digest(body):
            return None
        record = msgspec.convert(value["record"], ReleaseRecord)
        return Placed(record, tuple(value["ports"]), value.get("copy", False) is True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
