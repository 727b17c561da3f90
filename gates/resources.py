"""What does the release take of a machine: memory, CPU, start-up time, size? And does it leak?

A copy of its Bento is started, and one of production's beside it; both answer the same rows, block by
block in turn, while their memory and CPU time are read. A leak is a slope, in kB a thousand requests after
a warm-up, with an interval. CPU, memory and size are also compared with production's, so that a slow
machine fails nobody.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from tidegate import bentos, gating
from tidegate.core import gate, usage
from tidegate.core.exhibits import Chart, Comparison, Series, Table
from tidegate.core.release import ReleaseRecord
from tidegate.core.usage import Readings
from tidegate.core.verdict import Finding
from tidegate.files import size
from tidegate.machine.copies import Copy
from tidegate.machine.soak import soak, takes

Count = Annotated[int, msgspec.Meta(ge=1)]
Limit = Annotated[float, msgspec.Meta(ge=0)]

MB = 1_000_000
NOBODY = "nothing else is in production to compare with"


class Margins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much more than production's a release may take; 0.25 is a quarter more."""

    cpu: Limit
    memory: Limit
    size: Limit


class ResourcesSettings(gating.Settings, frozen=True):
    """The `resources` section; memory and sizes in MB (1,000,000 bytes), times in seconds."""

    requests: Count  # to each copy, after the warm-up
    warmup: Count  # requests that are not looked at
    min_requests: Count
    starts: Count
    leak: Limit  # kB a thousand requests
    growth: Limit
    memory: Limit
    cpu: Limit  # seconds a thousand predictions
    start_up: Limit
    bento_size: Limit
    image_size: Limit
    margins: Margins


@dataclass(frozen=True)
class Side:
    """One release and what was read of its copy; `bytes` is the size of its Bento, `start_up` in seconds.

    `image` is the size of its image in bytes, None where releases run as processes.
    """

    record: ReleaseRecord
    seen: Readings
    start_up: float
    bytes: int
    image: int | None


def look(subject: gating.Subject[ResourcesSettings]) -> gating.Looked:
    """Start, load and read the copies; then compare."""
    limits, record, production = subject.settings, subject.record(), subject.production()
    compared = [record, *([production] if production and production.id != record.id else [])]
    starts = [_start(subject, record) for _ in range(limits.starts - 1)]
    with ExitStack() as serving:
        copies = [serving.enter_context(subject.serve(one)) for one in compared]
        read = soak(_with_rows(subject, compared, copies), requests=limits.requests, warmup=limits.warmup)
    times = [*starts, copies[0].ready_after]
    sides = [
        Side(one, seen, copy.ready_after, size(subject.bento(one)), subject.image_bytes(one))
        for one, seen, copy in zip(compared, read, copies, strict=True)
    ]
    findings = _alone(limits, sides[0], times)
    comparisons: list[Comparison] = []
    images = image_sizes(limits, sides[0].image, sides[1].image if sides[1:] else None)
    for found, shown in [*images, *(_beside(limits, *sides) if sides[1:] else _nobody())]:
        findings.append(found)
        comparisons += [shown] if shown else []
    measured = {"start_up_seconds": times, **{one.record.id: _numbers(one) for one in sides}}
    return gating.Looked(findings, measured, comparisons, [_chart(sides)], [_table(sides)])


def _start(subject: gating.Subject[ResourcesSettings], record: ReleaseRecord) -> float:
    with subject.serve(record) as copy:
        return copy.ready_after


def _with_rows(
    subject: gating.Subject[ResourcesSettings], compared: Sequence[ReleaseRecord], copies: Sequence[Copy]
) -> list[tuple[Copy, list[dict[str, Any]]]]:
    """Return each copy with its rows: production's for both, unless the candidate asks for others."""
    rows = [bentos.warmup_rows(subject.bento(one)) for one in compared]
    if rows[1:] and rows[-1] and takes(copies[0], rows[-1]):
        rows[0] = rows[-1]
    return list(zip(copies, rows, strict=True))


