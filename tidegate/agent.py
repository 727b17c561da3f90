"""The agent of one plane: observe → decide → persist the intent → act → verify → record.

A tick reads the plane, takes one decision for each model (`core.rollout`), stores what was decided,
and only then touches anything. What to do is computed from the stored state each time, so every
action may be repeated and a crash at any point resumes to the same end. Git and everything slow run
beside the ticks (`jobs`): a rollback waits neither for a remote nor for a process that stops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from tidegate.config import AgentSpec, Desired
from tidegate.core import rollout as core
from tidegate.core.state import (
    Action,
    ModelState,
    Note,
    Rollout,
    Seen,
    Start,
    Stop,
    Target,
    Want,
    Warm,
    WriteBack,
)
from tidegate.core.status import lasting, plane_status
from tidegate.errors import LeaseLost, ReleaseNotFound, TidegateError
from tidegate.gitview import GitView, write_back
from tidegate.jobs import Done, Jobs
from tidegate.ports import (
    Clock,
    Event,
    Inbox,
    Metrics,
    Notifier,
    Repository,
    Route,
    Router,
    StateStore,
    Workloads,
)
from tidegate.sight import Sight

log = logging.getLogger(__name__)

RETRY_MISSING = 10.0  # seconds until a release that is not here is looked for again
BUSY_PAUSE = 0.05  # seconds between ticks while something has just changed


@dataclass(frozen=True)
class Ports:
    """Everything that an agent touches."""

    router: Router
    metrics: Metrics
    workloads: Workloads
    repository: Repository
    state: StateStore
    inbox: Inbox
    notifier: Notifier
    clock: Clock
    jobs: Jobs
    mirror: Callable[[Desired], None] | None = None  # e.g. MLflow's aliases after Git


@dataclass
class _Memory:
    """What is known between ticks; lost in a crash, and found again."""

    documents: dict[str, Any] = field(default_factory=dict)  # as stored
    models: dict[str, ModelState] = field(default_factory=dict)
    missing: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    mirrored: str = ""
    pending: list[Event] = field(default_factory=list)  # told by jobs, not stored yet
    leased: float = 0.0


class Agent:
    """Keeps one plane as Git says. `holder` names this agent in the plane's lease."""

    def __init__(
        self, plane: str, ports: Ports, *, holder: str, spec: AgentSpec | None = None, url: str = ""
    ) -> None:
        self.plane, self.ports, self.holder, self.url = plane, ports, holder, url
        self.spec = spec or AgentSpec()
        self.fence = 0
        self.git = GitView(plane, ports.repository)
        self.sight = Sight(ports.router, ports.metrics, ports.workloads)
        self.memory = _Memory()

    # ------------------------------------------------------------ life
    def start(self) -> None:
        """Take the lease and remember where the plane was left."""
        now = self.ports.clock.now()
        self._renew(now)
        self.memory.documents = dict(self.ports.state.load(self.plane))
        stored = self.memory.documents.get("models", {})
        self.memory.models = {m: msgspec.convert(v, ModelState) for m, v in stored.items()}
        commit = str(self.memory.documents.get("git", ""))
        if commit:
            self.git.resume(commit)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Tick until told to stop."""
        self.start()
        interval = float(self.spec.interval)
        while not stopped():
            began = self.ports.clock.now()
            busy = self.tick()
            spent = self.ports.clock.now() - began
            self.ports.clock.sleep(BUSY_PAUSE if busy else max(BUSY_PAUSE, interval - spent))

    def _renew(self, now: float) -> None:
        if now - self.memory.leased >= self.spec.lease / 3:
            self.fence = self.ports.state.acquire(self.plane, self.holder, now, float(self.spec.lease))
            self.memory.leased = now

    # ------------------------------------------------------------ one tick
    def tick(self) -> bool:
        """Look once and act; returns whether something changed, so that a look should follow soon."""
        now = self.ports.clock.now()
        self._renew(now)
        changed = self._collect(now)
        self._poll(now)
        desired = self.git.desired
        if desired is None:  # never knew what Git says: leave the plane as it is
            self._problem("git", self.git.problem)
            self._store(desired, {}, [], now)
            return changed
        view = self.sight.look()
        self._problem("plane", view.problem)
        self._problem("git", self.git.problem)
        answers = self._operators(now)
        events, self.memory.pending = self.memory.pending, []
        actions: list[tuple[str, Action]] = []
        told: dict[str, tuple[Want, ModelState, frozenset[str]]] = {}
        states: dict[str, ModelState] = {}
        for model in sorted({*desired.models(), *self.memory.models}):
            want, seen = self._want(desired, model), self._seen(view.of(model), model, now)
            before = self.memory.models.get(model, ModelState())
            decision = core.decide(before, want, seen, now)
            states[model] = decision.state
            told[model] = (want, decision.state, seen.alive)
            actions += [(model, action) for action in decision.actions]
            events += [self._event(model, note, now) for note in decision.notes]
        if not self._store(desired, told, events, now, states):
            return changed
        for request, answer in answers:
            self.ports.inbox.done(self.plane, request, answer)
        changed |= bool(events)
        if view.known:
            changed |= self._route(view.table(states))
        for model, action in actions:
            self._act(desired, model, action)
        self._publish(now)
        return changed

    def _want(self, desired: Desired, model: str) -> Want:
        """Return what Git wants here: the plane's own environment first, its slices after it."""
        mine = [env for env in desired.environments.values() if env.platform.plane == self.plane]
        mine.sort(key=lambda env: env.name != self.plane)
        targets = tuple(Target(env.name, env.releases.get(model), env.plan(model)) for env in mine)
        known = frozenset(r.id for r in desired.records.values() if r.model == model)
        for target in targets:
            key = f"{target.environment}/{model}"
            text = ""
            if target.release and target.release not in known:
                text = (
                    f"envs/{target.environment}/release.yaml names {target.release} of {model}, which has no "
                    f"record in envs/releases/{model}/. Merge its record, or correct the line."
                )
            elif target.release in desired.rejections:
                why = desired.rejections[str(target.release)].reason
                text = (
                    f"envs/{target.environment}/release.yaml asks for {target.release} of {model}, which was "
                    f"rejected ({why}). Promote another, or delete its .rejected.yaml to try it again."
                )
            self._problem(key, text)
        return Want(targets, frozenset(desired.rejections), known)

    def _seen(self, seen: Seen, model: str, now: float) -> Seen:
        missing = {
            release: text
            for (name, release), (text, until) in self.memory.missing.items()
            if name == model and now < until
        }
        return replace(seen, missing=missing)

    def _event(self, model: str, note: Note, now: float) -> Event:
        return Event(now, self.plane, model, note.release, note.kind, note.text, note.data)

    # ------------------------------------------------------------ remembering
    def _store(
        self,
        desired: Desired | None,
        told: Mapping[str, tuple[Want, ModelState, frozenset[str]]],
        events: list[Event],
        now: float,
        states: Mapping[str, ModelState] | None = None,
    ) -> bool:
        """Store what was decided; False when it could not be, and then nothing may be done."""
        status = plane_status(
            self.plane, self.url, desired.commit if desired else "", told, self.memory.problems.values()
        )
        documents: dict[str, Any] = {"status": status}
        if desired is not None:
            documents["git"] = desired.commit
        if states is not None:
            documents["models"] = {m: msgspec.to_builtins(s) for m, s in states.items()}
        fresh = {k: v for k, v in documents.items() if self.memory.documents.get(k) != v}
        if fresh or events:
            try:
                self.ports.state.save(self.plane, fresh, events, self.fence)
            except LeaseLost:
                raise
            except TidegateError as error:
                log.error("state not stored, nothing is done: %s", error)
                self._problem("state", str(error))
                return False
        self._problem("state", "")
        self.memory.documents.update(fresh)
        if states is not None:
            self.memory.models = dict(states)
        for event in events:
            log.info("%s %s", event.kind, event.text)
            self.ports.notifier.notify(event)
        return True

    def _problem(self, key: str, text: str) -> None:
        if text and self.memory.problems.get(key) != text:
            log.warning("%s", text)
        if text:
            self.memory.problems[key] = text
        else:
            self.memory.problems.pop(key, None)

    # ------------------------------------------------------------ acting
    def _route(self, table: Mapping[str, Route] | None) -> bool:
        """Make the router serve a table, if it doesn't; True when it was changed."""
        if table is None:
            return False
        try:
            self.ports.router.apply(table)
        except TidegateError as error:
            self._problem("router", str(error))
            return False
        self._problem("router", "")
        return True

    def _act(self, desired: Desired, model: str, action: Action) -> None:
        """Hand slow work to a job; repeated each tick until the plane shows that it is done."""
        submit, workloads = self.ports.jobs.submit, self.ports.workloads
        release = action.rollout.release if isinstance(action, WriteBack) else action.release
        key = f"{type(action).__name__}/{model}/{release}"
        if isinstance(action, Start):
            record = desired.records.get(release)
            if record is None:
                return
            replicas = desired.environments[self.plane].platform.workloads.replicas
            submit(key, lambda: workloads.start(record, replicas))
        elif isinstance(action, Warm):
            submit(key, lambda: workloads.warm(model, release))
        elif isinstance(action, Stop):
            submit(key, lambda: workloads.stop(model, release))
        else:
            rollout, now = action.rollout, self.ports.clock.now()
            names = tuple(e.name for e in desired.environments.values() if e.platform.plane == self.plane)
            submit(key, lambda: self._write_back(rollout, model, names, now))

    def _write_back(
        self, rollout: Rollout, model: str, environments: tuple[str, ...], now: float
    ) -> tuple[float, str] | None:
        """Write a rollback to Git; returns when it was pushed and the commit, None if nothing was due."""
        commit = write_back(self.ports.repository, rollout, model, environments, now)
        return (self.ports.clock.now(), commit) if commit else None

    def _collect(self, now: float) -> bool:
        """Take in what jobs have finished."""
        done = self.ports.jobs.collect()
        for job in done:
            kind, _, rest = job.key.partition("/")
            if kind == "git":
                self.git.take(job, now)
            elif kind == "mirror":
                self._problem("mirror", str(job.error) if job.error else "")
            elif kind == "publish":
                self._problem("publish", f"status not published: {job.error}" if job.error else "")
                if job.error:
                    self.memory.published = {}
            else:
                self._finished(kind, rest, job, now)
        return any(not job.key.startswith(("git", "publish", "mirror")) for job in done)

    def _finished(self, kind: str, rest: str, job: Done, now: float) -> None:
        model, _, release = rest.partition("/")
        self._problem(f"{kind}/{model}", str(job.error) if job.error else "")
        if kind == "Start" and job.error:
            until = now + RETRY_MISSING if isinstance(job.error, ReleaseNotFound) else now + 1
            self.memory.missing[model, release] = (str(job.error), until)
        elif kind == "Warm" and not job.error:
            self.sight.warmed(model, release)
        elif kind == "WriteBack":
            self.git.hurry()
            if job.result:
                at, commit = job.result
                text = f"Git says so too: {commit[:12]} takes {release} back"
                note = Note("reverted", release, text, {"commit": commit})
                self.memory.pending.append(self._event(model, note, at))

    # ------------------------------------------------------------ Git and people
    def _poll(self, now: float) -> None:
        if self.git.due(now, float(self.spec.poll)):
            self.ports.jobs.submit("git", self.git.fetch)
        desired, mirror = self.git.desired, self.ports.mirror
        if mirror is None or desired is None or desired.commit == self.memory.mirrored:
            return
        if self.ports.jobs.submit("mirror", lambda: mirror(desired)):
            self.memory.mirrored = desired.commit

    def _operators(self, now: float) -> list[tuple[int, dict[str, Any]]]:
        """Take what people asked for on this machine; the answers are given once it is stored."""
        answers: list[tuple[int, dict[str, Any]]] = []
        for request in self.ports.inbox.pending(self.plane):
            if request.kind == "poke":
                self.git.hurry()
                answers.append((request.id, {"accepted": True, "text": "looking at Git now"}))
            elif request.kind == "rollback":
                answers.append((request.id, self._rollback(request.payload, now)))
            else:
                text = f"this agent does not know the request {request.kind}"
                answers.append((request.id, {"accepted": False, "text": text}))
        return answers

    def _rollback(self, payload: Mapping[str, Any], now: float) -> dict[str, Any]:
        model = str(payload["model"])
        before = self.memory.models.get(model, ModelState())
        state, text = core.request_rollback(
            before,
            str(payload["environment"]),
            by=str(payload.get("by", "somebody")),
            reason=str(payload.get("reason", "")),
            now=now,
        )
        if state is not before:
            self.memory.models[model] = state
        return {"accepted": state is not before, "text": text}

    def _publish(self, now: float) -> None:
        """Tell Git what this plane runs, when that has changed: workflows wait on it."""
        status = self.memory.documents.get("status", {})
        if not status:
            return
        document = lasting(status)
        if document == self.memory.published:
            return
        repository, name = self.ports.repository, f"status/{self.plane}"
        if self.ports.jobs.submit("publish", lambda: repository.publish(name, {**document, "at": now})):
            self.memory.published = document
