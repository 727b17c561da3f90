"""The agent of one plane: observe → decide → persist the intent → act → verify → record.

A tick reads the plane, takes one decision for each model (`core.rollout`), stores what was decided,
and only then touches anything. What to do is computed from the stored state each time, so every
action may be repeated and a crash at any point resumes to the same end. Git and everything slow run
beside the ticks (`jobs`): a rollback waits neither for a remote nor for a process that stops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from tidegate.agent.desk import Answers, Desk, Known
from tidegate.agent.gitview import MAX_BACKOFF, GitView, behind, refusals
from tidegate.agent.hands import Hands
from tidegate.agent.jobs import BackOff, InlineJobs, Jobs
from tidegate.agent.measuring import Measuring
from tidegate.agent.sight import Sight, View
from tidegate.agent.telling import Teller, event
from tidegate.agent.timing import Timing
from tidegate.config import AgentSpec, Desired
from tidegate.core import rollout as core
from tidegate.core.asked import Room
from tidegate.core.state import Action, ModelState, Note, Start, Want, needed
from tidegate.core.status import lasting, plane_status
from tidegate.errors import Conflict, LeaseLost, TidegateError
from tidegate.ports import (
    Clock,
    Event,
    Inbox,
    Measures,
    Metrics,
    Notifier,
    Recorder,
    Repository,
    Route,
    Router,
    RouteTable,
    StateStore,
    Workloads,
)

log = logging.getLogger(__name__)

MIRROR_AGAIN = 300.0  # seconds until the registry's aliases are looked at again
KEEP_AGAIN = 60.0  # seconds until what is kept is put in order again
BEGINNING = 1.0  # seconds in which a leg that has begun is looked at without a break
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
    keep: Callable[[float], None] | None = None  # e.g. the log of predictions, turned into Parquet
    measures: tuple[Measures, ...] = ()
    recorder: Recorder | None = None
    readers: Jobs = field(default_factory=InlineJobs)  # what `measures` are read by: they may hang


@dataclass
class _Memory:
    """What is known between ticks; lost in a crash, and found again."""

    documents: dict[str, Any] = field(default_factory=dict)  # as stored
    models: dict[str, ModelState] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    mirrored: str = ""
    mirrored_at: float = 0.0
    mirror_later: BackOff = field(default_factory=BackOff)
    kept_at: float = float("-inf")
    pending: list[Event] = field(default_factory=list)  # told by jobs, not stored yet
    told: dict[str, tuple[Want, ModelState, frozenset[str]]] = field(default_factory=dict)
    served: RouteTable | None = None  # what the router was last known to serve as told
    leased: float = 0.0


@dataclass
class _Round:
    """What one tick decided: stored whole before anything of it is done."""

    states: dict[str, ModelState]
    events: list[Event]
    answers: Answers = field(default_factory=dict)
    told: dict[str, tuple[Want, ModelState, frozenset[str]]] = field(default_factory=dict)
    actions: list[tuple[str, Action]] = field(default_factory=list)
    notes: dict[str, list[Note]] = field(default_factory=dict)
    at: float = 0.0


class Agent:
    """Keeps one plane as Git says. `holder` names this agent in the plane's lease."""

    def __init__(
        self, plane: str, ports: Ports, *, holder: str, spec: AgentSpec | None = None, url: str = ""
    ) -> None:
        self.plane, self.ports, self.holder, self.url = plane, ports, holder, url
        self.spec = spec or AgentSpec()
        self.fence = 0
        self.time = Timing(ports.clock)
        self.git = GitView(plane, ports.repository)
        self.sight = Sight(ports.router, ports.metrics, ports.workloads)
        self.hands = Hands(plane, ports.workloads, ports.repository, ports.clock, ports.jobs)
        self.desk = Desk(plane, ports.inbox, self.git.hurry)
        self.teller = Teller(plane, ports.notifier, ports.recorder)
        self.measuring = Measuring(ports.measures, ports.readers, self.time)
        self.memory = _Memory()

    # ------------------------------------------------------------ life
    def start(self) -> None:
        """Take the lease and remember where the plane was left."""
        self._renew(self.time.now())
        self.memory.documents = dict(self.ports.state.load(self.plane))
        stored = self.memory.documents.get("models", {})
        self.memory.models = {m: msgspec.convert(v, ModelState) for m, v in stored.items()}
        self.time.go_on(self.memory.models.values())
        commit = str(self.memory.documents.get("git", ""))
        if commit:
            self.git.resume(commit)

    def run(self, stopped: Callable[[], bool]) -> None:
        """Tick until told to stop; raises LeaseLost when another agent holds the plane."""
        interval = float(self.spec.interval)
        started = False
        while not stopped():
            began, busy = self.time.now(), False
            try:
                if started:
                    busy = self.tick()
                else:
                    self.start()
                    started = busy = True
            except LeaseLost:
                raise
            except TidegateError as error:  # only before a start: e.g. a full disk
                log.error("%s", error)
            except Exception as error:  # a bug at one look must not end the plane's keeper
                log.exception("the agent's look failed")
                self._surprised(error)
            else:
                self._problem("agent", "")
            spent = self.time.now() - began
            self.ports.clock.sleep(BUSY_PAUSE if busy else max(BUSY_PAUSE, interval - spent))

    def _surprised(self, error: Exception) -> None:
        """Show an error that nobody foresaw, if it can be stored. Raises LeaseLost."""
        what = f"{type(error).__name__}: {error}"
        self._problem("agent", f"a look failed by a defect of the agent, {what}. See the agent's log.")
        try:
            self._store(None, _Round(dict(self.memory.models), []))
        except LeaseLost:
            raise
        except Exception:
            log.exception("what failed could not be stored")

    def _renew(self, now: float) -> None:
        if now - self.memory.leased >= self.spec.lease / 3:
            self.fence = self.ports.state.acquire(self.plane, self.holder, now, float(self.spec.lease))
            self.memory.leased = now

    # ------------------------------------------------------------ one tick
    def tick(self) -> bool:
        """Look once and act; returns whether something changed, so that a look should follow soon."""
        now = self.time.now()
        if not self._held(now):
            return False
        changed = self._collect(now)
        self.measuring.collect()
        self._poll(now)
        desired = self.git.desired
        view = self.sight.look(now, self.hands.stopping)
        self._problem("plane", view.problem)
        self._problem("git", self.git.problem)
        # While it is not known what Git says, the plane is held to what is remembered.
        held = _Round(dict(self.memory.models), [])
        found = self._decide(desired, view, now) if desired is not None else held
        if not self._store(desired, found):
            return changed
        if not self._held(self.time.now()):  # it was a long look: somebody may have taken over
            return changed
        self.desk.answer(found.answers)
        if view.known and (desired is not None or found.states):
            changed |= self._route(view, view.table(found.states))
        elif (retreat := view.retreat(found.states)) is not None:
            changed |= self._route(view, retreat)
        if desired is not None:
            self.hands.act(desired, found.actions, now)
            self.hands.publish(lasting(self.memory.documents["status"]), now)
        return changed or bool(found.events) or any(_begins(state, now) for state in found.states.values())

    def _held(self, now: float) -> bool:
        """Renew the lease when it is time; False when that can't be written down. Raises LeaseLost."""
        try:
            self._renew(now)
        except LeaseLost:
            raise
        except TidegateError as error:
            self._problem("state", str(error))
            return False
        return True

    def _decide(self, desired: Desired, view: View, now: float) -> _Round:
        """Take one decision for each model."""
        models = dict(self.memory.models)
        given = self.memory.documents.get("answers", {})
        wishes = self.git.wishes(desired)
        spec = self.hands.spec(desired)
        room = Room(spec.loaded, spec.loaded_memory_mb * 1e6)
        answers = self.desk.take(given, models, Known(wishes.of, view.of, room), now)
        told_at = self.ports.clock.now()  # what people read says what their clock says
        self._problem("inbox", self.desk.problem)
        found = _Round({}, [*self.memory.pending, *self._drift(view, told_at)], answers, at=now)
        for model, note in self.desk.told:
            found.notes.setdefault(model, []).append(note)
        missing = self._missing()
        for model in sorted({*desired.models(), *models}):
            state, want = models.get(model, ModelState()), wishes.of(model)
            seen = replace(view.of(model), missing=missing.get(model, {}))
            try:
                decision = core.decide(state, want, self.measuring.add(seen, model, state, want, now), now)
            except Exception as error:  # what is wrong with one model must not leave the others unwatched
                self._undecided(model, error)
                decision = core.Decision(state, ())
            else:
                self._problem(f"look/{model}", "")
            self._note(found, desired, view, model, decision, told_at)
            found.told[model] = (want, decision.state, seen.alive)
        wants = {model: want for model, (want, _, _) in found.told.items()}
        self.measuring.ask(found.states, wants, view.running, now)
        return found

    def _undecided(self, model: str, error: Exception) -> None:
        """Say that a defect keeps one model as it is: it is neither watched nor moved."""
        text = f"the look at {model} failed by a defect of the agent, {type(error).__name__}: {error}"
        if not self.memory.problems.get(f"look/{model}"):
            log.error(text, exc_info=error)
        self._problem(f"look/{model}", f"{text}. Nothing of it moves or is watched; see the agent's log.")

    def _note(
        self,
        found: _Round,
        desired: Desired,
        view: View,
        model: str,
        decision: core.Decision,
        told_at: float,
    ) -> None:
        """Take one model's decision up into what is stored, told and done."""
        want, state = self.git.wishes(desired).of(model), decision.state
        for environment, text in refusals(desired, model, want, state.stable).items():
            self._problem(f"{environment}/{model}", text)
        refused = f"WriteBack/{model}/{state.rollout.release if state.rollout else ''}" in self.hands.problems
        self._problem(f"behind/{model}", behind(model, want, state, refused))
        found.states[model] = state
        found.actions += [(model, action) for action in decision.actions]
        replicas = self.hands.replicas(desired)
        found.actions += [(model, start) for start in _resized(state, view, model, replicas)]
        found.notes.setdefault(model, []).extend(decision.notes)
        found.events += self.teller.events(model, state, found.notes[model], told_at)

    def _missing(self) -> dict[str, dict[str, str]]:
        """Return why releases can't be started here, by model."""
        found: dict[str, dict[str, str]] = {}
        for (model, release), text in self.hands.missing.items():
            found.setdefault(model, {})[release] = text
        return found

    def _drift(self, view: View, now: float) -> list[Event]:
        """Tell what somebody else made the router serve; it is put right in this tick."""
        told, routes = self.memory.served, view.routes
        if told is None or routes is None or not view.known:
            return []
        return [
            Event(
                now,
                self.plane,
                model,
                "",
                "drift",
                f"the router serves {_split(routes.get(model))} of {model}, not {_split(told.get(model))}",
            )
            for model in sorted({*told, *routes})
            if told.get(model, Route()) != routes.get(model, Route())
        ]

    # ------------------------------------------------------------ remembering
    def _store(self, desired: Desired | None, found: _Round) -> bool:
        """Store what was decided; False when it could not be, and then nothing may be done."""
        broken = self.memory.problems.pop("state", "")  # stored is proof that it is over
        problems = {*self.memory.problems.values(), *self.hands.problems.values()}
        commit = desired.commit if desired else ""
        documents: dict[str, Any] = {}
        if desired is not None:
            documents["git"] = commit
            documents["models"] = self._written(found.states)
            documents["answers"] = found.answers
            known = self._known(found)
            documents["status"] = plane_status(self.plane, self.url, commit, found.told, problems, known)
        else:
            last = self.memory.documents.get("status") or plane_status(self.plane, self.url, commit, {}, ())
            documents["status"] = {**last, "problems": sorted(problems)}
        fresh = {k: v for k, v in documents.items() if self.memory.documents.get(k) != v}
        if fresh or found.events:
            try:
                self.ports.state.save(self.plane, fresh, found.events, self.fence)
            except LeaseLost:
                raise
            except TidegateError as error:
                self.memory.problems["state"] = broken  # not told again while it stays the same
                self._problem("state", str(error))
                return False
        before, self.memory.models, self.memory.told = self.memory.models, found.states, found.told
        self.memory.documents.update(fresh)
        if desired is not None:
            self.memory.pending = []
        self.teller.tell(found.events)
        for model, (want, state, _) in found.told.items():
            old = before.get(model, ModelState())
            self.teller.record(model, want, old, state, found.notes.get(model, ()), found.at)
        return True

    def _known(self, found: _Round) -> dict[str, Any]:
        """Return the stored lines of the models that nothing happened to since."""
        stored = self.memory.documents.get("status", {}).get("models", {})
        return {
            m: stored[m] for m, told in found.told.items() if m in stored and self.memory.told.get(m) == told
        }

    def _written(self, states: dict[str, ModelState]) -> dict[str, Any]:
        """Return states as JSON types; what did not change is not made anew."""
        last, stored = self.memory.models, self.memory.documents.get("models", {})
        return {
            model: stored[model]
            if model in stored and last.get(model) == state
            else msgspec.to_builtins(state)
            for model, state in states.items()
        }

    def _problem(self, key: str, text: str) -> None:
        if text and self.memory.problems.get(key) != text:
            log.warning("%s", text)
        if text:
            self.memory.problems[key] = text
        else:
            self.memory.problems.pop(key, None)

    # ------------------------------------------------------------ acting
    def _route(self, view: View, table: RouteTable | None) -> bool:
        """Make the router serve a table, if it doesn't; True when it was changed."""
        if table is None:
            self.memory.served = view.routes
        else:
            self.memory.served = None
            try:
                self.ports.router.apply(table)
            except TidegateError as error:
                self._problem("router", str(error))
                return False
            self.memory.served = table
        self._problem("router", "")
        return table is not None

    def _collect(self, now: float) -> bool:
        """Take in what jobs have finished."""
        changed = False
        for job in self.ports.jobs.collect():
            if job.key == "git":
                self.git.take(job, now)
            elif job.key == "mirror":
                self._problem("mirror", str(job.error) if job.error else "")
                if job.error:
                    self.memory.mirrored = ""
                    self.memory.mirror_later.failed("mirror", now, MAX_BACKOFF)
                else:
                    self.memory.mirror_later.done("mirror")
            elif job.key == "keep":
                self._problem("keep", str(job.error) if job.error else "")
            else:
                told = self.hands.take(job, now)
                if told is not None:
                    self.memory.pending.append(event(self.plane, told.model, told.note, told.at))
                kind, _, rest = job.key.partition("/")
                if kind == "Warm" and job.error is None:
                    self.sight.warmed(*rest.split("/"))
                if kind == "WriteBack" and (job.error is None or isinstance(job.error, Conflict)):
                    self.git.hurry()
                changed |= kind != "publish" and job.error is None
        return changed

    # ------------------------------------------------------------ Git and people
    def _poll(self, now: float) -> None:
        if self.git.due(now, float(self.spec.poll)):
            self.ports.jobs.submit("git", self.git.fetch)
        self._keep(now)
        desired, mirror = self.git.desired, self.ports.mirror
        if mirror is None or desired is None or not self.memory.mirror_later.ready("mirror", now):
            return
        moved = now - self.memory.mirrored_at >= MIRROR_AGAIN  # somebody may have moved an alias by hand
        due = moved or desired.commit != self.memory.mirrored
        if due and self.ports.jobs.submit("mirror", lambda: mirror(desired)):
            self.memory.mirrored, self.memory.mirrored_at = desired.commit, now

    def _keep(self, now: float) -> None:
        """Have what is kept of the past put in order from time to time, beside the looks."""
        keep = self.ports.keep
        if keep is None or 0 <= now - self.memory.kept_at < KEEP_AGAIN:
            return
        told_at = self.ports.clock.now()  # files are dated by the clock that people read
        if self.ports.jobs.submit("keep", lambda: keep(told_at)):
            self.memory.kept_at = now


def _resized(state: ModelState, view: View, model: str, replicas: int) -> list[Action]:
    """Return a start for each release that has to run and runs with another number of replicas."""
    running = view.running.get(model, {})
    return [Start(r) for r in needed(state) if r in running and len(running[r].replicas) != replicas]


def _begins(state: ModelState, now: float) -> bool:
    """Tell whether weights have just been raised: what is wrong with a release mostly shows at once."""
    rollout = state.active
    return rollout is not None and now - (rollout.entered or 0.0) < BEGINNING


def _split(route: Route | None) -> str:
    parts = [f"{release} {weight}%" for release, weight in sorted(route.weights.items())] if route else []
    return ", ".join(parts) or "nothing"
