"""An agent that is killed after any of its changes converges to the same end as one that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import yaml

from tests.builders import CANARY, A, B, Rig
from tidegate.core.release import copy_of
from tidegate.errors import Conflict, LeaseLost, PlatformError, Unreachable
from tidegate.testing import Crashes

Story = Callable[[Rig], None]


def canary(rig: Rig) -> None:
    """Promote B to canary."""
    rig.push(canary=B)


def production(rig: Rig) -> None:
    """Promote B to production."""
    rig.push(canary=B, production=B)


def breach(rig: Rig) -> None:
    """Promote B to canary, where a third of its answers fail."""
    rig.bad[B] = 0.33
    rig.push(canary=B)


def operator(rig: Rig) -> None:
    """Roll back a settled B by hand."""
    rig.inbox.send("production", "rollback", {"model": "toy", "environment": "production", "by": "Ann"})


def otherwise(rig: Rig, **changes: Any) -> None:
    """Promote B to canary by another plan."""
    plan = yaml.safe_load(CANARY)
    plan["defaults"] = {**plan["defaults"], **changes}
    text = json.dumps(plan)  # which is YAML too, and without aliases
    rig.repository.push({"envs/canary/rollout.yaml": text}, "Roll out otherwise")
    rig.push(canary=B)


def paused(rig: Rig) -> None:
    """Promote B to canary, and pause it on its way."""
    rig.push(canary=B)
    rig.drive(6)
    rig.inbox.send("production", "pause", {"model": "toy", "environment": "canary", "by": "Ann"})


def approved(rig: Rig) -> None:
    """Promote B to canary, and approve the second step, which waits for that."""
    short = {"duration": "3s", "minRequests": 10}
    steps = [{"setWeight": 10, "pause": short}, {"setWeight": 50, "pause": short, "gate": "manual"}]
    otherwise(rig, steps=steps)
    rig.drive(15)
    assert rig.phase("canary") == "Paused"
    rig.inbox.send("production", "approve", {"model": "toy", "environment": "canary", "by": "Ann"})


def aborted(rig: Rig) -> None:
    """Promote B to canary, and take it back by hand on its way."""
    rig.push(canary=B)
    rig.drive(6)
    rig.inbox.send("production", "abort", {"model": "toy", "environment": "canary", "by": "Ann"})


def mirrored(rig: Rig) -> None:
    """Mirror B, then give it weight."""
    short = {"duration": "3s", "minRequests": 10}
    shadow = {"strategy": "shadow", "mirror": {"percent": 50}, "pause": short, "steps": []}
    otherwise(rig, steps=[], sequence=[shadow, {"steps": [{"setWeight": 50, "pause": short}]}])


def baseline(rig: Rig) -> None:
    """Promote B to canary beside a fresh copy of A."""
    otherwise(rig, baseline=True)


STORIES: dict[str, tuple[Story, int]] = {
    "canary": (canary, 25),
    "production": (production, 45),
    "breach": (breach, 30),
    "operator": (operator, 25),
    "paused": (paused, 15),
    "approved": (approved, 25),
    "aborted": (aborted, 20),
    "mirrored": (mirrored, 35),
    "baseline": (baseline, 30),
}
COPY = copy_of(A)


@cache
def _prepared(story: str) -> Rig:
    rig = Rig()
    rig.settle(A)
    if story == "operator":
        rig.settle(B, 60)
    return rig


def prepared(story: str) -> Rig:
    """Return a settled plane just before the story: A in production, or B after A."""
    return _prepared(story).copy()


def told(rig: Rig, story: str) -> None:
    act, seconds = STORIES[story]
    act(rig)
    rig.drive(seconds)


def end(rig: Rig) -> dict[str, Any]:
    """Return all that must be the same at the end, however it got there."""
    lines = {e: rig.line(e) for e in ("production", "canary")}
    return {
        "weights": rig.weights,
        "git": {e: rig.named(e) for e in lines},
        "phases": {e: (line["release"], line["phase"]) for e, line in lines.items()},
        "rejected": rig.rejection(B) is not None,
        "reverts": rig.reverts,
        "running": sorted(release for _, release in rig.workloads.running),
        "problems": rig.problems,
        "answers": sorted(str(r) for r in rig.inbox.results.values()),
    }


EXPECTED = {
    "canary": ({A: 50, B: 50}, {"production": A, "canary": B}, 0, False),
    "production": ({B: 100}, {"production": B, "canary": B}, 0, False),
    "breach": ({A: 100}, {"production": A, "canary": A}, 1, True),
    "operator": ({A: 100}, {"production": A, "canary": A}, 1, False),
    "paused": ({A: 90, B: 10}, {"production": A, "canary": B}, 0, False),
    "approved": ({A: 50, B: 50}, {"production": A, "canary": B}, 0, False),
    "aborted": ({A: 100}, {"production": A, "canary": A}, 1, False),
    "mirrored": ({A: 50, B: 50}, {"production": A, "canary": B}, 0, False),
    "baseline": ({COPY: 50, B: 50}, {"production": A, "canary": B}, 0, False),
}


def planned(story: str) -> set[tuple[tuple[str, int], ...]]:
    """Return every table that the story may ever show."""
    splits = {
        "canary": [{A: 100}, {A: 90, B: 10}, {A: 50, B: 50}],
        "production": [{A: 100}, {A: 25, B: 75}, {B: 100}],
        "breach": [{A: 100}, {A: 90, B: 10}, {A: 50, B: 50}],
        "operator": [{B: 100}, {A: 100}],
        "paused": [{A: 100}, {A: 90, B: 10}],
        "approved": [{A: 100}, {A: 90, B: 10}, {A: 50, B: 50}],
        "aborted": [{A: 100}, {A: 90, B: 10}],
        "mirrored": [{A: 100}, {A: 50, B: 50}],
        "baseline": [{A: 100}, {A: 80, COPY: 10, B: 10}, {COPY: 50, B: 50}],
    }[story]
    return {tuple(sorted(split.items())) for split in splits}


@pytest.mark.parametrize("story", STORIES)
def test_a_story_ends_as_planned_without_a_crash(story: str) -> None:
    """Undisturbed, each story ends with Git and the plane agreeing."""
    rig = prepared(story)
    told(rig, story)
    weights, git, reverts, rejected = EXPECTED[story]
    found = end(rig)
    assert (found["weights"], found["git"], found["reverts"], found["rejected"]) == (
        weights,
        git,
        reverts,
        rejected,
    )
    assert not found["problems"]


@pytest.mark.parametrize("story", STORIES)
def test_killed_after_any_change_the_end_is_the_same(story: str) -> None:
    """For each change that the story makes: killed right after it, restarted, it ends as without a crash."""
    calm = prepared(story)
    STORIES[story][0](calm)
    points = Crashes().watch(calm.router, calm.workloads, calm.repository, calm.state, calm.inbox)
    calm.drive(STORIES[story][1])
    goal = end(calm)
    assert len(points.names) > 4, points.names
    for at, name in enumerate(points.names, 1):
        rig = prepared(story)
        before = len(rig.router.history)
        STORIES[story][0](rig)
        Crashes(at).watch(rig.router, rig.workloads, rig.repository, rig.state, rig.inbox)
        rig.drive(STORIES[story][1] + 5)
        assert rig.crashed == 1, name
        assert end(rig) == goal, f"crash {at} after {name}"
        for table in rig.router.history[before:]:
            assert tuple(sorted(table["toy"].weights.items())) in planned(story), f"crash {at} after {name}"


ERRORS = (Unreachable("gone"), Conflict("moved"), PlatformError("disk full"))
CALLS = [
    *(("router", "apply", after) for after in (False, True)),
    *(("workloads", method, after) for method in ("start", "stop") for after in (False, True)),
    *(("repository", method, after) for method in ("commit", "publish") for after in (False, True)),
    *(("inbox", "done", after) for after in (False, True)),
    *(("state", "save", after) for after in (False, True)),
    *(("router", "read", False), ("metrics", "read", False), ("workloads", "list", False)),
    *(("workloads", "warm", False), ("repository", "fetch", False), ("repository", "files", False)),
    *(("state", "acquire", False), ("inbox", "pending", False)),
]


@pytest.mark.parametrize("story", STORIES)
def test_an_error_at_any_call_changes_nothing_of_the_end(story: str) -> None:
    """Whichever call of whichever port fails, before or after its effect, the end is the same."""
    calm = prepared(story)
    told(calm, story)
    calm.drive(15)
    goal = end(calm)
    for number, (port, method, after) in enumerate(CALLS):
        wait = (0, 4)[number % 2]
        rig = prepared(story)
        STORIES[story][0](rig)
        rig.drive(wait)
        for shift in range(2):  # twice in a row, with two kinds of errors
            getattr(rig, port).fail_next(ERRORS[(number + shift) % 3], method, after=after)
        rig.drive(STORIES[story][1] - wait + 15)
        assert end(rig) == goal, f"{port}.{method} failed {'after' if after else 'before'}, {wait} s in"


def test_a_second_agent_is_refused_and_takes_over_after_the_lease() -> None:
    """One agent a plane: a second can't start, and once it took over, the first one touches nothing."""
    rig = Rig()
    rig.settle(A)
    first = rig.agent
    with pytest.raises(LeaseLost):
        rig.restart("elsewhere")
    rig.clock.advance(20)
    rig.restart("elsewhere")
    rig.router.table = {}  # something that an agent would put right at once
    with pytest.raises(LeaseLost):
        first.tick()
    assert rig.router.table == {}
    rig.drive(1)
    assert rig.weights == {A: 100}


