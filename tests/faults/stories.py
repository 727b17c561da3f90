"""What goes on while a fault happens: a promotion to production, or a dead candidate in canary."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from tests.faults.ledger import Watch
from tests.faults.plane import FaultPlane
from tidegate import wiring
from tidegate.adapters.git import GitRepository
from tidegate.adapters.system import SystemClock
from tidegate.agent.loop import Agent

Properties = list[tuple[str, object]]
NAMES = ("promotion", "rollback")


class Story:
    """How it begins, and how it has to end whatever happens."""

    def __init__(self, plane: FaultPlane, name: str, fault: str) -> None:
        self.plane, self.name = plane, name
        bad = name == "rollback"
        self.new = plane.made.fresh("dead" if bad else "")
        self.watch: Watch = plane.watch(f"{fault}, {name}", self.new, blamed=bad)
        self.watch.planned = {0, 40} if bad else {0, 40, 100}
        self.done = plane.left(self.new) if bad else plane.promoted(self.new)

    def begin(self) -> None:
        """Merge what asks for it."""
        (self.plane.canary if self.name == "rollback" else self.plane.both)(self.new)

    def end(self) -> None:
        """Wait until what runs is what Git says."""
        self.watch.converge(self.done, "what runs is what Git says")
        if self.name == "promotion":
            self.plane.settled(self.new)
        else:
            assert len(self.plane.commits(f"from {self.new.id} to")) == 1, "written to Git once"

    def outcome(self, properties: Properties, *, failed: int = 0, within: float = 0.0) -> None:
        """Wait for the end and hold the promises."""
        self.end()
        self.watch.outcome(properties, failed=failed, within=within)


class MovedClock(SystemClock):
    """This machine's clock, moved by `by` seconds."""

    by = 0.0

    def now(self) -> float:
        """Seconds since the epoch, as somebody set them."""
        return super().now() + self.by


class Local:
    """An agent of the plane in this process."""

    def __init__(self, plane: FaultPlane, clock: SystemClock, holder: str = "") -> None:
        spec = wiring.platform(plane.clone, "production")
        repository = GitRepository(str(plane.origin), "main", plane.origin.with_name(f"mirror-{id(self)}"))
        ports = wiring.agent_ports(spec, plane.home, plane.clone)
        ports = dataclasses.replace(ports, clock=clock, repository=repository)
        holder = holder or plane.name
        self.agent = Agent(plane.layout.plane, ports, holder=holder, spec=spec.agent, url=plane.url)
        self.error: Exception | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.agent.run(self._over.is_set)
        except Exception as error:  # the test wants to see it
            self.error = error

    def alive(self) -> bool:
        """Tell whether it goes on."""
        return self._thread.is_alive()

    @contextlib.contextmanager
    def running(self) -> Iterator[Local]:
        """Run it for a while."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(30)
