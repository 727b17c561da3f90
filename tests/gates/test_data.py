"""The data gate on small frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from gates import data
from tests.builders import GateRoom, record
from tidegate import documents, report
from tidegate.core.verdict import Verdict, worst

SETTINGS: dict[str, Any] = {
    "min_rows": {"train": 50, "holdout": 20},
    "label": "late",
    "label_rate": [0.2, 0.6],
    "ordered_by": "date",
    "duplicates": 0,
    "overlap": 0,
    "volume": [0.5, 2],
    "leakage": {"limit": 0.75, "rows": 20000, "seed": 1},
    "columns": {
        "date": {"type": "text", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "carrier": {"type": "text", "among": ["UA", "AA"]},
        "distance": {"type": "int", "within": [10, 5000]},
        "temp": {"type": "number", "within": [-40, 130], "nulls": 0.2},
        "late": {"type": "flag"},
    },
}


def frame(rows: int, month: int = 1) -> pd.DataFrame:
    """Rows as they should be: a tenth of the temperatures unknown, four in ten late."""
    count = np.arange(rows)
    return pd.DataFrame(
        {
            "date": [f"2013-{month:02d}-{1 + i % 28:02d}" for i in count],
            "carrier": np.where(count % 2, "UA", "AA"),
            "distance": 200 + 100 * month + count,
            "temp": np.where(count % 10, 50.0 + count % 30, np.nan),
            "late": np.random.default_rng(month).permutation(count % 5 < 2).astype("int8"),
        }
    )


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with good data."""
    made = GateRoom(tmp_path, "data", SETTINGS)
    release = made.root / "envs" / "production" / "release.yaml"
    release.parent.mkdir(parents=True)
    release.write_text("models: {}\n")
    frame(60).to_parquet(made.data / "train.parquet")
    frame(30, month=5).to_parquet(made.data / "holdout.parquet")
    return made


def verdict_of(changed: pd.DataFrame) -> tuple[Verdict, str]:
    """Return the verdict on one split, and what decided it."""
    settings = documents.convert(SETTINGS, data.DataSettings, where="test")
    found = data.look_at("train", changed, settings)
    return worst(f.verdict for f in found), "; ".join(
        f.reason for f in found if f.verdict is not Verdict.PASS
    )


def test_good_data_passes_as_a_process(room: GateRoom) -> None:
    """The real script exits 0 and says how many rows it looked at."""
    code, report = room.run()
    assert code == 0
    assert report.measurements["rows"] == {"train": 60, "holdout": 30}


def test_a_bad_value_fails_as_a_process(room: GateRoom) -> None:
    """The real script exits 1 and names split, column and count."""
    frame(30, month=5).assign(carrier="ZZ").to_parquet(room.data / "holdout.parquet")
    code, report = room.run()
    assert code == 1
    assert "holdout: carrier values: 30 of 30 rows failed, limit 0" in {f.reason for f in report.findings}


def test_missing_data_is_an_error_and_clears_the_old_report(room: GateRoom) -> None:
    """The real script exits 3 without its input, and a PASS of an earlier run does not survive."""
    (room.build / "gates").mkdir()
    (room.build / "gates" / "data.json").write_text("{}")
    (room.data / "holdout.parquet").unlink()
    code, report = room.run()
    assert code == 3
    assert "holdout.parquet" in report.findings[0].reason


def test_empty_or_unreadable_data_is_an_error(room: GateRoom) -> None:
    """No rows, and bytes that are no parquet, are ERROR and neither PASS nor a traceback alone."""
    frame(0).to_parquet(room.data / "train.parquet")
    code, report = room.run()
    assert (code, report.verdict) == (3, Verdict.ERROR)
    (room.data / "train.parquet").write_bytes(b"PAR1 not really")
    code, report = room.run()
    assert (code, report.verdict) == (3, Verdict.ERROR)


