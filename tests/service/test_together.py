"""Many rows, gathered requests and kept answers, as they run: a real Bento that is asked for all three."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pyarrow as pa
import pytest

from tests.builders import flight_row
from tests.planes import eventually
from tests.service.running import build, free_port, ready, start
from tidegate.serving import arrow

SETTINGS = """
batching: {maxRows: 32, maxDelayMs: 20}
cache: {entries: 1000}
many: {maxRows: 50}
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("together")
    (folder / "settings.yaml").write_text(SETTINGS)
    port = free_port()
    process = start(build(folder), port, TIDEGATE_SETTINGS=str(folder / "settings.yaml"))
    try:
        assert ready(process, port), process.stdout.read().decode() if process.stdout else ""
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=30)


def counted(client: httpx.Client, sample: str) -> float:
    """Return the sum of the samples that begin so."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(sample))


def crowd(client: httpx.Client, rows: list[dict[str, Any]], callers: int = 16) -> list[Any]:
    """Let callers ask for rows at the same time, and return the answers in the rows' order."""
    here = threading.local()

    def ask(row: dict[str, Any]) -> Any:
        if not hasattr(here, "client"):
            here.client = httpx.Client(base_url=client.base_url, timeout=60)
        answer = here.client.post("/predict", json=row)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(ask, rows))


def test_a_crowd_is_computed_in_batches(client: httpx.Client) -> None:
    """Under 16 callers at once batches of more than one row form, by their metric; each has his answer."""
    rounds = iter(range(1, 100))

    def formed() -> bool:
        day = next(rounds)
        rows = [
            flight_row(sched_dep_time=f"{hour:02d}:{minute:02d}", distance=day)
            for minute in range(10)
            for hour in range(24)
        ]
        found = crowd(client, rows)
        expected = [0.3 + 0.001 * int(row["sched_dep_time"][:2]) for row in rows]
        assert [answer["probability"] for answer in found] == pytest.approx(expected, abs=1e-6)
        requests, batches = (counted(client, f"tidegate_batch_rows_{what}{{") for what in ("sum", "count"))
        return requests > batches

    eventually(formed, 60)
    assert counted(client, 'tidegate_batch_rows_bucket{service="flight_delay",le="1"}') < counted(
        client, "tidegate_batch_rows_count{"
    )


def test_the_same_question_again_is_answered_from_the_cache(client: httpx.Client) -> None:
    """The second answer is the first, says that it was kept, and is counted as a hit."""
    row = flight_row(distance=4321)
    first, second = (client.post("/predict", json=row).json() for _ in range(2))
    assert (first["source"], second["source"]) == ("computed", "cached")
    assert first["probability"] == second["probability"]
    assert counted(client, "tidegate_cache_hits_total{") >= 1


def columns(count: int) -> dict[str, list[Any]]:
    """Return sound rows by column, each with another hour."""
    row = {name: value for name, value in flight_row().items() if not isinstance(value, dict)}
    given = {name: [value] * count for name, value in row.items()}
    return {**given, "sched_dep_time": [f"{index % 24:02d}:00" for index in range(count)]}


def test_many_rows_in_both_forms(client: httpx.Client) -> None:
    """A request of columns is answered by columns in its own form, with the same numbers in both."""
    given = columns(50)
    said = client.post("/predict/many", json={"columns": given})
    assert said.status_code == 200, said.text
    sink = pa.BufferOutputStream()
    table = pa.table(given)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    before = counted(client, "tidegate_predictions_total{")
    headers = {"content-type": arrow.TYPE, "x-request-id": "many-1"}
    answer = client.post("/predict/many", content=sink.getvalue().to_pybytes(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == arrow.TYPE
    found = pa.ipc.open_stream(answer.content).read_all()
    assert found.schema.metadata[b"request_id"] == b"many-1"
    assert found.column("probability").to_pylist() == said.json()["columns"]["probability"]
    assert counted(client, "tidegate_predictions_total{") == before + 50


def test_more_rows_than_allowed_are_refused(client: httpx.Client) -> None:
    """A request over `many.maxRows` is a 413 with a reason, and the service goes on."""
    refused = client.post("/predict/many", content=json.dumps({"columns": columns(51)}))
    assert refused.status_code == 413
    assert "at most 50" in refused.json()["error"]["reason"]
    assert client.post("/predict", json=flight_row()).status_code == 200
