"""A/B tests: exact small cases of the always-valid difference, the planned size, and each decision."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from functools import cache

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidegate.core.difference import BETS_SUM, Pair, interval, log_evidence
from tidegate.core.experiment import INTERVAL, Arms, decide, inflation, planned, ratio_log_evidence
from tidegate.core.plan import AbTest, Key, Ratio, Seconds
from tidegate.core.verdict import Verdict

SPEC = AbTest(Key(header="x-user"), "bought", Ratio(0.1), Ratio(0.02), horizon=Seconds(1000))
ALPHA = 0.01


def arms(n: int, k: int, m: int, j: int, **more: int) -> Arms:
    """Return arms whose units are all known."""
    return Arms((n, k), (m, j), **{"candidate_units": n, "stable_units": m, **more})


# ---------------------------------------------------------------- the difference, exactly
def paths(share_of_candidate: list[bool], mine: float, theirs: float) -> Iterator[tuple[float, list[Pair]]]:
    """Yield each possible run of outcomes with its probability, and the counts after each unit."""
    for outcomes in itertools.product((0, 1), repeat=len(share_of_candidate)):
        chance, n, k, m, j, seen = 1.0, 0, 0, 0, 0, []
        for to_candidate, outcome in zip(share_of_candidate, outcomes, strict=True):
            rate = mine if to_candidate else theirs
            chance *= rate if outcome else 1 - rate
            n, k = n + to_candidate, k + outcome * to_candidate
            m, j = m + (not to_candidate), j + outcome * (not to_candidate)
            seen.append(Pair((n, k), (m, j), 0.5, 0.2))
        yield chance, seen


against = cache(log_evidence)  # many runs have the same counts
ORDERS = ([True, False] * 5, [True] * 5 + [False] * 5, [False, False, True, False] * 2 + [True, True])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("mine", "theirs"), [(0.5, 0.5), (0.3, 0.3), (0.9, 0.6), (0.2, 0.7), (1.0, 1.0)])
def test_evidence_against_the_truth_is_rarely_large(order, mine, theirs):
    """Of all runs of ten units, in any order and split, at most alpha ever reach 1/alpha (exact)."""
    highest = [
        (chance, max(against(pair, mine - theirs) for pair in seen))
        for chance, seen in paths(order, mine, theirs)
        if chance
    ]
    assert sum(chance for chance, _ in highest) == pytest.approx(1)
    for alpha in (0.5, 0.2, 0.1, 0.05):
        ever = sum(chance for chance, log in highest if log >= -math.log(alpha))
        assert ever <= alpha


@pytest.mark.parametrize("order", ORDERS)
def test_evidence_against_the_truth_is_expected_not_to_grow(order):
    """The mean of the evidence after each number of units is at most 1 (exact)."""
    for mine, theirs in ((0.5, 0.5), (0.25, 0.6)):
        for at in (0, 3, 6, 9):
            mean = sum(
                chance * math.exp(against(seen[at], mine - theirs))
                for chance, seen in paths(order, mine, theirs)
            )
            assert mean <= 1 + 1e-6


def test_the_purse_is_one():
    """All bets together are the whole purse: no more is spent than alpha."""
    assert math.isclose(BETS_SUM, 1, abs_tol=1e-12)


counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@settings(deadline=None, max_examples=60)
@given(counts, counts, st.sampled_from([0.1, 0.5, 0.8]), st.sampled_from([0.01, 0.1]))
def test_the_interval_is_where_there_is_no_evidence(mine, theirs, share, effect):
    """Each end of the interval is rejected or is the end of all differences; the estimate lies inside."""
    pair = Pair(mine, theirs, share, effect)
    low, high = interval(pair, 0.05)
    assert -1 <= low <= pair.estimate <= high <= 1
    for end in (low, high):
        assert abs(end) == 1 or log_evidence(pair, end) >= math.log(20)
    if mine[0] and theirs[0]:
        assert log_evidence(pair, pair.estimate) < math.log(20)


@settings(deadline=None, max_examples=40)
@given(counts, counts)
@example((95, 69), (98, 96))  # two rates of stable on one line are nearly as likely
def test_swapping_the_arms_mirrors_the_interval(mine, theirs):
    """Neither arm is favoured: exchanged arms have the same evidence and the mirrored interval."""
    one, other = Pair(mine, theirs, 0.5, 0.1), Pair(theirs, mine, 0.5, 0.1)
    assert log_evidence(one) == pytest.approx(log_evidence(other), abs=1e-3)
    low, high = interval(one, 0.1)
    assert interval(other, 0.1) == pytest.approx((-high, -low), abs=0.002)


def test_the_interval_shrinks_with_more_units():
    """Ten times the units at the same rates give a narrower interval around the same estimate."""
    wide = interval(Pair((500, 60), (500, 50), 0.5, 0.02), 0.05)
    narrow = interval(Pair((50_000, 6_000), (50_000, 5_000), 0.5, 0.02), 0.05)
    assert wide[0] < narrow[0] < 0.02 < narrow[1] < wide[1]
    assert narrow[0] > 0


# ---------------------------------------------------------------- the size
def test_the_size_is_the_textbooks_times_what_looking_costs():
    """10% against 12%, alpha 5% two-sided, power 80%, equal arms: 3,841 an arm (Fleiss), times 1.7."""
    size = planned(SPEC, 0.05 / INTERVAL)
    assert size.candidate == size.stable
    assert size.candidate == pytest.approx(inflation(0.05 / INTERVAL, 0.8) * 3841, rel=0.001)
    assert 1.6 < inflation(0.05 / INTERVAL, 0.8) < 1.8
    assert 1.4 < inflation(0.01, 0.8) < 1.6


def test_a_smaller_effect_or_alpha_and_more_power_need_more_units():
    """The size moves as it should with each of its inputs, and unequal arms cost more."""
    base = planned(SPEC, ALPHA).total
    for changes in ({"minimum_effect": Ratio(0.01)}, {"power": 0.9}, {"split": 10}):
        assert planned(msgspec.structs.replace(SPEC, **changes), ALPHA).total > base
    assert planned(SPEC, 0.001).total > base
    small = planned(msgspec.structs.replace(SPEC, split=10), ALPHA)
    assert small.candidate / small.total == pytest.approx(0.1, abs=0.001)


@settings(deadline=None)
@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.integers(1, 99), st.floats(0.5, 0.99))
def test_every_plan_has_a_size(baseline, effect, split, power):
    """Whatever rollout.yaml may say, the size is a positive number of units for both arms."""
    spec = AbTest(Key(header="u"), "x", Ratio(baseline), Ratio(effect), split=split, power=power)
    size = planned(spec, ALPHA)
    assert size.candidate >= 1
    assert size.stable >= 1


# ---------------------------------------------------------------- decisions
def test_a_better_candidate_passes():
    """With the evidence there it is PASS at once, well before the planned size, and says both rates."""
    made = decide(SPEC, arms(3000, 450, 3000, 300), ALPHA, 10)
    assert made.verdict is Verdict.PASS
    assert "better than stable, bought 15% (450/3000) against 10% (300/3000)" in made.reason
    assert made.finding["interval"][0] > 0


def test_a_worse_candidate_fails():
    """Proven worse is FAIL; where a lower outcome is better, the sides are exchanged."""
    worse, better = arms(3000, 300, 3000, 450), arms(3000, 450, 3000, 300)
    assert decide(SPEC, worse, ALPHA, 10).verdict is Verdict.FAIL
    lower = msgspec.structs.replace(SPEC, better="lower")
    assert decide(lower, better, ALPHA, 10).verdict is Verdict.FAIL
    assert decide(lower, worse, ALPHA, 10).verdict is Verdict.PASS


def test_a_broken_split_fails_whatever_the_outcome_says():
    """A sample ratio mismatch is FAIL even if the candidate looks better: its outcomes can't be trusted."""
    made = decide(SPEC, arms(3000, 450, 2000, 200), ALPHA, 10)
    assert made.verdict is Verdict.FAIL
    assert "sample ratio mismatch: 3000 of 5000 units (60%) instead of 50%" in made.reason


