"""What the rooms of `quality` and `slices` share: fewer rows, and a champion that the candidate is beside.

The champion is the release that is packaged in the real checkout, fetched from its registry. The candidate is
a little off it: its files differ by a blank line, and its predictions by a noise that makes none of the two
better.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

from tidegate.core.release import RegistryRef
from tidegate.files import digest_folder
from tidegate.selftest.room import Room

EVERY = 4  # of the holdout's rows one is kept, in their order
NOISE = 0.05  # in log odds
PREDICTIONS = "build/{model}/predictions.parquet"


def path(room: Room) -> str:
    """Return the name of the room's predictions."""
    return PREDICTIONS.format(model=room.model)


def names(room: Room) -> tuple[str, str]:
    """Return what predictions.parquet calls its label and its probability."""
    label, probability = room.frame(path(room)).columns[:2]
    return str(label), str(probability)


def challenge(room: Room) -> None:
    """Make the packaged release production's, and the room's files another candidate's."""
    room.in_production(room.original)
    with (room.edit(f"build/{room.model}/model") / "examples.json").open("a") as examples:
        examples.write("\n")
    _evaluate(room)
    room.write("holdout", room.frame("holdout").iloc[::EVERY])
    room.write(path(room), room.frame(path(room)).iloc[::EVERY])
    move(room, lambda odds, random: odds + random.normal(scale=NOISE, size=len(odds)))


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


def move(room: Room, change: Any, where: Any = None) -> None:
    """Change the candidate's log odds by `change(odds, random)`, in the rows that `where` marks."""
    _, probability = names(room)
    frame = room.frame(path(room))
    old = frame[probability].to_numpy().astype(np.float64)
    odds = np.log(old) - np.log1p(-old)
    new = 1 / (1 + np.exp(-change(odds, np.random.default_rng(1))))
    frame[probability] = new if where is None else np.where(where, new, old)
    room.write(path(room), frame)


def predict(room: Room, values: Any) -> None:
    """Replace the candidate's probabilities."""
    room.write(path(room), room.frame(path(room)).assign(**{names(room)[1]: values}))


def own_champion(room: Room) -> None:
    """Give the candidate the champion's own predictions: their files differ, the answers do not."""
    import pandas as pd

    label, probability = names(room)
    room.edit(path(room)).unlink()
    real = room.source / "build" / room.model / "predictions.parquet"
    pd.read_parquet(real)[[label, probability]].iloc[::EVERY].to_parquet(room.root / path(room), index=False)


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
