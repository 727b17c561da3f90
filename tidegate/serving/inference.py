"""The Open Inference Protocol v2 (KServe's) on a service's Structs; knows no server.

Each field of the request is a tensor of its own, an inner one by its full name (`plane.year`), and so is each
field of the answer. The rules:

- numbers are FP64 (every FP, INT and UINT is taken), whole ones INT64 (every INT and UINT is taken), true and
  false BOOL; texts, dates, times and choices are BYTES in UTF-8; whatever else a Struct may hold is BYTES
  with JSON in it;
- the shape is [n] or [n, 1], the same n for all: n rows, answered in their order;
- what may be null may be left out; in a tensor null is NaN, "", or null where the values are JSON;
- a row is checked by the same Struct as on `POST /predict`, and refused in the same words.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from tidegate.serving import answered, measuring, online
from tidegate.serving.columns import Form, Rows
from tidegate.serving.engine import Call, Engine
from tidegate.serving.many import Many
from tidegate.serving.request import Invalid, description_of, field_error
from tidegate.serving.tensors import BOOL, BYTES, FLOATS, FP64, INT64, INTEGERS

PLATFORM = "onnx_onnxv1"
SERVER = "tidegate"
EXTENSIONS = ("binary_tensor_data",)
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TAKEN = {FP64: (*FLOATS, *INTEGERS), INT64: INTEGERS, BOOL: (BOOL,), BYTES: (BYTES,)}
_DATATYPES = {"number": FP64, "integer": INT64, "flag": BOOL}
_TEXTS = (inspect.TimeType, inspect.DateTimeType, inspect.UUIDType, inspect.EnumType, inspect.DecimalType)


class Field(msgspec.Struct, frozen=True):
    """One tensor: a field of a Struct, by its path from the outside."""

    name: str
    datatype: str
    path: tuple[str, ...]
    nullable: bool
    json: bool  # its texts are documents of JSON

    @property
    def metadata(self) -> dict[str, Any]:
        """What a model's metadata tell of the tensor."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1]}


Given = list[tuple[Field, Sequence[Any]]]  # tensors by field, each of the same number of values


def fields(form: Form) -> tuple[Field, ...]:
    """Return the tensors of a Struct, in its order."""
    return tuple(
        Field(
            column.name,
            _DATATYPES.get(column.kind, BYTES),
            (*column.group, column.key),
            column.nullable or column.grouped,
            column.kind == "other" and not _a_text(column.rule),
        )
        for column in form.columns.values()
    )


def _a_text(rule: Any) -> bool:
    """Tell whether JSON writes all that a type may be as a text: so do the tensors, as it stands."""
    if isinstance(rule, inspect.LiteralType):
        return all(isinstance(value, str) for value in rule.values)
    return isinstance(rule, _TEXTS)


class Tensors:
    """From tensors to a checked request, and from an answer to tensors, of one pair of Structs."""

    def __init__(self, request: Any, response: Any) -> None:
        self.form = Form(request)
        self.inputs, self.outputs = fields(self.form), fields(Form(response))
        self._request = request
        self._known = {field.name: field for field in self.inputs}
        self._typed = {(f.name, datatype): f for f in self.inputs for datatype in _TAKEN[f.datatype]}
        self._answers = {field.name: field for field in self.outputs}
        self._nullable = [group.path for group in self.form.groups if group.nullable]

    def input(self, name: str, datatype: str) -> Field:
        """Return the field of an input; raises Invalid for an unknown name or another datatype."""
        field = self._typed.get((name, datatype))
        if field is None:
            if name not in self._known:
                raise Invalid(422, name, "is not a known field")
            wanted = " or ".join(_TAKEN[self._known[name].datatype])
            raise Invalid(422, name, f"is of datatype {datatype}; must be {wanted}")
        return field

    def output(self, name: str) -> Field:
        """Return the field of an output; raises Invalid for an unknown one."""
        if name not in self._answers:
            known = ", ".join(self._answers)
            raise Invalid(400, name, f"is no output of the model; it has {known}")
        return self._answers[name]

    def request(self, given: Given, row: int = 0) -> Any:
        """Return one row as the checked request; raises Invalid as `POST /predict` does."""
        content: dict[str, Any] = {}
        unknown = False
        for field, values in given:
            value = values[row]
            if value is not None:
                value = _plain(field, value, self._request)
            unknown = unknown or value is None
            path = field.path
            if len(path) == 1:
                content[path[0]] = value
            else:
                place = content
                for name in path[:-1]:
                    place = place.setdefault(name, {})
                place[path[-1]] = value
        return self.checked(content, unknown)

    def lists(self, given: Given) -> dict[str, list[Any]]:
        """Return many rows as columns of plain values; raises Invalid for one that can't be."""
        columns: dict[str, list[Any]] = {}
        for field, values in given:
            plain: list[Any] = []
            try:
                for value in values:
                    plain.append(None if value is None else _plain(field, value, self._request))
            except Invalid as error:
                error.row = len(plain)
                raise
            columns[field.name] = plain
        return columns

    def checked(self, content: dict[str, Any], unknown: bool) -> Any:
        """Return plain values as the checked request; `unknown` tells that some are null. Raises Invalid."""
        if unknown:
            self._empty(content)
        try:
            return msgspec.convert(content, self._request)
        except msgspec.ValidationError as error:
            raise field_error(str(error), self._request) from error

    def _empty(self, content: dict[str, Any]) -> None:
        """Make null of each inner object that is known of by nothing but nulls, where it may be null."""
        for *outer, last in reversed(self._nullable):
            place: Any = content
            for name in outer:
                place = place.get(name) or {}
            if last in place and all(value is None for value in place[last].values()):
                place[last] = None


