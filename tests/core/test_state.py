"""What follows from remembered state alone: weights, needed workloads, and that it survives JSON."""

from __future__ import annotations

import math

import msgspec
import pytest

from tests.builders import A, B
from tidegate.core.state import Mark, ModelState, Phase, Rollout, needed, weights
from tidegate.ports import Counters


def state(phase: Phase, stable: str | None = A, weight: int = 10, resting: str | None = "same") -> ModelState:
    """Return a state in which B is on its way, or leaving."""
    rollout = Rollout("canary", B, stable, phase, 1.0, weight=weight)
    return ModelState(stable=stable if resting == "same" else resting, rollout=rollout)


GOING, BACK = Phase.PROGRESSING, Phase.ROLLING_BACK


@pytest.mark.parametrize(
    ("given", "present", "alive", "expected"),
    [
        (ModelState(), "", "", {}),
        (ModelState(stable=A), "A", "A", {A: 100}),
        (ModelState(stable=A), "A", "", {A: 100}),  # a probe glitch takes nothing away
        (ModelState(stable=A), "", "", {}),
        (state(GOING), "AB", "AB", {A: 90, B: 10}),
        (state(GOING), "AB", "A", {A: 100}),  # the candidate died
        (state(GOING), "AB", "B", {A: 90, B: 10}),
        (state(GOING), "B", "B", {}),  # a candidate never gets more than it was given
        (state(GOING, weight=100), "AB", "AB", {B: 100}),
        (state(Phase.PENDING, weight=0), "AB", "AB", {A: 100}),
        (state(GOING, stable=None, weight=100), "B", "B", {B: 100}),
        (state(BACK), "AB", "AB", {A: 100}),
        (state(BACK), "AB", "B", {A: 100}),  # never more to the one that is left
        (state(BACK), "B", "B", {}),
        (state(BACK, stable=None), "B", "B", {}),
        (state(BACK, resting=B), "AB", "AB", {A: 100}),  # a settled one makes way
        (state(BACK, resting=B), "AB", "B", {B: 100}),  # and serves until then
        (state(BACK, resting=B), "B", "B", {B: 100}),
        (state(Phase.ROLLED_BACK), "AB", "AB", {A: 100}),
    ],
)
def test_weights(given: ModelState, present: str, alive: str, expected: dict[str, int]) -> None:
    """Weights follow from what is remembered, who has processes and who answers."""
    names = {"A": A, "B": B}
    assert weights(given, [names[r] for r in present], [names[r] for r in alive]) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ModelState(), ()),
        (ModelState(stable=A), (A,)),
        (state(GOING), (A, B)),
        (state(BACK), (A,)),
        (state(BACK, resting=B), (B, A)),
        (state(Phase.ROLLED_BACK), (A,)),
    ],
)
def test_needed(given: ModelState, expected: tuple[str, ...]) -> None:
    """What must run: what traffic rests on first."""
    assert needed(given) == expected


def test_state_survives_json() -> None:
    """What is stored is read back equal, an infinite bucket bound included."""
    mark = Mark.of(Counters(3, 1, ((5.0, 2), (math.inf, 3))))
    rollout = Rollout("canary", B, A, GOING, 1.5, marks={B: mark}, findings=({"x": 1},))
    before = ModelState(A, rollout, (A,), {B: 9.0}, (rollout,))
    text = msgspec.json.encode(msgspec.to_builtins(before))
    after = msgspec.convert(msgspec.json.decode(text), ModelState)
    assert after == before
    assert after.rollout
    assert after.rollout.marks[B].latency == ((5.0, 2), (math.inf, 3))


def test_a_state_stored_before_is_read() -> None:
    """A state without the newest fields has their defaults."""
    stored = msgspec.to_builtins(ModelState(A, verified=(A,)))
    del stored["unwritten"]
    assert msgspec.convert(stored, ModelState) == ModelState(A, verified=(A,))
