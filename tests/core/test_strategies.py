"""Every strategy, driven through decide() on a simulated plane: what it gives, waits for and ends in."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import A, B, C
from tests.core.test_rollout import ERRORS, World, canary, plan, settled
from tidegate.core.asking import Ask, ask
from tidegate.core.plan import (
    AbTest,
    Bandit,
    Check,
    Key,
    Match,
    Mirror,
    Pause,
    Plan,
    Ratio,
    Seconds,
    Step,
)
from tidegate.core.release import copy_of
from tidegate.core.rollout import decide
from tidegate.core.state import Phase, Traffic, needed
from tidegate.core.strategies import arms_of, legs
from tidegate.ports import Counters

COPY = copy_of(A)
SHORT = Pause(Seconds(3), 10)
SAME = Check("same", "disagreement", Ratio(0.05))
SHADOW = Plan(strategy="shadow", mirror=Mirror(50), pause=SHORT, checks=(ERRORS, SAME))
LOW = (Step(10, SHORT), Step(50, SHORT))


def say(world: World, verb: str, environment: str = "canary", reason: str = "") -> tuple[bool, str]:
    """Ask something as Ann; return whether it was done, and what was said."""
    before = world.state
    asked = Ask(environment, "Ann", reason, world.now, world.want)
    world.state, text, notes = ask(verb, before, asked)
    world.told += notes
    world.notes += [note.kind for note in notes]
    return world.state is not before, text


def until(world: World, *phases: Phase, seconds: int = 200) -> World:
    """Let time pass until the rollout is in one of these phases."""
    for _ in range(seconds):
        if world.state.rollout and world.rollout.release == B and world.rollout.phase in phases:
            return world
        world.look()
    raise AssertionError(f"{world.rollout.phase} {world.rollout.reason}")


def shown(world: World, release: str = B) -> list[int]:
    """Return a release's weights in the order it had them."""
    found: list[int] = []
    for split in world.history:
        weight = split.get(release, 0)
        if not found or found[-1] != weight:
            found.append(weight)
    return found


def uncounted(world: World, seconds: int, counters: dict[str, Counters] | None) -> None:
    """Let time pass in which the router says this instead of what it counts."""
    kept, world.counters = world.counters, counters
    for _ in range(seconds):
        world.state = decide(world.state, world.want, world.seen, world.now).state
        world.now += 1
    world.counters = kept


# ---------------------------------------------------------------- canary
def test_step_weight_climbs_to_max_weight() -> None:
    """stepWeight makes the steps: 20, 40, and maxWeight at last."""
    climbing = plan(steps=(), step_weight=20, max_weight=50, pause=SHORT)
    world = until(canary(canary_plan=climbing), Phase.VERIFIED)
    assert shown(world) == [0, 20, 40, 50]


def test_an_indefinite_pause_lasts_until_somebody_resumes() -> None:
    """It waits past every deadline, looked at all the same, says so once, and goes on when told."""
    held = plan(steps=(Step(10, Pause(Seconds(3), 10, indefinite=True)), Step(50, SHORT)))
    world = until(canary(canary_plan=held), Phase.PAUSED).run(300)
    assert (world.rollout.phase, world.router) == (Phase.PAUSED, {A: 90, B: 10})
    assert world.rollout.reason == "its pause lasts until `tidegate resume`"
    assert world.notes.count("paused") == 1
    assert say(world, "resume")[0]
    assert shown(until(world, Phase.VERIFIED)) == [0, 10, 50]


def test_a_breach_ends_a_paused_rollout_at_once() -> None:
    """A paused rollout is watched: no person is waited for when it breaks."""
    held = plan(steps=(Step(10, Pause(indefinite=True)), Step(50, SHORT)))
    world = until(canary(canary_plan=held), Phase.PAUSED).run(100)
    world.bad[B] = 0.5
    until(world, Phase.ROLLING_BACK, seconds=20)
    assert world.rollout.verdict == "FAIL"


