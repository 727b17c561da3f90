"""The quality gate: limits, and the comparison with what is in production."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml

from gates import quality
from tests.builders import GateRoom, tiny_model
from tidegate import config, report, testing, wiring
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.core.verdict import Verdict
from tidegate.files import digest_folder
from tidegate.ports import Registry

SETTINGS: dict[str, Any] = {
    "min_rows": 200,
    "confidence": 0.95,
    "threshold": 0.5,
    "limits": {"auc": 0.65, "log_loss": 0.6, "calibration_error": 0.1},
    "margins": {"auc": 0.02, "log_loss": 0.02, "calibration_error": 0.05},
}
EASY = {"auc": 0.0, "log_loss": 9.0, "calibration_error": 1.0}
PRODUCTION_SAYS = 0.3  # of every flight at midnight


def flights(rows: int, seed: int = 1) -> pd.DataFrame:
    """A holdout of flight-delay's columns, three in ten late."""
    random = np.random.default_rng(seed)
    plain = {
        "date": "2013-05-01",
        "carrier": "UA",
        "flight": 1,
        "tailnum": "N1",
        "origin": "EWR",
        "dest": "IAH",
    }
    known = dict.fromkeys(["plane_year", "plane_seats"], 100.0)
    weather = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    return pd.DataFrame(
        {
            **plain,
            "sched_dep_time": [f"{hour:02d}:00" for hour in random.integers(5, 23, rows)],
            "distance": 1400,
            **known,
            **{f"weather_{name}": 1.0 for name in weather},
            **dict.fromkeys(["recent_carrier_late", "recent_route_late", "recent_plane_late"], 0.25),
            "late": (random.random(rows) < 0.3).astype("int8"),
        }
    )


def predict(labels: Any, signal: float) -> np.ndarray:
    """Return calibrated probabilities that know as much of the labels as `signal` says."""
    random = np.random.default_rng(9)
    evidence = np.asarray(labels) * signal + random.normal(size=len(labels))
    odds = 0.3 / 0.7 * np.exp(signal * evidence - signal * signal / 2)
    result: np.ndarray = odds / (1 + odds)
    return result


def checkout(root: Path, gate: str, settings: dict[str, Any]) -> GateRoom:
    """Make a checkout with the model `toy`, and nothing in production."""
    made = GateRoom(root, gate, settings)
    for name in config.ENVIRONMENTS:
        folder = root / "envs" / name
        folder.mkdir(parents=True)
        (folder / "release.yaml").write_text("models: {}\n")
        (folder / "platform.yaml").write_text("{}\n")
    package = root / "models" / "toy"
    package.mkdir(parents=True)
    ours = Path(__file__).parents[2] / "models" / "flight_delay"
    for name in ("features.py", "score.py"):
        (package / name).write_text((ours / name).read_text())
    git(made, "init", "-q")
    git(made, "add", "models", "params.yaml")
    git(made, "commit", "-qm", "Features as production knows them")
    evaluated(made, tiny_model(made.build / "model", late=0.2))
    return made


def evaluated(room: GateRoom, model: Path) -> None:
    """Write what evaluation writes beside the predictions: whose they are."""
    known = {"artifact": digest_folder(model), "shares": {}}
    (room.build / "importance.json").write_text(json.dumps(known))


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with a good candidate of the model `toy`, and nothing in production."""
    made = checkout(tmp_path, "quality", SETTINGS)
    candidate(made, 1.2)
    return made


def git(room: GateRoom, *arguments: str) -> str:
    """Run git in the checkout as somebody."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(room.root), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def candidate(room: GateRoom, signal: float, rows: int = 3000) -> None:
    """Write a holdout and the candidate's predictions of it."""
    frame = flights(rows)
    frame.to_parquet(room.data / "holdout.parquet")
    made = pd.DataFrame({"late": frame["late"], "probability": predict(frame["late"], signal)})
    made.to_parquet(room.build / "predictions.parquet")


