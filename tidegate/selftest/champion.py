"""What the rooms of `quality` and `slices` share: fewer rows, and a champion that the candidate is beside.

The champion is the release that is packaged in the real checkout, fetched from its registry. The candidate is
a little off it: its files differ by a blank line, and its predictions by a noise that makes none of the two
better. Predictions are moved in a space without ends: log odds, log probabilities of classes, or a number's
distance from the mean in standard deviations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidegate.core import scores
from tidegate.core.release import RegistryRef
from tidegate.files import digest_folder
from tidegate.selftest.room import Room

MOST = 14_000  # rows of the holdout; of more, one of several is kept, in their order
NOISE = 0.05  # in the space in which predictions are moved
PREDICTIONS = "build/{model}/predictions.parquet"
Floats = NDArray[np.float64]
Change = Callable[[Floats, np.random.Generator], Floats]


def path(room: Room) -> str:
    """Return the name of the room's predictions."""
    return PREDICTIONS.format(model=room.model)


def thinned(room: Room) -> int:
    """Return of how many rows one is kept."""
    import pyarrow.parquet as pq

    real = room.source / "data" / room.model / "holdout.parquet"
    return math.ceil(int(pq.read_metadata(real).num_rows) / MOST) if not room.declared.group else 1


def wider(room: Room) -> float:
    """Return how much wider margins must be for as much to be told of the rows that are kept."""
    every = thinned(room)
    return 2 * math.sqrt(every) if every > 1 else 1.0


def challenge(room: Room) -> None:
    """Make the packaged release production's, and the room's files another candidate's."""
    room.in_production(room.original)
    with (room.edit(f"build/{room.model}/model") / "examples.json").open("a") as examples:
        examples.write("\n")
    _evaluate(room)
    for name in ("holdout", path(room)):
        room.write(name, room.frame(name).iloc[:: thinned(room)])
    move(room, lambda found, random: found + random.normal(scale=NOISE, size=found.shape))


def _evaluate(room: Room) -> None:
    """Let importance.json, which evaluation writes with the predictions, be of the model that is here."""
    path = room.edit(f"build/{room.model}/importance.json")
    known = json.loads(path.read_text())
    digest = digest_folder(room.root / "build" / room.model / "model")
    path.write_text(json.dumps(known | {"artifact": digest}))


def stale(room: Room) -> None:
    """Change the model once its predictions are made."""
    with (room.edit(f"build/{room.model}/model") / "examples.json").open("a") as examples:
        examples.write("\n")


def values(room: Room) -> Floats:
    """Return the candidate's predictions, one column each: [n, K]."""
    found: Floats = room.frame(path(room))[list(room.declared.columns)].to_numpy(dtype=np.float64)
    return found


def predict(room: Room, found: Any) -> None:
    """Replace the candidate's predictions, [n, K] or one number for all."""
    frame = room.frame(path(room))
    wide = np.broadcast_to(np.asarray(found, dtype=np.float64), (len(frame), len(room.declared.columns)))
    room.write(path(room), frame.assign(**dict(zip(room.declared.columns, wide.T, strict=True))))


def moved(room: Room, before: Floats, change: Change) -> Floats:
    """Return predictions [n, K] changed where they have no ends; see the module."""
    random = np.random.default_rng(1)
    if room.declared.task != "classification":
        middle, spread = before.mean(), before.std() or 1.0
        return np.asarray(middle + spread * change((before - middle) / spread, random))
    small = np.clip(before, 1e-9, 1 - 1e-9)
    if not room.declared.classes:
        return np.asarray(1 / (1 + np.exp(-change(np.log(small) - np.log1p(-small), random))))
    logs = change(np.log(small), random)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def move(room: Room, change: Change, where: Any = None) -> None:
    """Change the candidate's predictions by `change(found, random)`, in the rows that `where` marks."""
    before = values(room)
    after = moved(room, before, change)
    predict(room, after if where is None else np.where(np.asarray(where)[:, None], after, before))


def sample(room: Room, found: Floats | None = None) -> scores.Sample:
    """Return the room's rows as metrics take them, with the candidate's predictions or with others."""
    declared, frame = room.declared, room.frame(path(room))
    numbers = values(room) if found is None else found
    groups = room.frame("holdout")[declared.group].to_numpy() if declared.group else None
    shaped = numbers if declared.classes else numbers[:, 0]
    return scores.sample(declared, frame[declared.label].to_numpy(), shaped, groups=groups)


def own_champion(room: Room) -> None:
    """Give the candidate the champion's own predictions: their files differ, the answers do not."""
    import pandas as pd

    room.edit(path(room)).unlink()
    real = room.source / "build" / room.model / "predictions.parquet"
    names = [room.declared.label, *room.declared.columns]
    pd.read_parquet(real)[names].iloc[:: thinned(room)].to_parquet(room.root / path(room), index=False)


def lost_version(room: Room) -> None:
    """Let production's release name a version that the registry does not have."""
    missing = RegistryRef(room.original.registry.name, 99_999)
    room.in_production(msgspec.structs.replace(room.original, registry=missing))


def other_files(room: Room) -> None:
    """Let production's release name other files than the registry holds under its version."""
    room.in_production(msgspec.structs.replace(room.original, artifact="sha256:" + "1" * 64))


def other_rows(room: Room) -> None:
    """Put the holdout's rows in another order than the predictions'."""
    room.write("holdout", room.frame("holdout").iloc[::-1])


def first(rows: int) -> Any:
    """Return a fault that keeps only so many rows, of holdout and predictions."""

    def make(room: Room) -> None:
        for name in ("holdout", path(room)):
            room.write(name, room.frame(name).iloc[:rows])

    return make
