"""Evaluation and the gates that score predictions, of a model of each task, by its declaration alone."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import yaml

from gates import quality, slices
from models import evaluate
from models.layout import Layout
from tests.builders import GateRoom
from tidegate import config, report, testing, wiring
from tidegate.core.release import BentoRef, RegistryRef, ReleaseRecord
from tidegate.core.verdict import Verdict
from tidegate.errors import Fatal
from tidegate.files import digest_folder

ROWS = 3000
FEATURES = """
import numpy as np
COLUMNS = ("x", "said", "query")
FEATURES = ("x", "shouted")
def load(path): return None
def compute_columns(columns, loaded):
    x = np.asarray(columns["x"], dtype=np.float32)
    shouted = np.array([text.isupper() for text in columns["said"]], dtype=np.float32)
    return np.stack([x, shouted], axis=1)
"""
SCORE = """
import json
import numpy as np
def session(path): return json.loads(path.read_text())
def score(opened, matrix):
    x = matrix[:, 0].astype(np.float64) * opened["slope"] + 0.1 * matrix[:, 1] + opened["up"]
    if opened["classes"]:
        parts = np.exp(np.outer(x, np.arange(opened["classes"]) - 1.0))
        return parts / parts.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-x)) if opened["probability"] else x
"""


@dataclass(frozen=True)
class Kind:
    """A model of one task: what it declares, how its labels come about, what is asked of it."""

    declared: dict[str, Any]
    limits: dict[str, float]
    margins: dict[str, float]
    apart: dict[str, float]  # of slices
    charts: int


KINDS = {
    "binary": Kind(
        {"task": "classification", "label": "y", "prediction": "p"},
        {"auc": 0.6, "macro_f1": 0.5},
        {"log_loss": 0.05, "auc": 0.05},
        {"excess_loss": 0.4},
        3,
    ),
    "multiclass": Kind(
        {"task": "classification", "label": "mood", "prediction": ["bad", "fair", "good"]},
        {"auc": 0.6, "accuracy": 0.4, "macro_f1": 0.3},
        {"log_loss": 0.05, "auc": 0.05},
        {"excess_loss": 0.4},
        5,
    ),
    "regression": Kind(
        {"task": "regression", "label": "price", "prediction": "estimate"},
        {"r2": 0.3, "rmse": 2.0, "p90_absolute_error": 2.5},
        {"r2": 0.05, "mae": 0.1},
        {"relative_error": 0.3},
        3,
    ),
    "ranking": Kind(
        {"task": "ranking", "label": "grade", "prediction": "score", "group": "query"},
        {"ndcg": 0.5, "mrr": 0.3, "map": 0.3},
        {"ndcg": 0.05},
        {"ndcg": 0.3},
        2,
    ),
}


def labels(kind: str, x: Any, random: np.random.Generator) -> Any:
    """Return labels that x knows something of."""
    if kind == "binary":
        return (random.random(len(x)) < 1 / (1 + np.exp(-1.5 * x))).astype("int8")
    if kind == "multiclass":
        shares = np.exp(np.outer(1.5 * x, np.arange(3) - 1.0))
        ends = (shares / shares.sum(axis=1, keepdims=True)).cumsum(axis=1)
        return np.array(["bad", "fair", "good"])[(random.random((len(x), 1)) > ends).sum(axis=1).clip(0, 2)]
    noisy = 1.5 * x + random.normal(size=len(x))
    return noisy if kind == "regression" else np.clip(np.round(noisy), 0, 3).astype(int)


def model(folder: Path, kind: str, slope: float = 1.5, up: float = 0.0) -> Path:
    """Write a model's folder; score.py of the room reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    what = {
        "slope": slope,
        "up": up,
        "classes": 3 if kind == "multiclass" else 0,
        "probability": kind == "binary",
    }
    (folder / "model.onnx").write_text(json.dumps(what))
    (folder / "features.json").write_text("{}")
    return folder


