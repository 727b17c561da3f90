"""What one look at the counters gives: requests, errors and answers per latency bucket. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import add
from typing import Any, Protocol, TypeVar

Buckets = tuple[tuple[float, int], ...]  # (upper bound in ms, answers in this bucket), ascending
Tally = tuple[int, int]  # (trials, events)
SCORE_BINS = 50  # equal bins over the range of the scores (serving/scores.py says the same)


class Cumulative(Protocol):
    """Counters since a process started; `latency` counts answers at or below each bound (ports.Counters).

    `tallies` and `bins` are what others than the router count, by `name@instance`: each instance (a
    replica, since it started) counts from 0, and the name is a check's.
    """

    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def latency(self) -> tuple[tuple[float, int], ...]: ...
    @property
    def tallies(self) -> Mapping[str, Tally]: ...
    @property
    def bins(self) -> Mapping[str, tuple[int, ...]]: ...


@dataclass(frozen=True)
class Counts:
    """What one arm saw in one look; `latency` is per bucket, not cumulative.

    `tallies` are (trials, events) and `bins` histograms of scores by the name of the check they are for.
    """

    requests: int = 0
    errors: int = 0
    latency: Buckets = ()
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    bins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def plus(self, other: Counts) -> Counts:
        """Return the sum; of buckets with different bounds, the newer ones."""
        mine, new = self.latency, other.latency
        if mine and new and [b for b, _ in mine] == [b for b, _ in new]:
            new = tuple([(bound, a + b) for (bound, a), (_, b) in zip(mine, new, strict=True)])
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            new or mine,
            added(self.tallies, other.tallies),
            added(self.bins, other.bins),
        )

    def tally(self, name: str) -> Tally:
        """Return (trials, events) of one name; none yet is (0, 0)."""
        return self.tallies.get(name, (0, 0))


N = TypeVar("N", bound=tuple[int, ...])


def added(mine: Mapping[str, N], new: Mapping[str, N]) -> dict[str, N]:
    """Return the sums by name; of rows of different lengths, the newer one."""
    if not new:
        return dict(mine)
    result = dict(mine)
    for name, row in new.items():
        old = result.get(name)
        same = old is not None and len(old) == len(row)
        result[name] = tuple(map(add, old, row)) if same and old else row  # type: ignore[assignment]
    return result


@dataclass(frozen=True)
class Window:
    """The counts of one look. `share` is the candidate's part of both arms' requests, as configured.

    In a look during which the weight changed, pass the larger of the two shares: a request that went to
    the candidate is then never counted as more than its share. `exact` is False in such a look, and for
    mirrored requests: nobody can say then whether the router's split is right.
    """

    candidate: Counts
    stable: Counts
    share: float
    exact: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the candidate's share must be in (0, 1], not {self.share}")


def delta(before: Cumulative | None, after: Cumulative) -> Counts:
    """Return what was counted between two readings of the same counters.

    If any counter went down, the process that counts was restarted: all of `after` is new. Without a
    reading before, tallies and bins are a baseline and nothing of them is new: they may be days old.
    """
    made = _delta_of_router(before, after)
    if before is None:
        return made
    tallies = _delta_of_instances(before.tallies, after.tallies)
    return replace(made, tallies=tallies, bins=_delta_of_instances(before.bins, after.bins))


def _delta_of_instances(before: Mapping[str, N], after: Mapping[str, N]) -> dict[str, N]:
    """Return what is new by name, summed over `name@instance`; an instance that is new counts from 0."""
    found: dict[str, N] = {}
    for key, row in after.items():
        name, old = key.partition("@")[0], before.get(key)
        if old is not None and len(old) == len(row) and all(b >= a for a, b in zip(old, row, strict=True)):
            row = tuple(b - a for a, b in zip(old, row, strict=True))  # type: ignore[assignment]
        found = added(found, {name: row})
    return found


def _delta_of_router(before: Cumulative | None, after: Cumulative) -> Counts:
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


class Tail:
    """One arm's answers of a look, to be asked for several limits."""

    __slots__ = ("answers", "buckets", "row")

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets
        self.row = [count for _, count in buckets]
        self.answers = sum(self.row)

    def slower(self, limit: float) -> tuple[int, int, int]:
        """Return (answers, surely slower than `limit` ms, possibly slower)."""
        first = bisect_left(self.buckets, (limit * (1 - 1e-9),))  # buckets before it end below the limit
        if first == len(self.row):
            return self.answers, 0, 0
        possible = sum(self.row[first:])
        if self.buckets[first][0] <= limit * (1 + 1e-9):  # this one ends at the limit
            possible -= self.row[first]
            return self.answers, possible, possible
        straddles = not first or self.buckets[first - 1][0] < limit * (1 - 1e-9)
        return self.answers, possible - (self.row[first] if straddles else 0), possible


def slower(buckets: Buckets, limit: float) -> tuple[int, int, int]:
    """Return (answers, surely slower than `limit`, possibly slower)."""
    return Tail(buckets).slower(limit)


def counts_to_dict(counts: Counts) -> dict[str, Any]:
    latency = [[None if math.isinf(bound) else bound, count] for bound, count in counts.latency]
    document: dict[str, Any] = {"requests": counts.requests, "errors": counts.errors, "latency": latency}
    more = {"tallies": counts.tallies, "bins": counts.bins}
    return document | {
        key: {k: list(row) for k, row in value.items()} for key, value in more.items() if value
    }


def counts_from_dict(value: Mapping[str, Any]) -> Counts:
    latency = tuple((math.inf if bound is None else float(bound), int(n)) for bound, n in value["latency"])
    tallies = {name: (int(n), int(k)) for name, (n, k) in value.get("tallies", {}).items()}
    bins = {name: tuple(map(int, row)) for name, row in value.get("bins", {}).items()}
    return Counts(value["requests"], value["errors"], latency, tallies, bins)
