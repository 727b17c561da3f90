"""What came of a request, as people and programs say it: read, checked, and handed to the store."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tidegate.core.outcomes import Outcome
from tidegate.errors import ConfigError, suggest

MOST = 10_000  # outcomes in one document
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

        They are on the disk when this returns. Raises Unreachable (locked) or PlatformError (disk).
        """


def accept(store: OutcomeStore, document: object) -> int:
    """Check a JSON document of one outcome, a list, or {"outcomes": [...]}, keep it; how many were new?

    One outcome is {"id": request id, "name": "converted", "value": 0 or 1}. All are kept or none: raises
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
    return store.record(checked) if checked else 0


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


def _value(given: Any, where: str) -> int:
    """Return 0 or 1; true and false, and their texts in a CSV file, are understood too."""
    if isinstance(given, str):
        given = {"true": 1, "false": 0}.get(given.strip().lower(), given)
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if number not in (0.0, 1.0):
        raise ConfigError(
            f"value `{given!s:.60}` is neither 0 nor 1",
            "An outcome happened (1) or did not (0); choose a threshold where it is a number.",
            where=where,
        )
    return int(number)
