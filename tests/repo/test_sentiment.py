"""models/sentiment: what becomes of a text, the encoder beside the real one, and the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sentiment import features, network, prepare, train
from models.sentiment.score import ALONE, score, session
from tidegate.errors import ConfigError, PlatformError

REFERENCE = json.loads((Path(__file__).parent / "sentence_embeddings.json").read_text())["texts"]
TEXTS = [one["text"] for one in REFERENCE]
PARAMETERS = {"hidden": 8, "alpha": 0.01, "epochs": 5, "seed": 7}
MAX_ROWS = {"train": None, "holdout": None, "live": None}
PREPARE = {"shares": {"holdout": 0.2, "live": 0.2}, "max_rows": MAX_ROWS, "seed": 7}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("tokenizer") / "features.json"
    path.write_text(
        json.dumps(features.document(json.loads((network.source() / "tokenizer.json").read_text())))
    )
    return features.load(path)


@pytest.fixture(scope="module")
def matrix(tokenizer: Any) -> np.ndarray:
    return features.compute_columns({"text": np.array(TEXTS, dtype=object)}, tokenizer)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return network.weights()


@pytest.fixture(scope="module")
def embeddings(
    matrix: np.ndarray, tensors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> np.ndarray:
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    network.write(network.encoder(tensors), path)
    return train.embed(matrix, path)


@pytest.fixture(scope="module")
def head() -> network.Head:
    """A head as sharp as a trained one."""
    random = np.random.default_rng(1)
    sizes = ((network.HIDDEN, 16), (16, 3))
    return [
        (random.normal(size=size).astype(np.float32), np.zeros(size[1], dtype=np.float32)) for size in sizes
    ]


@pytest.fixture(scope="module")
def exported(
    tensors: dict[str, np.ndarray],
    head: network.Head,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train.export(tensors, head, folder)
    return folder


# ---------------------------------------------------------------- features
def test_a_text_has_the_tokens_of_the_reference(matrix: np.ndarray) -> None:
    """Token ids are those that the encoder's authors' own code gives it, with zeros behind them."""
    for row, one in zip(matrix, REFERENCE, strict=True):
        expected = one["ids"] + [0] * (features.LENGTH - len(one["ids"]))
        assert row.tolist() == expected


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_rows_and_columns_have_the_same_features(tokenizer: Any, texts: list[str]) -> None:
    """Any text has features, the same ones by itself, among others, as a row and in a column."""
    columns = features.to_columns([{"text": text} for text in texts])
    rows = features.to_rows(columns)
    assert rows == [{"text": text} for text in texts]
    found = features.compute_columns(columns, tokenizer)
    assert found.shape == (len(texts), len(features.FEATURES))
    assert found.dtype == np.float32
    assert np.array_equal(found, features.compute(rows, tokenizer))
    assert np.array_equal(found, np.concatenate([features.compute([row], tokenizer) for row in rows]))


def test_a_long_text_is_cut_and_keeps_its_last_token(tokenizer: Any) -> None:
    """What is beyond the length is not read; the end's token is there all the same."""
    row = features.compute([{"text": "word " * 500}], tokenizer)[0]
    assert (row[0], row[-1]) == (101, 102)


def test_a_tokenizer_of_another_length_is_refused(tmp_path: Path) -> None:
    """features.json of other code than this is told, with what to do; so is what is no tokenizer."""
    path = tmp_path / "features.json"
    path.write_text(json.dumps({"truncation": {"max_length": 128}, "padding": None}))
    with pytest.raises(ValueError, match=r"cuts texts otherwise.*train the model again"):
        features.load(path)
    path.write_text(json.dumps({"truncation": {"max_length": features.LENGTH}, "padding": None}))
    with pytest.raises(ValueError, match="holds no tokenizer"):
        features.load(path)


# ---------------------------------------------------------------- the network
def test_the_encoder_is_the_real_one(embeddings: np.ndarray) -> None:
    """Embeddings are those of sentence-transformers on PyTorch, for short, long and foreign texts."""
    expected = np.array([one["embedding"] for one in REFERENCE])
    assert np.abs(embeddings - expected).max() < 2e-6  # the file has 6 places
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)


