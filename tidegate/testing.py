"""In-memory fakes of every port, shipped, and held to the same contract suite as the real adapters."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tidegate.core.outcomes import GRACE, UNITS, Assignment, Outcome, Spec, Tallies, join, named
from tidegate.core.plan import Plan
from tidegate.core.release import ReleaseRecord, copy_of
from tidegate.core.xds import LATENCY_BOUNDS_MS, fault
from tidegate.errors import Conflict, Fatal, LeaseLost, NoData, Refused, ReleaseNotFound, Unreachable
from tidegate.outcomes import Entry, Seen, Standing, countable, unit_of
from tidegate.ports import (
    Asked,
    Change,
    Counters,
    Event,
    Measured,
    Pull,
    Replica,
    ReplicaState,
    Request,
    Route,
    RouteTable,
    Workload,
)


# ---------------------------------------------------------------- going wrong on purpose
class Crashed(BaseException):
    """Stands for `kill -9`: no handler of the package may catch it."""


class Crashes:
    """Numbers, in one row, the changes that the fakes it watches make, and kills after one of them.

    `at` is the change, from 1, right after whose effect Crashed is raised; None never crashes, and
    `names` then says which points there are. It fires once: the same fakes serve the restarted caller.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.names: list[str] = []

    def watch(self, *fakes: _Faults) -> Crashes:
        """Count these fakes' changes here from now on; returns itself."""
        for fake in fakes:
            fake.crashes = self
        return self

    def changed(self, name: str) -> None:
        """Note a change that took effect, and die if it is the one."""
        self.names.append(name)
        if len(self.names) == self.at:
            raise Crashed(f"after change {self.at}: {name}")


# ---------------------------------------------------------------- planes: router, metrics, workloads
class _Faults:
    """Errors that the next calls raise: a fake's way to be a broken plane."""

    def __init__(self) -> None:
        self.calls: list[str] = []  # every method called, in order
        self.crashes = Crashes()
        self._planned: list[tuple[str | None, Exception, bool]] = []

    def fail_next(self, error: Exception, method: str | None = None, *, after: bool = False) -> None:
        """Raise `error` at the next call (of `method`, if named); `after` its effect if asked so."""
        self._planned.append((method, error, after))

    def mend(self) -> None:
        """Forget the errors that were planned and have not happened."""
        self._planned.clear()

    def _called(self, method: str, *, after: bool = False) -> None:
        if not after:
            self.calls.append(method)
        for planned in self._planned:
            if planned[0] in (None, method) and planned[2] is after:
                self._planned.remove(planned)
                raise planned[1]
        if after:
            self.crashes.changed(f"{type(self).__name__}.{method}")


class FakeRouter(_Faults):
    """A router in memory. `table` is what it serves, `history` every table it came to serve."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Route] = {}
        self.history: list[dict[str, Route]] = []

    def apply(self, table: RouteTable) -> None:
        """Serve `table`; a table that is served already leaves `history` as it is."""
        self._called("apply")
        problem = fault(table)
        if problem:
            raise Refused(problem, "Give every served release an endpoint and weights that sum to 100.")
        wanted = {
            model: replace(r, weights=dict(r.weights), endpoints=dict(r.endpoints), mirror=dict(r.mirror))
            for model, r in table.items()
        }
        if wanted != self.table:
            self.table = wanted
            self.history.append(wanted)
        self._called("apply", after=True)

    def read(self) -> RouteTable:
        """Return what is served."""
        self._called("read")
        return dict(self.table)


class FakeMetrics(_Faults):
    """Counters in memory: set `counters`, or count requests with `add`."""

    def __init__(self) -> None:
        super().__init__()
        self.counters: dict[tuple[str, str], Counters] = {}

    def add(self, model: str, release: str, requests: int, errors: int = 0, latency_ms: float = 5.0) -> None:
        """Count `requests` answers of one latency, `errors` of them a 5xx."""
        old = self.counters.get((model, release), Counters(0, 0, ((float("inf"), 0),)))
        old_at = dict(old.latency)
        bounds = sorted({*old_at, *LATENCY_BOUNDS_MS, float("inf")})
        latency, below = [], 0
        for bound in bounds:
            below = old_at.get(bound, below)
            latency.append((bound, below + (requests if latency_ms <= bound else 0)))
        self.counters[model, release] = Counters(
            old.requests + requests, old.errors + errors, tuple(latency), old.active
        )

    def read(self) -> Mapping[tuple[str, str], Counters]:
        """Return a copy of `counters`; raises NoData when there are none."""
        self._called("read")
        if not self.counters:
            raise NoData("no release has been counted", "Send a request through the router.")
        return dict(self.counters)


class FakeMeasures(_Faults):
    """A source of counts in memory: `counted` is release → what `read` says, for checks of its `metrics`.

    With `named` given it measures those names for every plan, as an experiment's outcomes are.
    """

    def __init__(self, *metrics: str, named: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.metrics, self.named = metrics, named
        self.counted: dict[str, Measured] = {}

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the checks of a plan whose metric is one of `metrics`, and `named`."""
        return (*(check.name for check in plan.checks if check.metric in self.metrics), *self.named)

    def read(self, asked: Asked) -> Mapping[str, Measured]:
        """Return what was set for the releases that take part; NoData when nothing was."""
        self._called("read")
        if not self.counted:
            raise NoData("nothing was counted", "Send a request.")
        return {release: found for release, found in self.counted.items() if release in asked.releases}


