"""A rollout's recording: one JSON line for each look, event and end, made by the agent and read back. Pure.

    {"kind": "rollout", "model", "environment", "release", "stable", "started", "plan"}
    {"kind": "buckets", "bounds"}                     of the latencies that follow, in ms; null is infinite
    {"kind": "look", "at", "step", "phase", "weight", "mirror", "share", "candidate", "stable", "checks"}
    {"kind": "event", "at", "event", "release", "text"}
    {"kind": "end", "at", "phase", "verdict", "reason"}

`plan` is written as in `rollout.yaml`. Counts are those of the one look; only buckets and bins that hold
something are written. A look that could not be made has `blind`, one at which a step's weight was confirmed
`entered`, and neither has counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tidegate.core import counts
from tidegate.core.counts import Counts
from tidegate.core.plan import Plan
from tidegate.core.plan_json import plan_from_dict, plan_to_dict
from tidegate.core.state import Mark, ModelState, Note, Phase, Rollout

Line = dict[str, Any]
SETTLED = frozenset({Phase.HEALTHY, Phase.ROLLED_BACK})
_BESIDE = frozenset({"dropped", "load", "loaded", "unloaded"})  # of no rollout, or of the one before
_SHOWN = ("name", "verdict", "observed", "limit", "log_evidence", "threshold", "bound", "trials")
_TEXTS = ("observed_text", "limit_text")


@dataclass(frozen=True)
class Look:
    """What one look counted and said; `candidate` is None when it could not be made (`blind` times in a row),
    and when it only found that the router serves a step's weight by now (`entered`).

    `share` is the candidate's part of both arms' requests, `checks` one finding a part of a check.
    """

    at: float
    step: int
    phase: str
    weight: int
    mirror: int = 0
    share: float = 0.0
    candidate: Counts | None = None
    stable: Counts | None = None
    checks: tuple[Mapping[str, Any], ...] = ()
    arms: Mapping[str, Counts] = field(default_factory=dict)
    blind: int = 0
    reason: str = ""
    entered: bool = False
    against: str = ""  # whom the candidate was compared with, where that was not stable


@dataclass(frozen=True)
class Happening:
    """An event of the rollout: `kind` as in the agent's events."""

    at: float
    kind: str
    release: str
    text: str


@dataclass(frozen=True)
class End:
    """How it ended; there is none while a rollout is under way."""

    at: float
    phase: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Recording:
    """One rollout as it was seen."""

    model: str
    environment: str
    release: str
    stable: str | None
    started: float
    plan: Plan
    looks: tuple[Look, ...] = ()
    events: tuple[Happening, ...] = ()
    end: End | None = None
    full: bool = False  # looks were left out after this, the recording had grown too large


