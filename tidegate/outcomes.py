"""What came of a request, as people and programs say it: read, checked, and handed to the store."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tidegate.core.outcomes import Outcome, counts
from tidegate.errors import ConfigError, NoData, PlatformError, Retryable, suggest

MOST = 10_000  # outcomes in one document
SHOWN = 5  # request ids of each kind
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[\x21-\x7e]{1,200}")
_KEYS = ("id", "name", "value")
EXAMPLE = '{"id": "3f1c…", "name": "converted", "value": 1}'


@dataclass(frozen=True)
class Entry:
    """One line of a router's journal; `unit` is the header's value as it came, never stored."""

    id: str
    model: str
    release: str
    unit: str
    at: float


@dataclass(frozen=True)
class Place:
    """Where a journal was read to: which file (its inode) and how many bytes of it."""

    inode: int = 0
    offset: int = 0


def unit_of(entry: Entry, cookie: str) -> str:
    """Return what of an entry tells its user from others; empty where the request named none."""
    if not cookie:
        return entry.unit
    pairs = (part.strip().partition("=") for part in entry.unit.split(";"))
    return next((found.strip('"') for name, _, found in pairs if name == cookie), "")


class Journal(Protocol):
    """What a router wrote down of its requests (adapters.journal.EnvoyJournal)."""

    @property
    def name(self) -> str:
        """What tells it from other journals in one store: its path."""

    def read(self, place: Place) -> tuple[list[Entry], Place]:
        """Return the next whole lines, a part at a time, and where they end; garbage is skipped.

        Raises NoData while there is no journal, Unreachable when it can't be read now.
        """

    def tidy(self, place: Place) -> None:
        """Begin a new file when the one at `place` is large; what is before it is stored. Never raises."""


class OutcomeStore(Protocol):
    """Where outcomes are kept (adapters.outcomes.SqliteOutcomes; testing.FakeOutcomes)."""

    def record(self, outcomes: Sequence[Outcome]) -> int:
        """Keep outcomes, all or none, and return how many were new; a request's first one by a name stays.

        They are on the disk when this returns. Raises Unreachable (locked) or PlatformError (disk), and
        ConfigError for a number that an experiment would have to count: that takes 0 or 1.
        """

    def standing(
        self, outcomes: Sequence[Outcome], seen: Mapping[str, Seen], retention: float | None = None
    ) -> Standing:
        """Return how recorded outcomes stand; `seen` are those requests that a log of predictions knows.

        `retention` is how many seconds it keeps a prediction, None where that is for ever.
        """


class Seen(NamedTuple):
    """A request that a log of predictions knows: the model that answered, and when (epoch seconds)."""

    model: str
    at: float


class Answered(Protocol):
    """Which requests were answered, as a log of predictions knows."""

    def seen(self, requests: Sequence[str]) -> Mapping[str, Seen]:
        """Return those of `requests` that it knows. Raises NoData where nothing was ever logged."""


@dataclass(frozen=True)
class Standing:
    """How recorded outcomes stand, as request ids.

    `conflicting`: said before otherwise, which stays. `late`: come after their experiment's window, or after
    the time for which predictions are kept. `assigned`: known by a router's journal.
    """

    conflicting: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    assigned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Few:
    """How many there are, and the first of them."""

    count: int = 0
    first: tuple[str, ...] = ()

    def more(self, ids: Sequence[str]) -> Few:
        """Return these and others."""
        return Few(self.count + len(ids), (*self.first, *ids)[:SHOWN])


@dataclass(frozen=True)
class Kept:
    """What became of outcomes; `unknown` is None where nobody can tell, and `note` says why."""

    said: int
    new: int
    conflicting: Few = Few()
    late: Few = Few()
    unknown: Few | None = Few()
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON says it."""
        found: dict[str, Any] = {"outcomes": self.said, "new": self.new, "known": self.said - self.new}
        for name in ("conflicting", "late", "unknown"):
            few: Few | None = getattr(self, name)
            found[name] = None if few is None else {"count": few.count, "first": list(few.first)}
        return found | ({"note": self.note} if self.note else {})


def accept(
    store: OutcomeStore, document: object, log: Answered | None = None, retention: float | None = None
) -> Kept:
    """Check a JSON document of one outcome, a list, or {"outcomes": [...]}, and keep it.

    One outcome is {"id": request id, "name": "converted", "value": a number}. All are kept or none: raises
    ConfigError that names the first wrong one, and what the store raises.
    """
    rows = document["outcomes"] if isinstance(document, Mapping) and "outcomes" in document else document
    if isinstance(document, Mapping) and "outcomes" in document and len(document) > 1:
        raise ConfigError("beside `outcomes` nothing else belongs in the document", f"Send {EXAMPLE}.")
    alone = isinstance(rows, Mapping)
    listed = [rows] if alone else rows
    if not isinstance(listed, list):
        raise ConfigError("an outcome is a JSON object, or a list of them", f"Send {EXAMPLE}.")
    if len(listed) > MOST:
        raise ConfigError(f"{len(listed)} outcomes at once, at most {MOST} are taken", "Send them in parts.")
    checked = [parse(row, "outcome" if alone else f"outcome {n}") for n, row in enumerate(listed, 1)]
    return keep(store, checked, log, retention)


