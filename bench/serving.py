"""The service beside a bare FastAPI app with the same model: one worker each, one after the other."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.load import Load, hammer, request
from bench.processes import free_port, running, wait_for
from bench.registry import CannotRun, Goal, Measured, entries

MODEL = Path("build/flight-delay/model")
CONNECTIONS, SECONDS, ROUNDS = 16, 4.0, 2


def model() -> Path:
    """Return the model's folder; raises CannotRun when it was never trained here."""
    if not (MODEL / "model.onnx").is_file():
        raise CannotRun(f"no model in {MODEL}: run `dvc repro` first")
    return MODEL.absolute()


def requests(path: str) -> list[bytes]:
    """Return the model's own example rows as requests."""
    rows = json.loads((model() / "examples.json").read_text())
    return [request(path, json.dumps(row).encode()) for row in rows]


@contextlib.contextmanager
def service(folder: Path) -> Iterator[int]:
    """Run flight-delay as a plane runs it, one process, and give its port. `folder` is for its files."""
    port, log = free_port(), folder / f"service-{free_port()}.log"
    command = [sys.executable, "-m", "tidegate.serve", "services.flight_delay.service:FlightDelay"]
    environment = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
        "PYTHONPATH": str(Path.cwd()),
    }
    with running([*command, "--port", str(port)], log=log, environment=environment) as process:
        wait_for(port, process, log)
        yield port


@contextlib.contextmanager
def peer(folder: Path) -> Iterator[int]:
    """Run the bare FastAPI app and give its port."""
    port, log = free_port(), folder / "peer.log"
    command = [sys.executable, "-m", "uvicorn", "bench.peer_app:app", "--no-access-log", "--port", str(port)]
    environment = {"BENCH_MODEL": str(model()), "PYTHONPATH": str(Path.cwd())}
    with running(command, log=log, environment=environment) as process:
        wait_for(port, process, log)
        yield port


@entries(
    service_throughput=("requests/s", Goal("ratio", at_least=1.0)),
    service_p99=("ms", Goal("ratio", at_most=1.0)),
)
def serving() -> Mapping[str, Measured]:
    """One worker, 16 connections; both are up, and take turns, so that neither has the quieter machine."""
    rows = requests("/predict")
    found: dict[str, list[Load]] = {"mine": [], "theirs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with service(folder) as mine, peer(folder) as theirs:
            for _ in range(ROUNDS):
                for who, port in (("mine", mine), ("theirs", theirs)):
                    found[who].append(hammer(port, rows, connections=CONNECTIONS, seconds=SECONDS))
    rate = {who: sum(load.rate for load in loads) / ROUNDS for who, loads in found.items()}
    slow = {who: 1000 * min(load.quantile(0.99) for load in loads) for who, loads in found.items()}
    note = f"one worker, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s each"
    return {
        "service-throughput": Measured(rate["mine"], "bare FastAPI", rate["theirs"], note),
        "service-p99": Measured(slow["mine"], "bare FastAPI", slow["theirs"], "the better round of each"),
    }
