"""What ServiceMeasures makes of replicas that are silent, old, restarted or broken."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.prometheus import Pages, pages_up
from tidegate.adapters.service import ServiceMeasures
from tidegate.core import counts
from tidegate.core.plan import Check, Plan, Ratio
from tidegate.errors import NoData, Unreachable
from tidegate.ports import Asked, Counters

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
GAPS = Check("gaps", "missing-features", Ratio(0.05))
DRIFT = Check("drift", "prediction-drift", Ratio(0.05))
BOTH = Plan(checks=(GAPS, DRIFT))


@pytest.fixture
def replicas() -> Iterator[list[Pages]]:
    with ExitStack() as stack:
        yield [stack.enter_context(pages_up()) for _ in range(3)]


def _asked(*candidate: str, stable: tuple[str, ...] = (), plan: Plan = BOTH, since: float = 0) -> Asked:
    return Asked("toy", "canary", A, B, since, plan, {A: candidate, B: stable})


def _tells(replica: Pages, number: int, missing: int = 0, instance: str = "1-5.000", **more: Any) -> None:
    """Have a replica tell these counts; each prediction scored 0.5."""
    scores = [0] * counts.SCORE_BINS
    scores[25] = number
    document = {"instance": instance, "predictions": number, "featured": number, "missing": missing}
    body = json.dumps({**document, "scores": scores, "scored": number, **more}).encode()
    replica.pages = {"/measures": (200, body)}


def _new(measures: ServiceMeasures, asked: Asked, marks: dict[str, Counters]) -> counts.Counts:
    """Return what is new of the candidate since these marks, and set them."""
    found = measures.read(asked)[A]
    now = Counters(0, 0, tallies=found.tallies, bins=found.bins)
    made = counts.delta(marks.get(A), now)
    marks[A] = now
    return made


def test_replicas_are_added_up(replicas: list[Pages]) -> None:
    """Missing features and scores of all replicas count, by check."""
    measures, marks = ServiceMeasures(timeout=2), dict[str, Counters]()
    asked = _asked(*(replica.endpoint for replica in replicas))
    for replica in replicas:
        _tells(replica, 10)
    _new(measures, asked, marks)
    for number, replica in enumerate(replicas):
        _tells(replica, 20 + number, number)
    made = _new(measures, asked, marks)
    assert made.tally("gaps") == (33, 3)
    assert (sum(made.bins["drift"]), made.bins["drift"][25]) == (33, 33)


def test_a_silent_replica_is_not_counted_twice(replicas: list[Pages]) -> None:
    """One that misses a look keeps what it told, and what came meanwhile counts when it is back."""
    measures, marks = ServiceMeasures(timeout=2), dict[str, Counters]()
    asked = _asked(replicas[0].endpoint, replicas[1].endpoint)
    _tells(replicas[0], 100)
    _tells(replicas[1], 100)
    _new(measures, asked, marks)
    replicas[1].pages = {"/measures": (500, b"")}
    _tells(replicas[0], 103)
    assert _new(measures, asked, marks).tally("gaps") == (3, 0)
    _tells(replicas[1], 105, 1)
    assert _new(measures, asked, marks).tally("gaps") == (5, 1)


def test_a_replica_that_was_restarted_counts_from_nought(replicas: list[Pages]) -> None:
    """All that a new process counted is new; what an old one did before the rollout is not."""
    now = 1000.0
    measures, marks = ServiceMeasures(timeout=2, clock=lambda: now), dict[str, Counters]()
    asked = _asked(replicas[0].endpoint, since=900)
    _tells(replicas[0], 5000, 40, instance="1-500.000")
    _new(measures, asked, marks)
    now = 1010.0
    _tells(replicas[0], 7, 2, instance="1-1005.000")
    assert _new(measures, asked, marks).tally("gaps") == (7, 2)
    _tells(replicas[0], 9, 2, instance="2-1005.000")  # another process of the same moment
    assert _new(measures, asked, marks).tally("gaps") == (9, 2)


@pytest.mark.parametrize("started", [899, 950, 86_400])
def test_what_nobody_saw_beginning_is_not_new(replicas: list[Pages], started: int) -> None:
    """A process that is older than the rollout or this reader, or comes from a moved clock, counts from its
    first sight on: somebody may have counted it already."""
    measures, marks = ServiceMeasures(timeout=2, clock=lambda: 1000.0), dict[str, Counters]()
    _tells(replicas[0], 10, instance="1-999.000")
    _new(measures, _asked(replicas[0].endpoint, since=900), marks)
    _tells(replicas[0], 500, 9, instance=f"2-{started}.000")
    assert _new(measures, _asked(replicas[0].endpoint, since=900), marks).tally("gaps") == (0, 0)


def test_a_candidate_without_an_answer_is_unreachable(replicas: list[Pages]) -> None:
    """When none of its replicas answers, the error names each and why; stable's silence is none."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = f"127.0.0.1:{mute.getsockname()[1]}"
        replicas[0].pages = {"/measures": (503, b"")}
        measures = ServiceMeasures(timeout=0.2)
        with pytest.raises(Unreachable) as told:
            measures.read(_asked(silent, replicas[0].endpoint))
        assert f"{silent}: no answer within 0.2 s" in str(told.value)
        assert f"{replicas[0].endpoint}: /measures answered 503" in str(told.value)
        _tells(replicas[1], 10)
        assert set(measures.read(_asked(silent, replicas[1].endpoint, stable=(silent,)))) == {A}
    with pytest.raises(Unreachable, match="none"):
        measures.read(_asked())


