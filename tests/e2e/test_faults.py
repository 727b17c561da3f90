"""What a running plane does about bad input and broken parts: one clear line, and users notice nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.rig import (
    MODEL,
    Onlooker,
    Rig,
    Traffic,
    absent,
    eventually,
    rig_up,
    unready,
)
from tidegate import wiring
from tidegate.core.release import ReleaseRecord
from tidegate.ports import ReplicaState

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHECKS = [{"name": "errors", "metric": "error-rate", "limit": "10%", "againstStable": {"tolerance": "50%"}}]
COMMON = {"checks": CHECKS, "scaleDownDelay": "10m"}
CANARY = {
    **COMMON,
    "steps": [{"setWeight": 50, "pause": {"duration": "1s", "minRequests": 20}}],
    "progressDeadline": "10m",
}
PRODUCTION = {
    **COMMON,
    "steps": [{"setWeight": 100, "pause": {"duration": "1s", "minRequests": 20}}],
    "requiredSoakTime": "1s",
    "progressDeadline": "10m",
}
RELEASE_FILE = "envs/production/release.yaml"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A plane with two replicas a release."""
    root = tmp_path_factory.mktemp("faults")
    with rig_up(root, {"canary": CANARY, "production": PRODUCTION}, replicas=2) as started:
        yield started


@pytest.fixture(scope="module")
def old(rig: Rig) -> ReleaseRecord:
    return rig.stores.release(1)


@pytest.fixture(scope="module")
def stable(rig: Rig, old: ReleaseRecord) -> ReleaseRecord:
    """A release in production, which replaced another that was verified there too."""
    found = rig.stores.release(2)
    with Traffic(rig.url, 40) as traffic:
        rig.settle(old)
        since = traffic.mark()
        rig.settle(found)
    assert traffic.failed(since=since) == {}
    return found


@pytest.fixture
def traffic(rig: Rig, stable: ReleaseRecord) -> Iterator[Traffic]:
    """Requests all through a test; it starts and ends with a plane that has nothing to complain of."""
    with Traffic(rig.url, 40) as sending:
        yield sending
    eventually(lambda: rig.problems() == [], "no problem is left")


def _says(rig: Rig, *words: str) -> str:
    """Wait for the problem that names all of these, and return it."""

    def look() -> str:
        return next((p for p in rig.problems() if all(word in p for word in words)), "")

    return str(eventually(look, f"a problem that says {words}"))


# ---------------------------------------------------------------- what Git says is wrong
def test_a_malformed_release_file_changes_nothing(rig: Rig, stable: ReleaseRecord, traffic: Traffic) -> None:
    """The last good state stays, status names file and line, and a later commit mends it."""
    good = rig.says(RELEASE_FILE)
    rig.push({RELEASE_FILE: f"models:\n  {MODEL}: [unfinished\n"}, "Break it")
    said = _says(rig, f"{RELEASE_FILE}:3", "stays in force")
    assert "\n" not in said
    shown = json.loads(rig.tidegate("status", "--json"))["planes"]
    assert said in next(p for p in shown if p["plane"] == "production")["problems"]
    assert rig.weights() == {stable.id: 100}
    rig.push({RELEASE_FILE: good}, "Mend it")
    eventually(lambda: rig.problems() == [], "mended")
    assert traffic.failed() == {}


def test_an_unknown_key_is_told_with_a_suggestion(rig: Rig, traffic: Traffic) -> None:
    """A misspelt key is never passed over: status says what it may have meant."""
    path = "envs/canary/rollout.yaml"
    good = rig.says(path)
    rig.push({path: good.replace("progressDeadline", "progresDeadline")}, "Misspell a key")
    said = _says(rig, path, "progresDeadline")
    assert "Did you mean `progressDeadline`?" in said
    rig.push({path: good}, "Mend it")
    eventually(lambda: rig.problems() == [], "mended")
    assert traffic.failed() == {}


def test_a_release_that_is_not_here_is_one_clear_line(
    rig: Rig, stable: ReleaseRecord, traffic: Traffic
) -> None:
    """A Bento that this machine lacks is said, waited for, and not held against the release."""
    missing = absent(rig.stores.release(10))
    rig.promote(missing, "canary")
    said = _says(rig, "flight_delay/404-0000000", "tidegate package")
    assert "\n" not in said
    assert rig.line("canary")["phase"] == "Pending"
    assert rig.rejection(missing.id) == {}
    rig.promote(stable, "canary")
    eventually(lambda: rig.problems() == [], "taken back")
    assert rig.weights() == {stable.id: 100}
    assert traffic.failed() == {}


def test_a_bento_that_never_becomes_ready_is_rejected(
    rig: Rig, stable: ReleaseRecord, traffic: Traffic
) -> None:
    """After progressDeadline it is rejected with a reason, and the old release was never touched."""
    path = "envs/canary/rollout.yaml"
    good, sick = rig.says(path), unready(rig.stores.release(11))
    words = "not the one that the release names"
    served = [p.pid for p in rig.replicas(stable.id)]
    with Onlooker(rig) as onlooker:
        rig.promote(sick, "canary")
        eventually(lambda: words in rig.line("canary").get("reason", ""), "status has its last words")
        assert rig.line("canary")["phase"] == "Pending"
        rig.push({path: good.replace("progressDeadline: 10m", "progressDeadline: 1s")}, "Be impatient")
        eventually(rig.reached("canary", sick.id, "RolledBack"), "it is given up")
    rejection = rig.rejection(sick.id)
    assert "progressDeadline" in rejection["reason"]
    assert words in rejection["reason"]
    assert rig.wanted("canary") == stable.id
    assert [sample.weights for sample in onlooker.samples] == [{stable.id: 100}]
    assert [p.pid for p in rig.replicas(stable.id)] == served
    assert traffic.failed() == {}
    rig.push({path: good}, "Be patient again")
    eventually(lambda: rig.replicas(sick.id) == [], "its processes are gone")