def test_the_save_of_an_agent_that_slept_through_its_lease_is_fenced() -> None:
    """An agent that has not noticed the takeover yet can't store, and so does nothing."""
    rig = Rig()
    rig.settle(A)
    first = rig.agent
    rig.clock.advance(20)
    rig.restart("elsewhere")
    first.memory.leased = rig.clock.now()  # it believes that it renewed just now
    rig.push(canary=B)
    calls = len(rig.workloads.calls)
    with pytest.raises(LeaseLost):
        [first.tick() for _ in range(3)]
    assert "start" not in rig.workloads.calls[calls:]


def test_an_agent_restarted_with_the_remote_away_goes_on_from_what_it_knew() -> None:
    """A restart while origin is down keeps serving, repairs drift, and still takes a bad release out."""
    rig = Rig()
    rig.settle(A)
    rig.push(canary=B)
    rig.drive(6)
    rig.repository.reachable = False
    rig.bad[B] = 0.5
    rig.restart()
    rig.drive(10)
    assert rig.weights == {A: 100}
    assert rig.phase("canary") == "RollingBack"
    assert "does not answer" in rig.problems
    rig.repository.reachable = True
    rig.drive(70)
    assert rig.phase("canary") == "RolledBack"
    assert rig.reverts == 1
    assert rig.named("canary") == A