class FakeOutcomes(_Faults):
    """Outcomes and their join in memory: `outcomes.OutcomeStore` and `ports.Measures` of one plane.

    `journal` is what its router wrote down, `now` the clock, `wrote` whether there is a journal at all.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now, self.wrote = now, True
        self.journal: list[Entry] = []
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._experiments: dict[tuple[str, ...], _FakeExperiment] = {}

    def record(self, outcomes: Sequence[Outcome]) -> int:
        """Keep each request's first outcome by a name."""
        self._called("record")
        countable(outcomes, {name for spec in self._specs() for name in spec["windows"]})
        fresh = {(o.id, o.name): replace(o, at=self.now()) for o in reversed(outcomes)}
        fresh = {key: o for key, o in reversed(fresh.items()) if key not in self._outcomes}
        self._outcomes |= fresh
        self._called("record", after=True)
        return len(fresh)

    def _specs(self) -> list[dict[str, Any]]:
        return [json.loads(key[2]) for key in self._experiments]

    def standing(
        self, outcomes: Sequence[Outcome], seen: Mapping[str, Seen], retention: float | None = None
    ) -> Standing:
        """Compare with what is kept, and with the windows of each experiment."""
        conflicting, late = [], []
        for said in outcomes:
            kept = self._outcomes[said.id, said.name]
            if kept.value != said.value:
                conflicting.append(said.id)
            moments = [entry.at for entry in self.journal if entry.id == said.id]
            moments += [seen[said.id].at] if said.id in seen else []
            limits = [] if retention is None else [at + retention for at in moments]
            limits += [at + GRACE for at in self._ends(said, seen.get(said.id))]
            if any(kept.at > limit for limit in limits):
                late.append(said.id)
        journaled = {entry.id for entry in self.journal} & {said.id for said in outcomes}
        return Standing(tuple(conflicting), tuple(late), frozenset(journaled))

    def _ends(self, said: Outcome, seen: Seen | None) -> list[float]:
        """Return when the windows end that a request took part in: its user's, of each experiment."""
        ends = []
        for (model, _, text), known in self._experiments.items():
            spec, assigned = json.loads(text), [e for e in known.events if isinstance(e, Assignment)]
            window = spec["windows"].get(said.name)
            own = [e for e in assigned if e.id == said.id]
            if window is None:
                continue
            if own:
                units = [e.at for e in assigned if e.unit == own[0].unit or e.id == said.id]
                ends.append((own[0].at if spec["by_request"] else min(units)) + window)
            elif seen and seen.model == model and known.since <= seen.at <= known.looked:
                ends.append(seen.at + window)
        return ends

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the tallies of a stage's plan."""
        tallies = tuple(named(plan))
        return (UNITS, *tallies) if tallies or plan.mirror else ()

    def read(self, asked: Asked) -> Mapping[str, Measured]:
        """Join all of this experiment again."""
        self._called("read")
        spec, said = Spec.of(asked.plan), list(self._outcomes.values())
        key = (asked.model, asked.release, spec.text)
        mine = [entry for entry in self.journal if entry.model == asked.model]
        known = self._experiments.get(key)
        if known is None or (asked.since != known.since and asked.since > known.looked + 1):
            number = 1 + max((e.number for e in self._experiments.values()), default=0)
            known = _FakeExperiment(number, len(mine), len(said), events=[*said])
        for entry in sorted(mine[known.assigned :], key=lambda entry: entry.at):
            known.events.append(Assignment(entry.id, entry.release, unit_of(entry, spec.cookie), entry.at))
        known.events += said[known.heard :]
        known.assigned, known.heard = len(mine), len(said)
        known.since, known.looked = asked.since, self.now()
        self._experiments[key] = known
        joined = join(known.events, spec.windows, self.now(), spec.by_request)
        if not (joined or self.wrote):
            raise NoData("no request was journaled", "Send a request.")
        return {
            r: _as_measured(t, asked.plan, known.number) for r, t in joined.items() if r in asked.releases
        }


