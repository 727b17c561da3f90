"""Is the candidate bad somewhere that its average hides? Worst slices, and groups to be treated alike."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from tidegate import gating, scored
from tidegate.core import fairness, gate, paired, scores, slice_search, slices
from tidegate.core.exhibits import Table
from tidegate.core.scores import Sample
from tidegate.errors import NoData


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a column is cut: by value; by `part`, [start, end] characters of it; or into `bins` quantiles.

    `of` is the holdout's column, where the slices go by another name.
    """

    of: str = ""
    part: tuple[int, int] | None = None
    bins: int = 0


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What slices are searched in: columns as declared or of the holdout; see `core.slice_search`.

    Rows with one value of `together` stay in one half: what happened to all of them at once is then no
    evidence on the other half.
    """

    depth: Annotated[int, msgspec.Meta(ge=1)]
    most: Annotated[int, msgspec.Meta(ge=1)]
    seed: Annotated[int, msgspec.Meta(ge=0)]
    columns: tuple[str, ...] = ()
    together: str = ""


class SlicesSettings(gating.Settings, frozen=True):
    """The `slices` section; `margins` are beside the other rows, `production` beside production, by metric.

    Which metrics there are, the model's declared task says; `null` takes one away that counts for the task.
    A slice of fewer than `min_rows` (of a ranking: groups), or of a classification's fewer than `min_each` of
    one label, is not judged by itself. `protected` names columns, declared or of the holdout, whose groups
    are to be treated alike; `fairness` says how unlike at most. All intervals hold at once with `confidence`;
    those of fairness do by themselves.
    """

    min_rows: int
    min_each: int
    margins: Mapping[str, float | None]
    production: Mapping[str, float | None]
    fairness: Mapping[str, float]
    confidence: float
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    search: Search
    columns: Mapping[str, Column] = {}
    protected: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for what can't be compared with."""
        scores.check(self.margins, at_least=0)
        scores.check(self.production, at_least=0)
        scores.check(self.fairness, at_least=0, known=fairness.MEASURES)
        paired.each(self.confidence, 1)
        slices.Support(self.min_rows, self.min_each)

    @property
    def support(self) -> slices.Support:
        """How much a slice needs to be judged."""
        return slices.Support(self.min_rows, self.min_each)


class Cutter:
    """The holdout's columns, as the settings cut them."""

    def __init__(self, frame: Any, settings: SlicesSettings, rows: Sample) -> None:
        self._frame, self._declared, self._rows = frame, settings.columns, rows

    def raw(self, name: str) -> Any:
        """Return a column's values. Raises NoData when the holdout has none of that name, or none at all."""
        if name not in self._frame:
            raise NoData(f"holdout.parquet has no column `{name}`", "Correct its name in params.yaml.")
        values = self._frame[name].to_numpy()
        if len(values) and self._frame[name].isna().all():
            raise NoData(f"`{name}` of holdout.parquet is empty in each row", "Run `dvc repro`.")
        if slices.splits(values, self._rows):
            raise NoData(
                f"`{name}` of holdout.parquet has several values in one group, and would cut it apart",
                "Name a column that all rows of a group share.",
            )
        return values

    def groups(self, name: str) -> Any:
        """Return each row's value of a declared column, or of one of the holdout, as text."""
        spec = self._declared.get(name, Column())
        values = self.raw(spec.of or name)
        return slices.binned(values, spec.bins) if spec.bins else slices.texts(values, spec.part)

    def searched(self, name: str) -> Any:
        """Return a column to search in: numbers as they are."""
        spec = self._declared.get(name)
        if spec and spec.part:
            return self.groups(name)
        return self.raw(spec.of or name if spec else name)


def declared(cut: Cutter, rows: Sample, settings: SlicesSettings) -> tuple[list[slices.Slice], list[Any]]:
    """Return the slices of the declared columns, and findings about what of them can't be judged."""
    support = settings.support
    short = support.short(rows)
    found, findings, left = [], [], []
    for name in settings.columns:
        some, out = slices.of_column(name, cut.groups(name), rows, support)
        if not some:
            findings.append(slices.unsupported(name, short))
        elif not any(support.holds(rows.at(one.elsewhere)) for one in some):
            text = f"{some[0].name} in nearly each row: there are no other rows to compare with"
            findings.append(gate.not_applicable(f"slices of {name}", text))
        found += some
        left += [out] * bool(out)
    if left:
        text = f"too small to judge ({short}): " + "; ".join(left)
        findings.append(gate.not_applicable("small slices", text))
    return found, findings


