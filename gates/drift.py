"""Has the candidate's data moved away from what it was trained on? Evidently, one limit a column."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tidegate import gating
from tidegate.adapters.evidently import METHODS, Kind, distances
from tidegate.core import gate


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column's kind and the largest distance it may have; `time` is HH:MM, compared in minutes."""

    kind: Literal["number", "category", "time"]
    limit: float


class DriftSettings(gating.Settings, frozen=True):
    """The `drift` section: `rows` sampled of each split by `seed`, at least `min_rows` to decide on."""

    rows: int = 5000
    seed: int = 1
    min_rows: int = 1000
    columns: Mapping[str, Column] = {}
    ignore: tuple[str, ...] = ()  # columns that need no limit; any other must have one


def sample(path: Any, settings: DriftSettings) -> tuple[Any, int]:
    """Return a seeded sample of a split (all of it when it is small) and how many rows the split has."""
    import pandas as pd

    frame = pd.read_parquet(path)
    taken = frame.sample(min(settings.rows, len(frame)), random_state=settings.seed)
    for name, spec in settings.columns.items():
        if spec.kind == "time" and name in taken:
            parts = taken[name].str.split(":", expand=True).astype("float64")
            taken[name] = parts[0] * 60 + parts[1] if len(taken) else parts
    return taken, len(frame)


def look(subject: gating.Subject[DriftSettings]) -> gating.Looked:
    """Compare the holdout with the train split, column by column."""
    settings = subject.settings
    reference, of_train = sample(subject.data("train"), settings)
    current, of_holdout = sample(subject.data("holdout"), settings)
    smaller = gate.enough("rows sampled", min(len(reference), len(current)), settings.min_rows)
    sampled = {"train": [len(reference), of_train], "holdout": [len(current), of_holdout]}
    if reference.empty or current.empty:
        return gating.Looked([smaller], {"rows": sampled})
    names = [name for name in current if name not in settings.ignore]
    findings = [gate.expected("columns with a limit", names, list(settings.columns), "columns")]
    kinds: dict[str, tuple[Kind, float]] = {
        name: ("category" if spec.kind == "category" else "number", spec.limit)
        for name, spec in settings.columns.items()
        if name in names
    }
    found = distances(current, reference, kinds)
    findings += [gate.at_most(name, found[name], kinds[name][1]) for name in kinds]
    methods = {name: METHODS[kind] for name, (kind, _) in kinds.items()}
    measurements = {"rows": sampled, "seed": settings.seed, "methods": methods, "distances": found}
    return gating.Looked(gate.hold_back(smaller, findings), measurements)


GATE = gating.Gate(
    "drift",
    DriftSettings,
    look,
    needs="files",
    inputs="The train and holdout splits in data/<model>/.",
    fix="Find out what moved; train on newer data, or raise that column's limit by a reviewed commit.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