def keep(
    store: OutcomeStore,
    outcomes: Sequence[Outcome],
    log: Answered | None = None,
    retention: float | None = None,
) -> Kept:
    """Keep any number of outcomes, a part at a time, and say how they stand.

    `log` knows which requests were answered, and keeps them for `retention` seconds. What neither it nor a
    journal knows is kept all the same: the log is written a moment after the answer.
    """
    kept = Kept(len(outcomes), 0)
    for at in range(0, len(outcomes), MOST):
        part = outcomes[at : at + MOST]
        new = kept.new + store.record(part)
        seen, note = _seen(log, part)
        found = store.standing(part, seen or {}, retention)
        unknown = None
        if seen is not None and kept.unknown is not None:
            ids = list(dict.fromkeys(said.id for said in part))
            unknown = kept.unknown.more([i for i in ids if i not in seen and i not in found.assigned])
        conflicting, late = kept.conflicting.more(found.conflicting), kept.late.more(found.late)
        kept = Kept(len(outcomes), new, conflicting, late, unknown, note)
    return kept


def _seen(log: Answered | None, outcomes: Sequence[Outcome]) -> tuple[Mapping[str, Seen] | None, str]:
    """Return the requests that the log knows; None, and why, where it can't be asked."""
    try:
        if log is None:
            raise NoData("no log of predictions was asked")
        return log.seen(list({said.id for said in outcomes})), ""
    except (Retryable, PlatformError) as problem:  # what was said is kept whatever else is amiss
        return None, f"whether a request is known can't be told: {problem.message}"


def read(text: str, where: str, name: str = "") -> list[Outcome]:
    """Return the outcomes of a file: one JSON object a line, or CSV with the header id,name,value.

    `name` is that of rows which have none. Raises ConfigError that names the first wrong line.
    """
    lines = text.lstrip("\ufeff").splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    if not first:
        raise ConfigError("there is no outcome in it", f"Write lines like {EXAMPLE}.", where=where)
    rows = _json_lines(lines, where) if first[0] in "{[" else _csv_rows(lines, where)
    return [parse({"name": name, **row} if name else row, at) for at, row in rows]


def _json_lines(lines: Sequence[str], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        at = f"{where}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"not JSON: {error}", f"Write one {EXAMPLE} a line.", where=at) from error
        if not isinstance(row, dict):
            raise ConfigError("not a JSON object", f"Write one {EXAMPLE} a line.", where=at)
        yield at, row


def _csv_rows(lines: Sequence[str], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(lines, restkey="", restval=None)
    header = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = header
    if "id" not in header or "value" not in header:
        text = f"the first line is `{lines[0]:.60}`, not a header"
        raise ConfigError(text, "Begin the file with id,name,value.", where=f"{where}:1")
    for row in reader:
        at = f"{where}:{reader.line_num}"
        if None in row.values() or "" in row:
            raise ConfigError(
                f"not the header's {len(header)} columns", "Give each row one value a column.", where=at
            )
        yield at, {key: value.strip() for key, value in row.items()}


def parse(row: object, where: str) -> Outcome:
    """Return one outcome as it was said; raises ConfigError naming `where`. `at` is the store's to set."""
    if not isinstance(row, Mapping):
        raise ConfigError("not a JSON object", f"Write it as {EXAMPLE}.", where=where)
    for key in row:
        if key not in _KEYS:
            raise ConfigError(f"an outcome has no `{key}`", suggest(str(key), _KEYS), where=where)
    missing = [key for key in _KEYS if key not in row]
    if missing:
        raise ConfigError(f"`{missing[0]}` is missing", f"Write it as {EXAMPLE}.", where=where)
    request, name = row["id"], row["name"]
    if not isinstance(request, str) or not _ID.fullmatch(request):
        raise ConfigError(
            f"`{request!s:.60}` is not a request id", "Take it from the answer's x-request-id.", where=where
        )
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"`{name!s:.60}` is not an outcome's name",
            "Use letters, digits, dots, dashes and underscores, as in rollout.yaml.",
            where=where,
        )
    return Outcome(request, name, _value(row["value"], where))


def _value(given: Any, where: str) -> float:
    """Return a finite number; true and false, and their texts in a CSV file, are 1 and 0."""
    if isinstance(given, str):
        given = {"true": 1, "false": 0}.get(given.strip().lower(), given)
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"value `{given!s:.60}` is not a number",
            "Write 1 for what happened and 0 for what did not, or the number that came of it.",
            where=where,
        )
    return number


def countable(outcomes: Sequence[Outcome], asked_for: Collection[str]) -> None:
    """Raise ConfigError for the first outcome that an experiment has to count and can't."""
    for said in outcomes:
        if said.name in asked_for and not counts(said.value):
            raise ConfigError(
                f"`{said.name}` of {said.id:.60} is {said.value:g}, and an experiment counts it as 0 or 1",
                "Choose a threshold, or send the number under another name.",
            )