def test_a_manual_gate_holds_the_weight_before_it() -> None:
    """The step behind a gate is not given before `approve`, however good the release is."""
    gated = plan(steps=(Step(10, SHORT), Step(50, SHORT, gate="manual")))
    world = until(canary(canary_plan=gated), Phase.PAUSED).run(200)
    assert (shown(world), world.rollout.reason) == ([0, 10], "50% waits for `tidegate approve`")
    assert [n.data["waits"] for n in world.told if n.kind == "paused"] == ["approve"]
    assert say(world, "approve")[0]
    assert shown(until(world, Phase.VERIFIED)) == [0, 10, 50]


def test_a_gate_before_the_first_step_waits_without_weight_and_with_its_match_routes() -> None:
    """The release is up, has no weight, and is reached by hand by who sends the header."""
    match = Match(header="x-try", value="yes")
    gated = plan(steps=(Step(10, SHORT, gate="manual"), Step(50, SHORT)), match=(match,))
    world = until(canary(canary_plan=gated), Phase.PAUSED).run(200)
    assert (world.router, world.rollout.step) == ({A: 100}, -1)
    assert world.beside == Traffic(matches=(match,))
    assert say(world, "approve") == (True, f"{B} gets 10% as soon as its checks let it")
    assert shown(until(world, Phase.VERIFIED)) == [0, 10, 50]
    assert world.beside == Traffic(matches=(match,))


def test_an_approval_ahead_of_its_step_counts_for_that_step_only() -> None:
    """What is approved while the step before it still runs is not asked for again; the next one is."""
    gated = plan(
        steps=(Step(10, SHORT), Step(30, SHORT, gate="manual"), Step(50, SHORT, gate="manual")),
    )
    world = canary(4, canary_plan=gated)
    assert say(world, "approve")[0]
    until(world, Phase.PAUSED)
    assert shown(world) == [0, 10, 30]


def test_match_routes_begin_once_it_is_warm_and_end_when_it_has_settled() -> None:
    """By hand it can be tried from its first step on, and not after: then everybody gets it."""
    match = Match(cookie="try")
    tried = plan(steps=(Step(75, SHORT),), match=(match,))
    world = settled(production_plan=tried, starts_ready=False)
    world.production = B
    world.run(3)
    assert world.beside == Traffic()
    world.running[B] = True
    until(world, Phase.PROGRESSING)
    assert world.beside == Traffic(matches=(match,))
    assert until(world, Phase.HEALTHY).beside == Traffic()


def test_session_affinity_lasts_from_the_first_step_to_the_last_and_no_longer() -> None:
    """Who is on a side stays there while weights change; a settled release has no sides."""
    unit = Key(cookie="session")
    sticky = plan(steps=(Step(75, SHORT),), session_affinity=unit)
    world = settled(production_plan=sticky)
    world.production = B
    kept = set()
    while (world.rollout.release, world.rollout.phase) != (B, Phase.HEALTHY):
        world.run(1)
        if world.router != {A: 100}:
            kept.add(world.beside.affinity)
    assert kept == {unit, None}
    assert world.beside == Traffic()


# ---------------------------------------------------------------- baseline
BASELINE = plan(steps=LOW, baseline=True)


def test_a_baseline_is_started_warmed_given_the_same_weight_and_compared_with() -> None:
    """A fresh copy of stable gets what the candidate gets; stable has the rest."""
    world = until(canary(canary_plan=BASELINE), Phase.VERIFIED)
    assert world.history == [{A: 100}, {A: 80, COPY: 10, B: 10}, {COPY: 50, B: 50}]
    assert COPY in world.warmed
    assert world.rollout.compared_with == COPY
    evidence = world.rollout.evidence
    assert evidence["stable"]["requests"] == evidence["candidate"]["requests"]


def test_nothing_is_given_before_the_baseline_is_warm() -> None:
    """A comparison with something that isn't there is none: the candidate waits for it."""
    world = canary(canary_plan=BASELINE)
    for _ in range(10):
        world.warmed.discard(COPY)
        world.look()
    assert (world.rollout.phase, world.router) == (Phase.PENDING, {A: 100})
    until(world, Phase.VERIFIED)


