"""The service beside FastAPI and beside raw ASGI with the same model; its start, and more than it can do."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from bench.load import Load, hammer, request
from bench.processes import free_port, running, wait_for
from bench.registry import CannotRun, Goal, Measured, entries
from tidegate.serving.settings import Queue

MODEL = Path("build/flight-delay/model")
CONNECTIONS, SECONDS, ROUNDS, STARTS = 16, 4.0, 3, 5
CROWD = 64  # connections, as a router in front keeps them
WITHIN_MS = 15.0


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
def service(folder: Path, **more: str) -> Iterator[int]:
    """Run flight-delay as a plane runs it, one process, and give its port; see `started`."""
    with started(folder, **more) as (port, _):
        yield port


@contextlib.contextmanager
def started(folder: Path, *options: str, of: str = "flight-delay", **more: str) -> Iterator[tuple[int, int]]:
    """Run a model's service as a plane runs it, and give its port and its process' id.

    `folder` is for its files, `options` are more words of its command, `more` variables of its environment.
    """
    port, log = free_port(), folder / f"service-{free_port()}.log"
    command = [sys.executable, "-m", "tidegate.serve", f"services.{of.replace('-', '_')}.service"]
    environment = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
        "PYTHONPATH": str(Path.cwd()),
        **more,
    }
    with running([*command, "--port", str(port), *options], log=log, environment=environment) as process:
        wait_for(port, process, log)
        yield port, process.pid


@contextlib.contextmanager
def by_bentoml(folder: Path, **more: str) -> Iterator[int]:
    """Run the same by `bentoml serve`, one worker as it comes, and give its port."""
    port, log = free_port(), folder / "by-bentoml.log"
    command = [sys.executable, "-m", "bentoml", "serve", "services.flight_delay.service:FlightDelay"]
    environment = {
        "BENTOML_HOME": str(folder / "by-bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(Path.cwd()),
        **more,
    }
    with running([*command, "--port", str(port)], log=log, environment=environment) as process:
        wait_for(port, process, log)
        wait_until_ready(port)
        yield port


@contextlib.contextmanager
def peer(folder: Path, app: str = "bench.peer_app:app") -> Iterator[int]:
    """Run one of the peers by uvicorn and give its port."""
    port = free_port()
    log = folder / f"peer-{port}.log"
    command = [sys.executable, "-m", "uvicorn", app, "--no-access-log", "--port", str(port)]
    environment = {"BENCH_MODEL": str(model()), "PYTHONPATH": str(Path.cwd())}
    with running(command, log=log, environment=environment) as process:
        wait_for(port, process, log)
        yield port


def wait_until_ready(port: int, seconds: float = 60.0) -> None:
    """Wait until `/readyz` says 200; raises CannotRun if it never does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
            return
        time.sleep(0.05)
    raise CannotRun(f"nothing was ready on its port within {seconds:g} s")


