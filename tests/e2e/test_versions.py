"""Releases loaded beside each other on a real plane: load, switch at once, switch back, unload."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.rig import MODEL, SOUND, Onlooker, Rig, Traffic, eventually, rig_up
from tidegate.core.release import ReleaseRecord

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STEP = {"pause": {"duration": "1s", "minRequests": 5}}
CHECKS = [{"name": "errors", "metric": "error-rate", "limit": "10%"}]
COMMON = {"checks": CHECKS, "progressDeadline": "10m", "scaleDownDelay": "1s"}  # what is left is gone at once
ROLLOUTS = {
    "canary": {**COMMON, "steps": [{"setWeight": 50, **STEP}]},
    "production": {**COMMON, "steps": [{"setWeight": 100, **STEP}]},
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig_up(tmp_path_factory.mktemp("versions"), json.loads(json.dumps(ROLLOUTS))) as started:
        yield started


@pytest.fixture(scope="module")
def traffic(rig: Rig) -> Iterator[Traffic]:
    """Sound requests all through the module: what fails is counted from when a release is there."""
    with Traffic(rig.url, 40, rows=SOUND) as sending:
        yield sending


@pytest.fixture(scope="module")
def settled(rig: Rig, traffic: Traffic) -> tuple[ReleaseRecord, ReleaseRecord]:
    """Two releases that went through production, one after the other; the second runs, the first is gone."""
    old, new = rig.stores.release(1), rig.stores.release(2)
    rig.settle(old)
    rig.settle(new)
    eventually(lambda: not rig.replicas(old.id), "the first one is stopped", 60)
    return old, new


def shown(rig: Rig, release: str) -> dict[str, object]:
    """Return what `tidegate releases` says of a release; nothing when it is not loaded."""
    rows = json.loads(rig.tidegate("releases", MODEL, "--json"))
    return next((row for row in rows if row["release"] == release), {})


def test_a_release_is_loaded_switched_to_switched_back_and_unloaded(
    rig: Rig, traffic: Traffic, settled: tuple[ReleaseRecord, ReleaseRecord]
) -> None:
    """Not one request fails; Git says what runs each time; a killed agent forgets nothing."""
    old, new = settled
    with pytest.raises(AssertionError, match=f"tidegate load production {MODEL} {old.id}"):
        rig.tidegate("switch", "production", MODEL, old.id)
    since = traffic.mark()

    rig.tidegate("load", "production", MODEL, old.id, "--reason", "the fair")
    assert rig.weights() == {new.id: 100}
    row = shown(rig, old.id)
    assert (row["weight"], row["up"], row["replicas"]) == (0, 1, 1)
    assert str(row["why"]).startswith("loaded by ")
    assert int(str(row["memory"])) > 50e6
    with pytest.raises(AssertionError, match="has traffic"):
        rig.tidegate("unload", "production", MODEL, new.id)

    assert rig.kill_agent()
    eventually(rig.agent, "the agent is started again")
    loaded = [process.pid for process in rig.replicas(old.id)]
    seen = len(rig.events())
    rig.push({}, "Something else")  # the new agent has looked once it knows this
    eventually(lambda: rig.status().get("commit") == rig.git("rev-parse", "HEAD").strip(), "looked")
    assert [process.pid for process in rig.replicas(old.id)] == loaded != []
    assert not [event for event in rig.events()[seen:] if event.kind == "unloaded"]

    with Onlooker(rig) as onlooker:
        onlooker.mark()
        for to, other in ((old, new), (new, old)):
            rig.tidegate("switch", "production", MODEL, to.id, "--reason", "try it")
            assert rig.weights() == {to.id: 100}
            assert (rig.wanted("production"), rig.wanted("canary")) == (to.id, to.id)
            eventually(rig.reached("production", to.id, "Healthy"), f"{to.id} is what runs", 30)
            assert shown(rig, other.id)["weight"] == 0  # loaded, for the way back
        splits = [sample.weights for sample in onlooker.samples]
    assert all(split in ({old.id: 100}, {new.id: 100}) for split in splits), splits
    rig.git("fetch", "--quiet", "origin")
    subjects = rig.git("log", "--format=%s", "-2", "origin/main").splitlines()
    assert [subject.split(" in ")[0] for subject in subjects] == [f"Switch {MODEL}"] * 2

    rig.tidegate("unload", "production", MODEL, old.id)
    eventually(lambda: not rig.replicas(old.id), "its processes are gone", 60)
    assert shown(rig, old.id) == {}
    assert traffic.by(old.id, since) > 0
    assert traffic.failed(since=since) == {}


def test_a_process_tells_its_memory_by_release(
    rig: Rig, settled: tuple[ReleaseRecord, ReleaseRecord]
) -> None:
    """`/metrics` of a replica names its release, and agrees with what the kernel says."""
    (row,) = json.loads(rig.tidegate("releases", MODEL, "--json"))
    endpoint = row["processes"][0]["endpoint"]
    lines = httpx.get(f"http://{endpoint}/metrics", timeout=10).text.splitlines()
    (line,) = [line for line in lines if line.startswith("tidegate_memory_bytes{")]
    assert f'release="{row["release"]}"' in line
    assert 0.5 < float(line.rpartition(" ")[2]) / row["memory"] < 2
    assert row["since"] < time.time()


def test_releases_are_told_without_an_agent(rig: Rig, settled: tuple[ReleaseRecord, ReleaseRecord]) -> None:
    """What is loaded is read of the plane itself: an agent that is dead right now changes nothing."""
    before = [row["release"] for row in json.loads(rig.tidegate("releases", "--json"))]
    assert before == [settled[1].id]
    assert rig.kill_agent()
    assert [row["release"] for row in json.loads(rig.tidegate("releases", "--json"))] == before
    assert settled[1].id in rig.tidegate("releases")
    assert [row["release"] for row in json.loads(rig.tidegate("status", "--json"))["releases"]] == before
    eventually(rig.agent, "the agent is started again")
