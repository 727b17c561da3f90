"""decide(): each phase and each event as a table, with the plane simulated by a few lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.builders import A, B, C
from tidegate.agent.sight import View
from tidegate.core.plan import AgainstStable, Check, Pause, Plan, Ratio, Seconds, Step
from tidegate.core.rollout import Decision, decide, request_rollback
from tidegate.core.state import (
    Action,
    ModelState,
    Note,
    Phase,
    Rollout,
    Seen,
    Start,
    Stop,
    Target,
    Traffic,
    Want,
    Warm,
    WriteBack,
    traffic,
    weights,
)
from tidegate.core.strategies import legs
from tidegate.ports import Counters, Route

ERRORS = Check("errors", "error-rate", Ratio(0.02), against_stable=AgainstStable(Ratio(0.25)))
STEPS = (Step(10, Pause(Seconds(3), 10)), Step(50, Pause(Seconds(3), 50)))


def plan(**changes: Any) -> Plan:
    """Return a canary plan of two steps and one check; deadline 60 s."""
    return Plan(
        **{"steps": STEPS, "checks": (ERRORS,), "progress_deadline": Seconds(60)}
        | {"scale_down_delay": Seconds(20)}
        | changes
    )


@dataclass
class World:
    """A plane of one model that does what it is told: 100 requests a second, by the weights.

    `odd` is the share of a release's mirrored answers that differ from stable's, which the checks named in
    `pairs` count; `others` are further counts that a source keeps, `unmeasured` those that it does not tell.
    """

    production: str | None = A
    canary: str | None = None
    canary_plan: Plan = field(default_factory=plan)
    production_plan: Plan = field(default_factory=lambda: plan(steps=(Step(75, Pause(Seconds(3), 50)),)))
    rejected: set[str] = field(default_factory=set)
    state: ModelState = field(default_factory=ModelState)
    running: dict[str, bool] = field(default_factory=dict)  # release → ready
    warmed: set[str] = field(default_factory=set)
    starts_ready: bool = True
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    router: dict[str, int] | None = field(default_factory=dict)
    counters: dict[str, Counters] | None = field(default_factory=dict)
    bad: dict[str, float] = field(default_factory=dict)
    rate: int = 100
    git: bool = True  # whether a write-back arrives
    hidden: bool = False  # the workloads can't be listed
    now: float = 1000.0
    mirror: dict[str, int] = field(default_factory=dict)
    beside: Traffic = field(default_factory=Traffic)
    odd: dict[str, float] = field(default_factory=dict)
    pairs: tuple[str, ...] = ()
    others: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    told: list[Note] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    history: list[dict[str, int]] = field(default_factory=list)

    @property
    def want(self) -> Want:
        """What Git says."""
        targets = Target("production", self.production, self.production_plan)
        return Want(
            (targets, Target("canary", self.canary, self.canary_plan)),
            frozenset(self.rejected),
            frozenset({A, B, C}),
        )

    @property
    def seen(self) -> Seen:
        """What a look sees."""
        return Seen(
            workloads=None if self.hidden else dict(self.running),
            alive=frozenset(r for r, ready in self.running.items() if ready and not self.hidden),
            warmed=frozenset(() if self.hidden else self.warmed),
            missing=dict(self.missing),
            failed=dict(self.failed),
            weights=None if self.router is None else dict(self.router),
            mirror=dict(self.mirror),
            unmeasured=dict(self.unmeasured),
            memory=dict(self.memory),
            counts=None if self.counters is None else {r: self.counted(r) for r in self.counters},
        )

    def counted(self, release: str) -> Counters:
        """Return a release's counters, with what others than the router count."""
        found, tallies = (self.counters or {})[release], self.others.get(release, {})
        return Counters(found.requests, found.errors, found.latency, tallies=dict(tallies))

    def serve(self, release: str, requests: int) -> None:
        """Count a second's requests."""
        assert self.counters is not None
        old, bad = self.counters.get(release, Counters(0, 0)), self.bad.get(release, 0)
        errors = round((old.requests + requests) * bad) - round(old.requests * bad)
        self.counters[release] = Counters(old.requests + requests, old.errors + errors)

    def tally(self, release: str, name: str, trials: int, events: int) -> None:
        """Count what another source than the router keeps."""
        mine = self.others.setdefault(release, {})
        n, k = mine.get(f"{name}@", (0, 0))
        mine[f"{name}@"] = (n + trials, k + events)

    def look(self) -> Decision:
        """Serve a second, decide once, do what was decided."""
        if self.counters is not None:
            for release, weight in (self.router or {}).items():
                self.serve(release, self.rate * weight // 100)
            for release, percent in self.mirror.items():
                copies = self.rate * percent // 100
                self.serve(release, copies)
                for name in self.pairs:
                    self.tally(release, name, copies, round(copies * self.odd.get(release, 0)))
        made = decide(self.state, self.want, self.seen, self.now)
        self.state = made.state
        self.told += made.notes
        self.notes += [note.kind for note in made.notes]
        if self.router is not None:
            alive = {r for r, ready in self.running.items() if ready}
            self.router = self.retreat() if self.hidden else weights(self.state, self.running, alive)
            tried, self.beside = traffic(self.state, alive)
            self.mirror = {tried: self.beside.mirror} if self.beside.mirror else {}
            if not self.history or self.history[-1] != self.router:
                self.history.append(self.router)
        for action in made.actions:
            self.act(action)
        self.now += 1
        return made

    def retreat(self) -> dict[str, int]:
        """Return the router's weights after a look that could not see what runs."""
        split = self.router or {}
        routes = {"toy": Route(split, dict.fromkeys(self.running, ("127.0.0.1:1",)))}
        table = View(None, frozenset(), frozenset(), routes, None).retreat({"toy": self.state})
        return dict(table["toy"].weights) if table else split

    def act(self, action: Action) -> None:
        """Do it at once."""
        if isinstance(action, Start) and action.release not in self.missing:
            self.running[action.release] = self.starts_ready
        elif isinstance(action, Warm):
            self.warmed.add(action.release)
        elif isinstance(action, Stop):
            self.running.pop(action.release)
            self.warmed.discard(action.release)
        elif isinstance(action, WriteBack) and self.git:
            left = action.rollout.release
            self.production = action.rollout.stable if self.production == left else self.production
            self.canary = action.rollout.stable if self.canary == left else self.canary
            if action.rollout.reject:
                self.rejected.add(left)

    def run(self, seconds: int) -> World:
        """Look for so many seconds."""
        for _ in range(seconds):
            self.look()
        return self

    @property
    def rollout(self) -> Rollout:
        """The rollout."""
        assert self.state.rollout
        return self.state.rollout


def settled(**changes: Any) -> World:
    """Return a world where A is settled in production."""
    world = World().run(15)
    assert (world.state.stable, world.router) == (A, {A: 100})
    for name, value in changes.items():
        setattr(world, name, value)
    world.notes.clear()
    world.history.clear()
    return world


def canary(seconds: int = 0, **changes: Any) -> World:
    """Return a world where B was named in canary so many seconds ago."""
    world = settled(**changes)
    world.canary = B
    return world.run(seconds)


def test_a_first_release_gets_everything_once_it_is_ready() -> None:
    """Without a stable release there is nothing to split with: from nothing to 100."""
    world = World().run(15)
    assert world.history == [{}, {A: 100}]
    assert world.rollout.phase is Phase.HEALTHY
    assert world.state.verified == (A,)


def test_a_canary_goes_through_its_steps_and_stays_at_the_last() -> None:
    """A healthy canary is given each weight in turn, ends Verified and keeps its share."""
    world = canary(40)
    assert world.history == [{A: 100}, {A: 90, B: 10}, {A: 50, B: 50}]
    assert world.rollout.phase is Phase.VERIFIED
    assert world.state.stable == A


def test_pending_has_no_traffic_before_it_is_warm() -> None:
    """A candidate that is ready but not warmed is not served."""
    world = canary()
    for _ in range(10):
        world.warmed.discard(B)
        world.look()
    assert world.rollout.phase is Phase.PENDING
    assert world.router == {A: 100}


def test_a_pending_canary_that_is_promoted_still_waits_for_its_workload() -> None:
    """A promotion does not give weight to a release that is not warm yet."""
    world = canary(1, starts_ready=True)
    world.starts_ready = False
    world.running[B] = False
    world.production = B
    world.run(10)
    assert world.rollout.environment == "production"
    assert world.router == {A: 100}
    assert world.rollout.weight == 0


def test_a_missing_bento_holds_the_deadline_and_says_so_once() -> None:
    """What is not here can't be judged: no rejection however long, one note, and it goes on when it comes."""
    world = canary(missing={B: "the Bento is not here"}).run(500)
    assert world.rollout.phase is Phase.PENDING
    assert world.rollout.reason == "the Bento is not here"
    assert world.notes.count("problem") == 1
    world.missing.clear()
    world.run(60)
    assert world.rollout.phase is Phase.VERIFIED


def test_never_ready_is_rejected_and_stable_stays_untouched() -> None:
    """After progressDeadline an unready release is rejected; its stable never lost a request."""
    world = settled(starts_ready=True)
    world.starts_ready = False
    world.canary, world.failed = B, {B: "ImportError: no module named x"}
    world.run(75)
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert "ImportError" in world.rollout.reason
    assert "progressDeadline (60 s)" in world.rollout.reason
    assert (world.history, world.rejected, world.canary) == ([{A: 100}], {B}, A)


def test_an_unreadable_router_holds_the_step() -> None:
    """While the router can't be read nothing advances; then the step goes on, its pause not begun anew."""
    world = canary(6)
    table, before = world.router, world.rollout
    world.router = None
    world.run(20)
    assert (world.rollout.step, world.rollout.weight, world.rollout.entered) == (0, 10, before.entered)
    world.router = table
    assert world.run(20).rollout.phase is Phase.VERIFIED


@pytest.mark.parametrize("at", [2, 6], ids=["before the first step", "amid a step"])
def test_unreadable_metrics_hold_by_default(at: int) -> None:
    """onNoData: hold keeps the weight past any deadline, and never verifies."""
    world = canary(at)
    world.counters = None
    world.run(200)
    assert world.rollout.phase is Phase.PROGRESSING
    assert world.rollout.step == 0
    assert "no measurements" in world.rollout.reason


@pytest.mark.parametrize("at", [2, 6], ids=["before the first step", "amid a step"])
def test_unreadable_metrics_roll_back_when_told_so(at: int) -> None:
    """onNoData: rollback leaves after consecutiveErrorLimit looks, with the verdict ERROR, not FAIL."""
    world = canary(at, canary_plan=plan(on_no_data="rollback", consecutive_error_limit=5))
    counters, world.counters = world.counters, None
    world.run(5)
    assert world.rollout.phase is Phase.PROGRESSING
    world.run(3)
    assert world.rollout.verdict == "ERROR"
    assert "6 times > consecutiveErrorLimit 5" in world.rollout.reason
    world.counters = counters
    assert world.run(5).rollout.phase is Phase.ROLLED_BACK


def test_metrics_that_come_back_in_time_reset_the_budget() -> None:
    """consecutiveErrorLimit counts looks in a row."""
    world = canary(6, canary_plan=plan(on_no_data="rollback", consecutive_error_limit=5))
    for _ in range(4):
        counters, world.counters = world.counters, None
        world.run(5)
        world.counters = counters
        world.run(1)
    assert world.rollout.phase in (Phase.PROGRESSING, Phase.VERIFIED)


@pytest.mark.parametrize("environment", ["canary", "production"])
def test_a_breach_is_left_while_nobody_sees_what_runs(environment: str) -> None:
    """Without the workloads routes and counters are enough to judge, to leave and to tell Git."""
    world = settled()
    setattr(world, environment, B)
    world.run(6)
    world.hidden, world.bad = True, {B: 0.5}
    world.run(15)
    assert (world.rollout.phase, world.router, world.state.stable) == (Phase.ROLLED_BACK, {A: 100}, A)
    assert (world.rejected, set(world.running)) == ({B}, {A, B})
    world.hidden = False
    assert set(world.run(20).running) == {A}


def test_a_good_canary_is_held_while_nobody_sees_what_runs() -> None:
    """Its looks count as evidence; no step, no other release and no end comes before it is seen again."""
    world = canary(6)
    world.hidden, before = True, world.rollout
    world.run(200)
    now = world.rollout
    assert (now.phase, now.step, world.router) == (before.phase, before.step, {A: 90, B: 10})
    assert now.seen > before.seen + 1000
    world.canary = C
    assert not world.look().actions
    assert world.rollout.release == B
    world.canary, world.hidden = B, False
    assert world.run(20).rollout.phase is Phase.VERIFIED


def test_a_settled_release_stays_until_the_one_before_it_is_seen() -> None:
    """A rollback by hand of what traffic rests on waits for the workloads, however long, and then goes on."""
    world = canary(40)
    world.production = B
    world.run(25)
    world.hidden = True
    ask(world, "production")
    world.run(100)
    assert (world.router, world.rollout.phase) == ({B: 100}, Phase.ROLLING_BACK)
    world.hidden = False
    world.run(10)
    assert (world.router, world.rollout.phase) == ({A: 100}, Phase.ROLLED_BACK)


def test_no_traffic_holds() -> None:
    """Without requests no step is left and nothing is rejected."""
    world = canary(rate=100)
    world.rate = 0
    world.run(200)
    assert (world.rollout.phase, world.rollout.step) == (Phase.PROGRESSING, 0)


def test_inconclusive_at_the_deadline_rolls_back_by_default() -> None:
    """A step that stays short of minRequests until progressDeadline ends in a rollback, INCONCLUSIVE."""
    world = canary(canary_plan=plan(steps=(Step(10, Pause(Seconds(3), 10**6)),))).run(70)
    assert (world.rollout.phase, world.rollout.verdict) == (Phase.ROLLED_BACK, "INCONCLUSIVE")


@pytest.mark.parametrize(("policy", "phase"), [("hold", Phase.PROGRESSING), ("promote", Phase.VERIFIED)])
def test_inconclusive_at_the_deadline_does_what_the_plan_says(policy: str, phase: Phase) -> None:
    """onInconclusive: hold stays, promote goes on."""
    short = plan(steps=(Step(10, Pause(Seconds(3), 10**6)),), on_inconclusive=policy)
    assert canary(canary_plan=short).run(70).rollout.phase is phase


def test_promote_on_inconclusive_never_promotes_what_was_never_seen() -> None:
    """A dead candidate is left at the deadline, whatever onInconclusive says."""
    world = canary(5, canary_plan=plan(on_inconclusive="promote"))
    for _ in range(70):
        if B in world.running:
            world.running[B] = False
        world.look()
    assert world.rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)


