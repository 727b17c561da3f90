"""What gates that read files cost, and whether drift, measured on a sample, says what all rows would."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.registry import CannotRun, Goal, Measured, entries
from tidegate import gating, params, scoring
from tidegate.core.verdict import Verdict, worst

MODEL = "flight-delay"
ROOT = Path()
SPLITS = ("train", "holdout", "live")
MONTHS = range(7, 13)


def _frames(names: tuple[str, ...] = SPLITS) -> list[Any]:
    import pandas as pd

    paths = [ROOT / "data" / MODEL / f"{name}.parquet" for name in names]
    needed = [*paths, ROOT / "build" / MODEL / "importance.json"]
    if not all(path.is_file() for path in needed):
        raise CannotRun("the pipeline has not run here: run `dvc repro` once")
    return [pd.read_parquet(path) for path in paths]


def _candidates(reference: Any, live: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, reference, candidate: each month after June, and one draw of January to June itself."""
    for month in MONTHS:
        yield str(month), reference, live[live["date"].str[5:7] == f"{month:02d}"]
    drawn = reference.sample(len(live) // len(MONTHS), random_state=1)
    yield "none", reference.drop(drawn.index), drawn


@dataclass(frozen=True)
class Ours:
    """The drift gate on two data frames."""

    module: Any
    settings: Any
    shares: Mapping[str, float]
    predict: Any

    @classmethod
    def of(cls) -> Ours:
        found = gating.load(ROOT.absolute(), "drift")
        settings = params.load(ROOT).settings("drift", MODEL, found.settings)
        shares = json.loads((ROOT / "build" / MODEL / "importance.json").read_text())["shares"]
        package = MODEL.replace("-", "_")
        predict = scoring.scorer(ROOT, package, ROOT / "build" / MODEL / "model")
        return cls(sys.modules[found.look.__module__], settings, shares, predict)

    def verdict(self, reference: Any, current: Any) -> Verdict:
        """Return the gate's verdict on all of these rows."""
        findings, _, _ = self.module.judge(reference, current, self.settings, self.shares, self.predict)
        return worst(finding.verdict for finding in findings)

    def sampled(self, reference: Any, current: Any) -> Verdict:
        """Return the gate's verdict as it looks: on a sample of each."""
        taken = [self.module.sample(frame, self.settings) for frame in (reference, current)]
        return self.verdict(*taken)


def _preset(reference: Any, current: Any) -> Verdict:
    """Return what Evidently's default preset says of the two: FAIL when half of the columns drifted."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = Report([DataDriftPreset()], include_tests=True).run(current, reference).dict()
    return Verdict.PASS if document["tests"][0]["status"] == "SUCCESS" else Verdict.FAIL


@entries(
    drift=("s", Goal("ratio", at_most=0.2)),
    drift_same_as_all_rows=("of 7", Goal(at_least=7)),
    drift_same_as_preset=("of 7", Goal(at_least=7)),
)
def drift() -> Mapping[str, Measured]:
    """Time the gate's way and the preset's on the same rows, and set their verdicts side by side."""
    train, holdout, live = _frames()
    import pandas as pd

    reference = pd.concat([train, holdout], ignore_index=True)
    ours = Ours.of()
    ours.sampled(reference, live.head(2000))  # the imports are not what is compared
    _preset(reference.head(2000), live.head(2000))
    columns = [name for name in ours.settings.columns if name in live]
    mine, theirs, narrow = [], [], []
    said: dict[str, tuple[Verdict, ...]] = {}
    for name, before, after in _candidates(reference, live):
        took, sampled = _timed(ours.sampled, before, after)
        mine.append(took)
        took, preset = _timed(_preset, before, after)
        theirs.append(took)
        took, same_columns = _timed(_preset, before[columns], after[columns])
        narrow.append(took)
        said[name] = (sampled, ours.verdict(before, after), preset, same_columns)
    told = "; ".join(f"{name}: {' '.join(said[name])}" for name in said)
    note = "month: sample, all rows, preset, preset on the gate's columns. " + told
    peer = "Evidently's default preset, all rows"
    seconds = (
        f"7 candidates beside {len(reference):,} rows; the preset on the gate's columns {sum(narrow):.1f} s"
    )
    return {
        "drift": Measured(sum(mine), peer, sum(theirs), seconds),
        "drift-same-as-all-rows": Measured(sum(one[0] == one[1] for one in said.values()), note=note),
        "drift-same-as-preset": Measured(sum(one[0] == one[2] for one in said.values()), note=note),
    }


def _timed(what: Any, *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    found = what(*arguments)
    return time.perf_counter() - began, found


OUTCOMES = {0: "PASS", 1: "FAIL", 2: "INCONCLUSIVE"}


@entries(offline_gates=("s", Goal(at_most=60)))
def offline() -> Mapping[str, Measured]:
    """Run every gate that needs files only: January to June for train, September for the holdout."""
    from tidegate.selftest.room import Room

    root = ROOT.absolute()
    names = [name for name in gating.names(root) if gating.load(root, name).needs == "files"]
    took: dict[str, float] = {}
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        room = Room.make(root, Path(folder) / "room", MODEL)
        with contextlib.closing(room):
            _fill(room)
            for name in names:
                took[name], code = _timed(_script, room.root, f"gates.{name.replace('-', '_')}", MODEL)
                said.append(f"{name} {took[name]:.1f} s {OUTCOMES.get(code, 'ERROR')}")
    note = f"{', '.join(said)}; September by the model of April"
    return {"offline-gates": Measured(sum(took.values()), note=note)}


def _fill(room: Any) -> None:
    """Put the rows in a room, and what evaluation makes of them."""
    train, holdout, live = _frames()
    import pandas as pd

    month = live[live["date"].str[5:7] == "09"].reset_index(drop=True)
    room.write("train", pd.concat([train, holdout], ignore_index=True))
    room.write("holdout", month)
    for name in ("predictions.parquet", "importance.json", "metrics.json", "plots"):
        room.edit(f"build/{MODEL}/{name}")  # a copy of its own, to be written over
    if _script(room.root, f"models.{MODEL.replace('-', '_')}.evaluate"):
        raise CannotRun("the evaluation failed: run `dvc repro evaluate` to see why")


def _script(root: Path, module: str, *arguments: str) -> int:
    """Run a script as the pipeline does, in a process of its own; return its exit code."""
    environment = {**os.environ, "TIDEGATE_HOME": str(root / ".tidegate"), "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False).returncode
