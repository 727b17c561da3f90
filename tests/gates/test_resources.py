"""The resources gate: the real script on real processes, whose memory and CPU the kernel counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from gates import resources
from tests.builders import GateRoom
from tests.toy_bento import toy_release
from tidegate.bentos import bento_digest
from tidegate.core.release import BentoRef, ReleaseRecord
from tidegate.core.verdict import Verdict
from tidegate.machine.processes import carrying

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "requests": 1600,
    "warmup": 100,
    "min_requests": 800,
    "starts": 1,
    "leak": 200,
    "growth": 20,
    "memory": 300,
    "cpu": 5.0,
    "start_up": 20,
    "bento_size": 1,
    "image_size": 500,
    "margins": {"cpu": 0.5, "memory": 0.5, "size": 0.5},
}
LEAK = "kept.append(bytearray(b'x') * 10_000)"
BURN = "sum(range(40_000))"


class Room(GateRoom):
    """A checkout with envs/, a store of Bentos, and releases of a toy."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "resources", SETTINGS)
        shutil.copytree(ROOT / "envs", root / "envs", ignore=shutil.ignore_patterns("releases"))
        self.produce(None)

    @property
    def store(self) -> Path:
        return self.root / ".tidegate" / "bentoml"

    def package(self, version: str = "1", **toy: Any) -> ReleaseRecord:
        """Make a release the one that is packaged here."""
        record = toy_release(self.store, version, **toy)
        self.record(self.build / "release.yaml", record)
        return record

    def produce(self, version: str | None, **toy: Any) -> None:
        """Make a release, or none, what production wants."""
        models = {}
        if version is not None:
            record = toy_release(self.store, version, **toy)
            self.record(self.root / "envs" / "releases" / "toy" / f"{record.id}.yaml", record)
            models = {"toy": record.id}
        (self.root / "envs/production/release.yaml").write_text(yaml.safe_dump({"models": models}))

    @staticmethod
    def record(path: Path, record: ReleaseRecord) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {key: value for key, value in msgspec.to_builtins(record).items() if value is not None}
        path.write_text(yaml.safe_dump(content))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A room with nothing packaged, and nothing in production."""
    return Room(tmp_path)


def verdicts(report: Any) -> dict[str, Verdict]:
    """Verdicts by finding."""
    return {one.name: one.verdict for one in report.findings}


def failing(report: Any) -> set[str]:
    """Names of what failed."""
    return {name for name, verdict in verdicts(report).items() if verdict is Verdict.FAIL}


def test_a_sound_release_passes_and_says_what_it_takes(room: Room) -> None:
    """Exit 0; without production the comparisons are not applicable, as the image is, and never passed."""
    room.package()
    code, found = room.run()
    assert code == 0
    apart = {name for name, verdict in verdicts(found).items() if verdict is Verdict.NOT_APPLICABLE}
    assert apart == {
        "image size",
        "CPU beside production",
        "memory beside production",
        "Bento size beside production",
    }
    (chart,) = found.charts
    assert chart.series[0].x[0] == 100
    assert chart.series[0].x[-1] == 1700
    assert len(chart.series[0].y) == 33
    assert carrying({"BENTOML_HOME": str(room.store)}) == []  # no copy stays


def test_an_equal_release_is_no_worse_than_production(room: Room) -> None:
    """Two Bentos of the same code: no comparison fails, and each stands in the report with its interval."""
    room.produce("before")
    room.package("now")
    code, found = room.run()
    assert code == 0, verdicts(found)
    assert [one.name for one in found.comparisons] == [
        "CPU beside production",
        "memory beside production",
        "Bento size beside production",
    ]
    assert {one.word for one in found.comparisons} <= {"better", "no worse"}
    assert found.source is not None
    assert found.source.against


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (None, None, [Verdict.NOT_APPLICABLE]),
        (300, None, [Verdict.PASS]),
        (300, 250, [Verdict.PASS, Verdict.PASS]),
        (450, 250, [Verdict.PASS, Verdict.FAIL]),
        (600, 500, [Verdict.FAIL, Verdict.PASS]),
        (300, 0, [Verdict.PASS, Verdict.ERROR]),
        (0, None, [Verdict.ERROR]),
    ],
)
def test_an_image_is_held_to_its_size(ours: int | None, theirs: int | None, said: list[Verdict]) -> None:
    """In containers an image has a limit, and production's beside it; a size of nothing is no size."""
    limits = msgspec.convert(SETTINGS, resources.ResourcesSettings)
    sizes = (None if one is None else one * resources.MB for one in (ours, theirs))
    assert [finding.verdict for finding, _ in resources.image_sizes(limits, *sizes)] == said


