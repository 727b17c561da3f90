"""Two real releases behind a real Envoy: both answer, one is heard, and the answers are compared."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.builders import flight_row
from tests.planes import Plane, eventually, plane_up
from tests.service.running import build, free_port, ready, start
from tidegate.adapters.answers import AnswerMeasures, recent
from tidegate.core.plan import Check, Mirror, Plan, Ratio
from tidegate.ports import Asked, Route

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"  # the candidate and stable, as the plane calls them
MODEL = "flight-delay"
PLAN = Plan(
    strategy="shadow",
    mirror=Mirror(),
    checks=(
        Check("otherwise", "disagreement", Ratio(0.05)),
        Check("apart", "score-difference", Ratio(0.05), difference=0.2),
        Check("far", "score-difference", Ratio(0.05), difference=0.4),
    ),
)


@dataclass(frozen=True)
class Room:
    """A plane that mirrors every request to the candidate."""

    plane: Plane
    answers: Path
    route: Route

    def ask(self) -> dict[str, object]:
        body, headers = json.dumps(flight_row()).encode(), {"content-type": "application/json"}
        asked = urllib.request.Request(f"{self.plane.url}/{MODEL}/predict", body, headers)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return dict(json.load(answer))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Stable says 0.317, not late; the candidate 0.617, late."""
    answers, endpoints = tmp_path / "answers", {}
    with ExitStack() as stack:
        for release, late in ((A, 0.6), (B, 0.3)):
            port = free_port()
            named = {"TIDEGATE_ANSWERS": str(answers), "TIDEGATE_RELEASE": release}
            process = start(build(tmp_path / release, late), port, **named)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert ready(process, port)
            endpoints[release] = (f"127.0.0.1:{port}",)
        plane = stack.enter_context(plane_up(tmp_path / "plane"))
        route = Route({B: 100}, endpoints, mirror={A: 100}, journal=True)
        plane.router().apply({MODEL: route})
        yield Room(plane, answers, route)


def test_both_answers_to_a_request_are_compared(room: Room) -> None:
    """The caller hears stable alone; each request makes one pair, by the id that the router gave it."""
    asked = Asked(MODEL, "canary", A, B, 0.0, PLAN, room.route.endpoints)
    room.ask()
    eventually(lambda: len(list(room.answers.glob("*.jsonl"))) == 2)
    measures = AnswerMeasures(room.answers)
    before = measures.read(asked)[A].tallies
    heard = [room.ask() for _ in range(20)]
    assert {(said["release"], said["late"]) for said in heard} == {(B, False)}

    def pairs() -> int:
        return measures.read(asked)[A].tallies[next(iter(before))][0]

    eventually(lambda: pairs() >= 20)
    found = {key.partition("@")[0]: tally for key, tally in measures.read(asked)[A].tallies.items()}
    assert found == {"otherwise": (20, 20), "apart": (20, 20), "far": (20, 0)}
    made = recent(room.answers, A, B, since=0.0)
    assert (made.pairs, made.agreement, made.candidate.failed) == (21, 0.0, 0)
    assert made.mean_difference == pytest.approx(0.3, abs=1e-5)

    # Without a journal nothing is written down any more.
    room.plane.router().apply({MODEL: replace(room.route, journal=False, mirror={})})
    sizes = {path.name: path.stat().st_size for path in room.answers.iterdir()}
    for _ in range(5):
        room.ask()
    assert {path.name: path.stat().st_size for path in room.answers.iterdir()} == sizes
