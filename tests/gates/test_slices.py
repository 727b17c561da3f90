"""The slices gate: declared and found slices, beside other rows and production; protected groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gates import slices
from tests.builders import GateRoom
from tests.gates import test_quality as quality_room
from tidegate import report, testing, wiring
from tidegate.core.verdict import Verdict

SETTINGS: dict[str, Any] = {
    "min_rows": 200,
    "min_each": 30,
    "confidence": 0.95,
    "threshold": 0.5,
    "columns": {"line": {}, "hour": {"of": "sched_dep_time", "part": [0, 2]}, "miles": {"bins": 3}},
    "margins": {"auc": 0.25, "excess_loss": 0.25},
    "production": {"auc": 0.2, "log_loss": 0.2},
    "search": {"columns": ["line", "miles"], "together": "day", "depth": 3, "most": 5, "seed": 1},
    "fairness": {"demographic_parity": 0.2, "equal_opportunity": 0.25},
}
ROWS = 8000
NOTHING = {"depth": 1, "most": 1, "seed": 1}  # is searched in


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with a candidate of the model `toy` that is as good everywhere, and no production."""
    made: GateRoom = quality_room.checkout(tmp_path, "slices", SETTINGS)
    frame = quality_room.flights(ROWS)
    random = np.random.default_rng(3)
    frame["line"] = random.choice(["red", "green", "blue"], ROWS)
    frame["miles"] = random.random(ROWS) * 100
    frame["day"] = np.arange(ROWS) // 100
    frame.to_parquet(made.data / "holdout.parquet")
    write(made, quality_room.predict(frame["late"], 1.2))
    return made


def write(room: GateRoom, probability: Any) -> None:
    """Replace the candidate's predictions."""
    late = holdout(room)["late"]
    made = pd.DataFrame({"late": late, "probability": np.asarray(probability)})
    made.to_parquet(room.build / "predictions.parquet")


def holdout(room: GateRoom) -> pd.DataFrame:
    """Return the holdout."""
    return pd.read_parquet(room.data / "holdout.parquet")


def probability(room: GateRoom) -> Any:
    """Return the candidate's predictions."""
    return pd.read_parquet(room.build / "predictions.parquet")["probability"].to_numpy()


def look(room: GateRoom, monkeypatch: pytest.MonkeyPatch, registry: Any = None) -> tuple[int, report.Report]:
    """Run the gate in this process with a registry of our own."""
    monkeypatch.chdir(room.root)
    monkeypatch.setattr(wiring, "registry", lambda *_: registry)
    code = slices.GATE.main(["toy"])
    return code, report.read_report(room.build / "gates" / "slices.json")


def failing(found: report.Report) -> str:
    """Return the names of what failed."""
    return "\n".join(one.name for one in found.findings if one.verdict is Verdict.FAIL)


