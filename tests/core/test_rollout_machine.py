"""Whatever happens to a plane, in whatever order: what a rollout never does, and what it always ends in."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.builders import A, B, C
from tests.core.test_rollout import World, plan
from tidegate.core.asking import VERBS, Ask, ask
from tidegate.core.plan import Mirror, Pause, Plan, Seconds, Step
from tidegate.core.release import copy_of, original
from tidegate.core.rollout import Decision, decide
from tidegate.core.state import Action, ModelState, Phase, Start, Stop, WriteBack, needed
from tidegate.core.strategies import legs

RELEASES = st.sampled_from([A, B, C])
SHORT = Pause(Seconds(3), 10)
STEPS = (Step(10, SHORT), Step(50, SHORT))
GATED = (Step(10, SHORT, gate="manual"), Step(50, Pause(Seconds(3), 10, indefinite=True)))
SHADOW = plan(strategy="shadow", mirror=Mirror(50), pause=SHORT, steps=())
PLANS = {
    "canary": plan(),
    "gated": plan(steps=GATED),
    "baseline": plan(steps=STEPS, baseline=True),
    "shadow": SHADOW,
    "sequence": plan(steps=(), sequence=(SHADOW, plan(steps=STEPS))),
    "blueGreen": plan(strategy="blueGreen", mirror=Mirror(50), pause=SHORT, steps=(Step(20, SHORT),)),
    "climb": plan(steps=(), step_weight=25, max_weight=75, pause=SHORT),
}


class Plane(RuleBasedStateMachine):
    """A World whose ports fail, whose Git changes and whose releases break at any moment."""

    @initialize()
    def begin(self) -> None:
        """A settled A, so that there is something to lose."""
        self.world = World().run(12)
        self.lost: dict[str, int] | None = None
        self.counted: dict[str, object] | None = None
        self.allowed = {A}
        self.ever_rejected: set[str] = set()
        self.plans: list[Plan] = [self.world.canary_plan, self.world.production_plan]

    # ------------------------------------------------------------ Git
    @rule(release=RELEASES, environment=st.sampled_from(["production", "canary"]))
    def promote(self, release: str, environment: str) -> None:
        """A person merges a promotion."""
        setattr(self.world, environment, release)

    @rule(release=RELEASES)
    def reject(self, release: str) -> None:
        """A person rejects a release that traffic does not rest on."""
        if release != self.world.state.stable:
            self.world.rejected.add(release)

    @rule(release=RELEASES)
    def forgive(self, release: str) -> None:
        """A person deletes a rejection."""
        self.world.rejected.discard(release)

    @rule(arrives=st.booleans())
    def remote(self, arrives: bool) -> None:
        """The remote goes away or comes back."""
        self.world.git = arrives

    @rule(environment=st.sampled_from(["production", "canary"]))
    def roll_back(self, environment: str) -> None:
        """A person asks for a rollback."""
        from tests.core.test_rollout import ask

        ask(self.world, environment)

    @rule(environment=st.sampled_from(["production", "canary"]), name=st.sampled_from(sorted(PLANS)))
    def plan_otherwise(self, environment: str, name: str) -> None:
        """A person merges another rollout.yaml, also amid a rollout."""
        setattr(self.world, f"{environment}_plan", PLANS[name])
        self.plans.append(PLANS[name])

    @rule(
        environment=st.sampled_from(["production", "canary"]),
        verb=st.sampled_from(sorted(VERBS)),
        release=RELEASES,
    )
    def say(self, environment: str, verb: str, release: str) -> None:
        """A person asks something of a rollout or a release, whether it makes sense or not."""
        world = self.world
        asked = Ask(environment, "Ann", "", world.now, world.want, release, world.seen)
        self.world.state = ask(verb, self.world.state, asked)[0]

    # ------------------------------------------------------------ the plane
    @rule(release=RELEASES, share=st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0]))
    def degrade(self, release: str, share: float) -> None:
        """A release begins to fail, or stops failing."""
        self.world.bad[release] = share

    @rule(release=RELEASES, ready=st.booleans())
    def probe(self, release: str, ready: bool) -> None:
        """A release's probes fail or succeed."""
        if release in self.world.running:
            self.world.running[release] = ready

    @rule(ready=st.booleans())
    def slow_starts(self, ready: bool) -> None:
        """What is started from now on is ready at once, or not."""
        self.world.starts_ready = ready

    @rule()
    def supervisor_restarts(self) -> None:
        """All processes are gone at once."""
        self.world.running.clear()
        self.world.warmed.clear()

    @rule()
    def router_away(self) -> None:
        """The router can't be read."""
        if self.world.router is not None:
            self.lost, self.world.router = self.world.router, None

    @rule()
    def router_back(self) -> None:
        """It can again, and serves what it did."""
        if self.world.router is None:
            self.world.router = self.lost

    @rule(reset=st.booleans())
    def metrics_back(self, reset: bool) -> None:
        """Counters can be read, from zero if the router was restarted."""
        if self.world.counters is None or reset:
            self.world.counters = {}

    @rule()
    def metrics_away(self) -> None:
        """Counters can't be read."""
        self.world.counters = None

    @rule(seconds=st.integers(1, 12))
    def time(self, seconds: int) -> None:
        """Time passes."""
        for _ in range(seconds):
            self.look()

    @rule(hidden=st.booleans())
    def supervisor(self, hidden: bool) -> None:
        """The workloads can't be listed any more, or they can again."""
        self.world.hidden = hidden

    def check_unseen(self, before: ModelState, split: dict[str, int] | None, made: Decision) -> None:
        """While it can't be seen what runs, a release may only be left."""
        old, new, world = before.rollout, made.state.rollout, self.world
        assert not [a for a in made.actions if not isinstance(a, WriteBack)], "started or stopped unseen"
        assert (old and (old.environment, old.release)) == (new and (new.environment, new.release))
        if old and new and new.weight:
            assert (new.step, new.weight, made.state.stable) == (old.step, old.weight, before.stable)
        if world.router != split:
            assert new
            assert new.phase is Phase.ROLLING_BACK
            assert world.router == {new.stable: 100}, "a route but the way back was written unseen"

    def look(self) -> None:
        """One look, with what must hold for it."""
        world = self.world
        before = world.state
        rejected = set(world.rejected)
        split = world.router
        made = world.look()
        if world.hidden:
            self.check_unseen(before, split, made)
        self.check_actions(made.actions)
        rollout = made.state.rollout
        served = world.router or {}
        if rollout and rollout.phase is Phase.ROLLING_BACK and not world.hidden and world.router is not None:
            assert len(served) <= 1, "what is left has weight after the look that left it"
            assert not world.mirror
        left = {rollout.release} if rollout and rollout.phase is Phase.ROLLING_BACK else set()
        for release in set() if world.hidden else rejected - {before.stable, made.state.stable} - left:
            assert release not in served, "a rejected release has weight"
        for unwritten in () if world.hidden else made.state.unwritten:
            assert unwritten.release not in served, "what was left without Git's knowledge has weight"
        again = decide(world.state, world.want, world.seen, world.now - 1)
        if made.state == before and not made.actions and again.state == made.state:
            assert not again.notes, "nothing changed, and yet something is told"

    def check_actions(self, actions: tuple[Action, ...]) -> None:
        """No action may stop what is needed, nor write to Git before weight 0 was read back."""
        world = self.world
        for action in actions:
            if isinstance(action, Stop):
                assert action.release not in needed(world.state)
            if isinstance(action, Start):
                assert action.release in needed(world.state)
            if isinstance(action, WriteBack):
                assert action.rollout.entered is not None

    # ------------------------------------------------------------ always
    @invariant()
    def weights_are_planned(self) -> None:
        """Weights sum to 100 or are none, and a candidate's is one that its plan names."""
        if not hasattr(self, "world") or not self.world.router:
            return
        state, split = self.world.state, self.world.router
        assert sum(split.values()) == 100
        rollout = state.rollout
        copies = {release: weight for release, weight in split.items() if original(release) != release}
        assert len(split) - len(copies) <= 2
        # What a person has just asked to be left is seen by the next look.
        if len(split) < 2 or rollout is None or rollout.phase is Phase.ROLLING_BACK:
            return
        planned = {
            leg.weight
            for plan in self.plans
            for e in ("canary", "production")
            for leg in legs(plan, e, rollout.stable)
        }
        assert split.get(rollout.release, 0) in planned | {0}
        assert set(copies) <= {copy_of(str(rollout.stable))}
        assert all(weight in planned for weight in copies.values())
        assert split.get(rollout.release, 0) in (rollout.weight, 0)

    @invariant()
    def canary_never_becomes_stable(self) -> None:
        """What traffic rests on was found there at the beginning, or went through production's rollout."""
        if hasattr(self, "world") and self.world.state.stable:
            assert self.world.state.stable in {A, *self.world.state.verified, *self._gone_back_to()}

    def _gone_back_to(self) -> set[str]:
        rollout = self.world.state.rollout
        return {rollout.stable} if rollout and rollout.stable else set()

    def teardown(self) -> None:
        """When all ports recover, a rollback ends, stable serves, and then nothing more is done."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.git, world.starts_ready, world.hidden, world.bad = True, True, False, {}
        world.missing, world.failed = {}, {}
        if world.router is None:
            world.router = self.lost
        world.counters = {} if world.counters is None else world.counters
        world.running = dict.fromkeys(world.running, True)
        rolling = world.rollout if world.state.rollout and world.rollout.phase is Phase.ROLLING_BACK else None
        for _ in range(8):
            self.look()
        if rolling is not None and world.state.rollout is not None:
            assert world.rollout.phase is not Phase.ROLLING_BACK or world.rollout.started > rolling.started
        for _ in range(160):
            self.look()
            for environment in ("production", "canary"):
                for verb in ("resume", "approve"):
                    self.say(environment, verb, A)
        made = decide(world.state, world.want, world.seen, world.now)
        if world.state.active is None:
            assert made.state == world.state
            assert not made.actions
        if world.production and world.production not in world.rejected:
            assert world.state.stable == world.production
        assert world.router


TestPlane = Plane.TestCase
TestPlane.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
