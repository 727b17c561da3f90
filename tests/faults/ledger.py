"""What one run of a fault came to, held against the promises."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.e2e.rig import Onlooker, Traffic, eventually
from tests.faults.table import Outcome
from tidegate.adapters.sqlite import read_events, read_planes

PATIENCE = 90.0  # seconds until a run that does not converge is given up


def promised_seconds() -> float:
    """Return how long convergence may take: 5 s by `make faults`, more where other tests run beside."""
    return float(os.environ.get("FAULT_SECONDS", "30"))


class Memory:
    """All that is stored of a plane; nothing of it may get lost."""

    def __init__(self, state: Path, plane: str) -> None:
        self.state, self.plane = state, plane
        self.events = self._events()
        self.verified = self._verified()

    def _events(self) -> Counter[tuple[float, str, str]]:
        return Counter((e.at, e.kind, e.release) for e in read_events(self.state, self.plane, 100_000))

    def _documents(self) -> Mapping[str, Any]:
        return read_planes(self.state).get(self.plane, {})

    def _verified(self) -> dict[str, set[str]]:
        models = self._documents().get("models", {})
        return {model: set(state["verified"]) for model, state in models.items()}

    def lost(self, *left: str) -> list[str]:
        """Say what is there no more; releases that were `left` need not count as verified any longer."""
        gone = [f"event {key}" for key in self.events - self._events()]
        now = self._verified()
        for model, releases in self.verified.items():
            gone += [f"verified {r}" for r in releases - now.get(model, set()) - {*left}]
        return gone


class Watch:
    """One fault: begins with the plane at rest, `over()` ends the fault, `outcome()` holds the promises."""

    def __init__(self, fault: str, traffic: Traffic, onlooker: Onlooker, memory: Memory, old: str) -> None:
        self.fault, self.traffic, self.onlooker, self.memory = fault, traffic, onlooker, memory
        self.old = old
        self.news: list[str] = []  # candidates
        self.blamed: list[str] = []  # whose own answers may fail
        self.planned: set[int] = set()
        self.note = ""
        self.began, self.ended = time.time(), time.monotonic()
        self.answers, self._samples = traffic.mark(), onlooker.mark()
        self.seconds: float | None = None

    def over(self) -> None:
        """The fault ends now."""
        self.ended = time.monotonic()

    def converge(self, done: Callable[[], Any], what: str) -> float:
        """Wait until what runs is what Git says; returns the seconds since the fault's end."""
        eventually(done, f"{self.fault}: {what}", PATIENCE)
        self.seconds = time.monotonic() - self.ended
        return self.seconds

    def served(self) -> list[dict[str, int]]:
        """Return every table that Envoy served, in order."""
        return [sample.weights for sample in self.onlooker.samples[self._samples :]]

    def failed(self) -> Counter[tuple[str, str]]:
        """Count (status, release) of requests that failed, without the blamed releases' own answers."""
        return self.traffic.failed(*self.blamed, since=self.answers)

    def lost_seconds(self) -> float:
        """Return the time from the first to the last failed request."""
        at = [a.at for a in self.traffic.answers[self.answers :] if not a.ok and a.release not in self.blamed]
        return max(at) - min(at) if at else 0.0

    def odd(self) -> list[dict[str, int]]:
        """Return the tables that nobody planned."""
        return odd_tables(self.served(), self.old, self.news, self.planned)

    def outcome(
        self,
        properties: list[tuple[str, object]],
        *,
        failed: int = 0,
        within: float = 0.0,
        tables: bool = True,
    ) -> None:
        """Write down what came of it, then hold it against the promises.

        `failed` requests may fail without a candidate's doing, `within` is how much longer than promised
        the plane may take, for a reason that the test states. Without `tables` the test looks at them itself.
        """
        found = Counter(self.failed())
        made = Outcome(
            self.fault,
            self.seconds,
            sorted({table.get(new, 0) for table in self.served() for new in self.news or [self.old]}),
            self.traffic.mark() - self.answers,
            sum(found.values()),
            self.note,
        )
        made.told(properties)
        lost = self.memory.lost(*self.news)
        print(json.dumps(asdict(made)))
        assert not tables or self.odd() == [], f"{self.fault}: tables that nobody planned: {self.odd()}"
        assert lost == [], f"{self.fault}: something that was stored is gone"
        assert made.failed <= failed, f"{self.fault}: {found}"
        if self.seconds is not None:
            assert self.seconds <= promised_seconds() + within, f"{self.fault}: too slow"


def odd_tables(
    tables: Iterable[Mapping[str, int]], old: str, news: Collection[str], planned: Collection[int]
) -> list[dict[str, int]]:
    """Return the tables that are not `old` alone, or one candidate at a planned weight beside it."""
    splits = [{old: 100}]
    for new in news:
        splits += [{r: w for r, w in ((old, 100 - w), (new, w)) if w} for w in planned]
    return [dict(table) for table in tables if dict(table) not in splits]
