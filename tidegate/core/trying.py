"""A rollout on an experiment's leg: what an A/B test or a bandit makes of the outcomes so far. Pure.

`Rollout.experiment` remembers `since` (when it began), for a bandit `turned`, `turns` and `weights` (when
weights were last worked out, how often, and what they were, by release), and `decided`: why it was won. What
was once proven stays proven: an always-valid interval may grow again, but it was right when it excluded 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tidegate.core import bandit, experiment
from tidegate.core.leaving import leave
from tidegate.core.outcomes import UNITS, outcome_key
from tidegate.core.pooling import Evidence
from tidegate.core.state import Note, Rollout
from tidegate.core.strategies import Leg
from tidegate.core.verdict import Verdict

__all__ = ["UNITS", "Tried", "advance_experiment", "of_experiment", "outcome_key"]

replace = msgspec.structs.replace


@dataclass(frozen=True)
class Tried:
    """The rollout after this look, and what the leg still waits for (nothing: it is over, and won)."""

    rollout: Rollout
    waiting: str = ""


def of_experiment(finding: Mapping[str, Any]) -> bool:
    """Tell an experiment's finding from a check's."""
    return "planned" in finding


def advance_experiment(rollout: Rollout, leg: Leg, now: float, notes: list[Note]) -> Tried:
    """Decide by an A/B test's or a bandit's outcomes; a bandit also moves weights.

    An A/B test's alpha is its leg's: the stage's part of the rollout's, of which its checks have as much
    again (strategies.legs). A bandit spends none.
    """
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
    arms = experiment.Arms(
        found["candidate"],
        found["stable"],
        units["candidate"][0],
        units["stable"][0],
        units["candidate"][1] + units["stable"][1],
    )
    return _concluded(rollout, leg, experiment.decide(spec, arms, leg.plan.alpha, elapsed), notes)


def _bandit(rollout: Rollout, leg: Leg, elapsed: float, now: float, notes: list[Note]) -> Tried:
    spec = leg.plan.bandit
    assert spec
    key = outcome_key(spec.reward)
    found = _counted(rollout.evidence, key)
    rewards = {rollout.release: found["candidate"], str(rollout.stable): found["stable"]}
    for arm in rollout.arms:
        if not arm.out and arm.release in spec.arms:  # not the fresh copy of stable
            rewards[arm.release] = _counted(arm.evidence, key)["candidate"]
    decision = bandit.decide(spec, rewards, rollout.release, elapsed, rollout.weights)
    undecided = decision.verdict is Verdict.INCONCLUSIVE and not decision.over
    if undecided and "decided" not in rollout.experiment:
        rollout = _turned(rollout, leg, rewards, now, notes)
    return _concluded(rollout, leg, decision, notes)


def _turned(
    rollout: Rollout,
    leg: Leg,
    rewards: dict[str, tuple[int, int]],
    now: float,
    notes: list[Note],
) -> Rollout:
    """Work the weights out anew when it is time, or when an arm left: what it had is shared out at once."""
    known, spec = rollout.experiment, leg.plan.bandit
    assert spec
    before = known.get("weights") or _even(rollout, leg)
    left = set(before) - set(rewards)
    if not left and now - float(known.get("turned", known["since"])) < spec.interval:
        return rollout if "weights" in known else replace(rollout, experiment={**known, "weights": before})
    turns = int(known.get("turns", 0))
    weights = bandit.rebalance(spec, rewards, before, turns).weights
    rollout = replace(rollout, experiment={**known, "turned": now, "turns": turns + 1, "weights": weights})
    if weights == {r: w for r, w in rollout.weights.items() if r in weights}:
        return rollout
    arms = tuple(replace(arm, weight=weights.get(arm.release, 0)) for arm in rollout.arms)
    text = ", ".join(f"{release} {weight}%" for release, weight in sorted(weights.items()))
    notes.append(Note("weight", rollout.release, f"{rollout.environment}: {text}", {"weights": weights}))
    # Not entered anew: a leg's pause goes on; the router is looked at all the same before the next count.
    return replace(rollout, weight=weights[rollout.release], arms=arms)


def _even(rollout: Rollout, leg: Leg) -> dict[str, int]:
    """Return what all arms were to have as the leg began, those that take no part any more included."""
    named = leg.plan.bandit.arms if leg.plan.bandit else ()  # the fresh copy of stable is none of them
    arms = {arm.release: leg.weight for arm in rollout.arms if arm.release in named}
    given = {rollout.release: leg.weight, **arms}
    return {**given, str(rollout.stable): 100 - sum(given.values())}


def _concluded(rollout: Rollout, leg: Leg, decision: experiment.Decision, notes: list[Note]) -> Tried:
    others = (f for f in rollout.findings if not of_experiment(f))
    rollout = replace(rollout, findings=(*others, decision.finding))
    if decision.verdict is Verdict.FAIL:
        return Tried(leave(rollout, Verdict.FAIL, decision.reason, notes))
    if "decided" in rollout.experiment:
        return Tried(rollout)
    if decision.verdict is Verdict.PASS:
        return Tried(_decided(rollout, leg, decision.reason, notes))
    # What nothing is known of is never promoted; it is held or left, as `onNoData` says.
    then = leg.plan.on_no_data if decision.quiet else leg.plan.on_inconclusive
    if decision.over and then == "rollback":
        return Tried(leave(rollout, decision.verdict, decision.reason, notes))
    if decision.over and then == "promote":
        return Tried(_decided(rollout, leg, decision.reason, notes))
    return Tried(rollout, decision.reason)


def _decided(rollout: Rollout, leg: Leg, reason: str, notes: list[Note]) -> Rollout:
    """Remember and tell that the experiment is over: for the candidate."""
    text = f"{rollout.environment}: {leg.plan.strategy} of {rollout.release}: {reason}"
    notes.append(Note("experiment", rollout.release, text, {"findings": list(rollout.findings)}))
    return replace(rollout, experiment={**rollout.experiment, "decided": reason})
