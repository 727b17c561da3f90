"""Workloads as processes under a plane's supervisord: one program a replica, each on a port of its own."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tidegate import bentos
from tidegate.core.release import ReleaseRecord
from tidegate.machine import processes
from tidegate.machine.keeping import Instance, Kept, Rows
from tidegate.machine.placements import Command, Placed, Placements, programs
from tidegate.machine.supervisord import ALIVE, Supervisord

log = logging.getLogger(__name__)


class SupervisorWorkloads(Kept):
    """Workloads of one plane. `folder` is the plane's, `bentos_home` the Bento store.

    `command(record, port)` gives command and environment of a replica, `rows(bento tag)` its warm-up
    requests; both default to what Bentos bring, with `environment` besides: where a service finds what is not
    its own. `targets` is the file that tells Prometheus of the replicas.
    """

    def __init__(
        self,
        folder: Path,
        socket: Path,
        bentos_home: Path,
        *,
        command: Command | None = None,
        rows: Rows | None = None,
        targets: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        placements = Placements(folder)
        served = command or BentoCommands(bentos_home, environment or {}).command
        super().__init__(
            placements,
            _Programs(placements, Supervisord(socket), served),
            rows or (lambda tag: bentos.warmup_rows(bentos.bento_path(bentos_home, tag))),
            targets=targets,
        )


class _Programs:
    """`keeping.Keeper` by supervisord's programs, whose configuration is the placements' files."""

    name = "supervisord"

    def __init__(self, placements: Placements, supervisord: Supervisord, command: Command) -> None:
        self._placements, self._supervisord, self._command = placements, supervisord, command

    def known(self, *, fresh: bool = False) -> Mapping[str, Instance]:
        """Return what supervisord says of each replica; envoy and agent are none."""
        found = self._supervisord.processes()
        return {name: _instance(found[name]) for name in _replicas(found)}

    def place(self, placements: Placements, placed: Placed) -> None:
        """Write the file that supervisord reads, too."""
        placements.write(placed, programs(placements, placed, self._command))

    def launch(self, placed: Placed, names: Collection[str]) -> None:
        """Start programs again, or add them."""
        known = self._supervisord.processes()
        for name in names:
            if name in known:
                self._supervisord.restart(name)
            else:
                self._supervisord.add(name)

    def signal_stop(self, names: Collection[str]) -> None:
        """Begin to stop programs."""
        self._supervisord.signal_stop(*names)

    def remove(self, names: Collection[str]) -> None:
        """Have supervisord forget programs that have stopped."""
        self._supervisord.remove(*names)

    def ended(self, names: Collection[str]) -> None:
        """End what a program has left behind."""
        for name in names:
            processes.end(processes.carrying(self._placements.mark(name)))

    def holds(self, instance: Instance, port: int) -> bool:
        """Tell whether a replica's process listens on a port."""
        return processes.listens(instance.pid, port)

    def lost(self, name: str, port: int) -> bool:
        """Tell whether somebody else holds a replica's port."""
        if processes.is_free(port):
            return False
        instance = self.known().get(name)
        return instance is not None and not (instance.pid and self.holds(instance, port))

    def words(self, name: str, instance: Instance) -> str:
        """Return supervisord's word and the end of the log."""
        try:
            with self._placements.log(name).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4096))
                lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        except OSError:
            lines = []
        return f"{instance.said}: {' | '.join([line for line in lines if line][-5:])}"

    def log(self, name: str) -> str:
        """Return the log's path."""
        return str(self._placements.log(name))


class BentoCommands:
    """How a release is served from the store of Bentos."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self._home, self._environment = home, dict(environment)
        self._looked: set[Path] = set()  # Bentos whose packages were compared: one warning each

    def command(self, record: ReleaseRecord, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return command and environment of a replica. Raises ReleaseNotFound."""
        path = bentos.verify(self._home, record)
        differing = bentos.other_packages(path) if path not in self._looked else []
        self._looked.add(path)
        if differing:
            log.warning(
                "%s is served by packages that it was not locked with: %s. Run `make setup` at its commit.",
                record.bento.tag,
                "; ".join(differing),
            )
        environment = {**self._environment, **bentos.serve_environment(self._home, record)}
        return bentos.serve_command(record.bento.tag, port), environment


def _replicas(programs: Collection[str]) -> Iterator[str]:
    """The programs that are replicas: `<model>.<release>.<index>`; envoy and agent have no dots."""
    return (name for name in programs if name.count(".") >= 2)


def _instance(info: Mapping[str, object]) -> Instance:
    """Supervisord's word → what a keeper says: EXITED and BACKOFF come back by themselves."""
    state = str(info["statename"])
    said = f"{state} {info['spawnerr']}"
    return Instance(int(str(info["pid"])), state in ALIVE, state in ("STOPPED", "FATAL"), said)
