"""Edits of a release.yaml that change one line and keep every comment."""

from __future__ import annotations

import re
from typing import Any

import yaml

# Ids that some YAML reader takes for a number: 012345678901, 1234567890e1, 0b1111111111.
_NUMBER = re.compile(r"[0-9]+(e[0-9]+)?|0b[01]+|0o?[0-7]+")


def set_release(text: str, model: str, release: str | None) -> str:
    """Return `text` with the model's line naming `release`, added at the end when absent.

    None removes the line. Everything else is left as it was, byte for byte. A file that is laid out so
    that no single line can be edited is written anew, with the comments above its first key.
    """
    wanted = {k: str(v) for k, v in _models(text).items() if k not in (model, "")}
    if release is not None:
        wanted[model] = release
    edited = _without(text, model) if release is None else _with(text, model, release)
    try:
        if _models(edited) == wanted:
            return edited
    except yaml.YAMLError:
        pass
    head = re.match(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*", text)
    lines = "".join(f"  {name}: {_quoted(value)}\n" for name, value in wanted.items())
    return (head[0] if head else "") + (f"models:\n{lines}" if lines else "models: {}\n")


def _models(text: str) -> dict[str, Any]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for node in [root, *(value for _, value in getattr(root, "value", ()))]:
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        if len(set(keys)) != len(keys):  # PyYAML alone keeps the last of them
            raise yaml.YAMLError("a key is given twice")
    value = yaml.safe_load(text)
    models = value.get("models") if isinstance(value, dict) else None
    # An empty `models:` is no mapping to whoever parses the file: never a form to leave it in.
    empty = isinstance(value, dict) and "models" in value and models is None
    return {"": None} if empty else dict(models or {})


def _quoted(release: str) -> str:
    return f'"{release}"' if _NUMBER.fullmatch(release) else release


def _line(text: str, model: str) -> re.Match[str] | None:
    name = rf"(['\"]?){re.escape(model)}\2"
    pattern = rf"^(?P<head>[ \t]+{name}[ \t]*:[ \t]*)(?P<value>[^\s#]+)(?P<tail>.*)$"
    return re.search(pattern, text, re.M)


def _without(text: str, model: str) -> str:
    found = _line(text, model)
    if not found:
        return text
    shorter = text[: found.start()] + text[found.end() :].removeprefix("\n")
    empty = re.search(r"^[ \t]+[^\s#]", shorter, re.M) is None
    if not empty:
        return shorter
    shorter = re.sub(r"^models:[ \t]*(?=\r?$)", "models: {}", shorter, count=1, flags=re.M)
    return re.sub(r"^models:[ \t]*(?=#)", "models: {}  ", shorter, count=1, flags=re.M)


def _with(text: str, model: str, release: str) -> str:
    found, value = _line(text, model), _quoted(release)
    if found:
        return text[: found.start("value")] + value + text[found.end("value") :]
    text = re.sub(r"^models:[ \t]*(\{[ \t]*\}|~|null)?[ \t]*(#.*)?$", "models:", text, count=1, flags=re.M)
    if not re.search(r"^models:", text, re.M):
        text = f"{text.rstrip()}\nmodels:\n".lstrip()
    return f"{text.rstrip()}\n  {model}: {value}\n"
