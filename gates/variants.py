"""Is each variant of the model (`model.<variant>.onnx`) as good as `model.onnx`, within its margins?

A variant holds the same model in fewer bits, for another processor. On the same rows of the holdout it may be
worse than model.onnx by no more than the margin of each metric; which of them is served does not matter here.
What each takes for one row is measured and written to build/<model>/latency.json, and refuses nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec
import numpy as np

from tidegate import gating, scored, scoring, settings
from tidegate.core import gate, paired, scores
from tidegate.core.exhibits import Table
from tidegate.core.scores import Sample
from tidegate.errors import TidegateError
from tidegate.files import write_atomic

WHOLE = "model.onnx"
LATENCY = "latency.json"  # beside the reports: a measured time in one would be another report each time
Count = Annotated[int, msgspec.Meta(ge=1)]
Predict = Callable[[Mapping[str, Any]], Any]


class VariantsSettings(gating.Settings, frozen=True):
    """The `variants` section; `margins` by metric (see `core.scores`), each in its unit.

    Of the holdout `rows` are drawn by `seed` (a ranking's are all looked at); fewer than `min_rows` decide
    nothing. A margin is by how much a variant may be worse than model.onnx; `null` takes one away that counts
    for the task. All intervals hold at once with `confidence`. `timed` rows are asked one by one.
    """

    rows: Count
    min_rows: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]
    margins: Mapping[str, float | None]
    confidence: float
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    timed: Count

    def __post_init__(self) -> None:
        """Raise ValueError for what can't be compared with."""
        scores.check(self.margins, at_least=0)
        paired.each(self.confidence, 1)

    @property
    def against(self) -> dict[str, float]:
        """The margins that count."""
        return scores.kept(self.margins)


def variants(folder: Path) -> dict[str, Path]:
    """Return variant → its file, of the model's folder."""
    found = (path for path in sorted(folder.glob("model.*.onnx")) if path.is_file())
    return {path.name.removeprefix("model.").removesuffix(".onnx"): path for path in found}


def drawn(rows: scored.Scored, how: VariantsSettings) -> Any:
    """Return the places of the rows that are looked at, in their order."""
    if rows.declared.group or len(rows) <= how.rows:
        return np.arange(len(rows))
    return np.sort(np.random.default_rng(how.seed).choice(len(rows), size=how.rows, replace=False))


def sample(rows: scored.Scored, places: Any, predictions: Any, threshold: float) -> Sample:
    """Return some of the rows as metrics take them."""
    group = rows.declared.group
    groups = rows.frame[group].to_numpy()[places] if group else None
    return scores.sample(rows.declared, rows.labels[places], predictions, groups=groups, threshold=threshold)


def compare(
    variant: str, mine: Sample, whole: Sample, how: VariantsSettings, confidence: float
) -> list[tuple[gate.Finding, tuple[Any, ...]]]:
    """Return a finding of each metric with a margin, and its row of the table."""
    found = []
    for name, margin in how.against.items():
        seen = paired.difference(scores.REGISTRY[whole.kind][name], mine, whole, confidence=confidence)
        finding, _ = paired.beside(f"{name} of {variant}", seen, margin, confidence, len(whole))
        row = (variant, name, seen.candidate, seen.production, seen.low, seen.high, margin)
        found.append((finding, row))
    return found


def served(subject: gating.Subject[VariantsSettings], there: Mapping[str, Path]) -> list[gate.Finding]:
    """Return a finding on each variant that the service's settings name: for a CPU, and for a GPU."""
    said = settings.load(subject.root, subject.model)
    names = ", ".join(there) or "none"
    found = []
    for on, variant in (("", said.variant), (" on a GPU", said.gpu.variant)):
        if variant:
            text = f"settings.yaml serves the variant `{variant}`{on}, and the model has {names}"
            verdict = gate.Verdict.PASS if variant in there else gate.Verdict.FAIL
            found.append(gate.Finding(f"served variant{on}", verdict, variant, names, text))
    return found


def milliseconds(predicts: Mapping[str, Predict], columns: Mapping[str, Any], count: int) -> dict[str, float]:
    """Return what each takes for one row, features and all: the median over rows that are asked in turns.

    In turns, so that what else the machine does meets all of them alike.
    """
    taken: dict[str, list[float]] = {name: [] for name in predicts}
    for place in range(min(count, len(next(iter(columns.values()))))):
        row = {name: values[place : place + 1] for name, values in columns.items()}
        for name, predict in predicts.items():
            began = time.perf_counter()
            predict(row)
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: round(median(times), 3) for name, times in taken.items() if times}


