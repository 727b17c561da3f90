"""Edits of a settings.yaml: the value is set, and everything that a person wrote stays."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.settings_file import set_values

WRITTEN = """\
# How toy is served.
threads: 1  # more did not help
batching:
  # measured in November
  maxDelayMs: 2.0   # of ours
queue: {maxWaiting: 64}  # small
"""

CASES = {
    "a value in its place": (
        WRITTEN,
        {"threads": 2},
        WRITTEN.replace("threads: 1", "threads: 2"),
    ),
    "a value of a section": (
        WRITTEN,
        {"batching.maxDelayMs": 0.5},
        WRITTEN.replace("maxDelayMs: 2.0", "maxDelayMs: 0.5"),
    ),
    "a new key of a section": (
        WRITTEN,
        {"batching.maxRows": 32},
        WRITTEN.replace("  maxDelayMs", "  maxRows: 32\n  maxDelayMs"),
    ),
    "a new key between braces": (
        WRITTEN,
        {"queue.retryAfter": 2},
        WRITTEN.replace("{maxWaiting", "{retryAfter: 2, maxWaiting"),
    ),
    "a new key at the top": (WRITTEN, {"workers": 2}, WRITTEN + "workers: 2\n"),
    "a new section": (WRITTEN, {"cache.entries": 5}, WRITTEN + "cache:\n  entries: 5\n"),
    "an empty file": ("", {"threads": 2, "batching.maxRows": 8}, "threads: 2\nbatching:\n  maxRows: 8\n"),
    "comments alone": ("# mine\n", {"threads": 2}, "# mine\nthreads: 2\n"),
    "no line end": ("threads: 1", {"workers": 2}, "threads: 1\nworkers: 2\n"),
    "a section with nothing in it": (
        "# mine\nbatching:\nthreads: 1\n",
        {"batching.maxRows": 8},
        "# mine\nbatching:\n  maxRows: 8\nthreads: 1\n",
    ),
    "a value that is not there": ("threads:\n", {"threads": 2}, "threads: 2\n"),
}


@pytest.mark.parametrize("name", CASES)
def test_only_what_is_asked_for_changes(name: str) -> None:
    """Comments, order and other keys are as they were."""
    text, values, expected = CASES[name]
    assert set_values(text, values) == expected


def test_what_is_no_mapping_is_refused() -> None:
    """A list has no keys to set."""
    with pytest.raises(yaml.YAMLError):
        set_values("- 1\n", {"threads": 2})


KEYS = st.sampled_from(["threads", "workers", "batching.maxRows", "batching.maxDelayMs", "queue.maxWaiting"])
VALUES = st.integers(0, 4096) | st.floats(0, 1000).map(lambda value: round(value, 3))


@given(st.sampled_from([text for text, _, _ in CASES.values()]), st.dictionaries(KEYS, VALUES))
def test_the_file_says_what_was_set_and_what_it_said(text: str, values: dict[str, float]) -> None:
    """Parsed again, each key has its value and no other key is lost; the same again changes nothing."""
    edited = set_values(text, values)
    said = yaml.safe_load(edited) or {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        assert (said[section] if section else said)[name] == value
    for key in yaml.safe_load(text) or {}:
        assert key in said
    assert set_values(edited, values) == edited