def test_padding_changes_nothing(exported: Path, matrix: np.ndarray) -> None:
    """In float32 a text's answer is the same alone, beside longer ones, and padded to the full length."""
    opened = session(exported / "model.onnx")
    together = score(opened, matrix)
    alone = np.concatenate([score(opened, row[None]) for row in matrix])
    padded = opened.session.run(["probabilities"], {"features": matrix})[0]
    assert np.abs(together - alone).max() < 1e-6
    assert np.abs(together - padded).max() < 1e-6


def test_the_export_is_the_encoder_and_the_head(
    exported: Path, matrix: np.ndarray, embeddings: np.ndarray, head: network.Head
) -> None:
    """model.onnx says what the head says of the embeddings; another head's answers are refused."""
    answers = score(session(exported / "model.onnx"), matrix)
    assert train.check_export(embeddings, head, answers) < train.TOLERANCE
    with pytest.raises(PlatformError, match="differs from the trained head by"):
        train.check_export(embeddings, [head[0], (head[1][0][:, ::-1], head[1][1])], answers)


@pytest.mark.parametrize(("variant", "share", "apart"), [("fp16", 0.52, 0.005), ("int8", 0.28, 0.2)])
def test_a_variant_is_smaller_and_nearly_the_same(
    exported: Path, matrix: np.ndarray, variant: str, share: float, apart: float
) -> None:
    """Half precision and whole numbers keep their size, and answer about what float32 does, within [0, 1]."""
    whole, other = exported / "model.onnx", exported / f"model.{variant}.onnx"
    assert other.stat().st_size < share * whole.stat().st_size
    answers = score(session(other), matrix)
    assert np.abs(answers - score(session(whole), matrix)).max() < apart
    assert answers.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_an_answer_in_whole_numbers_depends_on_its_text_alone(exported: Path, matrix: np.ndarray) -> None:
    """int8 is asked text by text, so that what is computed beside a text can't change its answer."""
    opened = session(exported / f"model.{ALONE}.onnx")
    together = score(opened, matrix)
    assert np.array_equal(together, np.concatenate([score(opened, row[None]) for row in matrix]))


@pytest.mark.parametrize("name", ["model.onnx", f"model.{ALONE}.onnx"])
def test_answers_do_not_depend_on_how_many_threads_there_are(
    exported: Path, matrix: np.ndarray, name: str
) -> None:
    """Bit by bit the same: a service of one thread, training on all cores, and other machines agree."""
    import onnxruntime

    found = []
    for threads in (1, 2, 3):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        opened = onnxruntime.InferenceSession(exported / name, options, providers=["CPUExecutionProvider"])
        found.append(opened.run(["probabilities"], {"features": features.used(matrix)})[0])
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_half_precision_reads_every_token(exported: Path) -> None:
    """Ids beyond 2048, of which float16 holds no odd ones, reach the embeddings as they are."""
    import onnx

    model = onnx.load(exported / "model.fp16.onnx")
    first = model.graph.node[0]
    assert (first.op_type, list(first.input)) == ("Cast", ["features"])
    assert {node.op_type for node in model.graph.node if "ids" in node.input} >= {"Gather"}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


