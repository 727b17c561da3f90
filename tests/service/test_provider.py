"""Which processor a model runs on: what is asked for, what is taken, and what is told of it.

No GPU is needed: ONNX Runtime's session is stood in for where CUDA is asked of it, and computes on the CPU.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.builders import tiny_model
from tidegate.serving import provider
from tidegate.serving.artifact import OnnxModel
from tidegate.serving.settings import Gpu, Settings, parse

real = onnxruntime.InferenceSession


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that has two files, of which a GPU should run the second."""
    made = tiny_model(tmp_path / "model")
    shutil.copyfile(made / "model.onnx", made / "model.fp16.onnx")
    return made


class Device:
    """A machine with a GPU, as far as `provider` sees it; `problem` says what is wrong with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, problem: str = "") -> None:
        self.problem, self.asked = problem, []  # type: tuple[str, list[tuple[str, dict[str, str]]]]
        offered = [provider.CPU] if problem == "not offered" else [provider.CUDA, provider.CPU]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.session)
        monkeypatch.setattr(provider, "_loads", lambda name: problem != "no driver")
        monkeypatch.setattr(provider, "_missing", lambda: "libcublasLt.so.13: cannot open")

    def session(self, path: str, options: Any, *, providers: list[Any], **more: Any) -> Any:
        """Make a session that says that it is on the GPU, where CUDA is asked for."""
        own = real(path, options, providers=[provider.CPU])
        if not isinstance(providers[0], tuple):
            return own
        assert more == {"enable_fallback": 0}, "or it would go on on the CPU by itself"
        self.asked.append((Path(path).name, providers[0][1]))
        if self.problem == "no such device":
            raise RuntimeError("CUDA failure 101: invalid device ordinal\nand a stack")
        return Session(own, self.problem)


class Session:
    """A session on the stand-in's GPU."""

    def __init__(self, own: Any, problem: str) -> None:
        self._own, self._problem = own, problem

    def get_providers(self) -> list[str]:
        return [provider.CPU] if self._problem == "no library" else [provider.CUDA, provider.CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        class Part:
            ep_name = provider.CPU if self._problem == "no kernel" else provider.CUDA

            def get_nodes(self) -> list[str]:
                return ["a node", "another"]

        return [Part()]

    def run(self, *arguments: Any) -> Any:
        if self._problem == "no code":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return self._own.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def rows(model: OnnxModel) -> Any:
    """One row of features."""
    return np.zeros((1, model._sessions.session.get_inputs()[0].shape[1]), np.float32)


def test_a_gpu_is_taken_where_there_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own file of the model, on the device that the settings name, and within their memory."""
    machine = Device(monkeypatch)
    asked = parse({"gpu": {"device": 1, "memoryLimitMb": 512}, "variant": ""})
    model = OnnxModel(folder, asked)
    assert model.running == provider.Running("cuda", "fp16", 1)
    ((file, options),) = machine.asked
    assert file == "model.fp16.onnx"
    assert (options["device_id"], options["gpu_mem_limit"]) == ("1", str(512 << 20))
    assert model(rows(model)).shape == (1, 2)
    (folder / "model.fp16.onnx").unlink()
    assert OnnxModel(folder, asked).running.variant == ""


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_misspelt_file_for_gpus_stops_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """What is written and is not there is never served as another file, nor from the CPU."""
    Device(monkeypatch)
    asked = parse({"provider": wanted, "gpu": {"variant": "fp61"}})
    with pytest.raises(
        RuntimeError, match=r"`gpu\.variant: fp61`.*model\.fp61\.onnx.*there is model\.fp16\.onnx"
    ):
        OnnxModel(folder, asked)


def test_a_gpu_runs_the_file_that_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`""` names model.onnx, as it does for a CPU, though there is a file for GPUs."""
    machine = Device(monkeypatch)
    assert OnnxModel(folder, parse({"gpu": {"variant": ""}})).running.variant == ""
    assert [file for file, _ in machine.asked] == ["model.onnx"]


PROBLEMS = {
    "no driver": "libcuda.so.1 can't be loaded",
    "no library": "libcublasLt.so.13: cannot open",
    "no such device": "invalid device ordinal",
    "no kernel": "none of the 2 nodes",
    "no code": "no kernel image",
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_without_one_that_works_the_cpu_is_taken_and_one_warning_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    """`auto` serves by the CPU's own file; the reason is told once, in the log and beside the provider."""
    Device(monkeypatch, problem)
    with caplog.at_level(logging.WARNING):
        model = OnnxModel(folder, Settings())
        for _ in range(3):
            assert model(rows(model)).shape == (1, 2)
    assert (model.running.provider, model.running.device, model.running.variant) == ("cpu", None, "")
    assert PROBLEMS[problem] in model.running.reason
    (told,) = [record.getMessage() for record in caplog.records]
    assert PROBLEMS[problem] in told
    assert "\n" not in told


@pytest.mark.parametrize("problem", ["not offered", *PROBLEMS])
def test_who_asks_for_cuda_gets_it_or_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    """`provider: cuda` never goes on by the CPU: it does not start, or its first answer fails."""
    Device(monkeypatch, problem)

    def answer() -> None:
        model = OnnxModel(folder, Settings(provider="cuda"))
        model(rows(model))

    with pytest.raises(RuntimeError, match=PROBLEMS.get(problem, "install onnxruntime-gpu")):
        answer()


def test_an_onnxruntime_without_cuda_is_no_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On an ordinary machine nobody lost anything; who asks is told why no GPU is used."""
    Device(monkeypatch, "not offered")
    with caplog.at_level(logging.WARNING):
        model = OnnxModel(folder, Settings())
    assert "onnxruntime-gpu" in model.running.reason
    assert caplog.records == []


def test_a_model_for_the_cpu_asks_no_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`provider: cpu` makes no session elsewhere, and gives no reason."""
    machine = Device(monkeypatch)
    assert OnnxModel(folder, Settings(provider="cpu")).running == provider.Running("cpu", "")
    assert machine.asked == []


def test_what_fails_on_the_cpu_too_is_no_matter_of_the_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first row that the model can't take is an error of its own, and no reason to give the GPU up."""
    Device(monkeypatch, "no code")
    model = OnnxModel(folder, Settings())
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        model(np.zeros((1, 1), np.float32))
    assert model.running.provider == "cuda"


def test_the_environment_wins_over_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provider, device and memory are what a plane or an image says, where it says so."""
    said = Settings(provider="cuda", gpu=Gpu(device=3, memory_limit_mb=7))
    assert provider.asked(said) == said
    for name, value in (("PROVIDER", "cpu"), ("DEVICE", "1"), ("GPU_MEMORY_MB", "2048")):
        monkeypatch.setenv(f"TIDEGATE_{name}", value)
    assert provider.asked(said) == Settings(provider="cpu", gpu=Gpu(device=1, memory_limit_mb=2048))


@pytest.mark.parametrize(
    ("name", "value"),
    [("PROVIDER", "gpu"), ("DEVICE", "one"), ("DEVICE", "-1"), ("GPU_MEMORY_MB", "2.5")],
)
def test_a_variable_that_can_not_be_meant_stops_the_service(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A wrong value is never the default: the error names the variable and what it said."""
    monkeypatch.setenv(f"TIDEGATE_{name}", value)
    with pytest.raises(RuntimeError, match=f"TIDEGATE_{name} is `{value}`"):
        OnnxModel(folder)