def answers(predict: Predict, columns: Mapping[str, Any], rows: scored.Scored, name: str) -> Any:
    """Return a variant's predictions, or the finding that says why there are none that can be compared."""
    try:
        found = scored.predictions(predict(columns), rows.declared, name)
    except TidegateError as problem:
        return gate.error(name, f"{name}: {problem}")
    except Exception as problem:  # the model's own code and the runtime: as various as they are
        text = str(problem).strip().partition("\n")[0]
        return gate.error(name, f"{name} can't be scored: {type(problem).__name__}: {text}")
    wanted = len(next(iter(columns.values())))
    if len(found) != wanted:
        return gate.error(name, f"{name} predicts {len(found):,} rows where {wanted:,} were asked")
    return found


def look(subject: gating.Subject[VariantsSettings]) -> gating.Looked:
    """Score model.onnx and each variant on the same rows of the holdout."""
    how, folder = subject.settings, subject.built("model")
    out = subject.root / "build" / subject.model / LATENCY
    write_atomic(out, "{}\n")  # nothing of an earlier run survives
    there = variants(folder)
    findings = served(subject, there)
    if not there:
        alone = gate.not_applicable("variants", f"{subject.model} has one file, {WHOLE}")
        return gating.Looked([alone, *findings])
    rows = scored.read(subject)
    scored.check(rows.declared, how.margins)
    places = drawn(rows, how)
    if not len(rows):
        return gating.Looked([gate.enough("rows", 0, how.min_rows)])
    columns = {name: rows.frame[name].to_numpy()[places] for name in rows.frame}
    opened, found = _scored(subject, folder / WHOLE, columns, rows)
    if not isinstance(found, np.ndarray):
        return gating.Looked([found, *findings])
    whole = sample(rows, places, found, how.threshold)
    enough = gate.enough(whole.units, len(whole), how.min_rows)
    if not how.against:
        findings.append(gate.error("margins", "no metric has a margin: name some under `margins`"))
    confidence = paired.each(how.confidence, max(len(how.against) * len(there), 1))
    predicts: dict[str, Predict] = {WHOLE: opened}
    table: list[tuple[Any, ...]] = []
    for name, path in there.items():
        opened, found = _scored(subject, path, columns, rows)
        if not isinstance(found, np.ndarray):
            findings.append(found)
            continue
        predicts[path.name] = opened
        mine = sample(rows, places, found, how.threshold)
        compared = compare(name, mine, whole, how, confidence)
        findings += [finding for finding, _ in compared]
        table += [row for _, row in compared]
    if len(predicts) > 1:
        took = milliseconds(predicts, columns, how.timed)
        write_atomic(out, json.dumps({"milliseconds_a_row": took}, indent=1, sort_keys=True) + "\n")
        print("  ".join(f"{name} {value:g} ms a row" for name, value in sorted(took.items())), flush=True)
    heads = ("variant", "metric", "variant's", f"{WHOLE}'s", "difference from", "to", "margin")
    sizes = {path.name: path.stat().st_size for path in (folder / WHOLE, *there.values())}
    measurements = {whole.units: len(whole), "seed": how.seed, "bytes": sizes}
    tables = [Table(f"Variants beside {WHOLE}", heads, tuple(table))] if table else []
    return gating.Looked(gate.hold_back(enough, findings), measurements, tables=tables)


def _scored(
    subject: gating.Subject[VariantsSettings], path: Path, columns: Mapping[str, Any], rows: scored.Scored
) -> tuple[Any, Any]:
    """Return what predicts by a file, and its predictions or the finding that says why there are none."""
    try:
        predict = scoring.scorer(subject.root, subject.package, subject.built("model"), path.name)
    except Exception as problem:  # what the runtime says of a file that is no model
        text = str(problem).strip().partition("\n")[0]
        return None, gate.error(path.name, f"{path.name} can't be opened: {type(problem).__name__}: {text}")
    return predict, answers(predict, columns, rows, path.name)


GATE = gating.Gate(
    "variants",
    VariantsSettings,
    look,
    needs="files",
    inputs="build/<model>/model/, the holdout, and the variants in settings.yaml.",
    fix="Leave the layers that lose most in full precision, serve another variant, or drop that one.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