@pytest.mark.parametrize("why", ["missing", "never ready"])
def test_a_baseline_that_can_not_be_had_is_done_without(why: str) -> None:
    """The rollout goes on against stable, and says so; the candidate is not blamed."""
    world = settled(canary_plan=BASELINE)
    world.canary = B
    if why == "missing":
        world.missing[COPY] = "its Bento is not here"
    for _ in range(100):
        if why != "missing" and COPY in world.running:
            world.running[COPY] = False
        world.look()
    assert (world.rollout.phase, world.rollout.compared_with) == (Phase.VERIFIED, A)
    assert world.history[-1] == {A: 50, B: 50}
    assert "arm-out" in world.notes
    assert world.rejected == set()


def test_a_baseline_that_dies_is_not_compared_with_and_fails_nobody() -> None:
    """Its share goes to stable; the candidate is judged by its own objectives until it is back."""
    world = canary(6, canary_plan=BASELINE)
    compared = world.rollout.evidence["stable"]["requests"]
    for _ in range(40):
        world.running[COPY] = False
        world.look()
    assert world.rollout.phase in (Phase.PROGRESSING, Phase.VERIFIED)
    assert world.router in ({A: 90, B: 10}, {A: 50, B: 50})
    assert world.rollout.evidence["stable"]["requests"] <= compared + 10
    assert world.rejected == set()


def test_a_breach_is_left_to_stable_and_the_baseline_goes_with_it() -> None:
    """All traffic is on stable at once, never on the copy, which is stopped."""
    world = canary(6, canary_plan=BASELINE)
    world.bad[B] = 0.5
    until(world, Phase.ROLLING_BACK, seconds=20)
    assert world.router == {A: 100}
    world.run(20)
    assert set(world.running) == {A}


def test_a_baseline_is_stopped_when_the_release_has_settled() -> None:
    """In production it serves until 100% and is gone in the end; it never becomes what traffic rests on."""
    world = settled(production_plan=BASELINE)
    world.production = B
    until(world, Phase.HEALTHY).run(30)
    assert (set(world.running), world.state.stable) == ({B}, B)
    assert copy_of(B) not in world.running


# ---------------------------------------------------------------- shadow
def shadowed(**changes: Any) -> World:
    """Return a world where B is mirrored in canary."""
    return canary(**{"canary_plan": SHADOW, "pairs": ("same",), **changes})


def test_a_shadow_gets_copies_and_no_user() -> None:
    """It is Verified by mirrored requests alone, and its weight is 0 all the time."""
    world = until(shadowed(), Phase.VERIFIED)
    assert (world.history, world.mirror) == ([{A: 100}], {B: 50})
    assert world.beside.journal
    assert world.rollout.evidence["candidate"]["requests"] > 50


def test_a_shadow_that_answers_differently_is_left() -> None:
    """Disagreement is evidence like any other: rejected, and no user saw one of its answers."""
    world = until(shadowed(odd={B: 0.4}), Phase.ROLLED_BACK)
    assert (world.history, world.rejected, world.mirror) == ([{A: 100}], {B}, {})
    assert "same" in [f["name"] for f in world.rollout.findings if f["verdict"] == "FAIL"]


def test_a_shadow_whose_answers_nobody_compares_is_never_verified() -> None:
    """No pairs are no agreement: it is held past its deadline, and promoted by nothing."""
    silent = Plan(strategy="shadow", mirror=Mirror(50), pause=SHORT, checks=(SAME,))
    for policy in ("rollback", "promote", "hold"):
        world = canary(canary_plan=plan_like(silent, on_inconclusive=policy)).run(200)
        assert world.rollout.phase is Phase.PROGRESSING
        assert "nothing was counted" in world.rollout.reason


def plan_like(base: Plan, **changes: Any) -> Plan:
    """Return a plan with some fields replaced, and a deadline of a minute."""
    return msgspec.structs.replace(base, **{"progress_deadline": Seconds(60), **changes})


