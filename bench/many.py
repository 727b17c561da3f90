"""Many rows in one request, kept answers, and requests that are gathered, each beside doing without."""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.load import Load, hammer
from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import model, requests, service

ROWS, ROUNDS = 10_000, 7
HOLDOUT = Path("data/flight-delay/holdout.parquet")
CONNECTIONS, SECONDS = 16, 3.0
GATHERING = "batching: {maxRows: 64, maxDelayMs: 2}\n"
KEEPING = "cache: {entries: 1000}\n"


@contextlib.contextmanager
def _service(folder: Path, settings: str) -> Iterator[int]:
    """Run flight-delay by these settings, its log of predictions on, and give its port."""
    said = folder / f"settings-{len(list(folder.glob('settings-*')))}.yaml"
    said.write_text(settings)
    kept = str(folder / "predictions")
    with service(folder, TIDEGATE_SETTINGS=str(said), TIDEGATE_PREDICTIONS=kept) as port:
        yield port


# ---------------------------------------------------------------- many rows
def _table() -> Any:
    """Return 10,000 rows of the holdout as an Arrow table with a request's columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from services.flight_delay.schema import Flight
    from tidegate.serving.columns import Form

    if not HOLDOUT.is_file():
        raise CannotRun(f"no rows in {HOLDOUT}: run `dvc repro` first")
    found = pq.read_table(HOLDOUT)
    found = pa.concat_tables([found] * -(-ROWS // len(found))).slice(0, ROWS).combine_chunks()
    names = {name: name.replace(".", "_") for name in Form(Flight).columns}
    return pa.table({name: found.column(flat) for name, flat in names.items() if flat in found.column_names})


def _bodies(table: Any) -> Mapping[str, bytes]:
    """Return the rows as bodies by content type."""
    import pyarrow as pa

    # NaN, by which a table of pandas says that nothing is known, is null.
    table = pa.Table.from_pandas(table.to_pandas(), preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    given = json.dumps({"columns": table.to_pydict()}).encode()
    return {"application/vnd.apache.arrow.stream": sink.getvalue().to_pybytes(), "application/json": given}


def _raw(table: Any) -> tuple[Callable[[], Any], str]:
    """Return a run of ONNX Runtime alone on the same rows' features, one thread, and its version."""
    import onnxruntime

    from models.flight_delay import features

    flat = {name.replace(".", "_"): table.column(name).to_numpy() for name in table.column_names}
    matrix = features.compute_columns(flat, features.load(model() / "features.json"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model() / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: session.run(["probabilities"], {name: matrix})[0][:, 1], onnxruntime.__version__


def _ask(port: int, kind: str, body: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/predict/many", body, {"content-type": kind})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise CannotRun(f"{kind} is answered {answer.status}: {said[:200].decode(errors='replace')}")
        return said
    finally:
        connection.close()


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@entries(
    many_rows_arrow=("rows/s", Goal("ratio", at_least=0.8)),
    many_rows_json=("rows/s", Goal("ratio", at_least=0.6)),
)
def many_rows() -> Mapping[str, Measured]:
    """One request at a time, the raw run in turn with each form; the median of each."""
    import pyarrow as pa

    table = _table()
    raw, version = _raw(table)
    bodies = _bodies(table)
    taken: dict[str, list[float]] = {"raw": [], **{kind: [] for kind in bodies}}
    with (
        tempfile.TemporaryDirectory() as name,
        _service(Path(name), "many: {maxBytes: 67108864}\n") as port,
    ):
        for kind, body in bodies.items():
            _ask(port, kind, body)  # pyarrow is imported by the first
        for _ in range(ROUNDS):
            taken["raw"].append(_seconds(raw))
            for kind, body in bodies.items():
                taken[kind].append(_seconds(lambda kind=kind, body=body: _ask(port, kind, body)))  # type: ignore[misc]
        arrow, columns = (_ask(port, kind, body) for kind, body in bodies.items())
    scores = raw()
    said = pa.ipc.open_stream(arrow).read_all().column("probability").to_numpy()
    if not np.array_equal(said, scores) or json.loads(columns)["columns"]["probability"] != scores.tolist():
        raise CannotRun("the service answers other numbers than ONNX Runtime")
    rate = {kind: ROWS / statistics.median(times) for kind, times in taken.items()}
    peer = f"onnxruntime {version}"
    found = {}
    for entry, (kind, body) in zip(("many-rows-arrow", "many-rows-json"), bodies.items(), strict=True):
        note = f"{len(body) / 1e6:.1f} MB in, {1000 * ROWS / rate[kind]:.0f} ms; {ROUNDS} in turns, median"
        found[entry] = Measured(rate[kind], peer, rate["raw"], note)
    return found


# ---------------------------------------------------------------- requests of one row
def _turns(mine: int, theirs: int) -> tuple[Load, Load]:
    """Return the better round of each of two services, in turns."""
    rows = requests("/predict")
    found: dict[int, list[Load]] = {mine: [], theirs: []}
    for _ in range(2):
        for port in found:
            found[port].append(hammer(port, rows, connections=CONNECTIONS, seconds=SECONDS))
    best = [max(loads, key=lambda load: load.rate) for loads in found.values()]
    return best[0], best[1]


def _counted(port: int, name: str) -> float:
    """Return the sum of a metric's samples."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition("{")[0] == name)


@entries(batching_flights=("requests/s", Goal()), batching_flights_p99=("ms", Goal()))
def batching() -> Mapping[str, Measured]:
    """What flights would lose by requests that wait for each other: why it is off for them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _service(folder, GATHERING) as gathering, _service(folder, "") as plain:
            mine, theirs = _turns(gathering, plain)
            rows = _counted(gathering, "tidegate_batch_rows_sum")
            mean = rows / max(1.0, _counted(gathering, "tidegate_batch_rows_count"))
    note = f"{CONNECTIONS} connections, {mean:.1f} rows a batch"
    slow = [1000 * load.quantile(0.99) for load in (mine, theirs)]
    return {
        "batching-flights": Measured(mine.rate, "off", theirs.rate, note),
        "batching-flights-p99": Measured(slow[0], "off", slow[1], note),
    }


@entries(cache_hits=("requests/s", Goal("ratio", at_least=1.0)))
def cache() -> Mapping[str, Measured]:
    """Answers that are kept beside answers that are computed: the same few rows, again and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _service(folder, KEEPING) as keeping, _service(folder, "") as computing:
            mine, theirs = _turns(keeping, computing)
            hits, misses = (_counted(keeping, f"tidegate_cache_{what}_total") for what in ("hits", "misses"))
    note = f"{CONNECTIONS} connections, {hits / max(1.0, hits + misses):.2%} hits"
    return {"cache-hits": Measured(mine.rate, "computed", theirs.rate, note)}
