"""Training–serving skew: what the pipeline computes of raw rows beside what the service computed of them.

A feature that is not known is NaN in the pipeline and null in an answer: the same. A number against nothing
is a difference, whatever the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.core import gate
from tidegate.core.contract import Answer, answer_problem
from tidegate.core.exhibits import Table
from tidegate.core.verdict import Finding

SHOWN = 12  # features in the table


@dataclass(frozen=True)
class Served:
    """What the service made of one raw row: `row` says which, `problem` why there is nothing to compare."""

    row: str
    features: Mapping[str, float | None]
    predictions: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class Skew:
    """How one feature differs: in how many rows, by how much at worst, and where that is."""

    feature: str
    rows: int
    differing: int
    worst: float
    pipeline: float | None
    service: float | None
    where: str


def served(row: str, features: Answer, predicted: Answer, wanted: Sequence[str]) -> Served:
    """Read two answers to one row: its features, and the fields `wanted` of its prediction."""
    for path, answer, fields in (("/features", features, ["features"]), ("/predict", predicted, wanted)):
        problem = answer_problem(answer, lambda body: "")
        lost = [] if problem else [name for name in fields if name not in answer.body]
        if problem or lost:
            return Served(row, {}, {}, f"{path}: {problem or f'there is no `{lost[0]}` in the answer'}")
    values = features.body["features"]
    odd = not isinstance(values, dict) or any(not (v is None or _number(v)) for v in values.values())
    if odd:
        return Served(row, {}, {}, "/features: not all features are numbers or null")
    return Served(row, values, {name: predicted.body[name] for name in wanted})


def names(served: Sequence[Served], wanted: Sequence[str]) -> Finding:
    """Return whether every answer names the pipeline's features, all of them and no other."""
    found = {tuple(sorted(one.features)) for one in served if not one.problem}
    if not any(found):
        return gate.error("names of features", "names of features: no answer names a feature")
    odd = next((one for one in found if set(one) != set(wanted)), tuple(wanted))
    return gate.expected("names of features", odd if found else (), list(wanted), "features")


def difference(pipeline: float, service: float | None) -> float:
    """Return the distance of two values; 0 where both are not known, infinite where one is not."""
    unknown = math.isnan(pipeline), service is None or math.isnan(service)
    if any(unknown) or service is None:
        return 0.0 if all(unknown) else math.inf
    return 0.0 if pipeline == service else abs(pipeline - service)


def skews(
    names: Sequence[str], matrix: Sequence[Sequence[float]], served: Sequence[Served], tolerance: float
) -> list[Skew]:
    """Return each feature's skew, the worst first; `matrix` has a row for each of `served`."""
    found = []
    for index, name in enumerate(names):
        pairs = [(row[index], one.features[name], one.row) for row, one in zip(matrix, served, strict=True)]
        apart = [difference(ours, theirs) for ours, theirs, _ in pairs]
        place = max(range(len(apart)), key=apart.__getitem__)
        ours, theirs, where = pairs[place]
        differing = sum(not one <= tolerance for one in apart)
        shown = None if math.isnan(ours) else ours
        found.append(Skew(name, len(pairs), differing, apart[place], shown, theirs, where))
    return sorted(found, key=lambda one: (-one.differing, -one.worst))


def feature_findings(found: Sequence[Skew]) -> list[Finding]:
    """Return a finding for all values, and one for each feature that differs by more than the tolerance."""
    if not found or not all(one.rows for one in found):
        return [gate.error("features", "features: there was no row or no feature to compare")]
    values, differing = sum(one.rows for one in found), sum(one.differing for one in found)
    first = f"{found[0].feature}, {_beside(found[0])}"
    return [
        gate.none_of("features", differing, values, "values", first),
        *(
            gate.none_of(f"feature {one.feature}", one.differing, one.rows, "rows", _beside(one))
            for one in found
            if one.differing
        ),
    ]


def _beside(one: Skew) -> str:
    return f"{_shown(one.pipeline)} in the pipeline, {_shown(one.service)} in the service ({one.where})"


def _shown(value: float | None) -> str:
    return "unknown" if value is None else repr(value)


def predictions(
    name: str, pipeline: Sequence[float], service: Sequence[Any], rows: Sequence[str], tolerance: float
) -> Finding:
    """Compare two predictions of each row; one that is no number is a difference."""
    if not len(pipeline) or len(pipeline) != len(service):
        return gate.error(name, f"{name}: {len(pipeline)} beside {len(service)} predictions")
    if not all(map(math.isfinite, pipeline)):
        return gate.error(name, f"{name}: not all of the pipeline's predictions are numbers")
    apart = [
        difference(ours, theirs) if _number(theirs) else math.inf
        for ours, theirs in zip(pipeline, service, strict=True)
    ]
    place = max(range(len(apart)), key=apart.__getitem__)
    if not math.isfinite(apart[place]):
        text = f"{pipeline[place]!r} beside {service[place]!r} ({rows[place]})"
        return gate.none_of(name, sum(not math.isfinite(one) for one in apart), len(apart), "rows", text)
    found = gate.at_most(name, apart[place], tolerance)
    reason = (
        f"{found.reason}, over {len(apart):,} rows; at worst {pipeline[place]!r} beside {service[place]!r}"
    )
    return Finding(found.name, found.verdict, found.observed, found.limit, f"{reason} ({rows[place]})")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def table(found: Sequence[Skew]) -> Table:
    """Return the worst differences by feature."""
    columns = ("feature", "rows", "rows that differ", "worst difference", "pipeline", "service", "row")
    rows = [
        (
            one.feature,
            float(one.rows),
            float(one.differing),
            one.worst if math.isfinite(one.worst) else "known beside unknown",
            one.pipeline,
            one.service,
            one.where if one.worst else "",
        )
        for one in found[:SHOWN]
    ]
    return Table("Features, the most different first", columns, tuple(rows))


def unanswered(served: Sequence[Served]) -> Finding:
    """Return whether each row was answered with features and a prediction."""
    wrong = [f"{one.row}: {one.problem}" for one in served if one.problem]
    return gate.none_of("rows answered", len(wrong), len(served), "rows", wrong[0] if wrong else "")
