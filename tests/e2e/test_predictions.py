"""The log of predictions on a real plane: nothing answered is missing, and each story can be told."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rig import MODEL, Answer, Rig, Traffic, eventually, rig_up
from tidegate.core.release import ReleaseRecord

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STEP = {"pause": {"duration": "1s", "minRequests": 5}}
CHECKS = [{"name": "errors", "metric": "error-rate", "limit": "10%"}]
COMMON = {"checks": CHECKS, "progressDeadline": "10m", "scaleDownDelay": "1s"}
ROLLOUTS = {
    "canary": {**COMMON, "steps": [{"setWeight": 50, **STEP}]},
    "production": {**COMMON, "steps": [{"setWeight": 100, **STEP}]},
}


class Counted(Traffic):
    """Traffic that knows the id of each request that it sent."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 40)
        self.known: dict[str, Answer] = {}

    def _ask(self, connection: http.client.HTTPConnection, body: bytes) -> Answer:
        try:
            connection.request("POST", f"/{MODEL}/predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Answer(time.time(), repr(error), "")
        found = Answer(time.time(), str(answer.status), answer.headers.get("x-tidegate-release", ""))
        self.known[answer.headers["x-request-id"]] = found
        return found

    def good(self) -> dict[str, str]:
        """Return the release that answered, by request."""
        return {request: answer.release for request, answer in self.known.items() if answer.ok}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig_up(tmp_path_factory.mktemp("predictions"), json.loads(json.dumps(ROLLOUTS))) as started:
        yield started


@pytest.fixture(scope="module")
def story(rig: Rig) -> tuple[ReleaseRecord, ReleaseRecord, Counted]:
    """A sound release, then one that fails on November and is rolled back; the traffic is over."""
    sound, bad = rig.stores.release(1), rig.stores.release(2, bad=True)
    with Counted(rig.url) as traffic:
        rig.settle(sound)
        rig.promote(bad, "canary")
        eventually(lambda: rig.rejection(bad.id), "the bad release is rolled back")
        eventually(lambda: rig.weights() == {sound.id: 100}, "the sound one has everything")
    return sound, bad, traffic


def ask(rig: Rig, sql: str) -> list[dict[str, Any]]:
    """Ask the log as a user does."""
    found = json.loads(rig.tidegate("predictions", "query", sql, "--json", "--rows", "100000"))
    assert not found["more"]
    return list(found["rows"])


def test_every_answered_request_is_in_the_log(
    rig: Rig, story: tuple[ReleaseRecord, ReleaseRecord, Counted]
) -> None:
    """Each request that was answered is there once, under the release that answered it; no other one is."""
    _, _, traffic = story
    good = traffic.good()
    counts = "SELECT release, count(*) AS n FROM predictions GROUP BY release"

    def counted() -> dict[str, int]:
        return {row["release"]: row["n"] for row in ask(rig, counts)}

    eventually(lambda: sum(counted().values()) >= len(good), "all is written", 30)
    assert counted() == Counter(good.values())
    rows = ask(rig, "SELECT request_id, release FROM predictions")
    assert {row["request_id"]: row["release"] for row in rows} == good
    assert len(rows) == len(good)
    rig.tidegate("predictions", "compact")
    assert counted() == Counter(good.values())


def test_a_rolled_back_release_is_seen_in_sql(
    rig: Rig, story: tuple[ReleaseRecord, ReleaseRecord, Counted]
) -> None:
    """What the bad release answered while it was a canary at 50%: never a flight of November."""
    sound, bad, traffic = story
    rows = ask(
        rig,
        "SELECT release, arm, inputs->>'date' AS date, count(*) AS n FROM predictions "
        "GROUP BY ALL ORDER BY ALL",
    )
    by_bad = [row for row in rows if row["release"] == bad.id]
    assert {row["arm"] for row in by_bad} == {"50%"}
    assert {row["date"] for row in by_bad} == {"2013-07-04"}
    assert sum(row["n"] for row in by_bad) == traffic.by(bad.id) > 0
    by_sound = [row for row in rows if row["release"] == sound.id]
    assert {"50%", "100%"} <= {row["arm"] for row in by_sound}
    assert {row["date"] for row in by_sound} == {"2013-07-04", "2013-11-05"}


def test_the_story_of_one_request_is_told(
    rig: Rig, story: tuple[ReleaseRecord, ReleaseRecord, Counted]
) -> None:
    """Of what the bad release answered: its commit, that it was the candidate, its end, and what it saw."""
    sound, bad, traffic = story
    request = next(request for request, release in traffic.good().items() if release == bad.id)
    (found,) = json.loads(rig.tidegate("predictions", "show", request, "--json"))
    assert (found["release"], found["made_of"]["commit"], found["arm"]) == (bad.id, bad.commit, "50%")
    assert (found["rollout"]["environment"], found["rollout"]["role"]) == ("canary", "candidate")
    assert {"breach", "rolled-back"} & {event["kind"] for event in found["rollout"]["after"]}
    assert found["inputs"]["date"] == "2013-07-04"
    assert found["features"]["hour"] == 17
    # It answered too few requests to compare with; the sound one has many.
    request = next(request for request, release in traffic.good().items() if release == sound.id)
    (found,) = json.loads(rig.tidegate("predictions", "show", request, "--json"))
    assert found["notes"] == []
    contributions = found["contributions"]
    assert contributions["total"] == pytest.approx(found["prediction"]["probability"], abs=1e-4)
    assert request in rig.tidegate("predictions", "show", request)
    with pytest.raises(AssertionError, match="no prediction is logged for request `never`"):
        rig.tidegate("predictions", "show", "never")


def test_outcomes_join_what_was_predicted(
    rig: Rig, story: tuple[ReleaseRecord, ReleaseRecord, Counted], tmp_path: Path
) -> None:
    """Outcomes said of all requests join each by its release; a stranger's is told; twice changes nothing."""
    _, _, traffic = story
    good = traffic.good()
    late = {request: number % 3 == 0 for number, request in enumerate(sorted(good))}
    lines = [f"{request},late,{int(value)}" for request, value in late.items()]
    file = tmp_path / "outcomes.csv"
    file.write_text("\n".join(["id,name,value", *lines, "stranger,late,1"]) + "\n")
    said = json.loads(rig.tidegate("outcome", "--file", str(file), "--json"))
    assert (said["new"], said["unknown"]) == (len(good) + 1, {"count": 1, "first": ["stranger"]})
    assert json.loads(rig.tidegate("outcome", "--file", str(file), "--json"))["new"] == 0
    joined = ask(
        rig,
        "SELECT release, count(*) AS n, sum(value) AS late FROM labelled WHERE outcome = 'late' GROUP BY ALL",
    )
    wanted = {
        release: (n, sum(late[request] for request in good if good[request] == release))
        for release, n in Counter(good.values()).items()
    }
    assert {row["release"]: (row["n"], row["late"]) for row in joined} == wanted
    request = next(iter(good))
    (found,) = json.loads(rig.tidegate("predictions", "show", request, "--json", "--no-explain"))
    assert [(o["name"], o["value"]) for o in found["outcomes"]] == [("late", float(late[request]))]
