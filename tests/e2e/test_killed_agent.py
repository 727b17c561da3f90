"""The agent is killed by -9 at random moments of promotions and rollbacks, under traffic, with real parts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.e2e.rig import Onlooker, Rig, Sample, Traffic, eventually, rig_up
from tidegate.core.release import ReleaseRecord

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SEED, KILLS, ROUNDS = 20130704, 20, 3
RATE = 30.0  # requests a second
CHECKS = [{"name": "errors", "metric": "error-rate", "limit": "10%", "againstStable": {"tolerance": "50%"}}]
COMMON = {"checks": CHECKS, "progressDeadline": "10m", "scaleDownDelay": "10m"}  # whoever served stays warm
CANARY = {
    **COMMON,
    "steps": [
        {"setWeight": 20, "pause": {"duration": "1s", "minRequests": 8}},
        {"setWeight": 60, "pause": {"duration": "1s", "minRequests": 20}},
    ],
}
PRODUCTION = {
    **COMMON,
    "steps": [{"setWeight": 100, "pause": {"duration": "1s", "minRequests": 20}}],
    "requiredSoakTime": "1s",
}


@dataclass(frozen=True)
class Kill:
    """One kill -9: what the plane and Git said of the candidate just before."""

    release: str
    phase: str
    weight: int
    in_git: bool


class Killer:
    """Kills the agent again and again, at moments drawn by seed, as long as a rollout is under way."""

    def __init__(self, rig: Rig, onlooker: Onlooker) -> None:
        self.rig, self.onlooker = rig, onlooker
        self.kills: list[Kill] = []
        self._random = random.Random(SEED)

    def during(self, release: str, done: Callable[[], bool], aimed: str = "") -> None:
        """Kill until `done`; `aimed` at one moment of a rollback besides: `breach`, or weight `zero`."""
        over = threading.Event()
        thread = threading.Thread(target=self._kill, args=(release, over, aimed), daemon=True)
        thread.start()
        try:
            eventually(done, f"{release}: converged", 240)
        finally:
            over.set()
            thread.join(60)

    def _kill(self, release: str, over: threading.Event, aimed: str) -> None:
        at = time.monotonic() + self._random.uniform(0.0, 4.0)
        while not over.wait(0.02):
            if aimed and self._moment(release, aimed):
                aimed = ""
                over.wait(self._random.uniform(0.0, 0.1))  # Git is written within a fifth of a second
            elif time.monotonic() < at:
                continue
            line = self.rig.line("canary")
            phase = str(line.get("phase", "")) if line.get("release") == release else ""
            weight, in_git = self.onlooker.share(release), self.rig.wanted("canary") == release
            if not over.is_set() and self.rig.kill_agent():
                self.kills.append(Kill(release, phase, weight, in_git))
                eventually(self.rig.agent, "the agent is started again")
                at = time.monotonic() + self._random.uniform(0.5, 5.0)

    def _moment(self, release: str, aimed: str) -> bool:
        if aimed == "zero":
            served = [s.weights.get(release, 0) for s in self.onlooker.samples]
            return any(served) and not served[-1] and self.rig.wanted("canary") == release
        return self.rig.line("canary").get("phase") == "RollingBack"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    root = tmp_path_factory.mktemp("killed")
    with rig_up(root, {"canary": CANARY, "production": PRODUCTION}) as started:
        yield started


def test_a_killed_agent_converges_and_nobody_notices(rig: Rig) -> None:
    """Killed at 20 moments at least: each rollout ends as Git says, no weight is odd, no request fails."""
    sound = [rig.stores.release(1), rig.stores.release(2)]
    bad: list[ReleaseRecord] = []
    with Traffic(rig.url, RATE) as traffic, Onlooker(rig) as onlooker:
        rig.settle(sound[0])
        since, killer = traffic.mark(), Killer(rig, onlooker)
        for number in range(12):
            if number >= ROUNDS and len(killer.kills) >= KILLS and all(_moments(killer.kills).values()):
                break
            old, new = sound[number % 2], sound[1 - number % 2]
            bad.append(rig.stores.release(100 + number, bad=True))
            _rolled_back(rig, killer, old, bad[-1], "breach" if number % 2 else "zero")
            _promoted(rig, killer, old, new)
        assert traffic.alive()
    eventually(lambda: len(rig.members("tidegate", "mirror")) <= 1, "killed agents leave no process", 5)
    print(*killer.kills, sep="\n")
    assert len(killer.kills) >= KILLS
    assert all(_moments(killer.kills).values()), _moments(killer.kills)
    assert traffic.failed(*(b.id for b in bad), since=since) == {}, "only a bad release may fail"
    assert all(any(not a.ok and a.release == b.id for a in traffic.answers) for b in bad)
    assert all(traffic.by(s.id) > 50 for s in sound)
    assert len(traffic.answers) >= 20 * (traffic.answers[-1].at - traffic.answers[0].at)


def _rolled_back(rig: Rig, killer: Killer, old: ReleaseRecord, bad: ReleaseRecord, aimed: str) -> None:
    """A bad canary comes back, is written to Git once, and never gets traffic again."""
    start = killer.onlooker.mark()
    rig.promote(bad, "canary")
    killer.during(bad.id, rig.reached("canary", bad.id, "RolledBack"), aimed)
    assert rig.wanted("canary") == old.id == rig.wanted("production")
    assert rig.rejection(bad.id)["verdict"] == "FAIL"
    assert len(rig.commits(f"from {bad.id} to")) == 1, "written once, however often it was begun"
    eventually(lambda: rig.weights() == {old.id: 100}, "the router serves the old release alone")
    samples = killer.onlooker.samples[start:]
    _only(samples, old.id, bad.id, {0, 20, 60})
    zero = rig.event("weight-zero", bad.id)
    assert zero is not None
    assert not [s for s in samples if s.at > zero.at and s.weights.get(bad.id)], "it came back"


def _promoted(rig: Rig, killer: Killer, old: ReleaseRecord, new: ReleaseRecord) -> None:
    """A sound release goes through canary to production."""
    start = killer.onlooker.mark()
    rig.promote(new, "canary")
    killer.during(new.id, rig.reached("canary", new.id, "Verified"))
    rig.promote(new, "production")
    killer.during(new.id, rig.reached("production", new.id, "Healthy"))
    assert rig.wanted("canary") == new.id == rig.wanted("production")
    assert rig.rejection(new.id) == {}
    eventually(lambda: rig.weights() == {new.id: 100}, "the router serves the new release alone")
    _only(killer.onlooker.samples[start:], old.id, new.id, {0, 20, 60, 100})


def _only(samples: Sequence[Sample], old: str, candidate: str, planned: set[int]) -> None:
    """The candidate's weights are 0 or planned, in the plan's order; the old release has all the rest."""
    assert samples
    rising = 0
    for sample in samples:
        weight = sample.weights.get(candidate, 0)
        rest = {old: 100 - weight} if weight < 100 else {}
        assert sample.weights == rest | ({candidate: weight} if weight else {}), samples
        assert weight in planned, samples
        assert not weight or weight >= rising, f"it went back to an earlier step: {samples}"
        rising = max(rising, weight)


def _moments(kills: Sequence[Kill]) -> dict[str, int]:
    """Count the kills by what they interrupted."""
    return {
        "before any traffic": sum(k.in_git and k.phase in ("", "Pending") and not k.weight for k in kills),
        "on the way": sum(k.weight > 0 for k in kills),
        "from weight 0 to the revert": sum(
            k.in_git and k.phase == "RollingBack" and not k.weight for k in kills
        ),
    }
