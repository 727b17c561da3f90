"""Is the candidate good enough, and not worse than the release now in production on the same rows?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from tidegate import gating, scored
from tidegate.core import curves, gate, paired, scores
from tidegate.core.scores import Sample


class QualitySettings(gating.Settings, frozen=True):
    """The `quality` section: `limits` and `margins` by metric (see `core.scores`), each in its unit.

    Which metrics there are, the model's declared task says. A margin is by how much the candidate may be
    worse than production; `null` takes one away that counts for the task. All intervals hold at once with
    `confidence`: a candidate that is no worse is called worse in at most 1 − confidence of all cases.
    `threshold` is where the probability of one label counts as a yes, for accuracy, recall, precision and F1.
    """

    min_rows: Annotated[int, Meta(ge=1)]  # of a ranking: groups
    limits: Mapping[str, float]
    margins: Mapping[str, float | None]
    confidence: float
    threshold: Annotated[float, Meta(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Raise ValueError for what can't be compared with."""
        scores.check(self.limits, at_least=0)
        scores.check(self.margins, at_least=0)
        paired.each(self.confidence, 1)

    @property
    def against(self) -> dict[str, float]:
        """The margins that count."""
        return scores.kept(self.margins)


def measure(rows: Sample, settings: QualitySettings) -> dict[str, float]:
    """Return each metric that has a limit or a margin, of one set of predictions."""
    metrics = scores.REGISTRY[rows.kind]
    return {name: metrics[name].value(rows) for name in dict.fromkeys([*settings.limits, *settings.against])}


def alone(rows: Sample, mine: Mapping[str, float], limits: Mapping[str, float]) -> list[Any]:
    """Return the findings of the candidate by itself."""
    if not limits:
        return [gate.error("limits", "no metric has a limit: name some under `limits` in params.yaml")]
    return [
        (gate.at_least if metric.higher_is_better else gate.at_most)(name, mine[name], limit, metric.unit)
        for name, limit in limits.items()
        for metric in (scores.REGISTRY[rows.kind][name],)
    ]


def compare(name: str, candidate: Sample, production: Sample, settings: QualitySettings) -> tuple[Any, Any]:
    """Return the finding and the comparison of one metric, of two sets of predictions of the same rows."""
    metric, margin = scores.REGISTRY[candidate.kind][name], settings.against[name]
    confidence = paired.each(settings.confidence, len(settings.against))
    found = paired.difference(metric, candidate, production, confidence=confidence)
    return paired.beside(f"{name} against production", found, margin, confidence, len(candidate))


def against(candidate: Sample, production: Sample, settings: QualitySettings) -> list[Any]:
    """Return a finding and a comparison for each metric with a margin."""
    if not settings.against:
        text = "no metric has a margin: name some under `margins` in params.yaml"
        return [(gate.error("against production", text), None)]
    return [compare(name, candidate, production, settings) for name in settings.against]


def look(subject: gating.Subject[QualitySettings]) -> gating.Looked:
    """Look at the candidate's predictions, and at production's."""
    settings = subject.settings
    rows = scored.read(subject)
    scored.check(rows.declared, settings.limits, settings.margins)
    candidate = rows.sample(threshold=settings.threshold)
    sample = gate.enough(candidate.units, len(candidate), settings.min_rows)
    if not len(rows):
        return gating.Looked([sample])
    mine = measure(candidate, settings)
    findings = alone(candidate, mine, settings.limits)
    measurements: dict[str, Any] = {candidate.units: len(candidate), "candidate": mine, "production": None}
    comparisons: list[Any] = []
    sets = {"candidate": candidate}
    other = scored.production(rows)
    if other.instead:
        findings.append(other.instead)
    if other.predictions is not None and other.record:
        production = sets["production"] = rows.sample(other.predictions, threshold=settings.threshold)
        compared = against(candidate, production, settings)
        findings += [finding for finding, _ in compared]
        comparisons = [shown for _, shown in compared if shown]
        measurements["production"] = {
            "release": other.record.id,
            "version": other.record.registry.version,
            "features_of": other.features_of,
            **measure(production, settings),
        }
    classes = rows.declared.classes
    measurements["methods"] = {name: scores.of(rows.declared)[name].method for name in settings.against}
    return gating.Looked(
        gate.hold_back(sample, findings),
        measurements,
        comparisons,
        curves.charts(sets, classes),
        [curves.confusion(candidate, classes)] if classes else [],
    )


GATE = gating.Gate(
    "quality",
    QualitySettings,
    look,
    needs="files",
    inputs="build/<model>/predictions.parquet, the holdout, and production's release from the registry.",
    fix="Look at what changed since production's release; train on, or go back.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