@dataclass
class _FakeExperiment:
    number: int
    assigned: int
    heard: int
    events: list[Assignment | Outcome]
    since: float = 0.0
    looked: float = 0.0


def _as_measured(found: Tallies, plan: Plan, number: int) -> Measured:
    tallies = {f"{UNITS}@{number}": found.units}
    for name, (outcome, zero) in named(plan).items():
        trials, ones = found.outcomes.get(outcome, (0, 0))
        tallies[f"{name}@{number}"] = (trials, trials - ones if zero else ones)
    return Measured(tallies)


class FakeRecorder(_Faults):
    """Recordings in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.recordings: dict[str, list[Mapping[str, Any]]] = {}

    def append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add lines; the newest recording is the last of the dictionary."""
        self._called("append")
        self.recordings[name] = [*self.recordings.pop(name, []), *lines]

    def list(self) -> Sequence[str]:
        """Return the names, newest first."""
        return [*reversed(self.recordings)]

    def read(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a recording's lines."""
        self._called("read")
        if name not in self.recordings:
            raise NoData(f"there is no recording {name}", "See `tidegate explain`.")
        return list(self.recordings[name])


class FakeWorkloads(_Faults):
    """Workloads in memory. `running` is what was started and not stopped, `warmed` who was warmed.

    `starts_as` is the state that new replicas have; `available` names the releases whose Bento is
    here (None: all of them).
    """

    def __init__(self, starts_as: ReplicaState = ReplicaState.READY) -> None:
        super().__init__()
        self.starts_as = starts_as
        self.available: set[str] | None = None
        self.running: dict[tuple[str, str], Workload] = {}
        self.warmed: list[tuple[str, str]] = []
        self._next_port = 20000

    def start(self, record: ReleaseRecord, replicas: int, copy: bool = False) -> None:
        """Start replicas, each with an endpoint that no other ever had, or as many as are wanted besides."""
        self._called("start")
        if self.available is not None and record.id not in self.available:
            raise ReleaseNotFound(f"the Bento of {record.id} is not here", "Run `tidegate package`.")
        name = copy_of(record.id) if copy else record.id
        found = self.running.get((record.model, name))
        made = list(found.replicas[:replicas]) if found else []
        while len(made) < replicas:
            self._next_port += 1
            made.append(Replica(f"127.0.0.1:{self._next_port}", self.starts_as))
        self.running[record.model, name] = Workload(record.model, name, tuple(made))
        self._called("start", after=True)

    def set_state(
        self, release: str, state: ReplicaState, detail: str = "", index: int | None = None
    ) -> None:
        """Put a release's replicas (or the one at `index`) in a state."""
        for key, found in self.running.items():
            if key[1] == release:
                self.running[key] = replace(
                    found,
                    replicas=tuple(
                        replace(r, state=state, detail=detail) if index in (None, i) else r
                        for i, r in enumerate(found.replicas)
                    ),
                )

    def stop(self, model: str, release: str) -> None:
        """Forget a release."""
        self._called("stop")
        self.running.pop((model, release), None)
        self._called("stop", after=True)

    def list(self) -> Sequence[Workload]:
        """Return what runs, in the order of model and release."""
        self._called("list")
        return [self.running[key] for key in sorted(self.running)]

    def warm(self, model: str, release: str) -> None:
        """Note that it was warmed; raises Unreachable when it is not all ready."""
        self._called("warm")
        found = self.running.get((model, release))
        if found is None or not found.ready:
            raise Unreachable(f"{model} {release} is not ready", "Wait until its replicas are.")
        self.warmed.append((model, release))


# ---------------------------------------------------------------- repository
@dataclass(frozen=True)
class FakeCommit:
    """One commit: all files of the tree, and the change that made it (None when a person pushed)."""

    id: str
    parent: str
    files: Mapping[str, str]
    change: Change


class FakeRepository(_Faults):
    """A branch in memory: `head`, `commits` by id, `published` by name; `push` is a person's commit."""

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.commits: dict[str, FakeCommit] = {}
        self.published: dict[str, Mapping[str, Any]] = {}
        self.publications = 0
        self.reachable = True
        self.head = ""
        self.push(files or {}, "Start")

    @property
    def log(self) -> list[FakeCommit]:
        """The branch's commits, newest first."""
        found = []
        at = self.head
        while at:
            found.append(self.commits[at])
            at = self.commits[at].parent
        return found

    def push(self, files: Mapping[str, str | None], subject: str = "Edit by hand") -> str:
        """Commit on the remote's head as a person would; None deletes a file. No fault applies."""
        return self._store(Change(parent=self.head, files=files, subject=subject))

    def text(self, path: str) -> str | None:
        """Return a file at the head, or None."""
        return self.commits[self.head].files.get(path)

    def _store(self, change: Change) -> str:
        parent = self.commits.get(change.parent)
        files = dict(parent.files) if parent else {}
        for path, text in change.files.items():
            if text is None:
                files.pop(path, None)
            else:
                files[path] = text
        content = json.dumps([change.parent, files, change.subject, change.body, dict(change.trailers)])
        commit = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = FakeCommit(commit, change.parent, files, change)
        self.head = commit
        return commit

    def _reach(self, method: str) -> None:
        self._called(method)
        if not self.reachable:
            raise Unreachable("the remote does not answer", "It is tried again.")

    def fetch(self) -> str:
        """Return the head."""
        self._reach("fetch")
        return self.head

    def files(self, commit: str) -> Mapping[str, str]:
        """Return the files under envs/ at a commit."""
        self._called("files")
        if commit not in self.commits:
            raise Conflict(f"commit {commit[:12]} is not on the remote", "Fetch, then decide again.")
        found = self.commits[commit].files
        return {path: text for path, text in found.items() if path.startswith("envs/")}

    def commit(self, change: Change) -> str:
        """Commit on the head, or do nothing if its files say it all; Conflict when it is not `parent`."""
        self._reach("commit")
        if change.parent != self.head:
            raise Conflict(
                f"the branch moved past {change.parent[:12]} to {self.head[:12]}",
                "Fetch, then decide again.",
            )
        present = self.commits[self.head].files
        if any(present.get(path) != text for path, text in change.files.items()):
            self._store(change)
            self._called("commit", after=True)
        return self.head

    def publish(self, name: str, document: Mapping[str, Any]) -> None:
        """Replace the published document; the same one again counts as nothing."""
        self._reach("publish")
        copy = json.loads(json.dumps(document))
        if self.published.get(name) == copy:
            return
        self.published[name] = copy
        self.publications += 1
        self._called("publish", after=True)


# ---------------------------------------------------------------- state
@dataclass(frozen=True)
class FakeLease:
    """Who holds a plane, with which fencing number, until when."""

    holder: str
    fence: int
    expires: float


class FakeState(_Faults):
    """A state store in memory: `planes` (documents by key), `leases`, `log` (all events)."""

    def __init__(self) -> None:
        super().__init__()
        self.planes: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, FakeLease] = {}
        self.log: list[Event] = []
        self.saves = 0

    def acquire(self, plane: str, holder: str, now: float, ttl: float) -> int:
        """Take or renew the lease; a renewal keeps the fencing number."""
        self._called("acquire")
        held = self.leases.get(plane)
        if held and held.holder != holder and held.expires > now:
            raise LeaseLost(
                f"plane {plane} is held by {held.holder} for {held.expires - now:.0f} s more",
                "Stop that agent, or wait until its lease ends.",
            )
        fence = held.fence if held and held.holder == holder else (held.fence if held else 0) + 1
        self.leases[plane] = FakeLease(holder, fence, now + ttl)
        return fence

    def load(self, plane: str) -> Mapping[str, Any]:
        """Return a copy of the plane's documents."""
        self._called("load")
        copy: dict[str, Any] = json.loads(json.dumps(self.planes.get(plane, {})))
        return copy

    def save(self, plane: str, documents: Mapping[str, Any], events: Sequence[Event], fence: int) -> None:
        """Replace documents and append events at once; they must be JSON."""
        self._called("save")
        held = self.leases.get(plane)
        if held is None or held.fence != fence:
            raise LeaseLost(
                f"plane {plane} was taken over by {held.holder if held else 'nobody yet'}",
                "Stop this agent; the other one goes on.",
            )
        fresh = json.loads(json.dumps(dict(documents)))
        kept = {**self.planes.get(plane, {}), **fresh}
        self.planes[plane] = {key: value for key, value in kept.items() if value is not None}
        self.log.extend(events)
        self.saves += 1
        self._called("save", after=True)

    def events(self, plane: str, limit: int = 100) -> Sequence[Event]:
        """Return the plane's newest events, oldest first."""
        self._called("events")
        found = [event for event in self.log if event.plane == plane]
        return found[-limit:] if limit > 0 else []


