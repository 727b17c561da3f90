"""How a segment of the prediction log is read: tidegate.serving.predictions writes it, and says what it is.

A record is a list: kind, request id, time, body, features, answer, milliseconds, arm, protocol, source; one
of many rows has their number and, unless the body holds them, their columns besides.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

MAGIC = b"TGP1\n"
ROW, ROWS = 0, 1
_BLOCK = struct.Struct("<II")
_records = msgspec.msgpack.Decoder(list[list[Any]])


class Head(msgspec.Struct, frozen=True):
    """Who wrote a segment."""

    model: str
    release: str
    model_version: str
    plane: str
    features: tuple[str, ...]
    began: float
    pid: int


@dataclass(frozen=True)
class Segment:
    """What a segment holds; `lost` bytes at its end were cut short."""

    head: Head
    records: Sequence[Sequence[Any]] = field(default_factory=list)
    lost: int = 0


def parse(data: bytes) -> Segment | None:
    """Return all that is whole, up to the first block that isn't; None where not even the head is."""
    blocks = _blocks(data)
    try:
        first = next(blocks)[0]
        head = msgspec.msgpack.decode(first, type=Head)
    except (StopIteration, msgspec.DecodeError):
        return None
    records: list[Sequence[Any]] = []
    end = len(MAGIC) + _BLOCK.size + len(first)
    for content, until in blocks:
        try:
            records += _records.decode(content)
        except msgspec.DecodeError:
            break
        end = until
    return Segment(head, records, len(data) - end)


def _blocks(data: bytes) -> Iterator[tuple[memoryview, int]]:
    """Each whole block's content, and where it ends."""
    if not data.startswith(MAGIC):
        return
    view, at = memoryview(data), len(MAGIC)
    while at + _BLOCK.size <= len(data):
        length, checksum = _BLOCK.unpack_from(data, at)
        end = at + _BLOCK.size + length
        content = view[at + _BLOCK.size : end]
        if end > len(data) or zlib.crc32(content) != checksum:
            return
        yield content, end
        at = end


# ---------------------------------------------------------------- requests
def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flattened row (`plane.year`) as the request of one row that it stands for."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        at = found
        for part in outer:
            at = at.setdefault(part, {})
        at[last] = value
    return found


def rows_of(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """Return flattened columns as requests of one row each; empty ones where a column is too short."""
    if any(len(values) != count for values in columns.values()):
        return [{} for _ in range(count)]
    flat = zip(*columns.values(), strict=True) if columns else [()] * count
    return [nested(dict(zip(columns, row, strict=True))) for row in flat]
