"""What a load run says: shares with intervals, ratios of two releases, the climb to the highest rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidegate.core import load
from tidegate.core.load import Objective, Rung, Side
from tidegate.core.verdict import Verdict

GOAL = Objective(p95=100, error_rate=0.01)


# ---------------------------------------------------------------- the climb's table
def test_each_rate_is_shown_once() -> None:
    """A rate that was tried again is shown by the try that kept it, else by the last; tries are counted."""
    late, good = Rung(80, 1, 300, 80, 0, 0.1, 0), Rung(80, 1, 50, 80, 0, 0.1, 0)
    first, again = Rung(160, 1, 300, 160, 0, 0.1, 0), Rung(160, 1, 400, 160, 0, 0.1, 0)
    assert load.shown([late, first, good, again], GOAL) == [(good, 2), (again, 2)]


# ---------------------------------------------------------------- errors
def test_the_interval_of_a_share_is_clopper_pearsons() -> None:
    """The known values: 0 of 100 → (0, 1 − 0.025^(1/100)); 5 of 100 → (1.64%, 11.28%); all of 10."""
    assert load.share_interval(0, 100, 0.95) == (0.0, pytest.approx(1 - 0.025**0.01))
    assert load.share_interval(5, 100, 0.95) == pytest.approx((0.016432, 0.112835), abs=1e-6)
    assert load.share_interval(10, 10, 0.95) == (pytest.approx(0.025**0.1), 1.0)


def test_one_failure_in_thousands_is_not_red() -> None:
    """It keeps a limit of one in a thousand; among hundreds it can't be told from chance; 3% is red."""
    assert load.error_rate("e", 1, 5000, 0.001).verdict is Verdict.PASS
    one = load.error_rate("e", 1, 400, 0.001)
    assert one.verdict is Verdict.INCONCLUSIVE
    assert "1,000" in one.reason
    assert load.error_rate("e", 12, 400, 0.001).verdict is Verdict.FAIL
    assert load.error_rate("e", 0, 400, 0.001).verdict is Verdict.PASS


def test_a_limit_of_zero_allows_nothing() -> None:
    """With limit 0 one failure is proof: its interval begins above 0."""
    assert load.error_rate("e", 1, 100_000, 0.0).verdict is Verdict.FAIL


@pytest.mark.parametrize(("total", "limit"), [(0, 0.1), (10, math.nan), (10, -0.1), (10, 1.5)])
def test_no_requests_and_no_limit_are_errors(total: int, limit: float) -> None:
    """Nothing to look at, or nothing to hold it to, is never PASS."""
    assert load.error_rate("e", 0, total, limit).verdict is Verdict.ERROR


# ---------------------------------------------------------------- ratios
def side(seed: int, factor: float = 1.0, *, blocks: int = 60, each: int = 40, stalls: bool = True) -> Side:
    """Return answers of about `factor` ms; in some blocks, the same for every seed, the machine stalls."""
    random = np.random.default_rng(seed)
    block = np.repeat(np.arange(blocks), each)
    mood = np.random.default_rng(99).choice([1.0, 4.0], blocks, p=[0.8, 0.2]) if stalls else np.ones(blocks)
    latencies = factor * mood[block] * random.lognormal(0, 0.2, len(block))
    return Side(latencies, block, factor * np.full(blocks, 8.0) * random.lognormal(0, 0.05, blocks))


def test_equal_releases_have_a_ratio_of_one() -> None:
    """In 50 of 50 seeds the interval is narrow and holds 1, though a fifth of the blocks stall."""
    for seed in range(50):
        found = load.ratios(side(seed), side(1000 + seed), seed=1, confidence=0.997, resolution=0.01)
        assert set(found) == {"p50", "p95", "throughput", "cpu"}
        for name in ("p50", "throughput", "cpu"):
            assert found[name].low < 1 < found[name].high, (seed, name)
            assert found[name].high / found[name].low < 1.25, (seed, name)


def test_a_fifth_more_is_seen_in_each_measure() -> None:
    """All four ratios exclude equality when every answer takes 20% longer."""
    found = load.ratios(side(1, 1.2), side(2), seed=1)
    assert found["p50"].low > 1.1
    assert found["p95"].low > 1.0
    assert found["cpu"].low > 1.1
    assert found["throughput"].high < 0.9
    assert found["p50"].candidate / found["p50"].production == pytest.approx(1.2, rel=0.05)


def test_the_same_seed_gives_the_same_interval() -> None:
    """Chance enters by the seed alone."""
    one, other = (load.ratios(side(1), side(2), seed=5) for _ in range(2))
    assert one == other