BREACHES = [("canary", 4), ("canary", 9), ("canary", 40), ("production", 4), ("production", 13)]


@pytest.mark.parametrize(("environment", "at"), BREACHES)
def test_a_breach_takes_all_weight_away_at_once(environment: str, at: int) -> None:
    """In any step, in the soak and after a canary's Verified: weight 0 at once, then Git, then RolledBack."""
    slow = plan(steps=(Step(75, Pause(Seconds(3), 50)),), required_soak_time=Seconds(100))
    world = settled(production_plan=slow)
    setattr(world, environment, B)
    world.run(at)
    assert world.rollout.weight > 0
    world.counters = {r: Counters(n.requests, n.errors) for r, n in (world.counters or {}).items()}
    world.bad[B] = 0.5
    seconds = 0
    while world.rollout.phase is not Phase.ROLLING_BACK:
        world.run(1)
        seconds += 1
        assert seconds <= 30
    assert world.router == {A: 100}
    assert world.rollout.verdict == "FAIL"
    world.run(4)
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert (world.production, world.rejected, world.state.stable) == (A, {B}, A)
    world.run(20)
    assert set(world.running) == {A}
    assert world.notes[-3:] == ["breach", "weight-zero", "rolled-back"]


def test_a_rejected_release_is_not_taken_up_again() -> None:
    """Asked for again, a rejected release gets nothing; with its rejection deleted it is tried once more."""
    world = canary(20, bad={B: 0.5})
    assert world.rollout.phase is Phase.ROLLED_BACK
    world.canary, world.bad = B, {}
    tables = len(world.history)
    world.run(20)
    assert len(world.history) == tables
    world.rejected.clear()
    assert world.run(40).rollout.phase is Phase.VERIFIED