def searched(
    cut: Cutter, rows: slices.Rows, settings: SlicesSettings
) -> tuple[list[slices.Slice], list[Any]]:
    """Return slices that a search finds: where the loss is above what is expected, or above production's."""
    how, candidate = settings.search, rows.candidate
    if not how.columns:
        return [], []
    apart = np.arange(len(candidate.labels)) if candidate.groups is None else candidate.groups
    together = slices.texts(cut.raw(how.together)).astype(str) if how.together else apart
    half = slice_search.halves(together, how.seed)
    targets = [scores.excess_losses(candidate)]
    if rows.production is not None:
        targets.append(scores.row_losses(candidate) - scores.row_losses(rows.production))
    columns = {name: cut.searched(name) for name in how.columns}
    found: dict[str, slices.Slice] = {}
    for target in targets:
        for one in slice_search.search(
            columns,
            target,
            half,
            depth=how.depth,
            most=how.most,
            rows=settings.min_rows,
            seed=how.seed,
        ):
            found.setdefault(one.name, one)
    kept = [one for one in found.values() if settings.support.holds(candidate.at(one.here))]
    text = f"{len(found)} found in one half of the rows, {len(kept)} of them have support in the other half"
    return kept, [] if kept else [gate.not_applicable("found slices", text)]


def protected(
    cut: Cutter, rows: Sample, classes: Sequence[str], settings: SlicesSettings
) -> tuple[list[Any], list[Any]]:
    """Return the findings of the protected columns, and a table of each measure's rates."""
    name = "protected groups"
    if not settings.protected:
        return [gate.not_applicable(name, "no column is declared protected")], []
    decisions = fairness.decisions(rows, classes)
    if decisions is None:
        text = (
            f"{', '.join(settings.protected)}: {' and '.join(fairness.MEASURES)} are rates of a decision, "
            f"and a {rows.kind} decides nothing; under `columns` its groups are judged as slices"
        )
        return [gate.not_applicable(name, text)], []
    if not settings.fairness:
        return [gate.error(name, "no limit under `fairness` in params.yaml")], []
    count = len(settings.protected) * len(settings.fairness) * len(decisions)
    confidence = paired.each(settings.confidence, count)
    groups = {column: cut.groups(column) for column in settings.protected}
    findings: list[Any] = []
    cells = []
    for column, (measure, limit), (of, (truth, called)) in itertools.product(
        settings.protected, settings.fairness.items(), decisions.items()
    ):
        found = fairness.measure(
            measure, truth, called, groups[column], least=settings.min_each, confidence=confidence, of=of
        )
        findings += fairness.findings(found, column, limit, settings.min_each)
        for group, (positive, rows_of) in found.counts.items():
            share = round(positive / rows_of, 4) if rows_of else None
            cells.append((column, group, found.measure, float(rows_of), float(positive), share))
    columns = ("column", "group", "measure", "rows", "called so", "share")
    return findings, [Table("Protected groups", columns, tuple(cells))]


def look(subject: gating.Subject[SlicesSettings]) -> gating.Looked:
    """Judge declared and found slices beside the other rows and production, then protected groups."""
    settings = subject.settings
    scored_rows = scored.read(subject)
    margins, beside = scores.kept(settings.margins), scores.kept(settings.production)
    scored.check(scored_rows.declared, margins, beside)
    candidate = scored_rows.sample(threshold=settings.threshold)
    sample = gate.enough(candidate.units, len(candidate), 2 * settings.min_rows)
    if not len(scored_rows):
        return gating.Looked([sample])
    if not margins or not (settings.columns or settings.search.columns):
        text = "no column to cut by, or no metric with a margin: name some in params.yaml"
        return gating.Looked([gate.error("slices", text)])
    other = scored.production(scored_rows)
    old = other.predictions
    production = None if old is None else scored_rows.sample(old, threshold=settings.threshold)
    rows = slices.Rows(candidate, production)
    findings = [other.instead] if other.instead else []
    if production is not None and not beside:
        findings.append(gate.error("against production", "no metric has a margin under `production`"))
    cut = Cutter(scored_rows.frame, settings, candidate)
    some, about = declared(cut, candidate, settings)
    found, more = searched(cut, rows, settings)
    judged = slices.judge(
        [*some, *found],
        rows,
        margins,
        beside,
        support=settings.support,
        confidence=settings.confidence,
    )
    told = [one for part in judged for one in slices.worst(part)]
    groups, tables = protected(cut, candidate, scored_rows.declared.classes, settings)
    findings += [*(one.finding for one in told), *about, *more, *groups]
    if not any(judged):
        findings.append(slices.unsupported(candidate.units, settings.support.short(candidate)))
    measurements = {
        candidate.units: len(candidate),
        "slices": {"declared": len(some), "found": [one.name for one in found]},
        "comparisons": len(judged[0]) + len(judged[1]),
    }
    shown = [one.comparison for one in slices.worst(judged[1]) if one.comparison]
    tables = [*worst(*judged), *tables]
    return gating.Looked(gate.hold_back(sample, findings), measurements, shown, (), tables)


def worst(rest: Sequence[slices.Judged], production: Sequence[slices.Judged]) -> list[Table]:
    """Return the tables of the worst slices."""
    tables = [slices.table("Worst slices beside the other rows", rest, "elsewhere")]
    if production:
        tables.append(slices.table("Worst slices beside production", production, "production"))
    return tables


GATE = gating.Gate(
    "slices",
    SlicesSettings,
    look,
    needs="files",
    inputs="build/<model>/predictions.parquet, the holdout, and production's release from the registry.",
    fix="Look at that slice's rows: more of them in train, a feature for them; or a wider margin, by review.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