def test_a_dead_shadow_is_left_after_its_deadline() -> None:
    """What is not there gets no copies, proves nothing, and is not waited for for ever."""
    world = shadowed(canary_plan=plan_like(SHADOW)).run(5)
    for _ in range(100):
        if B in world.running:
            world.running[B] = False
        world.look()
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert world.mirror == {}


# ---------------------------------------------------------------- sequence
SEQUENCE = plan(
    steps=(),
    sequence=(SHADOW, plan(steps=LOW)),
)


def test_a_sequence_gathers_evidence_anew_and_shares_one_alpha() -> None:
    """Shadow, then canary: each with its own checks, half of alpha each, and counts of its own."""
    world = canary(canary_plan=SEQUENCE, pairs=("same",))
    assert [leg.plan.alpha for leg in legs(SEQUENCE, "canary", A)] == [0.005] * 3
    while not world.rollout or world.rollout.step < 1:
        world.run(1)
    assert "stage" in world.notes
    assert world.rollout.evidence == {}
    until(world, Phase.VERIFIED)
    assert (shown(world), world.mirror) == ([0, 10, 50], {})
    assert world.rollout.evidence["candidate"]["requests"] < world.rollout.marks[B].requests
    assert {f["name"] for f in world.rollout.findings} == {"errors", "errors-vs-stable"}


def test_copies_of_the_stage_before_are_no_requests_of_the_next() -> None:
    """Half of all requests were mirrored: counted at 10% weight they would look like too many errors."""
    patient = plan_like(SEQUENCE, progress_deadline=Seconds(600))
    world = canary(canary_plan=patient, pairs=("same",), bad={A: 0.015, B: 0.015}).run(300)
    assert world.rollout.verdict != "FAIL"
    assert shown(world) == [0, 10, 50]


def test_a_strategy_of_a_sequence_is_left_only_when_its_objectives_are_proven() -> None:
    """Its evidence ends with it: 4% of pairs that differ, limit 5%, are not proven by the first few."""
    hasty = plan_like(SHADOW, pause=Pause(Seconds(1), 1), progress_deadline=Seconds(600))
    both = plan(steps=(), sequence=(hasty, plan(steps=LOW)), progress_deadline=Seconds(600))
    world = canary(5, canary_plan=both, pairs=("same",), odd={B: 0.04})
    assert (world.rollout.step, shown(world)) == (0, [0])
    until(world, Phase.VERIFIED, seconds=500)
    (told,) = [note for note in world.told if note.kind == "stage"]
    assert {f["verdict"] for f in told.data["findings"] if f["applicable"] and f["blocking"]} == {"PASS"}


def test_a_strategy_of_a_sequence_does_without_data_what_it_says_itself() -> None:
    """`onNoData: rollback` and its limit, written in the item, are that item's."""
    strict = plan(steps=LOW, on_no_data="rollback", consecutive_error_limit=5)
    world = canary(4, canary_plan=plan(steps=(), sequence=(strict,)))
    world.counters = None
    world.run(8)
    assert (world.rollout.phase, world.rollout.verdict) == (Phase.ROLLED_BACK, "ERROR")


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("lost", ["unavailable", "empty"])
def test_nothing_soaks_while_nobody_counts_it(sequence: bool, lost: str) -> None:
    """No counts, or a table of counts without it, are no time in which a promoted release was watched."""
    soaking = plan(steps=(Step(50, SHORT),), required_soak_time=Seconds(30))
    if sequence:
        soaking = plan(steps=(), checks=(), sequence=(soaking,), required_soak_time=Seconds(30))
    world = settled(production_plan=soaking)
    world.production = B
    until(world, Phase.VERIFIED)
    uncounted(world, 60, None if lost == "unavailable" else {})
    assert (world.rollout.phase, world.rollout.blind) == (Phase.VERIFIED, 60)
    until(world, Phase.HEALTHY)


# ---------------------------------------------------------------- blueGreen
BLUE_GREEN = Plan(
    strategy="blueGreen",
    mirror=Mirror(100),
    pause=SHORT,
    steps=(Step(20, SHORT),),
    checks=(ERRORS, SAME),
    progress_deadline=Seconds(60),
    scale_down_delay=Seconds(20),
)