def test_a_rollback_waits_for_git_but_traffic_does_not() -> None:
    """While the write-back does not arrive the weight is 0 and the phase stays RollingBack."""
    world = canary(20, bad={B: 0.5}, git=False)
    assert (world.rollout.phase, world.router) == (Phase.ROLLING_BACK, {A: 100})
    assert any(isinstance(a, WriteBack) for a in world.look().actions)
    world.git = True
    assert world.run(3).rollout.phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("environment", ["canary", "production"])
def test_a_later_decision_is_followed_though_git_lacks_the_rollback(environment: str) -> None:
    """Where nothing can be written, C is taken up; B stays rejected here until Git has been told."""
    world = settled(git=False, bad={B: 0.5})
    setattr(world, environment, B)
    world.run(20)
    assert (world.rollout.phase, world.router) == (Phase.ROLLING_BACK, {A: 100})
    setattr(world, environment, C)
    world.run(60)
    assert world.rollout.release == C
    assert world.rollout.phase is (Phase.VERIFIED if environment == "canary" else Phase.HEALTHY)
    assert [left.release for left in world.state.unwritten] == [B]
    setattr(world, environment, B)
    world.bad.clear()
    for _ in range(40):
        assert any(isinstance(a, WriteBack) and a.rollout.release == B for a in world.look().actions)
        assert B not in (world.router or {})
    world.git = True
    world.run(3)
    assert (world.rejected, world.state.unwritten) == ({B}, ())
    assert getattr(world, environment) == world.state.stable