class Room(GateRoom):
    """A checkout with one model of a kind, evaluated, and nothing in production."""

    def __init__(self, root: Path, kind: str, gate: str, settings: dict[str, Any]) -> None:
        self.kind = kind
        super().__init__(root, gate, settings, KINDS[kind].declared)
        for name in config.ENVIRONMENTS:
            folder = root / "envs" / name
            folder.mkdir(parents=True)
            (folder / "release.yaml").write_text("models: {}\n")
            (folder / "platform.yaml").write_text("{}\n")
        package = root / "models" / "toy"
        package.mkdir(parents=True)
        (package / "features.py").write_text(FEATURES)
        (package / "score.py").write_text(SCORE)
        self.git("init", "-q")
        self.commit()
        random = np.random.default_rng(1)
        x = random.normal(size=ROWS)
        query = np.arange(ROWS) // 10
        frame = pd.DataFrame({"x": x, "said": random.choice(["hello", "HELLO"], ROWS), "query": query})
        frame[self.declared["label"]] = labels(kind, x, random)
        frame["side"] = np.where(query % 2 == 0, "left", "right")
        frame.to_parquet(self.data / "holdout.parquet")
        self.candidate()

    def set(self, settings: dict[str, Any], model: dict[str, Any] | None = None) -> None:
        """Write params.yaml, with what evaluation needs."""
        super().set(settings, model)
        content = json.loads((self.root / "params.yaml").read_text())
        content["models"]["toy"]["evaluate"] = {"importance": {"rows": 500, "repeats": 1, "seed": 1}}
        (self.root / "params.yaml").write_text(json.dumps(content))

    def candidate(self, slope: float = 1.5, up: float = 0.0) -> dict[str, Any]:
        """Train and evaluate; return the metrics."""
        model(self.build / "model", self.kind, slope, up)
        return evaluate.evaluate(Layout("toy", self.root))

    def git(self, *arguments: str) -> str:
        """Run git as somebody."""
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(self.root), *who, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self) -> None:
        """Commit code and params.yaml."""
        self.git("add", "models", "params.yaml")
        self.git("commit", "-qm", "As production knows it", "--allow-empty")

    def in_production(self, slope: float = 1.4, up: float = 0.0) -> testing.FakeRegistry:
        """Put another model of today's commit into production; return the registry that holds it."""
        registry = testing.FakeRegistry()
        folder = model(self.root / "old", self.kind, slope, up)
        digest = digest_folder(folder)
        version = registry.register("toy", folder, {"digest": digest})
        record = ReleaseRecord(
            "toy",
            self.git("rev-parse", "HEAD"),
            "sha256:p",
            RegistryRef("toy", version),
            digest,
            BentoRef("toy:1", "sha256:b"),
            {"data": "PASS"},
        )
        path = self.root / "envs" / "releases" / "toy" / f"{record.id}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: value for name, value in msgspec.to_builtins(record).items() if value is not None}
        path.write_text(yaml.safe_dump(content))
        (self.root / "envs/production/release.yaml").write_text(f'models: {{toy: "{record.id}"}}\n')
        return registry

    def look(
        self, gate: Any, monkeypatch: pytest.MonkeyPatch, registry: Any = None
    ) -> tuple[int, report.Report]:
        """Run a gate in this process with a registry of our own."""
        monkeypatch.chdir(self.root)
        monkeypatch.setattr(wiring, "registry", lambda *_: registry)
        code = gate.GATE.main(["toy"])
        return code, report.read_report(self.build / "gates" / f"{self.gate}.json")


def quality_settings(kind: str, **over: Any) -> dict[str, Any]:
    """Return a `quality` section."""
    wanted = KINDS[kind]
    usual = {"min_rows": 100, "confidence": 0.95, "threshold": 0.5}
    return {**usual, "limits": wanted.limits, "margins": wanted.margins, **over}


def slices_settings(kind: str, **over: Any) -> dict[str, Any]:
    """Return a `slices` section."""
    wanted = KINDS[kind]
    return {
        "min_rows": 50,
        "min_each": 20,
        "confidence": 0.95,
        "threshold": 0.5,
        "columns": {"side": {}},
        "margins": wanted.apart,
        "production": wanted.apart,
        "search": {"columns": ["side"], "depth": 2, "most": 2, "seed": 1},
        "fairness": {"demographic_parity": 0.2, "equal_opportunity": 0.2},
        **over,
    }


