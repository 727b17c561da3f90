"""Edits of params.yaml: a model comes or goes, and everything that a person wrote stays."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.params_file import add_model, remove_model

WRITTEN = """\
# Parameters.
models:
  # the first
  first:            # of all
    package: first
    train: {rounds: 3}   # few
    about: |
      two
      lines

  # the second
  # has two lines above
  second:
    package: second
    bad:
      - {field: a, value: null}   # the last

# What gates hold a release to.
gates:
  data: {}
"""
SECTION = "package: third   # a new one\ntrain:\n  rounds: 1\n"


def test_a_model_is_added_after_the_last_one() -> None:
    """Its lines come after the last model's last line; all else is as it was, byte for byte."""
    edited = add_model(WRITTEN, "third", SECTION)
    lines = "  third:\n    package: third   # a new one\n    train:\n      rounds: 1\n"
    assert edited == WRITTEN.replace("# the last\n", f"# the last\n{lines}")


def test_what_is_added_can_be_removed() -> None:
    """Removing what was added gives the same bytes as before."""
    assert remove_model(add_model(WRITTEN, "third", SECTION), "third") == WRITTEN


@pytest.mark.parametrize(
    ("name", "left"), [("first", "  # the second\n"), ("second", "      lines\n\n\n# What")]
)
def test_comments_go_with_the_model_they_stand_above(name: str, left: str) -> None:
    """A model goes with the comments directly above it, and those of the next one stay."""
    edited = remove_model(WRITTEN, name)
    assert f"the {name}" not in edited
    assert left in edited
    assert list(yaml.safe_load(edited)["models"]) == [{"first": "second", "second": "first"}[name]]


def test_a_file_without_a_last_newline_gets_one() -> None:
    """A text that ends in the models, without a newline, is added to on a line of its own."""
    assert add_model("models:\n  a: {x: 1}", "b", "x: 2\n") == "models:\n  a: {x: 1}\n  b:\n    x: 2\n"


@pytest.mark.parametrize(
    "text",
    ["", "gates: {}\n", "models: {a: {x: 1}}\n", "models:\n", "models:\n    a: {x: 1}\n"],
)
def test_another_layout_is_refused(text: str) -> None:
    """Where models have no lines of their own, nothing is guessed."""
    with pytest.raises(ValueError):
        add_model(text, "b", "x: 2\n")


def test_an_anchor_that_others_use_is_refused() -> None:
    """A model whose values another one refers to can't be cut out."""
    with pytest.raises(ValueError):
        remove_model("models:\n  a: &a {x: 1}\n  b: *a\n", "a")


def test_a_model_that_is_not_there_is_no_model() -> None:
    """An unknown name is a KeyError, never another model."""
    with pytest.raises(KeyError):
        remove_model(WRITTEN, "third")


LEAVES = st.one_of(st.integers(), st.booleans(), st.none(), st.text("ab #:-", max_size=6))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)
MODELS = st.dictionaries(st.sampled_from(["a", "b", "c", "d-e"]), VALUES, min_size=1)


@given(models=MODELS, new=st.dictionaries(st.sampled_from("xyz"), VALUES, min_size=1))
def test_whatever_the_models_say_the_others_are_left_alone(models: dict, new: dict) -> None:
    """Of any models, adding one gives exactly those and the new one, and removing it exactly those."""
    text = yaml.safe_dump({"models": models, "gates": {"data": 1}}, sort_keys=False)
    added = add_model(text, "new", yaml.safe_dump(new))
    assert yaml.safe_load(added) == {"models": {**models, "new": new}, "gates": {"data": 1}}
    assert yaml.safe_load(remove_model(added, "new")) == {"models": models, "gates": {"data": 1}}
