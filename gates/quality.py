"""Is the candidate good enough, and not worse than the release now in production on the same rows?"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from tidegate import baseline, gating, wiring
from tidegate.core import gate, scores
from tidegate.core.release import ReleaseRecord
from tidegate.errors import Fatal
from tidegate.files import digest_folder


class Margins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By how much a candidate may be worse than production, in each metric's own unit."""

    auc: float = 0.005
    log_loss: float = 0.005
    calibration_error: float = 0.01


class QualitySettings(gating.Settings, frozen=True):
    """The `quality` section: limits, margins, and what predictions.parquet calls its two columns."""

    min_rows: int = 1000
    auc: float | None = None
    log_loss: float | None = None
    calibration_error: float | None = None
    margins: Margins = Margins()
    label: str = "label"
    probability: str = "probability"


METRICS = {"auc": scores.auc, "log_loss": scores.log_loss, "calibration_error": scores.calibration_error}
INTERVALS = {"auc": scores.auc_difference, "log_loss": scores.loss_difference}


def measure(labels: Any, probabilities: Any) -> dict[str, float]:
    """Return each metric of one set of predictions."""
    return {name: metric(labels, probabilities) for name, metric in METRICS.items()}


def against(labels: Any, candidate: Any, production: Any, margins: Margins) -> list[Any]:
    """Return the findings of a candidate's predictions beside production's on the same rows."""
    mine, theirs = measure(labels, candidate), measure(labels, production)
    plain = {name: (mine[name] - theirs[name],) * 2 for name in METRICS}
    intervals = {name: INTERVALS[name](labels, candidate, production) for name in INTERVALS}
    return [
        gate.beside(
            f"{name} against production",
            mine[name],
            theirs[name],
            {**plain, **intervals}[name],
            getattr(margins, name),
            higher_is_better=name == "auc",
        )
        for name in METRICS
    ]


def predictions_of(
    record: ReleaseRecord, subject: gating.Subject[QualitySettings], candidate: Any, labels: Any
) -> tuple[Any, str]:
    """Return production's probabilities for the holdout's rows, and where its features' code came from."""
    import pyarrow.parquet as parquet

    same_files = record.artifact == digest_folder(subject.built("model"))
    if same_files and baseline.same_features(subject.root, subject.package, record):
        return candidate, "the candidate: the model's files and features.py are the same"
    table = parquet.read_table(subject.data("holdout"))
    columns = {name: table[name].to_numpy() for name in table.column_names}
    if columns[subject.settings.label].tolist() != labels.tolist():
        raise Fatal("predictions.parquet is not of the rows of holdout.parquet", "Run `dvc repro`.")
    platform = wiring.platform(subject.root, "production")
    registry = wiring.registry(platform, wiring.home(subject.root))
    return baseline.predictions(subject.root, subject.package, record, registry, columns)


def look(subject: gating.Subject[QualitySettings]) -> gating.Looked:
    """Look at the candidate's predictions, and at production's."""
    import pyarrow.parquet as parquet

    limits = subject.settings
    names = [limits.label, limits.probability]
    table = parquet.read_table(subject.built("predictions.parquet"), columns=names)
    labels, candidate = (table[name].to_numpy() for name in names)
    sample = gate.enough("rows", len(labels), limits.min_rows)
    if not len(labels):
        return gating.Looked([sample])
    mine = measure(labels, candidate)
    findings = [
        gate.at_least("auc", mine["auc"], limits.auc),
        gate.at_most("log_loss", mine["log_loss"], limits.log_loss),
        gate.at_most("calibration_error", mine["calibration_error"], limits.calibration_error),
    ]
    measurements: dict[str, Any] = {"rows": len(labels), "candidate": mine, "production": None}
    comparisons: list[Any] = []
    record = subject.production()
    if record is None:
        text = f"no release of {subject.model} is in production: there is nothing to compare with"
        findings.append(gate.not_applicable("against production", text))
    else:
        theirs, source = predictions_of(record, subject, candidate, labels)
        compared = against(labels, candidate, theirs, limits.margins)
        findings += [finding for finding, _ in compared]
        comparisons = [shown for _, shown in compared if shown]
        about = {"release": record.id, "version": record.registry.version, "features_of": source}
        measurements["production"] = {**about, **measure(labels, theirs)}
    return gating.Looked(gate.hold_back(sample, findings), measurements, comparisons)


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
