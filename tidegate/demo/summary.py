"""The demo's numbers, computed from the crowd's log and the agent's events. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One request as its sender saw it: when it was answered (epoch seconds), well or not, by whom."""

    at: float
    ok: bool
    release: str  # "" when no release answered
    milliseconds: float


def read_answer(line: str) -> Answer:
    """Parse one line of the crowd's log; raises ValueError."""
    at, ok, release, milliseconds = line.rstrip("\n").split(",")
    return Answer(float(at), ok == "1", release, float(milliseconds))


def _event(events: Sequence[Mapping[str, Any]], kind: str, release: str) -> float | None:
    return next((float(e["at"]) for e in events if e["kind"] == kind and e["release"] == release), None)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 2)


def summarise(
    answers: Sequence[Answer],
    events: Sequence[Mapping[str, Any]],
    releases: Sequence[Mapping[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Return the summary: `releases` are {release, what, fate, expected, marks: name → epoch seconds}.

    A failed request counts against the canary only when the rejected release itself answered it; one
    that nobody answered counts against stable.
    """
    bad = next((r["release"] for r in releases if r["fate"] == "rolled back"), "")
    failed = [a for a in answers if not a.ok]
    by_canary = [a for a in failed if bad and a.release == bad]
    first_bad = min((a.at for a in by_canary), default=None)
    zero, reverted = _event(events, "weight-zero", bad), _event(events, "reverted", bad)
    marks = releases[0]["marks"] if releases else {}
    names = list(marks)
    parts = {f"{a} to {b}": _between(marks[a], marks[b]) for a, b in pairwise(names)}
    healthy = [a.milliseconds for a in answers if a.ok]
    return {
        "push_to_production_s": _between(marks.get("push"), marks.get("in production")),
        "push_to_production_parts_s": parts,
        "first_bad_response_to_weight_zero_s": _between(first_bad, zero),
        "weight_zero_to_revert_pushed_s": _between(zero, reverted),
        "requests_total": len(answers),
        "requests_failed_by_stable": len(failed) - len(by_canary),
        "requests_failed_by_canary": len(by_canary),
        "requests_by_release": dict(Counter(a.release for a in answers if a.release)),
        "latency_ms": _quantiles(healthy),
        "releases": [
            {key: release[key] for key in ("release", "what", "fate", "expected")} for release in releases
        ],
        "seconds": round(seconds, 1),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        f"p{q}": round(ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))], 1) for q in (50, 95, 99)
    }


def shortcomings(summary: Mapping[str, Any]) -> list[str]:
    """Return what did not happen as it must; an empty list is a success."""
    found = [
        f"release {r['release']} ({r['what']}): {r['fate']}, expected: {r['expected']}"
        for r in summary["releases"]
        if r["fate"] != r["expected"]
    ]
    if len(summary["releases"]) < 3:
        found.append(f"{len(summary['releases'])} of 3 releases were made")
    if summary["requests_failed_by_stable"]:
        found.append(
            f"{summary['requests_failed_by_stable']} requests failed that stable should have answered"
        )
    if not summary["requests_total"]:
        found.append("no request was made")
    for key in (
        "first_bad_response_to_weight_zero_s",
        "weight_zero_to_revert_pushed_s",
        "push_to_production_s",
    ):
        if summary[key] is None:
            found.append(f"{key} could not be measured")
    return found
