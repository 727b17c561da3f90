"""The drift gate on small frames; Evidently is real throughout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gates import drift
from tests.builders import GateRoom
from tidegate import report
from tidegate.adapters import evidently
from tidegate.core.verdict import Verdict
from tidegate.errors import ConfigError, NoData
from tidegate.files import digest_folder

SETTINGS: dict[str, Any] = {
    "rows": 800,
    "seed": 1,
    "min_rows": 300,
    "min_values": 100,
    "weight": 0.5,
    "ignore": ["date"],
    "predictions": 0.3,
    "columns": {
        "late": {"kind": "category", "limit": 0.15},
        "distance": {"kind": "number", "limit": 0.2},
        "carrier": {"kind": "category", "limit": 0.15},
        "departs": {"kind": "time", "limit": 0.2},
    },
}


def frame(rows: int, seed: int) -> pd.DataFrame:
    """Rows drawn from one fixed world."""
    random = np.random.default_rng(seed)
    minutes = random.integers(300, 1400, rows)
    return pd.DataFrame(
        {
            "date": "2013-01-01",
            "distance": random.normal(1000, 300, rows),
            "carrier": random.choice(["UA", "AA", "B6"], rows),
            "departs": [f"{m // 60:02d}:{m % 60:02d}" for m in minutes],
            "late": (random.random(rows) < 0.3).astype("int8"),
        }
    )


SHARES = {"departs": 0.6, "carrier": 0.25, "distance": 0.15, "date": 0.0}
# A model whose answer is a weight times the distance; what features.py and score.py of any model offer.
FEATURES = """
import json
import numpy as np

def load(path):
    return json.loads(path.read_text())

def compute_columns(columns, vocabulary):
    return np.asarray(columns["distance"], dtype=float) * vocabulary["weight"]
"""
SCORE = """
def session(path):
    return path.read_text()

def score(opened, matrix):
    return matrix
"""


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout whose holdout is of train's world, with a model and what it leans on."""
    made = GateRoom(tmp_path, "drift", SETTINGS)
    frame(1500, 1).to_parquet(made.data / "train.parquet")
    frame(1000, 2).to_parquet(made.data / "holdout.parquet")
    code = made.root / "models" / "toy"
    code.mkdir(parents=True)
    (code / "features.py").write_text(FEATURES)
    (code / "score.py").write_text(SCORE)
    model(made, 0.001)
    return made


def model(room: GateRoom, weight: float) -> None:
    """Put a model of this weight in the room, and its importances."""
    folder = room.build / "model"
    folder.mkdir(exist_ok=True)
    (folder / "features.json").write_text(json.dumps({"weight": weight}))
    (folder / "model.onnx").write_text("weights")
    document = {"artifact": digest_folder(folder), "shares": SHARES}
    (room.build / "importance.json").write_text(json.dumps(document))


def test_the_file_that_is_served_is_the_one_that_answers(room: GateRoom, monkeypatch: Any) -> None:
    """Answers are of the variant in the service's settings, which the report names as what it read."""
    wanted = "raise ValueError(opened)"
    (room.root / "models/toy/score.py").write_text(SCORE.replace("return matrix", wanted))
    (room.build / "model" / "model.int8.onnx").write_text("fewer bits")
    document = {"artifact": digest_folder(room.build / "model"), "shares": SHARES}
    (room.build / "importance.json").write_text(json.dumps(document))
    settings = room.root / "services" / "toy" / "settings.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("variant: int8\n")
    code, found = look(room, monkeypatch)
    assert code == Verdict.ERROR.exit_code
    assert any("ValueError: fewer bits" in one.reason for one in found.findings)
    assert "services/toy/settings.yaml" in found.source.inputs


