"""Mistakes in settings files: each is one line, in plain words, with the line it is on and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import pytest

from tidegate.documents import convert, read_yaml
from tidegate.errors import ConfigError


class Column(msgspec.Struct, forbid_unknown_fields=True):
    """One of many, under a name that the file chooses."""

    kind: Literal["number", "category"]
    limit: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    within: tuple[float, float] | None = None


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What a file may say."""

    columns: Mapping[str, Column] = {}
    cases: tuple[Column, ...] = ()
    rows: Annotated[int, msgspec.Meta(ge=1)] = 1
    share: float | None = None
    names: tuple[str, ...] = ()
    strict: bool = False


def said(text: str) -> str:
    """What is said of a file."""
    value, lines = read_yaml(text, "f.yaml")
    with pytest.raises(ConfigError) as caught:
        convert(value, Settings, where="f.yaml", lines=lines)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rows: many", "f.yaml:1: `rows` must be a whole number, not the text `many`. Correct `rows`."),
        ("rows: 0", "f.yaml:1: `rows` must be a whole number of at least 1, not `0`. Correct `rows`."),
        ("rows: 2.5", "f.yaml:1: `rows` must be a whole number, not `2.5`. Correct `rows`."),
        ("rows:", "f.yaml:1: `rows` must be a whole number, not null. Correct `rows`."),
        ("rwos: 2", "f.yaml:1: unknown key `rwos`. Did you mean `rows`?"),
        ("share: yes", "f.yaml:1: `share` must be a number or null, not true. Correct `share`."),
        ("names: abc", "f.yaml:1: `names` must be a list, not the text `abc`. Correct `names`."),
        ("names: [1]", "f.yaml:1: `names[0]` must be text, not `1`. Correct `names[0]`."),
        ("strict: 1", "f.yaml:1: `strict` must be true or false, not `1`. Correct `strict`."),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(text: str, says: str) -> None:
    """What it must be, what it is, and on which line."""
    assert said(text) == says


def test_a_number_that_yaml_takes_for_text() -> None:
    """1e-3 is text to YAML; the action says how to write it."""
    assert said("share: 1e-3").endswith("not the text `1e-3`. Write it as 0.001, without quotes.")
    assert said("share: 1e-6").endswith("Write it as 0.000001, without quotes.")


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        ("{kind: number, limit: x}", "`columns.b.limit` must be a number, not the text `x`"),
        ("{kind: number, limit: -1}", "`columns.b.limit` must be a number of at least 0, not `-1`"),
        ("{kind: numbr}", "`columns.b.kind` can't be `numbr`. Did you mean `number`?"),
        ("{kind: number, limt: 3}", "unknown key `limt`. Did you mean `limit`?"),
        ("{}", "`kind` is missing in `columns.b`. Add it."),
        ("3", "`columns.b` must be a mapping of `key: value` lines, not `3`"),
        ("{kind: number, within: [1]}", "`columns.b.within` must be a list of length 2, not a list of 1"),
    ],
)
def test_a_mistake_under_one_of_many_names(inner: str, says: str) -> None:
    """The name and its line are found among those that are fine, also where a name has a dot in it."""
    text = f"columns:\n  a: {{kind: number}}\n  b: {inner}\n  c.d: {{kind: category}}\n"
    assert said(text).startswith(f"f.yaml:3: {says}")
    dotted = said(text.replace("  b:", "  b.b:"))
    assert dotted.startswith(f"f.yaml:3: {says.replace('columns.b', 'columns.b.b')}")


def test_a_mistake_in_a_list() -> None:
    """An item is named by its place."""
    text = "cases:\n  - {kind: number}\n  - {kind: number, limit: [1]}\n"
    assert said(text).startswith("f.yaml:3: `cases[1].limit` must be a number, not a list of 1")


def test_a_key_that_is_no_text() -> None:
    """A name that YAML takes for a number wants quotes."""
    assert said("columns: {1: {kind: number}}") == (
        "f.yaml:1: a key is no text in `columns`. Write it in quotes."
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\n  b: 1", "f.yaml:2: a `key:` can't stand here: is a colon missing above"),
        ("a: 1\n\tb: 2", "f.yaml:2: a tab stands where YAML wants spaces"),
        ("a: 1\na: 2", "f.yaml:2: `a` is given twice"),
        ("a: [1", "f.yaml:"),
    ],
)
def test_what_is_no_yaml(text: str, says: str) -> None:
    """A slip of the syntax is told in a person's words."""
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "f.yaml")
    assert str(caught.value).startswith(says)
