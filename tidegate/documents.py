"""YAML as Tidegate reads it: with line numbers, no duplicate keys, no alias bombs, bounded in size."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import yaml

from tidegate.core.plan import Limit, Milliseconds, Ratio, Seconds
from tidegate.errors import ConfigError

MAX_BYTES = 256 * 1024
T = TypeVar("T")
Lines = dict[str, int]  # "$.a.b[0]" → line, from 1


def read_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """Parse one YAML document into plain values and the line of every key and item.

    Raises ConfigError (with the line) for bad syntax, a key given twice, an alias, a tag, or a
    document over 256 KiB: PyYAML alone keeps the last of two equal keys and expands alias bombs.
    """
    if len(text.encode()) > MAX_BYTES:
        raise ConfigError(f"is larger than {MAX_BYTES // 1024} KiB", "Split it.", where=where)
    try:
        return _read(text, where)
    except (ValueError, RecursionError) as error:  # e.g. a number of 5,000 digits, a day 2026-02-31
        raise ConfigError(f"has a value that can't be read ({error})", "Correct it.", where=where) from error


def _read(text: str, where: str) -> tuple[Any, Lines]:
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(
                    "aliases (*name) are not read", "Write the value out.", where=_at(where, event)
                )
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "is not YAML"
        line = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(str(problem), "Correct the syntax on that line.", where=line) from error
    lines: Lines = {}
    if node is None:
        return None, lines
    _check(node, "$", lines, where)
    try:
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        raise ConfigError("has a tag that is not read", "Remove it.", where=where) from error


def _at(where: str, holder: Any) -> str:
    return f"{where}:{holder.start_mark.line + 1}"


def _check(node: yaml.Node, path: str, lines: Lines, where: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise ConfigError(f"`{name}` is given twice", "Keep one of them.", where=_at(where, key))
            seen.add(name)
            lines[f"{path}.{name}"] = key.start_mark.line + 1
            _check(value, f"{path}.{name}", lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check(item, f"{path}[{index}]", lines, where)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z%]*)")


def _quantity(kind: type, value: Any) -> Any:
    """Turn `5m`, `1%`, `200ms` into the float classes of `core.plan`."""
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    number, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if kind is Limit:
        return _quantity(Milliseconds if unit in ("ms", "s") else Ratio, value)
    if kind is Ratio:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return Ratio(value)
        if match and unit == "%":
            return Ratio(round(number / 100, 12))
        raise ValueError(f"a share is written like 1% or 0.01, not {value!r}")
    if kind is Seconds:
        if match and unit in _UNITS:
            return Seconds(number * _UNITS[unit])
        raise ValueError(f"a duration is written like 30s, 5m or 2h, not {value!r}")
    if kind is Milliseconds:
        if match and unit in ("ms", "s"):
            return Milliseconds(number * _UNITS[unit] * 1000)
        raise ValueError(f"a latency is written like 200ms or 1.5s, not {value!r}")
    raise NotImplementedError(kind)


def parse_quantity(kind: Callable[[float], T], text: Any) -> T:
    """Parse one quantity outside a document; raises ValueError."""
    result: T = _quantity(kind, text)  # type: ignore[arg-type]
    return result


def convert(
    value: Any, shape: type[T], *, where: str, lines: Mapping[str, int] | None = None, at: str = "$"
) -> T:
    """Check a parsed value against a struct; raises ConfigError with line and suggestion.

    `at` is where the value sits in the document that `lines` describes.
    """
    try:
        return msgspec.convert(value, shape, dec_hook=_quantity)
    except msgspec.ValidationError as error:
        text = str(error)
        path = "$"
        if " - at `" in text:
            text, path = text.removesuffix("`").rsplit(" - at `", 1)
        full = at + path.removeprefix("$")
        unknown = re.search(r"unknown field `([^`]+)`", text)
        if unknown:
            full = f"{full}.{unknown[1]}"
            text = f"unknown key `{unknown[1]}`"
        line = (lines or {}).get(full) or (lines or {}).get(full.rsplit(".", 1)[0]) or (lines or {}).get(at)
        action = _suggestion(unknown[1], shape) if unknown else f"Correct `{full.removeprefix('$.')}`."
        raise ConfigError(text, action, where=f"{where}:{line}" if line else where) from error


def _suggestion(key: str, shape: type) -> str:
    known = sorted(_field_names(shape, set()))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"Did you mean `{close[0]}`?" if close else f"Known keys are: {', '.join(known)}."


def _field_names(shape: Any, seen: set[Any]) -> set[str]:
    """All keys that may occur anywhere inside a struct."""
    names: set[str] = set()
    if shape in seen:
        return names
    seen.add(shape)
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        for item in msgspec.structs.fields(shape):
            names.add(item.encode_name)
            names |= _field_names(item.type, seen)
    for inner in getattr(shape, "__args__", ()):
        names |= _field_names(inner, seen)
    return names
