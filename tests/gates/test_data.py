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
from tidegate.core.task import Declaration
from tidegate.core.verdict import Verdict, worst

SETTINGS: dict[str, Any] = {
    "min_rows": {"train": 50, "holdout": 20},
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
    declared = Declaration("classification", "late", "probability")
    found = data.look_at("train", changed, settings, declared)
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
        ({**SETTINGS, "label": "late"}, "unknown key `label`"),
        ({**SETTINGS, "label_mean": [0, 1]}, "`label_mean` is nothing of a classification's labels"),
        ({**SETTINGS, "label_rate": {"late": [0, 1]}}, "`label_rate` must be one range"),
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


# ---------------------------------------------------------------- other tasks, on scikit-learn's own data
CLASSES = ["setosa", "versicolor", "virginica"]
IRIS: dict[str, Any] = {"task": "classification", "label": "species", "prediction": CLASSES}
DIABETES: dict[str, Any] = {"task": "regression", "label": "progression", "prediction": "progression_guess"}
SHELF: dict[str, Any] = {"task": "ranking", "label": "grade", "prediction": "score", "group": "query"}
COMMON: dict[str, Any] = {
    "min_rows": {"train": 50, "holdout": 20},
    "ordered_by": None,
    "duplicates": 0.1,
    "overlap": 0.1,
    "volume": [0.5, 2],
}


def iris() -> tuple[dict[str, Any], pd.DataFrame]:
    """Iris as a text-labelled classification: its settings and rows; one column tells nearly everything."""
    from sklearn.datasets import load_iris

    known = load_iris(as_frame=True)
    rows = known.data.rename(columns=lambda name: name.replace(" (cm)", "").replace(" ", "_"))
    rows["species"] = np.array(CLASSES)[known.target]
    columns = {name: {"type": "number", "within": [0, 10]} for name in rows if name != "species"}
    columns["species"] = {"type": "text", "among": CLASSES, "length": [6, 10]}
    rates = {name: [0.2, 0.5] for name in CLASSES}
    leakage = {"limit": 0.999, "rows": 1000, "seed": 1}
    return {**COMMON, "columns": columns, "label_rate": rates, "leakage": leakage}, rows


def diabetes() -> tuple[dict[str, Any], pd.DataFrame]:
    """Diabetes as a regression: its settings and rows; the body mass index alone ranks at about 0.68."""
    from sklearn.datasets import load_diabetes

    known = load_diabetes(as_frame=True)
    rows = known.data.assign(progression=known.target)
    columns = {name: {"type": "number", "within": [-1, 1]} for name in known.data}
    columns["progression"] = {"type": "number", "within": [1, 400]}
    leakage = {"limit": 0.8, "rows": 1000, "seed": 1}
    label = {"label_mean": [120, 180], "label_within": [1, 400]}
    return {**COMMON, "columns": columns, **label, "leakage": leakage}, rows


def shelf() -> tuple[dict[str, Any], pd.DataFrame]:
    """A ranking of five of the diabetes rows at a time, by how far the disease went, in four grades."""
    _, rows = diabetes()
    rows["grade"] = pd.qcut(rows.pop("progression"), 4, labels=False)
    rows["query"] = [f"q{place // 5}" for place in range(len(rows))]
    columns = {name: {"type": "number"} for name in rows if name not in ("grade", "query")}
    columns |= {"grade": {"type": "int"}, "query": {"type": "text"}}
    label = {"label_within": [0, 3], "group_rows": [4, 6], "flat_groups": 0.1}
    leakage = {"limit": 0.8, "rows": 1000, "seed": 1}
    return {**COMMON, "columns": columns, **label, "leakage": leakage}, rows


Change = Any
TASKS: dict[str, tuple[dict[str, Any], Any, dict[str, tuple[Change, str]]]] = {
    "classes": (
        IRIS,
        iris,
        {
            "a class nobody declared": (
                lambda f: f.assign(species=f["species"].replace("setosa", "rose")),
                "species that is no class",
            ),
            "a class that is gone": (
                lambda f: f[f["species"] != "virginica"],
                "train: rate of virginica 0 is",
            ),
            "no label": (lambda f: f.assign(species=None), "species that is no class: 1"),
            "a column that is the label": (
                lambda f: f.assign(petal_width=f["species"].map({n: i for i, n in enumerate(CLASSES)}) * 1.0),
                "leakage: AUC of petal_width alone 1 > limit 0.999",
            ),
        },
    ),
    "a number": (
        DIABETES,
        diabetes,
        {
            "another unit": (lambda f: f.assign(progression=f["progression"] / 10), "mean progression"),
            "one beyond": (
                lambda f: f.assign(progression=f["progression"].where(f.index != f.index[3], 900)),
                "train: greatest progression 900 is not within 1 to 400",
            ),
            "one for all": (
                lambda f: f.assign(progression=150.0),
                "train: different progression 1 < limit 2",
            ),
            "no number": (lambda f: f.assign(progression="high"), "progression that is no number"),
            "a column that is the label": (
                lambda f: f.assign(bp=f["progression"] / 1000 + 0.001),
                "leakage: concordance of bp alone",
            ),
        },
    ),
    "grades in groups": (
        SHELF,
        shelf,
        {
            "nothing to rank": (lambda f: f.assign(grade=1), "train: groups of one label 1 > limit 0.1"),
            "half a grade": (lambda f: f.assign(grade=f["grade"] + 0.5), "no whole number from 0"),
            "rows of their own": (
                lambda f: f.assign(query=[str(one) for one in range(len(f))]),
                "train: rows of a group 1 is not within 4 to 6",
            ),
            "a column that is the label": (
                lambda f: f.assign(bp=f["grade"] / 10.0),
                "leakage: concordance of bp alone 1 > limit 0.8",
            ),
        },
    ),
}


def of_task(name: str, root: Path, **over: Any) -> tuple[GateRoom, pd.DataFrame]:
    """Return a checkout of a model of this task, and the rows of train."""
    declared, make, _ = TASKS[name]
    settings, rows = make()
    made = GateRoom(root, "data", settings | over, declared)
    (made.root / "envs" / "production").mkdir(parents=True)
    (made.root / "envs" / "production" / "release.yaml").write_text("models: {}\n")
    groups = rows[declared["group"]] if "group" in declared else pd.Series(range(len(rows)), index=rows.index)
    chosen = groups.isin(groups.drop_duplicates().sample(frac=0.7, random_state=1))
    rows[chosen].to_parquet(made.data / "train.parquet", index=False)
    rows[~chosen].to_parquet(made.data / "holdout.parquet", index=False)
    return made, rows[chosen].reset_index(drop=True)


@pytest.mark.parametrize("task", TASKS)
def test_good_labels_of_each_task_pass(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Iris as three classes in text, diabetes as a number, and as grades in groups: none is held back."""
    room, _ = of_task(task, tmp_path)
    assert failing(room, monkeypatch) == (0, "")


@pytest.mark.parametrize(("task", "fault"), [(task, fault) for task, of in TASKS.items() for fault in of[2]])
def test_bad_labels_of_each_task_fail(
    task: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told by name: a class, a unit, a constant, a group, and a column that is the label."""
    room, train = of_task(task, tmp_path)
    change, says = TASKS[task][2][fault]
    change(train).to_parquet(room.data / "train.parquet", index=False)
    code, reasons = failing(room, monkeypatch)
    assert (code, says in reasons) == (1, True), reasons


@pytest.mark.parametrize(
    ("task", "over", "says"),
    [
        ("classes", {"label_rate": [0, 1]}, "`label_rate` must be a range for each class"),
        ("classes", {"label_rate": {"setosa": [0, 1]}}, "versicolor, virginica"),
        ("a number", {"label_rate": [0, 1]}, "`label_rate` is nothing of a regression's labels"),
        ("a number", {"label_mean": None}, "`label_mean` is missing"),
        ("grades in groups", {"group_rows": None}, "`group_rows` is missing"),
        ("grades in groups", {"label_within": [3, 0]}, "lower first"),
    ],
)
def test_limits_of_another_tasks_labels_are_an_error(
    task: str, over: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be meant of this model's labels is refused before any row is read."""
    code, reasons = failing(of_task(task, tmp_path, **over)[0], monkeypatch)
    assert (code, says in reasons) == (3, True), reasons


def test_free_text_is_held_by_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty text and one that goes on and on are each counted; texts of fitting length are not."""
    settings, rows = iris()
    words = [f"a note, number {place}" for place in range(len(rows))]
    columns = {**settings["columns"], "note": {"type": "text", "length": [1, 40]}}
    room, train = of_task("classes", tmp_path, columns=columns)
    holdout = pd.read_parquet(room.data / "holdout.parquet")
    holdout.assign(note=words[: len(holdout)]).to_parquet(room.data / "holdout.parquet")
    train["note"] = words[-len(train) :]
    train.to_parquet(room.data / "train.parquet")
    assert failing(room, monkeypatch) == (0, "")
    train.loc[3, "note"], train.loc[4, "note"] = "", "x" * 41
    train.to_parquet(room.data / "train.parquet")
    count = len(train)
    assert failing(room, monkeypatch) == (1, f"train: note values: 2 of {count} rows failed, limit 0")