def test_train_that_reaches_into_the_holdout_fails(room: GateRoom) -> None:
    """A day in both splits is an overlap."""
    frame(60, month=5).to_parquet(room.data / "train.parquet")
    code, report = room.run()
    assert code == 1
    assert any("overlap" in f.reason for f in report.findings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"distance": 9}, "distance values"),
        ({"temp": 1000.0}, "temp values"),
        ({"temp": np.nan}, "temp nulls 1 > limit 0.2"),
        ({"date": "1 May"}, "date values"),
        ({"carrier": None}, "carrier nulls"),
        ({"distance": "200"}, "distance values: 60 of 60"),
        ({"distance": 200.5}, "distance values"),
        ({"carrier": 7}, "carrier values"),
        ({"late": 1}, "rate of late 1 is not within"),
        ({"late": 2}, "late values"),
        ({"dep_delay": 3}, "not known: dep_delay"),
    ],
)
def test_each_kind_of_bad_column_fails(change: dict[str, Any], says: str) -> None:
    """Range, nulls, pattern, stored type, label rate and an unknown (leaking) column are each caught."""
    verdict, reasons = verdict_of(frame(60).assign(**change))
    assert verdict is Verdict.FAIL
    assert says in reasons


def test_one_bad_row_is_counted_as_one() -> None:
    """The number of rows that break a rule is in the reason."""
    changed = frame(60)
    changed.loc[7, "distance"] = 99999
    verdict, reasons = verdict_of(changed)
    assert verdict is Verdict.FAIL
    assert "distance values: 1 of 60 rows failed" in reasons


def test_a_missing_column_fails() -> None:
    """A column that the schema names and the data lacks is told by name."""
    verdict, reasons = verdict_of(frame(60).drop(columns="temp"))
    assert verdict is Verdict.FAIL
    assert "missing: temp" in reasons


def test_too_few_rows_fail() -> None:
    """Volume is a property of the data, so a short split is bad data and not a small sample of it."""
    verdict, reasons = verdict_of(frame(40))
    assert verdict is Verdict.FAIL
    assert "rows 40 < limit 50" in reasons


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({**SETTINGS, "label_rates": [0, 1]}, "Did you mean `label_rate`?"),
        ({**SETTINGS, "columns": {}}, "no columns was asked for"),
        ({**SETTINGS, "min_rows": {"train": 50}}, "`holdout` is missing in `data.min_rows`"),
        ({**SETTINGS, "min_rows": {"train": 0, "holdout": 20}}, "of at least 1"),
        (
            {name: value for name, value in SETTINGS.items() if name != "ordered_by"},
            "`ordered_by` is missing",
        ),
        ({**SETTINGS, "label": "gone"}, "there is no number"),
    ],
)
def test_settings_that_compare_nothing_are_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], says: str
) -> None:
    """A typing error in params.yaml, and a section that asks for nothing, are never PASS."""
    room.set(settings)
    monkeypatch.chdir(room.root)
    assert data.GATE.main(["toy"]) == 3
    found = report.read_report(room.build / "gates" / "data.json").findings
    assert any(says in finding.reason for finding in found)


