"""Replays: the machine that decides, on traffic that is drawn or was recorded, and nothing made up."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate import replays
from tidegate.core import recording as rec
from tidegate.core import replay as rp
from tidegate.core.counts import Counts
from tidegate.core.plan import (
    AbTest,
    AgainstStable,
    Check,
    FailureLimit,
    Key,
    Milliseconds,
    Mirror,
    Pause,
    Plan,
    Ratio,
    Seconds,
    Step,
)
from tidegate.core.rules import RULES, Past, z_score
from tidegate.core.traffic_models import (
    LADDER,
    Candidate,
    Reading,
    Recorded,
    Resampled,
    Simulated,
    Traffic,
    as_traffic,
    ladder,
    latency_shares,
)
from tidegate.core.trials import HEALTHY, OWN, POLICIES, SCENARIOS, Job, jobs, simulate, summarise, wilson

ERRORS = Check("errors", "error-rate", Ratio(0.05), against_stable=AgainstStable(Ratio(0.25)))
LATENCY = Check("latency", "latency", Milliseconds(200), against_stable=AgainstStable(Ratio(0.5)))
STEPS = (Step(10, Pause(Seconds(3), 20)), Step(50, Pause(Seconds(3), 50)))
PLAN = Plan(steps=STEPS, checks=(ERRORS,), progress_deadline=Seconds(120))
BOTH = Plan(steps=STEPS, checks=(ERRORS, LATENCY), progress_deadline=Seconds(120))
BUSY = Traffic(rate=200.0)
FEW = settings(max_examples=15, deadline=None)


def job(plan: Plan = PLAN, environment: str = "canary", seconds: float = 60, **changes: Any) -> Job:
    """One simulated rollout of a healthy candidate, or of another."""
    found = Job(plan, environment, BUSY, HEALTHY, OWN, 1, seconds)
    return replace(found, **changes)


def sick(errors: float | None = None, slower: float = 1.0) -> Any:
    """A scenario of a candidate like that."""
    return replace(HEALTHY, name="sick", candidate=Candidate(errors, slower))


# ---------------------------------------------------------------- simulated rollouts
def test_a_dead_release_leaves_at_its_first_look_and_costs_its_answers_only() -> None:
    """Every answer fails: it is left within a second, and what was lost is what it was asked."""
    found = simulate(job(scenario=sick(1.0)))
    assert found.left is not None
    assert found.left <= 1.0
    assert (found.verdict, found.lost) == ("FAIL", found.requests)
    assert "evidence" in found.reason


def test_a_healthy_release_is_verified_after_its_steps() -> None:
    """It takes at least its pauses, and is watched to the end."""
    found = simulate(job())
    assert (found.left, found.verdict) == (None, "")
    assert found.verified is not None
    assert found.verified >= 6.0
    assert 55 <= found.watched <= 61


def test_in_production_it_ends_when_it_is_settled() -> None:
    """What is healthy after its soak is watched no more, so nothing later is counted."""
    found = simulate(job(replace_plan(PLAN, required_soak_time=Seconds(5)), "production", seconds=300))
    assert found.left is None
    assert found.watched < 100


def replace_plan(plan: Plan, **changes: Any) -> Plan:
    """The plan with other fields."""
    import msgspec

    return msgspec.structs.replace(plan, **changes)


def test_a_mirrored_candidate_loses_nobody_s_answer() -> None:
    """A shadow's failed answers reach no user: they count as evidence, not as lost."""
    shadow = Plan(strategy="shadow", mirror=Mirror(50), pause=Pause(Seconds(5), 50), checks=(ERRORS,))
    found = simulate(job(shadow, scenario=sick(0.5)))
    assert found.verdict == "FAIL"
    assert found.requests > 0
    assert found.lost == 0


def test_a_baseline_is_compared_with() -> None:
    """A plan with a fresh copy of stable is replayed with that copy, and judged as any other."""
    plan = replace_plan(PLAN, baseline=True)
    assert simulate(job(plan, scenario=sick(0.4))).verdict == "FAIL"
    assert simulate(job(plan)).left is None


def test_nobody_is_waited_for() -> None:
    """A manual gate and an indefinite pause are let through: no person is there to open them."""
    steps = (
        Step(10, Pause(Seconds(3), 20, indefinite=True), gate="manual"),
        Step(50, Pause(), gate="manual"),
    )
    assert simulate(job(replace_plan(PLAN, steps=steps))).verified is not None


