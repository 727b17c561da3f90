"""Recordings: what the agent writes of a rollout is what a reader gets back, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import A, B, C
from tests.core.test_rollout import World, canary, plan, settled
from tidegate.core import recording as rec
from tidegate.core.plan import Check, Milliseconds, Pause, Plan, Ratio, Seconds, Step
from tidegate.core.plan_json import plan_from_dict, plan_to_dict
from tidegate.core.state import Note, Phase


def recorded(world: World, seconds: int) -> dict[str, list[dict[str, Any]]]:
    """Run a world and return its recordings as they come back from JSON."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(seconds):
        before, now = world.state, world.now
        made = world.look()
        target = made.state.rollout or before.rollout
        said = world.canary_plan if target and target.environment == "canary" else world.production_plan
        for name, lines in rec.entries("p", "toy", before, made.state, said, made.notes, now).items():
            found.setdefault(name, []).extend(lines)
    return {name: json.loads(json.dumps(lines)) for name, lines in found.items()}


def one(world: World, seconds: int) -> rec.Recording:
    """Run a world in which one rollout happens, and read its recording."""
    (lines,) = recorded(world, seconds).values()
    return rec.parse(lines)


def test_a_bad_canary_s_recording_says_what_it_was_and_how_it_ended() -> None:
    """The head, the look that decided with both numbers, the events and the end are all there."""
    world = settled(bad={B: 0.3})
    world.canary = B
    found = one(world, 15)
    assert (found.model, found.environment, found.release, found.stable) == ("toy", "canary", B, A)
    assert found.plan == world.canary_plan
    assert found.end
    assert (found.end.phase, found.end.verdict) == ("RolledBack", "FAIL")
    assert "evidence" in found.end.reason
    assert [event.kind for event in found.events][-3:] == ["breach", "weight-zero", "rolled-back"]
    decisive = found.looks[-1]
    assert "FAIL" in {check["verdict"] for check in decisive.checks}
    assert decisive.candidate
    assert decisive.candidate.errors > 0


def test_the_looks_add_up_to_what_the_router_counted() -> None:
    """Nothing that was counted from the first step on is missing, and nothing is counted twice."""
    world = canary(0, bad={A: 0.01})
    while world.rollout.release != B or not world.rollout.marks:
        world.look()
    first = world.rollout.marks
    (lines,) = recorded(world, 30).values()
    looks = [line for line in lines if line["kind"] == "look" and "candidate" in line]
    last = world.rollout.marks
    for arm, release in (("candidate", B), ("stable", A)):
        for what in ("requests", "errors"):
            counted = getattr(last[release], what) - getattr(first[release], what)
            assert sum(look[arm][what] for look in looks) == counted
    assert last[A].errors > first[A].errors


def test_a_rollout_has_one_recording_however_long_it_waits() -> None:
    """Its name doesn't change while its deadline is held up or it is paused."""
    world = settled(missing={B: "the Bento is not here"})
    world.canary = B
    (name,) = recorded(world, 200)
    assert name.startswith(f"p/toy/canary-{B}-")


def test_a_promotion_ends_the_canary_s_recording_and_begins_its_own() -> None:
    """Each environment's rollout is a recording of its own; the canary's ends as what it was: verified."""
    world = settled()
    world.canary = B
    first = recorded(world, 40)
    world.production = B
    second = recorded(world, 40)
    (canaries,) = (lines for name, lines in second.items() if "/canary-" in name)
    (production,) = (lines for name, lines in second.items() if "/production-" in name)
    assert canaries[-1]["kind"] == "end"
    assert canaries[-1]["phase"] == "Verified"
    assert rec.parse([*next(iter(first.values())), *canaries]).end
    ended = rec.parse(production).end
    assert ended
    assert ended.phase == "Healthy"


def test_a_release_that_git_no_longer_wants_ends_as_replaced() -> None:
    """A rollout that makes way for another is closed, with who took its place in the other's recording."""
    world = canary(6)
    before = world.rollout
    assert before.phase is Phase.PROGRESSING
    world.canary = C
    found = recorded(world, 3)
    old, new = (next(lines for name, lines in found.items() if f"-{r}-" in name) for r in (B, C))
    assert (old[-1]["kind"], old[-1]["phase"]) == ("end", "Replaced")
    assert new[0]["kind"] == "rollout"


