"""Tensors in gRPC's messages: from a request to fields, and back to the bytes of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidegate.serving import messages
from tidegate.serving.inference import Field, Given, Inference, texts
from tidegate.serving.request import Invalid
from tidegate.serving.tensors import from_raw, rows_of, to_raw

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def given(request: Any, inference: Inference) -> tuple[Given, int]:
    """Return the tensors of a request by field, and how many rows they have; raises Invalid."""
    raw = list(request.raw_input_contents)
    inputs = request.inputs
    if raw and len(raw) != len(inputs):
        raise Invalid(400, "raw_input_contents", f"are {len(raw)} for {len(inputs)} inputs")
    tensors: Given = []
    counts = []
    find = inference.tensors.input
    for index, one in enumerate(inputs):
        name, datatype = one.name, one.datatype
        field = find(name, datatype)
        count = rows_of(name, one.shape)
        values = from_raw(name, datatype, raw[index], count) if raw else _contents(one, count)
        tensors.append((field, values))
        counts.append(count)
    return tensors, inference.rows(tensors, counts)


def _contents(one: Any, count: int) -> Sequence[Any]:
    kind = _CONTENTS.get(one.datatype)
    if kind is None:
        raise Invalid(400, one.name, f"of {one.datatype} must be in raw_input_contents")
    values = list(getattr(one.contents, kind))
    if len(values) != count:
        raise Invalid(400, one.name, f"has {len(values)} values in {kind}; its shape says {count}")
    return values


class Answers:
    """Writes answers as the bytes of ModelInferResponse."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def write(self, request: Any, columns: Mapping[str, Sequence[Any]], rows: int, raw: bool) -> bytes:
        """Return the answer's bytes; values as `contents` unless `raw`."""
        wanted = self.wanted(request)
        values = [texts(columns[field.name], field) for field in wanted]
        if not raw:
            message = self._message(wanted, rows, request.id)
            for output, field, those in zip(message.outputs, wanted, values, strict=True):
                those = [text.encode() for text in those] if field.datatype == "BYTES" else those
                getattr(output.contents, _CONTENTS[field.datatype]).extend(those)
            return bytes(message.SerializeToString())
        # Parts of a message may be written one after the other: 3 is its id, 6 its raw contents.
        parts = [self.begun(wanted, rows), field_of(3, request.id.encode())]
        parts += [
            field_of(6, to_raw(field.datatype, those)) for field, those in zip(wanted, values, strict=True)
        ]
        return b"".join(parts)

    def wanted(self, request: Any) -> Sequence[Field]:
        """Return the outputs that a request asks for; raises Invalid for an unknown one."""
        tensors = self._inference.tensors
        return [tensors.output(one.name) for one in request.outputs] or tensors.outputs

    def begun(self, wanted: Sequence[Field], rows: int) -> bytes:
        """Return what an answer begins with, up to its id and its values."""
        return bytes(self._message(wanted, rows, "").SerializeToString())

    def _message(self, wanted: Sequence[Any], rows: int, request_id: str) -> Any:
        return messages.ModelInferResponse(
            model_name=self._inference.name,
            model_version=self._inference.version,
            id=request_id,
            outputs=[{"name": f.name, "datatype": f.datatype, "shape": [rows]} for f in wanted],
        )


def field_of(number: int, content: bytes) -> bytes:
    """Return a field of bytes as protobuf writes it."""
    size = len(content)
    if size < 128:
        return bytes((number << 3 | 2, size)) + content
    length = bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | 2,)) + bytes(length) + content
