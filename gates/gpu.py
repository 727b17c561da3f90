"""Does the GPU bear the load? Memory at its peak, utilisation, throttling, ECC errors and temperature.

Requests go to the endpoint while NVML is read beside it, ten times a second; every number is a share of what
this device can do, so that limits mean the same on another. `device` says which GPU the model is declared to
run on, an index or a UUID; without one the gate does not apply.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from tidegate import gating
from tidegate.adapters import locust, nvml
from tidegate.core import device, gate
from tidegate.core.device import Device, Sample
from tidegate.core.exhibits import Chart, Series
from tidegate.endpoint import answering

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class GpuSettings(gating.Settings, frozen=True):
    """The `gpu` section: limits are shares from 0 to 1 of what the device can do."""

    device: int | str | None
    users: Annotated[int, msgspec.Meta(ge=1)]
    rate: Annotated[float, msgspec.Meta(ge=0)]  # requests a second over all users; 0: as fast as answers come
    warmup: Annotated[float, msgspec.Meta(ge=0)]  # seconds, and so are the next two
    duration: Annotated[float, msgspec.Meta(gt=0)]
    every: Annotated[float, msgspec.Meta(gt=0)]
    min_samples: Annotated[int, msgspec.Meta(ge=1)]
    memory: Share
    utilisation: Share
    temperature: Annotated[float, msgspec.Meta(ge=0)]
    throttled: Share
    ecc: Annotated[int, msgspec.Meta(ge=0)]
    error_rate: Share


def look(subject: gating.Subject[GpuSettings]) -> gating.Looked:
    """Load the endpoint and look at the device meanwhile; then compare."""
    limits = subject.settings
    if limits.device is None or limits.device == "none":
        reason = "no GPU is declared for this model (gates.gpu.device)"
        return gating.Looked([gate.not_applicable("gpu", reason)])
    rows = json.loads(subject.built("model/examples.json").read_text())
    with nvml.watch(limits.device, limits.every) as watched:
        load = locust.measure(
            f"{subject.endpoint}/predict",
            rows,
            users=limits.users,
            rate=limits.rate,
            seconds=limits.duration,
            warmup=limits.warmup,
        )
    findings = [
        answering(subject.endpoint, rows, subject.release),
        gate.at_most("error rate", load.failures / load.requests, limits.error_rate),
        *device.judge(watched.device, watched.samples, _limits(limits)),
    ]
    return gating.Looked(findings, _numbers(watched, load), charts=[_chart(watched.device, watched.samples)])


def _limits(settings: GpuSettings) -> device.Limits:
    return device.Limits(
        settings.min_samples,
        settings.memory,
        settings.utilisation,
        settings.temperature,
        settings.throttled,
        settings.ecc,
    )


def _numbers(watched: nvml.Watch, load: locust.Load) -> dict[str, Any]:
    told = [one.reasons for one in watched.samples if one.reasons is not None]
    power = device.shares(watched.samples, lambda one: one.power, watched.device.power)
    capped = [bool(bits & device.POWER_CAP) for bits in told]
    return {
        "device": msgspec.to_builtins(watched.device),
        "samples": len(watched.samples),
        "unanswered_samples": watched.skipped,
        "requests": load.requests,
        "failures": load.failures,
        "throughput": load.requests / load.seconds,
        "held_down": device.held_down(watched.samples),
        "power_share_at_most": max(power, default=None),
        "power_capped_share": sum(capped) / len(capped) if capped else None,
    }


def _chart(what: Device, samples: Sequence[Sample]) -> Chart:
    lines: dict[str, tuple[Callable[[Sample], float | None], float | None]] = {
        "memory": (lambda one: one.memory, what.memory),
        "utilisation": (lambda one: one.busy, 1.0),
        "temperature": (lambda one: one.temperature, what.hottest),
        "power": (lambda one: one.power, what.power),
    }
    at = tuple(one.at for one in samples)
    series = []
    for name, (read, whole) in lines.items():
        values = [read(one) for one in samples]
        drawn = tuple(None if value is None or not whole else value / whole for value in values)
        series.append(Series(name, at, drawn))
    return Chart(f"{what.name} under load", "line", tuple(series), "seconds", "share of the device's")


GATE = gating.Gate(
    "gpu",
    GpuSettings,
    look,
    needs="endpoint",
    inputs="The staging endpoint, the model's examples.json, and the device by NVML (nvidia-ml-py).",
    fix="Memory: a smaller batch, or one model a device. Throttling or heat: look at the cooling and at "
    "what else runs there. No utilisation: the model runs on the CPU. An ERROR says what the driver lacks.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
