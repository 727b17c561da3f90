"""What a service takes of a machine: leaks told from noise, and ratios with honest intervals."""

from __future__ import annotations

import math
import random

import pytest

from tidegate.core import usage
from tidegate.core.usage import Memory, Readings
from tidegate.core.verdict import Verdict

DONE = [2000 + 500 * n for n in range(33)]
UNIT = "kB a thousand requests"


def said(sizes: list[float], limit: float = 50.0) -> Verdict:
    """What the leak's finding says of sizes in kB at DONE."""
    return usage.leak("leak", usage.slope(DONE, sizes), limit, UNIT).verdict


def noisy(rate: float, sigma: float, seed: int) -> list[float]:
    """A size that grows by `rate` kB a thousand requests, read with noise."""
    dice = random.Random(seed)
    return [130_000 + rate * done / 1000 + dice.gauss(0, sigma) for done in DONE]


def test_a_steady_leak_is_found_with_its_rate() -> None:
    """The median step is the leak's rate, within its interval, and FAIL when that is beyond the limit."""
    found = usage.slope(DONE, noisy(200, 2, seed=1))
    assert found is not None
    assert found.low <= 200 <= found.high
    assert found.value == pytest.approx(200, rel=0.1)
    assert said(noisy(200, 2, seed=1)) is Verdict.FAIL


def test_flat_memory_passes() -> None:
    """Memory that does not move at all is a slope of 0, and passes any limit."""
    assert usage.slope(DONE, [130_000.0] * len(DONE)) == usage.Slope(0, 0, 0, 16)
    assert said([130_000.0] * len(DONE), limit=0.0) is Verdict.PASS


@pytest.mark.parametrize("at", [1, 8, 16, 20, 31])
def test_one_large_step_is_no_leak(at: int) -> None:
    """A cache that is filled once, 60 MB of it, moves no more than one step of many."""
    assert said([130_000.0 if n < at else 190_000.0 for n in range(len(DONE))]) is Verdict.PASS


def test_a_leak_that_begins_late_is_found() -> None:
    """Where the heap's free space hides the first half of a leak, the second half shows it."""
    assert said([130_000.0 + max(n - 14, 0) * 300 for n in range(len(DONE))]) is Verdict.FAIL


def test_growth_that_ends_is_no_leak() -> None:
    """What grows to a bound in the first half, as a cache does, has ended by the second."""
    assert said([130_000.0 + min(n, 15) * 300 for n in range(len(DONE))]) is Verdict.PASS


def test_a_saw_is_no_leak() -> None:
    """What grows by steps and is given back in one is never called a leak, for all its rising steps."""
    assert said([130_000.0 + (n % 8) * 500 for n in range(len(DONE))]) is not Verdict.FAIL


def test_a_leak_in_some_steps_only_is_not_passed() -> None:
    """Three large steps of 16 may be chance or a leak of rare requests: cannot tell."""
    sizes = [130_000.0 + 20_000 * sum(n > at for at in (18, 24, 30)) for n in range(len(DONE))]
    assert said(sizes) is Verdict.INCONCLUSIVE


def test_noise_alone_is_seldom_called_a_leak() -> None:
    """Of 400 noisy services without a leak at most 1% fail; those that leak fourfold the limit never pass."""
    sound = [said(noisy(0, 30, seed)) for seed in range(400)]
    leaking = [said(noisy(200, 30, seed)) for seed in range(400)]
    assert sound.count(Verdict.FAIL) <= 4
    assert leaking.count(Verdict.PASS) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 9, 15])
def test_few_readings_decide_nothing(count: int) -> None:
    """Without steps enough for an interval the finding is INCONCLUSIVE and says what to raise."""
    found = usage.leak("leak", usage.slope(DONE[:count], [0.0] * count), 50, UNIT)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "requests" in found.reason


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_odd_numbers_never_pass(odd: float) -> None:
    """NaN and infinity among the sizes, or as the limit, pass nothing."""
    assert said([130_000.0] * 32 + [odd]) is Verdict.INCONCLUSIVE
    assert said([130_000.0] * 33, limit=odd) is Verdict.ERROR


