"""The drift gate on small frames; Evidently is real throughout."""

from __future__ import annotations

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

SETTINGS: dict[str, Any] = {
    "rows": 800,
    "min_rows": 300,
    "ignore": ["date"],
    "columns": {
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
        }
    )


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout whose holdout is of train's world."""
    made = GateRoom(tmp_path, "drift", SETTINGS)
    frame(1500, 1).to_parquet(made.data / "train.parquet")
    frame(1000, 2).to_parquet(made.data / "holdout.parquet")
    return made


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
    assert [f.name for f in found.findings if f.verdict is Verdict.FAIL] == [column]


def test_few_rows_are_inconclusive(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample below `min_rows` neither passes nor fails, even when it has moved."""
    frame(100, 2).assign(carrier="UA").to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch)
    assert code == 2
    assert not {f.verdict for f in found.findings} & {Verdict.PASS, Verdict.FAIL}


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
        evidently.distances(empty, good, {"distance": ("number", 0.1)})


def test_asking_for_nothing_or_for_a_stranger_is_refused() -> None:
    """No column, or one that the data lacks, can't come out as "no drift"."""
    good = frame(400, 1)
    with pytest.raises(ConfigError):
        evidently.distances(good, good, {})
    with pytest.raises(ConfigError, match="gone"):
        evidently.distances(good, good, {"gone": ("number", 0.1)})


def test_a_distance_grows_with_the_move_at_any_number_of_rows() -> None:
    """High is drift below 1,000 rows and above: the method, once named, does not turn into a p-value."""
    for rows in (500, 1500):
        reference, near = frame(rows, 1), frame(rows, 2)
        far = near.assign(distance=near["distance"] + 600)
        column = {"distance": ("number", 0.1)}
        close = evidently.distances(near, reference, column)["distance"]  # type: ignore[arg-type]
        wide = evidently.distances(far, reference, column)["distance"]  # type: ignore[arg-type]
        assert close < 0.2
        assert wide == pytest.approx(2.0, abs=0.3)
