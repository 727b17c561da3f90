"""What an agent does about a decision: slow work as jobs, one of a kind at a time, retried with back-off."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.agent.gitview import MAX_BACKOFF, write_back
from tidegate.agent.jobs import BackOff, Done, Jobs
from tidegate.config import Desired, WorkloadsSpec
from tidegate.core.release import original
from tidegate.core.state import Action, Note, Rollout, Start, Stop, Warm, WriteBack
from tidegate.core.status import news
from tidegate.errors import Conflict
from tidegate.ports import Clock, Repository, Workloads

log = logging.getLogger(__name__)

LOCAL_BACKOFF = 10.0  # seconds at most until a start, warm-up or stop that failed is tried again


@dataclass(frozen=True)
class Told:
    """Something that a job found out, for the events."""

    at: float
    model: str
    note: Note


class Hands:
    """Acts on workloads and on Git.

    Each action is asked for at every tick until the plane shows that it is done; what is asked for no
    more takes its problem with it. `missing` says why a release could not be started; `stopping` are
    the releases whose processes are just being stopped.
    """

    def __init__(
        self, plane: str, workloads: Workloads, repository: Repository, clock: Clock, jobs: Jobs
    ) -> None:
        self.plane, self.workloads, self.repository = plane, workloads, repository
        self.clock, self.jobs = clock, jobs
        self.problems: dict[str, str] = {}
        self.missing: dict[tuple[str, str], str] = {}
        self.stopping: set[tuple[str, str]] = set()
        self._later = BackOff()
        self._published: dict[str, Any] = {}

    def act(self, desired: Desired, asked: Collection[tuple[str, Action]], now: float) -> None:
        """Begin what is asked for and not under way, the urgent first; forget what is asked no more."""
        keys = {_key(model, action) for model, action in asked} | {"publish"}
        self.problems = {key: text for key, text in self.problems.items() if key in keys}
        self._later.keep(keys)
        starts = {(model, action.release) for model, action in asked if isinstance(action, Start)}
        self.missing = {key: text for key, text in self.missing.items() if key in starts}
        for model, action in asked:
            if self._later.ready(_key(model, action), now):
                self._begin(desired, model, action)

    def spec(self, desired: Desired) -> WorkloadsSpec:
        """Return how this plane runs releases: what its own environment says."""
        mine = [env for env in desired.environments.values() if env.platform.plane == self.plane]
        own = next((env for env in mine if env.name == self.plane), mine[0] if mine else None)
        return own.platform.workloads if own else WorkloadsSpec()

    def replicas(self, desired: Desired) -> int:
        """Return how many processes of a release this plane runs."""
        return self.spec(desired).replicas

    def _begin(self, desired: Desired, model: str, action: Action) -> None:
        submit, workloads, key = self.jobs.submit, self.workloads, _key(model, action)
        mine = [env for env in desired.environments.values() if env.platform.plane == self.plane]
        if isinstance(action, WriteBack):
            rollout, names = action.rollout, tuple(env.name for env in mine)
            submit(key, lambda: self._write_back(rollout, model, names))
            return
        release = action.release
        if (model, release) in self.stopping:  # its processes are about to be gone
            return
        if isinstance(action, Start):
            record = desired.records.get(original(release))
            if record is None:
                self.problems[key] = self.missing[model, release] = (
                    f"{release} of {model} has to run, and its record is not in Git any more. "
                    f"Restore envs/releases/{model}/{release}.yaml."
                )
                return
            replicas, copy = self.replicas(desired), release != original(release)
            submit(key, lambda: workloads.start(record, replicas, copy))
        elif isinstance(action, Warm):
            submit(key, lambda: workloads.warm(model, release))
        elif submit(key, lambda: workloads.stop(model, release)):
            self.stopping.add((model, release))

    def _write_back(
        self, rollout: Rollout, model: str, environments: tuple[str, ...]
    ) -> tuple[float, str] | None:
        """Write a rollback to Git; returns when it was pushed and the commit, None if nothing was due."""
        commit = write_back(self.repository, rollout, model, environments, self.clock.now())
        return (self.clock.now(), commit) if commit else None

    def publish(self, document: Mapping[str, Any], now: float) -> None:
        """Tell Git what this plane runs, once for each change: workflows wait on it."""
        fresh = news(document)
        if fresh == self._published or not self._later.ready("publish", now):
            return
        copy, name = {**document, "at": now}, f"status/{self.plane}"
        if self.jobs.submit("publish", lambda: self.repository.publish(name, copy)):
            self._published = fresh

    def take(self, job: Done, now: float) -> Told | None:
        """Take in a finished job: how it failed and when it may be tried again, or what it found out."""
        kind, _, rest = job.key.partition("/")
        model, _, release = rest.partition("/")
        if kind == Stop.__name__:
            self.stopping.discard((model, release))
        if job.error is None:
            self._later.done(job.key)
            self.problems.pop(job.key, None)
            self.missing.pop((model, release), None)
            return _told(kind, model, release, job.result)
        log.warning("%s: %s", job.key, job.error)
        self.problems[job.key] = str(job.error)
        if kind == Start.__name__:
            self.missing[model, release] = str(job.error)
        if kind == "publish":
            self.problems[job.key] = f"status not published: {job.error}"
            self._published = {}
        if not isinstance(job.error, Conflict):  # somebody was quicker: read and try again at once
            remote = kind in ("publish", WriteBack.__name__)
            self._later.failed(job.key, now, MAX_BACKOFF if remote else LOCAL_BACKOFF)
        return None


def _key(model: str, action: Action) -> str:
    release = action.rollout.release if isinstance(action, WriteBack) else action.release
    return f"{type(action).__name__}/{model}/{release}"


def _told(kind: str, model: str, release: str, result: Any) -> Told | None:
    if kind != WriteBack.__name__ or not result:
        return None
    at, commit = result
    text = f"Git says so too: {commit[:12]} takes {release} back"
    return Told(at, model, Note("reverted", release, text, {"commit": commit}))