def test_rows_that_have_no_order_are_told(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where params.yaml says that rows have none, nothing compares the splits' ends, and the report tells."""
    room.set({**SETTINGS, "ordered_by": None})
    monkeypatch.chdir(room.root)
    assert data.GATE.main(["toy"]) == 0
    found = report.read_report(room.build / "gates" / "data.json").findings
    assert {one.name: one.verdict for one in found}["order"] is Verdict.NOT_APPLICABLE


# ---------------------------------------------------------------- what rows say of each other
def failing(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run the gate in this process; return its exit code and what held it back."""
    monkeypatch.chdir(room.root)
    code = data.GATE.main(["toy"])
    findings = report.read_report(room.build / "gates" / "data.json").findings
    return code, "; ".join(f.reason for f in findings if f.verdict.holds_back)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, h: (pd.concat([t, t.head(3)]), h), "train: rows there twice 0.04762 > limit 0"),
        (lambda t, h: (pd.concat([t, h.head(3)]), h), "holdout: rows that are in train 0.1 > limit 0"),
        (
            lambda t, h: (t, pd.concat([h, t.head(3).assign(date="2013-05-20")])),
            "holdout: rows that are in train but for date 0.09091 > limit 0",
        ),
        (lambda t, h: (t.assign(temp=t["late"] * 30.0), h), "leakage: AUC of temp alone 1 > limit 0.75"),
        (lambda t, h: (t.assign(late=0), h), "leakage: AUC of temp alone: there is no number (nan)"),
    ],
)
def test_rows_that_know_each_other_fail(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, change: Any, says: str
) -> None:
    """Rows there twice, in both splits, in both under another date; a column that is the label; no label."""
    train, holdout = change(frame(60), frame(30, month=5))
    train.to_parquet(room.data / "train.parquet")
    holdout.to_parquet(room.data / "holdout.parquet")
    code, reasons = failing(room, monkeypatch)
    assert code == 1
    assert says in reasons


def test_a_key_makes_a_row_what_it_is(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of one key are one flight told twice, whatever else they say; a key nobody has is an ERROR."""
    room.set({**SETTINGS, "key": ["distance", "carrier"]})
    twice = pd.concat([frame(60), frame(1).assign(temp=12.0)], ignore_index=True)
    twice.to_parquet(room.data / "train.parquet")
    assert failing(room, monkeypatch) == (1, "train: rows there twice 0.01639 > limit 0")
    room.set({**SETTINGS, "key": ["gone"]})
    code, reasons = failing(room, monkeypatch)
    assert code == 3
    assert "a column of `key` is missing: gone" in reasons


def produced(room: GateRoom, rows: dict[str, int] | None) -> None:
    """Put a release into production that was made of so many rows."""
    made = msgspec.structs.replace(record(1), rows=rows)
    folder = room.root / "envs" / "releases" / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in msgspec.to_builtins(made).items() if value is not None}
    (folder / f"{made.id}.yaml").write_text(json.dumps(content))
    (room.root / "envs" / "production" / "release.yaml").write_text(f"models: {{toy: {made.id}}}\n")


def test_volume_is_held_beside_productions(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows that production's release was made of still pass; less, or a multiple, fails."""
    produced(room, {"train": 120, "holdout": 30})
    assert failing(room, monkeypatch) == (0, "")
    produced(room, {"train": 121, "holdout": 14})
    code, reasons = failing(room, monkeypatch)
    assert code == 1
    assert "train: rows beside production's: 60 beside 121, ratio 0.4959 is not within 0.5 to 2" in reasons
    assert "holdout: rows beside production's: 30 beside 14, ratio 2.143 is not within 0.5 to 2" in reasons


@pytest.mark.parametrize("rows", [None, {"train": 60}])
def test_a_volume_nobody_wrote_down_is_not_compared(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, rows: dict[str, int] | None
) -> None:
    """Without a release in production, or where its record does not say, the report says so."""
    produced(room, rows)
    assert failing(room, monkeypatch)[0] == 0
    findings = report.read_report(room.build / "gates" / "data.json").findings
    (told,) = (f for f in findings if f.name == "holdout: rows beside production's")
    assert told.verdict is Verdict.NOT_APPLICABLE
    assert "does not say how many rows" in told.reason


def test_no_rows_in_production_are_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of 0 rows gives no ratio, and a record that is gone can't be compared with."""
    produced(room, {"train": 0, "holdout": 30})
    assert failing(room, monkeypatch)[0] == 3
    for path in (room.root / "envs" / "releases" / "toy").iterdir():
        path.unlink()
    assert failing(room, monkeypatch)[0] == 3


@pytest.mark.parametrize(
    "over",
    [
        {"duplicates": -0.1},
        {"overlap": 1.5},
        {"label_rate": [0.6, 0.2]},
        {"volume": [2.0, 0.5]},
        {"leakage": {"limit": 0.4}},
        {"leakage": {"rows": 0}},
        {"min_rows": {"train": -1}},
    ],
)
def test_limits_that_limit_nothing_are_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, over: dict[str, Any]
) -> None:
    """Negative shares, ranges upside down, an AUC that a coin reaches: refused before anything is read."""
    room.set({**SETTINGS, **over})
    code, reasons = failing(room, monkeypatch)
    assert code == 3
    assert "params.yaml" in reasons


def test_another_unit_fails_by_its_mean(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celsius is in range of Fahrenheit row by row; its mean is not."""
    columns = {**SETTINGS["columns"], "temp": {**SETTINGS["columns"]["temp"], "mean": [30, 85]}}
    room.set({**SETTINGS, "columns": columns})
    assert failing(room, monkeypatch)[0] == 0
    celsius = frame(30, month=5).assign(temp=lambda f: (f["temp"] - 32) / 1.8)
    celsius.to_parquet(room.data / "holdout.parquet")
    code, reasons = failing(room, monkeypatch)
    assert code == 1
    assert "holdout: temp mean" in reasons
    assert "values" not in reasons
