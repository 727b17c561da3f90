"""What a rollback writes to Git: the old line and the evidence, and never over a later decision."""

from __future__ import annotations

import pytest

from tests.builders import A, B, C, envs
from tidegate.config import parse_desired, parse_release_file
from tidegate.core.state import Phase, Rollout
from tidegate.core.writeback import plan_write_back

FINDING = {"verdict": "FAIL", "observed_text": "30%", "limit_text": "2%", "name": "errors"}


def rollout(reject: bool = True, stable: str | None = A) -> Rollout:
    """Return a rollout of B that was left."""
    return Rollout(
        "canary",
        B,
        stable,
        Phase.ROLLING_BACK,
        1.0,
        verdict="FAIL",
        reason="too many errors",
        findings=(FINDING,),
        reject=reject,
    )


def test_the_line_goes_back_with_numbers_in_the_trailers() -> None:
    """One commit: the line names stable again, a rejection has the evidence, trailers both numbers."""
    plan = plan_write_back(
        rollout(), "toy", ["production", "canary"], envs(A, B), {"production": A, "canary": B}, 0
    )
    assert plan
    assert list(plan.files) == ["envs/canary/release.yaml"]
    assert parse_release_file(plan.files["envs/canary/release.yaml"], "f") == {"toy": A}
    assert (plan.trailers["Tidegate-Observed"], plan.trailers["Tidegate-Limit"]) == ("30%", "2%")
    assert plan.trailers["Tidegate-Release"] == B
    assert plan.rejection
    assert plan.rejection["findings"] == [FINDING]


def test_a_first_release_leaves_no_line() -> None:
    """With nothing to go back to the line is removed."""
    plan = plan_write_back(rollout(stable=None), "toy", ["canary"], envs(None, B), {"canary": B}, 0)
    assert plan
    assert parse_release_file(plan.files["envs/canary/release.yaml"], "f") == {}
    assert plan.trailers["Tidegate-Back-To"] == "no release"


def test_a_persons_later_merge_stands() -> None:
    """Another release named by now: only the rejection is written."""
    plan = plan_write_back(rollout(), "toy", ["canary"], envs(A, C), {"canary": C}, 0)
    assert plan
    assert plan.files == {}
    assert plan.rejection


def test_nothing_is_written_twice() -> None:
    """A tree that says it all already gets no commit."""
    files = envs(A, A) | {f"envs/releases/toy/{B}.rejected.yaml": "release: x"}
    assert plan_write_back(rollout(), "toy", ["canary"], files, {"canary": A}, 0) is None


def test_a_persons_rollback_writes_no_rejection() -> None:
    """Going back on a person's word changes lines, and refuses nothing."""
    wanted = {"canary": B, "production": B}
    plan = plan_write_back(rollout(reject=False), "toy", wanted, envs(B, B), wanted, 0)
    assert plan
    assert plan.rejection is None
    assert sorted(plan.files) == ["envs/canary/release.yaml", "envs/production/release.yaml"]


@pytest.mark.parametrize("reason", ["plain", "colon: # hash\nand a second line", "ünïcode × – \u2028"])
def test_the_rejection_parses_again(reason: str) -> None:
    """What the agent writes is what the agent reads, whatever the reason holds."""
    import yaml
    from msgspec.structs import replace

    plan = plan_write_back(replace(rollout(), reason=reason), "toy", ["canary"], envs(A, B), {"canary": B}, 0)
    assert plan
    text = yaml.safe_dump(plan.rejection, sort_keys=False, allow_unicode=True, width=100)
    read = parse_desired("c", envs(A, A) | {f"envs/releases/toy/{B}.rejected.yaml": text})
    assert read.rejections[B].reason == reason


def test_a_persons_rollback_names_who_and_why() -> None:
    """History tells a person's decision from the agent's, and gives the reason in one line."""
    import msgspec

    asked = msgspec.structs.replace(rollout(reject=False), by="ada", reason="ada asked: late\nin Denver")
    plan = plan_write_back(
        asked, "toy", ["production", "canary"], envs(A, B), {"production": A, "canary": B}, 0
    )
    assert plan
    assert plan.trailers["Tidegate-Author"] == "ada"
    assert plan.trailers["Tidegate-Reason"] == "ada asked: late in Denver"