# ---------------------------------------------------------------- a remote that is away
def test_without_its_remote_a_plane_serves_on(rig: Rig, stable: ReleaseRecord, traffic: Traffic) -> None:
    """The remote away, and the agent killed meanwhile: it serves, says so, and follows when it is back."""
    away = rig.origin.with_name("away.git")
    rig.origin.rename(away)
    try:
        _says(rig, "origin.git")
        before = rig.agent()
        assert rig.kill_agent()
        eventually(lambda: rig.agent() not in (0, before), "the agent is back")
        since = time.time()
        eventually(lambda: time.time() > since + 3, "it has looked around")
        _says(rig, "origin.git")
        assert rig.weights() == {stable.id: 100}
        assert rig.line("production")["release"] == stable.id
    finally:
        away.rename(rig.origin)
    commit = rig.push({}, "Back again")
    eventually(lambda: rig.status().get("commit") == commit, "it follows again")
    eventually(lambda: rig.problems() == [], "nothing to complain of")
    assert traffic.failed() == {}


# ---------------------------------------------------------------- killed parts
def test_a_killed_envoy_comes_back_as_it_was(rig: Rig, stable: ReleaseRecord, traffic: Traffic) -> None:
    """kill -9 of the router: it is started again and serves the same release."""
    (envoy,) = rig.members(str(rig.layout.envoy / "bootstrap.json"))
    envoy.kill()
    eventually(lambda: not envoy.is_running(), "it is dead")
    eventually(lambda: rig.weights() == {stable.id: 100}, "it is back")
    since = traffic.mark()
    eventually(lambda: traffic.by(stable.id, since) > 100, "it answers")
    assert traffic.failed(since=since) == {}


def test_a_killed_replica_loses_no_request(rig: Rig, stable: ReleaseRecord, traffic: Traffic) -> None:
    """kill -9 of one of two replicas: its sibling answers everything, and it is started again."""
    first, second = rig.replicas(stable.id)
    first.kill()
    eventually(lambda: len({p.pid for p in rig.replicas(stable.id)} - {first.pid, second.pid}) == 1, "anew")
    eventually(lambda: _ready(rig, stable) == 2, "both are ready")
    assert second.is_running()
    assert traffic.failed() == {}
    assert rig.weights() == {stable.id: 100}


def _ready(rig: Rig, record: ReleaseRecord) -> int:
    workloads = wiring.workloads(wiring.platform(rig.clone, "production"), rig.home)
    return sum(
        r.state is ReplicaState.READY for w in workloads.list() for r in w.replicas if w.release == record.id
    )


# ---------------------------------------------------------------- promises of speed
def test_a_third_of_bad_answers_is_left_within_seconds(
    rig: Rig, stable: ReleaseRecord, traffic: Traffic
) -> None:
    """20 requests/s on the canary, a third fail: weight 0 within 5 s, the revert on the remote in 10 more."""
    bad = rig.stores.release(20, bad=True)
    rig.promote(bad, "canary")  # half of 40 requests a second
    eventually(rig.reached("canary", bad.id, "RolledBack"), "it came back")
    failed = [a for a in traffic.answers if not a.ok]
    assert {(a.release, a.status) for a in failed} == {(bad.id, "500")}, "stable failed nobody"
    zero, reverted = rig.event("weight-zero", bad.id), rig.event("reverted", bad.id)
    assert zero is not None
    assert reverted is not None
    print(f"{zero.at - failed[0].at:.2f} s to weight 0, {reverted.at - zero.at:.2f} s to the revert")
    assert zero.at - failed[0].at <= 5
    assert reverted.at - zero.at <= 10
    assert failed[-1].at <= zero.at + 1, "no request reaches it after that"
    assert rig.wanted("canary") == stable.id
    assert yaml.safe_load(rig.rejection(bad.id)["observed"].rstrip("%")) > 10


def test_a_person_goes_back_by_one_command(
    rig: Rig, old: ReleaseRecord, stable: ReleaseRecord, traffic: Traffic
) -> None:
    """`tidegate rollback` moves traffic at once to the release before, and Git says so when it returns."""
    said = json.loads(rig.tidegate("rollback", "production", MODEL, "--reason", "complaints", "--json"))
    assert said["release"] == stable.id
    assert rig.wanted("production") == old.id
    assert rig.weights() == {old.id: 100}
    assert rig.rejection(stable.id) == {}, "a person's word is no verdict on the release"
    assert len(rig.commits(f"from {stable.id} to {old.id}")) == 1
    eventually(lambda: rig.line("production").get("release") == old.id, "status says so")
    assert traffic.failed() == {}
