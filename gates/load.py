"""Is the staging endpoint quick and whole under load, and no slower than production's release?

Locust sends rows of the live stream: to the endpoint, at a rate, against objectives; then faster and faster,
for the highest rate that keeps them; then in turns to a copy of the candidate and one of what production
runs, for their ratio, in which the machine's speed cancels out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tidegate import gating, stream, turns, wiring
from tidegate.adapters import locust
from tidegate.core import gate
from tidegate.core import load as compare
from tidegate.core.exhibits import Chart, Comparison, Series, Table
from tidegate.core.scores import percentile
from tidegate.core.verdict import Finding, Verdict
from tidegate.endpoint import answering

Above = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]


class Climb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The search for the highest rate that keeps the objectives."""

    step: Above  # seconds a rate
    users: Count
    top: Above  # requests a second; no higher rate is tried


class LoadSettings(gating.Settings, frozen=True):
    """The `load` section: `rate` is requests a second over all users; latencies in milliseconds."""

    rows: Count
    seed: int
    users: Count
    rate: Above
    duration: Above  # seconds, after the warm-up
    warmup: Above
    looks: Count  # at most so many durations, while there is too little to tell
    min_requests: Count
    p50: Above
    p95: Above
    p99: Above
    min_throughput: Above
    error_rate: Share
    climb: Climb
    turns: turns.Turns


QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
SHOWN = (0.25, 0.50, 0.75, 0.90, 0.95, 0.99)


@dataclass
class _Seen:
    """What one part of the gate adds to the whole."""

    findings: list[Finding] = field(default_factory=list)
    measurements: dict[str, Any] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    lines: dict[str, Any] = field(default_factory=dict)  # name → latencies


def look(subject: gating.Subject[LoadSettings]) -> gating.Looked:
    """Send the load and compare what came back."""
    limits = subject.settings
    rows = stream.requests(subject.package, subject.data("live"), rows=limits.rows, seed=limits.seed)
    with locust.generator(rows) as sender:
        steady, first = _steady(sender, subject)
        steady.findings.append(answering(subject.endpoint, rows, subject.release))
        climbed, climb = _climb(sender, subject, first)
        beside = _beside(sender, subject)
    parts = (steady, climbed, beside)
    lines = {name: values for part in parts for name, values in part.lines.items()}
    measurements = {name: value for part in parts for name, value in part.measurements.items()}
    return gating.Looked(
        [finding for part in parts for finding in part.findings],
        {**measurements, "users": limits.users, "rows": len(rows), "release": subject.record().id},
        beside.comparisons,
        [_quantiles(lines), climb],
        climbed.tables,
    )


def _steady(sender: locust.Generator, subject: gating.Subject[LoadSettings]) -> tuple[_Seen, compare.Rung]:
    """One rate, against objectives; longer while too few failures are seen to tell."""
    limits, warmup = subject.settings, subject.settings.warmup
    seen: locust.Load | None = None
    for _ in range(limits.looks):
        more = sender.load(
            f"{subject.endpoint}/predict",
            users=limits.users,
            rate=limits.rate,
            seconds=limits.duration,
            warmup=warmup,
        )
        seen, warmup = more if seen is None else seen.and_then(more), 0.0
        errors = compare.error_rate("error rate", seen.failures, seen.requests, limits.error_rate)
        if errors.verdict is not Verdict.INCONCLUSIVE:
            break
    assert seen is not None
    throughput = seen.requests / seen.seconds
    quantiles = {name: percentile(seen.latencies, share) for name, share in QUANTILES.items()}
    times = [gate.at_most(name, quantiles[name], getattr(limits, name), "ms") for name in QUANTILES]
    sample = gate.enough("requests", seen.requests, limits.min_requests)
    # `errors` is not held back: failures say something at any number of requests.
    times.append(gate.at_least("throughput", throughput, limits.min_throughput, "requests/s"))
    measured = {
        **quantiles,
        "requests": seen.requests,
        "failures": seen.failures,
        "failure_reasons": dict(seen.reasons),
        "throughput": throughput,
        "generator": {"busy": seen.busy, "late": seen.late},
    }
    return _Seen(
        [*gate.hold_back(sample, times), errors], measured, lines={"endpoint": seen.latencies}
    ), _rung(limits.rate, seen)


def _rung(rate: float, seen: locust.Load) -> compare.Rung:
    p95 = percentile(seen.latencies, 0.95)
    return compare.Rung(rate, seen.seconds, p95, seen.requests, seen.failures, seen.busy, seen.late)


def _climb(
    sender: locust.Generator, subject: gating.Subject[LoadSettings], first: compare.Rung
) -> tuple[_Seen, Chart]:
    """Step up to the highest rate that keeps p95 and the error rate."""
    limits, climb = subject.settings, subject.settings.climb
    objective = compare.Objective(limits.p95, limits.error_rate)
    rungs = [first]
    while (rate := compare.next_rate(rungs, objective, first=limits.rate, top=climb.top)) is not None:
        url = f"{subject.endpoint}/predict"
        seconds = compare.step_seconds(rate, climb.step)
        seen = sender.attempt(url, users=climb.users, rate=rate, seconds=seconds, warmup=climb.step / 4)
        rungs.append(_rung(rate, seen))
    found = compare.capacity(rungs, objective)
    processes = wiring.platform(subject.root, "staging").workloads.replicas
    measured = {"rate": found.rate, "limit": found.limit, "words": found.words, "processes": processes}
    ordered = compare.shown(rungs, objective)
    columns = ("requests/s", "tries", "answered/s", "p95, ms", "failed", "generator, share of a core", "kept")
    cells = tuple(
        (r.rate, tries, r.answered, r.p95, r.failures, r.busy, "yes" if compare.kept(r, objective) else "no")
        for r, tries in ordered
    )
    line = Series("p95", tuple(rung.rate for rung, _ in ordered), tuple(rung.p95 for rung, _ in ordered))
    chart = Chart("Latency by rate", "line", (line,), "requests/s", "ms")
    findings = [compare.enough_capacity("highest rate", found, limits.min_throughput)]
    return _Seen(
        findings, {"capacity": measured}, tables=[Table("Rates that were tried", columns, cells)]
    ), chart


def _beside(sender: locust.Generator, subject: gating.Subject[LoadSettings]) -> _Seen:
    """Compare with a copy of what production runs."""
    candidate, production = subject.record(), subject.production()
    if production is None:
        return _Seen([gate.not_applicable("against production", "production runs no release of this model")])
    if production.id == candidate.id:
        return _Seen([gate.not_applicable("against production", f"production runs {candidate.id} itself")])
    limits = subject.settings
    with subject.serve(candidate) as one, subject.serve(production) as other:
        found = turns.take(
            sender,
            limits.turns,
            one,
            other,
            looks=limits.looks,
            error_rate=limits.error_rate,
            seed=limits.seed,
        )
    return _Seen(
        list(found.findings),
        {"turns": found.measured},
        list(found.comparisons),
        lines=dict(found.latencies),
    )


def _quantiles(lines: Mapping[str, Any]) -> Chart:
    series = [
        Series(name, tuple(f"p{share * 100:g}" for share in SHOWN), tuple(percentile(v, s) for s in SHOWN))
        for name, v in lines.items()
    ]
    return Chart("Latency", "line", tuple(series), "quantile", "ms")


GATE = gating.Gate(
    "load",
    LoadSettings,
    look,
    needs="endpoint",
    inputs="The staging endpoint, the live stream's rows, the Bentos of the candidate and of production's.",
    fix="Profile the service: the report says which quantile broke its objective, and beside what.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
