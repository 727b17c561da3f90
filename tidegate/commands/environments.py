"""The environment that a command is given by name; one that is none is refused with a suggestion."""

from __future__ import annotations

from tidegate.config import ENVIRONMENTS
from tidegate.errors import ConfigError, suggest


def known_environment(name: str) -> str:
    """Return the name of an environment as it is; raises ConfigError for any other word."""
    if name not in ENVIRONMENTS:
        raise ConfigError(f"`{name}` is not an environment", suggest(name, ENVIRONMENTS, "Name one of: {}."))
    return name
