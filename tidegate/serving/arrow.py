"""Many rows as an Arrow IPC stream, in and out; pyarrow is imported by the first one, and optional.

What came is not trusted: buffers are validated before they are read, values are never spread out by more than
a row's own place, and a compressed stream is refused, since a few bytes of one may hold gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.serving.arrays import Array, array
from tidegate.serving.columns import WORDS, Column, Form, Rows, refuse
from tidegate.serving.request import Invalid

TYPE = "application/vnd.apache.arrow.stream"
DAY_MS = 86_400_000
_FIRST_DAY, _LAST_DAY = -719162, 2932896  # of Python's calendar, which a row's date has: years 1 to 9999
_DTYPES = {
    "halffloat": "f2", "float": "f4", "double": "f8", "date32[day]": "i4", "date64[ms]": "i8",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def available() -> bool:
    """Tell whether pyarrow is here."""
    try:
        import pyarrow.ipc  # noqa: F401
    except ImportError:
        return False
    return True


# ---------------------------------------------------------------- in
def read(form: Form, body: bytes, max_rows: int) -> Rows:
    """Return the checked columns of an Arrow stream; raises Invalid (400, 413, 422)."""
    import pyarrow as pa

    try:
        _refuse_compressed(pa, body)
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            names, batches, count = stream.schema.names, [], 0
            for batch in stream:
                count += batch.num_rows
                if count > max_rows:
                    form.check_counts({"columns": count}, max_rows)
                batch.validate(full=True)
                batches.append(batch)
            table = pa.Table.from_batches(batches, stream.schema)
    except (pa.ArrowException, OSError, struct.error, IndexError, UnicodeDecodeError) as error:
        words = str(error).split("\n", 1)[0]
        raise Invalid(400, "body", f"is not an Arrow IPC stream: {words}") from error
    for name in names:
        if name not in form.columns:
            raise Invalid(422, name, "is not a known field")
        if names.count(name) > 1:
            raise Invalid(422, name, "is there twice")
    form.check_counts(dict.fromkeys(names, count), max_rows)
    given = {}
    for name in names:
        chunks = table.column(name)
        try:
            whole = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
            given[name] = _column(form, form.columns[name], whole)
        except pa.ArrowException as error:  # what pyarrow has not learnt yet
            raise _other(form, form.columns[name], chunks) from error
    return form.rows(given)


def _column(form: Form, column: Column, values: Any) -> Array:
    """Return one checked column; raises Invalid for the first row that breaks a rule."""
    kind = str(values.type)
    if kind == "null":
        nulls = np.ones(len(values), bool)
        found = array(column.kind, [None] * len(values))
    else:
        nulls = _nulls(values)
        found = _READERS[column.kind](form, column, values, nulls)
    if not (column.nullable or column.grouped) and nulls.any():
        refuse(form, column.name, nulls, "must not be null")
    return found


def _number(form: Form, column: Column, values: Any, nulls: Array) -> Array:
    raw = _fixed(form, column, values, ("halffloat", "float", "double"), ("int", "uint"))
    found = raw.astype(np.float64)
    found[nulls] = np.nan
    unfit = ~(np.isfinite(found) | nulls)
    if unfit.any():
        text = "NaN and Infinity are not numbers here; send null for what is not known"
        raise Invalid(422, column.name, text, int(unfit.argmax()))
    _bounded(form, column, found, nulls)
    return found


def _integer(form: Form, column: Column, values: Any, nulls: Array) -> Array:
    found = _fixed(form, column, values, (), ("int", "uint"))
    _bounded(form, column, found, nulls)
    if found.dtype == np.uint64 or nulls.any():  # as Python's own: some are None, or beyond 63 bits
        made = found.astype(object)
        made[nulls] = None
        return array("integer", made.tolist())
    return found.astype(np.int64)


def _bounded(form: Form, column: Column, found: Array, nulls: Array) -> None:
    """Hold numbers to `ge`, `gt`, `le`, `lt` and `multiple_of`, as msgspec does one by one."""
    rule = column.rule
    tests: list[tuple[Any, Callable[[Any], Array]]] = [
        (rule.ge, lambda bound: found < bound),
        (rule.gt, lambda bound: found <= bound),
        (rule.le, lambda bound: found > bound),
        (rule.lt, lambda bound: found >= bound),
        (rule.multiple_of, lambda bound: np.fmod(found, bound) != 0),
    ]
    for bound, breaks in tests:
        if bound is None:
            continue
        bad = breaks(bound) & ~nulls
        if bad.any():
            refuse(form, column.name, bad, "is out of its bounds")


def _flag(form: Form, column: Column, values: Any, nulls: Array) -> Array:
    if str(values.type) != "bool":
        raise _other(form, column, values)
    found = _bits(values.buffers()[1], values)
    if not nulls.any():
        return found
    made = found.astype(object)
    made[nulls] = None
    return made


def _word(form: Form, column: Column, values: Any, nulls: Array) -> Array:
    kind = str(values.type)
    if column.kind == "date" and kind.startswith("date"):
        return _date(form, column, values, nulls)
    if kind not in ("string", "large_string", "string_view") and not kind.startswith("dictionary"):
        raise _other(form, column, values)
    distinct, places = _distinct(values, nulls)
    if any(word is not None and not isinstance(word, str) for word in distinct):
        raise _other(form, column, values)
    return form.words(column, distinct, places)


def _date(form: Form, column: Column, values: Any, nulls: Array) -> Array:
    days = _fixed(form, column, values, ("date32[day]", "date64[ms]"), ()).astype(np.int64)
    bad = np.zeros(len(days), bool)
    if str(values.type) == "date64[ms]":
        bad = np.fmod(days, DAY_MS) != 0
        days = days // DAY_MS
    bad = (bad | (days < _FIRST_DAY) | (days > _LAST_DAY)) & ~nulls
    if bad.any():
        refuse(form, column.name, bad, "is no day of the calendar")
    found = days.view("datetime64[D]")
    found[nulls] = np.datetime64("NaT")
    return found


def _anything(form: Form, column: Column, values: Any, nulls: Array) -> Array:
    """Return what has no form of its own here as Python's values, each held to its type by msgspec."""
    import pyarrow.types as types

    inner = values.type
    if types.is_dictionary(inner) or types.is_list(inner) or types.is_large_list(inner):
        inner = inner.value_type
    if types.is_nested(inner) or types.is_null(inner) or types.is_run_end_encoded(inner):
        raise _other(form, column, values)
    if types.is_dictionary(values.type):
        distinct, places = _distinct(values, nulls)
        return form.words(column, distinct, places)
    return form.words(column, values.to_pylist(), np.arange(len(values)))


