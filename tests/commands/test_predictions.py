"""`tidegate predictions query`, `compact` and `erase`: what they print, ask and refuse."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.planes import write_checkout
from tidegate.adapters.outcomes import SqliteOutcomes, read_outcomes
from tidegate.agent.keeping import keeping
from tidegate.commands import predictions
from tidegate.core.outcomes import Outcome
from tidegate.serving.engine import Call
from tidegate.serving.predictions import PredictionLog


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the commands in a checkout with a log of three predictions."""
    monkeypatch.chdir(write_checkout(tmp_path / "checkout"))
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    note(tmp_path / "home" / "predictions")
    app = typer.Typer()
    predictions.register(app)
    app.command(hidden=True)(lambda: None)
    return lambda *words, text=None: CliRunner().invoke(app, ["predictions", *words], input=text)


def note(folder: Path) -> None:
    """Write down three predictions of a toy."""
    head = {"model": "toy", "release": "abc", "model_version": "1", "plane": "p", "features": ["hour"]}
    log = PredictionLog(folder, head, 10_000_000)
    for name, tail in (("r-1", "N1"), ("r-2", "N1"), ("r-3", "N2")):
        body = json.dumps({"tailnum": tail}).encode()
        log.row(Call(name, 0.0, body), np.array([[17]], np.float32), {"score": 0.5}, "computed", 1.0)
    log.close()


COUNT = (
    "SELECT inputs->>'tailnum' AS tail, count(*) AS n, max(features) AS seen FROM predictions "
    "GROUP BY 1 ORDER BY 1"
)


def test_an_answer_is_a_table_json_or_csv(run: Any) -> None:
    """The same rows in each form; structs and dates are written as JSON writes them."""
    assert [word in run("query", COUNT).stdout for word in ("tail", "N1", "N2", "hour")] == [True] * 4
    found = json.loads(run("query", COUNT, "--json").stdout)
    rows = [{"tail": "N1", "n": 2, "seen": {"hour": 17.0}}, {"tail": "N2", "n": 1, "seen": {"hour": 17.0}}]
    assert found == {"rows": rows, "more": False}
    lines = list(csv.reader(io.StringIO(run("query", COUNT, "--csv").stdout)))
    assert lines == [["tail", "n", "seen"], ["N1", "2", '{"hour": 17.0}'], ["N2", "1", '{"hour": 17.0}']]
    day = json.loads(run("query", "SELECT DATE '2024-01-02' AS day", "--json").stdout)
    assert day["rows"] == [{"day": "2024-01-02"}]


def test_more_rows_than_are_shown_are_told(run: Any) -> None:
    """Nobody takes a part for the whole."""
    result = run("query", "SELECT request_id FROM predictions", "--rows", "2", "--json")
    assert json.loads(result.stdout)["more"] is True
    assert "--rows" in result.stderr


def test_two_forms_at_once_and_wrong_sql_are_refused(run: Any) -> None:
    """The error says what to do; a wrong column is answered with those there are."""
    assert "Choose one" in str(run("query", "SELECT 1", "--json", "--csv").exception)
    assert "features.hour" in str(run("query", "SELECT hour FROM predictions").exception)
    assert "only read" in str(run("query", "DROP TABLE predictions").exception)


def test_compact_makes_parquet(run: Any, tmp_path: Path) -> None:
    """What was written becomes a file for any reader of Parquet, once."""
    found = json.loads(run("compact", "--json").stdout)
    assert (found["converted"], found["segments"], found["damaged"]) == (3, 1, [])
    assert len(list((tmp_path / "home" / "predictions").glob("model=toy/day=*/*.parquet"))) == 1
    assert "0 predictions of 0 segments" in run("compact").stdout


def test_erase_asks_first(run: Any) -> None:
    """Nothing goes without a yes, by word or by option."""
    subject = ("erase", "toy", "--key", "tailnum", "--value", "N1")
    refused = run(*subject, text="n\n")
    assert refused.exit_code == 1
    assert "2 predictions of toy where tailnum is N1" in refused.stderr
    dry = json.loads(run(*subject, "--dry-run", "--json").stdout)
    assert dry == {"predictions": 2, "files": 1, "outcomes": 0, "dry_run": True}
    still = json.loads(run("query", "SELECT count(*) AS n FROM predictions", "--json").stdout)
    assert still["rows"] == [{"n": 3}]
    assert run(*subject, text="y\n").stdout.endswith("2 predictions erased from 1 files\n")
    assert run(*subject, "--yes").exit_code == 0
    left = json.loads(run("query", "SELECT request_id FROM predictions", "--json").stdout)["rows"]
    assert left == [{"request_id": "r-3"}]


def test_outcomes_of_the_erased_go_with_them(run: Any, tmp_path: Path) -> None:
    """What came of a subject's requests is erased, and nobody else's; it is said how many went."""
    file = tmp_path / "home" / "outcomes.db"
    with closing(SqliteOutcomes(file)) as store:
        store.record([Outcome(request, "late", 1) for request in ("r-1", "r-2", "r-3")])
    run("erase", "toy", "--key", "tailnum", "--value", "N1", "--dry-run")
    assert len(read_outcomes(file)) == 3
    found = json.loads(run("erase", "toy", "--key", "tailnum", "--value", "N1", "--yes", "--json").stdout)
    assert found == {"predictions": 2, "files": 1, "outcomes": 2, "dry_run": False}
    assert [outcome.id for outcome in read_outcomes(file)] == ["r-3"]


def test_an_agent_forgets_outcomes_with_predictions(tmp_path: Path) -> None:
    """An outcome as old as what is forgotten of the log goes, without any experiment; a younger one stays."""
    folder, file, days = tmp_path / "predictions", tmp_path / "outcomes.db", 90 * 86400
    note(folder)
    for name, ago in (("old", days + 60), ("young", days - 60)):
        at = time.time() - ago
        with closing(SqliteOutcomes(file, lambda at=at: at)) as store:  # type: ignore[misc]
            store.record([Outcome(name, "late", 1)])
    keeping(folder, 0.0, 90.0, file)(1000.0)
    assert [outcome.id for outcome in read_outcomes(file)] == ["young"]


def test_what_can_not_be_read_wakes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that was set aside is no work that waits: no process is started each minute for it."""
    folder, started = tmp_path / "predictions", list[Any]()
    note(folder)
    keep = keeping(folder, 0.0, 90.0)
    keep(1000.0)
    (folder / "segments" / "toy" / "0-1-a.damaged").write_bytes(b"?")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: started.append(words))
    keep(1060.0)
    assert not started


def test_an_agent_converts_by_a_process_of_its_own(tmp_path: Path) -> None:
    """Segments become Parquet; where nothing waits nothing is started, nor where no log is."""
    keeping(tmp_path / "none", 0.0, 90.0)(0.0)
    folder = tmp_path / "predictions"
    note(folder)
    keep = keeping(folder, 0.0, 90.0)
    keep(1000.0)
    (made,) = folder.glob("model=toy/day=*/*.parquet")
    made.unlink()
    keep(1060.0)
    assert not list(folder.glob("segments/*/*"))
    assert not (tmp_path / "none").exists()
