"""What the load gate must not let through: a service that is slow, failing, silent, or that nobody asked."""

from __future__ import annotations

from pathlib import Path

from tidegate.selftest.room import Fault, Room

QUICK = {
    "warmup": 0.1,
    "duration": 1,
    "looks": 2,
    "min_requests": 30,
    "climb": {"step": 0.2, "top": 120},
    "turns": {"duration": 1, "warmup": 0.1, "min_answers": 100},
}
SERVICE = Path("src/services")


def prepare(room: Room) -> None:
    """Serve the packaged release as in staging, and have another build of the same in production."""
    room.in_production(room.bento("champion"))
    candidate = room.bento("candidate")
    room.candidate(candidate)
    room.staged(candidate)


FAULTS: tuple[Fault, ...] = ()
