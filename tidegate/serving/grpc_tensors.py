"""Tensors in gRPC's messages: from a request to fields, and from columns to an answer."""

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


def answer(
    inference: Inference,
    wanted: Sequence[Field],
    columns: Mapping[str, Sequence[Any]],
    rows: int,
    shown: str,
    *,
    raw: bool,
) -> Any:
    """Return the ModelInferResponse with these outputs, called `shown`; values as `contents` unless `raw`."""
    outputs = [{"name": one.name, "datatype": one.datatype, "shape": [rows]} for one in wanted]
    made = messages.ModelInferResponse(
        model_name=inference.name, model_version=inference.version, id=shown, outputs=outputs
    )
    for output, field in zip(made.outputs, wanted, strict=True):
        values = texts(columns[field.name], field)
        if raw:
            made.raw_output_contents.append(to_raw(field.datatype, values))
        else:
            values = [text.encode() for text in values] if field.datatype == "BYTES" else values
            getattr(output.contents, _CONTENTS[field.datatype]).extend(values)
    return made
