"""The choice of how to serve a model: fastest within the cap, and the simpler one unless it really loses."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.tuning import (
    SIMPLEST,
    Choice,
    Point,
    Setting,
    Sweep,
    Trial,
    batches,
    choose,
    grid,
    noise,
    written,
)

CAP = 15.0
TWO, THREADS = Setting(workers=2), Setting(threads=2)
BATCHED = Setting(max_rows=32, max_delay_ms=1.0)


def sweep(setting: Setting, rate: float, p99: float = 5.0, failed: int = 0) -> Sweep:
    """Return a sweep of two points; the second has twice the rate, and breaks the cap."""
    quick, slow = Point(8, rate, p99 / 2, p99, failed), Point(64, 2 * rate, 20.0, 40.0)
    return Sweep(setting, (quick, slow))


def decided(others: dict[Setting, Sweep], base: tuple[float, ...] = (1000, 1000, 1000, 1000)) -> Choice:
    """Choose among the simplest, at these rates in turn, and others that each ran between two of them."""
    sweeps = [sweep(SIMPLEST, rate) for rate in base]
    trials = [
        Trial(found, before, after)
        for found, (before, after) in zip(others.values(), pairwise(sweeps), strict=False)
    ]
    return choose(sweeps, trials, CAP)


CASES: dict[str, tuple[dict[Setting, Sweep], Setting | None, str]] = {
    "nothing else is tried": ({}, SIMPLEST, "nothing else was faster"),
    "more processes win": ({TWO: sweep(TWO, 1900)}, TWO, "1.90 times the simplest"),
    "slower ones lose": ({TWO: sweep(TWO, 900), THREADS: sweep(THREADS, 700)}, SIMPLEST, "nothing else"),
    "a win within the noise is none": ({TWO: sweep(TWO, 1015)}, SIMPLEST, "won 1.5%, which is within"),
    "batching has to win by more": ({BATCHED: sweep(BATCHED, 1015)}, SIMPLEST, "within the noise"),
    "batching that wins is chosen": ({BATCHED: sweep(BATCHED, 1500)}, BATCHED, "batches of 32 within 1 ms"),
    "a faster one that breaks the cap is out": ({TWO: sweep(TWO, 9000, p99=16)}, SIMPLEST, "nothing else"),
    "one that fails requests is out": ({TWO: sweep(TWO, 9000, failed=1)}, SIMPLEST, "nothing else"),
    "a tie goes to the simpler": (
        {THREADS: sweep(THREADS, 1500), TWO: sweep(TWO, 1510), BATCHED: sweep(BATCHED, 1520)},
        THREADS,
        "within the noise",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_choice(name: str) -> None:
    """Each case of the rule, with its reason."""
    others, expected, said = CASES[name]
    found = decided(others)
    assert found.setting == expected
    assert said in found.reason


def test_nothing_is_chosen_when_nothing_keeps_the_cap() -> None:
    """The reason has the lowest p99, so that a person knows what to ask for."""
    slow = [sweep(SIMPLEST, 1000, p99=30.0)] * 2
    found = choose(slow, [Trial(sweep(TWO, 2000, p99=20.0), slow[0], slow[1])], CAP)
    assert found.setting is None
    assert found.reason == "no setting keeps p99 ≤ 15 ms: the lowest p99 was 20 ms"


def test_what_alone_keeps_the_cap_is_chosen() -> None:
    """However little it carries: the others break what was asked for."""
    slow = [sweep(SIMPLEST, 1000, p99=30.0)] * 2
    found = choose(slow, [Trial(sweep(TWO, 10, p99=9.0), slow[0], slow[1])], CAP)
    assert found.setting == TWO
    assert "the simplest setting does not keep that" in found.reason


def test_a_machine_that_slows_down_does_not_decide() -> None:
    """Each is compared with the simplest at its own time: half the rate on half the machine is a tie."""
    assert decided({TWO: sweep(TWO, 500)}, base=(500, 500)).setting == SIMPLEST
    late = decided({THREADS: sweep(THREADS, 1000), TWO: sweep(TWO, 950)}, base=(1000, 1000, 900, 900))
    assert [round(row.gain, 2) for row in late.rows] == [1.0, 1.0, 1.0]


def test_the_noise_is_that_of_the_repeated_baseline() -> None:
    """Runs that lie 20% apart can't tell a win of 15%."""
    assert noise([sweep(SIMPLEST, rate) for rate in (900, 1000, 1100)], CAP) == pytest.approx(0.2)
    assert noise([sweep(SIMPLEST, 1000)] * 3, CAP) == 0.02
    assert noise([sweep(SIMPLEST, 1000)], CAP) == 0.02
    assert decided({TWO: sweep(TWO, 1150)}, base=(900, 1000, 1100)).setting == SIMPLEST
    assert decided({TWO: sweep(TWO, 1150)}, base=(1000, 1000)).setting == TWO


def test_without_a_measurement_nothing_is_chosen() -> None:
    """An empty run is an error, not a choice."""
    with pytest.raises(ValueError, match="nothing was measured"):
        choose([], [], CAP)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, []),
        (2, [(1, 2), (2, 1)]),
        (4, [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]),
        (3, [(1, 2), (1, 3), (2, 1), (3, 1)]),
    ],
)
def test_what_is_tried_fits_the_machine(cores: int, expected: list[tuple[int, int]]) -> None:
    """Processes times threads are never more than the cores; the simplest is measured anyway."""
    assert [(setting.workers, setting.threads) for setting in grid(cores)] == expected


def test_batches_are_of_a_size_that_callers_can_fill() -> None:
    """Of 32 connections to two processes, 16 wait for each."""
    assert [s.max_rows for s in batches(SIMPLEST, 64)] == [8, 32]
    assert [s.max_rows for s in batches(TWO, 32)] == [8]
    assert all(s.batched for s in batches(TWO, 1000))


def test_what_is_written() -> None:
    """Batching that is off is written as off, so that an earlier choice does not stay."""
    assert written(TWO) == {"threads": 1, "workers": 2, "batching.maxRows": 0}
    assert written(BATCHED) == {
        "threads": 1,
        "workers": 1,
        "batching.maxRows": 32,
        "batching.maxDelayMs": 1.0,
    }


RATES = st.floats(1, 100_000)
SETTINGS = st.sampled_from([TWO, THREADS, BATCHED, Setting(2, 2), Setting(2, 1, 8, 1.0)])
TRIED = st.dictionaries(SETTINGS, st.tuples(RATES, st.floats(0.1, 30)), max_size=5)


@given(st.lists(RATES, min_size=2, max_size=6), TRIED)
def test_the_rule_holds_whatever_was_measured(
    base: list[float], tried: dict[Setting, tuple[float, float]]
) -> None:
    """The chosen one keeps the cap, is near the best, and nothing simpler is as near."""
    sweeps = [sweep(SIMPLEST, rate) for rate in base]
    trials = [Trial(sweep(s, rate, p99), sweeps[0], sweeps[-1]) for s, (rate, p99) in tried.items()]
    found = choose(sweeps, trials, CAP)
    assert found.setting is not None
    gains = {row.setting: row.gain for row in found.rows}
    top = max(gains.values())
    assert gains[found.setting] >= top * (1 - found.noise) > 0
    for setting, gain in gains.items():
        if setting.order < found.setting.order:
            assert gain < top * (1 - found.noise)
    assert choose(sweeps, trials[::-1], CAP).setting == found.setting
