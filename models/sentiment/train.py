"""Train a head on the encoder's embeddings, write one graph in three precisions, check it, log the run.

Reads data/sentiment/{train,holdout}.parquet; writes build/sentiment/model/: model.onnx (float32),
model.fp16.onnx (for GPUs), model.int8.onnx (for CPUs), features.json (the tokenizer), examples.json (request
rows to warm a service up with) and holdout.json (the answers to the holdout, beside which callers' are seen).
The encoder stays as it is: only the head is trained. The same data, parameters and libraries give the same
bytes.

Run it as `python -m models.sentiment.train`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd

from models.layout import Layout, run
from models.sentiment import features, network
from models.sentiment.prepare import CLASSES, LABEL
from models.sentiment.score import TOGETHER, score, session
from models.tracking import log_run
from tidegate.errors import PlatformError
from tidegate.files import digest_folder

EXAMPLES = 50
TOLERANCE = 1e-5  # of a probability; float32 sums in another order differ by about 1e-7
LOOKED_AT = 200  # rows that the export is checked by

Count = Annotated[int, msgspec.Meta(ge=1)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `train`, of scikit-learn's MLPClassifier: units of its `hidden` layer, its penalty `alpha`.

    It ends by itself before `epochs` when a tenth of the rows, which it does not learn from, stops to gain.
    """

    hidden: Count
    alpha: Annotated[float, msgspec.Meta(ge=0)]
    epochs: Count
    seed: Annotated[int, msgspec.Meta(ge=0)]


def embed(matrix: np.ndarray[Any, Any], encoder: Path) -> np.ndarray[Any, Any]:
    """Return the embedding of each row of token ids, float32 `[n, 384]`, telling how far it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores have other work, too
    opened = onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
    order = np.argsort((matrix != 0).sum(axis=1), kind="stable")  # the least padding
    found = np.empty((len(matrix), network.HIDDEN), dtype=np.float32)
    told = time.monotonic()
    for start in range(0, len(order), TOGETHER):
        rows = order[start : start + TOGETHER]
        ids = features.used(matrix[rows]).astype(np.int64)
        found[rows] = opened.run(["embedding"], {"ids": ids})[0]
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"embedded {start + len(rows):,} of {len(order):,} texts", flush=True)
    return found


def fit(
    embeddings: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], parameters: Mapping[str, Any]
) -> tuple[network.Head, list[float]]:
    """Return the head, float32, with its outputs in the order of `CLASSES`, and its loss after each epoch."""
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    found = sorted({str(label) for label in labels})
    if tuple(found) != CLASSES:
        raise PlatformError(
            f"train has the labels {', '.join(found)}, not {', '.join(CLASSES)}",
            "Look at the data, or raise `prepare.max_rows`.",
        )
    model = MLPClassifier(
        (parameters["hidden"],),
        alpha=parameters["alpha"],
        max_iter=parameters["epochs"],
        early_stopping=True,
        random_state=parameters["seed"],
    )
    # One thread: the order of additions must not depend on how many cores there are.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it used all its epochs
        model.fit(embeddings.astype(np.float64), labels)
    layers = zip(model.coefs_, model.intercepts_, strict=True)
    head = [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]
    return head, [float(loss) for loss in model.loss_curve_]


def export(tensors: Mapping[str, Any], head: network.Head, folder: Path) -> None:
    """Write the three files; the same weights give the same bytes."""
    model = network.encoder(tensors)
    with tempfile.TemporaryDirectory(prefix="sentiment-") as place:
        made = {
            "model.onnx": model,
            "model.fp16.onnx": network.in_half(model),
            "model.int8.onnx": network.in_whole_numbers(model, Path(place)),
        }
    for name, variant in made.items():
        network.write(network.of_features(network.with_head(variant, head)), folder / name)


def check_export(
    embeddings: np.ndarray[Any, Any], head: network.Head, probabilities: np.ndarray[Any, Any]
) -> float:
    """Return the largest difference between model.onnx and the head alone; PlatformError above TOLERANCE."""
    value = embeddings.astype(np.float64)
    for index, (weight, bias) in enumerate(head):
        value = (np.maximum(value, 0) if index else value) @ weight + bias
    shares = np.exp(value - value.max(axis=1, keepdims=True))
    worst = float(np.max(np.abs(probabilities - shares / shares.sum(axis=1, keepdims=True))))
    if not worst <= TOLERANCE:  # a NaN fails, too
        raise PlatformError(
            f"the ONNX export differs from the trained head by {worst:.2g} > {TOLERANCE:g}",
            "Use the versions of requirements.lock.",
        )
    return worst


def seen(probabilities: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return what answers to rows look like that the model has not learnt from, as a service counts them.

    Its score is the probability of the first class; no text lacks a feature.
    """
    score = probabilities[:, 0]
    ends = [round(float(value), 6) for value in (score.min(), score.max())]
    return {"rows": len(score), "score": round(float(score.mean()), 6), "range": ends, "missing": {}}


def main() -> None:
    """Embed, fit, write the model's folder, check it on the holdout, log."""
    layout = Layout("sentiment")
    parameters = layout.parameters("train", Parameters)
    rows, holdout = (pd.read_parquet(layout.data(split)) for split in ("train", "holdout"))
    folder = layout.artifact
    shutil.rmtree(folder, ignore_errors=True)  # a file of an older run would change the digest
    folder.mkdir(parents=True)
    tokenizer = json.loads((network.source() / "tokenizer.json").read_text())
    (folder / "features.json").write_text(json.dumps(features.document(tokenizer)) + "\n")
    loaded = features.load(folder / "features.json")
    matrices = [features.compute_columns(part, loaded) for part in (rows, holdout)]

    tensors = network.weights()
    with tempfile.TemporaryDirectory(prefix="sentiment-") as place:
        encoder = Path(place) / "encoder.onnx"
        network.write(network.encoder(tensors), encoder)
        print(f"embedding {len(rows):,} texts", flush=True)
        started = time.monotonic()
        embeddings = embed(matrices[0], encoder)
        print(f"embedded in {time.monotonic() - started:.0f} s; training the head", flush=True)
        looked_at = embed(matrices[1][:LOOKED_AT], encoder)
    head, losses = fit(embeddings, rows[LABEL].to_numpy(), parameters)
    export(tensors, head, folder)

    probabilities = score(session(folder / "model.onnx"), matrices[1])
    difference = check_export(looked_at, head, probabilities[:LOOKED_AT])
    drawn = rows.sample(n=min(EXAMPLES, len(rows)), random_state=parameters["seed"]).sort_index()
    _write_json(folder / "examples.json", features.to_rows(drawn))
    _write_json(folder / "holdout.json", seen(probabilities))
    right = np.array(CLASSES)[probabilities.argmax(axis=1)] == holdout[LABEL].to_numpy()
    digest = digest_folder(folder)
    print(f"model {digest}, right on {right.mean():.1%} of the holdout", flush=True)
    log_run(
        layout,
        parameters,
        {"rows": len(rows), "export_difference": difference, "holdout_accuracy": float(right.mean())},
        {"train_loss": losses},
        {"digest": digest},
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    run(main)
