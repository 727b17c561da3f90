"""A candidate's predictions of the holdout, joined with its rows and with production's of the same rows.

What the gates that score rest on. Nothing here guesses: which columns are meant, and what they
may hold, the model's declaration says. Predictions that can't be read, are of other rows, or are not what
was declared raise, and so make the gate an ERROR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate import baseline, frames, params, scoring, wiring
from tidegate.core import gate, scores
from tidegate.core.release import ReleaseRecord
from tidegate.core.scores import Sample
from tidegate.core.task import Declaration
from tidegate.core.verdict import Finding
from tidegate.errors import ConfigError, Fatal, NoData
from tidegate.files import digest_folder
from tidegate.gating import Subject

Predictions = np.ndarray[Any, Any]
SAME = 1e-6  # of a probability, or of a prediction's spread: as near as training and serving must be
SUM = 1e-4  # by which the probabilities of a row may miss 1: those of a float16 model do


@dataclass(frozen=True)
class Scored:
    """Rows of the holdout (`frame`) with labels and the candidate's predictions, all in one order.

    Predictions are [n], or [n, K] in the order of the declared classes.
    """

    subject: Subject[Any]
    declared: Declaration
    frame: Any
    labels: Any
    candidate: Predictions

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, predictions: Predictions | None = None, *, threshold: float = 0.5) -> Sample:
        """Return the rows as metrics take them, with the candidate's predictions or with others."""
        values = self.candidate if predictions is None else predictions
        groups = self.frame[self.declared.group].to_numpy() if self.declared.group else None
        return scores.sample(self.declared, self.labels, values, groups=groups, threshold=threshold)


@dataclass(frozen=True)
class Production:
    """Production's release on the same rows, or why it is not compared (`instead`)."""

    instead: Finding | None
    record: ReleaseRecord | None = None
    predictions: Predictions | None = None
    features_of: str = ""


class Evaluated(msgspec.Struct, frozen=True):
    """What evaluation wrote beside its predictions: the digest of the model, each raw column's importance."""

    artifact: str
    shares: Mapping[str, float]


def evaluated(subject: Subject[Any]) -> Evaluated:
    """Return what evaluation wrote in importance.json. Raises NoData unless it was of the model in build/."""
    try:
        known = msgspec.json.decode(subject.built("importance.json").read_bytes(), type=Evaluated)
    except msgspec.MsgspecError as problem:
        raise NoData(f"importance.json can't be read: {problem}", "Run `dvc repro`.") from problem
    digest = digest_folder(subject.built("model"))
    if known.artifact != digest:
        raise NoData(
            f"importance.json is of model {known.artifact[:19]}…, and build/ holds {digest[:19]}…: what was "
            "evaluated is another model",
            "Run `dvc repro`.",
        )
    return known


def served(subject: Subject[Any]) -> str:
    """Return the name of that file of the model that its service runs, by settings that the report names.

    Raises NoData for settings that can't be meant.
    """
    name = scoring.settings_path(subject.package)
    if (subject.root / name).is_file():
        subject.input(name)
    return scoring.served_file(subject.root, subject.package)


def read(subject: Subject[Any]) -> Scored:
    """Return the candidate's predictions, in the columns that the model's declaration names.

    Raises NoData or Fatal unless they are whole, of the holdout, and of the model that is in build/.
    """
    name, declared = "predictions.parquet", subject.declared
    evaluated(subject)
    labels, *values = _columns(subject.built(name), declared.label, *declared.columns)
    frame = frames.read(subject.data("holdout"))
    held_out = frame[declared.label].to_numpy() if declared.label in frame else np.empty(0)
    if declared.group and declared.group not in frame:
        raise NoData(f"holdout.parquet has no column `{declared.group}`", "Correct `group` in params.yaml.")
    try:
        scores.encoded(declared, labels)
    except ValueError as problem:
        raise Fatal(
            f"{name}: {problem}", "Correct the data, or the model's declaration in params.yaml."
        ) from (problem)
    if len(labels) and not np.array_equal(held_out, labels):
        raise Fatal(
            f"{name} ({len(labels):,} rows) is not of the rows of holdout.parquet ({len(frame):,} rows)",
            "Run `dvc repro`.",
        )
    found = np.column_stack(values) if declared.classes else values[0]
    return Scored(subject, declared, frame, labels, predictions(found, declared, name))


