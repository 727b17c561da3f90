"""What a process tells of its GPU: by the real pynvml, on a library of NVML that is compiled here."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pynvml
import pytest

from tests.builders import flight_row
from tests.service.running import ROOT, Built, build, free_port, ready, start
from tests.service.test_metrics import samples
from tidegate.core.device import HELD_DOWN, POWER_CAP
from tidegate.selftest.gpu import compile_stub
from tidegate.serving import gpu
from tidegate.serving.provider import Running
from tidegate.serving.ready import Runs, telling
from tidegate.serving.settings import Batching, Settings

UUID = "GPU-00000000-0000-0000-0000-000000000001"

# The dynamic linker reads LD_LIBRARY_PATH once, so each look is a process of its own.
SCRAPES = """
import asyncio, json, logging, sys, time
from tidegate.serving import gpu
from tidegate.serving.metrics import Registry
logging.basicConfig(level=logging.WARNING)
gpu.FRESH = 0.0
async def scrape():
    registry = Registry("toy")
    watched = gpu.Gpu(0, registry.add)
    for _ in range(int(sys.argv[1])):
        began = time.monotonic()
        await watched.refresh()
        print(json.dumps([time.monotonic() - began, registry.text()]))
asyncio.run(scrape())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 without a GPU."""
    return compile_stub(tmp_path_factory.mktemp("nvml"))


def scrapes(folder: Path, scenario: str, count: int = 1) -> tuple[list[dict[tuple[str, ...], float]], str]:
    """Scrape a device some times; return each page's samples, and what was logged."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "NVML_STUB": scenario}
    command = [sys.executable, "-c", SCRAPES, str(count)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return [samples(json.loads(line)[1]) for line in done.stdout.splitlines()], done.stderr


def test_a_gpu_is_told_in_shares_bytes_degrees_and_watts(library: Path) -> None:
    """Everything that the device tells, and who it is; a cap of power is told as what it is."""
    (seen,), logged = scrapes(library, "healthy")
    used = seen.pop(("tidegate_gpu_utilisation",))
    assert 0.6 <= used < 0.8
    assert seen == {
        ("tidegate_gpu_up",): 1,
        ("tidegate_gpu_info", "0", "580.00.stub", "Stub GPU", UUID): 1,
        ("tidegate_gpu_memory_used_bytes",): 20 << 30,
        ("tidegate_gpu_memory_bytes",): 80 << 30,
        ("tidegate_gpu_temperature_celsius",): 61,
        ("tidegate_gpu_power_watts",): 350,
        ("tidegate_gpu_power_limit_watts",): 700,
        ("tidegate_gpu_ecc_errors_total",): 2,
        ("tidegate_gpu_throttled", "power_cap"): 1,
        ("tidegate_gpu_throttled", "hardware_slowdown"): 0,
        ("tidegate_gpu_throttled", "heat_by_driver"): 0,
        ("tidegate_gpu_throttled", "heat_by_hardware"): 0,
        ("tidegate_gpu_throttled", "power_brake"): 0,
    }
    assert logged == ""


def test_clocks_that_are_held_down_say_why(library: Path) -> None:
    """By the reasons that the gpu gate knows, too."""
    (seen, _), _ = scrapes(library, "throttled", 2)
    held = {key[1] for key, value in seen.items() if key[0] == "tidegate_gpu_throttled" and value}
    assert held == {"hardware_slowdown", "heat_by_hardware"}
    assert set(gpu.REASONS.values()) == {POWER_CAP, *HELD_DOWN}


def test_what_a_device_does_not_tell_is_not_there(library: Path) -> None:
    """Not supported is absent, which is not 0."""
    (seen,), _ = scrapes(library, "mute")
    assert {key[0].removeprefix("tidegate_gpu_") for key in seen} == {
        "up",
        "info",
        "power_watts",
        "power_limit_watts",
    }


@pytest.mark.parametrize(("scenario", "count"), [("lost", 8), ("silent", 3)])
def test_a_gpu_that_stops_answering_is_down_and_has_no_numbers(
    library: Path, scenario: str, count: int
) -> None:
    """`tidegate_gpu_up` is 0, the last numbers are not told again, and the log has one line."""
    pages, logged = scrapes(library, scenario, count)
    assert pages[0]["tidegate_gpu_up",] == 1
    assert {key[0]: value for key, value in pages[-1].items()} == {
        "tidegate_gpu_up": 0,
        "tidegate_gpu_info": 1,
    }
    assert logged.count("NVML does not tell of GPU 0") == 1


@pytest.mark.parametrize("scenario", ["unloaded", "empty"])
def test_a_driver_without_a_device_tells_nothing(library: Path, scenario: str) -> None:
    """No name of a GPU is on the page, and no error stops the scrape."""
    pages, _ = scrapes(library, scenario, 2)
    assert pages == [{}, {}]


def test_a_machine_without_a_driver_tells_nothing_and_logs_nothing(tmp_path: Path) -> None:
    """A library that can't be loaded; it hides a real one, should there be one."""
    (tmp_path / gpu.LIBRARY).write_text("no library")
    pages, logged = scrapes(tmp_path, "")
    assert pages == [{}]
    assert logged == ""


@pytest.mark.parametrize(
    ("visible", "device", "found"),
    [
        (None, 1, 1),
        (None, 3, None),
        ("2,0", 0, 2),
        ("2,0", 1, 0),
        ("0", 1, None),
        ("", 0, None),
        ("-1", 0, None),
        ("GPU-bb", 0, 1),
        ("GPU-xx", 0, None),
        ("7", 0, None),
    ],
)
def test_numbers_are_those_of_cuda(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: int, found: int | None
) -> None:
    """CUDA_VISIBLE_DEVICES renumbers devices for CUDA alone; what is told is of the one that computes."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    uuids = ("GPU-aa", "GPU-bbb", "GPU-cc")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: SimpleNamespace(index=index))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: uuids[handle.index])
    handle = gpu.found(device)
    assert (handle.index if handle is not None else None) == found


# ---------------------------------------------------------------- in a served process
@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A Bento of the flights model's service."""
    return build(tmp_path_factory.mktemp("bento"))


@pytest.fixture
def served(built: Built, library: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A process on a machine whose driver hangs from the second look on."""
    port = free_port()
    process = start(built, port, LD_LIBRARY_PATH=str(library), NVML_STUB="hung")
    try:
        assert ready(process, port), process.stdout.read().decode() if process.stdout else ""
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_a_driver_that_hangs_holds_nothing_up(served: tuple[str, subprocess.Popen[bytes]]) -> None:
    """`/metrics` and predictions are answered, the GPU is told as down, and the process ends when asked."""
    url, process = served
    first = samples(httpx.get(f"{url}/metrics", timeout=30).text)
    assert first["tidegate_gpu_up",] == 1
    assert first["tidegate_gpu_memory_bytes",] == 80 << 30
    assert first["tidegate_runtime_info", "", "cpu", ""] == 1

    def down() -> dict[tuple[str, ...], float]:
        return samples(httpx.get(f"{url}/metrics", timeout=30).text)

    while (seen := down())["tidegate_gpu_up",]:  # as long as the first look is fresh
        pass
    assert not [key for key in seen if key[0] == "tidegate_gpu_memory_bytes"]
    assert httpx.post(f"{url}/predict", json=flight_row(), timeout=30).status_code == 200
    process.terminate()
    assert process.wait(30) == 0


def test_readiness_says_what_runs_the_model(served: tuple[str, subprocess.Popen[bytes]]) -> None:
    """`/readyz` answers as before; its JSON names provider, device and variant, and why no GPU is used."""
    url, _ = served
    answer = httpx.get(f"{url}/readyz", timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json()
    assert "onnxruntime-gpu" in body.pop("reason")
    assert body == {"ready": True, "provider": "cpu", "device": None, "variant": ""}


def test_a_service_that_wants_a_gpu_does_not_start_without(built: Built) -> None:
    """TIDEGATE_PROVIDER=cuda: the process ends, and its log says what is missing."""
    port = free_port()
    process = start(built, port, TIDEGATE_PROVIDER="cuda")
    try:
        assert not ready(process, port)
    finally:
        process.kill()
    assert b"`provider: cuda`, but" in process.communicate(timeout=30)[0]
    assert process.returncode != 0


def test_a_gpu_is_warmed_up_with_each_size_of_a_batch() -> None:
    """The largest first, which takes the most memory, down to two rows; one by one the examples did it."""
    model = SimpleNamespace(running=Running("cuda", "fp16", 1))
    service = SimpleNamespace(instance=SimpleNamespace(model=model))
    runs = Runs(service, Settings(batching=Batching(max_rows=512)), lambda *metric: None)
    seen: list[tuple[int, ...]] = []
    assert runs.on_gpu
    runs.warm([np.ones((1, 3)), np.zeros((1, 3))], lambda rows: seen.append(rows.shape))
    assert seen == [(size, 3) for size in (512, 256, 128, 64, 32, 16, 8, 4, 2)]
    assert runs.document() == {"provider": "cuda", "device": 1, "variant": "fp16"}


@pytest.mark.parametrize("status", [200, 503])
def test_readiness_keeps_its_status(status: int) -> None:
    """Whoever reads no more than the status sees what BentoML says, and the body's length is its own."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def answer() -> None:
        later = telling(send, lambda: {"provider": "cpu"})
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"1"), (b"x-own", b"1")]
        await later({"type": "http.response.start", "status": status, "headers": headers})
        await later({"type": "http.response.body", "body": b"\n"})

    asyncio.run(answer())
    start, body = sent
    assert start["status"] == status
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    assert dict(start["headers"])[b"x-own"] == b"1"
    assert json.loads(body["body"]) == {"ready": status == 200, "provider": "cpu"}
