"""`tidegate predictions show`: one prediction's whole story, from files alone, and what can't be told."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner

from models.flight_delay import features, train
from models.flight_delay.score import score, session
from tests.builders import flight_row, tiny_model
from tests.planes import write_checkout
from tidegate import bentos
from tidegate.adapters.lightgbm import TREES
from tidegate.adapters.outcomes import SqliteOutcomes
from tidegate.adapters.sqlite import SqliteState
from tidegate.commands import outcomes, prediction_show
from tidegate.core.outcomes import Outcome
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.errors import NoData
from tidegate.files import digest_folder
from tidegate.ports import Event
from tidegate.serving.engine import Call
from tidegate.serving.predictions import PredictionLog

MODEL, PLANE, WIDTH = "flight-delay", "production", len(features.FEATURES)
OTHER = "0" * 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's files with its trees."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    folder.mkdir()
    random = np.random.default_rng(3)
    matrix = random.normal(size=(400, WIDTH)).astype(np.float32)
    late = (matrix[:, 1] > 0.5).astype(np.int8)
    parameters = {"rounds": 10, "hide": 0.02, "seed": 7, "lightgbm": {"num_leaves": 7}}
    trees = train.in_float32(train.fit(matrix, late, parameters)[0])
    train.export(trees, folder / "model.onnx")
    (folder / TREES).write_text(train.as_text(trees))
    return folder


@dataclass
class Home:
    """A checkout and its home: one release, its Bento, and a log that predictions are written to."""

    root: Path
    model: Path
    record: ReleaseRecord

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def bento(self) -> Path:
        return bentos.bento_path(self.home / "bentoml", self.record.bento.tag)

    def answered(self, request: str, row: np.ndarray, **said: Any) -> float:
        """Log one prediction as the service does; returns the probability."""
        probability = float(score(session(self.model / "model.onnx"), row[None])[0])
        call = Call(request, 0.0, raw=msgspec.json.encode(flight_row()), arm=said.get("arm", ""))
        log = self.log()
        answer = {"probability": said.get("probability", probability), "late": probability > 0.5}
        log.row(call, row[None], answer, "computed", 1.25)
        log.close()
        return probability

    def log(self, release: str = "") -> PredictionLog:
        head = {"model": MODEL, "release": release or self.record.id, "model_version": "3", "plane": PLANE}
        return PredictionLog(self.home / "predictions", head | {"features": list(features.FEATURES)}, 10**7)

    def happened(self, *events: tuple[float, str, str, str, dict[str, Any]]) -> None:
        """Store events: at, release, kind, text, data."""
        state = SqliteState(self.home / "state.db")
        fence = state.acquire(PLANE, "test", 0.0, 10.0)
        told = [Event(at, PLANE, MODEL, release, *rest) for at, release, *rest in events]
        state.save(PLANE, {}, told, fence)
        state.close()


def make(root: Path, model: Path) -> Home:
    """Write the checkout, the record, and a Bento of the model's files."""
    write_checkout(root / "checkout")
    tag = "flight_delay:3-abc"
    source = bentos.bento_path(root / "home" / "bentoml", tag) / bentos.SOURCE
    (source / bentos.MODEL).mkdir(parents=True)
    for file in model.iterdir():
        (source / bentos.MODEL / file.name).write_bytes(file.read_bytes())
    (source.parent / bentos.DESCRIPTION).write_text("name: flight_delay\ncreation_time: now\n")
    bento = BentoRef(tag, bentos.bento_digest(source.parent))
    reference = RegistryRef(MODEL, 3)
    record = ReleaseRecord(MODEL, "c" * 40, "sha256:p", reference, digest_folder(model), bento, {})
    releases = root / "checkout" / "envs" / "releases" / MODEL
    releases.mkdir(parents=True)
    (releases / f"{record.id}.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(record)))
    return Home(root, model, record)


@pytest.fixture
def show(tmp_path, monkeypatch):
    """Call the command in the test's checkout."""
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command("show")(prediction_show.show)

    def call(*words: str) -> Any:
        monkeypatch.chdir(tmp_path / "checkout")
        return CliRunner().invoke(app, ["show", *words])

    return call


@pytest.fixture
def home(tmp_path, trained):
    return make(tmp_path, trained)


@pytest.fixture
def row() -> np.ndarray:
    """A row of features, one of them missing."""
    values = np.random.default_rng(9).normal(size=WIDTH).astype(np.float32)
    values[features.FEATURES.index("plane_age")] = np.nan
    return values


def told(result: Any) -> dict[str, Any]:
    """The only story of a result as JSON."""
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    return dict(found)


# ---------------------------------------------------------------- the story
def test_one_prediction_is_told_whole(home, show, row):
    """Who, when, of what it was made, what was asked, seen and answered: all as it was written down."""
    probability = home.answered("r1", row, arm="canary")
    found = told(show("r1", "--json"))
    assert (found["model"], found["release"], found["plane"], found["arm"]) == (
        MODEL,
        home.record.id,
        PLANE,
        "canary",
    )
    assert found["made_of"] == {
        "commit": "c" * 40,
        "mlflow": {"name": MODEL, "version": 3},
        "artifact": home.record.artifact,
        "bento": home.record.bento.tag,
    }
    assert found["inputs"] == flight_row()
    assert found["prediction"]["probability"] == pytest.approx(probability)
    assert found["features"]["hour"] == pytest.approx(float(row[features.FEATURES.index("hour")]))
    assert found["missing"] == ["plane_age"]
    assert (found["latency_ms"], found["source"], found["protocol"]) == (1.25, "computed", "rest")


def test_contributions_add_up_to_the_answer(home, show, row):
    """Base plus what each feature added are the log-odds of what was answered; the largest comes first."""
    probability = home.answered("r1", row)
    found = told(show("r1", "--json"))["contributions"]
    assert (found["of"], found["unit"], found["method"]) == ("probability", "log-odds", "TreeSHAP, exact")
    total = found["base"] + sum(share["value"] for share in found["shares"])
    assert found["total"] == pytest.approx(total)
    assert 1 / (1 + math.exp(-total)) == pytest.approx(probability, abs=1e-6)
    sizes = [abs(share["value"]) for share in found["shares"]]
    assert sizes == sorted(sizes, reverse=True)
    assert {share["feature"] for share in found["shares"]} == set(features.FEATURES)


def test_a_person_reads_the_same(home, show, row):
    """The page for people names the answer, the release, missing features, and what made the answer."""
    home.answered("r1", row)
    store = SqliteOutcomes(home.home / "outcomes.db")
    store.record([Outcome("r1", "late", 1)])
    store.close()
    result = show("r1")
    assert result.exit_code == 0, result.output
    for text in (
        "r1  probability 0.",
        home.record.id,
        "cccccccc",
        "version 3",
        "late = 1",
        "TreeSHAP, exact",
    ):
        assert text in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.strip().startswith("plane_age")]
    assert "missing" in line