def test_a_rollback_goes_on_when_both_the_mirror_and_the_remote_are_gone() -> None:
    """Traffic never waits for Git: weight 0 that was stored is carried out without knowing what Git says."""
    rig = Rig()
    rig.settle(A)
    rig.push(canary=B)
    rig.drive(4)
    assert rig.weights[B]
    rig.bad[B] = 0.9
    for _ in range(20):
        if rig.phase("canary") != "RollingBack":
            rig.router.fail_next(Unreachable("no answer"), "apply")
            rig.drive(1)
    assert rig.weights[B], "stored, and not carried out yet"
    rig.router.mend()
    rig.repository.fail_next(Conflict("the commit is gone"), "files")
    rig.repository.reachable = False
    rig.restart()
    assert rig.phase("canary") == "RollingBack"
    assert rig.agent.git.desired is None
    rig.drive(2)
    assert rig.weights == {A: 100}


def test_an_agent_whose_memory_was_lost_adopts_what_serves() -> None:
    """Without its state the agent rests on what the router serves; no request is turned away."""
    rig = Rig()
    rig.settle(A)
    rig.state.planes.clear()
    rig.state.leases.clear()
    tables = len(rig.router.history)
    rig.restart()
    rig.drive(10)
    assert rig.weights == {A: 100}
    assert len(rig.router.history) == tables
    assert "adopted" in rig.kinds
