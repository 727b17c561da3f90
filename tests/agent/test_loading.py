"""Loaded releases on a plane of fakes: asked by the inbox, kept over an agent's death, switched to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.builders import MODEL, A, B, C, Rig, envs
from tidegate.core import history

FILES = envs()
FILES["envs/production/platform.yaml"] = "workloads: {replicas: 2, loaded: 1, loadedMemoryMb: 1000}\n"


@pytest.fixture
def rig() -> Rig:
    """A plane where A settled, then B, and nothing of A runs any more."""
    made = Rig(FILES)
    made.settle(A)
    made.settle(B, seconds=80)
    assert set(made.workloads.running) == {(MODEL, B)}
    return made


def ask(rig: Rig, verb: str, release: str, environment: str = "production") -> dict[str, Any]:
    """Ask as Ann, let the agent look once, and return its answer."""
    said = {"environment": environment, "model": MODEL, "release": release, "by": "Ann", "reason": "why not"}
    request = rig.inbox.send("production", verb, said)
    rig.drive(1)
    answer = rig.inbox.result(request)
    assert answer is not None
    return dict(answer)


def test_a_loaded_release_runs_as_many_processes_and_is_routed_without_weight(rig: Rig) -> None:
    """It is up, warm and known to the router, so that a switch has nothing to wait for."""
    assert ask(rig, "load", A)["accepted"]
    rig.drive(5)
    route = rig.router.table[MODEL]
    assert len(rig.workloads.running[MODEL, A].replicas) == 2
    assert (MODEL, A) in rig.workloads.warmed
    assert (dict(route.weights), set(route.endpoints)) == ({B: 100}, {A, B})
    assert rig.kinds[-2:] == ["load", "loaded"]
    before = (rig.state.saves, rig.router.calls.count("apply"))
    rig.drive(30)
    assert before == (rig.state.saves, rig.router.calls.count("apply"))


def test_a_new_agent_keeps_what_was_loaded(rig: Rig) -> None:
    """What was asked for is stored: neither its processes nor its place in the router are cleaned up."""
    ask(rig, "load", A)
    rig.drive(5)
    endpoints = rig.workloads.running[MODEL, A].endpoints
    rig.restart()
    rig.drive(60)
    assert rig.workloads.running[MODEL, A].endpoints == endpoints
    assert set(rig.router.table[MODEL].endpoints) == {A, B}


def test_a_switch_is_one_commit_that_history_tells_as_one(rig: Rig) -> None:
    """Production and canary name it, nothing is rejected, and the commit says who and why."""
    ask(rig, "load", A)
    rig.drive(3)
    assert ask(rig, "switch", A) == {"accepted": True, "text": f"{B} makes way for {A}", "release": A}
    assert rig.weights == {A: 100}
    rig.drive(3)
    commit = rig.repository.log[0]
    assert (rig.named("production"), rig.named("canary"), rig.rejection(B)) == (A, A, None)
    assert commit.change.subject == f"Switch {MODEL} in production from {B} to {A}"
    assert commit.change.trailers["Tidegate-Author"] == "Ann"
    said = history.Revision("c", 1.0, "agent", commit.change.subject, commit.change.trailers, {MODEL: A})
    (entry,) = history.entries("production", [said])
    assert (entry.kind, entry.why) == (history.Kind.SWITCHED, "Ann asked: why not")
    assert (rig.phase("production"), rig.line("production")["reason"]) == (
        "Healthy",
        f"{B} made way: Ann asked: why not",
    )
    rig.drive(60)
    assert set(rig.workloads.running) == {(MODEL, A), (MODEL, B)}


def test_back_and_away(rig: Rig) -> None:
    """What was left is switched to as quickly, and unloaded it is gone from router and plane."""
    ask(rig, "load", A)
    rig.drive(3)
    ask(rig, "switch", A)
    rig.drive(3)
    ask(rig, "switch", B)
    rig.drive(3)
    assert (rig.weights, rig.named("production")) == ({B: 100}, B)
    assert not ask(rig, "unload", B)["accepted"]
    assert ask(rig, "unload", A)["accepted"]
    rig.drive(5)
    assert set(rig.workloads.running) == {(MODEL, B)}
    assert set(rig.router.table[MODEL].endpoints) == {B}


def test_a_switch_survives_the_agents_death_at_any_of_its_steps(rig: Rig) -> None:
    """Killed before or after the router, or before Git, a new agent ends what was begun: once."""
    ask(rig, "load", A)
    rig.drive(3)
    for ticks in range(1, 4):
        copy = rig.copy()
        ask(copy, "switch", A)
        copy.drive(ticks - 1)
        copy.restart()
        copy.drive(10)
        switches = [c for c in copy.repository.log if c.change.subject.startswith("Switch")]
        assert (copy.weights, copy.named("production"), len(switches)) == ({A: 100}, A, 1)


@pytest.mark.parametrize(
    ("verb", "release", "why"),
    [
        ("switch", A, f"{A} is not loaded: tidegate load production {MODEL} {A}"),
        ("switch", C, f"{C} never went through canary and production"),
        ("load", "ffffffffffff", "has no record in Git"),
        ("unload", B, f"{B} has traffic"),
    ],
)
def test_what_is_refused_changes_nothing(rig: Rig, verb: str, release: str, why: str) -> None:
    """The answer says why and what to do; neither router nor Git nor processes move."""
    before = (rig.repository.head, dict(rig.weights), set(rig.workloads.running))
    answer = ask(rig, verb, release)
    assert not answer["accepted"]
    assert why in answer["text"]
    rig.drive(5)
    assert (rig.repository.head, dict(rig.weights), set(rig.workloads.running)) == before


def test_number_and_memory_are_those_of_platform_yaml(rig: Rig) -> None:
    """What the processes of a release hold is measured by the plane; the limits are the environment's."""
    running = rig.workloads.running[MODEL, B]
    fat = tuple(replace(replica, memory=600_000_000) for replica in running.replicas)
    rig.workloads.running[MODEL, B] = replace(running, replicas=fat)
    assert "one more about 1,200 MB, of 1,000 MB" in ask(rig, "load", A)["text"]
    rig.workloads.running[MODEL, B] = running
    assert ask(rig, "load", A)["accepted"]
    assert "loaded beside what runs: 1, and no more than 1 may be" in ask(rig, "load", C)["text"]


def test_a_bento_that_is_not_here_is_a_problem_until_it_is(rig: Rig) -> None:
    """Loading is tried again; unloading ends the problem."""
    rig.workloads.available = {B}
    assert ask(rig, "load", A)["accepted"]
    rig.drive(3)
    assert f"the Bento of {A} is not here" in rig.problems
    ask(rig, "unload", A)
    rig.drive(3)
    assert rig.problems == ""
