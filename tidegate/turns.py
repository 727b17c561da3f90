"""Two served copies, asked in turns by Locust, and what may be said of one beside the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from tidegate.adapters import locust
from tidegate.core import gate
from tidegate.core import load as compare
from tidegate.core.exhibits import Comparison
from tidegate.core.verdict import Finding, Verdict
from tidegate.machine.copies import Copy

Margin = Annotated[float, Meta(gt=0, le=10)]
Seconds = Annotated[float, Meta(gt=0)]
BLOCK = 0.25  # seconds on one core, then on the next; longer than most of a machine's moods last
COMPARED = {"p50": "ms", "p95": "ms", "throughput": "requests/s"}


class Margins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By how much worse than production's is accepted: 0.1 is ten percent."""

    p50: Margin
    p95: Margin
    throughput: Margin  # of one connection


class Turns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How two copies are compared."""

    duration: Seconds  # of one look
    warmup: Seconds  # not counted
    min_answers: Annotated[int, Meta(ge=1)]  # of each; fewer are INCONCLUSIVE
    resolution: Annotated[float, Meta(ge=0, le=1)]  # by which two processes of one release may differ
    margins: Margins


@dataclass(frozen=True)
class Beside:
    """What came of it: `latencies` in milliseconds, and `measured` for the report."""

    findings: Sequence[Finding]
    comparisons: Sequence[Comparison]
    measured: Mapping[str, Any]
    latencies: Mapping[str, Sequence[float]]


def take(
    sender: locust.Generator,
    settings: Turns,
    candidate: Copy,
    production: Copy,
    *,
    looks: int,
    error_rate: float,
    seed: int,
) -> Beside:
    """Ask both with the same rows in turns; look again, `looks` times in all, while one can't tell."""
    sides = [compare.Side.none(), compare.Side.none()]
    for number in range(looks):
        answers = sender.turns(
            [f"{copy.url}/predict" for copy in (candidate, production)],
            [candidate.pid, production.pid],
            seconds=settings.duration,
            warmup=settings.warmup,
            seed=seed + number,
            block=BLOCK,
        )
        sides = [side.and_then(_side(answers, index)) for index, side in enumerate(sides)]
        # Who may look again must be surer each time (Bonferroni).
        found = _judge(settings, sides[0], sides[1], error_rate, confidence=1 - 0.01 / looks, seed=seed)
        if not any(finding.verdict is Verdict.INCONCLUSIVE for finding in found.findings):
            break
    return found


def _side(answers: locust.Turns, index: int) -> compare.Side:
    cpu = [np.nan if spent is None else spent for spent in answers.cpu[index]]
    return compare.Side(
        np.array(answers.latencies[index], dtype=float),
        np.array(answers.blocks[index], dtype=np.int64),
        np.array(cpu, dtype=float),
        answers.failures[index],
    )


def _judge(
    settings: Turns,
    candidate: compare.Side,
    production: compare.Side,
    error_rate: float,
    *,
    confidence: float,
    seed: int,
) -> Beside:
    sample, errors = compare.whole(candidate, production, error_rate, settings.min_answers)
    found = compare.ratios(
        candidate, production, seed=seed, confidence=confidence, resolution=settings.resolution
    )
    pairs = [
        gate.beside(
            f"{name} against production",
            ratio.candidate,
            ratio.production,
            (ratio.low, ratio.high),
            getattr(settings.margins, name),
            higher_is_better=name == "throughput",
            scale="ratio",
            confidence=confidence,
            unit=COMPARED[name],
            hint="send for longer (`turns.duration`), on a quieter machine",
        )
        for name, ratio in found.items()
        if name in COMPARED
    ]
    sides = {"candidate": candidate, "production": production}
    return Beside(
        [errors, *gate.hold_back(sample, [finding for finding, _ in pairs])],
        [shown for _, shown in pairs if shown],
        {
            "answers": {name: len(side.latencies) for name, side in sides.items()},
            "failures": {name: side.failures for name, side in sides.items()},
            "ratios": {name: asdict(ratio) for name, ratio in found.items()},
            "confidence": confidence,
        },
        {name: side.latencies.tolist() for name, side in sides.items()},
    )
