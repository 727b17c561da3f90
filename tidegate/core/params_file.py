"""Edits of params.yaml that add or remove a model and keep every other byte. Pure.

The text is cut at the places that the YAML parser names, so comments and layout stay; whether the outcome
says what it should is compared on the parsed values, and a text that does not allow it is refused.
"""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

INDENT = "  "


def add_model(text: str, name: str, section: str) -> str:
    """Return `text` with a model's section, itself without indent, after the last one of `models:`.

    Raises ValueError for a text that is laid out so that this can't be done.
    """
    models = _models(text)
    end = _after(text, models)
    block = textwrap.indent(f"{name}:\n{textwrap.indent(section.strip(chr(10)), INDENT)}\n", INDENT)
    new_line = "" if not end or text[end - 1] == "\n" else "\n"
    edited = text[:end] + new_line + block + text[end:]
    wanted = _plain(text)
    wanted["models"] = {**wanted["models"], name: yaml.safe_load(section)}
    return _checked(edited, wanted)


def remove_model(text: str, name: str) -> str:
    """Return `text` without a model's section and the comments directly above it.

    Raises ValueError for a text that is laid out so that this can't be done, KeyError for another name.
    """
    pairs = _models(text).value
    at = next((place for place, (key, _) in enumerate(pairs) if key.value == name), None)
    if at is None:
        raise KeyError(name)
    start, end = _above(text, pairs[at][0]), _after(text, pairs[at][1])
    wanted = _plain(text)
    wanted["models"] = {key: value for key, value in wanted["models"].items() if key != name}
    return _checked(text[:start] + text[end:], wanted)


def _plain(text: str) -> dict[str, Any]:
    value = yaml.safe_load(text)
    return dict(value) if isinstance(value, dict) else {}


def _models(text: str) -> yaml.MappingNode:
    """Return the mapping under `models:`, which has to be written in lines."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "models" and isinstance(value, yaml.MappingNode) and not value.flow_style:
            if value.start_mark.column != len(INDENT):
                raise ValueError(f"the models are indented by {value.start_mark.column} spaces, not by 2")
            return value
    raise ValueError("`models:` does not name its models in lines of their own")


def _after(text: str, node: yaml.Node) -> int:
    """Return where the line after a node's last value begins: its own mark lies behind what follows."""
    while isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end = node.end_mark.index
    if end and text[end - 1] == "\n":  # a text in lines of its own ends where the next line begins
        return end
    newline = text.find("\n", end)
    return len(text) if newline < 0 else newline + 1


def _above(text: str, node: yaml.Node) -> int:
    """Return where a key's line begins, or the first of the comments directly above, as deep as the key."""
    column = node.start_mark.column
    start = node.start_mark.index - column
    while start:
        before = text.rfind("\n", 0, start - 1) + 1
        if not text[before:start].startswith(" " * column + "#"):
            break
        start = before
    return start


def _checked(edited: str, wanted: dict[str, Any]) -> str:
    try:
        same = _plain(edited) == wanted
    except yaml.YAMLError as error:
        raise ValueError(f"the edited text is no YAML: {error}") from error
    if not same:
        raise ValueError("an anchor or another layout ties the models together")
    return edited
