"""The small protocols behind which every outside system stands, and the values they speak in.

Each has a fake in `tidegate.testing`, held to the same contract suite (`tests/contract`) as the real
adapters. Methods raise only errors of `tidegate.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from tidegate.core.counts import Tally
from tidegate.core.plan import Key, Match, Plan
from tidegate.core.promotion import lane
from tidegate.core.release import ReleaseRecord


# ---------------------------------------------------------------- values
@dataclass(frozen=True)
class Route:
    """How one model's requests are split.

    `endpoints`: release → its replicas as `host:port`; `weights`: release → percent. The weights sum
    to 100, or there are none: then the router answers 503. A release may have endpoints and weight 0
    (warm, not served); one with a weight above 0 must have endpoints.

    `mirror`: release → percent of the requests copied to it, answers dropped. `matches`: (match, release),
    requests that go to a release whatever its weight, uncounted. `affinity`: what keeps a caller on one
    side, mixed with `salt`. `journal`: each request is written down, and services write down their answers.
    """

    weights: Mapping[str, int] = field(default_factory=dict)
    endpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirror: Mapping[str, int] = field(default_factory=dict)
    matches: tuple[tuple[Match, str], ...] = ()
    affinity: Key | None = None
    salt: str = ""
    journal: bool = False


RouteTable = Mapping[str, Route]  # model → route


@dataclass(frozen=True)
class Counters:
    """What the router counted for one release since it started, each request once, after retries.

    `errors` are requests that ended in a 5xx or a 429. `latency` maps a bucket's upper bound in milliseconds
    to the number of requests at or below it (cumulative, ascending, `inf` last). `tallies` and `bins` are
    what `Measures` added (core.counts.Cumulative).
    """

    requests: int
    errors: int
    latency: tuple[tuple[float, int], ...] = ()
    active: int = 0  # requests in flight now
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    bins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a rollout wants measured: its releases, where they answer, and the plan whose checks ask.

    `since` is when the rollout began, seconds since the epoch: what happened before is not its doing.
    """

    model: str
    environment: str
    release: str
    stable: str | None
    since: float
    plan: Plan
    endpoints: Mapping[str, tuple[str, ...]]  # release → host:port of its replicas

    @property
    def releases(self) -> tuple[str, ...]:
        """All releases that take part."""
        return tuple(self.endpoints)


@dataclass(frozen=True)
class Measured:
    """Cumulative counts of one release, by `name@instance` (see core.counts.Cumulative)."""

    tallies: Mapping[str, Tally] = field(default_factory=dict)
    bins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class ReplicaState(StrEnum):
    """Where a workload's replica is; READY only when its readiness probe says so."""

    STARTING = "STARTING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Replica:
    """One process (or pod) of a release."""

    endpoint: str  # host:port
    state: ReplicaState
    detail: str = ""
    memory: int = 0  # bytes that it holds (resident); 0 where nobody can tell


@dataclass(frozen=True)
class Workload:
    """A release as it runs: all of its replicas."""

    model: str
    release: str
    replicas: tuple[Replica, ...]

    @property
    def ready(self) -> bool:
        """True when every replica is ready (and there is one)."""
        return bool(self.replicas) and all(r.state is ReplicaState.READY for r in self.replicas)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All replicas' addresses; the router's own health checks and retries skip a dead one."""
        return tuple(r.endpoint for r in self.replicas)

    @property
    def memory(self) -> int:
        """Bytes that all replicas hold together."""
        return sum(r.memory for r in self.replicas)


@dataclass(frozen=True)
class Change:
    """Files to write in one commit on top of `parent`, with a message whose trailers say why.

    A value of `None` deletes the file.
    """

    parent: str
    files: Mapping[str, str | None]
    subject: str
    body: str = ""
    trailers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pull:
    """A pull request. `state` is `open`, `merged` or `closed`."""

    number: int
    branch: str
    title: str
    body: str
    author: str
    state: str
    head: str  # commit
    url: str = ""
    merged_by: str = ""
    reason: str = ""  # why it was merged, or closed

    def supersedes(self, other: Pull) -> bool:
        """True when `other` is an older open promotion of the same model to the same environment."""
        mine = lane(self.branch)
        same = mine is not None and mine == lane(other.branch)
        return same and other.state == "open" and other.number < self.number


@dataclass(frozen=True)
class Event:
    """Something worth telling a person: kept in the state store, handed to notifiers."""

    at: float  # seconds since the epoch
    plane: str
    model: str
    release: str
    kind: str  # e.g. weight, verified, breach, rolled-back, problem
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What an operator asks of a plane's agent; `kind` is a verb such as `rollback`."""

    id: int
    plane: str
    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- ports
class Router(Protocol):
    """Splits requests among releases."""

    def apply(self, table: RouteTable) -> None:
        """Make the router serve `table`, and return only when it reports that it does.

        Writes nothing when it does already. Raises Unreachable when the router does not confirm.
        """

    def read(self) -> RouteTable:
        """Return what the router itself reports that it serves (never what was last written)."""


class Metrics(Protocol):
    """Counts of what the router has seen."""

    def read(self) -> Mapping[tuple[str, str], Counters]:
        """Return counters by (model, release). Raises Unreachable; NoData when none is counted."""


class Measures(Protocol):
    """Counts that something else than the router keeps: the service, Prometheus, outcomes, answers."""

    def names(self, plan: Plan) -> tuple[str, ...]:
        """Return the names (of checks, or of an experiment) that this source measures for a plan."""

    def read(self, asked: Asked) -> Mapping[str, Measured]:
        """Return release → what was counted; a release of which nothing is known is left out.

        Raises Unreachable; NoData when nothing was ever counted.
        """


