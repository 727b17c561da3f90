"""Requests of one row whose like was answered before, read and answered without going through every tensor.

A client's requests differ by their ids and values; names, datatypes and shapes are the same bytes each time.
What was once read in full is kept as a form: of one that begins with the same bytes only the raw contents
are read. The row is checked by its Struct all the same, and whatever does not fit exactly is left to the full
way, which alone refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from tidegate.serving.grpc_tensors import field_of
from tidegate.serving.inference import Field, Given
from tidegate.serving.tensors import BYTES, FORMATS, to_raw

FORMS, LAYOUTS = 16, 32  # kept, and of each form
_NAME, _VERSION, _ID, _RAW, _ANSWER = 0x0A, 0x12, 0x1A, 0x3A, 0x32  # protobuf's tags of fields of bytes


class _Layout:
    """Raw contents whose texts have these lengths: one look reads them all."""

    def __init__(self, fields: Sequence[Field], lengths: Sequence[int]) -> None:
        text, checked, expected, left = "<", [], [], iter(lengths)
        texts: list[tuple[str, int]] = []
        numbers: dict[str, list[tuple[str, int]]] = {}
        floats, at = [], 0
        for field in fields:
            checked.append(at)
            if field.datatype == BYTES:
                size = next(left)
                text += f"HI{size}s"
                checked.append(at + 1)
                expected += [_RAW | size + 4 << 8, size]
                texts.append((field.path[0], at + 2))
                at += 3
                continue
            kind = FORMATS[field.datatype].lstrip("<")
            text += f"H{kind}"
            expected.append(_RAW | struct.calcsize("<" + kind) << 8)
            numbers.setdefault("" if len(field.path) == 1 else field.path[0], []).append(
                (field.path[-1], at + 1)
            )
            floats += [at + 1] if kind in "efd" else []
            at += 2
        self.struct, self._expected = struct.Struct(text), tuple(expected)
        self._checks, self._floats = _getter(checked), _getter(floats)
        self._texts, self._names = _getter([at for _, at in texts]), [name for name, _ in texts]
        self._numbers = [
            (group, [name for name, _ in those], _getter([at for _, at in those]))
            for group, those in numbers.items()
        ]

    def row(self, message: bytes, at: int) -> dict[str, Any] | None:
        """Return the row, or None for one that lies otherwise or holds a number that is none."""
        found = self.struct.unpack_from(message, at)
        if self._checks(found) != self._expected:
            return None
        total = sum(self._floats(found))
        if total - total != 0.0:
            return None
        content: dict[str, Any] = dict(
            zip(self._names, [text.decode() for text in self._texts(found)], strict=True)
        )
        for group, names, values in self._numbers:
            if group:
                content[group] = dict(zip(names, values(found), strict=True))
            else:
                content.update(zip(names, values(found), strict=True))
        return content


def _getter(places: Sequence[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Return what takes the values at these places, as a tuple however many there are."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda found: tuple(found[place] for place in places)


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
        self._fields = fields
        self._layouts: list[_Layout] = []
        self._even = all(len(field.path) == 1 for field in fields if field.datatype == BYTES)
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
        for layout in self._layouts:
            if layout.struct.size == len(message) - at:
                content = layout.row(message, at)
                if content is not None:
                    return content, False
        return self._row(message, at)

    def _row(self, message: bytes, at: int) -> tuple[dict[str, Any], bool] | None:
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
        if None not in values and self._even and len(self._layouts) < LAYOUTS:
            lengths = [len(value.encode()) for value in values if isinstance(value, str)]
            self._layouts.append(_Layout(self._fields, lengths))
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
