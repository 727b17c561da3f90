"""Is the data what the model was made for?

Schema and types, ranges, nulls, duplicates, volume (its own, and beside the rows that production's release
was made of), the label (shares of classes, a number's mean and range, what there is to rank in a group),
columns that tell the label alone, and overlap between train and holdout, in time and by row.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from tidegate import frames, gating
from tidegate.core import columns as content
from tidegate.core import gate, labels, leakage
from tidegate.core.exhibits import Chart, Series, Table
from tidegate.core.task import Declaration
from tidegate.core.verdict import Finding
from tidegate.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=1)]
SPLITS = ("train", "holdout")
# What a column's leakage is called, by task: all go from 0.5 to 1; see core.leakage.
MEASURED = {"classification": "AUC", "regression": "concordance", "ranking": "concordance"}


class Leakage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`limit`: how well one column may rank the label alone (core.leakage), on `rows` of train by `seed`."""

    limit: Annotated[float, msgspec.Meta(ge=0.5, le=1)]
    rows: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]


class MinRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fewest rows of each split."""

    train: Count
    holdout: Count


class DataSettings(gating.Settings, labels.Expected, frozen=True, kw_only=True):
    """The `data` section; what labels are held to is in `labels.Expected`.

    `ordered_by` names a column in which train must end before holdout begins (null: rows have no order);
    `key` the columns that make a row what it is (all, when there are none); `duplicates` and `overlap` the
    largest shares of rows that are there twice, in a split or in both; `volume` the least and most rows of a
    split beside those that production's release was made of, as ratios.
    """

    min_rows: MinRows
    ordered_by: str | None
    columns: Mapping[str, content.Column]
    duplicates: content.Share
    overlap: content.Share
    volume: content.Range
    leakage: Leakage
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse ranges that hold nothing."""
        labels.Expected.__post_init__(self)
        content.check_range("volume", self.volume)


def look_at(split: str, frame: Any, settings: DataSettings, declared: Declaration) -> list[Finding]:
    """Return the findings of one split."""
    known = {name: spec for name, spec in settings.columns.items() if name in frame}
    volume = gate.at_least(f"{split}: rows", len(frame), getattr(settings.min_rows, split))
    findings = [volume, gate.expected(f"{split}: columns", list(frame), list(settings.columns), "columns")]
    if frame.empty:
        return [gate.enough(f"{split}: rows", 0, getattr(settings.min_rows, split))]
    broken = content.broken_rows(frame[list(known)], known)
    for name, spec in known.items():
        findings.append(gate.none_of(f"{split}: {name} values", broken.get(name, 0), len(frame), "rows"))
        nulls = float(frame[name].isna().mean())
        findings.append(gate.at_most(f"{split}: {name} nulls", nulls, spec.nulls))
        if spec.mean:
            findings.append(gate.within(f"{split}: {name} mean", mean(frame, name), *spec.mean))
    return [*findings, _duplicates(split, frame, settings), *labelled(split, frame, settings, declared)]


def labelled(split: str, frame: Any, settings: DataSettings, declared: Declaration) -> list[Finding]:
    """Return the findings on a split's labels."""
    if declared.label not in frame:
        return [gate.error(f"{split}: label", f"{split}: there is no label `{declared.label}` to look at")]
    groups = frame[declared.group].to_numpy() if declared.group in frame else None
    return labels.findings(split, frame[declared.label].to_numpy(), groups, declared, settings)


def mean(frame: Any, name: str) -> float | None:
    """Return a column's mean, or None where there is no such column of numbers."""
    if name not in frame or not content.is_numeric(frame[name]):
        return None
    return float(frame[name].mean())


def _duplicates(split: str, frame: Any, settings: DataSettings) -> Finding:
    name = f"{split}: rows there twice"
    if not set(settings.key) <= set(frame):
        return gate.error(name, f"{name}: a column of `key` is missing: {_missing(frame, settings.key)}")
    return gate.at_most(name, content.repeated(frame, settings.key) / len(frame), settings.duplicates)


def _missing(frame: Any, names: tuple[str, ...]) -> str:
    return ", ".join(sorted(set(names) - set(frame)))


def overlap(train: Any, holdout: Any, settings: DataSettings) -> list[Finding]:
    """Return the findings on what the two splits share: days, and rows.

    A row is looked for by `key`, and once more by all that it holds but `ordered_by`: a row that was dated
    anew is still the same row.
    """
    ordered, both = settings.ordered_by, set(train) & set(holdout)
    found = []
    if ordered:
        ends = (_end(train, ordered, "max"), _end(holdout, ordered, "min"))
        found.append(gate.precedes(f"order by {ordered}", *ends))
    else:
        found.append(gate.not_applicable("order", "params.yaml says that rows have no order (`ordered_by`)"))
    keys = {"by key" if settings.key else "": settings.key or tuple(train)}
    if ordered:
        keys[f"but for {ordered}"] = tuple(name for name in train if name != ordered)
    for how, key in keys.items():
        name = f"holdout: rows that are in train {how}".strip()
        if not key or not set(key) <= both:
            found.append(
                gate.error(
                    name,
                    f"{name}: the splits do not both have {', '.join(sorted(set(key) - both)) or 'a column'}",
                )
            )
        else:
            found.append(
                gate.at_most(name, content.shared(train, holdout, key) / len(holdout), settings.overlap)
            )
    return found


