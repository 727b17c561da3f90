"""The cost gate on reports as the load gate writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.builders import GateRoom, record
from tidegate import report
from tidegate.core import gate
from tidegate.core.verdict import Finding, Verdict

SETTINGS: dict[str, Any] = {"machine": "cpu", "utilisation": 0.5, "budget_per_thousand": 0.001, "margin": 0.2}
PRICES = """
prices:
  currency: EUR
  machines:
    cpu: {perHour: 0.18, cores: 2}
    gpu: {perHour: 1.00, cores: 4, gpus: 1}
"""
RATIO = {"candidate": 100.0, "production": 100.0, "low": 0.97, "high": 1.03}
SLOWER = {"candidate": 50.0, "production": 100.0, "low": 0.48, "high": 0.52}
CANDIDATE, PRODUCTION = record(2), record(1)


def measured(**over: Any) -> dict[str, Any]:
    """Return what the load gate measures: 100 requests/s of one process, as fast as production."""
    capacity = {"rate": 100.0, "limit": "service", "words": "", "processes": 1}
    turns = {"ratios": {"throughput": RATIO, "cpu": RATIO}, "confidence": 0.99}
    return {"capacity": capacity, "turns": turns, "release": CANDIDATE.id, **over}


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with prices, a candidate, and another release in production."""
    made = GateRoom(tmp_path, "cost", SETTINGS)
    files = {
        "envs/platform.yaml": PRICES,
        "envs/production/platform.yaml": "plane: production\n",
        "envs/production/release.yaml": f"models: {{toy: {PRODUCTION.id}}}\n",
        f"envs/releases/toy/{PRODUCTION.id}.yaml": yaml.safe_dump(msgspec.to_builtins(PRODUCTION)),
        "build/toy/release.yaml": yaml.safe_dump(msgspec.to_builtins(CANDIDATE)),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    loaded(made, measured())
    return made


def loaded(
    room: GateRoom, measurements: dict[str, Any], against: str = PRODUCTION.id, *more: Finding
) -> None:
    """Write the load gate's report."""
    source = report.Source("tidegate gate run load toy", {}, {}, CANDIDATE.id, against)
    findings = (gate.at_most("p50", 1, 2), *more)
    report.write(report.Report("load", "toy", findings, measurements, source=source), room.build / "gates")


def test_a_cheap_release_passes_and_says_what_it_assumes(room: GateRoom) -> None:
    """0.18 an hour for 2 processes of 100/s, half used: 0.0005 a thousand. The report names the machine."""
    code, found = room.run("--release", CANDIDATE.id)
    assert code == 0
    assert found.measurements["cost_per_thousand"] == pytest.approx(0.0005)
    assert found.measurements["machine"] == {"name": "cpu", "cores": 2, "gpus": 0, "per_hour": 0.18}
    assert "`cpu` (2 cores, no GPU)" in found.findings[0].reason
    assert {one.word for one in found.comparisons} == {"no worse"}
    assert {one.unit for one in found.comparisons} == {"EUR"}


def test_twice_the_cost_of_production_fails(room: GateRoom) -> None:
    """Half the throughput is twice the cost, and beyond the margin, though within the budget."""
    loaded(room, measured(turns={"ratios": {"throughput": SLOWER, "cpu": RATIO}, "confidence": 0.99}))
    code, found = room.run()
    assert code == 1
    (worse,) = (finding for finding in found.findings if finding.verdict is Verdict.FAIL)
    assert worse.name == "cost against production, by throughput"
    assert worse.observed == pytest.approx(2 * float(worse.limit or 0))


def test_without_production_the_budget_alone_decides(room: GateRoom) -> None:
    """There is nothing to compare with, and the finding says so."""
    (room.root / "envs/production/release.yaml").write_text("models: {}\n")
    loaded(room, {**measured(), "turns": None}, "")
    code, found = room.run()
    assert code == 0
    assert found.findings[1].verdict is Verdict.NOT_APPLICABLE
    room.set({**SETTINGS, "budget_per_thousand": 0.0001})
    assert room.run()[0] == 1


def test_a_gpu_is_priced_only_where_one_was_measured(room: GateRoom) -> None:
    """With a GPU's machine the gpu gate must have seen one."""
    room.set({**SETTINGS, "machine": "gpu"})
    code, found = room.run()
    assert code == 3
    none = report.Report("gpu", "toy", (gate.not_applicable("gpu", "no GPU is declared"),))
    report.write(none, room.build / "gates")
    code, found = room.run()
    assert code == 3
    assert "without one" in found.findings[0].reason


@pytest.mark.parametrize(
    ("measurements", "against", "told"),
    [
        (measured(release="aaaaaaaaaaaa"), PRODUCTION.id, "about aaaaaaaaaaaa"),
        (measured(), "bbbbbbbbbbbb", "comparison with bbbbbbbbbbbb"),
        (measured(turns=None), PRODUCTION.id, "compares with nothing"),
        (measured(capacity=None), PRODUCTION.id, "no capacity"),
        (measured(turns={"ratios": {}}), PRODUCTION.id, "no"),
    ],
)
def test_another_releases_numbers_are_an_error(
    room: GateRoom, measurements: dict[str, Any], against: str, told: str
) -> None:
    """What load measured must be of this release, beside what production runs now, and whole."""
    loaded(room, measurements, against)
    code, found = room.run()
    assert code == 3
    assert told in found.findings[0].reason
