"""Flights as tensors of the Open Inference Protocol, by hand: what a client without a library would send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WHOLE, NUMBERS = ("flight",), ("distance",)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's fields by their full names; an object that is null has none."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": known for inner, known in flat(value).items()}
        elif name not in ("plane", "weather", "recent"):
            found[name] = value
    return found


def datatype(name: str) -> str:
    """Return the datatype of one of flight-delay's inputs."""
    return "INT64" if name in WHOLE else "FP64" if "." in name or name in NUMBERS else "BYTES"


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows by column; None where a row lacks a value."""
    flats = [flat(row) for row in rows]
    return {name: [one.get(name) for one in flats] for name in {name: 0 for one in flats for name in one}}


def body(rows: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Return an inference request in JSON."""
    inputs = [
        {"name": name, "datatype": datatype(name), "shape": [len(rows)], "data": values}
        for name, values in columns(rows).items()
    ]
    return {"inputs": inputs, **more}


def array(name: str, values: Sequence[Any]) -> Any:
    """Return a column as the array that public clients take; null is NaN or nothing."""
    import numpy as np

    kind = datatype(name)
    if kind == "BYTES":
        return np.array([("" if value is None else value).encode() for value in values], dtype=object)
    if kind == "INT64":
        return np.array(values, dtype=np.int64)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def inputs(module: Any, rows: Sequence[Mapping[str, Any]], **options: Any) -> list[Any]:
    """Return rows as the inputs of `tritonclient.http` or `tritonclient.grpc`."""
    made = []
    for name, values in columns(rows).items():
        one = module.InferInput(name, [len(rows)], datatype(name))
        one.set_data_from_numpy(array(name, values), **options)
        made.append(one)
    return made
