"""Many rows of a request as columns: which there are, and the rules that they are held to.

All is derived from the request's Struct. A field is a column of its name; a field of an inner Struct is a
column of both names, `plane.year`. A column that is left out has the field's default in each row. An inner
Struct that may be null is null in the rows where all of its columns are.

A checked column is an array: of float64 (NaN is null) for a number, int64 for a whole one, bool,
datetime64[D] (NaT is null) for a date, and Python's own values for the rest, as for a whole number or a bool
with nulls among them. Knows no model and no server; travels inside every Bento.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType, inspect

from tidegate.serving.arrays import Array, array, filled, nothing
from tidegate.serving.request import Invalid, decode, description_of, field_error

_KINDS = {
    inspect.FloatType: "number",
    inspect.IntType: "integer",
    inspect.StrType: "text",
    inspect.BoolType: "flag",
    inspect.DateType: "date",
}
WORDS = ("text", "date")  # what is written as a word
_PLACE = re.compile(r"columns(?:\.(?P<name>.*?)(?:\[(?P<row>\d+)\].*)?)?\Z", re.DOTALL)


class Column(msgspec.Struct, frozen=True, eq=False):
    """One field of a request, whatever Struct it is in."""

    name: str  # plane.year
    key: str  # year
    value: Any  # the type of a value that is not null, with its bounds
    rule: Any  # the same as msgspec sees it: its kind, its bounds
    kind: str  # number, integer, text, flag, date; or other
    nullable: bool  # the field itself may be null
    required: bool  # in its own Struct
    default: Any
    group: tuple[str, ...] = ()  # the inner Structs that it lies in
    grouped: bool = False  # one of those may be null
    field: str = ""  # as Python writes it
    fields: tuple[str, ...] = ()  # the inner Structs' fields, the same way


class Group(msgspec.Struct, frozen=True):
    """An inner Struct."""

    path: tuple[str, ...]
    field: str  # as Python writes the last of them
    nullable: bool
    required: bool


class Rows(msgspec.Struct):
    """Checked columns, each of `count` values; `absent` were left out, and hold their defaults."""

    columns: dict[str, Array]
    absent: frozenset[str]
    count: int


class Form:
    """The columns of one kind of request."""

    def __init__(self, request: type[msgspec.Struct]) -> None:
        self.request = request
        self.groups: list[Group] = []
        self.columns = {column.name: column for column in self._flat(request, (), False, (request,))}
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._json())
        self._words: dict[str, Any] = {
            name: list[column.value | None]  # type: ignore[name-defined]
            for name, column in self.columns.items()
        }
        self._names = {f"c{index}": name for index, name in enumerate(self.columns)}

    def _flat(
        self,
        struct: type[msgspec.Struct],
        group: tuple[str, ...],
        grouped: bool,
        seen: tuple[type, ...],
        fields: tuple[str, ...] = (),
    ) -> Iterator[Column]:
        for field in msgspec.structs.fields(struct):
            path = (*group, field.encode_name)
            value, nullable = _without_null(field.type)
            inner = _struct(value)
            if inner is not None and inner not in seen:
                self.groups.append(Group(path, field.name, nullable, field.required))
                yield from self._flat(inner, path, grouped or nullable, (*seen, inner), (*fields, field.name))
                continue
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            rule = inspect.type_info(value)
            while isinstance(rule, inspect.Metadata):
                rule = rule.type
            kind = _KINDS.get(type(rule), "other")
            name, key = ".".join(path), field.encode_name
            yield Column(
                name, key, value, rule, kind, nullable, field.required, default, group, grouped,
                field.name, fields,
            )  # fmt: skip

    def _json(self) -> Any:
        """Return the Struct of a columnar request in JSON: the fields' own types, in lists."""
        fields: list[Any] = []
        rename = {}
        for index, column in enumerate(self.columns.values()):
            # Words are checked once each, not once a row: a pattern is Python's own, and slow.
            value: Any = str if column.kind in WORDS else column.value
            value = value | None if column.nullable or column.grouped else value
            kept: Any = list[value]
            needed = column.required and not column.group
            fields.append((f"c{index}", kept) if needed else (f"c{index}", kept | UnsetType, UNSET))
            rename[f"c{index}"] = column.name
        inner = msgspec.defstruct("Columns", fields, rename=rename, forbid_unknown_fields=True, kw_only=True)
        return msgspec.defstruct("Many", [("columns", inner)], forbid_unknown_fields=True)

    # ---------------------------------------------------------------- from JSON
    def of_json(self, body: bytes, max_rows: int) -> Rows:
        """Return the checked columns of `{"columns": {"plane.year": [1999, …], …}}`; raises Invalid.

        Each value is held to its field's rules by msgspec, as that of a single row is.
        """
        try:
            found = decode(body, self._decoder).columns
        except Invalid as error:
            raise self._of_field(error) from error
        return self._of_found(found, max_rows)

    def of_lists(self, columns: Mapping[str, Sequence[Any]], max_rows: int) -> Rows:
        """Return the checked columns of plain values, as JSON would hold them; raises Invalid."""
        try:
            found = msgspec.convert({"columns": columns}, self._decoder.type).columns
        except msgspec.ValidationError as error:
            raise self._of_field(field_error(str(error), self._decoder.type)) from error
        return self._of_found(found, max_rows)

    def _of_found(self, found: Any, max_rows: int) -> Rows:
        given = {
            name: values for key, name in self._names.items() if (values := getattr(found, key)) is not UNSET
        }
        counts = {name: len(values) for name, values in given.items()}
        self.check_counts(counts, max_rows)
        return self.rows({name: self._array(self.columns[name], values) for name, values in given.items()})

    def _array(self, column: Column, values: list[Any]) -> Array:
        if column.kind not in WORDS:
            return array(column.kind, values)
        distinct = {word: place for place, word in enumerate(dict.fromkeys(values))}
        places = np.fromiter(map(distinct.__getitem__, values), np.int64, len(values))
        return self.words(column, list(distinct), places)

    def words(self, column: Column, distinct: list[str | None], places: npt.NDArray[np.int64]) -> Array:
        """Return a column of words, or of dates written as such: that of row i is `distinct[places[i]]`.

        Each is checked once, and only if a row has it; raises Invalid for the first row whose is not fit.
        """
        try:
            made = msgspec.convert(distinct, self._words[column.name])
        except msgspec.ValidationError:
            made = [self._word(column, word) for word in distinct]
            bad = np.fromiter((word is UNSET for word in made), bool, len(made))[places]
            if bad.any():
                refuse(self, column.name, bad, "is not what it should be")
            made = [None if word is UNSET else word for word in made]
        return array(column.kind, made)[places]

    def _word(self, column: Column, word: str | None) -> Any:
        try:
            return msgspec.convert([word], self._words[column.name])[0]
        except msgspec.ValidationError:
            return UNSET

    def _of_field(self, error: Invalid) -> Invalid:
        """Return a refusal of `columns.plane.year[3]` as one of row 3 of the field `plane.year`."""
        place = _PLACE.match(error.field)
        if place is None:
            return error
        if not place["name"]:
            return Invalid(error.status, "columns", error.reason)
        row = int(place["row"]) if place["row"] else None
        return self.wrong(place["name"], row, error.reason)

    # ---------------------------------------------------------------- of any form
    def check_counts(self, counts: Mapping[str, int], max_rows: int) -> int:
        """Return how many rows there are; raises Invalid for none, too many, or unequal columns."""
        if not counts:
            raise Invalid(422, "columns", "holds no column")
        first, count = next(iter(counts.items()))
        for name, other in counts.items():
            if other > max_rows:
                raise Invalid(413, "columns", f"holds {other} rows; at most {max_rows} are answered at once")
            if other != count:
                raise Invalid(422, name, f"holds {other} values, and {first} holds {count}")
        if not count:
            raise Invalid(422, "columns", "holds no row")
        return count

    def wrong(self, name: str, row: int | None, reason: str) -> Invalid:
        """Return the refusal of a column, or of its value in one row (from 0), in the schema's own words."""
        if row is not None and name in self.columns and "null" not in reason:
            said = description_of(self.request, name)
            reason = f"must be {said}" if said else reason
        return Invalid(422, name, reason, row)

    def rows(self, given: dict[str, Array]) -> Rows:
        """Return checked columns as rows, with those that were left out; raises Invalid.

        What is left to check is what a column by itself can't know: a field that its Struct needs.
        """
        count = len(next(iter(given.values())))
        lacking = self._lacking(given, count)
        columns = {}
        for name, column in self.columns.items():
            if name in given:
                columns[name] = given[name]
                if column.grouped and not column.nullable:
                    self._need(name, nothing(given[name]) & ~lacking[column.group])
            else:
                if column.required and not column.group:
                    raise Invalid(422, name, "is required")
                if column.required:
                    self._need(name, ~lacking[column.group])
                default = None if column.default is msgspec.NODEFAULT else column.default
                columns[name] = filled(column.kind, default, count)
        return Rows(columns, frozenset(self.columns) - frozenset(given), count)

    def _need(self, name: str, bad: Array) -> None:
        """Refuse the first row whose inner Struct is there without a field that it needs."""
        if bad.any():
            raise Invalid(422, name, "is required", int(bad.argmax()))

    def _lacking(self, given: Mapping[str, Array], count: int) -> dict[tuple[str, ...], Array]:
        """Return in which rows each inner Struct is null: where all that lies in it is."""
        result: dict[tuple[str, ...], Array] = {}
        for group in self.groups:
            depth = len(group.path)
            inside = [n for n, c in self.columns.items() if c.group[:depth] == group.path and n in given]
            lacking = np.ones(count, bool) if group.nullable or not group.required else np.zeros(count, bool)
            for name in inside:
                lacking &= nothing(given[name])
            result[group.path] = lacking | result.get(group.path[:-1], False)
        return result

    def of_requests(self, requests: Sequence[Any]) -> Rows:
        """Return checked requests as columns."""
        given: dict[str, list[Any]] = {name: [] for name in self.columns}
        for request in requests:
            for name, column in self.columns.items():
                value = request
                for step in (*column.fields, column.field):
                    value = getattr(value, step) if value is not None else None
                given[name].append(None if value is UNSET else value)
        return self.rows({name: array(self.columns[name].kind, values) for name, values in given.items()})

    def lacking(self, rows: Rows) -> dict[tuple[str, ...], Array]:
        """Return in which rows each inner Struct is null, by its path."""
        given = {name: values for name, values in rows.columns.items() if name not in rows.absent}
        return self._lacking(given, rows.count)

    def each(self, rows: Rows) -> Iterator[Any]:
        """Return the requests that the rows are, one by one."""
        given = {name: values for name, values in rows.columns.items() if name not in rows.absent}
        lacking = self._lacking(given, rows.count)
        plain = {name: values.tolist() for name, values in given.items()}
        numbers = [name for name in given if self.columns[name].kind == "number"]
        for name in numbers:
            plain[name] = [None if value != value else value for value in plain[name]]
        for index in range(rows.count):
            row: dict[str, Any] = {}
            for group in self.groups:
                _put(row, group, bool(lacking[group.path][index]))
            for name, values in plain.items():
                column = self.columns[name]
                inner: Any = row
                for step in column.group:
                    inner = inner.get(step) if inner is not None else None
                if inner is not None:
                    inner[column.key] = values[index]
            yield msgspec.convert(row, self.request)


def _put(row: dict[str, Any], group: Group, lacks: bool) -> None:
    """Lay an empty inner Struct into a row, or null where it is not known."""
    inner: Any = row
    for step in group.path[:-1]:
        inner = inner.get(step) if inner is not None else None
    if inner is not None and not lacks:
        inner[group.path[-1]] = {}
    elif inner is not None and group.nullable:
        inner[group.path[-1]] = None


def _without_null(kind: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether None was part of it."""
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        value, nullable = _without_null(inner)
        return (Annotated[(value, *more)] if nullable else kind), nullable
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    kept = [one for one in get_args(kind) if one not in (type(None), UnsetType)]
    value = Union[tuple(kept)]  # noqa: UP007 - made of what was found
    return value, type(None) in get_args(kind)


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    """Return the Struct that a type is, where its fields are an object's."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    config = kind.__struct_config__
    return None if config.tag is not None or config.array_like else kind


def refuse(form: Form, name: str, bad: Array, reason: str) -> NoReturn:
    """Raise Invalid for the first row in which `bad` is true."""
    raise form.wrong(name, int(bad.argmax()), reason)