# ---------------------------------------------------------------- findings
def _alone(limits: ResourcesSettings, side: Side, times: Sequence[float]) -> list[Finding]:
    seen = side.seen
    sample = gate.enough("requests", seen.counted, limits.min_requests)
    grown = usage.slope(seen.done, [one / 1000 for one in seen.own])
    own = [one / MB for one in seen.own]
    peak = max((one.rss for one in seen.memory), default=seen.ready.rss) / MB
    costs = statistics.fmean(seen.costs) if seen.costs else None
    load = [
        usage.leak("leak", grown, limits.leak, "kB a thousand requests"),
        gate.at_most("memory growth under load", own[-1] - own[0] if own else None, limits.growth, "MB"),
        gate.at_most("CPU", costs, limits.cpu, "s a thousand predictions"),
    ]
    return [
        usage.answered("answers", seen),
        *gate.hold_back(sample, load),
        gate.at_most("memory", peak, limits.memory, "MB"),
        gate.at_most("start-up", statistics.median(times), limits.start_up, "s"),
        gate.at_most("Bento size", side.bytes / MB, limits.bento_size, "MB"),
    ]


def _beside(limits: ResourcesSettings, ours: Side, theirs: Side) -> list[tuple[Finding, Comparison | None]]:
    margins = limits.margins
    own, production = ([value / MB for value in side.seen.own] for side in (ours, theirs))
    return [
        (usage.comparable("answers of production's copy", theirs.seen), None),
        usage.beside(
            "CPU beside production",
            ours.seen.costs,
            theirs.seen.costs,
            margins.cpu,
            "s a thousand predictions",
        ),
        usage.beside("memory beside production", own, production, margins.memory, "MB"),
        _larger("Bento size beside production", ours.bytes, theirs.bytes, margins.size),
    ]


def image_sizes(
    limits: ResourcesSettings, ours: int | None, theirs: int | None
) -> list[tuple[Finding, Comparison | None]]:
    """Return what is found of the images' bytes; without one of ours, releases run as processes."""
    name = "image size"
    if ours is None:
        return [(gate.not_applicable(name, f"{name}: releases run as processes, without an image"), None)]
    found: list[tuple[Finding, Comparison | None]] = [
        (gate.at_most(name, ours / MB if ours else None, limits.image_size, "MB"), None)
    ]
    if theirs is not None:
        found.append(_larger(f"{name} beside production", ours, theirs, limits.margins.size))
    return found


def _larger(name: str, ours: int, theirs: int, margin: float) -> tuple[Finding, Comparison | None]:
    exactly = ours / theirs if theirs else math.nan
    sizes = (ours / MB, theirs / MB)
    return gate.beside(
        name, *sizes, (exactly, exactly), margin, higher_is_better=False, scale="ratio", unit="MB"
    )


def _nobody() -> list[tuple[Finding, Comparison | None]]:
    names = ("CPU", "memory", "Bento size")
    return [(gate.not_applicable(f"{one} beside production", f"{one}: {NOBODY}"), None) for one in names]


# ---------------------------------------------------------------- what a person looks at
def _numbers(side: Side) -> dict[str, Any]:
    seen = side.seen
    return {
        "requests": seen.sent,
        "failures": seen.failed,
        "cpu_seconds_a_thousand": seen.costs,
        "start_up_seconds": side.start_up,
        "bento_bytes": side.bytes,
        "uss_bytes": seen.own,
    }


def _chart(sides: Sequence[Side]) -> Chart:
    names = ("candidate", "production")
    lines = tuple(
        Series(name, tuple(one.seen.done), tuple(value / MB for value in one.seen.own))
        for name, one in zip(names, sides, strict=False)
    )
    return Chart("Memory of the process alone", "line", lines, "requests", "MB (USS)")


def _table(sides: Sequence[Side]) -> Table:
    rows: list[tuple[str | float | None, ...]] = []
    for name, one in zip(("candidate", "production"), sides, strict=False):
        seen = one.seen
        moments = [("ready", 0, seen.ready)]
        if seen.memory:
            moments += [
                ("warm", seen.done[0], seen.memory[0]),
                ("at the end", seen.done[-1], seen.memory[-1]),
            ]
        for moment, count, at in moments:
            rows.append((name, moment, count, at.rss / MB, at.uss / MB, at.pss / MB))
    columns = ("release", "when", "requests", "RSS in MB", "USS in MB", "PSS in MB")
    return Table("Memory before and after the load", columns, tuple(rows))


GATE = gating.Gate(
    "resources",
    ResourcesSettings,
    look,
    needs="release",
    inputs="The release's Bento and production's in this machine's store, and the rows that they bring.",
    fix="A leak: look at what a request leaves behind (a list, a cache without a bound, a logger's handler). "
    "CPU or memory: profile the service, the report says how much more than production's it takes.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
