"""Which processor a model runs on: chosen by its settings and by variables, and told.

ONNX Runtime falls back to the CPU by itself, and says so in a line among others at most. Here the CUDA
provider is taken or refused as a whole: `auto` falls back with one warning that names why, `cuda` does not
start.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt
import onnxruntime

from tidegate.serving.settings import Gpu, Settings

PROVIDER = "TIDEGATE_PROVIDER"  # what a plane or an image says wins over what the model's settings say
DEVICE = "TIDEGATE_DEVICE"
MEMORY = "TIDEGATE_GPU_MEMORY_MB"

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ARENA = {"exact": "kSameAsRequested", "doubling": "kNextPowerOfTwo"}
REDUCED = "fp16"  # the file for GPUs where none is named
_DRIVER = "libcuda.so.1"

log = logging.getLogger("tidegate.serving")


class Running(msgspec.Struct, frozen=True):
    """What runs a model: `cpu` or `cuda`, a GPU's number, which of the model's files, and why not a GPU."""

    provider: str
    variant: str
    device: int | None = None
    reason: str = ""

    def told(self) -> dict[str, str]:
        """Return it as labels."""
        device = "" if self.device is None else str(self.device)
        return {"provider": self.provider, "device": device, "variant": self.variant}


class Unfit(Exception):
    """Why the CUDA provider can't run this model here."""


# ---------------------------------------------------------------- what is asked for
def asked(settings: Settings) -> Settings:
    """Return settings with what the environment says laid over; RuntimeError names a wrong variable."""
    plain = msgspec.to_builtins(settings)
    for variable, place, name, read in (
        (PROVIDER, plain, "provider", str),
        (DEVICE, plain["gpu"], "device", int),
        (MEMORY, plain["gpu"], "memoryLimitMb", int),
    ):
        text = os.environ.get(variable, "")
        if not text:
            continue
        try:
            place[name] = read(text)
            settings = msgspec.convert(plain, Settings)
        except (ValueError, msgspec.ValidationError) as error:
            raise RuntimeError(f"{variable} is `{text}`: {error}") from error
    return settings


def model_file(folder: Path, variant: str, key: str = "variant") -> Path:
    """Return the file of a variant, or `model.onnx` for "". RuntimeError names those that there are."""
    path = folder / (f"model.{variant}.onnx" if variant else "model.onnx")
    if not path.is_file():
        there = ", ".join(sorted(one.name for one in folder.glob("*.onnx"))) or "no .onnx file"
        raise RuntimeError(f"settings say `{key}: {variant}`, but {path.name} is not there; there is {there}")
    return path


def gpu_variant(folder: Path, gpu: Gpu) -> str:
    """Return the variant that a GPU runs; what the settings name has to be there, or RuntimeError says so."""
    if gpu.variant is None:
        return REDUCED if (folder / f"model.{REDUCED}.onnx").is_file() else ""
    model_file(folder, gpu.variant, "gpu.variant")
    return gpu.variant


# ---------------------------------------------------------------- sessions
class Sessions:
    """Opens a model's session, and another one on the CPU where a GPU turns out not to compute.

    Raises RuntimeError when the settings ask for `cuda` and it can't run here, and when a file is missing.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, asked(settings)
        self._wanted = self._settings.provider
        self.running, self.session = self._open()

    def run(self, outputs: list[str], feed: dict[str, npt.NDArray[Any]]) -> list[Any]:
        """Run the model for the first time: a GPU that can't do that is given up, as `auto` says.

        A session can be made on a GPU for which the library has no code; that is seen only here.
        """
        try:
            return self.session.run(outputs, feed)  # type: ignore[no-any-return]
        except Exception as error:
            if self._wanted == "cuda" or self.running.provider == "cpu":
                raise
            there = self._cpu(f"its first run failed: {_first(error)}")
            found = there[1].run(outputs, feed)  # raises what is no matter of the GPU
            self.running, self.session = there
            _warn(self.running.reason)
            return found  # type: ignore[no-any-return]

    def _open(self) -> tuple[Running, Any]:
        if self._wanted == "cpu":
            return self._cpu("")
        if CUDA not in onnxruntime.get_available_providers():
            reason = f"this onnxruntime ({onnxruntime.__version__}) has no CUDA: install onnxruntime-gpu"
            if self._wanted == "cuda":
                raise RuntimeError(f"`provider: cuda`, but {reason}")
            return self._cpu(reason)  # told when asked, not warned of: nobody lost anything
        try:
            return self._cuda()
        except Unfit as error:
            if self._wanted == "cuda":
                raise RuntimeError(f"`provider: cuda`, but {error}") from error
            _warn(str(error))
            return self._cpu(str(error))

    def _cpu(self, reason: str) -> tuple[Running, Any]:
        variant = self._settings.variant
        path = model_file(self._folder, variant)
        session = onnxruntime.InferenceSession(str(path), _options(self._settings), providers=[CPU])
        return Running("cpu", variant, reason=reason), session

    def _cuda(self) -> tuple[Running, Any]:
        gpu = self._settings.gpu
        if not _loads(_DRIVER):
            raise Unfit(f"no NVIDIA driver is here: {_DRIVER} can't be loaded")
        # CUDA numbers by speed unless told; NVML, which counts for the same device, by the bus.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        variant = gpu_variant(self._folder, gpu)
        options = _options(self._settings)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        path, providers = model_file(self._folder, variant), [(CUDA, cuda_options(gpu)), CPU]
        _preload()
        with _quiet():
            try:
                session = onnxruntime.InferenceSession(
                    str(path), options, providers=providers, enable_fallback=0
                )
            except Exception as error:
                raise Unfit(f"no session can be made on device {gpu.device}: {_first(error)}") from error
        if CUDA not in session.get_providers():
            raise Unfit(f"the CUDA provider can't be loaded: {_missing()}")
        on_gpu, nodes = _placed(session)
        if not on_gpu:
            raise Unfit(f"none of the {nodes} nodes of {path.name} can run there")
        return Running("cuda", variant, gpu.device), session


def cuda_options(gpu: Gpu) -> dict[str, str]:
    """Return the CUDA provider's options for a model's settings."""
    options = {
        "device_id": str(gpu.device),
        "arena_extend_strategy": _ARENA[gpu.arena],
        "cudnn_conv_algo_search": gpu.convolutions.upper(),
        "use_tf32": str(int(gpu.tf32)),
    }
    if gpu.memory_limit_mb:
        options["gpu_mem_limit"] = str(gpu.memory_limit_mb * 1024 * 1024)
    return options


def _options(settings: Settings) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # converters declare `label` with a wrong shape: a warning a batch
    return options


def _placed(session: Any) -> tuple[int, int]:
    """Return how many of the model's nodes CUDA runs, and how many there are."""
    counts = [(part.ep_name, len(part.get_nodes())) for part in session.get_provider_graph_assignment_info()]
    return sum(count for name, count in counts if name == CUDA), sum(count for _, count in counts)


# ---------------------------------------------------------------- the libraries
def _preload() -> None:
    """Load CUDA from its wheels, where it was installed as such; the loader finds it elsewhere by itself."""
    if importlib.util.find_spec("nvidia") is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find, and needs not
            onnxruntime.preload_dlls()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's own lines back: what went wrong is told once, by us."""
    onnxruntime.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _missing() -> str:
    """Return why the provider's library does not load, in the loader's own words: which file it lacks."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("shared", "cuda"):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return str(error)
    return "its libraries load, but it refused; set ORT's log level to see why"


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__


def _warn(reason: str) -> None:
    log.warning("the model runs on the CPU, not on a GPU: %s", reason)
