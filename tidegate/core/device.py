"""What a GPU went through while load ran, as shares of what it can do: samples and limits to findings.

What a device can't tell is None in its samples, and not applicable as a finding; it is never taken for 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.core import gate
from tidegate.core.verdict import Finding

# Bits of NVML's clock event reasons (nvml.h). A cap of power by the driver is how a busy device normally
# keeps its limit; these hold the clocks down because something is wrong: heat, or too little power.
HELD_DOWN = {
    0x08: "hardware slowdown",
    0x20: "heat, by the driver",
    0x40: "heat, by the hardware",
    0x80: "power brake",
}
POWER_CAP = 0x04


@dataclass(frozen=True)
class Device:
    """One GPU: `memory` in bytes, `hottest` the °C that it should stay under, `power` its limit in watts."""

    name: str
    uuid: str
    driver: str
    memory: int | None
    hottest: float | None
    power: float | None


@dataclass(frozen=True)
class Sample:
    """One look, `at` seconds after the first: bytes, a share from 0 to 1, °C, watts, bits, and a count."""

    at: float
    memory: int | None
    busy: float | None
    temperature: float | None
    power: float | None
    reasons: int | None
    uncorrected: int | None


@dataclass(frozen=True)
class Limits:
    """What is allowed; all are shares from 0 to 1 but `samples` and `ecc`, which are counts."""

    samples: int
    memory: float
    busy: float
    temperature: float
    throttled: float
    ecc: int


def shares(
    samples: Sequence[Sample], read: Callable[[Sample], float | None], whole: float | None
) -> list[float]:
    """Return what was read of each sample, of `whole`; nothing where the device does not tell one of them."""
    if not whole:
        return []
    return [value / whole for one in samples if (value := read(one)) is not None]


def judge(device: Device, samples: Sequence[Sample], limits: Limits) -> list[Finding]:
    """Return the findings of a run: PASS needs samples enough, and every number that the device has."""
    memory = shares(samples, lambda one: one.memory, device.memory)
    busy = shares(samples, lambda one: one.busy, 1.0)
    heat = shares(samples, lambda one: one.temperature, device.hottest)
    seen = [
        _highest("memory", memory, limits.memory, "of the device's"),
        _told(
            "utilisation",
            busy,
            lambda all_: gate.at_least("utilisation", max(all_), limits.busy, "at the highest"),
        ),
        _highest("temperature", heat, limits.temperature, "of the device's highest"),
        _throttling(samples, limits.throttled),
        _ecc(samples, limits.ecc),
    ]
    if samples and not any(one.limit is not None for one in seen):
        seen.append(gate.error("device", f"{device.name} tells none of what this gate decides by"))
    return gate.hold_back(gate.enough("samples", len(samples), limits.samples), seen)


def held_down(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the share of samples in which the clocks were held down, by reason; only those there were."""
    told = [one.reasons for one in samples if one.reasons is not None]
    found = {name: sum(bool(bits & bit) for bits in told) for bit, name in HELD_DOWN.items()}
    return {name: count / len(told) for name, count in found.items() if count}


def _highest(name: str, values: Sequence[float], limit: float, unit: str) -> Finding:
    return _told(name, values, lambda all_: gate.at_most(name, max(all_), limit, unit))


def _told(name: str, values: Sequence[float], decide: Callable[[Sequence[float]], Finding]) -> Finding:
    if not values:
        return gate.not_applicable(name, f"{name}: the device does not tell")
    return decide(values)


def _throttling(samples: Sequence[Sample], limit: float) -> Finding:
    told = [float(any(one.reasons & bit for bit in HELD_DOWN)) for one in samples if one.reasons is not None]
    found = _told(
        "throttling",
        told,
        lambda all_: gate.at_most("throttling", sum(all_) / len(all_), limit, "of samples"),
    )
    why = ", ".join(f"{name} in {gate.show(share * 100)}%" for name, share in held_down(samples).items())
    return Finding(
        found.name, found.verdict, found.observed, found.limit, found.reason + (f": {why}" if why else "")
    )


def _ecc(samples: Sequence[Sample], limit: int) -> Finding:
    counted = [float(one.uncorrected) for one in samples if one.uncorrected is not None]
    name = "uncorrected ECC errors"
    return _told(name, counted, lambda all_: gate.at_most(name, max(all_) - min(all_), limit))