def test_a_look_that_could_not_be_made_has_no_counts() -> None:
    """While nothing is measured the recording says so, and the next look has all that came meanwhile."""
    world = canary(8)
    counters, state = world.counters, []
    for blind in (True, True, False):
        world.counters = None if blind else counters
        before, now = world.state, world.now
        made = world.look()
        state += rec.lines(before, made.state, world.canary_plan, made.notes, now, "toy")
    looks = [line for line in state if line["kind"] == "look"]
    assert [line.get("blind") for line in looks] == [1, 2, None]
    assert ["candidate" in line for line in looks] == [False, False, True]


def test_a_line_of_a_usual_look_is_small() -> None:
    """A look of twenty requests a second fits in a few hundred bytes, buckets that held nothing left out."""
    world = canary(0, rate=20)
    (lines,) = recorded(world, 30).values()
    sizes = [len(json.dumps(line, separators=(",", ":"))) for line in lines if line["kind"] == "look"]
    assert sum(sizes) / len(sizes) < 1024


# ---------------------------------------------------------------- plans
DURATIONS = st.floats(0, 1e6).map(Seconds)
SHARES = st.floats(1e-6, 0.999).map(Ratio)


@given(DURATIONS, SHARES, st.floats(0.001, 1e6).map(Milliseconds), st.integers(1, 99))
def test_a_plan_comes_back_the_same(duration, share, latency, weight) -> None:
    """What was decided by is read back exactly, units and all: else a replay would be of another policy."""
    made = Plan(
        steps=(Step(weight, Pause(duration, 5)),),
        checks=(Check("e", "error-rate", share), Check("l", "latency", latency, dry_run=True)),
        progress_deadline=duration,
    )
    assert plan_from_dict(json.loads(json.dumps(plan_to_dict(made)))) == made


def test_every_strategy_s_plan_comes_back_the_same() -> None:
    """Sequences, experiments, mirrors and queries included."""
    written = {
        "sequence": [
            {"strategy": "shadow", "mirror": {"percent": 20}, "pause": {"minRequests": 5}},
            {
                "strategy": "abTest",
                "abTest": {
                    "unit": {"cookie": "who"},
                    "outcome": "sale",
                    "baseline": 0.1,
                    "minimumEffect": 0.02,
                    "window": "60s",
                },
            },
            {"strategy": "bandit", "bandit": {"reward": "sale", "arms": [A]}},
        ],
        "checks": [
            {
                "name": "q",
                "metric": "prometheus",
                "limit": 0.1,
                "query": {"events": "a", "total": "b"},
                "failureLimit": {"count": 2},
            }
        ],
    }
    made = plan_from_dict(written)
    assert plan_from_dict(plan_to_dict(made)) == made
    assert made.sequence[1].ab_test
    assert made.sequence[1].ab_test.window == 60


# ---------------------------------------------------------------- what is none
HEAD: dict[str, Any] = {
    "kind": "rollout",
    "model": "toy",
    "environment": "canary",
    "release": B,
    "stable": A,
    "started": 1.0,
    "plan": {},
}
LOOK = {"kind": "look", "at": 1.0, "step": 0, "phase": "Progressing", "weight": 10}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "empty"),
        ([LOOK], "begins with"),
        ([HEAD, HEAD], "begins with"),
        ([{"model": "toy"}], "line 1"),
        ([HEAD, {"kind": "else"}], "no kind"),
        ([HEAD, {**LOOK, "at": "soon"}], "line 2"),
        ([HEAD, {**LOOK, "candidate": 5}], "line 2"),
        ([{**HEAD, "plan": {"stepz": 1}}], "line 1"),
        ([HEAD, {"kind": "end"}], "line 2"),
        ([HEAD, ["kind"]], "line 2"),
    ],
)
def test_what_is_no_recording_is_refused(lines, said) -> None:
    """Another file is refused with the line that gives it away, never read as an empty rollout."""
    with pytest.raises(rec.NotARecording, match=said):
        rec.parse(lines)


def test_a_recording_without_the_line_of_its_buckets_still_tells_its_counts() -> None:
    """A crash may cost any line; what the others hold is told."""
    world = settled()
    world.canary = B
    world.counters = dict((world.counters or {}).items())
    (lines,) = recorded(world, 20).values()
    kept = [line for line in lines if line["kind"] != "buckets"]
    assert len(rec.parse(kept).looks) == len(rec.parse(lines).looks)


def test_notes_become_events_in_order() -> None:
    """All that a decision told people is in the recording, with its time."""
    before = canary(5).state
    notes = (Note("weight", B, "one"), Note("breach", B, "two"))
    made = rec.lines(before, before, plan(), notes, 7.0, "toy")
    assert [(line["event"], line["at"], line["text"]) for line in made] == [
        ("weight", 7.0, "one"),
        ("breach", 7.0, "two"),
    ]