# ---------------------------------------------------------------- writing
def name(plane: str, model: str, rollout: Rollout) -> str:
    """Return the name of a rollout's recording, the same for as long as the rollout lasts."""
    at = datetime.fromtimestamp(rollout.started, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{plane}/{model}/{rollout.environment}-{rollout.release}-{at}"


def entries(
    plane: str,
    model: str,
    before: ModelState,
    after: ModelState,
    plan: Plan,
    notes: Sequence[Note],
    now: float,
) -> dict[str, list[Line]]:
    """Return recording → what one decision adds to it: the rollout that goes on, and one that it replaced."""
    old, new = before.rollout, after.rollout
    found: dict[str, list[Line]] = {}
    if old is not None and old.phase not in SETTLED and not _same(old, new):
        left = [_event(note, now) for note in notes if note.kind == "dropped"]
        phase = str(old.phase) if old.phase is Phase.VERIFIED else "Replaced"
        reason = old.reason if old.phase is Phase.VERIFIED else (left[0]["text"] if left else "")
        end = {"kind": "end", "at": now, "phase": phase, "verdict": old.verdict, "reason": reason}
        found[name(plane, model, old)] = [*left, end]
    if new is not None:
        added = lines(before, after, plan, notes, now, model=model)
        if added:
            found[name(plane, model, new)] = added
    return found


def lines(
    before: ModelState, after: ModelState, plan: Plan, notes: Iterable[Note], now: float, model: str = ""
) -> list[Line]:
    """Return what one decision adds to the recording of the rollout that it left; nothing without one."""
    rollout = after.rollout
    if rollout is None:
        return []
    old = before.rollout if before.rollout and _same(before.rollout, rollout) else None
    made = [] if old else [_head(model, rollout, plan)]
    if old is not None and rollout.looked != old.looked and rollout.phase is not Phase.PENDING:
        made += _look(old, rollout, now)
    made += [_event(note, now) for note in notes if note.kind not in _BESIDE]
    if rollout.phase in SETTLED and (old is None or old.phase not in SETTLED):
        ended = {"phase": str(rollout.phase), "verdict": rollout.verdict, "reason": rollout.reason}
        made.append({"kind": "end", "at": now, **ended})
    return made if old or rollout.phase not in SETTLED else []


def _same(old: Rollout, new: Rollout | None) -> bool:
    return new is not None and _identity(old) == _identity(new)


def _identity(rollout: Rollout) -> tuple[str, str, float]:
    return rollout.environment, rollout.release, rollout.started


def _head(model: str, rollout: Rollout, plan: Plan) -> Line:
    return {
        "kind": "rollout",
        "model": model,
        "environment": rollout.environment,
        "release": rollout.release,
        "stable": rollout.stable,
        "started": rollout.started,
        "plan": plan_to_dict(plan),
    }


def _event(note: Note, now: float) -> Line:
    return {"kind": "event", "at": now, "event": note.kind, "release": note.release, "text": note.text}


def _look(old: Rollout, new: Rollout, now: float) -> list[Line]:
    """Return a look's line, after one that names the buckets if they are new.

    The weight is the one under which was counted: a look that decides to move on counted before it.
    """
    line: Line = {
        "kind": "look",
        "at": now,
        "step": old.step,
        "phase": str(new.phase),
        "weight": old.weight,
        "mirror": old.traffic.mirror,
        "share": _round(float(new.evidence.get("share", 0.0))),
        "reason": new.reason,
    }
    line |= {"blind": new.blind} if new.blind > old.blind else {}
    if new.blind > old.blind and new.marks == old.marks:
        return [line]
    if old.entered is None and new.entered is not None:
        # The router serves a step's weight from here on; the first one's marks are what is counted from.
        weight = {"weight": new.weight, "mirror": new.traffic.mirror, "entered": True}
        return [*_buckets(old.marks, new.marks), line | weight]
    late = set(new.measured) - set(old.measured)  # what such a source says first may be days old
    fresh = {r: _without(counts.delta(old.marks.get(r), mark), late) for r, mark in new.marks.items()}
    against = old.compared_with or ""
    line |= {"against": against} if against != (old.stable or "") else {}
    line["candidate"] = _thin(fresh.pop(old.release, Counts()))
    line["stable"] = _thin(fresh.pop(against, Counts()))
    arms = {release: _thin(each) for release, each in fresh.items() if each.requests}
    line |= {"arms": arms} if arms else {}
    line["checks"] = [_finding(each) for each in new.findings]
    return [*_buckets(old.marks, new.marks), line]


def _without(found: Counts, names: set[str]) -> Counts:
    if not names:
        return found
    tallies = {name: tally for name, tally in found.tallies.items() if name not in names}
    return replace(found, tallies=tallies, bins={n: row for n, row in found.bins.items() if n not in names})


def _buckets(old: Mapping[str, Mark], new: Mapping[str, Mark]) -> list[Line]:
    was, now = (next((m.buckets for m in marks.values() if m.buckets), ()) for marks in (old, new))
    bounds = [bound for bound, _ in now]
    return [{"kind": "buckets", "bounds": bounds}] if bounds and bounds != [b for b, _ in was] else []


def _finding(found: Mapping[str, Any]) -> Line:
    kept = {key: _round(found[key]) for key in (*_SHOWN, *_TEXTS) if found.get(key) is not None}
    return kept | ({"dry_run": True} if found.get("dry_run") else {})


def _round(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def _thin(found: Counts) -> Line:
    """Return counts as `counts.counts_to_dict` does, with only the buckets and bins that hold something."""
    latency = [[None if math.isinf(b) else b, n] for b, n in found.latency if n]
    line: Line = {"requests": found.requests, "errors": found.errors, "latency": latency}
    if found.tallies:
        line["tallies"] = {key: list(row) for key, row in found.tallies.items()}
    if found.bins:
        line["bins"] = {
            key: {"of": len(row), "in": [[i, n] for i, n in enumerate(row) if n]}
            for key, row in found.bins.items()
        }
    return line


# ---------------------------------------------------------------- reading
class NotARecording(ValueError):
    """Lines that no agent wrote; the message says which."""


def parse(found: Iterable[Mapping[str, Any]]) -> Recording:
    """Return a recording of its lines. Raises NotARecording for what is not one."""
    reader = _Reader()
    for number, line in enumerate(found, start=1):
        try:
            if (line["kind"] == "rollout") != (number == 1):
                raise NotARecording("a recording begins with the one line that describes its rollout")
            reader.take(line)
        except NotARecording as problem:
            raise NotARecording(f"line {number}: {problem}") from problem
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise NotARecording(f"line {number} is not one of a recording: {problem!r}") from problem
    if reader.head is None:
        raise NotARecording("it is empty")
    return replace(
        reader.head,
        looks=tuple(reader.looks),
        events=tuple(reader.events),
        end=reader.end,
        full=reader.full,
    )


@dataclass
class _Reader:
    """What was read so far."""

    head: Recording | None = None
    bounds: tuple[float, ...] = ()
    looks: list[Look] = field(default_factory=list)
    events: list[Happening] = field(default_factory=list)
    end: End | None = None
    full: bool = False

    def take(self, line: Mapping[str, Any]) -> None:
        """Take one line; raises NotARecording, or whatever is raised by one that lacks something."""
        kind = line["kind"]
        if kind == "rollout":
            names = (line["model"], line["environment"], line["release"], line["stable"])
            self.head = Recording(*names, float(line["started"]), plan_from_dict(line["plan"]))
        elif kind == "buckets":
            self.bounds = tuple(math.inf if b is None else float(b) for b in line["bounds"])
        elif kind == "look":
            self.looks.append(_read_look(line, self.bounds))
        elif kind == "event":
            text = str(line["text"])
            self.events.append(Happening(float(line["at"]), line["event"], line.get("release", ""), text))
        elif kind == "end":
            self.end = End(float(line["at"]), line["phase"], line["verdict"], line["reason"])
        elif kind == "full":
            self.full = True
        else:
            raise NotARecording(f"`{kind}` is no kind of line")


def _read_look(line: Mapping[str, Any], bounds: tuple[float, ...]) -> Look:
    arms = {release: _thick(each, bounds) for release, each in line.get("arms", {}).items()}
    candidate, stable = (
        _thick(line[arm], bounds) if arm in line else None for arm in ("candidate", "stable")
    )
    return Look(
        float(line["at"]),
        int(line["step"]),
        str(line["phase"]),
        int(line["weight"]),
        int(line.get("mirror", 0)),
        float(line.get("share", 0.0)),
        candidate,
        stable,
        tuple(line.get("checks", ())),
        arms,
        int(line.get("blind", 0)),
        str(line.get("reason", "")),
        bool(line.get("entered")),
        str(line.get("against", "")),
    )


def _thick(value: Mapping[str, Any], bounds: tuple[float, ...]) -> Counts:
    """Return the counts of one arm with all of the buckets, those that held nothing included."""
    held = {math.inf if b is None else float(b): int(n) for b, n in value["latency"]}
    if not set(held) <= set(bounds):  # the line that names them was lost
        bounds = tuple(sorted(held))
    tallies = {key: (int(n), int(k)) for key, (n, k) in value.get("tallies", {}).items()}
    bins = {}
    for key, row in value.get("bins", {}).items():
        inside = {int(i): int(n) for i, n in row["in"]}
        bins[key] = tuple(inside.get(i, 0) for i in range(int(row["of"])))
    latency = tuple((bound, held.get(bound, 0)) for bound in bounds)
    return Counts(int(value["requests"]), int(value["errors"]), latency, tallies, bins)
