"""What the faults of gates that read data frames share: their settings, small splits, common damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from tidegate import gating, params
from tidegate.selftest.room import Room

Change = Callable[[Any], Any]


def settings(room: Room, gate: str) -> Any:
    """Return a gate's settings as they count in the room."""
    return params.load(room.root).settings(gate, room.model, gating.load(room.source, gate).settings)


def shrink(room: Room, rows: int, seed: int = 1) -> None:
    """Keep a seeded sample of both splits, in their order: real rows, and a gate that takes no second."""
    for split in ("train", "holdout"):
        kept = f"{split} of {rows}"
        if kept not in room.shared:
            frame = room.frame(split)
            room.shared[kept] = frame.sample(min(rows, len(frame)), random_state=seed).sort_index()
        room.edit(f"data/{room.model}")
        path = room.root / "data" / room.model / f"{split}.parquet"
        path.unlink()
        room.shared[kept].to_parquet(path, index=False)


def change(split: str, how: Change) -> Callable[[Room], None]:
    """Return a fault that replaces a split by what `how` makes of it."""
    return lambda room: room.write(split, how(room.frame(split)))


def put(split: str, name: Callable[[Room], str], how: Change) -> Callable[[Room], None]:
    """Return a fault that replaces one column; `name` picks it, `how` gets its values."""

    def make(room: Room) -> None:
        frame, column = room.frame(split), name(room)
        room.write(split, frame.assign(**{column: how(frame[column])}))

    return make


def missing(name: str) -> Callable[[Room], None]:
    """Return a fault that takes a file or folder away; `{model}` in its name is the model's."""

    def make(room: Room) -> None:
        path = room.edit(name.format(model=room.model))
        path.unlink()

    return make


def cut(name: str) -> Callable[[Room], None]:
    """Return a fault that keeps the first half of a file's bytes."""

    def make(room: Room) -> None:
        path = room.edit(name.format(model=room.model))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    return make


def without(gate: str, key: str) -> Callable[[Room], None]:
    """Return a fault that empties a mapping of a gate's section, for all models and for this one."""

    def make(room: Room) -> None:
        path = room.root / params.FILE
        value = yaml.safe_load(path.read_text())
        for gates in (value["gates"], value["models"][room.model]["gates"]):
            if key in (gates.get(gate) or {}):
                gates[gate][key] = {}
        path.write_text(yaml.safe_dump(value))

    return make