def test_a_model_that_is_as_good_everywhere_passes(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the report shows the worst slices, with support and interval, and what did not apply."""
    code, found = look(room, monkeypatch)
    assert code == 0
    (table,) = found.tables
    assert table.columns[:3] == ("slice", "rows", "metric")
    assert len(table.rows) == 12
    not_applicable = {one.name for one in found.findings if one.verdict is Verdict.NOT_APPLICABLE}
    assert {"against production", "protected groups"} <= not_applicable
    assert found.measurements["slices"]["declared"] == 3 + 18 + 3


def test_the_same_inputs_give_the_same_report(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is seeded."""
    _, one = look(room, monkeypatch)
    _, other = look(room, monkeypatch)
    assert one.as_dict() == other.as_dict()


def test_one_broken_slice_fails_by_name(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions inverted for one line in three: FAIL, and the finding says which."""
    red = (holdout(room)["line"] == "red").to_numpy()
    write(room, np.where(red, 1 - probability(room), probability(room)))
    code, found = look(room, monkeypatch)
    assert code == 1
    assert "line = red" in failing(found)
    assert "line = green" not in failing(found)


def test_a_slice_that_nobody_declared_is_found(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inverted where two columns meet, of which only others are declared."""
    frame = holdout(room)
    place = ((frame["miles"] > 70) & (frame["line"] == "blue")).to_numpy()
    write(room, np.where(place, 1 - probability(room), probability(room)))
    room.set({**SETTINGS, "columns": {"hour": SETTINGS["columns"]["hour"]}})
    code, found = look(room, monkeypatch)
    assert code == 1
    assert "found: line among blue and miles >" in failing(found)


def test_what_was_lost_since_production_is_seen_by_slice(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worse than production for one line only, within what slices may differ: FAIL beside production."""
    red = (holdout(room)["line"] == "red").to_numpy()
    write(room, np.where(red, 0.98, probability(room)))
    wide = {"auc": 1.0, "excess_loss": 9.0}
    room.set({**SETTINGS, "margins": wide, "production": {"log_loss": 0.2}})
    registry = testing.FakeRegistry()
    quality_room.put_in_production(room, registry)
    code, found = look(room, monkeypatch, registry)
    assert code == 1
    assert "log_loss of line = red against production" in failing(found)
    assert "line = green against production" not in failing(found)
    assert [table.title for table in found.tables][1] == "Worst slices beside production"
    assert any("line = red" in shown.name for shown in found.comparisons)


def test_no_margin_beside_production_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release in production that nothing is compared with must not look compared."""
    room.set({**SETTINGS, "production": {}})
    registry = testing.FakeRegistry()
    quality_room.put_in_production(room, registry)
    assert look(room, monkeypatch, registry)[0] == 3


@pytest.mark.parametrize(("raised", "code"), [(0.0, 0), (0.4, 1)])
def test_protected_groups_are_to_be_treated_alike(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, raised: float, code: int
) -> None:
    """Called positive more often for one line: FAIL, with both measures' rates in a table."""
    red = (holdout(room)["line"] == "red").to_numpy()
    write(room, np.clip(probability(room) + raised * red, 0, 1))
    wide = {"auc": 1.0, "excess_loss": 9.0}
    room.set({**SETTINGS, "margins": wide, "protected": ["line"]})
    found_code, found = look(room, monkeypatch)
    assert found_code == code
    shown = next(table for table in found.tables if table.title == "Protected groups")
    assert {(row[1], row[2]) for row in shown.rows} == {
        (line, measure) for line in ("red", "green", "blue") for measure in SETTINGS["fairness"]
    }
    assert ("demographic_parity between groups of line" in failing(found)) is bool(code)


@pytest.mark.parametrize(
    ("over", "code", "told"),
    [
        ({"columns": {}, "search": NOTHING}, 3, "no column to cut by"),
        ({"margins": {}}, 3, "no metric with a margin"),
        ({"columns": {"lien": {}}}, 3, "no column `lien`"),
        ({"search": {**NOTHING, "columns": ["lien"]}}, 3, "no column `lien`"),
        ({"search": {**NOTHING, "columns": ["line"], "together": "dya"}}, 3, "no column `dya`"),
        ({"protected": ["lien"]}, 3, "no column `lien`"),
        ({"protected": ["line"], "fairness": {}}, 3, "no limit under `fairness`"),
        ({"fairness": {"equal_oportunity": 0.1}}, 3, "did you mean `equal_opportunity`"),
        ({"margins": {"acu": 0.1}}, 3, "did you mean `auc`"),
        ({"production": {"auc": -0.1}}, 3, "not a number from 0"),
        ({"min_rows": 0}, 3, "at least 2 rows"),
        ({"confidence": 95}, 3, "a confidence of 95"),
        ({"min_rows": 5000, "columns": {"line": {}}, "search": NOTHING}, 2, "rows 8,000 < limit 10,000"),
        ({"min_rows": 4000, "columns": {"line": {}}, "search": NOTHING}, 2, "no slice of line can be judged"),
        ({"columns": {"carrier": {}}, "search": NOTHING}, 2, "carrier = UA in nearly each row"),
        ({"margins": {"auc": 0.001}}, 2, "more rows"),
    ],
)
def test_what_decides_nothing_never_passes(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, over: dict[str, Any], code: int, told: str
) -> None:
    """Nothing to cut by or to compare, a name that is none: ERROR; too little support: INCONCLUSIVE."""
    room.set({**SETTINGS, **over})
    found_code, found = look(room, monkeypatch)
    assert found_code == code
    assert told in json.dumps(found.as_dict(), ensure_ascii=False)


def test_a_column_that_is_empty_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A join that broke must not leave one slice, `missing`, that is like the average."""
    holdout(room).assign(line=None).to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 3
    assert "`line` of holdout.parquet is empty" in found.findings[0].reason


def test_small_slices_are_told(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be judged is in the report, with how many rows it is."""
    lines = holdout(room)["line"].to_numpy()
    lines[:5] = "violet"
    holdout(room).assign(line=lines).to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 0
    stated = next(one for one in found.findings if one.name == "small slices")
    assert "line = violet: 5 of 8,000 rows" in stated.reason
