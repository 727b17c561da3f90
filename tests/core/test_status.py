"""What status says of each environment, and which of it is worth publishing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import A, B, C
from tidegate.core.plan import Plan
from tidegate.core.state import ModelState, Phase, Rollout, Target, Want
from tidegate.core.status import environment_status, lasting, news, plane_status


def on_its_way(
    phase: Phase, environment: str = "canary", weight: int = 10, stable: str | None = A
) -> ModelState:
    """Return a state in which B is somewhere between A and B."""
    return ModelState(stable, Rollout(environment, B, stable, phase, 1.0, weight=weight, reason="why"))


RESTING = ModelState(A)


@pytest.mark.parametrize(
    ("environment", "wanted", "state", "alive", "expected"),
    [
        ("production", None, ModelState(), "", (None, "-", 0)),
        ("production", A, ModelState(), "", (A, "Pending", 0)),
        ("production", A, RESTING, "A", (A, "Healthy", 100)),
        ("production", A, RESTING, "", (A, "Degraded", 100)),
        ("production", C, RESTING, "A", (A, "Healthy", 100)),  # not taken up: the reason says so
        ("canary", A, RESTING, "A", (A, "Healthy", 100)),
        ("canary", None, RESTING, "A", (None, "-", 0)),
        ("canary", C, RESTING, "A", (C, "Pending", 0)),
        ("canary", B, on_its_way(Phase.PROGRESSING), "AB", (B, "Progressing", 10)),
        ("production", A, on_its_way(Phase.PROGRESSING), "AB", (A, "Healthy", 90)),
        ("canary", B, on_its_way(Phase.VERIFIED, weight=50), "AB", (B, "Verified", 50)),
        ("canary", B, on_its_way(Phase.ROLLING_BACK, weight=0), "AB", (B, "RollingBack", 0)),
        ("canary", A, on_its_way(Phase.ROLLED_BACK, weight=0), "A", (B, "RolledBack", 0)),
        ("canary", B, on_its_way(Phase.ROLLED_BACK, weight=0), "A", (B, "RolledBack", 0)),  # asked for again
        ("production", A, on_its_way(Phase.ROLLED_BACK, "production", 0), "A", (A, "Healthy", 100)),
        ("canary", C, on_its_way(Phase.ROLLED_BACK, weight=0), "A", (C, "Pending", 0)),
        ("production", B, on_its_way(Phase.PROGRESSING, "production", 75), "AB", (B, "Progressing", 75)),
        ("canary", B, on_its_way(Phase.PROGRESSING, "production", 75), "AB", (B, "Verified", 75)),
        ("production", B, on_its_way(Phase.HEALTHY, "production", 100, stable=B), "B", (B, "Healthy", 100)),
    ],
)
def test_one_environments_line(
    environment: str, wanted: str | None, state: ModelState, alive: str, expected: tuple[Any, ...]
) -> None:
    """Release, phase and weight of each environment, by what is wanted, remembered and alive."""
    names = {"A": A, "B": B}
    line = environment_status(environment, wanted, state, [names[r] for r in alive])
    assert (line["release"], line["phase"], line["weight"]) == expected


def test_a_wish_that_is_not_taken_up_is_told() -> None:
    """Healthy, and yet Git asks for something else: the reason names it."""
    assert f"Git asks for {C}" in environment_status("production", C, RESTING, [A])["reason"]


def document(state: ModelState) -> dict[str, Any]:
    """Return a plane's status of one model."""
    want = Want((Target("production", A, Plan()), Target("canary", B, Plan())))
    return plane_status("production", "http://x", "c", {"toy": (want, state, [A, B])}, ["b", "a"])


def test_a_planes_document_has_a_line_for_each_environment() -> None:
    """By model and environment, with problems in a fixed order."""
    made = document(on_its_way(Phase.PROGRESSING))
    assert set(made["models"]["toy"]) == {"production", "canary"}
    assert made["problems"] == ["a", "b"]


def test_only_lasting_parts_are_published() -> None:
    """A count or a passing reason changes nothing of it; a phase, a weight or the reason of an end does."""
    from msgspec.structs import replace

    def shown(**changes: Any) -> dict[str, Any]:
        base = on_its_way(Phase.PROGRESSING)
        assert base.rollout
        return lasting(document(replace(base, rollout=replace(base.rollout, **changes))))

    assert shown() == shown(seen=99, reason="pause 1 of 3 s", findings=({"x": 1},), step=1)
    assert shown() != shown(weight=50)
    assert shown() != shown(phase=Phase.VERIFIED)
    assert shown(phase=Phase.ROLLED_BACK) != shown(phase=Phase.ROLLED_BACK, reason="another")


@pytest.mark.parametrize("phase", [Phase.VERIFIED, Phase.ROLLED_BACK])
def test_a_decided_rollout_is_published_with_its_numbers_once(phase: Phase) -> None:
    """The findings that decided go with it; that later looks find other numbers is no news."""
    from msgspec.structs import replace

    def shown(**changes: Any) -> dict[str, Any]:
        base = on_its_way(phase)
        assert base.rollout
        return lasting(document(replace(base, rollout=replace(base.rollout, **changes))))

    found = shown(findings=({"name": "errors", "reason": "0.1% <= 2%"},))
    assert found["models"]["toy"]["canary"]["findings"] == [{"name": "errors", "reason": "0.1% <= 2%"}]
    assert news(found) == news(shown(findings=({"name": "errors", "reason": "0.2% <= 2%"},)))
    assert news(found) != news(shown(weight=50))