def predictions(values: Any, declared: Declaration, whose: str) -> Predictions:
    """Return predictions as floats: [n], or [n, K] of K classes.

    Raises Fatal for another shape, for what is no finite number, for a probability that is not from 0 to 1,
    and for those of a row that do not sum to 1.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Fatal(f"{whose} holds no numbers: {error}", "Correct score.py.") from error
    size = (len(declared.classes),) if declared.classes else ()
    if found.shape[1:] != size or not found.ndim:
        wanted = f"{len(declared.classes)} numbers a row" if size else "one number a row"
        raise Fatal(f"{whose} has predictions of shape {found.shape}, not {wanted}", "Correct score.py.")
    if declared.task == "classification":
        good, wanted = (found >= 0) & (found <= 1), "probabilities of {} are not numbers from 0 to 1"
    else:
        good, wanted = np.isfinite(found), "predictions of {} are not finite numbers"
    bad = int((~good).sum())  # NaN is neither
    if bad:
        what = wanted.format(whose)
        raise Fatal(f"{bad:,} of {found.size:,} {what}", "Look at the model's output for those rows.")
    off = np.abs(found.sum(axis=1) - 1) > SUM if size else np.zeros(0, dtype=bool)
    if off.any():
        raise Fatal(
            f"the probabilities of {int(off.sum()):,} of {len(found):,} rows of {whose} do not sum to 1",
            "Let score.py return a distribution over the declared classes.",
        )
    return found


def check(declared: Declaration, *named: Mapping[str, float | None]) -> None:
    """Raise ConfigError unless each metric that settings name is one of the model's task."""
    for metrics in named:
        try:
            scores.check(metrics, known=scores.of(declared))
        except ValueError as problem:
            raise ConfigError(
                f"of a {declared.task}, {problem}", "Correct the gate's section.", where=params.FILE
            ) from problem


def production(rows: Scored) -> Production:
    """Return production's predictions of these rows, or the finding that says why there are none.

    Not applicable: nothing is in production, or its files and features are the candidate's own. ERROR: two
    sets of files that predict the same everywhere, since then one of them is not what it is called.
    """
    subject, name = rows.subject, "against production"
    record = subject.production()
    if record is None:
        text = f"no release of {subject.model} is in production: there is nothing to compare with"
        return Production(gate.not_applicable(name, text))
    same_files = record.artifact == digest_folder(subject.built("model"))
    if same_files and baseline.same_code(subject.root, subject.package, record):
        text = f"same model files as production ({record.id}): a release that changes only code around it"
        return Production(gate.not_applicable(name, text), record)
    registry = wiring.registry(wiring.platform(subject.root, "production"), wiring.home(subject.root))
    columns = {column: rows.frame[column].to_numpy() for column in rows.frame}
    old = baseline.Old(subject.root, subject.package, rows.declared, record)
    found, source = baseline.predictions(old, registry, columns)
    theirs = predictions(found, rows.declared, f"release {record.id}")
    if theirs.shape != rows.candidate.shape:
        text = f"release {record.id} predicts {len(theirs):,} rows where {len(rows):,} were asked"
        raise Fatal(text, f"Look at score.py of commit {record.commit[:12]}.")
    spread = 1.0 if rows.declared.task == "classification" else float(np.std(theirs)) or 1.0
    if np.abs(theirs - rows.candidate).max() > SAME * spread:
        return Production(None, record, theirs, source)
    if same_files:
        text = f"same model files as production ({record.id}), and its features give the same predictions"
        return Production(gate.not_applicable(name, text), record)
    text = (
        f"the candidate predicts what release {record.id} does on each of {len(rows):,} rows, although its "
        "files differ: it was compared with itself, or predictions.parquet is not the candidate's"
    )
    return Production(gate.error(name, text), record)


def _columns(path: Path, *names: str) -> list[Any]:
    frame = frames.read(path)
    missing = [f"`{name}`" for name in names if name not in frame]
    if missing:
        raise NoData(
            f"{path.name} has no column {', '.join(missing)}",
            "Name its columns in params.yaml, or run `dvc repro`.",
        )
    return [frame[name].to_numpy() for name in names]
