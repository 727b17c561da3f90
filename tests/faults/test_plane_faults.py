"""Router, workloads and measurements go wrong: requests are answered, and no release is tried blindly."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.rig import Traffic, eventually
from tests.faults.plane import MODEL, FaultPlane
from tests.faults.proxy import LIES, lying
from tests.faults.stories import NAMES, Properties, Story
from tidegate.files import write_atomic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SEED = 20260102
STORIES = pytest.mark.parametrize("story", NAMES)
# A killed Envoy refuses connections until supervisord has started it again and it has read its routes.
ENVOY_SECONDS = 5.0
HEALTH_CHECK_SECONDS = 6.0  # two checks of 2 s, a second apart (core/xds.py): so long may a hang be felt


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultPlane]:
    with FaultPlane(tmp_path_factory.mktemp("plane")).running() as plane:
        yield plane


@pytest.fixture
def plane(started: FaultPlane) -> FaultPlane:
    """The plane at rest."""
    started.rest()
    return started


def moment(*words: object) -> float:
    """Return a fraction drawn by these words."""
    return random.Random(" ".join(map(str, (SEED, *words)))).random()


@contextlib.contextmanager
def hanging(*workers: psutil.Process) -> Iterator[None]:
    """Let processes hang for a while."""
    try:
        for worker in workers:
            worker.suspend()
        yield
    finally:
        for worker in workers:
            worker.resume()


# ---------------------------------------------------------------- the router
@STORIES
def test_a_killed_envoy(plane: FaultPlane, properties: Properties, story: str, run: int) -> None:
    """Requests fail only while it is not there; it comes back as it was, and the rollout goes on."""
    told = Story(plane, story, "Envoy kill -9")
    told.begin()
    time.sleep(2 * moment(story, run))
    envoy = plane.envoy()
    envoy.kill()
    told.watch.over()
    told.end()
    lost = told.watch.lost_seconds()
    told.watch.note = f"refused for {lost:.1f} s at most {ENVOY_SECONDS:g}"
    told.watch.outcome(properties, failed=1_000_000)
    assert lost <= ENVOY_SECONDS


def test_a_hand_edited_route_file(plane: FaultPlane, properties: Properties, run: int) -> None:
    """Somebody sends half of the requests to a release that is only warm: taken back within a look."""
    watch = plane.watch("routes edited by hand", new := plane.made.fresh())
    plane.both(new)
    watch.planned = {0, 40, 100}
    eventually(plane.promoted(new), "another release is in production")
    old, plane.stable = plane.stable, new
    file = plane.layout.envoy / "routes.json"
    routes = file.read_text()
    edited = json.loads(routes)
    for host in edited["resources"][0]["virtual_hosts"]:
        for route in host["routes"]:
            for cluster in route.get("route", {}).get("weighted_clusters", {}).get("clusters", []):
                cluster["name"] = f"{MODEL}|{old.id}"
    began = time.time()
    write_atomic(file, json.dumps(edited))

    def met() -> bool:
        """It is served, or was until the agent noticed, which is often quicker than this look."""
        told = any(event.kind == "drift" and event.at >= began for event in plane.events())
        return told or plane.weights() == {old.id: 100}

    eventually(met, "the edit is served")
    watch.over()
    watch.converge(lambda: plane.weights() == {new.id: 100}, "what Git says is served")
    assert any(event.kind == "drift" for event in plane.events()[-3:])
    watch.outcome(properties)


# ---------------------------------------------------------------- workloads
@STORIES
def test_a_killed_worker_of_stable(plane: FaultPlane, properties: Properties, story: str, run: int) -> None:
    """One of stable's two workers is killed in mid-rollout, and in mid-rollback: its sibling answers."""
    told = Story(plane, story, "a stable worker kill -9")
    victim = plane.replicas(plane.stable.id)[run % 2]
    told.begin()
    if story == "rollback":
        eventually(lambda: plane.event("breach", told.new.id), "the rollback has begun")
    else:
        time.sleep(1.5 * moment(story, run))
    victim.kill()
    told.watch.over()
    told.end()
    eventually(lambda: len(plane.replicas(plane.stable.id)) == 2, "both run")
    told.watch.outcome(properties)


def test_all_workers_of_a_candidate_are_killed(plane: FaultPlane, properties: Properties, run: int) -> None:
    """A candidate that dies is not served meanwhile; it goes on, or leaves for what it failed by dying."""
    watch = plane.watch("all candidate workers kill -9", new := plane.made.fresh())
    plane.canary(new)
    eventually(lambda: plane.onlooker.share(new.id), "it is tried")
    for worker in plane.replicas(new.id):
        worker.kill()
    watch.over()
    verified, left = plane.tried(new), plane.left(new)
    watch.converge(lambda: verified() or left(), "it is verified or left")
    # Until a look finds it dead, or its supervisor has started it again, its own share is turned away.
    watch.blamed = [new.id]
    watch.outcome(properties)