def green(**changes: Any) -> World:
    """Return a world where B goes to production by blueGreen."""
    world = settled(production_plan=plan_like(BLUE_GREEN, **changes), pairs=("same",))
    world.production = B
    return world


def test_blue_green_tests_shifts_and_switches_when_somebody_approves() -> None:
    """Mirrored first, then 80/20, then all at once on approval; the old side stays for scaleDownDelay."""
    world = until(green(), Phase.PAUSED).run(300)
    assert (shown(world), world.router) == ([0, 20], {A: 80, B: 20})
    assert [n.data["mirror"] for n in world.told if n.kind == "mirror"] == [100, 0]
    assert say(world, "approve", "production")[0]
    until(world, Phase.HEALTHY)
    assert shown(world) == [0, 20, 100]
    world.run(10)
    assert set(world.running) == {A, B}
    world.run(30)
    assert set(world.running) == {B}


def test_blue_green_proves_what_it_compares_while_it_mirrors() -> None:
    """A pause too short for the proof is no end of the mirror: after the switch no pair comes any more."""
    world = green(steps=())
    world.rate = 15
    until(world, Phase.PROGRESSING).run(4)
    assert (world.rollout.phase, shown(world)) == (Phase.PROGRESSING, [0])
    assert world.rollout.reason.startswith("not proven yet: share of pairs that disagree")
    until(world, Phase.PAUSED)
    say(world, "approve", "production")
    until(world, Phase.HEALTHY)
    (said,) = [note.text for note in world.told if note.kind == "verified" and note.release == B]
    assert said.endswith("every step passed")


def test_what_was_promoted_unproven_is_told() -> None:
    """`onInconclusive: promote` goes on without the proof, and the release's last word says so."""
    hard = Check("same", "disagreement", Ratio(0.0001))
    world = green(steps=(), on_inconclusive="promote", auto_promotion=True, checks=(ERRORS, hard))
    until(world, Phase.HEALTHY)
    (said,) = [note.text for note in world.told if note.kind == "verified" and note.release == B]
    assert "every step passed; not proven: share of pairs that disagree" in said


def test_blue_green_without_a_shift_switches_from_nothing_to_all() -> None:
    """Both are complete: one step, and no user sees it before."""
    world = until(green(steps=()), Phase.PAUSED)
    say(world, "approve", "production")
    assert shown(until(world, Phase.HEALTHY)) == [0, 100]


def test_auto_promotion_asks_nobody() -> None:
    """With autoPromotion the switch follows as soon as the checks let it."""
    assert shown(until(green(auto_promotion=True), Phase.HEALTHY)) == [0, 20, 100]


def test_a_step_to_all_is_a_switch_however_it_is_written() -> None:
    """A blueGreen whose steps name 100 waits for an approval there, too."""
    world = until(green(steps=(Step(20, SHORT), Step(100, SHORT))), Phase.PAUSED).run(100)
    assert world.router == {A: 80, B: 20}


def test_the_way_back_from_a_switch_is_instant() -> None:
    """Settled and taken back while the old side is kept: one look, and no start."""
    world = until(green(auto_promotion=True), Phase.HEALTHY).run(3)
    assert say(world, "rollback", "production")[0]
    world.look()
    assert world.router == {A: 100}
    until(world, Phase.ROLLED_BACK)


# ---------------------------------------------------------------- experiments
UNIT = Key(header="x-user")
TEST = AbTest(UNIT, "bought", Ratio(0.2), Ratio(0.1), horizon=Seconds(2000))
AB = Plan(strategy="abTest", ab_test=TEST, checks=(ERRORS,), progress_deadline=Seconds(60))


def bought(world: World, seconds: int, rates: dict[str, float]) -> World:
    """Let time pass in which every request is a unit of its own, whose outcome is known at once."""
    for _ in range(seconds):
        for release, weight in (world.router or {}).items():
            units = world.rate * weight // 100
            known = world.others.get(release, {}).get("units@", (0, 0))[0]
            rate = rates.get(release, 0.2)
            hits = round((known + units) * rate) - round(known * rate)
            world.tally(release, "units", units, 0)
            world.tally(release, "outcome:bought", units, hits)
        world.look()
    return world


