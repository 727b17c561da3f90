"""What a person or a workflow is told of a plane: one document, computed from what is remembered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tidegate.core.state import ACTIVE, ModelState, Phase, Rollout, Want

# Reasons change at every look while a rollout goes on; only these are worth a write.
_LASTING = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.DEGRADED})
_DECIDED = frozenset({Phase.VERIFIED, Phase.HEALTHY, Phase.ROLLED_BACK})  # here numbers say why


def environment_status(
    environment: str, wanted: str | None, state: ModelState, alive: Collection[str]
) -> dict[str, Any]:
    """Return one environment's line: release, phase, weight, reason, and whether Git is ahead."""
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
        reason = f"{rollout.release} was rolled back: {rollout.reason}"
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


def plane_status(
    plane: str,
    url: str,
    commit: str,
    models: Mapping[str, tuple[Want, ModelState, Collection[str]]],
    problems: Collection[str],
) -> dict[str, Any]:
    """Return the plane's document: for each model each environment's line, and what is wrong."""
    return {
        "plane": plane,
        "url": url,
        "commit": commit,
        "models": {
            model: {
                target.environment: environment_status(target.environment, target.release, state, alive)
                for target in want.targets
            }
            for model, (want, state, alive) in sorted(models.items())
        },
        "problems": sorted(problems),
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
