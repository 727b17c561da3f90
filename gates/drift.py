"""Has the candidate's data moved away from what it was trained on?

The holdout beside train, column by column, with the label and the model's predictions: Evidently's distance,
by a method that the column's type decides, and a limit that is the tighter the more the model leans on the
column.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from tidegate import frames, gating, scored, scoring
from tidegate.adapters.evidently import METHODS, Kind, distances
from tidegate.core import gate, importance
from tidegate.core.exhibits import Chart, Series, Table
from tidegate.core.verdict import Finding
from tidegate.errors import NoData

Limit = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
PREDICTIONS = "predictions"
Predict = importance.Predict


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column's kind and the largest distance it may have; `time` is HH:MM, compared in minutes."""

    kind: Literal["number", "category", "time"]
    limit: Limit


class DriftSettings(gating.Settings, frozen=True):
    """The `drift` section.

    `rows` are sampled of each split by `seed`; fewer than `min_rows`, or than `min_values` of a column that
    are not null, decide nothing. `weight` is how much a column's importance tightens its limit, from 0 (not)
    to 1. `predictions` is the limit of the model's own answers, in standard deviations of those to train.
    """

    rows: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]
    min_rows: Count
    min_values: Count
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)]
    columns: Mapping[str, Column]
    label: str | None
    predictions: Limit | None
    ignore: tuple[str, ...] = ()  # columns that need no limit; any other must have one


@dataclass(frozen=True)
class Row:
    """One thing that is compared: its share of the model's importance (None: no feature), its two limits."""

    name: str
    share: float | None
    kind: Kind
    declared: float
    limit: float


def wanted(settings: DriftSettings, names: list[str], shares: Mapping[str, float]) -> list[Row]:
    """Return what is to be compared: columns by importance, then the label.

    A feature whose importance is not known has the limit NaN, which nothing keeps.
    """
    order = [*(name for name in shares if name != settings.label), *settings.columns]
    found = []
    for name in dict.fromkeys(name for name in order if name in settings.columns and name in names):
        spec = settings.columns[name]
        kind: Kind = "category" if spec.kind == "category" else "number"
        share = None if name == settings.label else shares.get(name, math.nan)
        limit = importance.limit(spec.limit, share or 0.0, len(shares), settings.weight)
        found.append(Row(name, share, kind, spec.limit, limit))
    return found


def sample(frame: Any, settings: DriftSettings) -> Any:
    """Return a seeded sample of a data frame, all of it when it is small."""
    return frame.sample(min(settings.rows, len(frame)), random_state=settings.seed)


def comparable(frame: Any, settings: DriftSettings) -> Any:
    """Return a data frame whose times are minutes. Raises NoData for a value that is no time."""
    result = frame.copy()
    for name, spec in settings.columns.items():
        if spec.kind == "time" and name in result:
            parts = result[name].astype("str").str.extract(r"^(\d\d):(\d\d)$").astype("float64")
            result[name] = parts[0] * 60 + parts[1]
            if (result[name].isna() & frame[name].notna()).any():
                raise NoData(f"column `{name}` holds values that are no time", "Look at the data gate.")
    return result


def answers(predict: Predict, reference: Any, current: Any) -> tuple[list[Finding], Mapping[str, Any] | None]:
    """Return the model's answers to both, unless they can't be compared, and the findings that say so.

    They must be numbers, and not one for every row.
    """
    import numpy as np

    try:
        known = {split: predict(frame) for split, frame in (("train", reference), ("holdout", current))}
    except Exception as problem:  # the model's own code: what it raises is as various as it is
        text = f"the model can't be scored on these rows: {type(problem).__name__}: {problem}"
        return [gate.error(PREDICTIONS, text)], None
    found = []
    for split, values in known.items():
        numbers = np.asarray(values, dtype=np.float64)
        wrong = int((~np.isfinite(numbers)).sum())
        found.append(gate.none_of(f"{split}: {PREDICTIONS} that are no number", wrong, len(numbers), "rows"))
        found.append(gate.at_least(f"{split}: different {PREDICTIONS}", len(np.unique(numbers)), 2))
    return found, None if any(one.verdict.holds_back for one in found) else known