def test_outcomes_that_came_since_are_told(home, show, row):
    """Each outcome of the request, with its value and when; those of other requests are not."""
    home.answered("r1", row)
    store = SqliteOutcomes(home.home / "outcomes.db")
    store.record([Outcome("r1", "late", 1), Outcome("r1", "minutes", 17.5), Outcome("r2", "late", 0)])
    store.close()
    came = told(show("r1", "--json"))["outcomes"]
    assert [(outcome["name"], outcome["value"]) for outcome in came] == [("late", 1.0), ("minutes", 17.5)]


def test_the_rollout_at_that_moment_is_told(home, show, row):
    """The last event before it says what the release was then; what happened to it later is told, too."""
    release = home.record.id
    about = {"environment": "canary", "stable": OTHER}
    home.happened(
        (1.0, OTHER, "healthy", "the other is healthy", {"environment": "production", "stable": OTHER}),
        (2.0, release, "weight", "weight 5", about),
        (4e9, release, "breach", "error rate 23%", about),
        (4e9 + 1, release, "rolled-back", "rolled back", about),
        (4e9 + 2, OTHER, "weight", "of another release", {"environment": "canary", "stable": OTHER}),
    )
    home.answered("r1", row)
    rollout = told(show("r1", "--json"))["rollout"]
    assert (rollout["environment"], rollout["role"]) == ("canary", "candidate")
    assert rollout["before"]["text"] == "weight 5"
    assert [event["kind"] for event in rollout["after"]] == ["breach", "rolled-back"]


def test_a_stable_release_is_told_as_one(home, show, row):
    """While another release is rolled out, the one that it would replace is the stable one."""
    about = {"environment": "canary", "stable": home.record.id}
    home.happened((2.0, OTHER, "weight", "weight 5", about))
    home.answered("r1", row)
    rollout = told(show("r1", "--json"))["rollout"]
    assert (rollout["role"], rollout["after"]) == ("stable", [])


def test_without_events_no_state_is_claimed(home, show, row):
    """Where no event tells, role and environment are null."""
    home.answered("r1", row)
    rollout = told(show("r1", "--json"))["rollout"]
    assert rollout == {"environment": None, "role": None, "before": None, "after": []}


