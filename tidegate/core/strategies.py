"""Every strategy, as the legs that a rollout travels: one list of weights, mirrors, pauses and gates. Pure.

The machine that moves a rollout (`looking`, `advancing`) knows legs only; what differs between strategies
is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from tidegate.core.plan import PAIRED, Pause, Plan
from tidegate.core.release import copy_of, original
from tidegate.core.state import Rollout, Traffic

# Metrics that compare a candidate with stable, and so mean nothing to a first release.
_COMPARING = PAIRED | {"prediction-drift", "sample-ratio"}


@dataclass(frozen=True)
class Leg:
    """One stretch of a rollout: what the candidate gets there, and what must happen before the next.

    `weight` is its percent of the requests, `mirror` the percent copied to it, `copy` the percent that a
    fresh copy of stable gets beside it. `plan` is that of its strategy, with the alpha of its `stage`. An
    `experiment` decides by itself when its leg is over.
    """

    stage: int
    plan: Plan
    weight: int
    mirror: int = 0
    copy: int = 0
    pause: Pause = Pause()
    manual: bool = False
    experiment: bool = False

    @property
    def journal(self) -> bool:
        """True when requests are written down one by one: to join outcomes, or both answers of a pair."""
        outcomes = self.weight > 0 and any(check.metric == "outcome" for check in self.plan.checks)
        return self.experiment or self.mirror > 0 or outcomes


def legs(plan: Plan, environment: str, stable: str | None, carried: int = 0) -> tuple[Leg, ...]:
    """Return the legs that a rollout travels; at least one.

    Outside the canary a rollout ends at 100. A promoted canary brings the weight that it has, `carried`:
    it is mirrored at that weight, and steps below it are left out; only an experiment splits as it says.
    Without a stable release there is nothing to split with or to compare to: one leg of 100, under the
    first one's pause. One alpha is shared by all stages.
    """
    stages = [_shared(stage, plan) for stage in plan.stages]
    made = [leg for number, stage in enumerate(stages) for leg in _LEGS[stage.strategy](number, stage)]
    number, last = len(stages) - 1, stages[-1]
    if stable is None:
        pause = msgspec.structs.replace(made[0].pause, indefinite=False) if made else Pause()
        return (Leg(number, _alone(last), 100, pause=pause),)
    if not made or (environment != "canary" and made[-1].weight < 100):
        made.append(Leg(number, last, 100, manual=_switch(last)))
    return tuple(_carry(leg, carried) for leg in made if _reached(leg, carried)) or (made[-1],)


def legs_of(rollout: Rollout, plan: Plan) -> tuple[Leg, ...]:
    """Return the legs that this rollout travels."""
    return legs(plan, rollout.environment, rollout.stable, rollout.carried)


def leg_at(planned: tuple[Leg, ...], rollout: Rollout) -> Leg:
    """Return the leg that a rollout is on; before the first one it has what it brought along, no more."""
    if rollout.step < 0:
        first = planned[0]
        return Leg(first.stage, first.plan, rollout.carried)
    return planned[min(rollout.step, len(planned) - 1)]


def following(planned: tuple[Leg, ...], rollout: Rollout) -> Leg | None:
    """Return the leg after the one that a rollout is on; None after the last."""
    return planned[rollout.step + 1] if rollout.step + 1 < len(planned) else None


def arms_of(planned: tuple[Leg, ...], stable: str | None) -> tuple[str, ...]:
    """Return the releases that take part beside stable and the candidate, the fresh copy of stable first."""
    copies = [copy_of(stable)] if stable and any(leg.copy for leg in planned) else []
    bandits = [leg.plan.bandit for leg in planned if leg.plan.bandit and leg.experiment]
    return tuple(dict.fromkeys([*copies, *(arm for bandit in bandits for arm in bandit.arms)]))


def arm_weight(leg: Leg, release: str) -> int:
    """Return what another arm gets as a leg begins: a copy its own share, a bandit's arm an equal one."""
    if original(release) != release:
        return leg.copy
    bandit = leg.plan.bandit
    return leg.weight if bandit and leg.experiment and release in bandit.arms else 0


def traffic_of(leg: Leg) -> Traffic:
    """Return what the router does on a leg beside the weights."""
    tested = leg.plan.ab_test if leg.experiment else None
    unit = tested.unit if tested else leg.plan.session_affinity
    return Traffic(leg.mirror, leg.plan.match, unit, leg.journal)


# ---------------------------------------------------------------- all strategies
def _shared(stage: Plan, plan: Plan) -> Plan:
    """Give a stage its part of the rollout's alpha, and its deadline; an A/B test's checks and its outcome
    share that part.
    """
    parts = len(plan.stages) * (2 if stage.strategy == "abTest" and stage.checks else 1)
    if parts == 1 and stage is plan:
        return stage
    return msgspec.structs.replace(stage, alpha=plan.alpha / parts, progress_deadline=plan.progress_deadline)


def _alone(plan: Plan) -> Plan:
    """Return a plan for a release that nothing runs beside: without the checks that compare."""
    return msgspec.structs.replace(plan, checks=tuple(c for c in plan.checks if c.metric not in _COMPARING))


def _reached(leg: Leg, carried: int) -> bool:
    return leg.weight >= carried or leg.mirror > 0 or leg.experiment


def _carry(leg: Leg, carried: int) -> Leg:
    return leg if leg.experiment or leg.weight >= carried else replace(leg, weight=carried)


def _switch(plan: Plan) -> bool:
    """Tell whether the last step to 100 waits for a person."""
    return plan.strategy == "blueGreen" and not plan.auto_promotion


# ---------------------------------------------------------------- one by one
def _canary(number: int, plan: Plan) -> list[Leg]:
    if plan.step_weight is not None:
        top = plan.max_weight or 100
        rungs = [*range(plan.step_weight, top, plan.step_weight), top]
        return [Leg(number, plan, w, copy=_copy(plan, w), pause=plan.pause or Pause()) for w in rungs]
    return [
        Leg(
            number,
            plan,
            step.set_weight,
            copy=_copy(plan, step.set_weight),
            pause=step.pause,
            manual=step.gate == "manual",
        )
        for step in plan.steps
    ]


def _copy(plan: Plan, weight: int) -> int:
    return weight if plan.baseline and weight <= 50 else 0


def _blue_green(number: int, plan: Plan) -> list[Leg]:
    shifted = _canary(number, plan)
    return _shadow(number, plan) + [
        replace(leg, manual=leg.manual or (leg.weight == 100 and _switch(plan))) for leg in shifted
    ]


def _shadow(number: int, plan: Plan) -> list[Leg]:
    if plan.mirror is None:
        return []
    return [Leg(number, plan, 0, mirror=plan.mirror.percent, pause=plan.pause or Pause())]


def _ab_test(number: int, plan: Plan) -> list[Leg]:
    assert plan.ab_test
    return [Leg(number, plan, plan.ab_test.split, pause=plan.pause or Pause(), experiment=True)]


def _bandit(number: int, plan: Plan) -> list[Leg]:
    assert plan.bandit
    even = 100 // (2 + len(plan.bandit.arms))
    return [Leg(number, plan, even, pause=plan.pause or Pause(), experiment=True)]


_LEGS: dict[str, Callable[[int, Plan], list[Leg]]] = {
    "canary": _canary,
    "blueGreen": _blue_green,
    "shadow": _shadow,
    "abTest": _ab_test,
    "bandit": _bandit,
}
