"""The gpu gate: the real script and the real pynvml, on a library compiled here in place of a driver's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import GateRoom
from tests.gates.endpoint import serve
from tidegate.core.verdict import Verdict
from tidegate.errors import PlatformError
from tidegate.selftest import gpu

SETTINGS: dict[str, Any] = {
    "device": 0,
    "users": 1,
    "rate": 50,
    "warmup": 0.0,
    "duration": 0.5,
    "every": 0.02,
    "min_samples": 8,
    "memory": 0.9,
    "utilisation": 0.02,
    "temperature": 0.95,
    "throttled": 0.01,
    "ecc": 0,
    "error_rate": 0.0,
}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub in place of a driver's library; without a C compiler this fails."""
    return gpu.compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def room(tmp_path: Path) -> GateRoom:
    """A checkout with two example rows."""
    made = GateRoom(tmp_path, "gpu", SETTINGS)
    (made.build / "model").mkdir()
    rows = [{"origin": "EWR", "distance": 1}, {"origin": "JFK", "distance": 2}]
    (made.build / "model" / "examples.json").write_text(json.dumps(rows))
    return made


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A sound endpoint."""
    with serve() as found:
        yield found


def run(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, folder: Path, scenario: str, url: str
) -> tuple[int, Any]:
    """Run the gate where the linker finds the stub first."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("NVML_STUB", scenario)
    return room.run("--endpoint", url)


def test_no_gpu_is_not_applicable(room: GateRoom) -> None:
    """Exit 0 with the reason, and not a PASS: nothing was looked at, not even the endpoint."""
    for none in (None, "none"):
        room.set({**SETTINGS, "device": none})
        code, found = room.run("--endpoint", "http://127.0.0.1:9")
        assert (code, found.verdict) == (0, Verdict.NOT_APPLICABLE)
        assert "no GPU is declared for this model" in found.findings[0].reason


def test_a_healthy_device_passes(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, library: Path, url: str
) -> None:
    """The report has shares of the device's own limits, and draws them."""
    code, found = run(room, monkeypatch, library, "healthy", url)
    assert code == 0
    assert {one.verdict for one in found.findings} == {Verdict.PASS}
    assert found.measurements["device"]["name"] == "Stub GPU"
    assert found.measurements["power_share_at_most"] == 0.5
    drawn = {series.name: series.y[0] for series in found.charts[0].series}
    assert drawn["memory"] == 0.25
    assert drawn["temperature"] == pytest.approx(61 / 87)


def test_a_throttled_device_fails(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, library: Path, url: str
) -> None:
    """Exit 1, by the one finding that it is about, which says what holds the clocks down."""
    code, found = run(room, monkeypatch, library, "throttled", url)
    assert code == 1
    (failed,) = (one for one in found.findings if one.verdict is Verdict.FAIL)
    assert failed.name == "throttling"
    assert "heat" in failed.reason


def test_a_device_that_is_lost_during_the_run_is_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, library: Path, url: str
) -> None:
    """Exit 3, and the samples from before the loss decide nothing."""
    code, found = run(room, monkeypatch, library, "lost", url)
    assert code == 3
    assert [one.reason.partition(" (")[0] for one in found.findings] == ["the GPU is lost"]


def test_a_declared_gpu_without_a_driver_is_an_error(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    """A library that can't be loaded, which also hides a real one: the reason says where to run the gate."""
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    code, found = run(room, monkeypatch, tmp_path, "", url)
    assert code == 3
    assert "no NVIDIA driver is here" in found.findings[0].reason
    assert "gates.gpu.device" in found.findings[0].reason


def test_failing_answers_fail_whatever_the_device_does(
    room: GateRoom, monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    """A cool GPU under a service that answers 500 is no PASS."""
    with serve(lambda n, body, status, answer: (500 if n % 5 == 0 else status, answer)) as url:
        code, found = run(room, monkeypatch, library, "healthy", url)
    assert code == 1
    assert [one.name for one in found.findings if one.verdict is Verdict.FAIL] == ["error rate"]


def test_without_a_compiler_the_stub_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlatformError, match="no C compiler") as caught:
        gpu.compile_stub(tmp_path / "nvml")
    assert "gcc" in caught.value.action
