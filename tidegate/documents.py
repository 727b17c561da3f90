"""YAML as Tidegate reads it: with line numbers, no duplicate keys, no alias bombs, bounded in size."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from tidegate.core.plan import Limit, Milliseconds, Ratio, Seconds
from tidegate.errors import ConfigError, suggest

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


_SYNTAX = {
    "mapping values are not allowed here": "a `key:` can't stand here: is a colon missing above, or is it "
    "indented too far?",
    "could not find expected ':'": "a colon is missing",
    "'\\t'": "a tab stands where YAML wants spaces",
}  # what PyYAML says, in a person's words


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
        said = next((plain for part, plain in _SYNTAX.items() if part in str(problem)), str(problem))
        raise ConfigError(said, "Correct the syntax there.", where=line) from error
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
    """Check a parsed value against a struct; raises ConfigError with line, plain words and suggestion.

    `at` is where the value sits in the document that `lines` describes.
    """
    try:
        return msgspec.convert(value, shape, dec_hook=_quantity)
    except msgspec.ValidationError as error:
        text, path = _parted(error)
        steps = _steps(value, shape, path)
        full = at + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        unknown = re.search(r"unknown field `([^`]+)`", text)
        known, there = lines or {}, f"{full}.{unknown[1]}" if unknown else full
        line = known.get(there) or next((known[p] for p in _outwards(full) if p in known), None)
        place = f"{where}:{line}" if line else where
        if unknown:
            raise ConfigError(
                f"unknown key `{unknown[1]}`", _suggestion(unknown[1], shape), where=place
            ) from error
        shown, there_is = full.removeprefix("$").removeprefix("."), _value(value, steps)
        said, action = _plainly(text, shown, there_is, functools.reduce(_within, steps, [shape]) or [shape])
        raise ConfigError(said, action, where=place) from error


def _parted(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return what msgspec says, and the path at which."""
    text = str(error)
    if " - at `" not in text:
        return text, "$"
    text, path = text.removesuffix("`").rsplit(" - at `", 1)
    return (_KEY, path.removeprefix("key` in `")) if path.startswith("key` in `") else (text, path)


def _steps(value: Any, shape: type, path: str) -> list[str | int]:
    """Return the keys and places on a path, in which msgspec writes `[...]` for a key of a mapping."""
    steps: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[\]]+)|\[([^\]]+)\]", path):
        if index == "...":
            steps.append(_culprit(value, shape, path, steps))
        else:
            steps.append(name or int(index))
    return steps


def _culprit(value: Any, shape: type, path: str, steps: list[str | int]) -> str:
    """Return the key under which the mistake is: the one that alone gives the same error."""
    inner = _value(value, steps)
    for key in inner if isinstance(inner, Mapping) else ():
        try:
            msgspec.convert(_replaced(value, steps, {key: inner[key]}), shape, dec_hook=_quantity)
        except msgspec.ValidationError as error:
            if _parted(error)[1] == path:
                return str(key)
    return "…"


def _replaced(value: Any, steps: Sequence[str | int], by: Any) -> Any:
    if not steps:
        return by
    first, rest = steps[0], steps[1:]
    if isinstance(value, Mapping):
        return {k: _replaced(v, rest, by) if str(k) == first else v for k, v in value.items()}
    return [_replaced(v, rest, by) if k == first else v for k, v in enumerate(value)]


def _value(value: Any, steps: Sequence[str | int]) -> Any:
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _outwards(path: str) -> Iterator[str]:
    """Yield a path, then that of what holds it, and so on."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]


_KEY = "a key is no text"
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "object": "a mapping of `key: value` lines",
    "array": "a list",
    "null": "null",
}


def _plainly(text: str, path: str, value: Any, shapes: list[Any]) -> tuple[str, str]:
    """Return msgspec's words as a person would say them, and what to do; a value may be one of `shapes`."""
    inside = f" in `{path}`" if path else ""
    missing = re.match(r"Object missing required field `([^`]+)`", text)
    if missing:
        return f"`{missing[1]}` is missing{inside}", "Add it."
    enum = re.match(r"Invalid enum value (.*)", text)
    if enum:
        known = {choice for shape in shapes for choice in _choices(shape, set())}
        return f"`{path}` can't be `{value}`", suggest(str(value), sorted(known))
    wrong = re.match(r"Expected `([^`]+)`(.*)", text)
    if text == _KEY:
        return f"{text}{inside}", "Write it in quotes."
    if not wrong:
        return text, "" if text.endswith("?") else f"Correct `{path}`."
    wanted = " or ".join(_KINDS.get(kind, kind) for kind in wrong[1].split(" | "))
    rest = re.sub(r", got .*", "", wrong[2]).strip()
    limits = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
    for sign, words in limits.items():
        rest = re.sub(rf"^{re.escape(sign)} ([-\d.]+?)(\.0)?$", rf"of {words} \1", rest)
    action = f"Correct `{path}`."
    number = _number(value) if isinstance(value, str) else None
    if number is not None and ("float" in wrong[1] or "int" in wrong[1]):
        action = f"Write it as {_decimal(number)}, without quotes."  # YAML takes 1e-3 for text, too
    return f"`{path}` must be {wanted}{f' {rest}' if rest else ''}, not {_shown(value)}", action


def _shown(value: Any) -> str:
    """Return a value as it is written, shortened."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"`{str(value)[:60]}`" if not isinstance(value, str) else f"the text `{value[:60]}`"


def _decimal(number: float) -> str:
    """Return a number without an exponent, which YAML takes for text unless it has a dot and a sign."""
    return f"{Decimal(repr(number)).normalize():f}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _suggestion(key: str, shape: type) -> str:
    known = sorted(_field_names(shape, set()))
    return suggest(key, known, "Known keys are: {}.")


def _within(shapes: list[Any], step: str | int) -> list[Any]:
    """Return the types of what lies under a key or at a place of something of these types."""
    found: list[Any] = []
    for shape in shapes:
        if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
            found += [item.type for item in msgspec.structs.fields(shape) if item.encode_name == step]
        elif isinstance(get_origin(shape), type) and issubclass(get_origin(shape), Iterable):
            found.append(get_args(shape)[0 if get_args(shape)[-1] is ... else -1])
        else:  # a union, or one with further limits
            found += _within(list(get_args(shape)), step)
    return found


def _choices(shape: Any, seen: set[Any]) -> set[str]:
    """All texts that a choice anywhere inside a struct may be."""
    if shape in seen:
        return set()
    seen.add(shape)
    if get_origin(shape) is Literal:
        return {str(one) for one in get_args(shape)}
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        inner = [item.type for item in msgspec.structs.fields(shape)]
    elif isinstance(shape, type) and issubclass(shape, Enum):
        return {str(one.value) for one in shape}
    else:
        inner = list(getattr(shape, "__args__", ()))
    return {name for one in inner for name in _choices(one, seen)}


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
