"""What the agent writes to Git when a rollout ends badly: computed from the newest tree, never blindly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tidegate.core.release_file import set_release
from tidegate.core.state import Rollout


@dataclass(frozen=True)
class WriteBackPlan:
    """One commit: files to write, and a message whose trailers carry the numbers."""

    files: Mapping[str, str]
    subject: str
    body: str
    trailers: Mapping[str, str]
    rejection: Mapping[str, Any] | None


def plan_write_back(
    rollout: Rollout,
    model: str,
    environments: Iterable[str],
    files: Mapping[str, str],
    wanted: Mapping[str, str | None],
    now: float,
) -> WriteBackPlan | None:
    """Return the commit that makes Git say what runs, or None when it does already.

    `files` is the tree's text by path, `wanted` what each environment names at that commit. An
    environment that names another release by now was changed by a person after the breach: that
    decision stands, and its line is left alone.
    """
    release = rollout.release
    changed: dict[str, str] = {}
    for environment in environments:
        path = f"envs/{environment}/release.yaml"
        if wanted.get(environment) == release and path in files:
            changed[path] = set_release(files[path], model, rollout.stable)
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    rejected_path = f"envs/releases/{model}/{release}.rejected.yaml"
    rejection = _rejection(rollout, model, at) if rollout.reject and rejected_path not in files else None
    if not changed and rejection is None:
        return None
    back = rollout.stable or "no release"
    trailers = {
        "Tidegate-Model": model,
        "Tidegate-Environment": rollout.environment,
        "Tidegate-Release": release,
        "Tidegate-Back-To": back,
        "Tidegate-Verdict": rollout.verdict,
        "Tidegate-Observed": str(rejection["observed"]) if rejection else "-",
        "Tidegate-Limit": str(rejection["limit"]) if rejection else "-",
    }
    if rollout.by:  # a person's word: history says whose, and why
        trailers |= {"Tidegate-Author": rollout.by, "Tidegate-Reason": " ".join(rollout.reason.split())}
    return WriteBackPlan(
        changed,
        f"{'Switch' if rollout.switched else 'Roll back'} {model} in {rollout.environment} "
        f"from {release} to {back}",
        f"{rollout.reason}\n\nWritten by the tidegate agent after traffic had left the release.",
        trailers,
        rejection,
    )


def _rejection(rollout: Rollout, model: str, at: str) -> dict[str, Any]:
    decisive = next((f for f in rollout.findings if f.get("verdict") == rollout.verdict), None)
    return {
        "release": rollout.release,
        "model": model,
        "environment": rollout.environment,
        "at": at,
        "verdict": rollout.verdict,
        "reason": rollout.reason,
        "observed": str(decisive.get("observed_text", "")) if decisive else "",
        "limit": str(decisive.get("limit_text", "")) if decisive else "",
        "findings": [dict(f) for f in rollout.findings],
    }
