"""Who was erased: lines of JSON that say when and how many, and a keyed hash instead of the subject.

A tombstone is written before anything is erased, so that what a crash interrupts is ended by whoever works
next, and so that a record of before, still on its way to the disk at that time, is dropped when it arrives.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.adapters.predictions.files import Files, Part
from tidegate.adapters.predictions.tables import Row
from tidegate.core.predictions import REQUEST_ID, Match, by_hash, hashed, keys
from tidegate.core.segments import Segment
from tidegate.errors import ConfigError, suggest
from tidegate.files import write_atomic

LOOKED = 10_000  # predictions of a file that are asked which keys there are

_inputs: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


@dataclass(frozen=True)
class Tombstone:
    """One erasure; `erased` is how many predictions went, None until that is done.

    Where a crash interrupted it, they are those that went after that.
    """

    id: str
    at: float
    model: str
    key: str
    hash: str
    erased: int | None = None

    def match(self, salt: bytes) -> Match:
        """Return what tells the subject's predictions."""
        return by_hash(self.key, self.hash, salt)


class Tombstones:
    """The audit in a folder; written by whoever holds the work lock."""

    def __init__(self, folder: Path) -> None:
        self._path, self._salt = folder / "erasures.jsonl", folder / "salt"

    def all(self) -> list[Tombstone]:
        """Return every erasure, the oldest first, each as it stands now."""
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return []
        found = (Tombstone(**json.loads(line)) for line in lines if line)
        return list({stone.id: stone for stone in found}.values())

    def begin(self, at: float, model: str, key: str, value: str) -> Tombstone:
        """Write down that a subject is to be erased."""
        stone = Tombstone(secrets.token_hex(8), at, model, key, hashed(key, value, self.salt()))
        self._write([*self.all(), stone])
        return stone

    def end(self, stone: Tombstone, erased: int) -> None:
        """Write down that it was, and how many predictions went."""
        done = Tombstone(**{**asdict(stone), "erased": erased})
        self._write([done if known.id == stone.id else known for known in self.all()])

    def salt(self) -> bytes:
        """Return what keeps hashes from being looked up in a table made elsewhere; chosen once."""
        try:
            return bytes.fromhex(self._salt.read_text())
        except FileNotFoundError:
            write_atomic(self._salt, secrets.token_hex(32))
            return bytes.fromhex(self._salt.read_text())

    def _write(self, stones: Sequence[Tombstone]) -> None:
        text = "".join(f"{json.dumps(asdict(stone))}\n" for stone in stones)
        write_atomic(self._path, text)
        os.chmod(self._path, 0o600)


# ---------------------------------------------------------------- whose a row is
def kept(segment: Segment, stones: Sequence[Tombstone], salt: Callable[[], bytes]) -> Callable[[Row], bool]:
    """Return what leaves out the records of subjects that were erased after these were made."""
    oldest = min((record[2] for record in segment.records), default=0.0) if stones else 0.0
    mine = [stone for stone in stones if stone.model == segment.head.model and stone.at >= oldest]
    matches = [(stone.at, stone.match(salt())) for stone in mine]

    def keep(row: Row) -> bool:
        said = _decoded(row.inputs)
        return not any(row.at <= at and match(row.request_id, said) for at, match in matches)

    return keep if matches else lambda row: True


def named(gone: Sequence[str], match: Match) -> list[str]:
    """Return the ids of erased predictions, and those of whole requests of many rows that were meant."""
    whole = {request for each in gone if (request := each.rpartition("/")[0]) and match(request, {})}
    return sorted({*gone, *whole})


def staying(path: Path, match: Match) -> list[bool]:
    """Tell of each row of a file whether it is none of the subject's."""
    table = pq.read_table(path, columns=["request_id", "inputs"], partitioning=None)
    pairs = zip(table.column("request_id").to_pylist(), table.column("inputs").to_pylist(), strict=True)
    return [not match(request, _decoded(text)) for request, text in pairs]


def without(files: Files, path: Path, match: Match, until: float, forget: Callable[[list[str]], None]) -> int:
    """Write a file anew without a subject's rows up to a time; returns how many there were.

    `forget` is told of their ids before they go, so that it is told again after a crash.
    """
    others = pa.array(staying(path, match))
    if pc.all(others).as_py() is not False:
        return 0
    whole = pq.read_table(path, partitioning=None)
    end = pa.scalar(datetime.fromtimestamp(until, UTC).replace(tzinfo=None), pa.timestamp("us"))
    stays = pc.or_(others, pc.greater(whole.column("time"), end))
    rest = whole.filter(stays)
    gone = len(whole) - len(rest)
    if gone:
        forget(named(whole.filter(pc.invert(stays)).column("request_id").to_pylist(), match))
    if gone and len(rest):
        files.put([(files.write(path.parent, rest), path)])
    elif gone:
        files.put((), [path])
    return gone


def refuse_unknown(model: str, key: str, mine: Sequence[Part], parts: Sequence[Part]) -> None:
    """Raise ConfigError when a model has no prediction, or none of them has such a field."""
    if not mine:
        models = sorted({part.model for part in parts})
        raise ConfigError(f"there is no prediction of {model}", suggest(model, models))
    if key == REQUEST_ID:
        return
    known: set[str] = set()
    for part in reversed(mine):
        table = pq.read_table(part.path, columns=["inputs"], partitioning=None)
        for text in table.column("inputs").slice(0, LOOKED).to_pylist():
            known |= keys(_decoded(text))
        if key in known:
            return
    hint = suggest(key, sorted({*known, REQUEST_ID}))
    raise ConfigError(f"no prediction of {model} has a field `{key}`", hint)


def _decoded(text: str | bytes) -> Mapping[str, Any]:
    try:
        found = _inputs.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
