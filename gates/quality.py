"""Is the candidate good enough, and not worse than the release now in production on the same rows?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from tidegate import gating, scored
from tidegate.core import curves, gate, paired, scores


class QualitySettings(gating.Settings, frozen=True):
    """The `quality` section: `limits` and `margins` by metric (see `core.scores.METRICS`), each in its unit.

    A margin is by how much the candidate may be worse than production. All intervals hold at once with
    `confidence`: a candidate that is no worse is called worse in at most 1 − confidence of all cases.
    `threshold` is where a probability counts as a yes, for accuracy, recall and precision.
    """

    label: str
    min_rows: Annotated[int, Meta(ge=1)]
    limits: Mapping[str, float]
    margins: Mapping[str, float]
    confidence: float
    threshold: Annotated[float, Meta(ge=0, le=1)]
    probability: str = "probability"

    def __post_init__(self) -> None:
        """Raise ValueError for what can't be compared with."""
        scores.check(self.limits, at_least=0)
        scores.check(self.margins, at_least=0)
        paired.each(self.confidence, 1)


def measure(labels: Any, probabilities: Any, settings: QualitySettings) -> dict[str, float]:
    """Return each metric that has a limit or a margin, of one set of predictions."""
    named = dict.fromkeys([*settings.limits, *settings.margins])
    return {name: scores.METRICS[name].value(labels, probabilities, settings.threshold) for name in named}


def alone(mine: Mapping[str, float], limits: Mapping[str, float]) -> list[Any]:
    """Return the findings of the candidate by itself."""
    if not limits:
        return [gate.error("limits", "no metric has a limit: name some under `limits` in params.yaml")]
    return [
        (gate.at_least if metric.higher_is_better else gate.at_most)(name, mine[name], limit, metric.unit)
        for name, limit in limits.items()
        for metric in (scores.METRICS[name],)
    ]


def compare(
    name: str, labels: Any, candidate: Any, production: Any, settings: QualitySettings
) -> tuple[Any, Any]:
    """Return the finding and the comparison of one metric, of two sets of predictions of the same rows."""
    metric, margin = scores.METRICS[name], settings.margins[name]
    confidence = paired.each(settings.confidence, len(settings.margins))
    found = paired.difference(
        metric,
        labels,
        candidate,
        production,
        confidence=confidence,
        threshold=settings.threshold,
    )
    return paired.beside(f"{name} against production", found, margin, confidence, len(labels))


def against(labels: Any, candidate: Any, production: Any, settings: QualitySettings) -> list[Any]:
    """Return a finding and a comparison for each metric with a margin."""
    if not settings.margins:
        text = "no metric has a margin: name some under `margins` in params.yaml"
        return [(gate.error("against production", text), None)]
    return [compare(name, labels, candidate, production, settings) for name in settings.margins]


def look(subject: gating.Subject[QualitySettings]) -> gating.Looked:
    """Look at the candidate's predictions, and at production's."""
    settings = subject.settings
    rows = scored.read(subject, settings.label, settings.probability)
    sample = gate.enough("rows", len(rows), settings.min_rows)
    if not len(rows):
        return gating.Looked([sample])
    mine = measure(rows.labels, rows.candidate, settings)
    findings = alone(mine, settings.limits)
    measurements: dict[str, Any] = {"rows": len(rows), "candidate": mine, "production": None}
    comparisons: list[Any] = []
    sets = {"candidate": rows.candidate}
    other = scored.production(rows)
    if other.instead:
        findings.append(other.instead)
    if other.probabilities is not None and other.record:
        compared = against(rows.labels, rows.candidate, other.probabilities, settings)
        findings += [finding for finding, _ in compared]
        comparisons = [shown for _, shown in compared if shown]
        sets["production"] = other.probabilities
        measurements["production"] = {
            "release": other.record.id,
            "version": other.record.registry.version,
            "features_of": other.features_of,
            **measure(rows.labels, other.probabilities, settings),
        }
    measurements["methods"] = {name: scores.METRICS[name].method for name in settings.margins}
    return gating.Looked(
        gate.hold_back(sample, findings), measurements, comparisons, curves.charts(rows.labels, sets)
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
