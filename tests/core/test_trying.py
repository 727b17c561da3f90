"""decide() on an experiment's legs: A/B tests and bandits, from the first unit to the next leg."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import A, B, C
from tests.core.test_rollout import ERRORS, World, plan
from tidegate.core import experiment
from tidegate.core.outcomes import UNITS, outcome_key
from tidegate.core.plan import AbTest, Bandit, Key, Pause, Plan, Ratio, Seconds, Step
from tidegate.core.rollout import Decision
from tidegate.core.state import ModelState, Phase
from tidegate.core.strategies import legs

TEST = AbTest(Key(header="x-user"), "bought", Ratio(0.1), Ratio(0.1), horizon=Seconds(60))
BOUGHT = outcome_key("bought")


@dataclass
class Users(World):
    """A plane where each second 200 new users come, of whom some buy: `buys` is release → rate.

    They go where the weights say, or to the candidate by `share`, if it is set.
    """

    users: int = 200
    buys: dict[str, float] = field(default_factory=dict)
    share: float | None = None

    def look(self) -> Decision:
        """Assign a second's users, then look."""
        served = {r: w / 100 for r, w in (self.router or {}).items()}
        if self.share is not None and B in served:
            served = {A: 1 - self.share, B: self.share}
        for release, part in served.items():
            mine = self.others.setdefault(release, {UNITS: (0, 0), BOUGHT: (0, 0)})
            units = mine[UNITS][0] + round(self.users * part)
            mine[UNITS] = (units, 0)
            mine[BOUGHT] = (units, round(units * self.buys.get(release, 0.1)))
        return super().look()


def trying(tried: Plan, seconds: int = 0, **changes: Any) -> Users:
    """Return a world where A rests in production and B was named in canary so many seconds ago."""
    world = Users().run(15)
    assert (world.state.stable, world.router) == (A, {A: 100})
    for name, value in {**changes, "canary_plan": tried}.items():
        setattr(world, name, value)
    world.notes.clear()
    world.history.clear()
    world.canary = B
    world.run(seconds)
    return world


def ab(**changes: Any) -> Plan:
    """An A/B test with one check."""
    test = msgspec.structs.replace(TEST, **{k: v for k, v in changes.items() if hasattr(TEST, k)})
    rest = {k: v for k, v in changes.items() if not hasattr(TEST, k)}
    return plan(steps=(), strategy="abTest", ab_test=test, **rest)


def bandit(**changes: Any) -> Plan:
    """A bandit that turns every 5 s."""
    spec = Bandit("bought", interval=Seconds(5), horizon=Seconds(60), min_rewards=100)
    spec = msgspec.structs.replace(spec, **{k: v for k, v in changes.items() if hasattr(spec, k)})
    rest = {k: v for k, v in changes.items() if not hasattr(spec, k)}
    return plan(steps=(), strategy="bandit", bandit=spec, **rest)


def finding(world: World, name: str = "bought") -> dict[str, Any]:
    """The experiment's finding."""
    return next(f for f in world.rollout.findings if f["name"] == name)


# ---------------------------------------------------------------- A/B tests
def test_a_better_candidate_is_verified():
    """An A/B test that proves the candidate better is over before its horizon, and says so once."""
    world = trying(ab(), 40, buys={A: 0.1, B: 0.25})
    assert world.rollout.phase is Phase.VERIFIED
    assert world.notes.count("experiment") == 1
    assert finding(world)["verdict"] == "PASS"
    assert world.history == [{A: 100}, {A: 50, B: 50}]


def test_a_worse_candidate_is_left():
    """Proven worse: weight 0, a rejection, and the numbers in the reason."""
    world = trying(ab(), 40, buys={A: 0.25, B: 0.1})
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert world.rejected == {B}
    assert world.router == {A: 100}
    assert "worse than stable, bought 10%" in world.rollout.reason


def test_an_even_candidate_is_undecided_until_it_is_over():
    """Without a difference it waits, longer than `progressDeadline`; at its end `onInconclusive` says."""
    waits = trying(ab(horizon=Seconds(1000), minimum_effect=Ratio(0.01)), 100)
    assert waits.rollout.phase is Phase.PROGRESSING
    assert "more of" in waits.rollout.reason
    assert trying(ab(), 70).rollout.phase is Phase.ROLLED_BACK
    assert trying(ab(on_inconclusive="promote"), 70).rollout.phase is Phase.VERIFIED
    held = trying(ab(on_inconclusive="hold"), 70)
    assert held.rollout.phase is Phase.PROGRESSING
    assert "over after" in held.rollout.reason


def test_a_broken_split_is_left():
    """When users are not assigned as planned the candidate is left, however well it seems to do."""
    world = trying(ab(), 20, buys={A: 0.1, B: 0.12}, share=0.65)
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert "sample ratio mismatch" in world.rollout.reason


