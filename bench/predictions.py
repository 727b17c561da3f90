"""What the log of predictions costs a service: two processes alike, one writes, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.load import Load, hammer
from bench.registry import CannotRun, Goal, Measured, entries
from bench.serving import requests, service

CONNECTIONS, SECONDS, ROUNDS = 16, 2.0, 6


@entries(
    log_throughput=("requests/s", Goal("ratio", at_least=0.95)),
    log_p99=("ms", Goal("ratio", at_most=1.1)),
)
def log() -> Mapping[str, Measured]:
    """Both are up and take turns, and who begins a round changes; all that was answered must be written."""
    rows = requests("/predict")
    found: dict[str, list[Load]] = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            service(folder, TIDEGATE_PREDICTIONS=str(folder / "log")) as written,
            service(folder) as silent,
        ):
            both = [("on", written), ("off", silent)]
            for _ in range(ROUNDS):
                for who, port in both:
                    found[who].append(hammer(port, rows, connections=CONNECTIONS, seconds=SECONDS))
                both.reverse()
        kept = _kept(folder / "log")
    answered = sum(load.requests - load.failed for load in found["on"])
    if kept < answered:
        raise CannotRun(f"only {kept} of {answered} answers are in the log: the disk is too slow to compare")
    rate = {who: sum(load.rate for load in loads) / ROUNDS for who, loads in found.items()}
    slow = {who: 1000 * min(load.quantile(0.99) for load in loads) for who, loads in found.items()}
    note = f"one worker, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s each; {kept} records"
    return {
        "log-throughput": Measured(rate["on"], "without the log", rate["off"], note),
        "log-p99": Measured(slow["on"], "without the log", slow["off"], "the better round of each"),
    }


def _kept(folder: Path) -> int:
    from tidegate.adapters.predictions import PredictionStore

    return int(PredictionStore(folder).query("SELECT count(*) FROM predictions", seconds=300).rows[0][0])
