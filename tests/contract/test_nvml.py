"""NVML by the real pynvml, on a library that is compiled here: what is told, and what can go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tidegate.selftest import gpu

ROOT = Path(__file__).parents[2]
UUID = "GPU-00000000-0000-0000-0000-000000000001"

# The dynamic linker reads LD_LIBRARY_PATH once, so each look is a process of its own.
LOOK = """
import json, sys, time
import msgspec
from tidegate.adapters import nvml
from tidegate.errors import TidegateError
try:
    with nvml.watch(json.loads(sys.argv[1]), 0.01) as watched:
        time.sleep(0.2)
    print(json.dumps({"watch": msgspec.to_builtins(watched)}))
except TidegateError as error:
    print(json.dumps({"kind": type(error).__name__, "error": error.message, "action": error.action}))
"""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stub, as of a driver of today and of an old one; without a C compiler this fails."""
    folder = tmp_path_factory.mktemp("nvml")
    return {"new": gpu.compile_stub(folder / "new"), "old": gpu.compile_stub(folder / "old", "-DOLD")}


def look(folder: Path, scenario: str, device: int | str = 0) -> dict[str, Any]:
    """Watch a device for a moment; return what was seen, or the error."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "NVML_STUB": scenario}
    command = [sys.executable, "-c", LOOK, json.dumps(device)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("device", [0, UUID])
def test_a_device_is_described_and_sampled(libraries: dict[str, Path], device: int | str) -> None:
    """By index or UUID; in bytes, shares, °C and watts."""
    seen = look(libraries["new"], "healthy", device)["watch"]
    assert seen["device"] == {
        "name": "Stub GPU",
        "uuid": UUID,
        "driver": "580.00.stub",
        "memory": 80 << 30,
        "hottest": 87.0,
        "power": 700.0,
    }
    assert len(seen["samples"]) > 3
    first = seen["samples"][0]
    assert (first["memory"], first["temperature"], first["power"]) == (20 << 30, 61.0, 350.0)
    assert (first["reasons"], first["uncorrected"]) == (4, 2)
    assert 0.6 <= first["busy"] < 0.8


@pytest.mark.parametrize(
    ("scenario", "field", "value"),
    [
        ("out-of-memory", "memory", (80 << 30) - (1 << 27)),
        ("throttled", "reasons", 0x48),
        ("hot", "temperature", 91.0),
        ("idle", "busy", 0.0),
        ("ecc", "uncorrected", 3),
        ("no-ecc", "uncorrected", None),
        ("mute", "memory", None),
    ],
)
def test_what_a_device_goes_through_is_in_its_samples(
    libraries: dict[str, Path], scenario: str, field: str, value: float | None
) -> None:
    """And what it does not support is None, which is not 0."""
    samples = look(libraries["new"], scenario)["watch"]["samples"]
    assert value in [one[field] for one in samples]


def test_a_moment_without_an_answer_is_skipped(libraries: dict[str, Path]) -> None:
    """A time-out is no sample and no end; it is counted."""
    seen = look(libraries["new"], "silent")["watch"]
    assert seen["samples"] == []
    assert seen["skipped"] > 3


@pytest.mark.parametrize(
    ("scenario", "library", "device", "kind", "says"),
    [
        ("lost", "new", 0, "Unreachable", "the GPU is lost (after 5 samples)"),
        ("healthy", "old", 0, "PlatformError", "the NVIDIA driver is too old"),
        ("mismatch", "new", 0, "PlatformError", "too old for its library, or too new"),
        ("unloaded", "new", 0, "PlatformError", "the NVIDIA driver is not loaded"),
        ("empty", "new", 0, "PlatformError", "no GPU is `0`"),
        ("healthy", "new", 3, "PlatformError", "no GPU is `3`"),
        ("healthy", "new", "GPU-12345678", "PlatformError", "no GPU is `GPU-12345678`"),
    ],
)
def test_a_device_that_can_not_be_looked_at_is_an_error_of_ours(
    libraries: dict[str, Path], scenario: str, library: str, device: int | str, kind: str, says: str
) -> None:
    """None of NVML's exceptions leaves the adapter; each says what is wrong and what to do."""
    found = look(libraries[library], scenario, device)
    assert found["kind"] == kind
    assert says in found["error"]
    assert found["action"]


def test_no_driver_is_an_error_of_ours(tmp_path: Path) -> None:
    """A library that can't be loaded; it hides a real one, should there be one."""
    (tmp_path / gpu.LIBRARY).write_text("no library")
    found = look(tmp_path, "")
    assert found["kind"] == "PlatformError"
    assert "no NVIDIA driver is here" in found["error"]
    assert "gates.gpu.device" in found["action"]


@pytest.mark.parametrize("ended", ["raise KeyError('mine')", "raise KeyboardInterrupt"])
def test_the_blocks_own_end_is_not_hidden(libraries: dict[str, Path], ended: str) -> None:
    """An exception of the block goes on as it is, and no thread keeps the process."""
    script = f"from tidegate.adapters import nvml\nwith nvml.watch(0, 0.01):\n    {ended}"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries["new"])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode != 0
    assert ended.split("(")[0].removeprefix("raise ") in done.stderr
