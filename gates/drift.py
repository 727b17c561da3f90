"""Has the candidate's data moved away from what it was trained on?

The holdout beside train, column by column, with the label and the model's predictions: Evidently's distance,
by a method that the column's type decides, and a limit that is the tighter the more the model leans on the
column. Free text is compared by what tells the two samples apart, and by its length; of several classes, each
one's probability is compared.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from tidegate import frames, gating, scored, scoring
from tidegate.adapters.evidently import METHODS, Kind, distances
from tidegate.core import gate, importance
from tidegate.core.exhibits import Chart, Series, Table
from tidegate.core.task import Declaration
from tidegate.core.verdict import Finding
from tidegate.errors import NoData

Limit = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
PREDICTIONS = "predictions"
Predict = importance.Predict


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column's kind and the largest distance it may have; `time` is HH:MM, compared in minutes.

    A `text` is free text, of which `length` limits how far its number of characters may move, too.
    """

    kind: Literal["number", "category", "time", "text"]
    limit: Limit
    length: Limit | None = None

    def __post_init__(self) -> None:
        """Refuse a length of what has none."""
        if self.length is not None and self.kind != "text":
            raise ValueError(f"`length` is a limit of text, and the column's kind is {self.kind}")


class DriftSettings(gating.Settings, frozen=True):
    """The `drift` section.

    `rows` are sampled of each split by `seed`; fewer than `min_rows`, or than `min_values` of a column that
    are not null, decide nothing. `weight` is how much a column's importance tightens its limit, from 0 (not)
    to 1. `predictions` is the limit of the model's own answers, in standard deviations of those to train. A
    label among `ignore` is not compared.
    """

    rows: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]
    min_rows: Count
    min_values: Count
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)]
    columns: Mapping[str, Column]
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


def wanted(settings: DriftSettings, names: list[str], shares: Mapping[str, float], label: str) -> list[Row]:
    """Return what is to be compared: columns by importance, then the label.

    A feature whose importance is not known has the limit NaN, which nothing keeps.
    """
    order = [*(name for name in shares if name != label), *settings.columns]
    found = []
    for name in dict.fromkeys(name for name in order if name in settings.columns and name in names):
        spec = settings.columns[name]
        kind: Kind = "number" if spec.kind == "time" else spec.kind
        share = None if name == label else shares.get(name, math.nan)
        tight = functools.partial(
            importance.limit, share=share or 0.0, columns=len(shares), weight=settings.weight
        )
        found.append(Row(name, share, kind, spec.limit, tight(spec.limit)))
        if spec.length is not None:
            found.append(Row(long(name), share, "number", spec.length, tight(spec.length)))
    return found


def long(name: str) -> str:
    """Return what the number of characters of a column of texts is called."""
    return f"{name}: characters"


def sample(frame: Any, settings: DriftSettings) -> Any:
    """Return a seeded sample of a data frame, all of it when it is small."""
    return frame.sample(min(settings.rows, len(frame)), random_state=settings.seed)


def comparable(frame: Any, settings: DriftSettings) -> Any:
    """Return a data frame whose times are minutes, with the lengths of texts beside them.

    Raises NoData for a value that is no time.
    """
    result = frame.copy()
    for name, spec in settings.columns.items():
        if spec.kind == "time" and name in result:
            parts = result[name].astype("str").str.extract(r"^(\d\d):(\d\d)$").astype("float64")
            result[name] = parts[0] * 60 + parts[1]
            if (result[name].isna() & frame[name].notna()).any():
                raise NoData(f"column `{name}` holds values that are no time", "Look at the data gate.")
        if spec.length is not None and name in result:
            sizes = [len(one) if isinstance(one, str) else math.nan for one in result[name]]
            result[long(name)] = np.array(sizes, dtype=np.float64)
    return result


def answers(
    predict: Predict, reference: Any, current: Any, declared: Declaration
) -> tuple[list[Finding], dict[str, Mapping[str, Any]]]:
    """Return the model's answers to both, by what is predicted and by split, and findings on their form.

    None where they can't be compared: they must be numbers, as many as are declared, and not one for all
    rows.
    """
    found: list[Finding] = []
    known: dict[str, dict[str, Any]] = {}
    for split, frame in (("train", reference), ("holdout", current)):
        try:
            numbers = np.asarray(predict(frame), dtype=np.float64).reshape(len(frame), -1)
        except Exception as problem:  # the model's own code: what it raises is as various as it is
            text = f"the model can't be scored on these rows: {type(problem).__name__}: {problem}"
            return [gate.error(PREDICTIONS, text)], {}
        if numbers.shape[1] != len(declared.columns):
            text = (
                f"the model gives {numbers.shape[1]} numbers a row, and {len(declared.columns)} are declared"
            )
            return [gate.error(PREDICTIONS, text)], {}
        for place, column in enumerate(declared.columns):
            name = f"{PREDICTIONS} of {column}" if declared.classes else PREDICTIONS
            values = numbers[:, place]
            known.setdefault(name, {})[split] = values
            wrong = int((~np.isfinite(values)).sum())
            found.append(gate.none_of(f"{split}: {name} that are no number", wrong, len(values), "rows"))
            found.append(gate.at_least(f"{split}: different {name}", len(np.unique(values)), 2))
    return found, {} if any(one.verdict.holds_back for one in found) else dict(known)


def judge(
    reference: Any,
    current: Any,
    settings: DriftSettings,
    shares: Mapping[str, float],
    predict: Predict | None,
    declared: Declaration,
) -> tuple[list[Finding], list[Row], dict[str, float]]:
    """Compare two data frames: findings, what was compared, and each one's distance.

    `predict` gives the model's answers, `shares` each raw column's part of its importance.
    """
    names = [name for name in current if name not in settings.ignore]
    findings = [gate.expected("columns with a limit", names, list(settings.columns), "columns")]
    rows = wanted(settings, names, shares, declared.label)
    old, new = comparable(reference, settings), comparable(current, settings)
    findings += labelled(settings, rows, declared.label)
    if predict is None or settings.predictions is None:
        findings.append(gate.not_applicable(PREDICTIONS, "`drift.predictions` is null in params.yaml"))
    else:
        said, known = answers(predict, reference, current, declared)
        findings += said
        for name, values in known.items():
            old[name], new[name] = values["train"], values["holdout"]
            rows.append(Row(name, None, "number", settings.predictions, settings.predictions))
    found = distances(new, old, {row.name: row.kind for row in rows})
    for row in rows:
        least = min(int(frame[row.name].notna().sum()) for frame in (old, new))
        enough = gate.enough(f"{row.name}: values", least, settings.min_values)
        findings += gate.hold_back(enough, [gate.at_most(row.name, found[row.name], row.limit)])[1:]
    return findings, rows, found


def labelled(settings: DriftSettings, rows: list[Row], label: str) -> list[Finding]:
    """Return why the label is not among what is compared, where it is not."""
    if label in settings.ignore:
        return [gate.not_applicable("label", f"params.yaml says to ignore the label `{label}`")]
    if label not in {row.name for row in rows}:
        return [gate.error("label", f"the label `{label}` is not among what was compared")]
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
        file = scored.served(subject)
        predict = scoring.scorer(subject.root, subject.package, subject.built("model"), file)
    findings, rows, found = judge(reference, current, settings, shares, predict, subject.declared)
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
    inputs="The train and holdout splits, the file of the model that is served, and importance.json.",
    fix="Find out what moved; train on newer data, or raise that column's limit by a reviewed commit.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