class Recorder(Protocol):
    """Keeps each rollout's measurements, to be explained and replayed."""

    def append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add lines (JSON) to a recording, made if it is new; a failure to write must not raise."""

    def list(self) -> Sequence[str]:
        """Return the names of all recordings, newest first."""

    def read(self, name: str) -> Sequence[Mapping[str, Any]]:
        """Return a recording's lines; one cut short by a crash is left out. Raises NoData if unknown."""


class Workloads(Protocol):
    """Runs releases. A `release` may name a fresh copy of one, as `core.release.copy_of` does."""

    def start(self, record: ReleaseRecord, replicas: int, copy: bool = False) -> None:
        """Start a release, or do nothing if it runs. Raises ReleaseNotFound when its Bento is not here.

        With another number of replicas than run, those that stay are left alone. A `copy` runs beside the
        release itself, under the name `copy_of(record.id)`.
        """

    def stop(self, model: str, release: str) -> None:
        """Stop a release's processes and wait until they are gone; do nothing if there are none."""

    def list(self) -> Sequence[Workload]:
        """Return every release that was started and not stopped, with its replicas' probed state."""

    def warm(self, model: str, release: str) -> None:
        """Send warm-up requests straight to each replica, so that none of them is counted."""


class Registry(Protocol):
    """Numbers model versions."""

    def register(self, model: str, folder: Path, tags: Mapping[str, str]) -> int:
        """Register a folder of files as a version; the same `tags['digest']` gives the same number."""

    def aliases(self, model: str) -> Mapping[str, int]:
        """Return alias → version; empty when the model is unknown."""

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        """Point an alias at a version, or remove it with None."""

    def fetch(self, model: str, version: int, destination: Path) -> Path:
        """Copy a version's files to a folder and return it."""


class Repository(Protocol):
    """A branch of a Git remote, as the agent sees it."""

    def fetch(self) -> str:
        """Return the branch's newest commit on the remote. Raises Unreachable."""

    def files(self, commit: str) -> Mapping[str, str]:
        """Return path → text of every file under envs/ at a commit."""

    def commit(self, change: Change) -> str:
        """Commit and push; returns the commit, or `parent` when its files say all of it already.

        Raises Conflict when the remote is not at `parent` any more; Refused when its rules say no.
        """

    def publish(self, name: str, document: Mapping[str, Any]) -> None:
        """Push a small JSON document under refs/tidegate/<name>, replacing the one before."""


class StateStore(Protocol):
    """What the agent must not forget. Everything in one `save` is stored, or nothing is."""

    def acquire(self, plane: str, holder: str, now: float, ttl: float) -> int:
        """Take or renew a plane's lease; returns its fencing number. Raises LeaseLost if held by another."""

    def load(self, plane: str) -> Mapping[str, Any]:
        """Return the plane's documents, key → JSON value."""

    def save(self, plane: str, documents: Mapping[str, Any], events: Sequence[Event], fence: int) -> None:
        """Replace the named documents (None deletes one) and append events. LeaseLost if `fence` is old."""

    def events(self, plane: str, limit: int = 100) -> Sequence[Event]:
        """Return the newest events, oldest first."""


class Inbox(Protocol):
    """Where operators on the plane's machine leave requests for its agent, and find the answers."""

    def send(self, plane: str, kind: str, payload: Mapping[str, Any]) -> int:
        """Queue a request (payload: JSON) and return its id."""

    def pending(self, plane: str) -> Sequence[Request]:
        """Return the plane's requests without an answer, oldest first."""

    def done(self, plane: str, request: int, result: Mapping[str, Any]) -> None:
        """Answer a request (result: JSON); a second answer changes nothing. Refused if unknown."""

    def result(self, request: int) -> Mapping[str, Any] | None:
        """Return a request's answer, or None while there is none."""


@dataclass(frozen=True)
class Kept:
    """A value of the online store as it lies there (JSON), and for how many seconds more."""

    value: bytes
    left: float


class FeatureStore(Protocol):
    """Online features and precomputed answers, by `entity_type:entity_id:feature_name`; services read."""

    def write(self, owner: str, values: Mapping[str, bytes], ttl: float, *, replace: bool = True) -> int:
        """Store values for `ttl` seconds, all of them or none.

        `replace` removes what the owner wrote before and not now; returns how many that were.
        """

    def read(self, keys: Sequence[str]) -> Mapping[str, Kept]:
        """Return what is known, by key; what has run out is not."""

    def close(self) -> None:
        """Let go of the store."""


class Forge(Protocol):
    """Where pull requests live."""

    def open(self, branch: str, title: str, body: str, author: str) -> Pull:
        """Open a pull request of a pushed branch into main, or update the open one of that branch.

        Those that it supersedes are closed.
        """

    def list(self) -> Sequence[Pull]:
        """Return all pull requests, newest first."""

    def comment(self, number: int, marker: str, body: str) -> None:
        """Write a comment, or replace the one that carries the same marker."""

    def merge(self, number: int, approver: str, reason: str) -> str:
        """Merge and return the merge commit. Raises Refused when the author approves, Conflict if stale."""


class Notifier(Protocol):
    """Tells people."""

    def notify(self, event: Event) -> None:
        """Deliver one event; a failure to deliver must not raise."""


class Clock(Protocol):
    """Time, so that a test can hold it."""

    def now(self) -> float:
        """Seconds since the epoch, as somebody may have set them just now."""

    def steady(self) -> float:
        """Seconds since some moment; only these can't be set."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
