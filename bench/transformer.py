"""The transformer's service: the highest rate that keeps its limit, in two precisions, batched and not."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench.load import hammer, request
from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import spent_by, started, wait_until_ready
from tidegate.core.settings_file import set_values

MODEL = "sentiment"
FOLDER = Path("build") / MODEL / "model"
SETTINGS = Path("services") / MODEL / "settings.yaml"
HOLDOUT = Path("data") / MODEL / "holdout.parquet"
WITHIN_MS = 50.0  # of p95
CONNECTIONS, SECONDS, ROUNDS = (1, 2, 3, 4, 6, 8, 12, 16), 1.5, 3
JUDGED = 1000  # rows of the holdout by which accuracy is told
BATCH = {"batching.maxRows": 16, "batching.maxDelayMs": 1.0}

# Entry → what its settings.yaml says; all else is the service's own.
KINDS: Mapping[str, Mapping[str, int | float | str]] = {
    "transformer-fp32": {"variant": "", "batching.maxRows": 0},
    "transformer-fp32-batched": {"variant": "", **BATCH},
    "transformer-int8": {"variant": "int8", "batching.maxRows": 0},
    "transformer-int8-batched": {"variant": "int8", **BATCH},
}


@entries(
    transformer_fp32=("requests/s", Goal()),
    transformer_fp32_batched=("requests/s", Goal()),
    transformer_int8=("requests/s", Goal("ratio", at_least=1.5)),
    transformer_int8_batched=("requests/s", Goal()),
)
def transformer() -> Mapping[str, Measured]:
    """One process and one thread each; all are up and take turns, so that nobody has the quieter machine."""
    rows = _rows()
    requests = [request("/predict", json.dumps(row).encode()) for row in rows]
    best: dict[str, list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        ports = {kind: stack.enter_context(_service(Path(name), kind)) for kind in KINDS}
        right = {kind: _right(ports[kind]) for kind in KINDS if not KINDS[kind]["batching.maxRows"]}
        before = {kind: (spent_by(port), _answered(port)) for kind, port in ports.items()}
        for _ in range(ROUNDS):
            for kind, found in _swept(ports, requests).items():
                best.setdefault(kind, []).append(found)
        formed = {kind: _together(port) for kind, port in ports.items()}
        spent = {kind: _cost(port, *before[kind]) for kind, port in ports.items()}
    rates = {kind: float(np.median([rate for rate, _ in found])) for kind, found in best.items()}
    simplest = next(iter(KINDS))
    measured = {}
    for kind in KINDS:
        accuracy = right[kind.removesuffix("-batched")]
        at = "/".join(str(connections) for _, connections in best[kind])
        spread = "–".join(f"{rate:.0f}" for rate in sorted(rate for rate, _ in best[kind])[:: ROUNDS - 1])
        note = f"p95 <= {WITHIN_MS:g} ms, {spread} in {ROUNDS} rounds, at {at} connections; right on "
        note += f"{accuracy:.1%} of {JUDGED:,}; {formed[kind]:.1f} rows at once; "
        note += f"{spent[kind]:.1f} ms of CPU a request"
        peer = ("", None) if kind == simplest else ("fp32", rates[simplest])
        measured[kind] = Measured(rates[kind], *peer, note)
    return measured


def _rows() -> list[Mapping[str, str]]:
    """Return the model's own examples; raises CannotRun when it was never trained here."""
    missing = [name for name in ("model.onnx", "model.int8.onnx") if not (FOLDER / name).is_file()]
    if missing or not HOLDOUT.is_file():
        raise CannotRun(f"no {missing[0] if missing else HOLDOUT} of {MODEL}: run `dvc repro` first")
    found: list[Mapping[str, str]] = json.loads((FOLDER / "examples.json").read_text())
    return found


@contextlib.contextmanager
def _service(folder: Path, kind: str) -> Iterator[int]:
    """Run the service with an entry's settings, and give its port."""
    file = folder / f"{kind}.yaml"
    file.write_text(set_values(SETTINGS.read_text(), {**KINDS[kind], "threads": 1, "cache.entries": 0}))
    with started(folder, of=MODEL, TIDEGATE_SETTINGS=str(file)) as (port, _):
        wait_until_ready(port)
        yield port


def _swept(ports: Mapping[str, int], requests: Sequence[bytes]) -> dict[str, tuple[float, int]]:
    """Return, of one round, each service's highest rate within the limit, and at how many connections.

    Services take turns at each number of connections; one that was far beyond the limit is asked no more.
    """
    best, over = dict.fromkeys(ports, (0.0, 0)), set()
    for connections in CONNECTIONS:
        for kind, port in ports.items():
            if kind in over:
                continue
            load = hammer(port, requests, connections=connections, seconds=SECONDS, warm_up=0.3)
            slow = 1000 * load.quantile(0.95)
            if slow <= WITHIN_MS:
                best[kind] = max(best[kind], (load.rate, connections))
            elif slow > 2 * WITHIN_MS:
                over.add(kind)
    return best


def _right(port: int) -> float:
    """Return the share of the holdout's first rows whose likeliest class is their label, as served."""
    rows = pd.read_parquet(HOLDOUT).head(JUDGED)
    answered: list[str] = []
    for start in range(0, len(rows), 100):
        part = rows["text"].iloc[start : start + 100].tolist()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict/many",
            json.dumps({"columns": {"text": part}}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            answered += json.load(answer)["columns"][MODEL]
    return float(np.mean(np.array(answered) == rows[MODEL].to_numpy()))


def _together(port: int) -> float:
    """Return how many rows a service computed at once, on average, as it counted them."""
    batches = _counted(port, "batch_rows_count") or _counted(port, "turn_rows_count")
    rows = _counted(port, "batch_rows_sum") or _counted(port, "turn_rows_sum")
    return rows / batches if batches else 0.0


def _cost(port: int, spent: float, answered: float) -> float:
    """Return the milliseconds of CPU of a request since so much was spent on so many."""
    return 1000 * (spent_by(port) - spent) / max(_answered(port) - answered, 1)


def _answered(port: int) -> float:
    return _counted(port, "predictions_total")


def _counted(port: int, name: str) -> float:
    """Return the sum of a metric's samples; 0 where there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        page = answer.read().decode()
    found = re.findall(rf"^tidegate_{name}\{{[^}}]*\}} ([0-9.e+]+)$", page, re.M)
    return sum(float(value) for value in found)