@pytest.mark.parametrize("anyway", ["promote", "hold", "rollback"])
def test_without_an_outcome_nothing_is_promoted(anyway):
    """At the horizon, with no outcome at all, no `onInconclusive` promotes: `onNoData` says what is done."""
    for no_data, phase in (("hold", Phase.PROGRESSING), ("rollback", Phase.ROLLED_BACK)):
        world = trying(ab(on_inconclusive=anyway, on_no_data=no_data), 0, users=0)
        world.run(80)
        assert world.rollout.phase is phase


def test_a_broken_check_ends_a_test_at_once():
    """Objectives are watched all the while: a candidate with errors does not wait for its outcomes."""
    world = trying(ab(), 10, bad={B: 0.5})
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert "error rate" in world.rollout.reason


def test_a_source_that_says_nothing_holds_the_test():
    """While outcomes can't be read nothing is decided, and the reason names why."""
    world = trying(ab(), 5, buys={A: 0.1, B: 0.25})
    world.unmeasured = {BOUGHT: "locked"}
    world.run(20)
    assert world.rollout.phase is Phase.PROGRESSING
    assert "locked" in world.rollout.reason
    world.unmeasured = {}
    assert world.run(30).rollout.phase is Phase.VERIFIED


def test_what_was_proven_stays_proven_while_it_waits():
    """A test that was won goes on to its next leg, though later units make its interval wider again."""
    tested = ab(pause=Pause(Seconds(55)), horizon=Seconds(1000))
    world = trying(tested, 15, buys={A: 0.1, B: 0.25})
    assert "decided" in world.rollout.experiment
    for release in (A, B):  # from here on the arms are even
        world.buys[release] = world.others[release][BOUGHT][1] / world.others[release][UNITS][0]
    assert world.run(60).rollout.phase is Phase.VERIFIED


def test_after_a_test_the_rest_of_the_way_is_no_test():
    """In production a test that was won is followed by 100%, where nothing is split or tried any more."""
    world = Users().run(15)
    world.production_plan = ab()
    world.buys = {A: 0.1, B: 0.25}
    world.production = B
    world.run(60)
    assert world.rollout.phase is Phase.HEALTHY
    assert world.router == {B: 100}
    assert world.history[-2:] == [{A: 50, B: 50}, {B: 100}]


def test_a_first_release_is_not_tested():
    """Without a stable release there is no other arm: it is rolled out under its checks alone."""
    world = Users(production_plan=ab()).run(15)
    assert world.state.stable == A


def test_a_test_shares_one_alpha_with_its_checks():
    """Stages share the rollout's alpha; in an A/B test half is the checks', the rest outcome and split."""
    (leg,) = legs(ab(alpha=0.02), "canary", A)
    assert leg.plan.alpha == 0.01
    (alone,) = legs(ab(alpha=0.02, checks=()), "canary", A)
    assert alone.plan.alpha == 0.02
    made = experiment.decide(TEST, experiment.Arms((0, 0), (0, 0), 0, 0), 0.01, 0).finding
    assert 1 / made["threshold"] + 1 / made["sample_ratio"]["threshold"] == pytest.approx(0.01)


def test_another_strategy_begins_with_its_own_units():
    """In a sequence the test counts from its own first look: units of the stage before are not its own."""
    first = Plan(steps=(Step(10, Pause(Seconds(5))),), checks=(ERRORS,))
    world = trying(plan(steps=(), sequence=(first, ab(checks=()))), 1, buys={A: 0.1, B: 0.25})
    while world.rollout.step < 1:  # until the first one's objective is proven
        world.run(1)
    world.run(2)
    assert world.rollout.phase is Phase.PROGRESSING
    known = finding(world)["known"]
    assert 0 < known["candidate"][0] <= 1000
    assert abs(known["candidate"][0] - known["stable"][0]) <= 2
    assert world.run(30).rollout.phase is Phase.VERIFIED


# ---------------------------------------------------------------- bandits
def test_a_bandit_moves_weights_to_the_better_arm():
    """Each turn the better arm gets more, at most `maxChange` points, until it is the best for sure."""
    world = trying(bandit(min_rewards=10**6, interval=Seconds(10)), 50, buys={A: 0.1, B: 0.25})
    weights = [split[B] for split in world.history if B in split]
    assert weights == [50, 70, 90, 95]
    assert world.rollout.phase is Phase.PROGRESSING
    found = finding(world)
    assert found["arms"][B]["weight"] == 95
    assert found["regret"]["so_far"] > 0


