"""What the faults of gates that read data frames share: their settings, small splits, common damage.

Columns are picked by what params.yaml says of them, labels are spoilt by the model's declared task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import yaml

from tidegate import gating, params
from tidegate.core.task import Declaration
from tidegate.selftest.room import NotApplicable, Room

Change = Callable[[Any], Any]


def settings(room: Room, gate: str) -> Any:
    """Return a gate's settings as they count in the room."""
    return params.load(room.root).settings(gate, room.model, gating.load(room.source, gate).settings)


def shares(room: Room) -> dict[str, float]:
    """Return the model's raw columns, with how much it leans on each."""
    content = msgspec.json.decode((room.root / "build" / room.model / "importance.json").read_bytes())
    return dict(content["shares"])


def raw_column(room: Room) -> str:
    """Return the raw column that the model leans on most."""
    known = shares(room)
    if not known:
        raise NotApplicable("the model leans on no column")
    return max(known, key=known.__getitem__)


# ---------------------------------------------------------------- labels
def label(room: Room) -> str:
    """Return the label's column."""
    return room.declared.label


def wrong(labels: Any, declared: Declaration) -> Any:
    """Return labels as a mixed-up source has them.

    Flipped; the rarest class called as the commonest; a number in a thousandth of its unit; all grades 0.
    """
    if declared.classes:
        ranks = labels.value_counts().index
        return labels.replace({ranks[-1]: ranks[0]})
    if declared.task == "classification":
        return 1 - labels
    return labels * 1000 if declared.task == "regression" else labels * 0


def wrongly(split: str) -> Callable[[Room], None]:
    """Return a fault that gives a split's rows such labels."""
    return lambda room: put(split, label, lambda values: wrong(values, room.declared))(room)


def constant(split: str) -> Callable[[Room], None]:
    """Return a fault that gives a split's rows one label: 0, or the commonest."""

    def how(labels: Any) -> Any:
        flag = set(labels.dropna().unique()) <= {0, 1}
        return labels * 0 if flag else labels.mode()[0]

    return put(split, label, how)


def told(labels: Any, declared: Declaration) -> Any:
    """Return labels as numbers from 0 to 1, evenly spread: what a column says that is made of the label."""
    ranks = labels.rank(method="average").to_numpy() if not declared.classes else None
    if ranks is None:
        ranks = labels.map({name: place for place, name in enumerate(declared.classes)}).to_numpy()
    low, high = np.nanmin(ranks), np.nanmax(ranks)
    return (ranks - low) / (high - low)


# ---------------------------------------------------------------- rows
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
