"""The values of the Open Inference Protocol's tensors, and their bytes.

Bytes are those of the protocol's raw contents and of its binary extension over HTTP: little endian, one after
the other; an element of BYTES has its length before it, as an unsigned integer of four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidegate.serving.request import Invalid

BOOL, INT64, FP64, BYTES = "BOOL", "INT64", "FP64", "BYTES"
FLOATS = ("FP64", "FP32", "FP16")
INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")

FORMATS = {
    "BOOL": "?", "INT8": "b", "INT16": "<h", "INT32": "<i", "INT64": "<q", "UINT8": "B", "UINT16": "<H",
    "UINT32": "<I", "UINT64": "<Q", "FP16": "<e", "FP32": "<f", "FP64": "<d",
}  # fmt: skip
_ONE = {name: struct.Struct(text) for name, text in FORMATS.items()}
_LENGTH = struct.Struct("<I")


def rows_of(name: str, shape: Sequence[int]) -> int:
    """Return how many rows a tensor of this shape has: [n] or [n, 1]; raises Invalid for another shape."""
    if (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) and shape[0] >= 0:
        return int(shape[0])
    raise Invalid(400, name, f"has the shape {list(shape)}; must be [n] or [n, 1]")


def from_raw(name: str, datatype: str, raw: bytes, rows: int) -> Sequence[Any]:
    """Return the values that bytes hold, `bytes` for BYTES; raises Invalid unless there are `rows`."""
    if datatype == BYTES:
        return _texts(name, raw, rows)
    one = _ONE[datatype]
    if rows == 1:
        try:
            return one.unpack(raw)
        except struct.error:
            pass  # told below
    if len(raw) != one.size * rows:
        raise Invalid(400, name, f"holds {len(raw)} bytes; {rows} of {datatype} are {one.size * rows}")
    if datatype == BOOL:
        values: list[Any] = (np.frombuffer(raw, np.uint8) != 0).tolist()
    else:
        values = np.frombuffer(raw, one.format).tolist()
    return values


def to_raw(datatype: str, values: Sequence[Any]) -> bytes:
    """Return the bytes of values; those of BYTES may be `str`."""
    if datatype == BYTES:
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    one = _ONE[datatype]
    return one.pack(values[0]) if len(values) == 1 else np.array(values, one.format).tobytes()


def _texts(name: str, raw: bytes, rows: int) -> Sequence[bytes]:
    found: list[bytes] = []
    at, size = 0, len(raw)
    while at + 4 <= size and len(found) < rows:
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > size:
            break
        found.append(raw[at + 4 : end])
        at = end
    if len(found) != rows or at != size:
        raise Invalid(400, name, f"does not hold {rows} texts, each behind its length in four bytes")
    return found