def test_a_leak_fails(room: Room) -> None:
    """10 kB kept of every request is a slope beyond 200 kB a thousand, with its interval in the reason."""
    room.package(each=LEAK)
    code, found = room.run()
    assert code == 1
    assert failing(found) == {"leak"}
    leak = next(one for one in found.findings if one.name == "leak")
    assert leak.observed == pytest.approx(10_000, rel=0.2)
    assert " to " in leak.reason


def test_more_cpu_than_production_fails(room: Room) -> None:
    """Compared block by block with production's copy beside it, not with a number of another machine."""
    room.set({**SETTINGS, "requests": 1200, "cpu": 100.0})
    room.produce("before")
    room.package("now", each=BURN)
    code, found = room.run()
    assert code == 1
    assert failing(found) == {"CPU beside production"}


def test_a_slow_start_and_a_large_bento_fail(room: Room) -> None:
    """Each by its own limit, and the Bento by its margin over production's too."""
    room.set({**SETTINGS, "start_up": 0.5})
    room.produce("before")
    room.package("now", start="time.sleep(0.6)", size=3_000_000)
    code, found = room.run()
    assert code == 1
    assert failing(found) == {"start-up", "Bento size", "Bento size beside production"}


def test_start_up_is_the_median_of_some_starts(room: Room) -> None:
    """One slow start among three is an accident."""
    mark = str(room.root / "started")
    once = f"import os; time.sleep(0 if os.path.exists({mark!r}) else 2); open({mark!r}, 'w').close()"
    room.set({**SETTINGS, "starts": 3, "start_up": 1.9})
    room.package(start=once)
    code, found = room.run()
    assert code == 0
    assert len(found.measurements["start_up_seconds"]) == 3
    assert max(found.measurements["start_up_seconds"]) > 1.9


def test_a_service_that_ends_or_fails_under_load_fails(room: Room) -> None:
    """What it took until then excuses nothing."""
    room.package("ends", each="kept.append(0); len(kept) > 300 and sys.exit(9)")
    code, found = room.run()
    assert code == 1
    assert "answers" in failing(found)
    assert "ended by itself" in next(one.reason for one in found.findings if one.name == "answers")
    room.package("fails", each="kept.append(0); status = 200 if len(kept) % 100 else 500")
    code, found = room.run()
    assert code == 1
    assert failing(found) == {"answers"}


def test_production_that_does_not_answer_can_not_be_compared_with(room: Room) -> None:
    """Its failures are not the candidate's, and nothing is passed over."""
    room.produce("before", each="status = 500")
    room.package("now")
    code, found = room.run()
    assert code == 3
    assert verdicts(found)["answers of production's copy"] is Verdict.ERROR
    assert failing(found) == set()


def test_each_gets_rows_that_it_takes(room: Room) -> None:
    """Production's rows for both; a candidate that asks for another form gets its own."""
    room.produce("before")
    room.package("now", each="status = 200 if b'y' in body else 422")
    examples = room.store / "bentos/toy/now/src/model/examples.json"
    examples.write_text('[{"y": 1}, {"y": 2}]')
    record = toy_like(room, BentoRef("toy:now", bento_digest(examples.parents[2])))
    room.record(room.build / "release.yaml", record)
    code, found = room.run()
    assert code == 0, verdicts(found)


def toy_like(room: Room, bento: Any) -> ReleaseRecord:
    """The packaged record with another Bento."""
    content = yaml.safe_load((room.build / "release.yaml").read_text())
    return msgspec.structs.replace(msgspec.convert(content, ReleaseRecord), bento=bento)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"requests": 40, "warmup": 1}, 2),
        ({"requests": 0}, 3),
        ({"leak": float("nan")}, 3),
    ],
    ids=str,
)
def test_settings_that_decide_nothing_pass_nothing(room: Room, change: dict[str, Any], code: int) -> None:
    """Few requests are INCONCLUSIVE; none, and what params.yaml can't mean, is an ERROR."""
    room.set({**SETTINGS, **change})
    room.package()
    assert room.run()[0] == code


def test_what_can_not_be_started_is_an_error(room: Room) -> None:
    """No release, no Bento, or a Bento that is not the recorded one: exit 3, with what to do."""
    code, found = room.run()
    assert (code, "no release of toy is packaged here" in found.findings[0].reason) == (3, True)
    room.package("gone")
    (room.store / "bentos/toy/gone/src/tidegate/serve.py").write_text("other")
    code, found = room.run()
    assert (code, "is not the one of release" in found.findings[0].reason) == (3, True)
    shutil.rmtree(room.store / "bentos/toy/gone")
    code, found = room.run()
    assert (code, "no Bento in" in found.findings[0].reason) == (3, True)
