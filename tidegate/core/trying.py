"""A rollout on an experiment's leg: what an A/B test or a bandit makes of the outcomes so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tidegate.core import bandit, experiment
from tidegate.core.leaving import leave
from tidegate.core.pooling import Evidence
from tidegate.core.state import Note, Rollout
from tidegate.core.strategies import Leg
from tidegate.core.verdict import Verdict

replace = msgspec.structs.replace


@dataclass(frozen=True)
class Tried:
    """The rollout after this look, and what the leg still waits for (nothing: it is over, and won)."""

    rollout: Rollout
    waiting: str = ""


def outcome_key(name: str) -> str:
    """Return the tally's name of an outcome: (units whose outcome is known, those where it was 1)."""
    return f"outcome:{name}"


UNITS = "units"  # the tally of distinct units that were assigned to a release: (units, 0)


def advance_experiment(rollout: Rollout, leg: Leg, now: float, notes: list[Note]) -> Tried:
    """Decide by an A/B test's or a bandit's outcomes; a bandit also moves weights."""
    if not rollout.experiment:
        rollout = replace(rollout, experiment={"since": rollout.entered or now})
    elapsed = now - float(rollout.experiment["since"])
    if leg.plan.ab_test is not None:
        return _ab_test(rollout, leg, elapsed, notes)
    return _bandit(rollout, leg, elapsed, now, notes)


def _counted(stored: dict[str, object], name: str) -> dict[str, tuple[int, int]]:
    """Return (trials, events) of one tally for the candidate's and for stable's arm of pooled evidence."""
    if not stored:
        return {"candidate": (0, 0), "stable": (0, 0)}
    found = Evidence.from_dict(stored)
    return {"candidate": found.candidate.tally(name), "stable": found.stable.tally(name)}


def _ab_test(rollout: Rollout, leg: Leg, elapsed: float, notes: list[Note]) -> Tried:
    spec = leg.plan.ab_test
    assert spec
    found = _counted(rollout.evidence, outcome_key(spec.outcome))
    units = _counted(rollout.evidence, UNITS)
    decision = experiment.decide(
        spec,
        experiment.Arms(found["candidate"], found["stable"], units["candidate"][0], units["stable"][0]),
        leg.plan.alpha,
        elapsed,
    )
    return _concluded(rollout, leg, decision, notes)


def _bandit(rollout: Rollout, leg: Leg, elapsed: float, now: float, notes: list[Note]) -> Tried:
    spec = leg.plan.bandit
    assert spec
    key = outcome_key(spec.reward)
    found = _counted(rollout.evidence, key)
    rewards = {rollout.release: found["candidate"], str(rollout.stable): found["stable"]}
    for arm in rollout.arms:
        if not arm.out:
            rewards[arm.release] = _counted(arm.evidence, key)["candidate"]
    decision = bandit.decide(spec, rewards, rollout.release, elapsed)
    turn = now - float(rollout.experiment.get("turned", rollout.experiment["since"])) >= spec.interval
    if turn and decision.verdict is Verdict.INCONCLUSIVE and not decision.over:
        before = {r: w for r, w in rollout.weights.items() if r in rewards}
        moved = bandit.rebalance(spec, rewards, before, turn=int(rollout.experiment.get("turns", 0)))
        rollout = _moved(rollout, moved.weights, now, notes)
    return _concluded(rollout, leg, decision, notes)


def _moved(rollout: Rollout, weights: dict[str, int], now: float, notes: list[Note]) -> Rollout:
    turns = int(rollout.experiment.get("turns", 0)) + 1
    rollout = replace(rollout, experiment={**rollout.experiment, "turned": now, "turns": turns})
    if weights == {r: w for r, w in rollout.weights.items() if r in weights}:
        return rollout
    arms = tuple(replace(arm, weight=weights.get(arm.release, 0)) for arm in rollout.arms)
    text = ", ".join(f"{release} {weight}%" for release, weight in sorted(weights.items()))
    notes.append(Note("weight", rollout.release, f"{rollout.environment}: {text}", {"weights": weights}))
    # Not entered anew: a leg's pause goes on; the router is looked at all the same before the next count.
    return replace(rollout, weight=weights[rollout.release], arms=arms)


def _concluded(rollout: Rollout, leg: Leg, decision: experiment.Decision, notes: list[Note]) -> Tried:
    rollout = replace(rollout, findings=(*rollout.findings, decision.finding))
    if decision.verdict is Verdict.PASS:
        return Tried(rollout)
    lost = decision.verdict is Verdict.FAIL
    if lost or (decision.over and leg.plan.on_inconclusive == "rollback"):
        return Tried(leave(rollout, decision.verdict, decision.reason, notes))
    if decision.over and leg.plan.on_inconclusive == "promote":
        return Tried(rollout)
    return Tried(rollout, decision.reason)