def put_in_production(
    room: GateRoom, registry: Registry, artifact: str = "", commit: str = ""
) -> ReleaseRecord:
    """Register a model, write its record and name it in production's release.yaml."""
    folder = tiny_model(room.root / "old", late=PRODUCTION_SAYS)
    digest = artifact or digest_folder(folder)
    version = registry.register("toy", folder, {"digest": digest})
    ref, bento = RegistryRef("toy", version), BentoRef("toy:1", "sha256:b")
    commit = commit or git(room, "rev-parse", "HEAD")
    record = ReleaseRecord("toy", commit, "sha256:p", ref, digest, bento, {"data": "PASS"})
    path = room.root / "envs" / "releases" / "toy" / f"{record.id}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in msgspec.to_builtins(record).items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    name_in_production(room, record.id)
    return record


def name_in_production(room: GateRoom, release: str) -> None:
    """Write production's release.yaml."""
    (room.root / "envs/production/release.yaml").write_text(f'models: {{toy: "{release}"}}\n')


def look(room: GateRoom, monkeypatch: pytest.MonkeyPatch, registry: Any = None) -> tuple[int, report.Report]:
    """Run the gate in this process with a registry of our own."""
    monkeypatch.chdir(room.root)
    monkeypatch.setattr(wiring, "registry", lambda *_: registry)
    code = quality.GATE.main(["toy"])
    return code, report.read_report(room.build / "gates" / "quality.json")


def test_a_first_release_passes_and_says_that_nothing_was_compared(room: GateRoom) -> None:
    """The real script exits 0 without production, and the report states that there was none."""
    code, found = room.run()
    assert code == 0
    stated = next(f for f in found.findings if f.name == "against production")
    assert "nothing to compare with" in stated.reason
    assert found.measurements["production"] is None


def test_it_compares_with_what_the_registry_holds_as_a_process(room: GateRoom) -> None:
    """The real script fetches production's version from MLflow, scores it, and reports both numbers."""
    where = config.Home(room.root / ".tidegate")
    record = put_in_production(room, wiring.registry(wiring.platform(room.root, "production"), where))
    code, found = room.run()
    assert code == 0
    theirs = found.measurements["production"]
    assert theirs["release"] == record.id
    assert theirs["auc"] == pytest.approx(0.5, abs=0.05)  # it knows the hour, which says nothing here
    assert found.measurements["candidate"]["auc"] > 0.7
    assert {"auc against production", "log_loss against production"} <= {f.name for f in found.findings}


@pytest.mark.parametrize(("signal", "what"), [(0.2, "auc"), (0.0, "auc")])
def test_a_candidate_below_its_limits_fails(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, signal: float, what: str
) -> None:
    """Limits hold without production, too."""
    candidate(room, signal)
    code, found = look(room, monkeypatch)
    assert code == 1
    assert what in {f.name for f in found.findings if f.verdict is Verdict.FAIL}


