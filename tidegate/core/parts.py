"""What is remembered of a rollout's evidence, part by part, and how it is stored. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tidegate.core import drift
from tidegate.core import evidence as ev
from tidegate.core.counts import Counts, counts_from_dict

_FORM = 2  # of what is stored: before it, purses were kept as logarithms over another grid
Four = tuple[int, int, int, int]


class Stretch(msgspec.Struct, frozen=True, gc=False):
    """What was counted since a moment (seconds; None before the first look): trials and events."""

    since: float | None = None
    trials: int = 0
    events: int = 0


class Plain(msgspec.Struct, frozen=True, gc=False):
    """The windows of a `failureLimit`: how many were looked at, how many over the limit, the last such."""

    length: float
    open: Stretch = Stretch()
    windows: int = 0
    over: int = 0
    last: tuple[int, int] = (0, 0)


class Part(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The evidence of one part of a check; `spec` names what it was gathered for.

    `pooled` and `run` are (candidate trials, events, stable trials, events): of all looks, and since the
    rate last began to rise (a CUSUM, `excess`), which is what a breach's reason shows. `possible` counts
    events that may have been: answers of a bucket that straddles the limit. `sums` are the events of
    both arms and the candidate's among them by share. `guard` is a second purse: of latency against
    stable, of a split's other side. `peak` is the largest log evidence of any look, `limit` the last one used
    (ms, for latency; None: stable's quantile was never known well enough), worked out when `known` answers of
    stable were. `open` is the stretch of a
    `burst` that is not over yet; `bins` are the candidate's scores as this part, and its latest epoch, began,
    `banked` what the epochs before it won.
    """

    spec: str
    trials: int = 0
    wealth: ev.Wealth = ev.begin()
    guard: ev.Wealth = ()
    guard_trials: int = 0
    pooled: Four = (0, 0, 0, 0)
    possible: float = 0
    run: Four = (0, 0, 0, 0)
    excess: float = 0.0
    sums: tuple[tuple[float, int, int], ...] = ()
    level: float = 0.0
    peak: float = 0.0
    limit: float | None = None
    known: int = 0
    open: Stretch = Stretch()
    plain: Plain | None = None
    bins: tuple[drift.Histogram, drift.Histogram] = ((), ())
    epoch: int = 0
    banked: float = 0.0


class Stored(dict[str, Any]):
    """Evidence as a state keeps it: what msgspec writes as JSON, and what the next look needn't read."""

    evidence: Evidence

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and bool(other) and self.evidence == Evidence.from_dict(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


@dataclass(frozen=True)
class Evidence:
    """All evidence of one rollout; JSON by `to_dict`, back by `from_dict`. A few KB.

    `share` and `at` (seconds) are the last look's. Of latencies only stable's are kept, `answers` in all, and
    only where a check compares with them. `idle` are the trials that a part has not weighed yet
    (core.weighing).
    """

    candidate: Counts = Counts()
    stable: Counts = Counts()
    share: float = 0.0
    parts: Mapping[str, Part] = field(default_factory=dict)
    at: float = 0.0
    idle: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    answers: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; an infinite bucket bound becomes null."""
        document: dict[str, Any] = msgspec.to_builtins(dict(self.stored()))
        return document

    def stored(self) -> Stored:
        """Return the same for a state that msgspec will write: parts are only made JSON then."""
        document = Stored(
            form=_FORM,
            candidate=_counts_to_dict(self.candidate),
            stable=_counts_to_dict(self.stable),
            share=self.share,
            parts=self.parts,
            idle=self.idle,
            at=self.at,
        )
        document.evidence = self
        return document

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Evidence:
        """Return what `to_dict` wrote; raises KeyError or TypeError for anything else.

        What an earlier release of Tidegate wrote keeps its counts and its breaches; purses begin anew.
        """
        if type(value) is Stored:
            return value.evidence
        old = value.get("form", 1) != _FORM
        try:
            raw = {name: _of_before(part) for name, part in value["parts"].items()} if old else value["parts"]
            parts = msgspec.convert(raw, dict[str, Part])
        except (msgspec.ValidationError, AttributeError) as error:
            raise TypeError(f"this is not a rollout's evidence: {error}") from error
        candidate, stable = (counts_from_dict(value[arm]) for arm in ("candidate", "stable"))
        idle = {name: (int(n), int(m)) for name, (n, m) in value.get("idle", {}).items()}
        answers = sum(count for _, count in stable.latency)
        return Evidence(candidate, stable, value["share"], parts, value.get("at", 0.0), idle, answers)


def _of_before(part: Mapping[str, Any]) -> dict[str, Any]:
    guard = ev.begin() if part["guard"] else ()
    return {**part, "wealth": ev.begin(), "guard": guard, "level": 0.0, "excess": 0.0}


def _counts_to_dict(counts: Counts) -> dict[str, Any]:
    latency: tuple[tuple[float | None, int], ...] = counts.latency
    if counts.latency and math.isinf(counts.latency[-1][0]):
        latency = (*latency[:-1], (None, counts.latency[-1][1]))
    document = {"requests": counts.requests, "errors": counts.errors, "latency": latency}
    return document | {
        key: dict(value) for key, value in (("tallies", counts.tallies), ("bins", counts.bins)) if value
    }