@FEW
@given(st.integers(0, 10**6), st.sampled_from([None, 0.02, 0.06, 0.1]), st.floats(1.0, 2.0), st.booleans())
def test_a_verified_canary_is_watched_as_the_machine_would(seed, errors, slower, limited) -> None:
    """The short way after Verified gives the machine's own run: verdict, second, reason and losses."""
    limit = FailureLimit(1, Seconds(20)) if limited else None
    checks = (replace_check(ERRORS, failure_limit=limit), LATENCY)
    plan = replace_plan(BOTH, checks=checks)
    found = []
    for even in (True, False):
        source = Simulated(BUSY, Candidate(errors, slower), plan, seed)
        found.append(rp.run(plan, "canary", source, rp.Course(rp.every(1.0), 90, even=even)))
    assert found[0] == found[1]


def replace_check(check: Check, **changes: Any) -> Check:
    """The check with other fields."""
    import msgspec

    return msgspec.structs.replace(check, **changes)


def test_the_same_job_gives_the_same_run_on_any_number_of_processes() -> None:
    """Numbers do not depend on how many cores there were, nor on the order in which jobs were done."""
    made = [
        job(seed=seed, seconds=20, scenario=sick(errors)) for seed, errors in enumerate([None, 0.5, 0.06])
    ]
    told: list[int] = []
    alone = replays.simulate_all(made, workers=1)
    assert replays.simulate_all(made, workers=2, told=told.append) == alone
    assert sum(told) == len(made)


def test_only_what_a_plan_watches_is_tried() -> None:
    """A plan without a latency check is not blamed for missing slow candidates; each policy gets each run."""
    made = jobs(PLAN, "canary", Traffic(errors=0.04), 4, 2, 1, 60)
    assert {each.scenario.name for each in made} == {
        "healthy",
        "5% errors",
        "10% errors",
        "30% errors",
        "100% errors",
    }
    assert {each.policy for each in made} == set(POLICIES)
    assert len({each.scenario.name for each in jobs(BOTH, "canary", Traffic(), 1, 1, 1, 60)}) == len(
        SCENARIOS
    )
    seeds = {policy: [e.seed for e in made if e.policy == policy] for policy in POLICIES}
    assert len({tuple(each) for each in seeds.values()}) == 1


@pytest.mark.parametrize("strategy", ["abTest", "sequence"])
def test_an_experiment_is_refused(strategy) -> None:
    """What is decided by outcomes that no request shows is not replayed as if it were decided by requests."""
    unit = AbTest(Key(header="x"), "sale", Ratio(0.1), Ratio(0.02))
    test = Plan(strategy="abTest", ab_test=unit)
    assert rp.unfit(test if strategy == "abTest" else Plan(sequence=(PLAN, test)))
    assert rp.unfit(PLAN) == ""


def test_every_metric_gets_counts() -> None:
    """A healthy candidate of a plan with every kind of check is verified, not held for lack of data."""
    checks = (
        ERRORS,
        LATENCY,
        Check("missing", "missing-features", Ratio(0.1)),
        Check("drift", "prediction-drift", Ratio(0.2)),
        Check("split", "sample-ratio"),
        Check("sales", "outcome", Ratio(0.4), outcome="sale"),
    )
    found = simulate(job(replace_plan(PLAN, checks=checks), seconds=120))
    assert found.reason == ""
    assert found.verified is not None


# ---------------------------------------------------------------- a recording
def record(plan: Plan, environment: str, candidate: Candidate, seed: int, looks: int) -> rec.Recording:
    """Run the machine on simulated traffic and record it as the agent does."""
    machine = rp.Machine(plan, environment, "candidate", "stable")
    source = Simulated(BUSY, candidate, plan, seed)
    lines: list[dict[str, Any]] = []
    now = 1.7e9

    def decide(fresh: Any) -> None:
        before = machine.state
        machine.decide(now, fresh)
        for added in rec.entries("p", "toy", before, machine.state, plan, (), now).values():
            lines.extend(added)

    decide({})
    for look in range(looks):
        if machine.waits:
            now += 0.05
            decide({})
        now += float(plan.interval) + 0.013 * (look % 3)
        decide(source.counted(look, float(plan.interval), machine.shares))
        if machine.rollout.phase in (*rp.LEFT, rec.Phase.HEALTHY):
            break
    return rec.parse(json.loads(json.dumps(lines)))


@FEW
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, 0.03, 0.08, 0.2, 1.0]),
    st.floats(1.0, 3.0),
    st.sampled_from(["canary", "production"]),
    st.booleans(),
)
def test_a_recording_replayed_with_its_own_plan_gives_its_own_end(
    seed, errors, slower, where, baseline
) -> None:
    """With the weights of then a replay sees what was seen then, and decides as it was decided."""
    plan = replace_plan(BOTH, baseline=baseline)
    made = record(plan, where, Candidate(errors, slower), seed, 60)
    found = rp.replay(made, made.plan, where, seed=7)
    last = made.looks[-1]
    if last.phase == "RollingBack":
        assert found.verdict == "FAIL"
        assert found.reason == last.reason
        assert found.left == pytest.approx(last.at - made.looks[0].at)
    else:
        assert found.left is None
        assert (found.verified is not None) == (last.phase in ("Verified", "Healthy"))