# ---------------------------------------------------------------- training
def test_training_again_gives_the_same_bytes(
    tensors: dict[str, np.ndarray], exported: Path, head: network.Head, tmp_path: Path
) -> None:
    """The same embeddings give the same head, and the same head the same three files."""
    random = np.random.default_rng(2)
    texts = random.normal(size=(300, network.HIDDEN)).astype(np.float32)
    labels = np.array(prepare.CLASSES)[random.integers(0, 3, 300)]
    (one, losses), (two, _) = (train.fit(texts, labels, PARAMETERS) for _ in range(2))
    for layers in zip(one, two, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(*layers, strict=True))
    assert len(losses) == PARAMETERS["epochs"]
    train.export(tensors, head, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.fp16.onnx", "model.int8.onnx", "model.onnx"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (exported / name).read_bytes(), name


def test_a_label_that_is_not_there_is_told() -> None:
    """A slice of the data that lacks a class trains nothing, and says which labels it has."""
    texts = np.eye(4, network.HIDDEN, dtype=np.float32)
    with pytest.raises(PlatformError, match="train has the labels negative, neutral, not"):
        train.fit(texts, np.array(["negative", "neutral"] * 2), PARAMETERS)


# ---------------------------------------------------------------- data
@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("That\xd5\xa2_\x8a\xce_\x8fs  it &amp; more", "That's it & more"),
        ("cars_\xd1_.no", "cars .no"),
        ("\xe4\xf3\xec@nfl go", "@nfl go"),
        ("under_score stays", "under_score stays"),
        ("a\nb\tc ", "a b c"),
    ],
)
def test_a_text_is_cleaned(raw: str, clean: str) -> None:
    """Lost characters become an apostrophe between letters and a space elsewhere; entities are undone."""
    assert prepare.clean(raw) == clean


def _raw(texts: list[tuple[str, str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(texts, columns=["text", "sentiment", "confidence"])


def test_a_text_is_learnt_once_and_only_with_one_label() -> None:
    """Copies and retweets are dropped; texts under two labels are out, and those nobody was sure of."""
    rows = prepare.rows_of(
        _raw(
            [
                ("Fine flight http://t.co/a", "positive", "1"),
                ("RT @me: fine flight", "positive", ""),
                ("Odd one", "negative", "1"),
                ("odd one!", "neutral", "1"),
                ("Hardly sure", "negative", "0.3"),
                ("@you", "neutral", "0.9"),
            ]
        ),
        0.5,
    )
    assert list(rows["text"]) == ["Fine flight http://t.co/a", "@you"]


def test_a_text_keeps_its_side_and_is_on_no_other() -> None:
    """Splits share no text, whatever the order of rows; a row more moves none of the others."""
    raw = _raw([(f"text number {n} of many", prepare.CLASSES[n % 3], "1") for n in range(500)])
    rows = prepare.rows_of(raw, 0)
    sides = prepare.split(rows, PREPARE)
    texts = {name: set(part["text"]) for name, part in sides.items()}
    assert sum(map(len, texts.values())) == 500 == len(set.union(*texts.values()))
    turned = prepare.rows_of(raw[::-1], 0)
    more = pd.concat(
        [turned, prepare.rows_of(_raw([("one more text", "neutral", "1")]), 0)], ignore_index=True
    )
    for name, part in prepare.split(more, PREPARE).items():
        assert set(part["text"]) - {"one more text"} == texts[name]
        assert len(part) / 500 == pytest.approx({"train": 0.6}.get(name, 0.2), abs=0.06)


def test_a_cap_takes_some_rows_of_each_label() -> None:
    """`max_rows` cuts a split to its first rows by hash, which are as mixed as all are."""
    raw = _raw([(f"text number {n} of many", prepare.CLASSES[n // 200], "1") for n in range(600)])
    capped = {**PREPARE, "max_rows": {**MAX_ROWS, "train": 100}}
    some = prepare.split(prepare.rows_of(raw, 0), capped)["train"]
    assert len(some) == 100
    assert some["sentiment"].value_counts().min() > 15
    with pytest.raises(ConfigError, match="split `holdout` has no rows"):
        prepare.split(prepare.rows_of(raw[:0], 0), PREPARE)


def test_what_is_told_of_a_text() -> None:
    """Words, mentions and links are counted of the cleaned text."""
    raw = _raw([("Hi @you, see https://t.co/x now", "neutral", "1"), ("nothing of it", "neutral", "1")])
    rows = prepare.described(prepare.rows_of(raw, 0))
    assert rows[["words", "mention", "link"]].to_numpy().tolist() == [[5, 1, 1], [3, 0, 0]]
