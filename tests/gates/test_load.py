"""The load gate: real Locust against a small real server."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
import yaml

from tests.builders import GateRoom, record
from tests.gates.endpoint import serve, slow
from tidegate.adapters import locust
from tidegate.core.verdict import Verdict
from tidegate.errors import NoData, Unreachable

SETTINGS: dict[str, Any] = {
    "rows": 10,
    "seed": 1,
    "users": 4,
    "rate": 40,
    "warmup": 0.2,
    "duration": 1.0,
    "looks": 1,
    "min_requests": 20,
    "p50": 400,
    "p95": 450,
    "p99": 500,
    "min_throughput": 10,
    "error_rate": 0.01,
    "climb": {"step": 0.3, "users": 4, "top": 80},
    "turns": {
        "duration": 1,
        "warmup": 0.1,
        "min_answers": 50,
        "resolution": 0.03,
        "margins": {"p50": 0.1, "p95": 0.25, "throughput": 0.15},
    },
}
ROWS = [{"origin": "EWR", "distance": 1}, {"origin": "JFK", "distance": 2}]
FEATURES = """
def to_rows(columns):
    return [{"origin": o, "distance": int(d)} for o, d in zip(columns["origin"], columns["distance"])]
"""


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with two rows of a live stream and a release, and with nothing in production."""
    made = GateRoom(tmp_path, "load", SETTINGS)
    files = {
        "models/__init__.py": "",
        "models/toy/__init__.py": "",
        "models/toy/features.py": FEATURES,
        "envs/staging/platform.yaml": "plane: staging\n",
        "envs/production/release.yaml": "models: {}\n",
        "build/toy/release.yaml": yaml.safe_dump(msgspec.to_builtins(record(1))),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    pd.DataFrame(ROWS).to_parquet(made.data / "live.parquet")
    return made


def test_a_quick_service_passes(room: GateRoom) -> None:
    """The real script exits 0, keeps the pace it was given, and reports the quantiles in order."""
    with serve() as url:
        code, found = room.run("--endpoint", url)
    assert code == 0
    numbers = found.measurements
    assert 0 < numbers["p50"] <= numbers["p95"] <= numbers["p99"]
    assert numbers["throughput"] == pytest.approx(40, rel=0.5)
    assert numbers["failures"] == 0


def test_a_slow_service_fails(room: GateRoom) -> None:
    """Answers that are right but late break the latency limits, and those alone."""
    room.set({**SETTINGS, "p50": 20, "p95": 400, "p99": 500, "min_requests": 10})
    with serve(slow(0.05)) as url:
        code, found = room.run("--endpoint", url)
    assert code == 1
    assert {f.name for f in found.findings if f.verdict is Verdict.FAIL} == {"p50"}


def test_failing_answers_fail_however_few(room: GateRoom) -> None:
    """One answer in five is a 500: FAIL with the reason counted, however small the sample."""
    room.set({**SETTINGS, "min_requests": 100000})
    with serve(lambda n, b, s, a: (500 if n % 5 == 0 else s, a)) as url:
        code, found = room.run("--endpoint", url)
    assert code == 1
    rate = next(f for f in found.findings if f.name == "error rate")
    assert rate.observed == pytest.approx(0.2, abs=0.05)
    assert any("500" in reason for reason in found.measurements["failure_reasons"])


def test_few_requests_are_inconclusive(room: GateRoom) -> None:
    """Fewer requests than `min_requests` decide nothing about latencies."""
    room.set({**SETTINGS, "min_requests": 100000})
    with serve() as url:
        code, found = room.run("--endpoint", url)
    assert code == 2
    assert next(f for f in found.findings if f.name == "p99").verdict is Verdict.INCONCLUSIVE


def test_nobody_there_is_an_error(room: GateRoom) -> None:
    """The real script exits 3, and at once, when nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/toy"
    code, found = room.run("--endpoint", url)
    assert code == 3
    assert "nobody listens" in found.findings[0].reason


def test_another_release_at_the_endpoint_fails(room: GateRoom) -> None:
    """Numbers of one release say nothing of another: the one that was asked for must answer."""
    with serve() as url:
        code, found = room.run("--endpoint", url, "--release", record(1).id)
    assert code == 1
    failed = [f for f in found.findings if f.verdict is Verdict.FAIL]
    assert [f.name for f in failed] == ["release that answers"]
    assert record(1).id in failed[0].reason
    assert "aaaaaaaaaaaa" in failed[0].reason


def test_answers_that_never_come_are_not_failures() -> None:
    """A server that hangs up on everything could not be looked at."""
    with serve(lambda *_: None) as url, pytest.raises(Unreachable, match="was answered"):
        locust.measure(f"{url}/predict", ROWS, users=1, rate=20, seconds=0.5)


def test_zero_requests_are_no_data() -> None:
    """Locust itself exits 0 after no request: here that is an error."""
    with serve() as url, pytest.raises(NoData, match="no request"):
        locust.measure(f"{url}/predict", ROWS, users=1, rate=0.001, warmup=0.5, seconds=0.2)
    with serve() as url, pytest.raises(NoData, match="no row"):
        locust.measure(f"{url}/predict", [], users=1, rate=20, seconds=0.5)


def test_every_row_is_replayed() -> None:
    """The rows go out in turn, each as it is."""
    bodies: list[Any] = []

    def keep(n: int, body: bytes, status: int, answer: dict[str, Any]) -> Any:
        bodies.append(json.loads(body))
        return status, answer

    with serve(keep) as url:
        locust.measure(f"{url}/predict", ROWS, users=1, rate=20, seconds=0.5)
    assert bodies[:4] == [*ROWS, *ROWS]
