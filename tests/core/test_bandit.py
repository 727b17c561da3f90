"""Bandits: chances of being the best, weights within their bounds, decisions and regret."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import A, B, C
from tidegate.core.bandit import best, decide, rebalance, regret
from tidegate.core.plan import Bandit, Seconds
from tidegate.core.verdict import Verdict

SPEC = Bandit("clicked", floor=5, max_change=20, min_rewards=100, horizon=Seconds(1000))
tally = st.integers(0, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


# ---------------------------------------------------------------- chances
def test_equal_arms_are_equally_likely_the_best():
    """Two arms with the same rewards have one half each, three have a third, none known too."""
    assert best({A: (50, 5), B: (50, 5)}) == pytest.approx({A: 0.5, B: 0.5})
    assert best({A: (0, 0), B: (0, 0), C: (0, 0)}) == pytest.approx(dict.fromkeys((A, B, C), 1 / 3))
    assert best({A: (3, 1)}) == {A: 1.0}


def test_a_chance_is_exact_where_it_can_be_worked_out_by_hand():
    """Beta(2,1) against Beta(1,1) is larger with 2/3; Beta(3,1) with 3/4."""
    assert best({A: (0, 0), B: (1, 1)})[B] == pytest.approx(2 / 3, abs=1e-3)
    assert best({A: (0, 0), B: (2, 2)})[B] == pytest.approx(3 / 4, abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(tally, tally, tally)
def test_chances_are_those_of_draws(one, two, three):
    """The integral agrees with drawing from the posteriors, which is what Thompson sampling means."""
    rewards, lots = {A: one, B: two, C: three}, random.Random(7)
    found = best(rewards)
    assert sum(found.values()) == pytest.approx(1)
    wins = dict.fromkeys(rewards, 0)
    for _ in range(2000):
        drawn = {arm: lots.betavariate(k + 1, n - k + 1) for arm, (n, k) in rewards.items()}
        wins[max(drawn, key=drawn.__getitem__)] += 1
    assert all(abs(found[arm] - wins[arm] / 2000) < 0.06 for arm in rewards)


def test_arms_with_very_different_knowledge_are_compared():
    """An arm with a million rewards and one with ten: neither vanishes between the points of the integral."""
    assert best({A: (1_000_000, 100_000), B: (10, 1)})[B] == pytest.approx(0.65, abs=0.1)
    assert best({A: (1_000_000, 100_000), B: (1_000_000, 102_000)})[B] > 0.999


# ---------------------------------------------------------------- weights
@settings(deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda n: st.tuples(
            st.lists(tally, min_size=n, max_size=n),
            st.lists(st.integers(0, 100), min_size=n, max_size=n),
            st.integers(1, 100 // n),
            st.integers(1, 100),
        )
    ),
    st.integers(0, 10),
)
def test_weights_keep_their_bounds(case, turn):
    """Whatever the rewards and the weights before: whole numbers, sum 100, none below the floor."""
    tallies, before, floor, change = case
    arms = [f"arm{n}" for n in range(len(tallies))]
    spec = Bandit("clicked", arms=tuple(arms[2:]), floor=floor, max_change=change)
    rewards, given_weights = dict(zip(arms, tallies, strict=True)), dict(zip(arms, before, strict=True))
    made = rebalance(spec, rewards, given_weights, turn)
    assert sum(made.weights.values()) == 100
    assert set(made.weights) == set(arms)
    assert all(isinstance(w, int) and w >= floor for w in made.weights.values())
    assert made == rebalance(spec, rewards, given_weights, turn)
    if sum(before) == 100 and min(before) >= floor:
        assert all(abs(made.weights[arm] - given_weights[arm]) <= change for arm in arms)


def test_weights_follow_the_chances_step_by_step():
    """A clear winner gets all but the floors, at most `maxChange` points a turn."""
    rewards, weights, seen = {A: (5000, 500), B: (5000, 900)}, {A: 50, B: 50}, []
    for turn in range(4):
        weights = rebalance(SPEC, rewards, weights, turn).weights
        seen.append(weights[B])
    assert seen == [70, 90, 95, 95]


def test_what_a_thrown_out_arm_had_is_shared_out():
    """An arm that is gone leaves its weight to those that remain, beyond the cap if need be."""
    made = rebalance(SPEC, {A: (500, 50), B: (500, 50)}, {A: 20, B: 20}, 0)
    assert made.weights == {A: 50, B: 50}


# ---------------------------------------------------------------- decisions
def test_the_best_candidate_passes():
    """With enough rewards and confidence the candidate is kept, and the reason names both rates."""
    made = decide(SPEC, {A: (1000, 100), B: (1000, 160)}, B, 10)
    assert made.verdict is Verdict.PASS
    assert "the candidate is the best with 100%" in made.reason
    assert "candidate 16% (160/1000)" in made.reason


def test_another_best_arm_fails_the_candidate():
    """If stable or a further arm is the best the candidate is left, and the reason says who won."""
    assert decide(SPEC, {A: (1000, 160), B: (1000, 100)}, B, 10).verdict is Verdict.FAIL
    made = decide(SPEC, {A: (1000, 100), B: (1000, 100), C: (1000, 190)}, B, 10)
    assert (made.verdict, C in made.reason) == (Verdict.FAIL, True)


def test_a_posterior_alone_decides_nothing():
    """97% sure by the posterior is what looking often brings about by chance: without evidence it goes on."""
    made = decide(SPEC, {A: (1000, 100), B: (1000, 128)}, B, 10)
    assert max(best({A: (1000, 100), B: (1000, 128)}).values()) > 0.95
    assert made.verdict is Verdict.INCONCLUSIVE
    assert "not proven yet" in made.reason


def test_an_even_candidate_is_rarely_decided_however_often_one_looks():
    """Looked at 20 times on the way to 4,000 rewards: at most 1 - confidence of even candidates are left."""
    lots, left = random.Random(11), 0
    for _ in range(20):
        rewards = {A: (0, 0), B: (0, 0)}
        for _ in range(20):
            for arm, (n, k) in rewards.items():
                rewards[arm] = (n + 100, k + sum(lots.random() < 0.1 for _ in range(100)))
            if decide(SPEC, rewards, B, 10).verdict is not Verdict.INCONCLUSIVE:
                left += 1
                break
    assert left <= 20 * (1 - SPEC.confidence)


def test_nothing_is_decided_before_min_rewards():
    """However clear it looks, each arm needs its rewards first; without any it is quiet."""
    made = decide(SPEC, {A: (99, 0), B: (1000, 900)}, B, 10)
    assert (made.verdict, made.over) == (Verdict.INCONCLUSIVE, False)
    assert "99 of 100 rewards" in made.reason
    assert decide(SPEC, {A: (0, 0), B: (1000, 900)}, B, 2000).quiet


def test_it_is_over_at_its_horizon():
    """At the horizon it is over without a winner; one who is proven there is still the winner."""
    even = {A: (1000, 100), B: (1000, 101)}
    assert [decide(SPEC, even, B, t).over for t in (999.0, 1000.0)] == [False, True]
    assert decide(SPEC, {A: (1000, 100), B: (1000, 160)}, B, 1000).verdict is Verdict.PASS


def test_an_only_arm_wins_nothing():
    """When all others were thrown out there is nothing to be better than."""
    assert decide(SPEC, {B: (1000, 500)}, B, 10).verdict is Verdict.INCONCLUSIVE


def test_regret_is_what_the_best_arm_would_have_won():
    """Against the best arm: none where all goes to it, the difference of rates where it goes elsewhere."""
    rewards = {A: (998, 99), B: (998, 199)}  # posterior means 10% and 20%
    assert regret(rewards, {A: 0, B: 100})[0] == pytest.approx(0)
    now, so_far = regret(rewards, {A: 50, B: 50})
    assert now == pytest.approx(0.05)
    assert so_far == pytest.approx(99.8)


RESULT = {"name", "verdict", "observed", "limit", "observed_text", "limit_text", "log_evidence", "evidence"}
RESULT |= {"threshold", "bound", "reason", "trials", "dry_run", "applicable", "blocking", "against"}


@settings(deadline=None)
@given(tally, tally, st.floats(0, 2000))
def test_every_finding_is_shown_like_a_check(one, two, elapsed):
    """A finding is JSON with a check's keys, each arm's rate, chance and weight, and both regrets."""
    made = decide(SPEC, {A: one, B: two}, B, elapsed, {A: 60, B: 40})
    found = made.finding
    assert set(found) >= RESULT | {"interval", "units", "planned", "arms", "regret"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["arms"]) == {A, B}
    assert found["regret"]["now"] >= 0
    assert found["regret"]["so_far"] >= 0
    if made.verdict is not Verdict.INCONCLUSIVE:
        assert min(one[0], two[0]) >= SPEC.min_rewards
        assert max(row["best"] for row in found["arms"].values()) >= SPEC.confidence