# ------------------------------------------------------------ evaluation
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_writes_what_the_task_has(tmp_path: Path, kind: str) -> None:
    """Predictions in the declared columns, the label as it was, the task's metrics, charts, importance."""
    room = Room(tmp_path, kind, "quality", quality_settings(kind))
    metrics = room.candidate()
    assert metrics == json.loads((room.build / "metrics.json").read_text())
    assert set(evaluate.MEASURED[kind]) <= set(metrics)  # type: ignore[index]
    assert None not in metrics.values()
    made = parquet.read_table(room.build / "predictions.parquet").to_pandas()
    named = KINDS[kind].declared
    columns = named["prediction"] if isinstance(named["prediction"], list) else [named["prediction"]]
    assert list(made) == [named["label"], *columns]
    assert made[named["label"]].equals(pd.read_parquet(room.data / "holdout.parquet")[named["label"]])
    shares = json.loads((room.build / "importance.json").read_text())["shares"]
    assert list(shares) == ["x", "said", "query"]
    assert shares["x"] > shares["said"] > shares["query"] == 0
    plots = [json.loads(path.read_text()) for path in sorted((room.build / "plots").iterdir())]
    assert len(plots) == KINDS[kind].charts
    assert all(points and set(points[0]) == {"x", "y"} for points in plots)


def test_what_was_drawn_for_another_task_is_gone(tmp_path: Path) -> None:
    """A plot of an earlier evaluation is not taken for one of this."""
    room = Room(tmp_path, "regression", "quality", quality_settings("regression"))
    (room.build / "plots" / "roc.json").write_text("[]")
    room.candidate()
    assert not (room.build / "plots" / "roc.json").exists()


@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        ("multiclass", "return matrix[:, 0]", "not 3 numbers a row"),
        ("multiclass", "return np.full((len(matrix), 2), 0.5)", "not 3 numbers a row"),
        ("multiclass", "return np.full((len(matrix), 3), 0.5)", "do not sum to 1"),
        ("multiclass", "return np.tile([1.2, -0.1, -0.1], (len(matrix), 1))", "not numbers from 0 to 1"),
        ("binary", "return np.full((len(matrix), 2), 0.5)", "not one number a row"),
        ("binary", "return 3.0 + matrix[:, 0]", "not numbers from 0 to 1"),
        ("binary", "return matrix[:-1, 0] * 0", "must be of one length"),
        ("regression", "return matrix[:, 0] / 0.0", "not finite numbers"),
        ("ranking", "return matrix[:, 0] * np.nan", "not finite numbers"),
    ],
)
def test_answers_that_were_not_declared_stop_evaluation(
    tmp_path: Path, kind: str, code: str, told: str
) -> None:
    """Another shape, no distribution, out of range, NaN: no prediction is written of a model like that."""
    room = Room(tmp_path, kind, "quality", quality_settings(kind))
    (room.build / "predictions.parquet").unlink()
    (room.root / "models/toy/score.py").write_text(
        SCORE.split("def score")[0] + f"def score(_, matrix): {code}\n"
    )
    with np.errstate(all="ignore"), pytest.raises(Fatal, match=told):
        room.candidate()
    assert not (room.build / "predictions.parquet").exists()


@pytest.mark.parametrize(("kind", "value"), [("binary", 2), ("multiclass", "odd"), ("regression", np.nan)])
def test_a_label_that_can_not_be_stops_evaluation(tmp_path: Path, kind: str, value: Any) -> None:
    """A third label of two, a class that was not declared, a number that is none."""
    room = Room(tmp_path, kind, "quality", quality_settings(kind))
    path, label = room.data / "holdout.parquet", KINDS[kind].declared["label"]
    frame = pd.read_parquet(path)
    frame.loc[3, label] = value
    frame.to_parquet(path)
    with pytest.raises(Fatal, match=f"`{label}`"):
        room.candidate()


# ------------------------------------------------------------ quality
@pytest.mark.parametrize("kind", KINDS)
def test_quality_compares_any_task_with_production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One as good passes, with every margin compared and the task's charts; one turned round fails."""
    room = Room(tmp_path, kind, "quality", quality_settings(kind))
    registry = room.in_production()
    code, found = room.look(quality, monkeypatch, registry)
    assert code == 0, found.as_dict()
    assert {shown.name for shown in found.comparisons} == {
        f"{name} against production" for name in KINDS[kind].margins
    }
    assert len(found.charts) == KINDS[kind].charts
    assert all({"candidate", "production"} <= {one.name for one in chart.series} for chart in found.charts)
    assert [table.title for table in found.tables] == ["What is called what"] * (kind == "multiclass")
    room.candidate(slope=-1.0)
    code, found = room.look(quality, monkeypatch, registry)
    assert code == 1
    failed = {one.name for one in found.findings if one.verdict is Verdict.FAIL}
    assert failed >= {f"{name} against production" for name in KINDS[kind].margins}