class FakeInbox(_Faults):
    """Operators' requests in memory: `requests` in order, `results` by id."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.results: dict[int, Mapping[str, Any]] = {}

    def send(self, plane: str, kind: str, payload: Mapping[str, Any]) -> int:
        """Queue a request."""
        self._called("send")
        request = Request(len(self.requests) + 1, plane, kind, json.loads(json.dumps(payload)))
        self.requests.append(request)
        self._called("send", after=True)
        return request.id

    def pending(self, plane: str) -> Sequence[Request]:
        """Return the plane's unanswered requests, oldest first."""
        self._called("pending")
        return [r for r in self.requests if r.plane == plane and r.id not in self.results]

    def done(self, plane: str, request: int, result: Mapping[str, Any]) -> None:
        """Answer a request once; a second answer changes nothing."""
        self._called("done")
        if not any(r.id == request and r.plane == plane for r in self.requests):
            raise Refused(f"plane {plane} has no request {request}", "List them with pending().")
        copy = json.loads(json.dumps(dict(result)))
        self.results.setdefault(request, copy)
        self._called("done", after=True)

    def result(self, request: int) -> Mapping[str, Any] | None:
        """Return a request's answer, or None while there is none."""
        self._called("result")
        return self.results.get(request)


# ---------------------------------------------------------------- clock and notifier
class FakeClock:
    """A clock that moves only when told, or when somebody sleeps; `during` is called in each sleep.

    `moved` is by how much somebody has set it: time goes on from there.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start
        self.moved = 0.0
        self.sleeps: list[float] = []
        self.during: Callable[[float], None] | None = None

    def now(self) -> float:
        """Return the time that was set."""
        return self.time + self.moved

    def steady(self) -> float:
        """Return the time that nobody sets."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Move the time on at once."""
        self.sleeps.append(seconds)
        self.time += max(0.0, seconds)
        if self.during is not None:
            self.during(self.time)

    def advance(self, seconds: float) -> None:
        """Move the time on without a sleep."""
        self.time += seconds


