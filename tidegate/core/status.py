"""What a person or a workflow is told of a plane: one document, computed from what is remembered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tidegate.core.plan import Plan
from tidegate.core.recording import name
from tidegate.core.state import ACTIVE, ModelState, Phase, Rollout, Want
from tidegate.core.strategies import Leg, leg_at, legs_of

# Reasons change at every look while a rollout goes on; only these are worth a write.
_LASTING = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.DEGRADED})
_DECIDED = frozenset({Phase.VERIFIED, Phase.HEALTHY, Phase.ROLLED_BACK})  # here numbers say why


def environment_status(
    environment: str,
    wanted: str | None,
    state: ModelState,
    alive: Collection[str],
    plan: Plan | None = None,
    recording: str = "",
) -> dict[str, Any]:
    """Return one environment's line: release, phase, weight, reason, and whether Git is ahead.

    With the rollout's `plan` it says how the rollout goes on: steps, pauses, who is waited for.
    """
    line = _of_environment(environment, wanted, state, alive)
    rollout = state.rollout if state.rollout and state.rollout.environment == environment else None
    tells = rollout is not None and rollout.phase in ACTIVE and line["release"] == rollout.release
    return line | _course(rollout if tells else None, plan or Plan(), recording)


def _of_environment(
    environment: str, wanted: str | None, state: ModelState, alive: Collection[str]
) -> dict[str, Any]:
    rollout = state.rollout
    if rollout and rollout.environment == environment and (_tells(rollout, wanted, state)):
        return _line(rollout.release, rollout.phase, rollout.weight, rollout.reason, rollout)
    running = state.stable if wanted == state.stable or environment != "canary" else None
    if rollout and rollout.phase in ACTIVE and rollout.release == wanted:  # promoted past this one
        return _line(wanted, Phase.VERIFIED, rollout.weight, "", None)
    if running is None:
        phase = Phase.PENDING if wanted else None
        return _line(wanted, phase, 0, "waits for the plane" if wanted else "nothing is wanted here", None)
    # What is on its way, here or in a slice of this environment, has its share of the same requests.
    share = 100 - (rollout.weight if rollout and rollout.phase in ACTIVE and environment != "canary" else 0)
    if running not in alive:
        return _line(running, Phase.DEGRADED, share, "no replica answers", None)
    reason = ""
    if rollout and rollout.environment == environment and rollout.phase is Phase.ROLLED_BACK:
        how = "made way" if rollout.switched else "was rolled back"
        reason = f"{rollout.release} {how}: {rollout.reason}"
    if wanted is not None and running != wanted:
        reason = f"Git asks for {wanted}, which is not taken up"
    return _line(running, Phase.HEALTHY, share, reason, None)


def _tells(rollout: Rollout, wanted: str | None, state: ModelState) -> bool:
    """A rollout speaks for its environment until something newer has settled there.

    One that was rolled back speaks for a canary only: elsewhere what runs is the release it went back to.
    """
    if rollout.phase is Phase.HEALTHY:
        return False
    if rollout.phase is not Phase.ROLLED_BACK:
        return True
    slice_only = rollout.environment == "canary" or state.stable is None
    return slice_only and wanted in (state.stable, rollout.release, None)


def _line(
    release: str | None, phase: Phase | None, weight: int, reason: str, rollout: Rollout | None
) -> dict[str, Any]:
    return {
        "release": release,
        "phase": str(phase) if phase else "-",
        "weight": weight,
        "reason": reason,
        "step": rollout.step if rollout else None,
        "seen": rollout.seen if rollout else None,
        "stable": rollout.stable if rollout else None,
        "started": rollout.started if rollout else None,
        "findings": list(rollout.findings) if rollout else [],
    }


def _course(rollout: Rollout | None, plan: Plan, recording: str) -> dict[str, Any]:
    """Return how a rollout goes on; empty values where none is under way.

    `step` of `steps` is the one that it is on, -1 before the first. `deadline`, `entered` and `pause_until`
    are seconds since the epoch, None while they mean nothing. `waits` is the verb that a person has to say.
    """
    course: dict[str, Any] = {"strategy": "", "stage": 0, "steps": [], "arms": [], "mirror": 0}
    course |= {"paused": "", "waits": "", "deadline": None, "entered": None, "pause_until": None}
    course |= {"alpha": None, "recording": recording if rollout else ""}
    if rollout is None:
        return course
    planned = legs_of(rollout, plan)
    leg, held = leg_at(planned, rollout), rollout.phase in (Phase.PAUSED, Phase.VERIFIED)
    ends = rollout.started + rollout.held + plan.progress_deadline
    pause = rollout.entered + leg.pause.duration if rollout.entered and leg.pause.duration else None
    return course | {
        "strategy": leg.plan.strategy,
        "stage": leg.stage,
        "steps": [_step(each) for each in planned],
        "arms": [{"release": arm.release, "weight": arm.weight, "out": arm.out} for arm in rollout.arms],
        "mirror": rollout.traffic.mirror,
        "paused": rollout.paused,
        "waits": _waits(rollout, planned),
        "deadline": None if held else ends,
        "entered": rollout.entered,
        "pause_until": pause if rollout.phase is not Phase.VERIFIED else None,
        "alpha": plan.alpha,
    }


def _step(leg: Leg) -> dict[str, Any]:
    return {
        "strategy": leg.plan.strategy,
        "weight": leg.weight,
        "mirror": leg.mirror,
        "duration": float(leg.pause.duration),
        "requests": leg.pause.min_requests,
        "manual": leg.manual,
        "indefinite": leg.pause.indefinite,
    }


def _waits(rollout: Rollout, planned: tuple[Leg, ...]) -> str:
    """Return the verb that a paused rollout waits for."""
    if rollout.paused:
        return "resume"
    if rollout.phase is not Phase.PAUSED:
        return ""
    indefinite = leg_at(planned, rollout).pause.indefinite and rollout.resumed <= rollout.step
    return "resume" if indefinite else "approve"


def plane_status(
    plane: str,
    url: str,
    commit: str,
    models: Mapping[str, tuple[Want, ModelState, Collection[str]]],
    problems: Collection[str],
    known: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the plane's document: for each model each environment's line, and what is wrong.

    `known` are the lines of models of which nothing has changed since they were made.
    """
    known = known or {}
    return {
        "plane": plane,
        "url": url,
        "commit": commit,
        "models": {
            model: known[model] if model in known else _lines(plane, model, want, state, alive)
            for model, (want, state, alive) in sorted(models.items())
        },
        "problems": sorted(problems),
    }


def _lines(
    plane: str, model: str, want: Want, state: ModelState, alive: Collection[str]
) -> dict[str, dict[str, Any]]:
    recording = name(plane, model, state.active) if state.active else ""
    return {
        t.environment: environment_status(t.environment, t.release, state, alive, t.plan, recording)
        for t in want.targets
    }


def lasting(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a status that is worth publishing: no counts, no passing reasons.

    A rollout that was decided has its findings with it: the next promotion's reviewer reads them.
    """
    kept = ("release", "phase", "weight", "stable")
    models = {
        model: {
            environment: {key: line[key] for key in kept}
            | {"reason": line["reason"] if line["phase"] in _LASTING or line["phase"] == "Pending" else ""}
            | ({"findings": line["findings"]} if line["phase"] in _DECIDED and line["findings"] else {})
            for environment, line in lines.items()
        }
        for model, lines in document["models"].items()
    }
    return {**document, "models": models}


def news(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must change before a document is published again; findings change at every look."""
    models = {
        model: {
            environment: {key: value for key, value in line.items() if key != "findings"}
            for environment, line in lines.items()
        }
        for model, lines in published["models"].items()
    }
    return {**published, "models": models}