def test_a_stricter_policy_leaves_what_was_verified() -> None:
    """Another policy's verdict on the same traffic is its own, at its own weights."""
    made = record(PLAN, "canary", Candidate(), 3, 60)
    assert made.looks[-1].phase == "Verified"
    strict = replace_plan(PLAN, checks=(Check("errors", "error-rate", Ratio(0.002)),))
    assert rp.replay(made, strict, "canary", 1).verdict == "FAIL"


def test_other_weights_and_what_comes_after_the_end_are_resampled() -> None:
    """A policy with more patience than the recording has goes on with looks drawn from it."""
    made = record(PLAN, "canary", Candidate(0.2), 3, 60)
    assert made.looks[-1].phase == "RollingBack"
    patient = replace_plan(
        PLAN, checks=(Check("errors", "error-rate", Ratio(0.9)),), steps=(Step(25, Pause(Seconds(30))),)
    )
    found = rp.replay(made, patient, "canary", 1, seconds=60)
    assert found.left is None
    assert found.verified is not None
    assert found.requests == pytest.approx(200 * 0.25 * found.watched, rel=0.2)
    assert found.lost == pytest.approx(0.2 * found.requests, rel=0.4)


def counts(requests: int, errors: int) -> Counts:
    """Counts with two buckets."""
    return Counts(
        requests, errors, ((10.0, requests - 3), (math.inf, 3)), {"m": (requests, 5)}, {"d": (requests, 0)}
    )


LOOKS = [
    Recorded(1.0, {"c": counts(1000, 100), "s": counts(9000, 90)}, {"c": 10.0, "s": 90.0}) for _ in range(5)
]


def test_at_the_recorded_weights_counts_are_as_they_were() -> None:
    """Nothing is drawn where nothing has to be."""
    found = Resampled(LOOKS, "c", 1).counted(0, 1.0, {"c": 0.1, "s": 0.9})
    assert found == LOOKS[0].counts


@pytest.mark.parametrize(("share", "expected"), [(0.05, 500), (0.1, 1000), (0.5, 5000)])
@pytest.mark.parametrize("look", [2, 99])
def test_at_other_weights_rates_stay_and_requests_follow(share, expected, look) -> None:
    """Less traffic is a part of what was recorded, more is like it, and so is what comes after the end."""
    found = Resampled(LOOKS, "c", 1).counted(look, 1.0, {"c": share, "s": 1 - share})["c"]
    assert found.requests == pytest.approx(expected, rel=0.15)
    assert found.errors / found.requests == pytest.approx(0.1, rel=0.3)
    assert sum(n for _, n in found.latency) == pytest.approx(expected, rel=0.15)
    assert found.tallies["m"][0] == pytest.approx(expected, rel=0.2)
    assert sum(found.bins["d"]) == pytest.approx(expected, rel=0.15)


def test_a_recording_without_counts_is_refused() -> None:
    """Nothing can be resampled from nothing."""
    with pytest.raises(ValueError, match="without a look"):
        Resampled([], "c", 1)


def test_traffic_like_a_recording_s() -> None:
    """Its rate is that of both releases; errors and latency are stable's, never the candidate's."""
    found = as_traffic(LOOKS, "c")
    assert found.rate == pytest.approx(10_000)
    assert found.errors == pytest.approx(0.01)
    assert found.histogram[0] == (10.0, 5 * 8997)


# ---------------------------------------------------------------- traffic
@given(st.floats(1, 500), st.floats(0.5, 3), st.floats(0.05, 1.5))
def test_latency_shares_are_shares(median, slower, spread) -> None:
    """Each bucket's share is at least 0, they sum to 1, and a slower release has no more below any bound."""
    traffic = Traffic(median=median, spread=spread)
    usual, slow = (np.cumsum(latency_shares(traffic, times, LADDER)) for times in (1.0, max(1.0, slower)))
    assert usual[-1] == pytest.approx(1)
    assert (np.diff(usual) >= 0).all()
    assert (slow <= usual + 1e-9).all()


def test_a_histogram_is_read_between_its_bounds() -> None:
    """Half as fast means twice as long: the share below a bound is that of half of it."""
    traffic = Traffic(histogram=((10.0, 50), (20.0, 40), (math.inf, 10)))
    below = dict(zip(LADDER, np.cumsum(latency_shares(traffic, 2.0, LADDER)), strict=True))
    assert below[20.0] == pytest.approx(0.5)
    assert below[40.0] == pytest.approx(0.9)


