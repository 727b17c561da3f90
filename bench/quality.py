"""Is the quality gate honest? The real holdout resampled, with candidates whose difference is known. Seeded.

The champion is the model's own predictions. A candidate that is *equal* is it with another draw of the same
noise, the two swapped at random in each row of each resample: then neither is better, in any metric. One that
is *worse* is spoiled until it is, on the whole holdout, worse by the margin or by twice the margin in one
metric; resamples of the holdout's rows then differ by that on average. Verdicts are those of gates/quality.py
with the model's own settings.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.registry import CannotRun, Goal, Measured, entries
from bench.rollouts import wilson
from tidegate import params
from tidegate.core import scores
from tidegate.core.verdict import Verdict

MODEL = "flight-delay"
RESAMPLES = 1000
NOISE = 0.2  # of the log odds, in both; two trainings with other seeds are about this far apart
SEED = 20130706
Rows = dict[str, Any]  # name of a set of predictions → probabilities


def gate() -> Any:
    """Return the gate's script."""
    return importlib.import_module("gates.quality")


@functools.cache
def settings() -> Any:
    """Return the model's own settings of the gate."""
    return params.load(Path.cwd()).settings("quality", MODEL, gate().QualitySettings)


@functools.cache
def declared() -> Any:
    """Return what the model is for; its holdout's probabilities are what is spoiled here."""
    return params.load(Path.cwd()).declared(MODEL)


def rows_of(labels: Any, probabilities: Any) -> scores.Sample:
    """Return rows as metrics take them."""
    return scores.sample(declared(), labels, probabilities, threshold=settings().threshold)


def holdout() -> tuple[Any, ...]:
    """Return labels and probabilities of the holdout; raises CannotRun when there are none."""
    import pyarrow.parquet as parquet

    path = Path("build") / MODEL / "predictions.parquet"
    if not path.is_file():
        raise CannotRun(f"no {path}: run `dvc repro` first")
    names = [declared().label, *declared().columns]
    table = parquet.read_table(path, columns=names)
    return tuple(table[name].to_numpy() for name in names)


def spoiled(metric: scores.Metric, labels: Any, champion: Any, worse: float) -> Any:
    """Return predictions that are worse by `worse` on these rows: with noise, or called too high."""
    noise = np.random.default_rng(SEED).normal(size=len(champion))
    odds, start = np.log(champion) - np.log1p(-champion), metric.value(rows_of(labels, champion))
    low, high = 0.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        change = middle if metric.name == "calibration_error" else middle * noise
        made = 1 / (1 + np.exp(-(odds + change)))
        found = metric.value(rows_of(labels, made)) - start
        low, high = (
            (middle, high) if (-found if metric.higher_is_better else found) < worse else (low, middle)
        )
    return made


def sets(labels: Any, champion: Any, how: Any) -> Rows:
    """Return the predictions by name: two equals, and per metric one at the margin and one at twice it."""
    random = np.random.default_rng(SEED)
    odds = np.log(champion) - np.log1p(-champion)
    found = {
        name: 1 / (1 + np.exp(-(odds + random.normal(scale=NOISE, size=len(odds)))))
        for name in ("one", "other")
    }
    for name, margin in how.against.items():
        for times in (1, 2):
            found[f"{name} x{times}"] = spoiled(scores.of(declared())[name], labels, champion, times * margin)
    return found


def resample(seed: int, count: int) -> dict[str, list[str]]:
    """Return case → the verdicts of so many resamples; cases are `equal auc`, `auc x2` and the like."""
    how = settings()
    labels, champion = holdout()
    made = sets(labels, champion, how)
    random = np.random.default_rng(seed)
    verdicts: dict[str, list[str]] = {}
    for _ in range(count):
        rows = random.integers(0, len(labels), len(labels))
        truth, swap = labels[rows], random.random(len(rows)) < 0.5
        one, other = made["one"][rows], made["other"][rows]
        equal = np.where(swap, one, other), np.where(swap, other, one)
        for name in how.against:
            cases = {f"equal {name}": equal}
            cases |= {f"{name} x{n}": (made[f"{name} x{n}"][rows], champion[rows]) for n in (1, 2)}
            for case, (candidate, production) in cases.items():
                found, _ = gate().compare(name, rows_of(truth, candidate), rows_of(truth, production), how)
                verdicts.setdefault(case, []).append(str(found.verdict))
    return verdicts


def all_resamples() -> dict[str, list[str]]:
    """Share the resamples among the cores."""
    holdout()
    cores = os.cpu_count() or 1
    counts = [RESAMPLES // cores + (part < RESAMPLES % cores) for part in range(cores)]
    found: dict[str, list[str]] = {}
    with ProcessPoolExecutor(cores) as pool:
        for part in pool.map(resample, range(SEED, SEED + cores), counts):
            for case, verdicts in part.items():
                found.setdefault(case, []).extend(verdicts)
    return found


@entries(
    quality_honesty=("of equal candidates called worse", Goal(at_most=0.05)),
    quality_power=("of candidates worse by twice the margin caught", Goal(at_least=0.95)),
)
def honesty() -> Mapping[str, Measured]:
    """How often an equal is called worse by any metric, and one worse by twice the margin by that metric."""
    verdicts = all_resamples()
    names = list(settings().against)
    verdicts["equal, any"] = [
        str(Verdict.FAIL) if str(Verdict.FAIL) in row else str(Verdict.PASS)
        for row in zip(*(verdicts[f"equal {name}"] for name in names), strict=True)
    ]
    worse = {case: sum(v == Verdict.FAIL for v in found) for case, found in verdicts.items()}
    _print(names, verdicts, worse)

    def told(case: str) -> str:
        low, high = wilson(worse[case], RESAMPLES)
        return f"{worse[case] / RESAMPLES:.3f} ({low:.3f}-{high:.3f})"

    at = ", ".join(f"{name} {told(f'{name} x1')}" for name in names)
    each = ", ".join(f"{name} {told(f'{name} x2')}" for name in names)
    return {
        "quality-honesty": Measured(
            worse["equal, any"] / RESAMPLES,
            note=f"{told('equal, any')} of {RESAMPLES}; exactly at the margin: {at}",
        ),
        "quality-power": Measured(min(worse[f"{name} x2"] for name in names) / RESAMPLES, note=each),
    }


def _print(names: list[str], verdicts: Mapping[str, list[str]], worse: Mapping[str, int]) -> None:
    """Tell every case: how often PASS, INCONCLUSIVE and FAIL (called worse), with its 95% Wilson interval."""
    cases = [
        "equal, any",
        *(case for name in names for case in (f"equal {name}", f"{name} x1", f"{name} x2")),
    ]
    print(f"{'candidate':<26}{'PASS':>8}{'INCONCL.':>10}{'FAIL':>8}   called worse", file=sys.stderr)
    for case in cases:
        shares = [verdicts[case].count(str(v)) / RESAMPLES for v in (Verdict.PASS, Verdict.INCONCLUSIVE)]
        low, high = wilson(worse[case], RESAMPLES)
        share = worse[case] / RESAMPLES
        print(
            f"{case:<26}{shares[0]:>8.3f}{shares[1]:>10.3f}{share:>8.3f}   {low:.4f} to {high:.4f}",
            file=sys.stderr,
        )
