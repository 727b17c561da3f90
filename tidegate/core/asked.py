"""What somebody asks of a plane's agent about one model, and what is known when it is answered."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidegate.core.state import ModelState, Note, Seen, Want

Answer = tuple[ModelState, str, tuple[Note, ...]]


@dataclass(frozen=True)
class Room:
    """How much a plane keeps up of one model beside what Git asks for: releases, and their bytes together."""

    releases: int = 2
    memory: float = 4e9


@dataclass(frozen=True)
class Ask:
    """Who asks it of which environment, when and why; `want` is what Git says, `seen` what the plane shows.

    `release` is named where a verb is about one.
    """

    environment: str
    by: str
    reason: str
    now: float
    want: Want
    release: str = ""
    seen: Seen = field(default_factory=Seen)
    room: Room = field(default_factory=Room)
    model: str = "MODEL"  # as it is called in what is said
