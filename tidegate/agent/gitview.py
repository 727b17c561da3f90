"""What Git says, as one plane's agent knows it: the last good commit, and what is wrong since."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from tidegate.agent.jobs import Done
from tidegate.config import Desired, parse_desired, parse_release_file
from tidegate.core.state import ModelState, Phase, Rollout, Target, Want
from tidegate.core.writeback import plan_write_back
from tidegate.errors import ConfigError, TidegateError
from tidegate.ports import Change, Repository

MAX_BACKOFF = 4.0  # seconds between two tries of a remote that does not answer: it is back within 5 s


class GitView:
    """Follows the remote's branch. A tree that can't be read leaves the last good one in force."""

    def __init__(self, plane: str, repository: Repository) -> None:
        self.plane, self.repository = plane, repository
        self.desired: Desired | None = None
        self._wishes: tuple[Desired, Wishes] | None = None
        self._away = ""  # why the remote can't be read now
        self._malformed = ""  # why its newest commit is not followed
        self._head = ""
        self._next = 0.0
        self._failures = 0
        self._hurry = True

    @property
    def problem(self) -> str:
        """Return what keeps this plane from following Git, or nothing."""
        return "; ".join(text for text in (self._malformed, self._away) if text)

    def wishes(self, desired: Desired) -> Wishes:
        """Return what a commit wants of this plane, worked out once."""
        if self._wishes is None or self._wishes[0] is not desired:
            self._wishes = (desired, Wishes(desired, self.plane))
        return self._wishes[1]

    def resume(self, commit: str) -> None:
        """Go on from the commit that was in force before; a remote that is away is no obstacle."""
        try:
            self.desired = parse_desired(commit, self.repository.files(commit))
        except TidegateError as error:
            self._malformed = f"commit {commit[:12]} can't be read again: {error}"

    def due(self, now: float, poll: float) -> bool:
        """Tell whether it is time to ask the remote, less often while it does not answer."""
        patient = self._next - MAX_BACKOFF <= now < self._next  # further off: the clock was moved back
        if patient and not self._hurry:
            return False
        self._hurry = False
        self._next = now + min(MAX_BACKOFF, poll * 2 ** min(self._failures, 10))
        return True

    def hurry(self) -> None:
        """Ask the remote at the next tick."""
        self._hurry = True

    def fetch(self) -> Desired | None:
        """Return what the newest commit says, None when it is known already; runs beside the ticks."""
        commit = self.repository.fetch()
        if commit == self._head:
            return None
        try:
            files = self.repository.files(commit)
        except ConfigError:
            self._head = commit
            raise
        try:
            desired = parse_desired(commit, files)
        except ConfigError:
            self._head = commit  # not asked again while it is malformed: the next commit may mend it
            raise
        self._head = commit
        return desired

    def take(self, job: Done, now: float) -> None:
        """Take in a fetch's result: a good tree replaces the last one, anything else is a problem."""
        if isinstance(job.error, ConfigError):
            kept = f"; {self.desired.commit[:12]} stays in force" if self.desired else ""
            self._malformed = f"commit {self._head[:12]}: {job.error}{kept}"
        elif job.error is not None:
            self._failures += 1
            wait = max(0.0, self._next - now)
            self._away = f"{job.error} (tried {self._failures} times, again in {wait:.0f} s)"
            return
        elif job.result is not None:
            self.desired, self._malformed = job.result, ""
        self._failures, self._away = 0, ""


class Wishes:
    """What one commit wants of each model on a plane, worked out once."""

    def __init__(self, desired: Desired, plane: str) -> None:
        self._mine = [env for env in desired.environments.values() if env.platform.plane == plane]
        self._mine.sort(key=lambda env: env.name != plane)  # its slices rest on the plane's own environment
        self._rejected = frozenset(desired.rejections)
        self._known: dict[str, set[str]] = {}
        for record in desired.records.values():
            self._known.setdefault(record.model, set()).add(record.id)
        self._wants: dict[str, Want] = {}

    def of(self, model: str) -> Want:
        """Return what is wanted of a model: the plane's own environment first, its slices after it."""
        if model not in self._wants:
            targets = tuple(Target(e.name, e.releases.get(model), e.plan(model)) for e in self._mine)
            self._wants[model] = Want(targets, self._rejected, frozenset(self._known.get(model, ())))
        return self._wants[model]


def refusals(desired: Desired, model: str, want: Want, running: str | None) -> dict[str, str]:
    """Say, by environment, which of Git's wishes are not taken up and why; empty where all is well.

    A release that was rejected further on may go on `running` where it was before.
    """
    texts = {}
    for target in want.targets:
        text = ""
        if target.release in desired.rejections and target.release != running:
            why = desired.rejections[str(target.release)].reason
            text = (
                f"envs/{target.environment}/release.yaml asks for {target.release} of {model}, which was "
                f"rejected ({why}). Promote another, or delete its .rejected.yaml to try again."
            )
        texts[target.environment] = text
    return texts


def behind(model: str, want: Want, state: ModelState, refused: bool) -> str:
    """Say where Git names a release that was left here and that it is not told of; empty if nowhere.

    `refused` says that a rollback that is just under way could not be written.
    """
    rollout = state.rollout
    left = {r.release: r.reason for r in state.unwritten}
    if rollout and rollout.phase is Phase.ROLLING_BACK and rollout.entered is not None and refused:
        left[rollout.release] = rollout.reason
    named = [(f"envs/{t.environment}/release.yaml", t.release) for t in want.targets if t.release in left]
    if not named:
        return ""
    asks = ", ".join(f"{path} names {release} of {model}" for path, release in named)
    return (
        f"the plane is behind Git on purpose: {asks}, which was rolled back here "
        f"({left[str(named[0][1])]}). Name another release there; the plane follows it."
    )


def write_back(
    repository: Repository, rollout: Rollout, model: str, environments: Sequence[str], now: float
) -> str | None:
    """Commit a rollback on the newest tree; returns the commit, or None when Git says so already.

    Raises Conflict when somebody pushes meanwhile: the caller comes again and everything is read anew.
    """
    head = repository.fetch()
    files = repository.files(head)
    named: dict[str, str | None] = {}
    for name in environments:
        path = f"envs/{name}/release.yaml"
        try:
            named[name] = parse_release_file(files[path], path).get(model)
        except (ConfigError, KeyError):
            named[name] = None  # a person broke it after the breach: theirs to mend
    plan = plan_write_back(rollout, model, environments, files, named, now)
    if plan is None:
        return None
    changed: dict[str, str | None] = dict(plan.files)
    if plan.rejection is not None:
        path = f"envs/releases/{model}/{rollout.release}.rejected.yaml"
        changed[path] = yaml.safe_dump(plan.rejection, sort_keys=False, allow_unicode=True, width=100)
    return repository.commit(Change(head, changed, plan.subject, plan.body, plan.trailers))