def test_a_decision_for_what_a_canary_rests_on_does_not_wait_for_git_either() -> None:
    """Production gets C while canary still names B, whose rollback can't be written."""
    world = canary(20, git=False, bad={B: 0.5})
    world.production = C
    world.run(60)
    assert (world.state.stable, world.router, world.canary) == (C, {C: 100}, B)
    world.git = True
    world.run(3)
    assert (world.canary, world.rejected, world.state.unwritten) == (C, {B}, ())


def test_going_back_by_hand_skips_what_was_left_and_not_written() -> None:
    """A release whose rollback Git does not know is nowhere to go back to."""
    left = Rollout("production", B, A, Phase.ROLLED_BACK, 1.0)
    state = ModelState(stable=C, verified=(A, B, C), unwritten=(left,))
    world = World(production=C, state=state)
    after, _ = request_rollback(state, "production", by="Ann", reason="", now=2.0, want=world.want)
    assert after.rollout
    assert after.rollout.stable == A


def test_weight_zero_counts_only_when_the_router_says_so() -> None:
    """No write-back before the router itself reports that the release is out."""
    world = canary(20)
    world.bad[B] = 0.9
    while world.rollout.phase is not Phase.ROLLING_BACK:
        made = world.look()
    world.router = {A: 50, B: 50}  # it did not take the change
    made = world.look()
    assert not any(isinstance(a, WriteBack) for a in made.actions)