def test_the_best_arm_decides_a_bandit():
    """The candidate is verified when it is the best, and left when stable is."""
    assert trying(bandit(), 40, buys={A: 0.1, B: 0.25}).rollout.phase is Phase.VERIFIED
    lost = trying(bandit(), 40, buys={A: 0.25, B: 0.1})
    assert lost.rollout.phase is Phase.ROLLED_BACK
    assert f"{A} is the best" in lost.rollout.reason


def test_a_bandit_is_over_at_its_horizon():
    """Even arms are not decided; at the horizon `onInconclusive` says what is done."""
    even = {A: 0.1, B: 0.1}
    assert trying(bandit(), 50, buys=even).rollout.phase is Phase.PROGRESSING
    assert trying(bandit(), 75, buys=even).rollout.phase is Phase.ROLLED_BACK
    assert trying(bandit(on_inconclusive="promote"), 75, buys=even).rollout.phase is Phase.VERIFIED


def test_moving_weights_does_not_begin_the_leg_anew():
    """A bandit's turns leave the leg's pause running, and the router is followed."""
    world = trying(bandit(min_rewards=10**6), 5, buys={A: 0.1, B: 0.25})
    entered = world.rollout.entered
    world.run(20)
    assert world.rollout.entered == entered
    assert world.router == world.rollout.weights


def three(seconds: int, **changes: Any) -> Users:
    """A bandit over stable, the candidate and C."""
    return trying(bandit(arms=(C,), **changes.pop("spec", {})), seconds, **changes)


def test_a_bandit_with_three_arms_shares_among_them():
    """Each arm begins with an equal part and keeps the floor; the best gets the rest."""
    world = three(40, buys={A: 0.1, B: 0.25, C: 0.1}, spec={"min_rewards": 10**6})
    assert world.history[1] == {A: 34, B: 33, C: 33}
    assert world.router == {A: 5, B: 90, C: 5}
    assert all(sum(split.values()) == 100 for split in world.history)


def test_an_arm_that_breaks_an_objective_is_thrown_out_and_its_weight_shared():
    """Its weight goes to the others in proportion at the next look, not to stable alone, and it stays out."""
    world = three(12, buys={A: 0.1, B: 0.1, C: 0.1}, bad={C: 0.5}, spec={"min_rewards": 10**6})
    assert "arm-out" in world.notes
    assert C not in world.rollout.weights
    assert finding(world)["arms"].keys() == {A, B}
    assert 40 <= world.rollout.weight <= 60
    world.run(20)
    assert C not in (world.router or {})
    assert sum(world.rollout.weights.values()) == 100


def test_a_thrown_out_arm_does_not_wait_for_the_next_turn():
    """What it had is shared out in the look that throws it out."""
    world = three(
        12,
        buys={A: 0.1, B: 0.1, C: 0.1},
        bad={C: 0.5},
        spec={"interval": Seconds(1000), "min_rewards": 10**6},
    )
    assert [set(split) for split in world.history] == [{A}, {A, B, C}, {A, B}]
    assert 40 <= world.rollout.weights[B] <= 60  # not stable alone has what was left


def test_a_bandits_candidate_that_breaks_an_objective_is_left():
    """Thrown out itself, the rollout is over."""
    world = three(15, buys={A: 0.1, B: 0.3, C: 0.1}, bad={B: 0.5})
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert world.router == {A: 100}


def test_the_state_of_an_experiment_is_stored_and_read():
    """At every look the whole state is JSON and back the same: a restart goes on where it was."""
    for tried in (ab(minimum_effect=Ratio(0.01)), bandit(min_rewards=10**6)):
        world = trying(tried, 8, buys={A: 0.1, B: 0.15})
        for _ in range(10):
            world.look()
            stored = json.loads(json.dumps(msgspec.to_builtins(world.state), allow_nan=False))
            assert msgspec.convert(stored, ModelState) == world.state


@settings(deadline=None, max_examples=25)
@given(
    st.fixed_dictionaries({r: st.floats(0, 0.5) for r in (A, B, C)}),
    st.integers(1, 20),
    st.integers(1, 100),
    st.sampled_from([None, A, B, C]),
)
def test_a_bandit_never_leaves_its_bounds(buys, floor, change, dies):
    """Whatever the rewards, and whoever dies: weights sum to 100, none below the floor, each move capped."""
    world = three(
        8,
        buys=buys,
        spec={"floor": floor, "max_change": change, "min_rewards": 10**6, "interval": Seconds(2)},
    )
    for second in range(20):
        before = dict(world.rollout.weights)
        if second == 8 and dies:
            world.running[dies] = False
        world.look()
        after = world.rollout.weights
        assert sum(after.values()) == 100
        assert min(after.values()) >= min(floor, 33)
        assert all(abs(after[r] - before[r]) <= max(change, floor) for r in after)