def test_the_split_is_judged_by_units_not_by_outcomes():
    """That one arm's outcomes arrive faster is no mismatch."""
    assert decide(SPEC, arms(30, 3, 3000, 300, candidate_units=3010), ALPHA, 10).verdict is not Verdict.FAIL


def test_undecided_says_how_much_more_it_takes():
    """Before the evidence or the end it is INCONCLUSIVE, with the units that are missing and the time."""
    made = decide(SPEC, arms(500, 50, 500, 52), ALPHA, 10)
    assert (made.verdict, made.over) == (Verdict.INCONCLUSIVE, False)
    size = planned(SPEC, ALPHA)
    assert f"{size.total - 1000} more of {size.total} units at most, about" in made.reason


@pytest.mark.parametrize("elapsed", [999.0, 1000.0])
def test_it_is_over_at_its_horizon(elapsed):
    """At the horizon it is over whatever was found, and nothing is proven."""
    made = decide(SPEC, arms(500, 50, 500, 52), ALPHA, elapsed)
    assert made.verdict is Verdict.INCONCLUSIVE
    assert made.over == (elapsed >= 1000)


def test_it_is_over_at_its_planned_size():
    """When both arms have their units and nothing is proven, more are not waited for."""
    size = planned(SPEC, ALPHA)
    made = decide(SPEC, arms(size.candidate, size.candidate // 10, size.stable, size.stable // 10), ALPHA, 10)
    assert made.over
    assert f"over after its planned {size.total} units" in made.reason
    almost = arms(size.candidate - 1, size.candidate // 10, size.stable, size.stable // 10)
    assert not decide(SPEC, almost, ALPHA, 10).over


def test_no_data_is_never_a_pass():
    """Without units or outcomes it is INCONCLUSIVE and quiet, also when one arm alone is known."""
    for empty in (
        arms(0, 0, 0, 0),
        arms(900, 900, 0, 0, stable_units=900),
        arms(0, 0, 900, 0, candidate_units=900),
    ):
        made = decide(SPEC, empty, ALPHA, 2000)
        assert (made.verdict, made.over, made.quiet) == (Verdict.INCONCLUSIVE, True, True)
    assert "no unit was assigned yet" in decide(SPEC, arms(0, 0, 0, 0), ALPHA, 1).reason


RESULT = {"name", "verdict", "observed", "limit", "observed_text", "limit_text", "log_evidence", "evidence"}
RESULT |= {"threshold", "bound", "reason", "trials", "dry_run", "applicable", "blocking", "against"}


@settings(deadline=None, max_examples=60)
@given(counts, counts, st.integers(0, 500), st.integers(0, 500), st.floats(0, 2000))
def test_every_finding_is_shown_like_a_check(mine, theirs, more, others, elapsed):
    """A finding is JSON with a check's keys, and PASS and FAIL come only with evidence over a threshold."""
    given_arms = Arms(mine, theirs, mine[0] + more, theirs[0] + others)
    made = decide(SPEC, given_arms, ALPHA, elapsed)
    assert set(made.finding) >= RESULT | {"interval", "units", "planned", "sample_ratio"}
    assert json.loads(json.dumps(made.finding, allow_nan=False)) == made.finding
    ratio = made.finding["sample_ratio"]
    broken = ratio["log_evidence"] >= math.log(ratio["threshold"])
    proven = made.finding["log_evidence"] >= math.log(made.finding["threshold"])
    assert (made.verdict is Verdict.INCONCLUSIVE) == (not broken and not proven)
    if made.verdict is Verdict.PASS:
        assert made.finding["interval"][0] >= -0.0002
        assert not broken


# ---------------------------------------------------------------- sample ratio
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_sample_ratio_as_planned_is_rarely_evidence(share):
    """Of all assignments of twelve units at the planned split, at most alpha ever reach 1/alpha (exact)."""
    ever = dict.fromkeys((0.5, 0.2, 0.05), 0.0)
    for sides in itertools.product((0, 1), repeat=12):
        chance = math.prod(share if side else 1 - share for side in sides)
        so_far = [sum(sides[: n + 1]) for n in range(12)]
        top = max(ratio_log_evidence(k, n + 1 - k, share) for n, k in enumerate(so_far))
        for alpha in ever:
            ever[alpha] += chance * (top >= -math.log(alpha))
    assert all(total <= alpha for alpha, total in ever.items())


def test_a_broken_sample_ratio_is_seen():
    """52% instead of 50% of 20,000 units is proven; 50.5% of 1,000 is not."""
    assert ratio_log_evidence(10_400, 9_600, 0.5) > math.log(500)
    assert ratio_log_evidence(505, 495, 0.5) < 0