def test_a_candidate_worse_than_production_fails(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its own limits but beyond the margin below production: FAIL."""
    room.set({**SETTINGS, "limits": EASY})
    labels = pd.read_parquet(room.data / "holdout.parquet")["late"]
    worse = pd.DataFrame({"late": labels, "probability": 1 - predict(labels, 1.2)})
    worse.to_parquet(room.build / "predictions.parquet")
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    code, found = look(room, monkeypatch, registry)
    assert code == 1
    failed = {f.name for f in found.findings if f.verdict is Verdict.FAIL}
    assert failed >= {"auc against production", "log_loss against production"}


def test_a_difference_that_is_not_sure_is_inconclusive(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As good as production on few rows: the interval reaches past a margin this small."""
    room.set({**SETTINGS, "limits": EASY, "min_rows": 100})
    candidate(room, 0.05, rows=300)
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    code, found = look(room, monkeypatch, registry)
    assert code == 2
    assert (
        next(f for f in found.findings if f.name == "auc against production").verdict is Verdict.INCONCLUSIVE
    )


def test_the_same_model_files_need_no_registry(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that changes only the service is told by digest: not applicable, and nothing is fetched."""
    put_in_production(room, testing.FakeRegistry(), digest_folder(room.build / "model"))
    code, found = look(room, monkeypatch, registry=None)
    assert code == 0
    stated = next(f for f in found.findings if f.name == "against production")
    assert stated.verdict is Verdict.NOT_APPLICABLE
    assert "only code around it" in stated.reason
    assert not found.comparisons


def test_a_candidate_that_is_its_own_champion_is_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files, but the same prediction on each row: somebody compared the challenger with itself."""
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    holdout = pd.read_parquet(room.data / "holdout.parquet")
    hours = holdout["sched_dep_time"].str[:2].astype(int)
    own = pd.DataFrame({"late": holdout["late"], "probability": PRODUCTION_SAYS + hours * 0.001})
    own.to_parquet(room.build / "predictions.parquet")
    room.set({**SETTINGS, "limits": EASY})
    code, found = look(room, monkeypatch, registry)
    assert code == 3
    stated = next(f for f in found.findings if f.name == "against production")
    assert "compared with itself" in stated.reason


def test_a_version_that_the_registry_lacks_is_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Production's release names a version that nobody has: nothing was compared, so nothing passed."""
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    code, _ = look(room, monkeypatch, testing.FakeRegistry())
    assert code == 3


def test_files_that_are_not_the_records_are_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose files have another digest than the record must not be the baseline."""
    registry = testing.FakeRegistry()
    put_in_production(room, registry, artifact="sha256:" + "1" * 64)
    code, found = look(room, monkeypatch, registry)
    assert code == 3
    assert "has the digest" in found.findings[0].reason


def test_production_is_scored_by_its_own_commits_features(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate that changes features.py does not change how production's model is fed."""
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    path = room.root / "models/toy/features.py"
    path.write_text(path.read_text().replace('"weekday", "hour"', '"hour", "weekday"'))
    code, found = look(room, monkeypatch, registry)
    assert code == 0
    assert found.measurements["production"]["features_of"].startswith("commit ")


@pytest.mark.parametrize("same_files", [False, True])
def test_a_clone_without_productions_commit_is_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, same_files: bool
) -> None:
    """What features production has is not guessed from this checkout: ERROR, and how to get the history."""
    registry = testing.FakeRegistry()
    artifact = digest_folder(room.build / "model") if same_files else ""
    put_in_production(room, registry, artifact, commit="0" * 40)
    code, found = look(room, monkeypatch, registry)
    assert code == 3
    assert "--unshallow" in found.findings[0].reason
    assert "fetch-depth: 0" in found.findings[0].reason


def test_the_same_files_with_other_features_are_scored_apart(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal model files say nothing about a candidate that changed features.py."""
    registry = testing.FakeRegistry()
    shutil.rmtree(room.build / "model")
    folder = tiny_model(room.build / "model", late=PRODUCTION_SAYS)
    evaluated(room, folder)
    put_in_production(room, registry, digest_folder(folder))
    path = room.root / "models/toy/features.py"
    path.write_text(path.read_text() + "\n# another way\n")
    _, found = look(room, monkeypatch, registry)
    theirs = found.measurements["production"]
    assert theirs["features_of"].startswith("commit ")
    assert theirs["auc"] != found.measurements["candidate"]["auc"]


def test_a_release_without_its_record_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Production names a release that is not there: that is not "nothing in production"."""
    name_in_production(room, "0123456789ab")
    code, found = look(room, monkeypatch)
    assert code == 3
    assert "0123456789ab.yaml" in found.findings[0].reason


def test_predictions_of_other_rows_are_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale predictions are not compared with production's on fresh rows."""
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    flights(3000, seed=2).to_parquet(room.data / "holdout.parquet")
    code, found = look(room, monkeypatch, registry)
    assert code == 3
    assert "not of the rows" in found.findings[0].reason


@pytest.mark.parametrize(("rows", "code"), [(0, 3), (50, 2)])
def test_few_rows_are_inconclusive_and_none_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, rows: int, code: int
) -> None:
    """Below `min_rows` nothing is decided."""
    candidate(room, 1.2, rows=rows)
    assert look(room, monkeypatch)[0] == code


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"limits": {}}, "no metric has a limit"),
        ({"limits": {"acu": 0.6}}, "did you mean `auc`"),
        ({"limits": {"auc": "high"}}, "must be a number"),
        ({"margins": {"auc": -0.01}}, "not a number from 0"),
        ({"margins": {"log_los": 0.01}}, "did you mean `log_loss`"),
        ({"auc": 0.7}, "unknown key `auc`"),
        ({"confidence": 1.0}, "a confidence of 1.0"),
    ],
)
def test_settings_that_decide_nothing_are_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, over: dict[str, Any], told: str
) -> None:
    """No limit, an unknown metric, a number that is none, a negative margin: exit 3, and what is wrong."""
    room.set({**SETTINGS, **over})
    code, found = look(room, monkeypatch)
    assert code == 3
    assert told in json.dumps(found.as_dict())


