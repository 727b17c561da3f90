"""A GPU's samples and limits: what fails, what does not apply, and what nobody can say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tidegate.core import device
from tidegate.core.device import Device, Limits, Sample
from tidegate.core.verdict import Finding, Verdict, worst

GPU = Device("Toy", "GPU-1", "580", memory=80, hottest=87.0, power=700.0)
LIMITS = Limits(samples=10, memory=0.9, busy=0.02, temperature=0.95, throttled=0.1, ecc=0)
FINE = Sample(
    0.0, memory=40, busy=0.5, temperature=60.0, power=350.0, reasons=device.POWER_CAP, uncorrected=7
)


def samples(count: int = 20, last: dict[str, Any] | None = None, **changes: Any) -> list[Sample]:
    """Samples that are fine but for `changes` in all and `last` in the last one."""
    made = [dataclasses.replace(FINE, at=n / 10, **changes) for n in range(count)]
    return [*made[:-1], dataclasses.replace(made[-1], **(last or {}))]


def judged(seen: list[Sample], what: Device = GPU) -> dict[str, Finding]:
    """Findings by name."""
    return {one.name: one for one in device.judge(what, seen, LIMITS)}


def failing(found: dict[str, Finding]) -> set[str]:
    """The names of what failed."""
    return {name for name, one in found.items() if one.verdict is Verdict.FAIL}


def test_a_healthy_device_passes_everything() -> None:
    """A power cap by the driver is how a busy device keeps its limit, and old ECC errors are older."""
    assert {one.verdict for one in judged(samples()).values()} == {Verdict.PASS}


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("memory", {"memory": 79}),
        ("temperature", {"temperature": 85.0}),
        ("uncorrected ECC errors", {"uncorrected": 8}),
    ],
)
def test_one_bad_moment_fails(name: str, last: dict[str, Any]) -> None:
    """Peaks count, not means: memory and heat as shares of what this device can do."""
    assert failing(judged(samples(last=last))) == {name}


def test_limits_mean_the_same_on_another_device() -> None:
    """40 of 80 pass where 40 of 42 fail."""
    assert failing(judged(samples(), dataclasses.replace(GPU, memory=42))) == {"memory"}


@pytest.mark.parametrize("bit", device.HELD_DOWN)
def test_clocks_that_are_held_down_fail_with_the_reason(bit: int) -> None:
    """Each of the four reasons counts, in more of the samples than allowed."""
    found = judged(samples(reasons=bit | device.POWER_CAP))
    assert failing(found) == {"throttling"}
    assert device.HELD_DOWN[bit] in found["throttling"].reason
    assert failing(judged(samples(last={"reasons": bit}))) == set()  # one of 20, and a tenth is allowed


def test_a_model_that_runs_elsewhere_fails() -> None:
    """A declared GPU that is idle all the while is not used."""
    assert failing(judged(samples(busy=0.0))) == {"utilisation"}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("memory", "memory"),
        ("utilisation", "busy"),
        ("temperature", "temperature"),
        ("throttling", "reasons"),
        ("uncorrected ECC errors", "uncorrected"),
    ],
)
def test_what_a_device_can_not_tell_does_not_apply(name: str, field: str) -> None:
    """No ECC on a consumer's card is no zero errors: that finding alone is not applicable."""
    found = judged(samples(**{field: None}))
    assert found.pop(name).verdict is Verdict.NOT_APPLICABLE
    assert {one.verdict for one in found.values()} == {Verdict.PASS}


def test_a_device_that_tells_nothing_is_an_error() -> None:
    """All of it not applicable must not end as a PASS for having samples enough."""
    mute = dict.fromkeys(("memory", "busy", "temperature", "reasons", "uncorrected"))
    assert worst(one.verdict for one in judged(samples(**mute)).values()) is Verdict.ERROR


def test_few_samples_decide_nothing_and_none_are_an_error() -> None:
    """Not even that something is beyond its limit."""
    hot = judged(samples(count=5, temperature=200.0))
    assert worst(one.verdict for one in hot.values()) is Verdict.INCONCLUSIVE
    assert worst(one.verdict for one in judged([]).values()) is Verdict.ERROR
