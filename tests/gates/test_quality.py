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
    "label": "late",
    "min_rows": 200,
    "auc": 0.65,
    "log_loss": 0.6,
    "calibration_error": 0.1,
    "margins": {"auc": 0.02, "log_loss": 0.02, "calibration_error": 0.05},
}
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


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with a good candidate of the model `toy`, and nothing in production."""
    made = GateRoom(tmp_path, "quality", SETTINGS)
    for name in config.ENVIRONMENTS:
        folder = tmp_path / "envs" / name
        folder.mkdir(parents=True)
        (folder / "release.yaml").write_text("models: {}\n")
        (folder / "platform.yaml").write_text("{}\n")
    package = tmp_path / "models" / "toy"
    package.mkdir(parents=True)
    ours = Path(__file__).parents[2] / "models" / "flight_delay" / "features.py"
    (package / "features.py").write_text(ours.read_text())
    git(made, "init", "-q")
    git(made, "add", "models")
    git(made, "commit", "-qm", "Features as production knows them")
    tiny_model(made.build / "model", late=0.2)
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
    room.set({**SETTINGS, "auc": 0.0, "log_loss": 9.0, "calibration_error": 1.0})
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
    room.set({**SETTINGS, "auc": 0.0, "log_loss": 9.0, "calibration_error": 1.0, "min_rows": 100})
    candidate(room, 0.05, rows=300)
    registry = testing.FakeRegistry()
    put_in_production(room, registry)
    code, found = look(room, monkeypatch, registry)
    assert code == 2
    assert (
        next(f for f in found.findings if f.name == "auc against production").verdict is Verdict.INCONCLUSIVE
    )


def test_the_same_model_files_need_no_registry(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that changes only the service is compared by digest: no difference, nothing fetched."""
    put_in_production(room, testing.FakeRegistry(), digest_folder(room.build / "model"))
    code, found = look(room, monkeypatch, registry=None)
    assert code == 0
    assert found.measurements["production"]["auc"] == found.measurements["candidate"]["auc"]


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


def test_a_limit_that_is_not_set_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without an AUC limit has not passed one."""
    room.set({name: value for name, value in SETTINGS.items() if name != "auc"})
    code, found = look(room, monkeypatch)
    assert code == 3
    assert "auc: the limit is no number" in json.dumps(found.as_dict())


def test_a_nan_prediction_is_an_error(room: GateRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """One NaN among the predictions makes every metric unknown."""
    frame = pd.read_parquet(room.build / "predictions.parquet")
    frame.loc[3, "probability"] = np.nan
    frame.to_parquet(room.build / "predictions.parquet")
    assert look(room, monkeypatch)[0] == 3