class FakeNotifier(_Faults):
    """Keeps `events`; a planned failure loses the event (`lost`) and, as promised, raises nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.lost: list[Event] = []

    def notify(self, event: Event) -> None:
        """Keep one event."""
        try:
            self._called("notify")
        except Exception:
            self.lost.append(event)
            return
        self.events.append(event)
        self._called("notify", after=True)


# ---------------------------------------------------------------- registry
class FakeRegistry(_Faults):
    """The port `Registry` in memory; keeps each version's files as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, list[tuple[str, dict[str, bytes], dict[str, str]]]] = {}
        self.pointers: dict[str, dict[str, int]] = {}

    def register(self, model: str, folder: Path, tags: Mapping[str, str]) -> int:
        """Keep a copy of the folder; the same digest gives the same number."""
        self._called("register")
        digest = tags.get("digest")
        if not digest:
            raise Refused("a version is known by its digest, and none was given", "Pass tags['digest'].")
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        if not files:
            raise Fatal(f"{folder} holds no model", "Run `dvc repro`.")
        known = self.versions.setdefault(model, [])
        for number, (other, _, _) in enumerate(known, 1):
            if other == digest:
                return number
        known.append((digest, files, dict(tags)))
        self._called("register", after=True)
        return len(known)

    def aliases(self, model: str) -> Mapping[str, int]:
        """Return alias → version; empty when the model is unknown."""
        self._called("aliases")
        return dict(self.pointers.get(model, {}))

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        """Point an alias at a version, or remove it with None."""
        self._called("set_alias")
        if version is None:
            self.pointers.get(model, {}).pop(alias, None)
        else:
            self._version(model, version)
            self.pointers.setdefault(model, {})[alias] = version
        self._called("set_alias", after=True)

    def fetch(self, model: str, version: int, destination: Path) -> Path:
        """Write a version's files to a folder, replacing what it holds, and return it."""
        self._called("fetch")
        files = self._version(model, version)[1]
        shutil.rmtree(destination, ignore_errors=True)
        for name, content in files.items():
            path = destination / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return destination

    def _version(self, model: str, version: int) -> tuple[str, dict[str, bytes], dict[str, str]]:
        known = self.versions.get(model, [])
        if not 1 <= version <= len(known):
            raise Fatal(f"{model} has no version {version}", "List what is there in the registry.")
        return known[version - 1]