def test_the_ladder_keeps_what_limits_are_told_by() -> None:
    """Every limit and the buckets around stable's quantile are kept, the rest is not."""
    kept = ladder(Traffic(), BOTH)
    assert 200.0 in kept
    assert kept[-1] == math.inf
    assert 4 < len(kept) < len(LADDER) / 2
    assert ladder(Traffic(), PLAN) == ()


@pytest.mark.parametrize("burst", [1.0, 5.0])
def test_clumps_keep_the_rate(burst) -> None:
    """Bursts change how errors come, not how many."""
    source = Simulated(Traffic(rate=1000, errors=0.05, burst=burst), Candidate(), PLAN, 1)
    found = [source.counted(look, 1.0, {"stable": 1.0})["stable"] for look in range(200)]
    assert sum(c.errors for c in found) / sum(c.requests for c in found) == pytest.approx(0.05, rel=0.1)
    spread = np.var([c.errors for c in found]) / np.mean([c.errors for c in found])
    assert spread == pytest.approx(1 if burst == 1 else 2 * burst - 1, rel=0.4)


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"errors": 1.0}, {"burst": 0.5}, {"median": 0}, {"spread": 0}]
)
def test_traffic_that_can_not_be_is_refused(wrong) -> None:
    """No rate, no median and fewer than one error a clump mean nothing."""
    with pytest.raises(ValueError, match=r"positive|between|least"):
        Traffic(**wrong)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6))
def test_readings_add_up(rows) -> None:
    """Counters are cumulative over looks and over buckets, as a router's are."""
    reading = Reading()
    for fast, slow in rows:
        reading = reading.plus(Counts(fast + slow, slow, ((5.0, fast), (math.inf, slow)), {"m": (fast, 0)}))
    fast, slow = (sum(row[i] for row in rows) for i in (0, 1))
    assert (reading.requests, reading.errors) == (fast + slow, slow)
    assert reading.latency == ((5.0, fast), (math.inf, fast + slow))
    assert reading.tallies == {"m@": (fast, 0)}


# ---------------------------------------------------------------- the common rules
@pytest.mark.parametrize(("rule", "seconds"), [(RULES[0], 60), (RULES[1], 180), (RULES[2], 10)])
def test_the_common_rules_leave_a_dead_release_in_their_own_time(rule, seconds) -> None:
    """A window has to fill, three looks a minute take three minutes, a test needs its first look."""
    found = simulate(job(policy=rule.name, scenario=sick(1.0), seconds=400))
    assert found.left == pytest.approx(seconds)
    assert found.lost == found.requests


def test_the_z_test_is_against_stable() -> None:
    """It is 0 where both are alike, positive where the candidate is worse, and 0 without any event."""
    assert z_score((100, 5), (900, 45)) == pytest.approx(0)
    assert z_score((100, 10), (900, 45)) == pytest.approx(2.1, abs=0.1)
    assert z_score((10, 0), (10, 0)) == 0


def test_a_window_forgets() -> None:
    """What is older than a minute is not in the window, and is in the sums."""
    past = Past(0.0, (ERRORS,))
    for second in range(1, 101):
        for pooled in (True, False):
            past.add(float(second), Counts(1, 1), Counts(2, 0), pooled=pooled)
    assert (past.window(0), past.candidate.requests, past.stable.requests) == ((60, 60), 100, 200)


# ---------------------------------------------------------------- numbers
def test_a_summary_tells_shares_times_and_losses() -> None:
    """Runs that were never left count as infinitely late, and never as a time."""
    runs = [
        rp.Run(4.0, "FAIL", "x", None, 3, 10, 4.0),
        rp.Run(60.0, "INCONCLUSIVE", "x", None, 5, 10, 60.0),
        rp.Run(None, "", "", 9.0, 1, 10, 60.0),
    ]
    row = summarise("s", "p", runs)
    assert (row.left, row.late, row.verified, row.median) == (2, 1, 1, 60.0)
    assert (row.caught_median, row.verified_median, row.lost) == (32.0, 9.0, 3.0)
    assert row.share == pytest.approx(2 / 3)
    assert summarise("s", "p", runs[2:]).median is None


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_holds_the_share(successes, more) -> None:
    """Wilson's interval lies in [0, 1] and holds what was seen."""
    trials = successes + more
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


def test_ticks_are_an_interval_apart() -> None:
    """Looks come one interval after the other, numbered from the first."""
    assert list(itertools.islice(rp.every(2.0, 10.0, 5), 3)) == [(12.0, 5), (14.0, 6), (16.0, 7)]