def test_an_older_bento_is_told(replicas: list[Pages]) -> None:
    """A Bento without /measures needs to be built anew, and the error says so; of stable it matters only to
    a check that compares with stable's scores."""
    _tells(replicas[1], 10)
    old, new = replicas[0].endpoint, replicas[1].endpoint
    with pytest.raises(NoData, match=r"Bento of toy aaaaaaaaaaaa is older.*Build it anew"):
        ServiceMeasures(timeout=2).read(_asked(old))
    with pytest.raises(NoData, match="Bento of toy bbbbbbbbbbbb is older"):
        ServiceMeasures(timeout=2).read(_asked(new, stable=(old,)))
    alone = ServiceMeasures(timeout=2).read(_asked(new, stable=(old,), plan=Plan(checks=(GAPS,))))
    assert set(alone) == {A}


def test_scores_are_compared_over_one_range_only(replicas: list[Pages]) -> None:
    """A score in its own unit counts as one in [0, 1]; a release that declares no range of its scores, or
    another one than stable does, makes the drift no data, and nothing else."""
    new, old = replicas[0], replicas[1]
    plan = Plan(checks=(GAPS,))
    asked = _asked(new.endpoint, stable=(old.endpoint,))
    for replica in (new, old):
        _tells(replica, 10, span=[-40.0, 260.0], outside=3)
    assert set(ServiceMeasures(timeout=2).read(asked)) == {A, B}
    _tells(new, 10, span=[0.0, 260.0])
    with pytest.raises(NoData, match=r"other ranges: a+ from 0 to 260, b+ from -40 to 260.*Bound the field"):
        ServiceMeasures(timeout=2).read(asked)
    _tells(new, 10, scores=[], span=None)
    with pytest.raises(NoData, match=r"a+ declares no range of its scores.*Let its service name"):
        ServiceMeasures(timeout=2).read(asked)
    alone = _asked(new.endpoint, stable=(old.endpoint,), plan=plan)
    assert set(ServiceMeasures(timeout=2).read(alone)) == {A, B}


@pytest.mark.parametrize(
    "more",
    [
        {"scores": []},
        {"span": None},
        {"span": [1.0, 0.0]},
        {"span": [0.0]},
        {"scores": [0] * 49 + [-1]},
        {"scores": [0.5] * 50},
        {"missing": 11},
        {"missing": None},
        {"instance": "x"},
        {"instance": "1-nan"},
        {"featured": "ten"},
        {"featured": -1, "missing": -1},
    ],
)
def test_garbage_is_no_answer(replicas: list[Pages], more: dict[str, Any]) -> None:
    """What is not counts is never counted."""
    _tells(replicas[0], 10)
    whole = json.loads(replicas[0].pages["/measures"][1])
    replicas[0].pages = {"/measures": (200, json.dumps({**whole, **more}).encode())}
    with pytest.raises(Unreachable, match="nothing to count"):
        ServiceMeasures(timeout=2).read(_asked(replicas[0].endpoint))


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'{"a": ' + b"[" * 10_000, b" " * 100_000])
def test_a_strange_body_is_no_answer(replicas: list[Pages], body: bytes) -> None:
    """Neither is what is no JSON, or too much of it."""
    replicas[0].pages = {"/measures": (200, body)}
    with pytest.raises(Unreachable):
        ServiceMeasures(timeout=2).read(_asked(replicas[0].endpoint))


def test_a_connection_is_kept(replicas: list[Pages]) -> None:
    """Looks by the second don't open a connection each."""
    _tells(replicas[0], 10)
    measures = ServiceMeasures(timeout=2)
    for _ in range(5):
        measures.read(_asked(replicas[0].endpoint))
    assert (len(replicas[0].asked), replicas[0].connections) == (5, 1)


def test_a_kept_connection_that_died_is_opened_anew() -> None:
    """A replica that was restarted on its port is asked again at once."""
    first = Pages()
    _tells(first, 10)
    measures = ServiceMeasures(timeout=2)
    measures.read(_asked(first.endpoint))
    measures._connections[first.endpoint].sock.close()
    measures._connections[first.endpoint].sock = socket.socketpair()[0]  # whose other end is gone
    assert measures.read(_asked(first.endpoint))[A].tallies
    first.close()
    with pytest.raises(Unreachable):
        ServiceMeasures(timeout=0.5).read(_asked(first.endpoint))