class FakeForge:
    """`ports.Forge` in memory. `push` stands for git: a branch has a head, and may conflict with main."""

    def __init__(self) -> None:
        self.heads: dict[str, str] = {}
        self.conflicting: set[str] = set()
        self.pulls: list[Pull] = []
        self.written: dict[int, dict[str, str]] = {}

    def push(self, branch: str, commit: str) -> None:
        """Make a branch point at a commit, as `git push` would."""
        self.heads[branch] = commit

    def open(self, branch: str, title: str, body: str, author: str) -> Pull:
        """Open a pull request, or update the open one of the branch. Raises Conflict if it was not pushed."""
        if branch not in self.heads:
            raise Conflict(f"branch {branch} is not on the forge", "Push it first.")
        at = next((i for i, p in enumerate(self.pulls) if p.branch == branch and p.state == "open"), None)
        if at is None:
            number = len(self.pulls) + 1
            opened = Pull(number, branch, title, body, author, "open", self.heads[branch])
            self.pulls = [replace(p, state="closed") if opened.supersedes(p) else p for p in self.pulls]
            self.pulls.append(opened)
            return opened
        self.pulls[at] = replace(self.pulls[at], title=title, body=body, head=self.heads[branch])
        return self.pulls[at]

    def list(self) -> Sequence[Pull]:
        """Return all pull requests, newest first."""
        return [replace(p, head=self.heads.get(p.branch, p.head)) for p in reversed(self.pulls)]

    def comment(self, number: int, marker: str, body: str) -> None:
        """Write a comment, or replace the one that carries the same marker."""
        self._pull(number)
        self.written.setdefault(number, {})[marker] = body

    def merge(self, number: int, approver: str, reason: str) -> str:
        """Merge and return a commit made up from the number."""
        pull = self._pull(number)
        if pull.state != "open":
            raise Refused(f"pull request {number} is {pull.state}", "Open a new one.")
        if approver == pull.author or not approver.strip() or not reason.strip():
            raise Refused("somebody else must approve, with a reason", "Let another person merge it.")
        if pull.branch in self.conflicting:
            raise Conflict(f"pull request {number} does not merge with main", "Make its branch anew.")
        self.pulls[number - 1] = replace(pull, state="merged", merged_by=approver, reason=reason)
        self.heads.pop(pull.branch)
        return f"{number:040x}"

    def _pull(self, number: int) -> Pull:
        if not 0 < number <= len(self.pulls):
            raise Refused(f"there is no pull request {number}", "List them.")
        return self.pulls[number - 1]
