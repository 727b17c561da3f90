"""What a look into the online store costs a request, beside one that brings its values along."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.load import hammer, request
from bench.processes import free_port, running, wait_for
from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import model, service

ROUNDS, SECONDS = 7, 1.0


def looking(*, up: bool) -> list[bytes]:
    """Return the model's example rows as requests, with their recent values or (`up`) without."""
    rows = json.loads((model() / "examples.json").read_text())
    if up:
        rows = [{key: value for key, value in row.items() if key != "recent"} for row in rows]
    return [request("/predict", json.dumps(row).encode()) for row in rows]


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run a Redis and give its address; raises CannotRun where there is none."""
    if shutil.which("redis-server") is None:
        raise CannotRun("redis-server is not installed")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with running(command, log=folder / "redis.log") as process:
        wait_for(port, process, folder / "redis.log")
        yield f"redis://127.0.0.1:{port}/0"


def fill(address: str) -> int:
    """Store a share for everything that the example rows ask for."""
    from models.flight_delay import features
    from tidegate import config, wiring

    rows = json.loads((model() / "examples.json").read_text())
    keys = {key.format(**row) for row in rows for key in features.KEYS.values()}
    store = wiring.features(config.Platform(), config.Home(Path.cwd()), address)
    store.write("bench", dict.fromkeys(keys, b"0.25"), 3600)
    store.close()
    return len(keys)


@entries(
    online_redis=("ms", Goal("difference", at_most=1.0)),
    online_sqlite=("ms", Goal("difference", at_most=1.0)),
)
def online() -> Mapping[str, Measured]:
    """Median of one connection's requests in turns: values in the request, looked up in each store."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stores = {"redis": stack.enter_context(redis(folder)), "sqlite": f"sqlite:///{folder}/features.db"}
        keys = max(fill(address) for address in stores.values())
        ports = {
            kind: stack.enter_context(service(folder, TIDEGATE_FEATURES=address))
            for kind, address in stores.items()
        }
        for _ in range(ROUNDS):
            for kind, port in ports.items():
                for up in (False, True):
                    load = hammer(port, looking(up=up), connections=1, seconds=SECONDS, warm_up=0.2)
                    name = kind if up else f"{kind} without"
                    found.setdefault(name, []).append(1000 * load.quantile(0.5))
    middle = {kind: statistics.median(values) for kind, values in found.items()}
    return {
        f"online-{kind}": Measured(
            middle[kind],
            "in the request",
            middle[f"{kind} without"],
            f"{middle[kind] - middle[f'{kind} without']:.3f} ms more at the median, 3 of {keys} keys each,"
            f" one connection, {ROUNDS} rounds of {SECONDS:g} s each",
        )
        for kind in stores
    }
