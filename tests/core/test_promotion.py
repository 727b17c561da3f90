"""Which promotions may be made, and when a rollout has ended."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.core.promotion import ORDER, Outcome, Target, describe, facts, message, outcome, pushed, refusal

R1, R2 = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def target(environment: str = "canary", release: str = R1) -> Target:
    return Target(environment, "flight-delay", release)


def status(environment: str, release: str, phase: str, **more: Any) -> dict[str, Any]:
    entry = {"release": release, "phase": phase, "reason": "", "weight": 5, **more}
    return {"plane": "p", "models": {"flight-delay": {environment: entry}}, "problems": []}


def test_one_branch_a_target() -> None:
    """The same release and environment always have the same branch."""
    assert target().branch == f"promote/canary/flight-delay/{R1}"


def test_the_way_through() -> None:
    """Each environment leads to the next in order, and production to none."""
    at, seen = target("staging"), []
    while at:
        seen.append(at.environment)
        at = at.next()
    assert tuple(seen) == ORDER


@pytest.mark.parametrize(
    ("to", "releases", "has_record", "rejected", "expected"),
    [
        ("staging", {}, True, None, None),
        ("staging", {}, False, None, "no record"),
        ("staging", {}, True, "errors 30% > 2%", "rejected: errors 30% > 2%"),
        ("canary", {"staging": {"flight-delay": R1}}, True, None, None),
        ("canary", {"staging": {"flight-delay": R2}}, True, None, "not in staging"),
        ("canary", {}, True, None, "there is nothing"),
        ("canary", {"staging": {"flight-delay": R1}}, False, None, "no record"),
        ("canary", {"staging": {"other": R1}}, True, None, "not in staging"),
        ("production", {"staging": {"flight-delay": R1}}, True, None, "not in canary"),
        ("production", {"canary": {"flight-delay": R1}}, True, None, None),
        ("production", {"canary": {"flight-delay": R1}}, True, "", "rejected"),
        ("prod", {"canary": {"flight-delay": R1}}, True, None, "not an environment"),
    ],
)
def test_refusal(
    to: str, releases: dict[str, dict[str, str]], has_record: bool, rejected: str | None, expected: str | None
) -> None:
    """A promotion is refused for a rejected or unknown release, and out of order; each with a next action."""
    found = refusal(target(to), releases, has_record=has_record, rejected=rejected)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert expected in found[0]
        assert found[1].endswith(".")


def test_pushed_names_only_what_changed() -> None:
    """A push promotes the models whose release changed, not those removed or left alone."""
    before = {"staging": {"a": R1, "b": R1, "gone": R1}, "canary": {"a": R1}}
    after = {"staging": {"a": R2, "b": R1, "new": R1}, "canary": {"a": R1}}
    assert pushed(before, after) == [Target("staging", "a", R2), Target("staging", "new", R1)]


@pytest.mark.parametrize(
    ("environment", "phase", "expected"),
    [
        ("staging", "Healthy", Outcome.REACHED),
        ("canary", "Verified", Outcome.REACHED),
        ("production", "Verified", Outcome.WAIT),
        ("production", "Healthy", Outcome.REACHED),
        ("canary", "Progressing", Outcome.WAIT),
        ("canary", "Paused", Outcome.WAIT),
        ("canary", "RollingBack", Outcome.WAIT),
        ("canary", "RolledBack", Outcome.FAILED),
        ("canary", "Degraded", Outcome.WAIT),
        ("canary", "SomethingNew", Outcome.WAIT),
        ("canary", "", Outcome.WAIT),
    ],
)
def test_outcome_by_phase(environment: str, phase: str, expected: Outcome) -> None:
    """A rollout is reached or failed only by phases that say so; any other one is waited for."""
    found, _ = outcome(target(environment), R1, None, status(environment, R1, phase), current=True)
    assert found is expected


def test_another_release_s_health_is_not_ours() -> None:
    """A healthy release of before does not count as the one that is waited for."""
    assert outcome(target(), R1, None, status("canary", R2, "Healthy"), current=True)[0] is Outcome.WAIT


@pytest.mark.parametrize(
    "document", [None, {}, {"models": None}, {"models": {"flight-delay": {"canary": None}}}]
)
def test_absence_is_never_reached(document: dict[str, Any] | None) -> None:
    """No document, or one that says nothing, is waited for."""
    assert outcome(target(), R1, None, document, current=True)[0] is Outcome.WAIT


@pytest.mark.parametrize("phase", ["Verified", "Healthy", "RolledBack"])
def test_what_was_said_before_the_promotion_decides_nothing(phase: str) -> None:
    """A document of before the promotion's commit tells of an earlier rollout of the same release: WAIT."""
    found, reason = outcome(target(), R1, None, status("canary", R1, phase), current=False)
    assert found is Outcome.WAIT
    assert "has not taken it up" in reason


def test_rejection_wins_over_health() -> None:
    """A rejection on main is a failure, whatever the plane said last."""
    found, reason = outcome(target(), R1, "errors 30% > 2%", status("canary", R1, "Verified"), current=True)
    assert found is Outcome.FAILED
    assert "errors 30% > 2%" in reason


def test_rolled_back_wins_over_superseded() -> None:
    """After the agent's revert main wants the old release: still a failure of this one, with its reason."""
    document = status("canary", R1, "RolledBack", reason="latency 300 ms > 200 ms")
    found, reason = outcome(target(), R2, None, document, current=True)
    assert found is Outcome.FAILED
    assert "300 ms > 200 ms" in reason


def test_superseded_when_main_moved_on() -> None:
    """A release that main does not want any more is neither reached nor failed."""
    assert (
        outcome(target(), R2, None, status("canary", R2, "Progressing"), current=True)[0]
        is Outcome.SUPERSEDED
    )


def test_a_problem_of_the_agent_is_the_reason() -> None:
    """While the agent can't take a release up, its problem is what the waiting one reads."""
    document = {"models": {}, "problems": ["envs/canary/release.yaml:2: not a release id"]}
    assert outcome(target(), R1, None, document, current=True) == (Outcome.WAIT, document["problems"][0])


def test_message_has_one_trailer_block() -> None:
    """Trailers are one block at the end, one line each, however their values are written."""
    text = message(target(), "Subject", {"Tidegate-Note": "two\nlines"})
    block = text.rstrip("\n").split("\n\n")[-1].split("\n")
    assert [line.split(":")[0] for line in block] == [
        *("Tidegate-Model", "Tidegate-Environment", "Tidegate-Release", "Tidegate-Note"),
    ]


def test_facts_say_what_changes() -> None:
    """A promotion's facts name release, environment, what it replaces and what it is made of."""
    record = {"commit": "c0ffee", "registry": {"name": "m", "version": 7}, "bento": {"tag": "b:7"}}
    record["gates"] = {"data": "PASS", "report": "sha256:x"}
    text = describe(facts(target(), record, R2))
    for part in (R1, R2, "canary", "m 7", "data PASS", "b:7"):
        assert part in text
    assert "report sha256" not in text