def test_an_ab_test_assigns_for_good_and_ends_when_the_candidate_is_better() -> None:
    """Half the users, kept apart by a key and written down; Verified by the outcome, not by time."""
    world = bought(canary(canary_plan=AB), 10, {B: 0.4})
    assert (world.router, world.beside) == ({A: 50, B: 50}, Traffic(affinity=UNIT, journal=True))
    bought(world, 200, {B: 0.4})
    assert world.rollout.phase is Phase.VERIFIED
    assert shown(world) == [0, 50]


def test_an_ab_test_leaves_a_worse_candidate() -> None:
    """Worse for users is a breach, with no error anywhere."""
    world = bought(canary(canary_plan=AB), 200, {B: 0.1})
    assert (world.rollout.phase, world.rejected) == (Phase.ROLLED_BACK, {B})


def test_an_ab_test_has_a_horizon_and_no_progress_deadline() -> None:
    """No difference: it goes on for long after progressDeadline, and ends with its size or horizon."""
    world = bought(canary(canary_plan=plan_like(AB, ab_test=TEST)), 5, {})
    world.rate = 2
    bought(world, 200, {})
    assert world.rollout.phase is Phase.PROGRESSING
    world.rate = 100
    bought(world, 2000, {})
    assert (world.rollout.phase, world.rollout.verdict) == (Phase.ROLLED_BACK, "INCONCLUSIVE")


def test_an_ab_test_in_production_ends_at_all_requests() -> None:
    """Won, the candidate gets everything: no more sides, no more journal, no experiment with one arm."""
    world = settled(production_plan=AB)
    world.production = B
    bought(world, 300, {B: 0.4})
    assert (shown(world), world.rollout.phase) == ([0, 50, 100], Phase.HEALTHY)
    assert world.beside == Traffic()


def test_a_first_release_is_no_experiment() -> None:
    """There is nothing to compare with: its own objectives decide, and what compares is left out."""
    both = Plan(strategy="shadow", mirror=Mirror(50), checks=(ERRORS, SAME), progress_deadline=Seconds(60))
    for each in (AB, both):
        assert World(production_plan=each).run(40).rollout.phase is Phase.HEALTHY


ROBBER = Plan(
    strategy="bandit",
    bandit=Bandit("bought", arms=(C,), floor=5, max_change=20, interval=Seconds(10), min_rewards=50),
    checks=(ERRORS,),
    progress_deadline=Seconds(60),
)


def test_a_bandit_moves_weight_to_the_better_arm_within_floor_and_cap() -> None:
    """Three releases, none below the floor, none moved by more than the cap at once; the best one wins."""
    world = bought(canary(canary_plan=ROBBER, rate=10), 600, {B: 0.6, C: 0.1})
    assert world.rollout.phase is Phase.VERIFIED
    full = [split for split in world.history if len(split) == 3]
    assert all(min(split.values()) >= 5 for split in full)
    for before, after in itertools.pairwise(full):
        assert all(abs(after[r] - before[r]) <= 20 for r in before)
    assert full[-1][B] > full[0][B]


def test_a_bandits_arm_that_breaks_an_objective_is_thrown_out() -> None:
    """C fails requests: it gets nothing more, the rollout of B goes on without it."""
    world = bought(canary(canary_plan=ROBBER, bad={C: 0.3}), 60, {B: 0.3})
    assert C not in (world.router or {})
    assert "arm-out" in world.notes
    assert world.rejected == set()
    bought(world, 20, {})
    assert C not in world.running


@pytest.mark.parametrize("why", ["rejected", "unknown"])
def test_an_arm_that_git_does_not_vouch_for_takes_no_part(why: str) -> None:
    """A rejected release gets no request, nor one without a record, though a plan names it."""
    named = C if why == "rejected" else "0" * 12
    world = settled(
        canary_plan=plan_like(ROBBER, bandit=msgspec.structs.replace(ROBBER.bandit, arms=(named,)))
    )
    world.rejected = {C} if why == "rejected" else set()
    world.canary = B
    bought(world, 30, {})
    assert all(named not in split for split in world.history)
    assert named not in world.running
    assert B in (world.router or {})