@pytest.mark.parametrize("whose", ["stable", "candidate"])
def test_a_hung_worker(plane: FaultPlane, properties: Properties, whose: str, run: int) -> None:
    """A worker that hangs delays the requests it has, fails none, and is asked no more meanwhile."""
    new = plane.made.fresh()
    watch = plane.watch(f"a worker of {whose} hangs", new)
    plane.canary(new)
    eventually(lambda: plane.onlooker.share(new.id), "it is tried")
    hung = plane.replicas(plane.stable.id if whose == "stable" else new.id)[0]
    # So many that some are still free to ask when those that the hung worker has taken wait.
    with Traffic(plane.url, 30, 150, ({"x": 1},), MODEL) as crowd, hanging(hung):
        time.sleep(HEALTH_CHECK_SECONDS)
        since = crowd.mark()
        time.sleep(2)
        answered = crowd.mark() - since
    assert answered > 30, "its siblings answer"
    assert crowd.failed() == {}
    watch.over()
    watch.converge(plane.tried(new), "the candidate is verified")
    watch.outcome(properties)


def test_a_candidate_that_hangs_whole(plane: FaultPlane, properties: Properties, run: int) -> None:
    """A candidate that answers nobody loses its weight, and is never promoted for want of failures."""
    new = plane.made.fresh("slow 0.1")
    watch = plane.watch("all candidate workers hang", new)
    plane.canary(new)
    eventually(lambda: plane.onlooker.share(new.id), "it is tried")
    with hanging(*plane.replicas(new.id)):
        eventually(lambda: plane.onlooker.share(new.id) == 0, "its weight is taken away", 25)
        assert plane.line("canary")["phase"] != "Verified"
        plane.made.behave(new, "")
    watch.over()
    watch.blamed = [new.id]  # what it was asked before it lost its weight
    watch.converge(plane.tried(new), "the candidate is verified")
    watch.outcome(properties)


def test_a_worker_that_is_slow_to_start(plane: FaultPlane, properties: Properties, run: int) -> None:
    """Nobody is sent to a release that still loads."""
    new = plane.made.fresh("late 3")
    watch = plane.watch("slow to start", new)
    plane.canary(new)
    eventually(lambda: plane.replicas(new.id), "it loads")
    watch.over()
    watch.converge(plane.tried(new), "it is verified")
    watch.note = "3 s of them it loads"
    watch.outcome(properties, within=3.0)


def test_a_candidate_that_answers_garbage(plane: FaultPlane, properties: Properties, run: int) -> None:
    """Answers that are no HTTP are failures: the candidate leaves."""
    new = plane.made.fresh("garbage")
    watch = plane.watch("answers garbage", new, blamed=True)
    watch.over()
    plane.canary(new)
    watch.converge(plane.left(new), "it is left")
    watch.outcome(properties)


def test_a_candidate_whose_probe_answers_garbage(plane: FaultPlane, properties: Properties, run: int) -> None:
    """A readiness probe that answers no HTTP is no readiness: nobody is sent there, ever."""
    new = plane.made.fresh("rubbish")
    watch = plane.watch("readiness answers garbage", new)
    plane.canary(new)
    eventually(plane.reached("canary", new.id, "Pending"), "it waits")
    time.sleep(3)
    assert plane.reached("canary", new.id, "Pending")()
    assert watch.served() == [{plane.stable.id: 100}]
    plane.made.behave(new, "")
    watch.over()
    watch.converge(plane.tried(new), "it is verified once it answers")
    watch.outcome(properties)


# ---------------------------------------------------------------- measurements
@pytest.mark.parametrize("how", LIES)
def test_measurements_that_are_not_there(
    plane: FaultPlane, properties: Properties, how: str, run: int
) -> None:
    """Whatever Envoy's admin interface says instead: nobody is promoted on it, and then all goes on."""
    story = NAMES[(run + list(LIES).index(how)) % 2]  # the other one by the next run
    told = Story(plane, story, f"metrics {how}")
    with lying(plane.layout.admin, how):
        told.begin()
        time.sleep(3.0 + moment(how, story, run))
        if how != "reset":  # new counters are counters
            assert not plane.event("verified", told.new.id), "verified by nothing"
    told.watch.over()
    told.outcome(properties)


def test_no_traffic(plane: FaultPlane, properties: Properties, run: int) -> None:
    """A release that nobody asked anything is not promoted, however long it waits."""
    new = plane.made.fresh()
    watch = plane.watch("no traffic", new)
    plane.traffic.quiet.set()
    time.sleep(0.3)
    plane.canary(new)
    eventually(lambda: plane.onlooker.share(new.id), "it is offered")
    time.sleep(3)
    assert plane.line("canary")["phase"] == "Progressing"
    assert plane.event("verified", new.id) is None
    plane.traffic.quiet.clear()
    watch.over()
    watch.converge(plane.tried(new), "it is verified by requests")
    watch.outcome(properties)
