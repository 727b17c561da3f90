"""sentiment's service: as it is asked in a real Bento, and how it gives texts to the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from models.sentiment import features, network
from models.sentiment.score import score, session
from services.sentiment.service import CLASSES, TOGETHER, SentimentOfTexts
from tests.service.running import Built, free_port, ready, start
from tidegate.adapters.bentoml import BentoStore
from tidegate.bentos import REQUIREMENTS, Source
from tidegate.core.release import RegistryRef, ReleaseRecord
from tidegate.files import digest_folder

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["I love it", "what a dreadful, dreadful day that was", "Café 東京 🙂", "x" * 1000, " "]


def small_model(folder: Path) -> Path:
    """Write an artifact as training does, but for the network: how long a text is decides what it is."""
    from onnx import TensorProto, checker, helper, numpy_helper, save_model

    nodes = [
        helper.make_node("Cast", ["features"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Greater", ["ids", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "axis"], ["length"], keepdims=1),
        helper.make_node("MatMul", ["length", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    constants = {
        "zero": np.array([0], dtype=np.int64),
        "axis": np.array([1], dtype=np.int64),
        "weights": np.array([[0.1, 0.0, -0.1]], dtype=np.float32),
        "bias": np.array([-1.0, 0.1, 1.0], dtype=np.float32),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("features", TensorProto.FLOAT, ["n", "length"])],
        [value("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(made)
    folder.mkdir(parents=True)
    for name in ("model.onnx", "model.int8.onnx"):
        save_model(made, folder / name)
    tokenizer = json.loads((network.source() / "tokenizer.json").read_text())
    (folder / "features.json").write_text(json.dumps(features.document(tokenizer)))
    (folder / "examples.json").write_text(json.dumps([{"text": text} for text in TEXTS[:3]]))
    (folder / "holdout.json").write_text(json.dumps({"score": 0.4, "range": [0.0, 1.0], "missing": {}}))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("bento")
    model = small_model(folder / "model")
    digest, commit = digest_folder(model), "9be14c2" + "0" * 33
    bento = BentoStore(folder / "bentoml").build(Source("sentiment", ROOT, model, digest, 3, commit))
    registry = RegistryRef("sentiment", 3)
    return Built(
        folder / "bentoml",
        ReleaseRecord("sentiment", commit, "sha256:", registry, digest, bento, {}),
    )


@pytest.fixture(scope="module")
def client(built: Built) -> Iterator[httpx.Client]:
    port = free_port()
    process = start(built, port)
    try:
        assert ready(process, port), process.stdout.read().decode() if process.stdout else ""
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as one:
            yield one
    finally:
        process.terminate()
        process.communicate(timeout=30)


# ---------------------------------------------------------------- the Bento
def test_the_bento_brings_the_tokenizer(built: Built) -> None:
    """Beside the shell's packages the one is pinned that settings.yaml names; no training code travels."""
    pins = {line.split("==")[0] for line in (built.source / REQUIREMENTS).read_text().splitlines()}
    assert {"tokenizers", "onnxruntime"} <= pins
    assert not {"safetensors", "scikit-learn", "onnx", "torch"} & pins
    code = {path.name for path in (built.source / "models" / "sentiment").glob("*.py")}
    assert code == {"__init__.py", "features.py"}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_answered_as_the_pipeline_would(client: httpx.Client, built: Built, text: str) -> None:
    """Each class has the probability of the served file, and the likeliest is the answer."""
    answer = client.post("/predict", json={"text": text})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    folder = built.source / "model"
    matrix = features.compute([{"text": text}], features.load(folder / "features.json"))
    expected = score(session(folder / "model.int8.onnx"), matrix)[0]
    assert [body[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-6)
    assert body["sentiment"] == CLASSES[int(expected.argmax())]


def test_what_the_model_sees_is_told_by_name(client: httpx.Client, built: Built) -> None:
    """`/features` names each token's place and says its number."""
    found = client.post("/features", json={"text": TEXTS[0]}).json()["features"]
    matrix = features.compute([{"text": TEXTS[0]}], features.load(built.source / "model" / "features.json"))
    assert found == dict(zip(features.FEATURES, matrix[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": None}, "text"),
        ({"text": ""}, "text"),
        ({"text": 7}, "text"),
        ({"text": "x" * 1001}, "text"),
        ({"text": "fine", "language": "en"}, "language"),
    ],
)
def test_what_is_no_text_is_refused_by_name(client: httpx.Client, body: Any, field: str) -> None:
    """A request that says something else gets a 4xx which names the field."""
    answer = client.post("/predict", json=body)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["field"] == field


def test_many_texts_are_answered_as_each_alone(client: httpx.Client) -> None:
    """A column of texts gets what each of them gets by itself, in their order."""
    many = client.post("/predict/many", json={"columns": {"text": TEXTS}})
    assert many.status_code == 200, many.text
    for place, text in enumerate(TEXTS):
        alone = client.post("/predict", json={"text": text}).json()
        for name in ("sentiment", *CLASSES):
            assert many.json()["columns"][name][place] == alone[name], name


# ---------------------------------------------------------------- how texts meet the model
class Model:
    """Remembers what it was given; answers by the first token."""

    def __init__(self, variant: str, provider: str = "cpu") -> None:
        self.running = SimpleNamespace(variant=variant, provider=provider)
        self.given: list[np.ndarray] = []

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.given.append(rows)
        made: np.ndarray = np.stack([rows[:, 0], 1 - rows[:, 0], 0 * rows[:, 0]], axis=1)
        return made


def predict(model: Model, rows: np.ndarray) -> Any:
    service = object.__new__(SentimentOfTexts.inner)
    service.model = model
    return service.predict(rows)


def texts(count: int) -> np.ndarray:
    """Rows of 1 to 8 tokens, of which the first says which row it is."""
    rows = np.zeros((count, features.LENGTH), dtype=np.float32)
    for place, row in enumerate(rows):
        row[: 1 + place % 8] = 1
        row[0] = (place + 1) / count
    return rows


def test_whole_numbers_are_computed_text_by_text() -> None:
    """int8's scales are those of all that is computed at once, so a text is computed alone."""
    model = Model("int8")
    rows = texts(20)
    found = predict(model, rows)
    assert [given.shape[0] for given in model.given] == [1] * 20
    assert found["negative"].tolist() == rows[:, 0].tolist()


@pytest.mark.parametrize(("variant", "provider"), [("", "cpu"), ("fp16", "cuda")])
def test_texts_that_are_computed_together_are_equally_long(variant: str, provider: str) -> None:
    """Other variants get so many rows at once, short ones with short ones, and answers keep their order."""
    model = Model(variant, provider)
    rows = texts(2 * TOGETHER[provider] + 3)
    found = predict(model, rows)
    assert max(given.shape[0] for given in model.given) == TOGETHER[provider]
    assert sum(given.shape[0] for given in model.given) == len(rows)
    widths = [given.shape[1] for given in model.given]
    assert widths == sorted(widths)
    assert max(widths) == 8
    assert found["negative"].tolist() == rows[:, 0].tolist()
    assert set(found["sentiment"]) <= set(CLASSES)
