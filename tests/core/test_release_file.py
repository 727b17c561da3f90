"""An edit of release.yaml changes one line, and what it writes always says what was meant."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import A, B
from tidegate.config import parse_release_file
from tidegate.core.release_file import set_release

FORMS = [
    f"# what runs here\nmodels:\n  toy: {A}  # since May\n  other: {B}\n",
    f"models:\n    'toy': '{A}'\n    other: {B}",
    f'models:\n  other: {B}\n\n  "toy" : "{A}"\n# end\n',
    f"models: {{toy: {A}, other: {B}}}\n",
    f"models:   # by model\n  toy: {A}\n  other: {B}\n",
    f"models:\r\n  toy: {A}\r\n  other: {B}\r\n",
    f"models:\n  toy:\n    {A}\n  other: {B}\n",
]


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("release", [B, "012345678901", "1234567890e1", "0b1111111111", None])
def test_it_says_what_was_meant(text: str, release: str | None) -> None:
    """However the file is laid out: the model's release is replaced or gone, the other's is as it was."""
    expected = {"other": B} | ({"toy": release} if release else {})
    assert parse_release_file(set_release(text, "toy", release), "f.yaml") == expected


def test_comments_and_other_lines_stay() -> None:
    """Only the value changes, byte for byte."""
    assert set_release(FORMS[0], "toy", B) == FORMS[0].replace(A, B)


@pytest.mark.parametrize(
    "text",
    ["", "models: {}\n", "models:\n", "models: null # none\n", "# a\nmodels: ~\n", "---\nmodels: {}\n"],
)
def test_a_first_model_is_added(text: str) -> None:
    """A file without models gets its first line."""
    assert parse_release_file(set_release(text, "toy", A), "f.yaml") == {"toy": A}


@pytest.mark.parametrize("text", [f"models:\n  toy: {A}\n", f"models: # here\n  toy: {A}\n# end\n"])
def test_the_last_model_leaves_a_valid_file(text: str) -> None:
    """Removing the only model leaves an empty mapping."""
    assert parse_release_file(set_release(text, "toy", None), "f.yaml") == {}


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
IDS = st.one_of(
    st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    st.from_regex(r"[0-9]{12}|[0-9]{10}e[0-9]", fullmatch=True),
)


@given(st.dictionaries(NAMES, IDS, max_size=4), NAMES, st.one_of(st.none(), IDS))
def test_any_edit_of_any_file(models: dict[str, str], model: str, release: str | None) -> None:
    """For any models and any edit, exactly that entry changes."""
    text = yaml.safe_dump({"models": models})
    expected = {k: v for k, v in models.items() if k != model} | ({model: release} if release else {})
    assert parse_release_file(set_release(text, model, release), "f.yaml") == expected