def test_an_equal_ratio_is_within_its_interval_and_a_larger_one_beyond() -> None:
    """CPU read in steps of 10 ms: the interval of equal services holds 1, that of twice the CPU holds 2."""
    dice = random.Random(3)

    def ticks(cost: float) -> list[float]:
        return [round(cost + dice.gauss(0, 0.005), 2) for _ in range(32)]

    low, high = usage.ratio(ticks(0.1), ticks(0.1))
    assert low < 1 < high
    assert high - low < 0.15
    low, high = usage.ratio(ticks(0.2), ticks(0.1))
    assert 1.8 < low < 2 < high < 2.2


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([], [], Verdict.INCONCLUSIVE),
        ([1.0] * 7, [1.0] * 9, Verdict.INCONCLUSIVE),
        ([1.0] * 9, [0.0] * 9, Verdict.INCONCLUSIVE),
        ([0.01] * 9, [0.01] + [0.0] * 8, Verdict.INCONCLUSIVE),
        ([math.nan] + [1.0] * 8, [1.0] * 9, Verdict.ERROR),
        ([math.inf] * 9, [1.0] * 9, Verdict.ERROR),
    ],
)
def test_what_has_no_ratio_is_not_compared(ours: list[float], theirs: list[float], verdict: Verdict) -> None:
    """Too few pairs or too little used decides nothing, what is no number is an ERROR; never a PASS."""
    found, shown = usage.beside("CPU", ours, theirs, 0.25, "s")
    assert found.verdict is verdict
    assert shown is None


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (0.5, Verdict.PASS),
        (1.0, Verdict.PASS),
        (1.15, Verdict.PASS),
        (1.25, Verdict.INCONCLUSIVE),
        (1.4, Verdict.FAIL),
    ],
)
def test_the_margin_decides_between_no_worse_and_worse(factor: float, verdict: Verdict) -> None:
    """A quarter more is allowed: what is surely within passes, surely beyond fails, the edge is neither."""
    dice = random.Random(5)
    theirs = [dice.gauss(0.1, 0.005) for _ in range(32)]
    ours = [dice.gauss(0.1, 0.005) * factor for _ in range(32)]
    assert usage.beside("CPU", ours, theirs, 0.25, "s")[0].verdict is verdict


def test_a_zero_block_is_no_zero_total() -> None:
    """A block in which the kernel counted nothing counts as such, and the totals still compare."""
    low, high = usage.ratio([0.0, 0.02] * 16, [0.01] * 32)
    assert low <= 1 <= high


def seen(**changes: object) -> Readings:
    """Readings of nothing but requests."""
    return Readings(Memory(1, 1, 1), **changes)  # type: ignore[arg-type]


def test_every_request_must_be_answered() -> None:
    """One failure fails with its reason, none sent is an ERROR, and a service that ended failed."""
    assert usage.answered("answers", seen(sent=100)).verdict is Verdict.PASS
    one = usage.answered("answers", seen(sent=100, failed=1, reason="answered 500"))
    assert one.verdict is Verdict.FAIL
    assert "answered 500" in one.reason
    assert usage.answered("answers", seen()).verdict is Verdict.ERROR
    assert usage.answered("answers", seen(sent=5, failed=1, ended=True)).verdict is Verdict.FAIL


def test_productions_failures_are_not_the_candidates() -> None:
    """A copy of production that fails is an ERROR of the comparison, and no FAIL."""
    assert usage.comparable("production", seen(sent=9)).verdict is Verdict.PASS
    assert usage.comparable("production", seen(sent=9, failed=1)).verdict is Verdict.ERROR
    assert usage.comparable("production", seen(sent=9, ended=True)).verdict is Verdict.ERROR


def test_costs_are_of_the_requests_between_two_readings() -> None:
    """CPU seconds a thousand requests, block by block; what is before the first reading is the start's."""
    read = seen(done=[100, 300, 400], cpu=[5.0, 5.4, 5.5])
    assert read.costs == pytest.approx([2.0, 1.0])
    assert read.counted == 300
    assert seen().costs == []
