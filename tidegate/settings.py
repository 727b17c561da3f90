"""services/<model>/settings.yaml as people write it: read with line numbers, described, and edited.

What the keys mean is `tidegate/serving/settings.py`'s, which a Bento brings along and which knows no more
than it needs to fail closed; here an unknown key also gets its line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tidegate import params
from tidegate.documents import convert, read_yaml
from tidegate.errors import ConfigError
from tidegate.serving.settings import FILE, Settings

ABOUT = "# How {model} is served. `tidegate schema settings` says what each key means.\n"


def place(checkout: Path, model: str) -> Path:
    """Return where a model's settings are; there need not be any."""
    return checkout / "services" / params.package(checkout, model) / FILE


def read(text: str, where: str) -> Settings:
    """Return the settings that a file says; raises ConfigError with line and likely spelling."""
    value, lines = read_yaml(text, where)
    if value is not None and not isinstance(value, dict):
        raise ConfigError("must be a mapping (key: value)", "See `tidegate schema settings`.", where=where)
    return convert(value or {}, Settings, where=where, lines=lines)


def load(checkout: Path, model: str) -> Settings:
    """Return a model's settings, the defaults where it has no file. Raises ConfigError."""
    path = place(checkout, model)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't be read: {error}", "Give access to it.", where=str(path)) from error
    return read(text, path.relative_to(checkout).as_posix())


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of settings.yaml: each key with its default and what it is."""
    (reference,), components = msgspec.json.schema_components([Settings], ref_template="#/$defs/{name}")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tidegate settings.yaml"}
    return {**head, **reference, "$defs": components}
