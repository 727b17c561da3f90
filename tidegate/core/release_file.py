"""Edits of a release.yaml that change one line and keep every comment."""

from __future__ import annotations

import re

_IMPLICIT = re.compile(r"[0-9]+(e[0-9]+)?")  # YAML reads these ids as numbers unless they are quoted


def set_release(text: str, model: str, release: str | None) -> str:
    """Return `text` with the model's line naming `release`, added at the end when absent.

    None removes the line. Everything else is left as it was, byte for byte.
    """
    line = re.compile(
        rf"^(?P<head>[ \t]+(['\"]?){re.escape(model)}\2[ \t]*:[ \t]*)(?P<value>[^\s#]+)(?P<tail>.*)$", re.M
    )
    found = line.search(text)
    if release is None:
        if not found:
            return text
        shorter = text[: found.start()] + text[found.end() :].removeprefix("\n")
        empty = re.search(r"^[ \t]+[^\s#]", shorter, re.M) is None
        return re.sub(r"^models:[ \t]*$", "models: {}", shorter, count=1, flags=re.M) if empty else shorter
    value = f'"{release}"' if _IMPLICIT.fullmatch(release) else release
    if found:
        return text[: found.start("value")] + value + text[found.end("value") :]
    text = re.sub(r"^models:[ \t]*(\{[ \t]*\}|~|null)?[ \t]*(#.*)?$", "models:", text, count=1, flags=re.M)
    if not re.search(r"^models:", text, re.M):
        text = f"{text.rstrip()}\nmodels:\n".lstrip()
    return f"{text.rstrip()}\n  {model}: {value}\n"
