"""What the gpu gate must not pass, on a stub of NVML that the real pynvml loads: no GPU is needed.

Nothing is broken where none is declared, and the gate does not apply; each fault declares one.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidegate import wiring
from tidegate.core.verdict import Verdict
from tidegate.errors import PlatformError
from tidegate.machine import copies
from tidegate.selftest.room import Fault, Room, as_it_is

CONTROL = Verdict.NOT_APPLICABLE
QUICK: dict[str, Any] = {"warmup": 0.1, "duration": 0.5, "every": 0.02, "min_samples": 10, "rate": 100}
LIBRARY = "libnvidia-ml.so.1"  # what pynvml asks the dynamic linker for
SOURCE = Path(__file__).with_name("nvml_stub.c")


def compile_stub(folder: Path, *flags: str) -> Path:
    """Compile the stub of NVML into a folder for LD_LIBRARY_PATH. Raises PlatformError."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise PlatformError(
            "no C compiler is here: the stub of NVML can't be made", "Install gcc and libc6-dev."
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-shared", "-fPIC", "-O1", *flags, "-o", str(folder / LIBRARY), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise PlatformError(f"the stub of NVML can't be compiled: {said}", "Install gcc and libc6-dev.")
    return folder


def prepare(room: Room) -> None:
    """Nothing: where no GPU is declared, the gate looks at nothing."""


def _stub(scenario: str, *flags: str) -> Callable[[Room], None]:
    """Return what gives a room a GPU that behaves as the stub's scenario."""

    def make(room: Room) -> None:
        folder = compile_stub(room.root / "nvml", *flags)
        room.environment = {"LD_LIBRARY_PATH": str(folder), "NVML_STUB": scenario}

    return make


def _under_load(scenario: str) -> Callable[[Room], None]:
    def make(room: Room) -> None:
        _stub(scenario)(room)
        if "endpoint" not in room.shared:  # one healthy copy for all: no fault of this gate touches it
            store = wiring.bentos_path(wiring.platform(room.source, "staging"), room.home)
            room.shared["endpoint"] = room.lasting.enter_context(copies.serve(store, room.original)).url
        room.endpoint = room.shared["endpoint"]

    return make


def _no_driver(room: Room) -> None:
    """Hide a driver, should there be one, behind a library that can't be loaded."""
    folder = room.root / "nvml"
    folder.mkdir()
    (folder / LIBRARY).write_text("no library")
    room.environment = {"LD_LIBRARY_PATH": str(folder)}


def _fault(name: str, expected: Verdict, make: Callable[[Room], None], **settings: Any) -> Fault:
    return Fault("gpu", name, expected, make, {"device": 0, **settings})


FAULTS: tuple[Fault, ...] = (
    _fault("out of memory", Verdict.FAIL, _under_load("out-of-memory")),
    _fault("throttled", Verdict.FAIL, _under_load("throttled")),
    _fault("too hot", Verdict.FAIL, _under_load("hot")),
    _fault("ECC errors during the run", Verdict.FAIL, _under_load("ecc")),
    _fault("a GPU that the model does not use", Verdict.FAIL, _under_load("idle")),
    _fault("lost device", Verdict.ERROR, _under_load("lost")),
    _fault("zero samples", Verdict.ERROR, _under_load("silent")),
    _fault("few samples", Verdict.INCONCLUSIVE, _under_load("healthy"), min_samples=10_000),
    _fault("a device that tells nothing", Verdict.ERROR, _under_load("mute")),
    _fault("nobody at the endpoint", Verdict.ERROR, _stub("healthy")),
    _fault("driver too old", Verdict.ERROR, _stub("healthy", "-DOLD")),
    _fault("driver and library of two versions", Verdict.ERROR, _stub("mismatch")),
    _fault("driver not loaded", Verdict.ERROR, _stub("unloaded")),
    _fault("no driver, though a GPU is declared", Verdict.ERROR, _no_driver),
    _fault("no device of that index", Verdict.ERROR, _stub("healthy"), device=3),
    _fault("no device of that UUID", Verdict.ERROR, _stub("healthy"), device="GPU-12345678"),
    _fault("wrong threshold key", Verdict.ERROR, as_it_is, temprature=0.9),
    _fault("negative threshold", Verdict.ERROR, as_it_is, memory=-0.1),
)