def test_a_promoted_canary_keeps_its_weight_and_goes_on_from_there() -> None:
    """From 50 to 75 to 100: traffic never steps back, and the old release stays warm."""
    world = canary(40)
    world.production = B
    world.run(15)
    assert world.history == [{A: 100}, {A: 90, B: 10}, {A: 50, B: 50}, {A: 25, B: 75}, {B: 100}]
    assert world.state.stable == B
    assert A in world.running


def test_promoted_and_taken_from_canary_in_one_commit_it_keeps_its_weight_too() -> None:
    """Moving the line from canary to production is a promotion, not an end."""
    world = canary(40)
    world.production, world.canary = B, A
    world.run(30)
    assert {A: 100} not in world.history[1:]
    assert world.state.stable == B


def test_the_old_release_is_stopped_after_scale_down_delay() -> None:
    """Warm for scaleDownDelay, then gone; the new one is never touched."""
    world = canary(40)
    world.production = B
    world.run(25)
    assert set(world.running) == {A, B}
    world.run(40)
    assert set(world.running) == {B}


def test_production_and_canary_both_new_production_goes_first() -> None:
    """The environment that others rest on comes first; the canary begins when it has settled."""
    world = settled()
    world.production, world.canary = B, C
    world.run(60)
    first = next(i for i, split in enumerate(world.history) if C in split)
    assert all(C not in split for split in world.history[:first])
    assert world.state.stable == B
    assert world.rollout.release == C


