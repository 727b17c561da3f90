"""A GPU by NVML (nvidia-ml-py): found, described, and looked at from a thread while something else runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml  # type: ignore[import-untyped]

from tidegate.core.device import Device, Sample
from tidegate.errors import PlatformError, TidegateError, Unreachable

PATIENCE = 10.0  # seconds for NVML's last answer; a lost device may never give it
ELSEWHERE = "Run this gate on the machine that has the GPU, or declare none: gates.gpu.device."

# NVML's code → what it means here and what to do. What is not named is told in NVML's own words.
_MEANING = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "no NVIDIA driver is here: libnvidia-ml.so.1 can't be loaded",
        ELSEWHERE,
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: ("the NVIDIA driver is not loaded", "Load it, or: " + ELSEWHERE),
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: (
        "the NVIDIA driver is too old: its NVML lacks a function that this gate needs",
        "Install a newer driver.",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver in the kernel is too old for its library, or too new",
        "Restart the machine after the driver's update.",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "NVML may not be asked by this user",
        "Give it access to /dev/nvidia*.",
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "the GPU is lost",
        "Look for Xid in the kernel's log, and restart the machine.",
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: (
        "the GPU needs a reset",
        "Look for Xid in the kernel's log, and reset it.",
    ),
}
_PASSING = {pynvml.NVML_ERROR_TIMEOUT, pynvml.NVML_ERROR_NOT_READY, pynvml.NVML_ERROR_NO_DATA}


@dataclass
class Watch:
    """What a thread has seen so far; `skipped` looks got no answer."""

    device: Device
    samples: list[Sample] = field(default_factory=list)
    skipped: int = 0


@contextmanager
def watch(device: int | str, every: float) -> Iterator[Watch]:
    """Look at a GPU every `every` seconds for the length of a `with` block.

    `device` is an index, or a UUID as `nvidia-smi -L` prints it. Raises PlatformError when it can't be looked
    at (no driver, one that is too old, no such device), and Unreachable at the block's end when it was lost.
    """
    with _library():
        handle = _find(device)
        watched = Watch(_describe(handle))
        thread = _Looking(handle, watched, every)
        thread.start()
        try:
            yield watched
        finally:
            thread.finish()


class _Looking(threading.Thread):
    def __init__(self, handle: Any, watched: Watch, every: float) -> None:
        super().__init__(name="nvml", daemon=True)
        self._handle, self._watched, self._every = handle, watched, every
        self._over = threading.Event()
        self._problem: BaseException | None = None

    def run(self) -> None:
        began = time.monotonic()
        while not self._over.is_set():
            try:
                self._watched.samples.append(_sample(self._handle, time.monotonic() - began))
            except pynvml.NVMLError as error:
                if error.value not in _PASSING:
                    self._problem = error
                    return
                self._watched.skipped += 1
            except BaseException as error:
                self._problem = error
                return
            self._over.wait(self._every)

    def finish(self) -> None:
        """Stop looking. What ended the looking before is raised, whatever the block itself met with."""
        self._over.set()
        self.join(PATIENCE)
        after = f"after {len(self._watched.samples)} samples"
        if self.is_alive():
            raise Unreachable(
                f"NVML has not answered for {PATIENCE:.0f} s {after}", "Look at the kernel's log."
            )
        if isinstance(self._problem, pynvml.NVMLError):
            meant = _meant(self._problem)
            raise Unreachable(f"{meant.message} ({after})", meant.action) from self._problem
        if self._problem is not None:
            raise self._problem


@contextmanager
def _library() -> Iterator[None]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _meant(error) from error
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _meant(error: pynvml.NVMLError) -> TidegateError:
    message, action = _MEANING.get(
        error.value, (f"NVML says: {error}", "Run `nvidia-smi`, and see what it says.")
    )
    return PlatformError(message, action)


def _find(device: int | str) -> Any:
    try:
        if isinstance(device, int):
            return pynvml.nvmlDeviceGetHandleByIndex(device)
        return pynvml.nvmlDeviceGetHandleByUUID(device)
    except pynvml.NVMLError as error:
        if error.value not in (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND):
            raise _meant(error) from error
        there = ", ".join(_named()) or "none"
        raise PlatformError(
            f"no GPU is `{device}`", f"Here: {there}. Set gates.gpu.device to one."
        ) from error


def _named() -> list[str]:
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return [f"{index} ({pynvml.nvmlDeviceGetUUID(one)})" for index, one in enumerate(handles)]


def _describe(handle: Any) -> Device:
    try:
        power = _or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
        return Device(
            name=str(pynvml.nvmlDeviceGetName(handle)),
            uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
            driver=str(pynvml.nvmlSystemGetDriverVersion()),
            memory=int(memory.total) if memory else None,
            hottest=_hottest(handle),
            power=power / 1000 if power else None,
        )
    except pynvml.NVMLError as error:
        raise _meant(error) from error


def _hottest(handle: Any) -> float | None:
    """Return the highest temperature to work at, else the one at which the hardware slows down."""
    for threshold in (pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN):
        found = _or_none(pynvml.nvmlDeviceGetTemperatureThreshold, handle, threshold)
        if found:
            return float(found)
    return None


def _sample(handle: Any, at: float) -> Sample:
    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    busy = _or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _or_none(pynvml.nvmlDeviceGetPowerUsage, handle)
    # Each pair: the newer function, and the one that older drivers have.
    heat = _or_none(
        _either(pynvml.nvmlDeviceGetTemperatureV, pynvml.nvmlDeviceGetTemperature),
        handle,
        pynvml.NVML_TEMPERATURE_GPU,
    )
    reasons = _or_none(
        _either(
            pynvml.nvmlDeviceGetCurrentClocksEventReasons, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
        ),
        handle,
    )
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    ecc = _or_none(pynvml.nvmlDeviceGetTotalEccErrors, handle, *kind)
    return Sample(
        at=round(at, 3),
        memory=int(memory.used) if memory else None,
        busy=busy.gpu / 100 if busy else None,
        temperature=None if heat is None else float(heat),
        power=None if power is None else power / 1000,
        reasons=None if reasons is None else int(reasons),
        uncorrected=None if ecc is None else int(ecc),
    )


def _or_none(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of NVML says, or None where the device does not support it."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
            return None
        raise


def _either(newer: Callable[..., Any], older: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return newer(*arguments)
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            return older(*arguments)

    return call