def test_a_ranking_counts_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000 rows in 300 groups are too few where 400 are asked for: a group is one look at the model."""
    room = Room(tmp_path, "ranking", "quality", quality_settings("ranking", min_rows=400))
    code, found = room.look(quality, monkeypatch)
    assert code == 2
    assert "groups 300 < limit 400" in found.findings[0].reason


def test_a_metric_of_another_task_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A regression has no area under a curve: the report says which metrics there are."""
    room = Room(tmp_path, "regression", "quality", quality_settings("regression", limits={"auc": 0.6}))
    code, found = room.look(quality, monkeypatch)
    assert code == 3
    assert "of a regression, no metric is called `auc` (known: bias, mae" in found.findings[0].reason


def test_a_margin_of_the_task_can_be_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`null` over a shared margin leaves the others; without any, nothing is compared and nothing passes."""
    room = Room(tmp_path, "regression", "quality", quality_settings("regression"))
    registry = room.in_production()
    room.set(quality_settings("regression"), {"margins": {"mae": None}})
    code, found = room.look(quality, monkeypatch, registry)
    assert code == 0
    assert [shown.name for shown in found.comparisons] == ["r2 against production"]
    room.set(quality_settings("regression"), {"margins": {"mae": None, "r2": None}})
    assert room.look(quality, monkeypatch, registry)[0] == 3


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_a_candidate_that_is_its_own_champion_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Other files, but the same answers everywhere, whatever their unit: it was compared with itself."""
    room = Room(tmp_path, kind, "quality", quality_settings(kind))
    registry = room.in_production(slope=1.5)
    (room.build / "model" / "note.txt").write_text("another model")
    evaluate.evaluate(Layout("toy", room.root))
    code, found = room.look(quality, monkeypatch, registry)
    assert code == 3
    assert "compared with itself" in json.dumps(found.as_dict())


# ------------------------------------------------------------ production's own code
def test_production_is_scored_by_its_own_commits_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate that changes score.py does not change what production's model answered."""
    room = Room(tmp_path, "regression", "quality", quality_settings("regression"))
    registry = room.in_production()
    code, before = room.look(quality, monkeypatch, registry)
    path = room.root / "models/toy/score.py"
    path.write_text(path.read_text().replace('opened["up"]', 'opened["up"] + 0.001'))
    room.candidate()
    code, after = room.look(quality, monkeypatch, registry)
    assert code == 0
    assert after.measurements["production"] == before.measurements["production"]
    assert after.measurements["candidate"] != before.measurements["candidate"]


def test_classes_in_another_order_are_compared_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Production's columns are put in today's order: the same model stays as good as it was."""
    room = Room(tmp_path, "multiclass", "quality", quality_settings("multiclass"))
    registry = room.in_production()
    _, before = room.look(quality, monkeypatch, registry)
    room.declared = {**room.declared, "prediction": ["good", "fair", "bad"]}
    room.set(quality_settings("multiclass"))
    path = room.root / "models/toy/score.py"
    path.write_text(
        path.read_text()
        .replace("keepdims=True)", "keepdims=True)[:, ::-1]", 2)
        .replace("parts.sum(axis=1, keepdims=True)[:, ::-1]", "parts.sum(axis=1, keepdims=True))[:, ::-1]")
        .replace("return parts", "return (parts")
    )
    room.candidate()
    code, found = room.look(quality, monkeypatch, registry)
    assert code == 0, found.as_dict()
    assert found.measurements["production"]["log_loss"] == before.measurements["production"]["log_loss"]


def test_a_release_of_another_kind_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Production had other classes: ERROR, and what to do, in place of numbers that mean nothing."""
    room = Room(tmp_path, "multiclass", "quality", quality_settings("multiclass"))
    room.declared = {**room.declared, "prediction": ["bad", "meh", "good"]}
    room.set(quality_settings("multiclass"))
    room.commit()
    registry = room.in_production()
    room.declared = KINDS["multiclass"].declared
    room.set(quality_settings("multiclass"))
    code, found = room.look(quality, monkeypatch, registry)
    assert code == 3
    assert "into bad, meh, good" in found.findings[0].reason
    assert "a name of its own" in found.findings[0].reason


