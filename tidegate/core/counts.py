"""What one look at the counters gives: requests, errors and answers per latency bucket. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Buckets = tuple[tuple[float, int], ...]  # (upper bound in ms, answers in this bucket), ascending


class Cumulative(Protocol):
    """Counters since a process started; `latency` counts answers at or below each bound (ports.Counters)."""

    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def latency(self) -> tuple[tuple[float, int], ...]: ...


@dataclass(frozen=True)
class Counts:
    """What one arm saw in one look; `latency` is per bucket, not cumulative."""

    requests: int = 0
    errors: int = 0
    latency: Buckets = ()

    def plus(self, other: Counts) -> Counts:
        """Return the sum; of buckets with different bounds, the newer ones."""
        mine, new = self.latency, other.latency
        if mine and new and [b for b, _ in mine] == [b for b, _ in new]:
            new = tuple((bound, a + b) for (bound, a), (_, b) in zip(mine, new, strict=True))
        return Counts(self.requests + other.requests, self.errors + other.errors, new or mine)


@dataclass(frozen=True)
class Window:
    """The counts of one look. `share` is the candidate's configured share of requests, weight / 100.

    In a look during which the weight changed, pass the larger of the two shares: a request that went to
    the candidate is then never counted as more than its share.
    """

    candidate: Counts
    stable: Counts
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the candidate's share must be in (0, 1], not {self.share}")


def delta(before: Cumulative | None, after: Cumulative) -> Counts:
    """Return what was counted between two readings of the same counters.

    If any counter went down, the process that counts was restarted: all of `after` is new.
    """
    old, new = _per_bucket(before.latency) if before else (), _per_bucket(after.latency)
    if before is None or before.requests > after.requests or before.errors > after.errors:
        return Counts(after.requests, after.errors, new)
    seen = dict(before.latency)
    if any(seen.get(bound, 0) > count for bound, count in after.latency):
        return Counts(after.requests, after.errors, new)
    if old and [b for b, _ in old] != [b for b, _ in new]:
        latency: Buckets = ()  # other buckets: nothing in this look can be attributed
    else:
        was = dict(old)
        latency = tuple((bound, max(0, count - was.get(bound, 0))) for bound, count in new)
    return Counts(after.requests - before.requests, after.errors - before.errors, latency)


def _per_bucket(cumulative: Sequence[tuple[float, int]]) -> Buckets:
    below = 0
    result = []
    for bound, count in cumulative:
        result.append((bound, max(0, count - below)))
        below = max(below, count)
    return tuple(result)


def slower(buckets: Buckets, limit: float) -> tuple[int, int, int]:
    """Return (answers, surely slower than `limit`, possibly slower)."""
    answers = certain = possible = 0
    lower = 0.0
    edge = limit * (1 - 1e-9)
    for upper, count in buckets:
        answers += count
        certain += count if lower >= edge else 0
        possible += count if upper * (1 - 1e-9) > limit else 0
        lower = upper
    return answers, certain, possible


def counts_to_dict(counts: Counts) -> dict[str, Any]:
    latency = [[None if math.isinf(bound) else bound, count] for bound, count in counts.latency]
    return {"requests": counts.requests, "errors": counts.errors, "latency": latency}


def counts_from_dict(value: Mapping[str, Any]) -> Counts:
    latency = tuple((math.inf if bound is None else float(bound), int(n)) for bound, n in value["latency"])
    return Counts(value["requests"], value["errors"], latency)