def test_an_arm_that_is_rejected_meanwhile_loses_its_requests() -> None:
    """A person's rejection of an arm holds at the next look."""
    world = bought(canary(canary_plan=ROBBER), 10, {})
    assert (world.router or {})[C]
    world.rejected.add(C)
    bought(world, 2, {})
    assert C not in (world.router or {})


# ---------------------------------------------------------------- promotion
PLANS = {
    "canary": plan(steps=(Step(10, SHORT), Step(75, SHORT))),
    "gated": plan(steps=(Step(10, SHORT, gate="manual"), Step(75, SHORT, gate="manual"))),
    "baseline": plan(steps=LOW, baseline=True),
    "blueGreen": plan_like(BLUE_GREEN),
    "shadow": plan_like(SHADOW),
    "sequence": SEQUENCE,
    "abTest": AB,
}


@pytest.mark.parametrize("name", PLANS)
def test_a_promotion_carries_its_weight_into_every_strategy(name: str) -> None:
    """From 50 in canary to 100 in production: no user is ever taken off the release on the way."""
    world = canary(40, pairs=("same",), production_plan=PLANS[name])
    assert (world.rollout.phase, world.router) == (Phase.VERIFIED, {A: 50, B: 50})
    world.production, first = B, len(world.history)
    for _ in range(300):
        bought(world, 1, {B: 0.4})
        if world.state.rollout and world.rollout.phase is Phase.PAUSED:
            say(world, "approve", "production")
    assert world.rollout.phase is Phase.HEALTHY
    climbed = [split.get(B, 0) for split in world.history[first - 1 :]]
    assert climbed == sorted(climbed)
    assert climbed[0] == 50


def test_a_promoted_release_is_watched_while_it_waits_for_its_gate_or_its_baseline() -> None:
    """With weight carried on, a breach before the first step of production is left at once."""
    for name in ("gated", "baseline"):
        world = canary(40, production_plan=PLANS[name])
        world.production = B
        for _ in range(4):
            world.warmed.discard(COPY)
            world.look()
        assert world.rollout.step == -1
        world.bad[B] = 0.6
        for _ in range(20):
            world.warmed.discard(COPY)
            world.look()
        assert (world.router, world.rejected) == ({A: 100}, {B})


@given(
    carried=st.integers(0, 100),
    steps=st.lists(st.integers(0, 100), unique=True, max_size=5).map(sorted),
    strategy=st.sampled_from(["canary", "blueGreen"]),
    mirrored=st.booleans(),
)
def test_no_leg_is_below_what_was_carried(
    carried: int, steps: list[int], strategy: Any, mirrored: bool
) -> None:
    """Outside the canary legs rise from what was brought along to 100, whatever the plan says."""
    made = Plan(
        strategy=strategy,
        steps=tuple(Step(w) for w in steps),
        mirror=Mirror() if mirrored and strategy == "blueGreen" else None,
    )
    weights = [leg.weight for leg in legs(made, "production", A, carried)]
    assert weights == sorted(weights)
    assert weights[0] >= carried or weights == [100]
    assert weights[-1] == 100


def test_arms_are_named_once_and_the_copy_comes_first() -> None:
    """A plan with a baseline and a bandit starts the copy and each arm, none of them twice."""
    both = plan(steps=(), sequence=(plan(steps=LOW, baseline=True), ROBBER))
    assert arms_of(legs(both, "canary", A), A) == (COPY, C)
    world = until(canary(canary_plan=both, starts_ready=False), Phase.PENDING)
    assert needed(world.state) == (A, B, COPY, C)


def test_a_baseline_is_no_arm_of_the_bandit_that_follows() -> None:
    """The copy of stable has no requests on the bandit's leg."""
    both = plan(steps=(), sequence=(plan(steps=LOW, baseline=True), ROBBER))
    world = bought(canary(canary_plan=both), 200, {B: 0.3, C: 0.2})
    robbed = [split for split in world.history if C in split]
    assert robbed
    assert all(COPY not in split for split in robbed)


