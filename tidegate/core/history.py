"""What ran where and when, from the commits that changed one environment's release.yaml. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, time
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a commit did to a model in an environment."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    REMOVED = "removed"
    SWITCHED = "switched"


@dataclass(frozen=True)
class Revision:
    """One commit that changed a release.yaml: what it then said, or why that could not be read.

    `at` is when it landed on the branch, in seconds since the epoch. `models` is model → release;
    None means unreadable, and `problem` says why.
    """

    commit: str
    at: float
    author: str
    subject: str = ""
    trailers: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Entry:
    """One stretch of time in which an environment wanted one release of a model (None: none).

    `start` and `end` are seconds since the epoch; `end` is None while it lasts.
    """

    environment: str
    model: str
    release: str | None
    start: float
    end: float | None
    commit: str
    author: str
    kind: Kind
    approved_by: str = ""
    verdict: str = ""
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as JSON types, times as ISO 8601 in UTC under `from` and `until`."""
        found = asdict(self)
        start, end = found.pop("start"), found.pop("end")
        found["kind"] = str(self.kind)
        found["from"] = iso(start)
        found["until"] = None if end is None else iso(end)
        return found


def iso(at: float) -> str:
    """Return a time as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_moment(text: str) -> float:
    """Return the seconds since the epoch that `--at` means; raises ValueError.

    A date means the last moment of that day in UTC: what ran when the day was over. A date and time
    without a zone is in UTC.
    """
    moment = datetime.fromisoformat(text.strip())
    if len(text.strip()) <= len("2026-11-20"):
        moment = datetime.combine(moment.date(), time.max)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def entries(environment: str, revisions: Sequence[Revision]) -> list[Entry]:
    """Return every stretch, oldest first, from an environment's revisions (oldest first).

    An unreadable revision changes nothing, as the agent keeps the last good state. Commit clocks may
    run backwards: a stretch never starts before the one that it follows.
    """
    done: list[Entry] = []
    running: dict[str, Entry] = {}
    seen: set[tuple[str, str]] = set()
    latest = 0.0
    for revision in revisions:
        if revision.models is None:
            continue
        latest = max(latest, revision.at)
        for model in sorted({*running, *revision.models}):
            release = revision.models.get(model)
            before = running.get(model)
            if release == (before.release if before else None):
                continue
            if before is not None:
                done.append(_ended(before, latest))
            again = release is not None and (model, release) in seen
            running[model] = _entry(environment, model, release, latest, revision, again)
            if release is not None:
                seen.add((model, release))
    done += running.values()
    return sorted(done, key=lambda entry: (entry.start, entry.model))


def running_at(found: Sequence[Entry], moment: float) -> list[Entry]:
    """Return the entries with a release that ran at a moment."""
    return [
        entry
        for entry in found
        if entry.release is not None and entry.start <= moment and (entry.end is None or moment < entry.end)
    ]


def _ended(entry: Entry, at: float) -> Entry:
    return Entry(**{**{name: getattr(entry, name) for name in entry.__dataclass_fields__}, "end": at})


def _entry(
    environment: str, model: str, release: str | None, at: float, revision: Revision, again: bool
) -> Entry:
    trailers = revision.trailers
    verdict = trailers.get("Tidegate-Verdict", "")
    if verdict == "SWITCHED":  # between releases that both settled here
        kind = Kind.SWITCHED
    # Going back to what ran before is a rollback, whoever made it; so is a commit with a bad verdict.
    elif again or verdict not in ("", "PASS"):
        kind = Kind.ROLLED_BACK
    else:
        kind = Kind.PROMOTED if release is not None else Kind.REMOVED
    return Entry(
        environment,
        model,
        release,
        at,
        None,
        revision.commit,
        revision.author,
        kind,
        approved_by=trailers.get("Tidegate-Approved-By", ""),
        verdict=verdict,
        why=_why(revision) if kind is not Kind.PROMOTED else trailers.get("Tidegate-Reason", ""),
    )


def _why(revision: Revision) -> str:
    trailers = revision.trailers
    numbers = [
        f"{word} {trailers[name]}"
        for word, name in (("observed", "Tidegate-Observed"), ("limit", "Tidegate-Limit"))
        if trailers.get(name, "-") != "-"
    ]
    reason = trailers.get("Tidegate-Reason", "")
    return "; ".join(part for part in (reason, ", ".join(numbers)) if part) or revision.subject