def test_a_ratio_needs_blocks_of_both() -> None:
    """Without two blocks in which both answered there is no ratio; unknown CPU time has no interval."""
    assert load.ratios(side(1, blocks=1), side(2, blocks=1), seed=1) == {}
    assert load.ratios(Side.none(), side(2), seed=1) == {}
    blind = Side(side(1).latencies, side(1).blocks, np.full(60, math.nan))
    assert math.isnan(load.ratios(blind, side(2), seed=1)["cpu"].low)


def test_runs_are_joined_block_after_block() -> None:
    """A second run's blocks follow the first's."""
    joined = side(1, blocks=3, each=2).and_then(side(2, blocks=3, each=2))
    assert sorted(set(joined.blocks)) == [0, 1, 2, 3, 4, 5]
    assert len(joined.cpu) == 6


def test_copies_that_fail_are_not_compared() -> None:
    """The candidate's failures are its own fault; those of production leave nothing to compare with."""
    good, bad = side(1), Side(side(2).latencies, side(2).blocks, side(2).cpu, failures=100)
    assert [f.verdict for f in load.whole(good, good, 0.001, 100)] == [Verdict.PASS, Verdict.PASS]
    assert load.whole(bad, good, 0.001, 100)[1].verdict is Verdict.FAIL
    assert load.whole(good, bad, 0.001, 100)[1].verdict is Verdict.ERROR
    assert load.whole(good, good, 0.001, 10**6)[0].verdict is Verdict.INCONCLUSIVE
    assert load.whole(good, Side.none(), 0.001, 10)[0].verdict is Verdict.ERROR


# ---------------------------------------------------------------- the climb
def climb(carries: float, *, busy_from: float = math.inf, top: float = 4000) -> list[Rung]:
    """Step up a service that carries so much, by a generator that is at its end from another rate on."""
    rungs: list[Rung] = []
    while (rate := load.next_rate(rungs, GOAL, first=60, top=top)) is not None:
        assert len(rungs) < 20
        sent = min(rate, carries, busy_from)
        late = 200.0 if rate > carries else 2.0
        rungs.append(Rung(rate, 1.0, late, int(sent), 0, 0.97 if rate > busy_from else 0.3, 0.5))
    return rungs


@pytest.mark.parametrize("carries", [70, 333, 1000, 3000])
def test_the_highest_rate_is_found_within_a_tenth(carries: float) -> None:
    """Doubling and halving end near what the service carries, in few steps, and blame the service."""
    found = load.capacity(climb(carries), GOAL)
    assert 0.85 * carries <= found.rate <= 1.05 * carries
    assert found.limit == "service"


def test_a_generator_at_its_end_is_named() -> None:
    """When the sender is busy and the service is not, the words say so, and too low a rate is no FAIL."""
    found = load.capacity(climb(10_000, busy_from=500), GOAL)
    assert found.limit == "generator"
    assert "the generator was the limit" in found.words
    assert "may carry more" in found.words
    assert load.enough_capacity("rate", found, 1000).verdict is Verdict.INCONCLUSIVE
    assert load.enough_capacity("rate", found, 100).verdict is Verdict.PASS


def test_no_higher_rate_than_the_top_is_tried() -> None:
    """The climb ends at `top`, and says that nobody asked for more."""
    rungs = climb(10_000, top=500)
    assert max(rung.rate for rung in rungs) == 500
    assert load.capacity(rungs, GOAL).limit == "top"


def test_a_service_that_keeps_no_rate_fails() -> None:
    """Rates are halved, a few times; then its highest rate is 0."""
    found = load.capacity(climb(1), GOAL)
    assert found.rate == 0
    assert load.enough_capacity("rate", found, 25).verdict is Verdict.FAIL


def test_one_hiccup_is_not_the_end() -> None:
    """A rate counts as missed only when it was missed twice."""
    slow = Rung(120, 1.0, 500, 120, 0, 0.3, 0.5)
    first = Rung(60, 1.0, 2, 60, 0, 0.3, 0.5)
    assert load.next_rate([first, slow], GOAL, first=60, top=4000) == 120
    fine = Rung(120, 1.0, 2, 120, 0, 0.3, 0.5)
    assert load.next_rate([first, slow, fine], GOAL, first=60, top=4000) == 240


def test_failing_answers_are_not_kept() -> None:
    """A rate that is answered in time by failures is none."""
    assert not load.kept(Rung(100, 1.0, 2, 100, 20, 0.3, 0.5), GOAL)
    assert not load.kept(Rung(100, 1.0, math.nan, 0, 0, 0.3, 0.5), GOAL)
    assert load.kept(Rung(100, 1.0, 2, 100, 0, 0.3, 0.5), GOAL)
