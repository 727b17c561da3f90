"""A candidate's predictions of the holdout, joined with its rows and with production's of the same rows.

What the `quality` and `slices` gates rest on. Nothing here guesses: predictions that can't be read, are of
other rows, or are no probabilities raise, and so make the gate an ERROR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate import baseline, frames, wiring
from tidegate.core import gate
from tidegate.core.release import ReleaseRecord
from tidegate.core.verdict import Finding
from tidegate.errors import Fatal, NoData
from tidegate.files import digest_folder
from tidegate.gating import Subject

SAME = 1e-6  # of a probability: as near as training and serving must be


@dataclass(frozen=True)
class Scored:
    """Rows of the holdout (`frame`) with labels and the candidate's probabilities, all in one order."""

    subject: Subject[Any]
    frame: Any
    labels: np.ndarray[Any, Any]
    candidate: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Production:
    """Production's release on the same rows, or why it is not compared (`instead`)."""

    instead: Finding | None
    record: ReleaseRecord | None = None
    probabilities: np.ndarray[Any, Any] | None = None
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


def read(subject: Subject[Any], label: str, probability: str) -> Scored:
    """Return the candidate's predictions.

    Raises NoData or Fatal unless they are whole, of the holdout, and of the model that is in build/.
    """
    name = "predictions.parquet"
    evaluated(subject)
    labels, values = _columns(subject.built(name), label, probability)
    frame = frames.read(subject.data("holdout"))
    held_out = frame[label].to_numpy() if label in frame else np.empty(0)
    if not np.isin(labels, (0, 1)).all():
        raise Fatal(f"{name} has labels other than 0 and 1 in `{label}`", "Correct the evaluate stage.")
    if len(labels) and not np.array_equal(held_out, labels):
        raise Fatal(
            f"{name} ({len(labels):,} rows) is not of the rows of holdout.parquet ({len(frame):,} rows)",
            "Run `dvc repro`.",
        )
    return Scored(subject, frame, labels.astype(np.int64), probabilities(values, name))


def probabilities(values: Any, whose: str) -> np.ndarray[Any, Any]:
    """Return values as floats. Raises Fatal unless each is a number from 0 to 1."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Fatal(f"{whose} holds no numbers: {error}", "Correct the evaluate stage.") from error
    bad = int((~((found >= 0) & (found <= 1))).sum())  # NaN is neither
    if bad:
        raise Fatal(
            f"{bad:,} of {len(found):,} probabilities of {whose} are not numbers from 0 to 1",
            "Look at the model's output for those rows.",
        )
    return found


def production(rows: Scored) -> Production:
    """Return production's probabilities of these rows, or the finding that says why there are none.

    Not applicable: nothing is in production, or its files and features are the candidate's own. ERROR: two
    sets of files that predict the same everywhere, since then one of them is not what it is called.
    """
    subject, name = rows.subject, "against production"
    record = subject.production()
    if record is None:
        text = f"no release of {subject.model} is in production: there is nothing to compare with"
        return Production(gate.not_applicable(name, text))
    same_files = record.artifact == digest_folder(subject.built("model"))
    if same_files and baseline.same_features(subject.root, subject.package, record):
        text = f"same model files as production ({record.id}): a release that changes only code around it"
        return Production(gate.not_applicable(name, text), record)
    registry = wiring.registry(wiring.platform(subject.root, "production"), wiring.home(subject.root))
    columns = {column: rows.frame[column].to_numpy() for column in rows.frame}
    found, source = baseline.predictions(subject.root, subject.package, record, registry, columns)
    theirs = probabilities(found, f"release {record.id}")
    if np.abs(theirs - rows.candidate).max() > SAME:
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