_READERS = {
    "number": _number, "integer": _integer, "flag": _flag, "other": _anything,
    **dict.fromkeys(WORDS, _word),
}  # fmt: skip


def _distinct(values: Any, nulls: Array) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Return the words that there are, and which one each row has; of nulls the last, None.

    A dictionary may hold a null of its own, which is then one of `nulls`.
    """
    coded = values if str(values.type).startswith("dictionary") else values.dictionary_encode()
    words = [*coded.dictionary.to_pylist(), None]
    places = _raw(coded.indices).astype(np.int64)
    places[nulls] = len(words) - 1
    if words.index(None) < len(words) - 1:
        nulls |= np.array([word is None for word in words])[places]
    return words, places


def _fixed(
    form: Form, column: Column, values: Any, names: tuple[str, ...], prefixes: tuple[str, ...]
) -> Array:
    """Return the numbers of one of these types, whatever stands where there is none."""
    kind = str(values.type)
    if kind not in names and not kind.startswith(prefixes or ("\0",)):
        raise _other(form, column, values)
    return _raw(values)


def _raw(values: Any) -> Array:
    """Return an array's numbers as they lie in its buffer."""
    # By its buffers: pyarrow's own way to NumPy imports pandas, where it is installed.
    kind = np.dtype(_DTYPES[str(values.type)])
    buffer = values.buffers()[1]
    if buffer is None:
        return np.zeros(len(values), kind)
    return np.frombuffer(buffer, kind, len(values), values.offset * kind.itemsize)


def _nulls(values: Any) -> Array:
    buffer = values.buffers()[0] if values.null_count else None
    if buffer is None:
        return np.zeros(len(values), bool)
    return ~_bits(buffer, values)


def _bits(buffer: Any, values: Any) -> Array:
    if buffer is None:
        return np.zeros(len(values), bool)
    first, last = values.offset, values.offset + len(values)
    return np.unpackbits(np.frombuffer(buffer, np.uint8), count=last, bitorder="little")[first:].astype(bool)


def _other(form: Form, column: Column, values: Any) -> Invalid:
    wanted = form.wrong(column.name, 0, f"must be a {column.kind}").args[0]
    return Invalid(422, column.name, f"is of Arrow's type {values.type}: {wanted}")


def _refuse_compressed(pa: Any, body: bytes) -> None:
    """Raise Invalid for a stream any batch of which is compressed, before any is unpacked."""
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        metadata = bytes(message.metadata)
        head = _slot(metadata, struct.unpack_from("<I", metadata)[0], 2)
        if head and message.type == "dictionary":
            head = _slot(metadata, head, 1)
        if head and message.type != "schema" and _slot(metadata, head, 3):
            raise Invalid(422, "body", "is compressed; send the stream without compression")


def _slot(metadata: bytes, table: int, slot: int) -> int:
    """Return where the table in a flatbuffer's slot begins, or 0 (Arrow's Message.fbs has the slots)."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0 or struct.unpack_from("<H", metadata, vtable)[0] < 6 + 2 * slot:
        return 0
    offset = struct.unpack_from("<H", metadata, vtable + 4 + 2 * slot)[0]
    if not offset:
        return 0
    place: int = table + offset + struct.unpack_from("<I", metadata, table + offset)[0]
    return place


# ---------------------------------------------------------------- out
def write(answers: Mapping[str, Array], told: Mapping[str, str]) -> bytes:
    """Return answers by column as an Arrow stream of one batch, `told` in its schema's metadata."""
    import pyarrow as pa

    made = {name: _made(pa, values) for name, values in answers.items()}
    fields = [pa.field(name, values.type, nullable=False) for name, values in made.items()]
    schema = pa.schema(fields, metadata=dict(told))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(list(made.values()), schema=schema))
    return bytes(sink.getvalue())


def _made(pa: Any, values: Array) -> Any:
    """Return an array as Arrow's: numbers as they are, words as such, what else there is as JSON's words."""
    values = np.ascontiguousarray(values)
    if values.dtype == bool:
        bits = pa.py_buffer(np.packbits(values, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])
    if values.dtype.kind in "fiu":
        kind = pa.from_numpy_dtype(values.dtype)
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    # By its buffers, too: `pa.array` imports pandas, where it is installed.
    words = [
        value.encode() if isinstance(value, str) else msgspec.json.encode(value) for value in values.tolist()
    ]
    ends = np.cumsum([0, *(len(word) for word in words)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(words))]
    return pa.Array.from_buffers(pa.large_string(), len(words), buffers)