def look(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> tuple[int, report.Report]:
    """Run the gate in this process: importing Evidently once is enough."""
    monkeypatch.chdir(room.root)
    code = drift.GATE.main(["toy"])
    return code, report.read_report(room.build / "gates" / "drift.json")


def test_the_same_world_passes_as_a_process(room: GateRoom) -> None:
    """The real script exits 0 and says how many rows it sampled of how many."""
    code, found = room.run()
    assert code == 0
    assert found.measurements["rows"] == {"train": [800, 1500], "holdout": [800, 1000]}
    assert found.measurements["methods"]["carrier"] == "jensenshannon"
    (table,) = found.tables
    assert [row[:2] for row in table.rows] == [
        ("departs", 0.6),
        ("carrier", 0.25),
        ("distance", 0.15),
        ("late", None),
        ("predictions", None),
    ]


def test_what_the_model_leans_on_may_move_by_less(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same declared limit is the tighter the more a column counts; below the average it stays."""
    _, found = look(room, monkeypatch)
    limits = {finding.name: finding.limit for finding in found.findings}
    assert limits["departs"] == pytest.approx(0.2 / (0.6 * 4) ** 0.5)
    assert limits["carrier"] == pytest.approx(0.15)
    assert limits["distance"] == pytest.approx(0.2)
    moved = frame(1000, 2)
    moved["departs"] = [f"{min(int(t[:2]) + 1, 23):02d}:{t[3:]}" for t in moved["departs"]]
    moved.to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    distance = found.measurements["distances"]["departs"]
    assert (code, distance < 0.2) == (1, True)
    room.set({**SETTINGS, "weight": 0})
    assert look(room, monkeypatch)[0] == 0


def test_the_label_moves_by_itself(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rate of the label fails though no feature moved."""
    frame(1000, 2).assign(late=1).to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 1
    assert [f.name for f in found.findings if f.verdict is Verdict.FAIL] == ["late"]


def test_predictions_that_can_not_be_compared_are_no_pass(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer for every row, and answers that are no numbers, hide all drift: neither passes."""
    model(room, 0.0)
    code, found = look(room, monkeypatch)
    assert code == 1
    assert any("different predictions 1 < limit 2" in f.reason for f in found.findings)
    frame(1000, 2).assign(distance=np.where(np.arange(1000) % 2, 1000.0, np.nan)).to_parquet(
        room.data / "holdout.parquet"
    )
    model(room, 0.001)
    code, found = look(room, monkeypatch)
    assert code == 1
    assert any("holdout: predictions that are no number" in f.reason for f in found.findings)


def relabel(room: GateRoom, name: str) -> None:
    """Declare another label."""
    room.declared = {**room.declared, "label": name}
    room.set(SETTINGS)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda room: (room.build / "importance.json").unlink(), "importance.json is not in"),
        (lambda room: (room.build / "importance.json").write_text('{"sha'), "importance.json"),
        (lambda room: (room.build / "importance.json").write_text("{}"), "importance.json"),
        (lambda room: (room.build / "model" / "model.onnx").write_text("other"), "is of model"),
        (lambda room: (room.build / "model" / "model.onnx").unlink(), "is of model"),
        (lambda room: (room.root / "models" / "toy" / "score.py").unlink(), "score.py"),
        (
            lambda room: frame(1000, 2).assign(departs="noon").to_parquet(room.data / "holdout.parquet"),
            "time",
        ),
        (lambda room: frame(1000, 2).assign(distance="far").to_parquet(room.data / "holdout.parquet"), "far"),
        (lambda room: room.set({**SETTINGS, "predictions": -0.1}), "predictions"),
        (lambda room: room.set({**SETTINGS, "rows": 0}), "rows"),
        (lambda room: relabel(room, "lates"), "the label `lates` is not among what was compared"),
        (lambda room: room.set({**SETTINGS, "label": "late"}), "unknown key `label`"),
        (
            lambda room: room.set(
                {**SETTINGS, "columns": {"late": {"kind": "number", "limit": 1, "length": 1}}}
            ),
            "`length` is a limit of text",
        ),
    ],
)
def test_what_can_not_be_looked_at_is_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, damage: Any, says: str
) -> None:
    """Without importances of this very model, its code, readable values or sound limits nothing passes."""
    damage(room)
    code, found = look(room, monkeypatch)
    assert code == 3
    assert any(says in finding.reason for finding in found.findings if finding.verdict is Verdict.ERROR)


def test_a_feature_of_unknown_importance_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a column may move that evaluation did not measure is not known."""
    monkeypatch.setitem(SHARES, "distance", 0.0)
    monkeypatch.delitem(SHARES, "distance")
    model(room, 0.001)
    code, found = look(room, monkeypatch)
    assert code == 3
    assert [f.name for f in found.findings if f.verdict is Verdict.ERROR] == ["distance"]


def test_few_values_of_one_column_decide_nothing(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is nearly always empty is INCONCLUSIVE, though the sample has rows enough."""
    sparse = frame(1000, 2)
    sparse["carrier"] = sparse["carrier"].where(sparse.index < 50)
    sparse.to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 2
    assert [f.name for f in found.findings if f.verdict is Verdict.INCONCLUSIVE] == ["carrier"]


def test_what_is_not_asked_for_is_told(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the label is ignored and predictions are null, the gate says that it did not look at them."""
    columns = {name: spec for name, spec in SETTINGS["columns"].items() if name != "late"}
    room.set({**SETTINGS, "columns": columns, "ignore": ["date", "late"], "predictions": None})
    measured = {**SHARES, "late": 0.0}
    document = {"artifact": digest_folder(room.build / "model"), "shares": measured}
    (room.build / "importance.json").write_text(json.dumps(document))
    code, found = look(room, monkeypatch)
    assert code == 0
    assert [f.name for f in found.findings if f.verdict is Verdict.NOT_APPLICABLE] == ["label", "predictions"]


@pytest.mark.parametrize(
    ("column", "corrupt"),
    [
        ("distance", lambda f: f["distance"] * 1.609),  # kilometres
        ("carrier", lambda f: "UA"),
        ("departs", lambda f: "06:00"),
    ],
)
def test_one_corrupted_column_fails(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, column: str, corrupt: Any
) -> None:
    """A single column that moved fails by its name; the others, unmoved, do not excuse it."""
    moved = frame(1000, 2)
    moved[column] = corrupt(moved)
    moved.to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 1
    failed = {f.name for f in found.findings if f.verdict is Verdict.FAIL}
    assert failed - {"predictions"} == {column}  # the model looks at the distance, and answers otherwise


def test_few_rows_are_inconclusive(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample below `min_rows` neither passes nor fails, even when it has moved."""
    frame(100, 2).assign(carrier="UA").to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 2
    assert Verdict.FAIL not in {f.verdict for f in found.findings}


def test_no_rows_are_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty split and a missing one could not be looked at."""
    frame(0, 2).to_parquet(room.data / "holdout.parquet")
    assert look(room, monkeypatch)[0] == 3
    (room.data / "holdout.parquet").unlink()
    assert look(room, monkeypatch)[0] == 3


def test_a_column_without_a_limit_fails(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new column must get a limit or be ignored by name; it is not passed over."""
    frame(1000, 2).assign(humid=1.0).to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 1
    assert any("not known: humid" in f.reason for f in found.findings)


def test_the_sample_is_the_same_for_the_same_seed(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs over the same files give the same numbers."""
    first, second = (look(room, monkeypatch)[1].measurements["distances"] for _ in range(2))
    assert first == second


def test_a_column_without_values_is_no_data() -> None:
    """All nulls are not "no drift"."""
    good, empty = frame(400, 1), frame(400, 2).assign(distance=np.nan)
    with pytest.raises(NoData, match="distance"):
        evidently.distances(empty, good, {"distance": "number"})


def test_asking_for_nothing_or_for_a_stranger_is_refused() -> None:
    """No column, or one that the data lacks, can't come out as "no drift"."""
    good = frame(400, 1)
    with pytest.raises(ConfigError):
        evidently.distances(good, good, {})
    with pytest.raises(ConfigError, match="gone"):
        evidently.distances(good, good, {"gone": "number"})


def test_a_distance_is_the_one_of_evidentlys_own_report() -> None:
    """Called without a report around it, a method gives the number that the report shows for it."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    new, old = frame(700, 2).assign(distance=lambda f: f["distance"] + 90), frame(1500, 1)
    kinds: dict[str, evidently.Kind] = {"distance": "number", "carrier": "category"}
    shape = DataDefinition(numerical_columns=["distance"], categorical_columns=["carrier"])
    names = list(kinds)
    report = Report([ValueDrift(column=name, method=evidently.METHODS[kinds[name]]) for name in names])
    shown = report.run(*(Dataset.from_pandas(one[names], data_definition=shape) for one in (new, old))).dict()
    told = {one["config"]["column"]: float(one["value"]) for one in shown["metrics"]}
    assert evidently.distances(new, old, kinds) == pytest.approx(told, abs=1e-8)


_WORDS = ("abcdefgh" * 9 + "xyz" * 7, "abcdexy" * 31)
_DISTANCE = f"""
import pandas as pd
from tidegate.adapters.evidently import distances
new, old = (pd.DataFrame({{"word": list(text)}}) for text in {_WORDS})
print(distances(new, old, {{"word": "category"}})["word"])
"""


def test_every_process_measures_the_same() -> None:
    """The order in which a process keeps text in sets does not reach the last digit of a report."""
    told = subprocess.run(
        [sys.executable, "-c", _DISTANCE],
        env={**os.environ, "PYTHONHASHSEED": "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    new, old = (pd.DataFrame({"word": list(text)}) for text in _WORDS)
    assert evidently.distances(new, old, {"word": "category"})["word"] == float(told)


def test_a_distance_grows_with_the_move_at_any_number_of_rows() -> None:
    """High is drift below 1,000 rows and above: the method, once named, does not turn into a p-value."""
    for rows in (500, 1500):
        reference, near = frame(rows, 1), frame(rows, 2)
        far = near.assign(distance=near["distance"] + 600)
        column = {"distance": "number"}
        close = evidently.distances(near, reference, column)["distance"]  # type: ignore[arg-type]
        wide = evidently.distances(far, reference, column)["distance"]  # type: ignore[arg-type]
        assert close < 0.2
        assert wide == pytest.approx(2.0, abs=0.3)


# ---------------------------------------------------------------- texts, and several classes
TEXT_SETTINGS: dict[str, Any] = {
    **{key: SETTINGS[key] for key in ("rows", "seed", "min_rows", "min_values", "weight")},
    "predictions": 0.3,
    "columns": {
        "note": {"kind": "text", "limit": 0.4, "length": 0.3},
        "mood": {"kind": "category", "limit": 0.15},
    },
}
MOODS = {"task": "classification", "label": "mood", "prediction": ["bad", "so so", "good"]}
# A model of three classes, by how long a note is: `weight` is that of the first, `columns` how many it has.
TEXT_FEATURES = """
import json
import numpy as np

def load(path):
    return json.loads(path.read_text())

def compute_columns(columns, known):
    lengths = np.array([len(str(one)) for one in columns["note"]], dtype=float)[:, None]
    moods = np.concatenate([lengths * known["weight"], lengths * 2, lengths * 3], axis=1)
    return moods[:, : known["columns"]]
"""
WORDS = [
    "cloud",
    "river",
    "stone",
    "maple",
    "harbour",
    "lantern",
    "window",
    "garden",
    "copper",
    "thunder",
    "velvet",
    "orchard",
]


def notes(rows: int, seed: int, words: list[str] = WORDS, size: int = 6) -> pd.DataFrame:
    """Rows of short texts, drawn from some words, and a mood."""
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(words, random.integers(2, size))) for _ in range(rows)]
    return pd.DataFrame({"note": texts, "mood": random.choice(["bad", "so so", "good"], rows)})


@pytest.fixture
def texts(tmp_path: Path) -> GateRoom:
    """A checkout of a model of three classes whose only raw column is free text."""
    made = GateRoom(tmp_path, "drift", TEXT_SETTINGS, MOODS)
    notes(1200, 1).to_parquet(made.data / "train.parquet")
    notes(900, 2).to_parquet(made.data / "holdout.parquet")
    code = made.root / "models" / "toy"
    code.mkdir(parents=True)
    (code / "features.py").write_text(TEXT_FEATURES)
    (code / "score.py").write_text(SCORE)
    moods(made)
    return made


def moods(room: GateRoom, weight: float = 1.0, columns: int = 3) -> None:
    """Put a model in the room, and the importance of its one column."""
    folder = room.build / "model"
    folder.mkdir(exist_ok=True)
    (folder / "features.json").write_text(json.dumps({"weight": weight, "columns": columns}))
    (folder / "model.onnx").write_text("weights")
    document = {"artifact": digest_folder(folder), "shares": {"note": 1.0}}
    (room.build / "importance.json").write_text(json.dumps(document))


def test_texts_of_one_world_pass(texts: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text, its length, the label and each class's probability are compared, and each by its method."""
    code, found = look(texts, monkeypatch)
    assert code == 0, found.as_dict()
    assert list(found.measurements["methods"].items()) == [
        ("note", "abs_text_content_drift"),
        ("note: characters", "wasserstein"),
        ("mood", "jensenshannon"),
        *((f"predictions of {one}", "wasserstein") for one in MOODS["prediction"]),
    ]
    assert look(texts, monkeypatch)[1].measurements == found.measurements


@pytest.mark.parametrize(
    ("moved", "failed"),
    [
        (notes(900, 2, [*WORDS[6:], "glacier", "saffron", "mitten"]), "note"),
        (notes(900, 2, size=12), "note: characters"),
        (notes(900, 2).assign(mood="good"), "mood"),
    ],
    ids=["other words", "longer", "other labels"],
)
def test_texts_that_moved_fail(
    texts: GateRoom, monkeypatch: pytest.MonkeyPatch, moved: pd.DataFrame, failed: str
) -> None:
    """Other words, longer texts and other classes are each told by name."""
    moved.to_parquet(texts.data / "holdout.parquet")
    code, found = look(texts, monkeypatch)
    assert code == 1
    assert failed in {f.name for f in found.findings if f.verdict is Verdict.FAIL}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda room: moods(room, weight=0.0), 1, "train: different predictions of bad 1 < limit 2"),
        (lambda room: moods(room, weight=float("nan")), 1, "holdout: predictions of bad that are no number"),
        (lambda room: moods(room, columns=2), 3, "the model gives 2 numbers a row, and 3 are declared"),
        (lambda room: notes(900, 2).assign(note=7).to_parquet(room.data / "holdout.parquet"), 3, "no text"),
        (lambda room: notes(900, 2).assign(note="!").to_parquet(room.data / "holdout.parquet"), 1, "note"),
        (
            lambda room: notes(900, 2).assign(note=None).to_parquet(room.data / "holdout.parquet"),
            3,
            "no value",
        ),
    ],
)
def test_classes_and_texts_that_can_not_be_compared_never_pass(
    texts: GateRoom, monkeypatch: pytest.MonkeyPatch, change: Any, code: int, says: str
) -> None:
    """One class answered alike for all, NaN, too few classes, numbers for text, no words, no text."""
    change(texts)
    got, found = look(texts, monkeypatch)
    assert got == code
    assert any(says in one.reason for one in found.findings if one.verdict.holds_back)


def test_two_samples_without_a_word_can_not_be_compared() -> None:
    """What a classifier of words can't learn from is no "no drift"."""
    silent = pd.DataFrame({"note": ["!?"] * 50})
    with pytest.raises(NoData, match="can't be compared"):
        evidently.distances(silent, silent, {"note": "text"})
