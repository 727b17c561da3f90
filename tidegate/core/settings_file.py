"""Edits of a settings.yaml that change some values and keep every comment. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

Value = int | float | bool


def set_values(text: str, values: Mapping[str, Value]) -> str:
    """Return `text` with each key (`threads`, `batching.maxRows`) at its value; all else byte for byte.

    A key that is absent is added to its section, and a section at the end. A file that is laid out so that
    this can't be done is written anew, with the comments above its first key. Raises yaml.YAMLError for a
    text that is no mapping.
    """
    wanted = _plain(text)
    edited: str | None = text
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        inner = wanted
        if section:
            inner = wanted[section] = dict(wanted.get(section) or {})
        inner[name] = value
        edited = _set(edited, section, name, value) if edited is not None else None
    if edited is not None:
        try:
            if _plain(edited) == wanted:
                return edited
        except yaml.YAMLError:
            pass
    head = re.match(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*", text)
    return (head[0] if head else "") + yaml.safe_dump(wanted, sort_keys=False)


def _plain(text: str) -> dict[str, Any]:
    value = yaml.safe_load(text)
    if value is not None and not isinstance(value, dict):
        raise yaml.YAMLError("is no mapping (key: value)")
    return dict(value or {})


def _set(text: str, section: str, name: str, value: Value) -> str | None:
    """Set one value where it stands, or add its line; None where there is no place for it."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    inside = _pair(root, section) if section else None
    holder = inside[1] if inside else (None if section else root)
    found = _pair(holder, name)
    if found is not None:
        return _replaced(text, found[1], _written(value))
    if not section:
        return _appended(text, f"{name}: {_written(value)}\n")
    if inside is None:
        return _appended(text, f"{section}:\n  {name}: {_written(value)}\n")
    if not isinstance(holder, yaml.MappingNode):
        empty = holder is not None and holder.start_mark.index == holder.end_mark.index  # `batching:`
        return _replaced(text, inside[1], f"\n  {name}: {_written(value)}", gap="") if empty else None
    if holder.flow_style:
        more = f"{name}: {_written(value)}" + (", " if holder.value else "")
        place = holder.start_mark.index + 1
        return text[:place] + more + text[place:]
    first = holder.value[0][0].start_mark
    return f"{text[: first.index]}{name}: {_written(value)}\n{' ' * first.column}{text[first.index :]}"


def _pair(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((pair for pair in pairs if pair[0].value == name), None)


def _replaced(text: str, node: yaml.Node, by: str, gap: str = " ") -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        return None
    start, end = node.start_mark.index, node.end_mark.index
    return text[:start] + (by if start != end else f"{gap}{by}") + text[end:]


def _appended(text: str, lines: str) -> str:
    return text + ("" if not text or text.endswith("\n") else "\n") + lines


def _written(value: Value) -> str:
    return json.dumps(value)
