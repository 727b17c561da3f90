"""Which promotion may be made, what it is called, what comes next, and when its rollout has ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

ORDER = ("staging", "canary", "production")
# Production is done when it settled; a canary that is verified stays a canary; staging has no steps.
_DONE = {
    "staging": frozenset({"Verified", "Healthy"}),
    "canary": frozenset({"Verified", "Healthy"}),
    "production": frozenset({"Healthy"}),
}
_FAILED = frozenset({"RolledBack"})  # Degraded may recover: it is waited for

Releases = Mapping[str, Mapping[str, str]]  # environment → model → release


@dataclass(frozen=True)
class Target:
    """One release on its way into one environment."""

    environment: str
    model: str
    release: str

    @property
    def branch(self) -> str:
        """The promotion's branch; the same target has the same one, so it is opened once."""
        return f"promote/{self.environment}/{self.model}/{self.release}"

    @property
    def path(self) -> str:
        """The file of which one line changes."""
        return f"envs/{self.environment}/release.yaml"

    @property
    def record(self) -> str:
        """Where the release's record is."""
        return f"envs/releases/{self.model}/{self.release}.yaml"

    @property
    def images(self) -> str:
        """Where the digests of its images are, if some were made."""
        return f"envs/releases/{self.model}/{self.release}.images.yaml"

    @property
    def rejection(self) -> str:
        """Where its rejection is, if it was rejected."""
        return f"envs/releases/{self.model}/{self.release}.rejected.yaml"

    @property
    def title(self) -> str:
        """The pull request's title and the commit's subject."""
        return f"Promote {self.model} {self.release} to {self.environment}"

    def next(self) -> Target | None:
        """Return the same release's next promotion; None after production."""
        place = ORDER.index(self.environment) + 1
        return Target(ORDER[place], self.model, self.release) if place < len(ORDER) else None


def lane(branch: str) -> str | None:
    """Return what the branches of one model's promotions to one environment begin with; None for others.

    Of a lane, only the newest promotion is worth merging: an older one would take the newer one back.
    """
    parts = branch.split("/")
    return "/".join(parts[:3]) + "/" if len(parts) == 4 and parts[0] == "promote" else None


def pushed(before: Releases, after: Releases) -> list[Target]:
    """Return what a push promotes: each model whose release changed, in the order of environments."""
    return [
        Target(environment, model, release)
        for environment in ORDER
        for model, release in sorted(after.get(environment, {}).items())
        if before.get(environment, {}).get(model) != release
    ]


def refusal(
    target: Target, releases: Releases, *, has_record: bool, rejected: str | None
) -> tuple[str, str] | None:
    """Return why a promotion is refused and what to do, or None when it may be made.

    `rejected` is the reason of the release's rejection on main, None when there is none.
    """
    name = f"release {target.release} of {target.model}"
    if target.environment not in ORDER:
        return f"`{target.environment}` is not an environment", f"Name one of: {', '.join(ORDER)}."
    if rejected is not None:
        return (
            f"{name} was rejected: {rejected.rstrip('.')}",
            f"Release a new one, or delete {target.rejection} by a reviewed change to try it again.",
        )
    if not has_record:
        return f"{name} has no record {target.record} on main", "Promote it to staging first."
    place = ORDER.index(target.environment)
    if place and releases.get(ORDER[place - 1], {}).get(target.model) != target.release:
        there = releases.get(ORDER[place - 1], {}).get(target.model, "nothing")
        return (
            f"{name} is not in {ORDER[place - 1]} (there is {there}), so it can't go to {target.environment}",
            f"Promote it to {ORDER[place - 1]} first.",
        )
    return None


class Outcome(StrEnum):
    """How far a promotion's rollout is."""

    WAIT = "wait"
    REACHED = "reached"
    FAILED = "failed"
    SUPERSEDED = "superseded"  # main wants another release by now


def outcome(
    target: Target,
    wanted: str | None,
    rejected: str | None,
    status: Mapping[str, Any] | None,
    *,
    current: bool,
) -> tuple[Outcome, str]:
    """Return how far a rollout is, and the reason in one line.

    `wanted` is what main's release.yaml says now, `rejected` the rejection's reason on main, `status`
    the plane's published document (None: there is none yet), `current` whether its agent knew the
    promotion's commit: an older one tells of an earlier rollout. Absence is WAIT, never REACHED.
    """
    if rejected is not None:
        return Outcome.FAILED, f"rejected: {rejected}"
    entry = _entry(target, status) if current else {}
    here = entry.get("release") == target.release
    phase, reason = str(entry.get("phase", "")), str(entry.get("reason", ""))
    if here and phase in _FAILED:
        return Outcome.FAILED, f"{phase}: {reason or 'the agent gave no reason'}"
    if wanted != target.release:
        return Outcome.SUPERSEDED, f"main wants {wanted or 'no release'} there by now"
    if here and phase in _DONE[target.environment]:
        return Outcome.REACHED, f"{phase}: {reason}" if reason else phase
    if here:
        return Outcome.WAIT, " ".join(part for part in (phase, _weight(entry), reason) if part)
    if status is None:
        return Outcome.WAIT, "the agent has not reported yet"
    problems = status.get("problems") or ()
    return Outcome.WAIT, str(problems[0]) if problems else "the agent has not taken it up yet"


def findings(target: Target, status: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Return the numbers that a plane published of a target's rollout; empty when there are none."""
    entry = _entry(target, status)
    found = entry.get("findings") if entry.get("release") == target.release else None
    return found if isinstance(found, list) else ()


def _entry(target: Target, status: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found: Any = status or {}
    for key in ("models", target.model, target.environment):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _weight(entry: Mapping[str, Any]) -> str:
    weight = entry.get("weight")
    return f"at {weight}%" if isinstance(weight, int | float) else ""


def message(target: Target, subject: str, extra: Mapping[str, str] | None = None) -> str:
    """Return the message of an automation's commit: who says so, and the trailers."""
    trailers = {
        "Tidegate-Model": target.model,
        "Tidegate-Environment": target.environment,
        "Tidegate-Release": target.release,
        **(extra or {}),
    }
    lines = [f"{key}: {' '.join(str(value).split())}" for key, value in trailers.items()]
    return f"{subject}\n\nWritten by `tidegate promote`.\n\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Facts:
    """What a promotion's pull request is about: a sentence, and rows of name and value."""

    lead: str
    rows: tuple[tuple[str, str], ...]


def facts(target: Target, record: Mapping[str, Any], now_there: str | None) -> Facts:
    """Return what a promotion changes and what it is made of; `record` is a release record's content."""
    registry, bento = record.get("registry", {}), record.get("bento", {})
    gates = ", ".join(f"{k} {v}" for k, v in sorted(record.get("gates", {}).items()) if k != "report")
    rows = (
        ("release", target.release),
        ("replaces", now_there or "nothing"),
        ("commit", str(record.get("commit", ""))),
        ("model version", f"{registry.get('name', '')} {registry.get('version', '')}".strip()),
        ("model digest", str(record.get("artifact", ""))),
        ("Bento", str(bento.get("tag", ""))),
        ("gates of the pipeline", gates or "none recorded"),
    )
    lead = f"Merging this lets {target.model} {target.release} into {target.environment}."
    return Facts(lead, rows)


def describe(told: Facts) -> str:
    """Return facts as the plainest Markdown, for a promotion without a report."""
    table = "\n".join(f"| {name} | `{value}` |" for name, value in told.rows)
    return f"{told.lead}\n\n| | |\n| --- | --- |\n{table}\n"