def test_no_margin_is_no_comparison(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release in production and no margin to compare it by: ERROR, since PASS would say that it was."""
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    room.set({**SETTINGS, "margins": {}})
    assert look(room, monkeypatch, registry)[0] == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.2, 1.3])
def test_one_bad_probability_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    """One row that got no probability makes every metric unknown."""
    frame = pd.read_parquet(room.build / "predictions.parquet")
    frame.loc[3, "probability"] = bad
    frame.to_parquet(room.build / "predictions.parquet")
    code, found = look(room, monkeypatch)
    assert code == 3
    assert "1 of 3,000 probabilities" in found.findings[0].reason


@pytest.mark.parametrize("spoil", ["cut", "drop", "text", "labels"])
def test_predictions_that_can_not_be_read_are_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    """Half a file, a missing column, texts for numbers, labels of three classes: one line and exit 3."""
    path = room.build / "predictions.parquet"
    frame = pd.read_parquet(path)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif spoil == "drop":
        frame.drop(columns="probability").to_parquet(path)
    elif spoil == "text":
        frame.assign(probability="high").to_parquet(path)
    else:
        frame.assign(late=[2, *frame["late"][1:]]).to_parquet(path)
    code, found = look(room, monkeypatch)
    assert code == 3
    assert "predictions.parquet" in found.findings[0].reason


def test_too_few_rows_to_tell_are_counted(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """An undecided comparison says how many more rows it would take."""
    room.set({**SETTINGS, "limits": EASY, "min_rows": 100, "margins": {"auc": 0.02}})
    candidate(room, 0.05, rows=300)
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    code, found = look(room, monkeypatch, registry)
    assert code == 2
    assert "more rows (now 300) would tell" in found.findings[-1].reason


def test_what_a_person_looks_at_is_small_and_of_both(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """ROC, calibration and distribution of candidate and production, at most 40 points a series."""
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    _, found = look(room, monkeypatch, registry)
    assert [chart.kind for chart in found.charts] == ["line", "line", "bar"]
    for chart in found.charts:
        assert {"candidate", "production"} <= {series.name for series in chart.series}
        assert all(len(series.x) == len(series.y) <= 40 for series in chart.series)
    assert {shown.name for shown in found.comparisons} == {
        f"{name} against production" for name in ("auc", "log_loss", "calibration_error")
    }


def test_predictions_of_another_model_are_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was trained anew and not evaluated is not judged by what the one before predicted."""
    (room.build / "model" / "note.txt").write_text("trained again")
    code, found = look(room, monkeypatch, testing.FakeRegistry())
    assert code == 3
    assert "what was evaluated is another model" in found.findings[0].reason