def test_git_changes_its_mind_amid_a_rollout() -> None:
    """Another release named in canary: the first gets nothing more, the second begins at its first step."""
    world = canary(12)
    world.canary = C
    world.run(60)
    at = next(i for i, split in enumerate(world.history) if C in split)
    assert world.history[at - 1 : at + 1] == [{A: 100}, {A: 90, C: 10}]
    assert B not in world.running
    assert not world.rejected


def test_git_takes_a_canary_back() -> None:
    """Back on stable's line: traffic and workload of the candidate go, without a rejection."""
    world = canary(12)
    world.canary = A
    world.run(12)
    assert (world.router, set(world.running), world.rejected) == ({A: 100}, {A}, set())


def test_a_persons_rejection_ends_a_rollout() -> None:
    """A rejection that a person commits takes the traffic away."""
    world = canary(12)
    world.rejected.add(B)
    world.run(2)
    assert world.router == {A: 100}
    assert "dropped" in world.notes


def test_stable_gone_from_git_is_taken_down() -> None:
    """When Git wants nothing, nothing is served."""
    world = settled()
    world.production = None
    world.run(15)
    assert (world.router, world.running) == ({}, {})


def test_a_candidate_that_dies_leaves_its_share_to_stable_and_is_confirmed_anew() -> None:
    """Dead mid-step: stable has all; back again: the same weight, and the step's pause starts over."""
    world = canary(5)
    world.running[B] = False
    world.run(2)
    assert world.router == {A: 100}
    assert world.rollout.entered is None
    world.running[B] = True
    world.run(2)
    assert world.router == {A: 90, B: 10}
    assert world.run(30).rollout.phase is Phase.VERIFIED


def test_a_production_release_that_dies_in_its_soak_is_not_settled() -> None:
    """It soaks only while it is served: a dead one never becomes what traffic rests on."""
    soaking = plan(steps=(Step(75, Pause(Seconds(3), 50)),), required_soak_time=Seconds(10))
    world = settled(production_plan=soaking)
    world.production = B
    while world.rollout.phase is not Phase.VERIFIED:
        world.run(1)
    for _ in range(40):
        world.running[B] = False
        world.look()
    assert (world.state.stable, world.router) == (A, {A: 100})
    for _ in range(40):
        if B in world.running:
            world.running[B] = False
        world.look()
    assert world.rollout.phase is Phase.ROLLED_BACK


def test_reset_counters_are_new_counts() -> None:
    """Envoy restarted mid-step: nothing is counted twice, nothing fails, the rollout ends."""
    world = canary(6)
    world.counters = {}
    world.run(1)
    assert world.rollout.seen <= 60
    assert world.run(30).rollout.phase is Phase.VERIFIED


def test_a_probe_glitch_of_stable_takes_no_traffic_away() -> None:
    """Stable is served as long as it has processes: the router's own checks know better."""
    world = settled()
    world.running[A] = False
    world.run(3)
    assert world.router == {A: 100}


def test_unknown_workloads_change_nothing() -> None:
    """When workloads can't be listed, a release that has no traffic yet is not touched at all."""
    world = canary(2)
    assert world.rollout.phase is Phase.PENDING
    made = decide(world.state, world.want, Seen(workloads=None), world.now)
    assert made == Decision(world.state, ())


