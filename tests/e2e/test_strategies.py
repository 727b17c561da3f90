"""Strategies on a real plane: real Envoy, real services, real answers compared, real outcomes joined."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.builders import tiny_model
from tests.e2e.rig import MODEL, ROOT, SOUND, Rig, Traffic, eventually, rig_up
from tidegate.adapters.bentoml import BentoStore
from tidegate.adapters.recordings import FileRecorder
from tidegate.bentos import Source
from tidegate.core.release import ReleaseRecord
from tidegate.files import digest_folder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ERRORS = {"name": "errors", "metric": "error-rate", "limit": "10%"}
SAME = {"name": "same", "metric": "disagreement", "limit": "5%"}
SHORT = {"duration": "1s", "minRequests": 20}
STEPS = [{"setWeight": 50, "pause": SHORT}]
LIMITS = {"progressDeadline": "10m", "scaleDownDelay": "10m"}
PRODUCTION = {**LIMITS, "checks": [ERRORS], "steps": [{"setWeight": 100, "pause": SHORT}]}
SEQUENCE = {
    **LIMITS,
    "sequence": [
        {
            "strategy": "shadow",
            "mirror": {"percent": 100},
            "pause": {"duration": "2s", "minRequests": 60},
            "checks": [ERRORS, SAME],
        },
        {"strategy": "canary", "steps": STEPS, "checks": [ERRORS]},
    ],
}
BLUE_GREEN = {
    **LIMITS,
    "strategy": "blueGreen",
    "mirror": {"percent": 100},
    "pause": {"duration": "2s", "minRequests": 60},
    "checks": [ERRORS, SAME],
}
AB_TEST = {
    **LIMITS,
    "strategy": "abTest",
    "checks": [ERRORS],
    "abTest": {
        "unit": {"header": "x-user"},
        "outcome": "bought",
        "baseline": "30%",
        "minimumEffect": "40%",
        "horizon": "1h",
    },
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A plane whose production runs a release that answers 0.3, under load."""
    root = tmp_path_factory.mktemp("strategies")
    rollouts = json.loads(json.dumps({"canary": SEQUENCE, "production": PRODUCTION}))  # without aliases
    with rig_up(root, rollouts) as started:
        with Traffic(started.url, 40):
            started.settle(started.stores.release(1))
        yield started


@pytest.fixture
def traffic(rig: Rig) -> Iterator[Traffic]:
    """Sound requests all through a test."""
    with Traffic(rig.url, 40, rows=SOUND) as sending:
        yield sending


def plan(rig: Rig, environment: str, rollout: dict[str, Any]) -> None:
    """Write another rollout.yaml, as a merged change does, and wait until the agent follows it."""
    path = f"envs/{environment}/rollout.yaml"
    text = json.dumps({"defaults": rollout})  # which is YAML too, and without aliases
    commit = rig.push({path: text}, f"Roll out otherwise in {environment}")
    eventually(lambda: rig.status().get("commit") == commit, "the agent knows it")


def finding(rig: Rig, release: str, name: str) -> dict[str, Any]:
    """Return the last numbers of a check in a release's newest recording."""
    recorder = FileRecorder(rig.home.root / "recordings")
    lines = next(recorder.read(each) for each in recorder.list() if release in each)
    found = [
        f for line in lines if line["kind"] == "look" for f in line.get("checks", ()) if f["name"] == name
    ]
    return dict(found[-1]) if found else {}


@pytest.fixture(scope="module")
def second(rig: Rig) -> ReleaseRecord:
    """A release that answers as the first one does."""
    return rig.stores.release(2)


def test_a_shadow_that_agrees_goes_on_as_a_canary(rig: Rig, second: ReleaseRecord, traffic: Traffic) -> None:
    """Both answers of each request are compared: none differs, then it gets users, and is Verified."""
    rig.promote(second, "canary")
    eventually(rig.reached("canary", second.id, "Verified"), "verified", 60)
    assert rig.weights() == {rig.wanted("production"): 50, second.id: 50}
    compared = finding(rig, second.id, "same")
    assert compared["observed"] == 0
    assert compared["trials"] > 20
    stages = [event for event in rig.events() if event.kind == "stage" and event.release == second.id]
    assert len(stages) == 1
    assert not [a for a in traffic.answers if a.release == second.id and a.at < stages[0].at]
    assert traffic.failed() == {}


