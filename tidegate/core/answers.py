"""Two releases' answers to the same requests, joined by request id and compared. Pure.

A request that is mirrored is answered twice: by stable, whose answer the caller gets, and by the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tidegate.core.plan import Check

WINDOW = 60.0  # seconds that an answer waits for the other: longer than a request may take
WAITING = 20_000  # answers of one arm that wait at most; about 6 MB

Side = Literal["candidate", "stable"]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """One answer as a service writes it down: `at` seconds since the epoch, `ms` inside the service.

    `score` and `decision` are what the service's class says they are; None where it says nothing, or failed.
    """

    id: str
    at: float
    status: int
    ms: float
    score: float | None = None
    decision: bool | int | float | str | None = None

    @property
    def good(self) -> bool:
        """True for an answer that is one: neither refused nor failed."""
        return 200 <= self.status < 400


@dataclass(frozen=True)
class Pair:
    """Both answers to one request."""

    candidate: Answer
    stable: Answer


def differs(pair: Pair) -> bool | None:
    """Tell whether the two decide otherwise; None when there is nothing to compare.

    An answer beside a refusal or a failure differs. A score decides nothing: only its service knows from
    where on it is a yes, or whether it is one at all.
    """
    mine, theirs = pair.candidate, pair.stable
    if not (mine.good or theirs.good):
        return None
    if mine.good != theirs.good:
        return True
    if mine.decision is None and theirs.decision is None:
        return None
    return mine.decision != theirs.decision


def distance(pair: Pair) -> float | None:
    """Return the candidate's score less stable's; None unless both gave one."""
    mine, theirs = pair.candidate.score, pair.stable.score
    return None if mine is None or theirs is None else mine - theirs


def event(check: Check, pair: Pair) -> bool | None:
    """Tell whether a pair is an event of a check, or no trial of it at all (None)."""
    if check.metric == "disagreement":
        return differs(pair)
    apart = distance(pair)
    return None if apart is None else abs(apart) > (check.difference or 0.0)


def silent(check: Check, pair: Pair) -> bool | None:
    """Tell whether two good answers say nothing of what a check compares; None of a refusal or a failure."""
    mine, theirs = pair.candidate, pair.stable
    if not (mine.good and theirs.good):
        return None
    if check.metric == "disagreement":
        return mine.decision is None and theirs.decision is None
    return mine.score is None or theirs.score is None


class Join:
    """Answers that wait for the other arm's to the same request; what it holds is bounded in time and number.

    Each answer is part of one pair at most: of several under one id, the latest waits.
    """

    def __init__(self, window: float = WINDOW, waiting: int = WAITING) -> None:
        self._window, self._most = window, waiting
        self._waiting: dict[Side, dict[str, Answer]] = {"candidate": {}, "stable": {}}
        self.expired = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, side: Side, answer: Answer) -> Pair | None:
        """Return the pair that this answer completes, if it does."""
        other = self._waiting["stable" if side == "candidate" else "candidate"].pop(answer.id, None)
        if other is not None and abs(other.at - answer.at) <= self._window:
            return Pair(answer, other) if side == "candidate" else Pair(other, answer)
        self.expired += other is not None
        mine = self._waiting[side]
        self.expired += mine.pop(answer.id, None) is not None
        mine[answer.id] = answer
        for held in self._waiting.values():
            self._forget(held, answer.at - self._window)
        return None

    def _forget(self, held: dict[str, Answer], before: float) -> None:
        while held:
            oldest = next(iter(held.values()))
            if oldest.at >= before and len(held) <= self._most:
                return
            del held[oldest.id]
            self.expired += 1


@dataclass(frozen=True)
class Arm:
    """One arm's answers in a summary: how many, how many failed, their latency in ms (None: no answer)."""

    answers: int = 0
    failed: int = 0
    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Summary:
    """What pairs say together: `agreement` is a share of the `compared`, differences are of `scored` pairs.

    A difference is the candidate's score less stable's. None where there is nothing to say it of.
    """

    pairs: int = 0
    compared: int = 0
    agreement: float | None = None
    scored: int = 0
    mean_difference: float | None = None
    largest_difference: float | None = None
    candidate: Arm = field(default_factory=Arm)
    stable: Arm = field(default_factory=Arm)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def summary(pairs: Iterable[Pair]) -> Summary:
    """Return agreement, differences, latency and errors of these pairs."""
    all_pairs = list(pairs)
    apart = [found for pair in all_pairs if (found := distance(pair)) is not None]
    compared = [found for pair in all_pairs if (found := differs(pair)) is not None]
    return Summary(
        len(all_pairs),
        len(compared),
        1 - sum(compared) / len(compared) if compared else None,
        len(apart),
        math.fsum(apart) / len(apart) if apart else None,
        max(apart, key=abs) if apart else None,
        _arm([pair.candidate for pair in all_pairs]),
        _arm([pair.stable for pair in all_pairs]),
    )


def _arm(answers: Sequence[Answer]) -> Arm:
    if not answers:
        return Arm()
    taken = sorted(answer.ms for answer in answers)
    failed = sum(1 for answer in answers if answer.status >= 500)
    return Arm(len(answers), failed, _quantile(taken, 0.5), _quantile(taken, 0.99))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