# ---------------------------------------------------------------- sources of counts
def test_a_source_that_says_nothing_holds_the_step_and_blames_nobody() -> None:
    """Its checks are unknown: nothing advances, and it goes on when the source is back."""
    world = until(shadowed(), Phase.PROGRESSING).run(2)
    world.unmeasured = {"same": "connection refused"}
    world.run(200)
    assert world.rollout.phase is Phase.PROGRESSING
    assert "same: connection refused" in world.rollout.reason
    world.unmeasured = {}
    until(world, Phase.VERIFIED)


def test_pairs_are_asked_for_only_while_requests_are_mirrored() -> None:
    """Their journal may be gone by the time of the switch, or days into a soak: that blinds no rollout."""
    world = until(green(on_no_data="rollback"), Phase.PAUSED)
    world.unmeasured = {"same": "no answer was journaled"}
    world.run(100)
    say(world, "approve", "production")
    until(world, Phase.HEALTHY)


def test_a_dry_runs_source_holds_nothing() -> None:
    """A check that never decides is not waited for."""
    dry = plan_like(SHADOW, checks=(ERRORS, msgspec.structs.replace(SAME, dry_run=True)))
    world = canary(canary_plan=dry, unmeasured={"same": "connection refused"})
    until(world, Phase.VERIFIED)


def test_what_a_source_counted_before_it_was_heard_is_not_held_against_a_release() -> None:
    """The first thing a late source says may be days old; counting begins there."""
    world = shadowed(unmeasured={"same": "down"}).run(8)
    world.tally(B, "same", 10_000, 9_000)
    world.unmeasured = {}
    until(world, Phase.VERIFIED, Phase.ROLLING_BACK)
    assert world.rollout.phase is Phase.VERIFIED


def test_nothing_is_counted_twice_over_a_gap() -> None:
    """Counts that are missing from a few looks come once when their source is back."""
    world = shadowed().run(6)
    kept, world.others = world.others, {}
    world.unmeasured = {"same": "down"}
    world.pairs = ()
    world.run(5)
    world.others, world.unmeasured = kept, {}
    before = world.rollout.evidence["candidate"]["tallies"]["same"][0]
    world.run(1)
    assert world.rollout.evidence["candidate"]["tallies"]["same"][0] - before <= 50


def test_requests_are_not_counted_twice_when_the_router_tells_no_counts_for_a_while() -> None:
    """An empty table of counters is no zero: what was counted before it is not new after it."""
    world = canary(8)
    uncounted(world, 3, {})
    assert world.rollout.blind == 3
    world.run(3)
    assert world.counters is not None
    assert world.rollout.evidence["candidate"]["requests"] <= world.counters[B].requests


# ---------------------------------------------------------------- time
@pytest.mark.parametrize("days", [-1, 1])
@pytest.mark.parametrize("at", [1, 2, 6, 9, 40])
def test_a_clock_that_is_moved_by_a_day_ends_no_rollout(at: int, days: int) -> None:
    """No deadline passes, no pause is skipped, no breach is overlooked for a day."""
    world = canary(at)
    world.now += 86_400 * days
    before = world.rollout.step
    world.run(2)
    assert world.rollout.step <= before + 1
    until(world, Phase.VERIFIED, seconds=60)
    assert world.rejected == set()
    world.now += 86_400 * days
    world.bad[B] = 0.5
    until(world, Phase.ROLLING_BACK, seconds=30)


def test_an_agent_that_was_away_for_long_leaves_no_release_for_that() -> None:
    """An hour without a look is no hour of the deadline, and no minute of the pause."""
    world = canary(6, canary_plan=plan(steps=(Step(10, Pause(Seconds(30), 10)), Step(50, SHORT))))
    world.now += 3600
    world.run(5)
    assert (world.rollout.phase, world.rollout.step) == (Phase.PROGRESSING, 0)
    until(world, Phase.VERIFIED)
