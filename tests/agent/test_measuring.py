"""Counts that others keep: merged into what is decided by, and harmless when their source is not there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import MODEL, A, B, Rig
from tidegate.agent.jobs import Done, InlineJobs
from tidegate.errors import NoData, PlatformError, Unreachable
from tidegate.ports import Measured
from tidegate.testing import FakeMeasures, FakeRecorder

SHADOW = """defaults:
  strategy: shadow
  mirror: {percent: 50}
  pause: {duration: 3s, minRequests: 10}
  progressDeadline: 2m
  checks:
    - {name: same, metric: disagreement, limit: 5%}
"""


class Stuck(InlineJobs):
    """Jobs of which those that `held` names never end."""

    held = False

    def submit(self, key: str, work: Any) -> bool:
        """Run it, or let it hang."""
        if self.held:
            self._finished.setdefault(key, Done(""))
            return False
        return super().submit(key, work)

    def collect(self) -> list[Done]:
        """Return what has run."""
        return [job for job in super().collect() if job.key]


@pytest.fixture
def pairs() -> FakeMeasures:
    """A source that compares mirrored answers."""
    return FakeMeasures("disagreement")


@pytest.fixture
def rig(pairs: FakeMeasures) -> Rig:
    """A plane where A is settled and B is mirrored in canary."""
    made = Rig(measures=(pairs,), recorder=FakeRecorder(), readers=Stuck())
    made.settle(A)
    made.repository.push({"envs/canary/rollout.yaml": SHADOW})
    made.push(canary=B)
    return made


def drive(rig: Rig, pairs: FakeMeasures, seconds: int, *, odd: float = 0.0) -> Rig:
    """Let time pass in which half of all requests are compared."""
    for _ in range(seconds):
        if rig.router.table[MODEL].mirror:
            known = pairs.counted.get(B, Measured()).tallies.get("same@1", (0, 0))[0] + 30
            pairs.counted[B] = Measured({"same@1": (known, round(known * odd))})
            rig.metrics.add(MODEL, B, 30)
        rig.drive(1)
    return rig


def test_what_a_source_counts_decides(rig: Rig, pairs: FakeMeasures) -> None:
    """Agreement verifies a shadow; the router has the mirror and no weight meanwhile."""
    drive(rig, pairs, 40)
    assert rig.phase("canary") == "Verified"
    assert rig.router.table[MODEL].mirror == {B: 50}
    assert rig.weights == {A: 100}


def test_what_a_source_counts_is_a_breach_too(rig: Rig, pairs: FakeMeasures) -> None:
    """Disagreement takes the copies away and rejects."""
    drive(rig, pairs, 40, odd=0.5)
    assert rig.phase("canary") == "RolledBack"
    assert rig.rejection(B)
    assert rig.router.table[MODEL].mirror == {}


def test_a_source_is_asked_only_about_rollouts_that_it_measures(rig: Rig, pairs: FakeMeasures) -> None:
    """Settled, it is left alone; with nothing of its own among the checks, too."""
    rig.push(canary=A)
    rig.drive(10)
    asked = len(pairs.calls)
    rig.drive(20)
    assert len(pairs.calls) == asked


@pytest.mark.parametrize("error", [Unreachable("gone"), PlatformError("broken"), ZeroDivisionError("odd")])
def test_a_source_that_fails_holds_its_rollout_and_nothing_else(
    rig: Rig, pairs: FakeMeasures, error: Exception
) -> None:
    """The reason names the check and the failure; when it is back the rollout goes on."""
    drive(rig, pairs, 6)
    for _ in range(60):
        pairs.fail_next(error, "read")
    drive(rig, pairs, 40)
    assert rig.phase("canary") == "Progressing"
    assert "same" in rig.line("canary")["reason"]
    assert str(error) in rig.line("canary")["reason"]
    pairs.mend()
    drive(rig, pairs, 30)
    assert rig.phase("canary") == "Verified"


def test_a_source_that_has_nothing_any_more_holds_its_rollout(rig: Rig, pairs: FakeMeasures) -> None:
    """Counts that were there and are not (an emptied Prometheus) are no look without an event."""
    drive(rig, pairs, 6)
    for _ in range(60):
        pairs.fail_next(NoData("no series"), "read")
    drive(rig, pairs, 40)
    assert rig.phase("canary") == "Progressing"
    assert "same: no series" in rig.line("canary")["reason"]
    pairs.mend()
    drive(rig, pairs, 30)
    assert rig.phase("canary") == "Verified"


def test_one_failed_reading_is_bridged_by_the_one_before(rig: Rig, pairs: FakeMeasures) -> None:
    """For a few seconds what was said last stands: one glitch is no blind look."""
    drive(rig, pairs, 8)
    pairs.fail_next(Unreachable("gone"), "read")
    drive(rig, pairs, 2)
    assert "gone" not in rig.line("canary")["reason"]


def test_a_source_that_hangs_stops_no_tick(rig: Rig, pairs: FakeMeasures) -> None:
    """Its checks are unknown after a few seconds, its rollout held; the plane goes on."""
    drive(rig, pairs, 5)
    rig.agent.ports.readers.held = True
    drive(rig, pairs, 30)
    assert rig.phase("canary") == "Progressing"
    assert "has said nothing for" in rig.line("canary")["reason"]
    rig.agent.ports.readers.held = False
    drive(rig, pairs, 40)
    assert rig.phase("canary") == "Verified"


def test_a_source_that_never_counted_anything_proves_nothing(rig: Rig, pairs: FakeMeasures) -> None:
    """NoData is an answer and no proof: the step is held, no look is called blind."""
    for _ in range(400):
        pairs.fail_next(NoData("nothing yet"), "read")
    drive(rig, pairs, 200)
    assert rig.phase("canary") == "Progressing"
    assert "nothing was counted" in rig.line("canary")["reason"]


def test_a_check_that_nothing_measures_is_never_passed() -> None:
    """A plane without the source says so, and holds."""
    made = Rig()
    made.settle(A)
    made.repository.push({"envs/canary/rollout.yaml": SHADOW})
    made.push(canary=B)
    made.drive(150)
    assert made.phase("canary") == "Progressing"
    assert "nothing on this plane measures it" in made.line("canary")["reason"]


def test_a_restarted_agent_counts_nothing_twice(rig: Rig, pairs: FakeMeasures) -> None:
    """What was counted before the restart stays counted once."""
    drive(rig, pairs, 8)
    for _ in range(3):
        rig.restart()
        drive(rig, pairs, 2)
    rollout = rig.state.planes["production"]["models"][MODEL]["rollout"]
    assert rollout["evidence"]["candidate"]["tallies"]["same"][0] <= 30 * 14


# ---------------------------------------------------------------- recordings and people
def test_every_look_of_a_rollout_is_recorded(rig: Rig, pairs: FakeMeasures) -> None:
    """One recording a rollout, with its looks and its end."""
    drive(rig, pairs, 30, odd=0.5)
    recorder = rig.agent.ports.recorder
    name = next(each for each in recorder.list() if f"/canary-{B}-" in each)
    kinds = [line["kind"] for line in recorder.read(name)]
    assert kinds[0] == "rollout"
    assert kinds.count("look") >= 2
    assert kinds[-1] == "end"
    told = next(event for event in rig.state.log if event.kind == "breach")
    assert told.data["recording"] == name


def test_a_recorder_that_fails_disturbs_nothing(rig: Rig, pairs: FakeMeasures) -> None:
    """A full disk under the recordings stops no rollout."""
    for _ in range(1000):
        rig.agent.ports.recorder.fail_next(OSError("no space left"), "append")
    drive(rig, pairs, 40)
    assert rig.phase("canary") == "Verified"


def test_a_notifier_that_raises_disturbs_nothing(rig: Rig, pairs: FakeMeasures) -> None:
    """Against its promise: still no look is lost."""

    def notify(event: Any) -> None:
        raise RuntimeError("no network")

    rig.notifier.notify = notify  # type: ignore[method-assign]
    drive(rig, pairs, 40)
    assert rig.phase("canary") == "Verified"


def test_a_changed_number_of_replicas_is_followed() -> None:
    """More or fewer processes while it serves: the router has them, nothing is started anew."""
    made = Rig()
    made.settle(A)
    kept = made.workloads.running[MODEL, A].replicas[0]
    for wanted in (4, 1, 2):
        made.repository.push({"envs/production/platform.yaml": f"workloads: {{replicas: {wanted}}}\n"})
        made.drive(5)
        replicas = made.workloads.running[MODEL, A].replicas
        assert (len(replicas), replicas[0]) == (wanted, kept)
        assert made.router.table[MODEL].endpoints[A] == tuple(r.endpoint for r in replicas)
    assert made.weights == {A: 100}
