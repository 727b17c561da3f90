"""Is the candidate bad somewhere that its average hides? Worst slices, and groups to be treated alike."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from tidegate import gating, scored
from tidegate.core import fairness, gate, paired, scores, slice_search, slices
from tidegate.core.exhibits import Table
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

    A slice of fewer than `min_rows`, or of fewer than `min_each` of one label, is not judged by itself.
    `protected` names columns, declared or of the holdout, whose groups are to be treated alike; `fairness`
    says how unlike at most. All intervals hold at once with `confidence`; those of fairness do by themselves.
    """

    label: str
    min_rows: int
    min_each: int
    margins: Mapping[str, float]
    production: Mapping[str, float]
    fairness: Mapping[str, float]
    confidence: float
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    search: Search
    columns: Mapping[str, Column] = {}
    protected: tuple[str, ...] = ()
    probability: str = "probability"

    def __post_init__(self) -> None:
        """Raise ValueError for what can't be compared with."""
        scores.check(self.margins, at_least=0)
        scores.check(self.production, at_least=0)
        scores.check(self.fairness, at_least=0, known=fairness.MEASURES)
        paired.each(self.confidence, 1)
        slices.Support(self.min_rows, self.min_each)


class Cutter:
    """The holdout's columns, as the settings cut them."""

    def __init__(self, frame: Any, settings: SlicesSettings) -> None:
        self._frame, self._declared = frame, settings.columns

    def raw(self, name: str) -> Any:
        """Return a column's values. Raises NoData when the holdout has none of that name, or none at all."""
        if name not in self._frame:
            raise NoData(f"holdout.parquet has no column `{name}`", "Correct its name in params.yaml.")
        values = self._frame[name].to_numpy()
        if len(values) and self._frame[name].isna().all():
            raise NoData(f"`{name}` of holdout.parquet is empty in each row", "Run `dvc repro`.")
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


def declared(cut: Cutter, labels: Any, settings: SlicesSettings) -> tuple[list[slices.Slice], list[Any]]:
    """Return the slices of the declared columns, and findings about what of them can't be judged."""
    support = slices.Support(settings.min_rows, settings.min_each)
    found, findings, left = [], [], []
    for name in settings.columns:
        values = cut.groups(name)
        some, out = slices.of_column(name, values, labels, support)
        if not some:
            findings.append(slices.unsupported(name, support))
        elif not any(support.holds(labels[one.elsewhere]) for one in some):
            text = f"{some[0].name} in nearly each row: there are no other rows to compare with"
            findings.append(gate.not_applicable(f"slices of {name}", text))
        found += some
        left += [out] * bool(out)
    if left:
        text = f"too small to judge ({support}): " + "; ".join(left)
        findings.append(gate.not_applicable("small slices", text))
    return found, findings


def searched(
    cut: Cutter, rows: slices.Rows, settings: SlicesSettings
) -> tuple[list[slices.Slice], list[Any]]:
    """Return slices that a search finds: where the loss is above what is expected, or above production's."""
    how = settings.search
    if not how.columns:
        return [], []
    groups = cut.raw(how.together) if how.together else np.arange(len(rows.labels))
    half = slice_search.halves(slices.texts(groups).astype(str) if how.together else groups, how.seed)
    targets = [scores.excess_losses(rows.labels, rows.candidate)]
    if rows.production is not None:
        losses = (scores.row_losses(rows.labels, p) for p in (rows.candidate, rows.production))
        targets.append(np.subtract(*losses))
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
    support = slices.Support(settings.min_rows, settings.min_each)
    kept = [one for one in found.values() if support.holds(rows.labels[one.here])]
    text = f"{len(found)} found in one half of the rows, {len(kept)} of them have support in the other half"
    return kept, [] if kept else [gate.not_applicable("found slices", text)]


def protected(cut: Cutter, rows: slices.Rows, settings: SlicesSettings) -> tuple[list[Any], list[Any]]:
    """Return the findings of the protected columns, and a table of each measure's rates."""
    name = "protected groups"
    if not settings.protected:
        return [gate.not_applicable(name, "no column is declared protected")], []
    if not settings.fairness:
        return [gate.error(name, "no limit under `fairness` in params.yaml")], []
    confidence = paired.each(settings.confidence, len(settings.protected) * len(settings.fairness))
    findings, cells = [], []
    for column in settings.protected:
        groups = cut.groups(column)
        for measure, limit in settings.fairness.items():
            found = fairness.measure(
                measure,
                rows.labels,
                rows.candidate,
                settings.threshold,
                groups,
                least=settings.min_each,
                confidence=confidence,
            )
            findings += fairness.findings(found, column, limit, settings.min_each)
            for group, (positive, of) in found.counts.items():
                share = round(positive / of, 4) if of else None
                cells.append((column, group, measure, float(of), float(positive), share))
    columns = ("column", "group", "measure", "rows", "called positive", "share")
    return findings, [Table("Protected groups", columns, tuple(cells))]


def look(subject: gating.Subject[SlicesSettings]) -> gating.Looked:
    """Judge declared and found slices beside the other rows and production, then protected groups."""
    settings = subject.settings
    scored_rows = scored.read(subject, settings.label, settings.probability)
    sample = gate.enough("rows", len(scored_rows), 2 * settings.min_rows)
    if not len(scored_rows):
        return gating.Looked([sample])
    if not settings.margins or not (settings.columns or settings.search.columns):
        text = "no column to cut by, or no metric with a margin: name some in params.yaml"
        return gating.Looked([gate.error("slices", text)])
    other = scored.production(scored_rows)
    rows = slices.Rows(scored_rows.labels, scored_rows.candidate, other.probabilities)
    findings = [other.instead] if other.instead else []
    if rows.production is not None and not settings.production:
        findings.append(gate.error("against production", "no metric has a margin under `production`"))
    cut = Cutter(scored_rows.frame, settings)
    some, about = declared(cut, rows.labels, settings)
    found, more = searched(cut, rows, settings)
    judged = slices.judge(
        [*some, *found],
        rows,
        settings.margins,
        settings.production,
        support=slices.Support(settings.min_rows, settings.min_each),
        confidence=settings.confidence,
        threshold=settings.threshold,
    )
    told = [one for part in judged for one in slices.worst(part)]
    groups, tables = protected(cut, rows, settings)
    findings += [*(one.finding for one in told), *about, *more, *groups]
    if not any(judged):
        findings.append(slices.unsupported("rows", slices.Support(settings.min_rows, settings.min_each)))
    rest, production = judged
    tables = [slices.table("Worst slices beside the other rows", rest, "elsewhere"), *tables]
    if production:
        tables.insert(1, slices.table("Worst slices beside production", production, "production"))
    shown = [one.comparison for one in slices.worst(production) if one.comparison]
    measurements = {
        "rows": len(scored_rows),
        "slices": {"declared": len(some), "found": [one.name for one in found]},
        "comparisons": len(rest) + len(production),
    }
    return gating.Looked(gate.hold_back(sample, findings), measurements, shown, (), tables)


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