def test_a_release_from_before_declarations_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its params.yaml says no task: it is taken for what is declared now."""
    room = Room(tmp_path, "binary", "quality", quality_settings("binary"))
    (room.root / "params.yaml").write_text("models: {toy: {package: toy}}\ngates: {}\n")
    room.commit()
    registry = room.in_production()
    room.set(quality_settings("binary"))
    assert room.look(quality, monkeypatch, registry)[0] == 0


# ------------------------------------------------------------ slices
@pytest.mark.parametrize("kind", KINDS)
def test_slices_of_any_task_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """As good on both sides: PASS. One side's turned round: FAIL by name, beside production, too."""
    room = Room(tmp_path, kind, "slices", slices_settings(kind))
    registry = room.in_production()
    code, found = room.look(slices, monkeypatch, registry)
    assert code == 0, found.as_dict()
    frame = pd.read_parquet(room.build / "predictions.parquet")
    left = (pd.read_parquet(room.data / "holdout.parquet")["side"] == "left").to_numpy()
    columns = list(frame)[1:]
    values = frame[columns].to_numpy()
    turned = values[:, ::-1] if kind == "multiclass" else 1 - values if kind == "binary" else -2 * values
    frame[columns] = np.where(left[:, None], turned, values)
    frame.to_parquet(room.build / "predictions.parquet")
    code, found = room.look(slices, monkeypatch, registry)
    assert code == 1
    failed = " ".join(one.name for one in found.findings if one.verdict is Verdict.FAIL)
    assert "side = left against the other rows" in failed
    assert "side = left against production" in failed
    assert "side = right" not in failed


def test_a_column_that_cuts_groups_apart_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ranking's rows can only be cut by what a group shares."""
    settings = slices_settings("ranking", columns={"said": {}})
    room = Room(tmp_path, "ranking", "slices", settings)
    code, found = room.look(slices, monkeypatch)
    assert code == 3
    assert "several values in one group" in found.findings[0].reason


def test_each_classs_decision_is_held_to_fairness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Being called any of several classes is a decision; one called more often for a side fails by name."""
    settings = slices_settings("multiclass", protected=["side"], margins={"excess_loss": 99})
    room = Room(tmp_path, "multiclass", "slices", settings)
    code, found = room.look(slices, monkeypatch)
    assert code == 0, found.as_dict()
    shown = next(table for table in found.tables if table.title == "Protected groups")
    assert {row[2] for row in shown.rows} == {
        f"{measure} of {name}" for measure in settings["fairness"] for name in ("bad", "fair", "good")
    }
    frame = pd.read_parquet(room.build / "predictions.parquet")
    left = (pd.read_parquet(room.data / "holdout.parquet")["side"] == "left").to_numpy()
    frame.loc[left, ["bad", "fair", "good"]] = [0.1, 0.1, 0.8]
    frame.to_parquet(room.build / "predictions.parquet")
    code, found = room.look(slices, monkeypatch)
    assert code == 1
    failed = {one.name for one in found.findings if one.verdict is Verdict.FAIL}
    assert "demographic_parity of good between groups of side" in failed


@pytest.mark.parametrize("kind", ["regression", "ranking"])
def test_fairness_of_what_decides_nothing_is_not_applicable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No rate of a decision exists: NOT_APPLICABLE, which says so, and never PASS."""
    room = Room(tmp_path, kind, "slices", slices_settings(kind, protected=["side"]))
    _, found = room.look(slices, monkeypatch)
    (stated,) = (one for one in found.findings if one.name == "protected groups")
    assert stated.verdict is Verdict.NOT_APPLICABLE
    assert f"a {kind} decides nothing" in stated.reason


@pytest.mark.parametrize(("off", "code"), [(0.5e-4, 0), (2e-4, 3)])
def test_probabilities_of_a_row_must_sum_to_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float, code: int
) -> None:
    """As nearly as a model of half precision does: what is further off is no distribution."""
    room = Room(tmp_path, "multiclass", "quality", quality_settings("multiclass"))
    path = room.build / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame.loc[5, ["bad", "fair", "good"]] = [0.2, 0.3, 0.5 + off]
    frame.to_parquet(path)
    assert room.look(quality, monkeypatch)[0] == code


def test_a_class_without_its_column_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns of three are not taken for a model of two classes."""
    room = Room(tmp_path, "multiclass", "quality", quality_settings("multiclass"))
    path = room.build / "predictions.parquet"
    pd.read_parquet(path).drop(columns="fair").to_parquet(path)
    code, found = room.look(quality, monkeypatch)
    assert code == 3
    assert "has no column `fair`" in found.findings[0].reason
