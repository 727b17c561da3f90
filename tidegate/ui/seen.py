"""What every plane of a checkout's home does now, read from what its agents stored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tidegate import planes as running
from tidegate import wiring
from tidegate.adapters.sqlite import read_events, read_planes
from tidegate.agent.locks import agent_runs
from tidegate.ports import Event


def state_path(checkout: Path) -> Path:
    """Return the file of the agents' state."""
    return wiring.state_path(wiring.platform(checkout, "production"), wiring.home(checkout))


def snapshot(checkout: Path, events: int = 8) -> dict[str, Any]:
    """Return what every plane does now, as JSON types; a plane whose agent never ran has no models."""
    where, state = wiring.home(checkout), state_path(checkout)
    stored = read_planes(state)
    planes = []
    for name in running.names(checkout):
        planes.append(
            {
                "plane": name,
                "url": "",
                "commit": "",
                "models": {},
                "problems": [],
                **stored.get(name, {}).get("status", {}),
                "agent": "running" if agent_runs(where.plane(name)) else "stopped",
                "events": [as_dict(event) for event in read_events(state, name, events)],
            }
        )
    return {"home": str(where.root), "at": time.time(), "planes": planes}


def as_dict(event: Event) -> dict[str, Any]:
    """Return an event as JSON types, without its data."""
    return {
        "at": event.at,
        "kind": event.kind,
        "model": event.model,
        "release": event.release,
        "text": event.text,
    }