def _plain(field: Field, value: Any, shape: Any) -> Any:
    """Return a tensor's value as JSON would give it; None for one that says null."""
    kind = field.datatype
    if kind == FP64:
        if value.__class__ is float and value - value != 0.0:  # NaN or infinite
            if value != value and field.nullable:
                return None
            wanted = description_of(shape, field.name) or "a finite number"
            raise Invalid(422, field.name, f"must be {wanted}")
        return value
    if kind == BYTES:
        if value.__class__ is bytes:
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise Invalid(422, field.name, "is not UTF-8") from error
        if value == "" and field.nullable:
            return None
        if field.json and value.__class__ is str:
            try:
                return msgspec.json.decode(value)
            except ValueError as error:
                raise Invalid(422, field.name, f"is not JSON: {error}") from error
    return value


class Inference:
    """What both servers of the protocol, REST and gRPC, answer of one service."""

    def __init__(self, engine: Engine, service: Any, many: Many) -> None:
        self.engine = engine
        self._many = many
        self.tensors = Tensors(service.inner.request, service.inner.response)
        self.name = service.name.replace("_", "-")
        self.version = engine.identity["model_version"]
        self._names = {self.name, service.name}

    def begin(self, headers: Mapping[bytes, bytes], protocol: str, began: float) -> Call:
        """Return what is known of a request by its headers, or by its metadata."""
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        call = Call(given if REQUEST_ID.fullmatch(given) else self.new_id(), began, b"", protocol)
        call.warm, call.journaled = measuring.WARM in headers, answered.JOURNALED in headers
        call.offline = online.OFFLINE in headers
        call.arm = answered.arm(headers)
        admission = self.engine.admission
        call.deadline = admission.deadline(headers, admission.arrived(began))
        return call

    def new_id(self) -> str:
        """Return an id for a request that has none."""
        return os.urandom(16).hex()

    def name_call(self, call: Call, asked: str) -> str:
        """Give a call the id that its request asks for, as far as one may look, and return the answer's."""
        if asked and REQUEST_ID.fullmatch(asked):
            call.id = asked
        return asked or call.id

    def check(self, model: str, version: str) -> None:
        """Raise Invalid (404) unless the model is served here in this version; "" is whichever it is."""
        if model not in self._names:
            raise Invalid(404, "", f"no model is called {model!r} here; there is {self.name!r}")
        if version not in ("", self.version):
            known = f"there is {self.version!r}" if self.version else "ask without a version"
            raise Invalid(404, "", f"{self.name} has no version {version!r} here; {known}")

    @property
    def server(self) -> dict[str, Any]:
        """The metadata of the server."""
        version = self.engine.identity["release"] or self.version
        return {"name": SERVER, "version": version, "extensions": list(EXTENSIONS)}

    @property
    def model(self) -> dict[str, Any]:
        """The metadata of the model."""
        return {
            "name": self.name,
            "versions": [self.version] if self.version else [],
            "platform": PLATFORM,
            "inputs": [field.metadata for field in self.tensors.inputs],
            "outputs": [field.metadata for field in self.tensors.outputs],
        }

    def example(self, row: Mapping[str, Any]) -> bytes:
        """Return a request's content, as JSON gives it, as an inference request in JSON."""
        inputs = []
        for field in self.tensors.inputs:
            value: Any = row
            for name in field.path:
                value = value.get(name) if value else None
            if value is not None or field.nullable:
                told = msgspec.json.encode(value).decode() if field.json and value is not None else value
                inputs.append({"name": field.name, "datatype": field.datatype, "shape": [1], "data": [told]})
        return msgspec.json.encode({"inputs": inputs})

    def rows(self, given: Given, counts: Sequence[int]) -> int:
        """Return how many rows were given; raises Invalid unless it is the same number for each tensor."""
        rows = counts[0] if counts else 0
        limit = self.engine.settings.many.max_rows
        for (field, _), count in zip(given, counts, strict=True):
            if count != rows:
                raise Invalid(400, field.name, f"has {count} rows; the tensors before it have {rows}")
        if not 1 <= rows <= limit:
            raise Invalid(413 if rows else 400, "inputs", f"hold {rows} rows; must hold from 1 to {limit}")
        if len({field.name for field, _ in given}) != len(given):
            raise Invalid(400, "inputs", "name a tensor twice")
        return rows

    async def infer(self, call: Call, given: Given, rows: int) -> Mapping[str, Sequence[Any]]:
        """Return the answer's columns by name; raises Invalid, or whatever the model does."""
        call.rows = rows
        if rows == 1:
            answer = await self.engine.one(call, self.tensors.request(given))
            return {name: (value,) for name, value in answer.items()}
        limit = self.engine.settings.many.max_rows

        def read() -> Rows:
            return self._many.form.of_lists(self.tensors.lists(given), limit)

        answers, _ = await self._many.through(call, read, _lists)
        return dict(answers)

    def counted(self, call: Call, status: int) -> None:
        """Count an answer by what was asked: one row or many; a warm-up not at all."""
        if call.warm:
            return
        seconds = time.perf_counter() - call.began
        if call.rows == 1:
            self.engine.measuring.timed(status, seconds)
        else:
            self.engine.measuring.timed_many(status, call.rows if status == 200 else 0, seconds)


def _lists(answers: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in answers.items()}


def texts(values: Sequence[Any], field: Field) -> Sequence[Any]:
    """Return an output's values as its tensor holds them: documents as JSON, the rest as it is."""
    return [msgspec.json.encode(value).decode() for value in values] if field.json else values


def said(error: Invalid) -> str:
    """Return a refusal as one line of characters that any protocol can carry."""
    row = "" if error.row is None else f", row {error.row}"
    text = f"{error.field}{row}: {error.reason}" if error.field else error.reason
    return text.encode(errors="backslashreplace").decode()