def _end(frame: Any, name: str, which: str) -> str | None:
    """Return the first or last value of a column, as text; None where there is none."""
    values = frame[name].dropna().astype(str) if name in frame else ()
    return str(getattr(values, which)()) if len(values) else None


def telling(train: Any, settings: DataSettings, declared: Declaration) -> dict[str, float]:
    """Return column → how well it ranks the label alone, on a seeded sample of train.

    A ranking's sample is one of whole groups: within those its rows are compared.
    """
    limits, label, group = settings.leakage, declared.label, declared.group
    if group:
        names = train[group].drop_duplicates().sample(frac=1, random_state=limits.seed)
        sizes = train[group].value_counts()[names].cumsum().to_numpy()
        taken = train[train[group].isin(names[sizes <= max(limits.rows, sizes[0])])]
    else:
        taken = train.sample(min(limits.rows, len(train)), random_state=limits.seed)
    return leakage.each_alone(
        taken[label].to_numpy(),
        {name: taken[name].to_numpy() for name in taken if name not in (label, group)},
        limits.seed,
        classes=declared.classes,
        groups=taken[group].to_numpy() if group else None,
    )


def leaks(
    train: Any, settings: DataSettings, declared: Declaration
) -> tuple[list[Finding], list[Table], list[Chart]]:
    """Return the findings on columns that tell the label alone, with their table and chart."""
    limit, label = settings.leakage.limit, declared.label
    for name in filter(None, (label, declared.group)):
        if name not in train or not len(train[name].dropna()):
            return [gate.error("leakage", f"leakage: train has no `{name}` to look at")], [], []
    if not declared.classes and not content.is_numeric(train[label]):
        return [gate.error("leakage", f"leakage: the label `{label}` is no number in train")], [], []
    found = telling(train, settings, declared)
    word = MEASURED[declared.task]
    findings = [
        gate.at_most(f"leakage: {word} of {name} alone", value, limit) for name, value in found.items()
    ]
    if not found:
        findings.append(gate.error("leakage", "leakage: train has no column beside the label"))
    title = f"What each column alone tells of {label}"
    rows = tuple((name, value, limit) for name, value in found.items())
    table = Table(title, ("column", word, "limit"), rows)
    bars = Series(word, tuple(found), tuple(found.values()))
    return findings, [table], [Chart(title, "bar", (bars,), "column", f"{word} (0.5: nothing)")]


def volume(subject: gating.Subject[DataSettings], rows: Mapping[str, int]) -> list[Finding]:
    """Return the findings on each split's rows beside those that production's release was made of."""
    record = subject.production()
    findings = []
    for split, count in rows.items():
        name = f"{split}: rows beside production's"
        before = (record.rows or {}).get(split) if record else None
        if record is None:
            findings.append(
                gate.not_applicable(name, f"{name}: no release of {subject.model} is in production")
            )
        elif before is None:
            text = f"{name}: the record of release {record.id} does not say how many rows it was made of"
            findings.append(gate.not_applicable(name, text))
        else:
            findings.append(gate.ratio(name, count, before, *subject.settings.volume))
    return findings


def look(subject: gating.Subject[DataSettings]) -> gating.Looked:
    """Look at the train and holdout splits. Raises ConfigError for limits of another task's labels."""
    settings, declared = subject.settings, subject.declared
    if wrong := labels.misfit(settings, declared):
        raise ConfigError(wrong, f"Correct `gates.data` of {subject.model}.", where="params.yaml")
    splits = {split: frames.read(subject.data(split)) for split in SPLITS}
    rows = {split: len(frame) for split, frame in splits.items()}
    findings = [
        found for split, frame in splits.items() for found in look_at(split, frame, settings, declared)
    ]
    if not all(rows.values()):
        return gating.Looked(findings, {"rows": rows})
    findings += volume(subject, rows) + overlap(splits["train"], splits["holdout"], settings)
    found, tables, charts = leaks(splits["train"], settings, declared)
    measurements = {"rows": rows, "sampled for leakage": min(settings.leakage.rows, rows["train"])}
    return gating.Looked([*findings, *found], measurements, (), charts, tables)


GATE = gating.Gate(
    "data",
    DataSettings,
    look,
    needs="files",
    inputs="The train and holdout splits in data/<model>/, and the record of production's release.",
    fix="Correct the source or prepare.py; change a limit only by a reviewed commit that says why.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