def test_deciding_twice_on_the_same_look_changes_nothing() -> None:
    """A settled plane asks for nothing and remembers nothing new."""
    world = settled()
    made = decide(world.state, world.want, world.seen, world.now)
    assert made == Decision(world.state, ())


# ---------------------------------------------------------------- a person's rollback
def ask(world: World, environment: str = "production") -> str:
    """Ask for a rollback; return what was said."""
    world.state, text = request_rollback(
        world.state, environment, by="Ann", reason="odd", now=world.now, want=world.want
    )
    return text


def promoted() -> World:
    """Return a world where B was promoted after A, and A is stopped by now."""
    world = canary(40)
    world.production = B
    world.run(80)
    assert set(world.running) == {B}
    world.history.clear()
    return world


def test_a_settled_release_is_served_until_the_one_before_it_answers() -> None:
    """The previous release is started first; no moment without a server, no rejection."""
    world = promoted()
    assert ask(world) == f"{B} goes back to {A}"
    world.starts_ready = False
    world.run(3)
    assert world.router == {B: 100}
    world.running[A] = True
    world.run(5)
    assert world.router == {A: 100}
    assert world.rollout.phase is Phase.ROLLED_BACK
    assert (world.production, world.canary, world.rejected) == (A, A, set())
    assert {} not in world.history


def test_a_rollback_to_what_never_comes_up_is_given_up() -> None:
    """After progressDeadline the plane stays where it is, says so, and follows Git again."""
    world = promoted()
    ask(world)
    world.starts_ready = False
    world.run(70)
    assert (world.router, world.state.stable, world.rollout.phase) == ({B: 100}, B, Phase.HEALTHY)
    assert "gave-up" in world.notes
    assert set(world.running) == {B}


def test_an_active_rollout_goes_back_to_its_stable_release() -> None:
    """Weight 0 is read back before Git is written, for a person's rollback too."""
    world = canary(40)
    assert ask(world, "canary") == f"{B} goes back to {A}"
    made = decide(world.state, world.want, world.seen, world.now)
    assert not any(isinstance(a, WriteBack) for a in made.actions)
    world.run(5)
    assert (world.rollout.phase, world.canary, world.rejected) == (Phase.ROLLED_BACK, A, set())


@pytest.mark.parametrize(
    ("world", "environment", "said"),
    [
        (settled(), "production", "there is no verified release to go back to"),
        (settled(), "canary", "no rollout is under way in canary"),
        (World(production=None).run(3), "production", "nothing runs in production"),
        (settled(), "staging", "this plane holds no environment staging"),
    ],
)
def test_nothing_to_go_back_to_changes_nothing(world: World, environment: str, said: str) -> None:
    """A rollback that can't be done says why and leaves the state alone."""
    before = world.state
    assert ask(world, environment) == said
    assert world.state is before


def test_a_rejected_release_is_not_gone_back_to() -> None:
    """The last verified release that was rejected since is skipped."""
    world = promoted()
    world.rejected.add(A)
    assert ask(world) == "there is no verified release to go back to"


def test_lost_memory_adopts_what_serves() -> None:
    """A plane that serves what Git wants is left as it is when nothing is remembered of it."""
    world = settled()
    world.state = ModelState()
    world.run(5)
    assert (world.state.stable, world.history, world.rollout if world.state.rollout else None) == (
        A,
        [{A: 100}],
        None,
    )


@pytest.mark.parametrize(
    ("environment", "stable", "planned", "expected"),
    [
        ("canary", A, (10, 50), [10, 50]),
        ("canary", None, (10, 50), [100]),
        ("canary", A, (), [100]),
        ("production", A, (75,), [75, 100]),
        ("production", A, (75, 100), [75, 100]),
        ("production", A, (), [100]),
        ("staging", None, (), [100]),
    ],
)
def test_steps(environment: str, stable: str | None, planned: tuple[int, ...], expected: list[int]) -> None:
    """Outside the canary a rollout ends at 100; without a stable release there is one step."""
    made = legs(Plan(steps=tuple(Step(w) for w in planned)), environment, stable)
    assert [leg.weight for leg in made] == expected