def judge(
    reference: Any,
    current: Any,
    settings: DriftSettings,
    shares: Mapping[str, float],
    predict: Predict | None,
) -> tuple[list[Finding], list[Row], dict[str, float]]:
    """Compare two data frames: findings, what was compared, and each one's distance.

    `predict` gives the model's answers, `shares` each raw column's part of its importance.
    """
    names = [name for name in current if name not in settings.ignore]
    findings = [gate.expected("columns with a limit", names, list(settings.columns), "columns")]
    rows = wanted(settings, names, shares)
    old, new = comparable(reference, settings), comparable(current, settings)
    findings += labelled(settings, rows)
    if predict is None or settings.predictions is None:
        findings.append(gate.not_applicable(PREDICTIONS, "`drift.predictions` is null in params.yaml"))
    else:
        said, known = answers(predict, reference, current)
        findings += said
        if known is not None:
            old[PREDICTIONS], new[PREDICTIONS] = known["train"], known["holdout"]
            rows.append(Row(PREDICTIONS, None, "number", settings.predictions, settings.predictions))
    found = distances(new, old, {row.name: row.kind for row in rows})
    for row in rows:
        values = min(int(frame[row.name].notna().sum()) for frame in (old, new))
        enough = gate.enough(f"{row.name}: values", values, settings.min_values)
        findings += gate.hold_back(enough, [gate.at_most(row.name, found[row.name], row.limit)])[1:]
    return findings, rows, found


def labelled(settings: DriftSettings, rows: list[Row]) -> list[Finding]:
    """Return why the label is not among what is compared, where it is not."""
    if not settings.label:
        return [gate.not_applicable("label", "`drift.label` is null in params.yaml")]
    if settings.label not in {row.name for row in rows}:
        return [gate.error("label", f"the label `{settings.label}` is not among what was compared")]
    return []


def shown(rows: list[Row], found: Mapping[str, float]) -> tuple[Table, Chart]:
    """Return the table and the chart of drift by importance."""
    used = {row.name: found[row.name] / row.limit if row.limit else math.nan for row in rows}
    columns = ("column", "importance", "distance", "limit", "declared limit", "distance / limit", "method")
    cells = tuple(
        (row.name, row.share, found[row.name], row.limit, row.declared, used[row.name], METHODS[row.kind])
        for row in rows
    )
    bars = Series("distance / limit", tuple(used), tuple(used.values()))
    title = "Drift, the most important column first"
    return Table("Drift by importance", columns, cells), Chart(title, "bar", (bars,), "", "distance / limit")


def look(subject: gating.Subject[DriftSettings]) -> gating.Looked:
    """Compare the holdout with the train split."""
    settings = subject.settings
    splits = {split: frames.read(subject.data(split)) for split in ("train", "holdout")}
    reference, current = (sample(frame, settings) for frame in splits.values())
    taken = {
        "train": [len(reference), len(splits["train"])],
        "holdout": [len(current), len(splits["holdout"])],
    }
    smaller = gate.enough("rows sampled", min(len(reference), len(current)), settings.min_rows)
    if smaller.verdict.holds_back:
        return gating.Looked([smaller], {"rows": taken, "seed": settings.seed})
    shares = scored.evaluated(subject).shares
    predict = None
    if settings.predictions is not None:
        predict = scoring.scorer(subject.root, subject.package, subject.built("model"))
    findings, rows, found = judge(reference, current, settings, shares, predict)
    table, chart = shown(rows, found)
    measurements = {
        "rows": taken,
        "seed": settings.seed,
        "methods": {row.name: METHODS[row.kind] for row in rows},
        "distances": found,
    }
    return gating.Looked([smaller, *findings], measurements, (), [chart], [table])


GATE = gating.Gate(
    "drift",
    DriftSettings,
    look,
    needs="files",
    inputs="The train and holdout splits, the model, and importance.json of build/<model>/.",
    fix="Find out what moved; train on newer data, or raise that column's limit by a reviewed commit.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