def test_blue_green_waits_for_a_person_and_then_switches(
    rig: Rig, second: ReleaseRecord, traffic: Traffic
) -> None:
    """The promoted weight is kept, the switch comes with `tidegate approve`, and no request fails."""
    plan(rig, "production", BLUE_GREEN)
    rig.promote(second, "production")
    eventually(lambda: rig.line("production").get("waits") == "approve", "it asks for an approval", 60)
    assert rig.weights()[second.id] == 50
    said = rig.tidegate("approve", "production", MODEL, "--reason", "the pairs agree", "--json")
    assert "100%" in json.loads(said)["text"]
    eventually(rig.reached("production", second.id, "Healthy"), "healthy", 60)
    assert rig.weights() == {second.id: 100}
    approved = rig.event("approved", second.id)
    assert approved
    assert approved.data["reason"] == "the pairs agree"
    assert traffic.failed() == {}


@pytest.fixture(scope="module")
def other(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> ReleaseRecord:
    """A release of another model: what the first calls punctual, it calls late."""
    folder = tmp_path_factory.mktemp("other")
    artifact = tiny_model(folder / "model", late=0.8)
    digest = digest_folder(artifact)
    source = Source(MODEL, ROOT, artifact, digest, 1, "c" * 40)
    bento = BentoStore(Path(rig.stores.platform()["bentos"])).build(source)
    return msgspec.structs.replace(rig.stores.release(3), artifact=digest, bento=bento)


def test_a_shadow_that_answers_differently_is_left_before_any_user_sees_it(
    rig: Rig, other: ReleaseRecord, traffic: Traffic
) -> None:
    """No error, no slowness: it disagrees, and so it is rejected in Git with that number."""
    rig.promote(other, "canary")
    eventually(lambda: rig.rejection(other.id), "rejected", 60)
    assert "disagree" in rig.rejection(other.id)["reason"]
    assert traffic.by(other.id) == 0
    assert traffic.failed() == {}


class Users:
    """Each request is one of a new user, who buys only what the candidate shows."""

    def __init__(self, rig: Rig, generous: str) -> None:
        self.rig, self.generous = rig, generous
        self.seen: list[tuple[str, str]] = []  # request, release
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Users:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _send(self) -> None:
        address, number = urlsplit(self.rig.url), 0
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=20)
        while not self._stop.wait(0.02):
            number += 1
            headers = {"content-type": "application/json", "x-user": f"user-{number}"}
            connection.request("POST", f"/{MODEL}/predict", json.dumps(SOUND[0]), headers)
            answer = connection.getresponse()
            answer.read()
            self.seen.append((answer.headers["x-request-id"], answer.headers["x-tidegate-release"]))

    def tell(self) -> int:
        """Say what came of every request so far, as a user's own program would; return of how many."""
        seen = list(self.seen)
        path = self.rig.home.root / "bought.jsonl"
        lines = [
            {"id": request, "name": "bought", "value": int(release == self.generous)}
            for request, release in seen
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.rig.tidegate("outcome", "--file", str(path))
        return len(seen)


def test_an_ab_test_is_decided_by_what_users_did(rig: Rig, traffic: Traffic) -> None:
    """Users are split by a header and journaled, their outcomes come later by request id, B is better."""
    plan(rig, "canary", AB_TEST)
    candidate = rig.stores.release(4)
    with Users(rig, candidate.id) as users:
        rig.promote(candidate, "canary")
        eventually(lambda: (rig.weights() or {}).get(candidate.id) == 50, "users are split", 60)
        for _ in range(12):
            time.sleep(2)
            users.tell()
            if rig.reached("canary", candidate.id, "Verified")():
                break
        eventually(rig.reached("canary", candidate.id, "Verified"), "verified", 30)
    kinds = [event.kind for event in rig.events() if event.release == candidate.id]
    assert "experiment" in kinds
    # Who sends no header takes no part, and stays where everybody was.
    assert traffic.by(candidate.id) == 0
    assert traffic.failed() == {}
