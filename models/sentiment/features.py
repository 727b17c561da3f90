"""The one place where a text becomes numbers; training, evaluation and the service import it.

Numpy and the tokenizer only, since it travels with the service. What the model sees is the numbers of a
text's tokens, with zeros behind them; what is beyond `LENGTH` tokens is not read. A row has the raw column
`text`; any text has features, an empty one, too. Anything else raises `KeyError` or `TypeError`: the
service's schema refuses it first, and names the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

#: The raw columns of a row.
COLUMNS = ("text",)

#: How many tokens are read, a first and a last one among them: of a thousand tweets one has more.
LENGTH = 64

#: What the model sees, in this order. Float32 holds each number exactly: there are 30,522.
FEATURES = tuple(f"token_{place:02d}" for place in range(LENGTH))


def document(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what features.json holds: the tokenizer's own JSON, cut to `LENGTH` and without padding."""
    cut = {"direction": "Right", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0}
    return {**tokenizer, "truncation": cut, "padding": None}


def load(path: Path) -> Tokenizer:
    """Read features.json; raises ValueError when it is no tokenizer, or one of another length."""
    text = path.read_text()
    content = json.loads(text)
    if (content.get("truncation") or {}).get("max_length") != LENGTH or content.get("padding") is not None:
        raise ValueError(f"{path} cuts texts otherwise than this code does; train the model again")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower one
        raise ValueError(f"{path} holds no tokenizer: {error}") from error


def compute(rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> np.ndarray[Any, Any]:
    """Return float32 `[len(rows), LENGTH]` of JSON rows."""
    return _numbers([row["text"] for row in rows], tokenizer)


def compute_columns(columns: Mapping[str, Any], tokenizer: Tokenizer) -> np.ndarray[Any, Any]:
    """Return the same of columns, as parquet files hold them."""
    return _numbers(np.asarray(columns["text"], dtype=object).tolist(), tokenizer)


def _numbers(texts: list[str], tokenizer: Tokenizer) -> np.ndarray[Any, Any]:
    # One text by itself: the library would start threads for a batch.
    encoded = [tokenizer.encode(texts[0])] if len(texts) == 1 else tokenizer.encode_batch_fast(texts)
    result = np.zeros((len(texts), LENGTH), dtype=np.float32)
    for row, one in zip(result, encoded, strict=True):
        row[: len(one.ids)] = one.ids
    return result


def used(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the matrix without the columns that are zero in each row: they cost time, and change nothing."""
    there = np.flatnonzero(matrix.any(axis=0))
    return np.ascontiguousarray(matrix[:, : int(there[-1]) + 1 if len(there) else 1])


def to_rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn columns into the JSON rows that a client would send."""
    return [{"text": text} for text in np.asarray(columns["text"], dtype=object).tolist()]


def to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Turn JSON rows into columns; the reverse of `to_rows`."""
    return {"text": np.array([row["text"] for row in rows], dtype=object)}
