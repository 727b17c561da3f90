"""Every strategy, as the legs that a rollout travels: one list of weights, mirrors, pauses and gates. Pure.

The machine that moves a rollout (`looking`) knows legs only; what differs between strategies is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from tidegate.core.plan import Pause, Plan
from tidegate.core.release import copy_of, original
from tidegate.core.state import Traffic

SPLITS = ("abTest", "bandit")  # what holds its leg until an experiment, not a step, is decided


@dataclass(frozen=True)
class Leg:
    """One stretch of a rollout: what the candidate gets there, and what must happen before the next.

    `weight` is its percent of the requests, `mirror` the percent copied to it, `copy` the percent that a
    fresh copy of stable gets beside it. `plan` is that of its strategy, with the alpha of its `stage`.
    """

    stage: int
    plan: Plan
    weight: int
    mirror: int = 0
    copy: int = 0
    pause: Pause = Pause()
    manual: bool = False

    @property
    def experiment(self) -> bool:
        """True when an experiment decides when this leg is over."""
        return self.plan.strategy in SPLITS

    @property
    def journal(self) -> bool:
        """True when requests are written down one by one: to join outcomes, or both answers of a pair."""
        return self.experiment or self.mirror > 0


def legs(plan: Plan, environment: str, stable: str | None) -> tuple[Leg, ...]:
    """Return the legs that a rollout travels; at least one.

    Outside the canary a rollout ends at 100. Without a stable release there is nothing to split with or
    to compare to: one leg of 100, under the first one's pause. One alpha is shared by all stages.
    """
    stages = [_shared(stage, plan) for stage in plan.stages]
    made = [leg for number, stage in enumerate(stages) for leg in _LEGS[stage.strategy](number, stage)]
    number, last = len(stages) - 1, stages[-1]
    if stable is None:
        return (Leg(number, last, 100, pause=made[0].pause if made else Pause()),)
    if not made or (environment != "canary" and made[-1].weight < 100):
        manual = last.strategy == "blueGreen" and not last.auto_promotion
        made.append(Leg(number, last, 100, manual=manual))
    return tuple(made)


def leg_at(planned: tuple[Leg, ...], step: int) -> Leg:
    """Return the leg of a step; before the first (it waits for an approval) one without any traffic."""
    if step < 0:
        return replace(planned[0], weight=0, mirror=0, copy=0, pause=Pause(), manual=False)
    return planned[min(step, len(planned) - 1)]


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
    unit = leg.plan.ab_test.unit if leg.plan.ab_test else leg.plan.session_affinity
    return Traffic(leg.mirror, leg.plan.match, unit, leg.journal)


def _shared(stage: Plan, plan: Plan) -> Plan:

    return msgspec.structs.replace(stage, alpha=plan.alpha / len(plan.stages)) if plan.sequence else stage


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
    return _shadow(number, plan) + _canary(number, plan)


def _shadow(number: int, plan: Plan) -> list[Leg]:
    if plan.mirror is None:
        return []
    return [Leg(number, plan, 0, mirror=plan.mirror.percent, pause=plan.pause or Pause())]


def _ab_test(number: int, plan: Plan) -> list[Leg]:
    assert plan.ab_test
    return [Leg(number, plan, plan.ab_test.split, pause=plan.pause or Pause())]


def _bandit(number: int, plan: Plan) -> list[Leg]:
    assert plan.bandit
    return [Leg(number, plan, 100 // (2 + len(plan.bandit.arms)), pause=plan.pause or Pause())]


_LEGS: dict[str, Callable[[int, Plan], list[Leg]]] = {
    "canary": _canary,
    "blueGreen": _blue_green,
    "shadow": _shadow,
    "abTest": _ab_test,
    "bandit": _bandit,
}
