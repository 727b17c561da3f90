"""Requests of one row whose like was answered before, read and answered without going through every tensor.

A client's requests differ by their ids and values; names, datatypes and shapes are the same bytes each time.
What was once read in full is kept as a form: of one that begins with the same bytes only the raw contents
are read. The row is checked by its Struct all the same, and whatever does not fit exactly is left to the full
way, which alone refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tidegate.serving.grpc_tensors import field_of
from tidegate.serving.inference import Field, Given
from tidegate.serving.tensors import BYTES, FORMATS, to_raw

FORMS = 16  # kept
_NAME, _VERSION, _ID, _RAW, _ANSWER = 0x0A, 0x12, 0x1A, 0x3A, 0x32  # protobuf's tags of fields of bytes


class Form:
    """Requests that are the same up to their ids and values."""

    def __init__(
        self, prefix: bytes, section: bytes, given: Given, begun: bytes, wanted: Sequence[Field]
    ) -> None:
        self.prefix, self.section = prefix, section
        self._begun, self._wanted = begun, wanted
        fields = [field for field, _ in given]
        self._runs: list[tuple[Field | None, struct.Struct | None, tuple[int, ...]]] = []
        fixed: list[Field] = []
        for field in [*fields, None]:
            if field is not None and field.datatype != BYTES:
                fixed.append(field)
                continue
            if fixed:
                self._runs.append((None, *_run(fixed, _RAW)))
                fixed = []
            if field is not None:
                self._runs.append((field, None, ()))
        self._nullable = [field.nullable for field in fields]
        self._plain = [(field.path[0], at) for at, field in enumerate(fields) if len(field.path) == 1]
        groups: dict[tuple[str, ...], list[tuple[str, int]]] = {}
        for at, field in enumerate(fields):
            if len(field.path) > 1:
                groups.setdefault(field.path[:-1], []).append((field.path[-1], at))
        self._groups = [(path[0], inner) for path, inner in groups.items()]
        self.fits = all(len(path) == 1 for path in groups) and not any(
            field.json for field in [*fields, *wanted]
        )
        packed = [field for field in wanted if field.datatype != BYTES]
        self._packed = _run(packed, _ANSWER) if len(packed) == len(wanted) else None

    def row(self, message: bytes, at: int) -> tuple[dict[str, Any], bool] | None:
        """Return the row whose raw contents begin at a place, and whether it lacks a value; or None."""
        values: list[Any] = []
        for field, run, tags in self._runs:
            if run is not None:
                found = run.unpack_from(message, at)
                if found[::2] != tags:
                    return None
                values += found[1::2]
                at += run.size
                continue
            end = at + 2 + message[at + 1]
            if message[at] != _RAW or message[at + 1] > 127 or end > len(message):
                return None
            if int.from_bytes(message[at + 2 : at + 6], "little") != end - at - 6:
                return None
            text = message[at + 6 : end].decode()
            values.append(None if not text and field is not None and field.nullable else text)
            at = end
        if at != len(message):
            return None
        for index, value in enumerate(values):
            if value.__class__ is float and value - value != 0.0:  # NaN or infinite
                if value == value or not self._nullable[index]:
                    return None
                values[index] = None
        content: dict[str, Any] = {name: values[index] for name, index in self._plain}
        for name, inner in self._groups:
            content[name] = {key: values[index] for key, index in inner}
        return content, None in values

    def answer(self, request_id: str, answer: Mapping[str, Any]) -> bytes:
        """Return the bytes of ModelInferResponse."""
        head = self._begun + field_of(3, request_id.encode())
        if self._packed is None:
            return head + b"".join(field_of(6, to_raw(f.datatype, [answer[f.name]])) for f in self._wanted)
        run, tags = self._packed
        values: list[Any] = []
        for tag, field in zip(tags, self._wanted, strict=True):
            values += (tag, answer[field.name])
        return head + run.pack(*values)


def _run(fields: Sequence[Field], tag: int) -> tuple[struct.Struct, tuple[int, ...]]:
    """Return how values of a fixed size lie one behind the other, and each one's tag with its length."""
    sizes = [struct.calcsize(FORMATS[field.datatype]) for field in fields]
    text = "".join("H" + FORMATS[field.datatype].lstrip("<") for field in fields)
    return struct.Struct("<" + text), tuple(tag | size << 8 for size in sizes)


class Forms:
    """The forms of the requests that were answered lately."""

    def __init__(self) -> None:
        self._forms: list[Form] = []

    def read(self, message: bytes) -> tuple[Form, str, dict[str, Any], bool] | None:
        """Return form, id and row, and whether that lacks a value, of a request of a known form; or None."""
        try:
            prefix, first, at = _head(message)
            for form in self._forms:
                if message.startswith(form.section, at) and message.startswith(form.prefix):
                    break
            else:
                return None
            if len(form.prefix) != prefix:
                return None
            found = form.row(message, at + len(form.section))
            shown = message[first:at].decode()
        except (IndexError, struct.error, UnicodeDecodeError):
            return None
        return None if found is None else (form, shown, *found)

    def keep(self, message: bytes, given: Given, begun: bytes, wanted: Sequence[Field]) -> None:
        """Keep the form of a request of one row, with raw contents, that was answered."""
        try:
            prefix, _, at = _head(message)
            end = _raw_contents(message, at)
        except IndexError:
            return
        form = Form(message[:prefix], message[at:end], given, begun, wanted)
        try:
            if form.fits and form.row(message, end) is not None:
                self._forms = [form, *self._forms][:FORMS]
        except (IndexError, struct.error, UnicodeDecodeError):
            return


def _head(message: bytes) -> tuple[int, int, int]:
    """Return where name and version end, where the id begins and where it ends; raises IndexError."""
    at = 2 + message[1] if message[0] == _NAME else 0
    if message[at] == _VERSION:
        at += 2 + message[at + 1]
    if message[at] != _ID:
        return at, at, at
    size = message[at + 1]
    if size > 127:
        raise IndexError
    return at, at + 2, at + 2 + size


def _raw_contents(message: bytes, at: int) -> int:
    """Return where the raw contents of a request begin; raises IndexError."""
    while message[at] != _RAW:
        if message[at] & 7 != 2:
            raise IndexError
        at += 1
        size = shift = 0
        while True:
            byte = message[at]
            at += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        at += size
    return at
