"""What the GPU that a process is served by goes through, for `/metrics`, by NVML (nvidia-ml-py).

Asked at a scrape, in a thread, and only waited for a moment: a driver that hangs holds up neither the loop
nor the page. Without a GPU, a driver or the library nothing is shown, which is no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

PATIENCE = 0.5  # seconds that a scrape waits for the driver
FRESH = 1.0  # seconds for which what was seen is not asked for again
LIBRARY = "libnvidia-ml.so.1"

# Bits of NVML's clock event reasons by which the clocks are held down, heat and a lack of power first of all;
# `power_cap` is how a busy device normally keeps its limit.
REASONS = {
    "power_cap": 0x04,
    "hardware_slowdown": 0x08,
    "heat_by_driver": 0x20,
    "heat_by_hardware": 0x40,
    "power_brake": 0x80,
}

# Name of a metric, what it is, and what it is read from.
_SHOWN = (
    ("utilisation", "Share of the time in which the GPU computed", "busy"),
    ("memory_used_bytes", "Memory of the GPU that is taken, by anybody", "memory_used"),
    ("memory_bytes", "Memory of the GPU", "memory"),
    ("temperature_celsius", "Temperature of the GPU", "temperature"),
    ("power_watts", "Power that the GPU draws", "power"),
    ("power_limit_watts", "Power that the GPU may draw", "power_limit"),
    ("ecc_errors_total", "Memory errors that could not be corrected, since the driver began", "uncorrected"),
)

log = logging.getLogger(__name__)


class Look(msgspec.Struct, frozen=True):
    """A share from 0 to 1, bytes, °C, watts, bits and a count; None is what the device does not tell."""

    busy: float | None = None
    memory_used: int | None = None
    memory: int | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    reasons: int | None = None
    uncorrected: int | None = None


class Gpu:
    """One GPU as it was at the last scrape; `device` is its number among those that this process may use."""

    def __init__(self, device: int, add: Callable[..., None]) -> None:
        self._device, self._add = device, add  # that of a metrics.Registry
        self._info: dict[str, str] = {}
        self._seen: Look | None = None
        self._at = -math.inf  # when it was seen, by time.monotonic
        self._began = -math.inf  # when it was asked
        self._library = self._absent = self._shown = self._told = False
        self._handle: Any = None
        self._done: asyncio.Future[None] | None = None  # of the look that is under way, or was last

    def _show(self) -> None:
        """Name what is seen, once there is somebody to tell it: a machine without a GPU has no such names."""
        self._shown, add = True, self._add
        about = "Whether NVML answers for the GPU"
        add("tidegate_gpu_up", about, "gauge", self._up)
        add("tidegate_gpu_info", "The GPU; always 1", "info", lambda: self._info or None)
        for name, about, read in _SHOWN:
            kind = "counter" if name.endswith("_total") else "gauge"
            add(f"tidegate_gpu_{name}", about, kind, lambda read=read: getattr(self._fresh(), read, None))
        about = "Whether the GPU's clocks are held down, by reason"
        add("tidegate_gpu_throttled", about, "gauge", self._throttled, "reason")

    async def refresh(self) -> None:
        """Look again, unless that was just done; waits no longer than `PATIENCE`, and never raises."""
        now = time.monotonic()
        if self._absent or now - self._at < FRESH:
            return
        if self._done is None or self._done.done():
            loop = asyncio.get_running_loop()
            self._done, self._began = loop.create_future(), now
            # A daemon, and none of a pool's: one that hangs in the driver must not keep the process.
            threading.Thread(target=self._ask, args=(loop, self._done), name="nvml", daemon=True).start()
        if (left := self._began + PATIENCE - now) > 0:
            await asyncio.wait([self._done], timeout=left)
        if self._library and not self._shown and not self._absent:
            self._show()

    # ---------------------------------------------------------------- what is shown
    def _fresh(self) -> Look | None:
        """Return what was seen for this scrape; what is older is no answer to it."""
        return self._seen if time.monotonic() - self._at < FRESH + PATIENCE else None

    def _up(self) -> float | None:
        return None if self._absent else float(self._fresh() is not None)

    def _throttled(self) -> dict[str, float] | None:
        bits = getattr(self._fresh(), "reasons", None)
        return None if bits is None else {name: float(bool(bits & bit)) for name, bit in REASONS.items()}

    # ---------------------------------------------------------------- in the thread
    def _ask(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
        try:
            if self._handle is None:
                self._open()
            if self._handle is not None:
                self._seen = look(self._handle)
                self._at, self._told = time.monotonic(), False
        except Exception as error:  # lost, or not now: the next scrape asks again
            self._at = -math.inf
            if not self._told:
                self._told = True
                log.warning("NVML does not tell of GPU %d: %s", self._device, error)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set_result, None)

    def _open(self) -> None:
        """Find the device, or know that there is none."""
        try:
            ctypes.CDLL(LIBRARY)
            self._library = True
            import pynvml  # type: ignore[import-untyped]
        except (OSError, ImportError):
            self._absent = True
            return
        try:
            pynvml.nvmlInit()
            self._handle = found(self._device)
        except pynvml.NVMLError as error:
            log.warning("no metrics of GPU %d: NVML says: %s", self._device, error)
        if self._handle is None:
            self._absent = True
            return
        self._info = {
            "device": str(self._device),
            "name": str(_or_none("nvmlDeviceGetName", self._handle)),
            "uuid": str(_or_none("nvmlDeviceGetUUID", self._handle)),
            "driver": str(_or_none("nvmlSystemGetDriverVersion")),
        }


def found(device: int) -> Any:
    """Return NVML's handle of CUDA's device of that number, or None; raises NVMLError.

    CUDA_VISIBLE_DEVICES (numbers, UUIDs, or how these begin) says to CUDA alone what it may use, and in which
    order; NVML counts all there are.
    """
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        if device >= len(names):
            return None
        if not names[device].isdecimal():
            named = names[device] or "none"
            if named.startswith("MIG-"):
                return pynvml.nvmlDeviceGetHandleByUUID(named)
            return next(
                (one for one in handles if str(pynvml.nvmlDeviceGetUUID(one)).startswith(named)), None
            )
        device = int(names[device])
    return handles[device] if device < len(handles) else None


def look(handle: Any) -> Look:
    """Return how the device is now; raises NVMLError when it does not answer."""
    import pynvml

    memory = _or_none("nvmlDeviceGetMemoryInfo", handle)
    busy = _or_none("nvmlDeviceGetUtilizationRates", handle)
    # Two names: that of today, and the one that older drivers have.
    heat = _or_none("nvmlDeviceGetTemperatureV nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU)
    reasons = _or_none(
        "nvmlDeviceGetCurrentClocksEventReasons nvmlDeviceGetCurrentClocksThrottleReasons", handle
    )
    power = _or_none("nvmlDeviceGetPowerUsage", handle)
    limit = _or_none("nvmlDeviceGetEnforcedPowerLimit", handle)
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    ecc = _or_none("nvmlDeviceGetTotalEccErrors", handle, *kind)
    return Look(
        busy=busy.gpu / 100 if busy else None,
        memory_used=int(memory.used) if memory else None,
        memory=int(memory.total) if memory else None,
        temperature=None if heat is None else float(heat),
        power=None if power is None else power / 1000,
        power_limit=None if limit is None else limit / 1000,
        reasons=None if reasons is None else int(reasons),
        uncorrected=None if ecc is None else int(ecc),
    )


def _or_none(names: str, *arguments: Any) -> Any:
    """Return what the first of these functions says that the driver has; None where it is not supported."""
    import pynvml

    for name in names.split():
        try:
            return getattr(pynvml, name)(*arguments)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
                return None
            if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
    return None