def versions(*names: str) -> str:
    """Return packages with their versions, for a note."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


# ---------------------------------------------------------------- beside others
@entries(
    service_throughput=("requests/s", Goal("ratio", at_least=3.0)),
    service_throughput_64=("requests/s", Goal("ratio", at_least=3.0)),
    service_p99=("ms", Goal("ratio", at_most=1.0)),
    service_raw=("requests/s", Goal("ratio", at_least=0.8)),
    service_raw_p99=("ms", Goal("ratio", at_most=1.0)),
    service_bentoml=("requests/s", Goal("ratio", at_least=0.8)),
    service_15ms=("rows/s", Goal("ratio", at_least=1.0)),
)
def serving() -> Mapping[str, Measured]:
    """One worker each, 16 connections; all are up, and take turns, so that nobody has the quieter machine."""
    rows = requests("/predict")
    found: dict[str, list[Load]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        everything_on = {
            "TIDEGATE_PREDICTIONS": str(folder / "predictions"),
            "TIDEGATE_RELEASE": "bench",
            "TIDEGATE_MODEL_VERSION": "1",
        }
        ports = {
            "mine": stack.enter_context(service(folder, **everything_on)),
            "bentoml": stack.enter_context(by_bentoml(folder, **everything_on)),
            "fastapi": stack.enter_context(peer(folder)),
            "raw": stack.enter_context(peer(folder, "bench.raw_app:app")),
        }
        spent: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for who, port in ports.items():
                before = spent_by(port)
                load = hammer(port, rows, connections=CONNECTIONS, seconds=SECONDS, warm_up=0.0)
                found.setdefault(who, []).append(load)
                spent.setdefault(who, []).append(1e6 * (spent_by(port) - before) / load.requests)
        crowded = {who: _crowded(ports[who], rows) for who in ("mine", "fastapi")}
        carried = {who: _carried(ports[who], rows) for who in ("mine", "fastapi")}
    rate = {who: statistics.median(load.rate for load in loads) for who, loads in found.items()}
    slow = {who: 1000 * min(load.quantile(0.99) for load in loads) for who, loads in found.items()}
    fastapi = versions("fastapi", "pydantic", "uvicorn", "httptools", "uvloop", "onnxruntime")
    raw = f"the same model by hand, {versions('uvicorn', 'msgspec')}"
    cpu = {who: statistics.median(each) for who, each in spent.items()}
    told = ", ".join(f"{who} {each:.0f}" for who, each in cpu.items())
    raw = f"{raw}; microseconds of CPU a request: {told}"
    bento = versions("bentoml")
    note = (
        f"one worker, {CONNECTIONS} connections, median of {ROUNDS} rounds of {SECONDS:g} s each; {fastapi}"
    )
    best = "the best round of each"
    most = f"p99 {carried['mine'][1]:.1f} ms at {carried['mine'][2]} connections; client included"
    crowd = f"the same at {CROWD} connections, the better of two rounds"
    return {
        "service-throughput-64": Measured(crowded["mine"], "FastAPI", crowded["fastapi"], crowd),
        "service-throughput": Measured(rate["mine"], "FastAPI", rate["fastapi"], note),
        "service-p99": Measured(slow["mine"], "FastAPI", slow["fastapi"], best),
        "service-raw": Measured(rate["mine"], "raw ASGI", rate["raw"], raw),
        "service-raw-p99": Measured(slow["mine"], "raw ASGI", slow["raw"], best),
        "service-bentoml": Measured(rate["bentoml"], "raw ASGI", rate["raw"], f"`bentoml serve`, {bento}"),
        "service-15ms": Measured(carried["mine"][0], "FastAPI", carried["fastapi"][0], most),
    }


def _crowded(port: int, rows: Sequence[bytes]) -> float:
    """Return answers a second to many connections, of two short rounds the better one."""
    return max(hammer(port, rows, connections=CROWD, seconds=2.0, warm_up=0.5).rate for _ in range(2))


def spent_by(port: int) -> float:
    """Return the seconds of CPU that the processes which listen on a port have used."""
    listening = psutil.net_connections("tcp")
    found = {one.pid for one in listening if one.status == psutil.CONN_LISTEN and one.laddr.port == port}
    times = [psutil.Process(pid).cpu_times() for pid in found if pid]
    return float(sum(time.user + time.system for time in times))


def _carried(port: int, rows: Sequence[bytes]) -> tuple[float, float, int]:
    """Return the most answers a second with 99% within 15 ms, their p99 in ms, and the connections."""
    best = (0.0, 0.0, 0)
    for connections in (1, 2, 4, 8, 16, 32, 64, 96):
        load = hammer(port, rows, connections=connections, seconds=1.5, warm_up=0.5)
        slow = 1000 * load.quantile(0.99)
        if slow <= WITHIN_MS and load.rate > best[0]:
            best = (load.rate, slow, connections)
    return best


# ---------------------------------------------------------------- the beginning
@entries(
    service_start=("s", Goal(at_most=6.0)),
    service_first=("ms", Goal("ratio", at_most=2.0)),
)
def beginning() -> Mapping[str, Measured]:
    """From the process' begin to readiness, and the first counted request beside the median of later ones.

    Before anything counts, a replica is sent the model's own examples over a socket, as on a plane.
    """
    bodies = [one.partition(b"\r\n\r\n")[2] for one in requests("/predict")]
    body = bodies[0]
    starts, firsts, medians = [], [], []
    with tempfile.TemporaryDirectory() as name:
        for number in range(STARTS):
            folder = Path(name) / str(number)
            folder.mkdir()
            began = time.perf_counter()
            with service(folder, TIDEGATE_PREDICTIONS=str(folder / "predictions")) as port:
                wait_until_ready(port)
                starts.append(time.perf_counter() - began)
                for example in bodies:
                    _asked(port, example, {"x-tidegate-warm": "1"})
                took = [_asked(port, body) for _ in range(201)]
            firsts.append(took[0])
            medians.append(statistics.median(took[1:]))
    note = f"median of {STARTS} starts; each request over a connection of its own"
    return {
        "service-start": Measured(statistics.median(starts), note=f"the median of {STARTS} starts"),
        "service-first": Measured(statistics.median(firsts), "later ones", statistics.median(medians), note),
    }


def _asked(port: int, body: bytes, headers: Mapping[str, str] | None = None) -> float:
    """Return the milliseconds of one request over a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    began = time.perf_counter()
    connection.request("POST", "/predict", body, dict(headers or {}))
    connection.getresponse().read()
    took = 1000 * (time.perf_counter() - began)
    connection.close()
    return took


# ---------------------------------------------------------------- too much
@entries(
    service_overload_memory=("MB", Goal(at_most=32.0)),
    service_overload_answers=("answers/s", Goal("ratio", at_least=0.5)),
)
def overload() -> Mapping[str, Measured]:
    """A minute of ten times as many callers as the queue holds, each asking again at once when refused."""
    rows = requests("/predict")
    callers = 10 * Queue().max_waiting
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with service(folder, TIDEGATE_PREDICTIONS=str(folder / "predictions")) as port:
            calm = hammer(port, rows, connections=CONNECTIONS, seconds=SECONDS)
            hammer(port, rows, connections=callers, seconds=5.0, refusals=True)  # what a crowd needs once
            before = _held(port)
            crowd = hammer(port, rows, connections=callers, seconds=60.0, refusals=True)
            grown = _held(port) - before
    answered = (crowd.requests - crowd.failed) / crowd.seconds
    note = f"{callers} callers for 60 s: {crowd.requests:,} requests, {crowd.failed:,} of them refused by 429"
    return {
        "service-overload-memory": Measured(grown / 1e6, note="grown in that minute"),
        "service-overload-answers": Measured(answered, f"{CONNECTIONS} callers", calm.rate, note),
    }


def _held(port: int) -> float:
    """Return the bytes of memory that a service says it holds."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    found = re.search(r"^tidegate_memory_bytes\{.*\} (\S+)$", page, re.M)
    if found is None:
        raise CannotRun("the service does not tell its memory")
    return float(found[1])