def test_many_rows_of_one_request_are_told_one_by_one(home, show):
    """A request of many rows has a story for each, ten at once; one row is named by its number."""
    matrix = np.random.default_rng(1).normal(size=(12, WIDTH)).astype(np.float32)
    probability = score(session(home.model / "model.onnx"), matrix)
    log = home.log()
    log.rows(
        Call("many", 0.0, protocol="v2"), {"hour": matrix[:, 1]}, matrix, {"probability": probability}, 2.0
    )
    log.close()
    result = show("many", "--json", "--no-explain")
    assert [each["request_id"] for each in json.loads(result.stdout)] == [f"many/{n}" for n in range(10)]
    assert "2 more" in result.stderr
    found = told(show("many/11", "--json"))
    assert found["request_id"] == "many/11"
    assert found["contributions"]["total"] == pytest.approx(
        math.log(probability[11] / (1 - probability[11])), abs=1e-4
    )


def test_a_model_without_trees_is_explained_by_asking(tmp_path, show):
    """With nothing but ONNX the shares are sampled against other predictions, with their errors."""
    home = make(tmp_path, tiny_model(tmp_path / "model"))
    matrix = np.random.default_rng(1).integers(0, 24, size=(25, WIDTH)).astype(np.float32)
    for number, each in enumerate(matrix):
        home.answered(f"r{number}", each)
    found = told(show("r0", "--json"))["contributions"]
    assert "24 other predictions" in found["method"]
    assert found["total"] == pytest.approx(0.3 + 0.001 * float(matrix[0, 1]), abs=1e-5)
    assert found["shares"][0]["feature"] == "hour"
    assert found["shares"][0]["error"] is not None


# ---------------------------------------------------------------- outcomes, beside the log
def test_an_outcome_of_a_request_that_the_log_does_not_have_is_unknown(home, show, row, tmp_path):
    """The log knows whom it answered, rows of a request by their number as well; others are told and kept."""
    home.answered("r1", row)
    file = tmp_path / "said.csv"
    file.write_text("id,name,value\nr1,late,1\nnever,late,0\n")
    show("r1")  # goes to the checkout
    app = typer.Typer()
    app.callback()(lambda: None)
    outcomes.register(app)
    result = CliRunner().invoke(app, ["outcome", "--file", str(file), "--json"])
    said = json.loads(result.stdout)
    assert (said["new"], said["unknown"], said["late"]["count"]) == (2, {"count": 1, "first": ["never"]}, 0)


# ---------------------------------------------------------------- what can't be told
def test_an_unknown_request_is_an_error_with_the_next_action(home, show, row):
    """An id that was never answered here says so, and how to find one that was."""
    home.answered("r1", row)
    result = show("never")
    assert isinstance(result.exception, NoData)
    assert "no prediction is logged for request `never`" in str(result.exception)
    assert "tidegate predictions query" in result.exception.action


def test_without_a_log_the_error_is_the_same(home, show):
    """On a machine where nothing was ever logged nothing is found, as where others were."""
    result = show("r1")
    assert isinstance(result.exception, NoData)
    assert "no prediction is logged" in str(result.exception)


def test_a_bento_that_is_another_explains_nothing(home, show, row):
    """If the Bento was changed since, the story is told, but no contributions: they would be another's."""
    home.answered("r1", row)
    trees = home.bento / bentos.SOURCE / bentos.MODEL / TREES
    trees.write_text(trees.read_text() + "\n")
    found = told(show("r1", "--json"))
    assert found["contributions"] is None
    assert found["made_of"]["commit"] == "c" * 40
    assert "is not the one of release" in found["notes"][0]


def test_a_release_without_a_record_is_said(home, show, row):
    """The prediction is told all the same; the note says what to fetch."""
    log = home.log(OTHER)
    log.row(Call("r9", 0.0), row[None], {"probability": 0.5}, "computed", 1.0)
    log.close()
    found = told(show("r9", "--json"))
    assert (found["release"], found["made_of"], found["contributions"]) == (OTHER, None, None)
    assert "git pull" in found["notes"][0]


def test_an_answer_that_the_model_does_not_give_is_not_explained(home, show, row):
    """If the service answered something else than its model says, contributions are refused, and why."""
    home.answered("r1", row, probability=0.987654)
    found = told(show("r1", "--json"))
    assert found["contributions"] is None
    assert "none of the answer's numbers" in found["notes"][0]


def test_explaining_can_be_left_out(home, show, row):
    """--no-explain neither looks for the Bento nor loads anything to explain with."""
    home.answered("r1", row)
    (home.bento / bentos.DESCRIPTION).unlink()
    found = told(show("r1", "--json", "--no-explain"))
    assert (found["contributions"], found["notes"]) == (None, [])
