"""What a model may be called, and what its folder may: names become paths, modules and tags. Pure.

Each check returns what is wrong and the next action, or None; the caller knows where the name was written.
"""

from __future__ import annotations

import keyword
import re
from typing import Any

import yaml

LONGEST = 40
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PACKAGE = re.compile(r"[a-z]([a-z0-9_]*[a-z0-9])?")  # a Bento's tag may not end in _

Fault = tuple[str, str]


def package_of(name: str) -> str:
    """Return the name as Python writes it: that of folders and Bento where none is declared."""
    return name.replace("-", "_")


def class_of(name: str) -> str:
    """Return the name as a class of Python's is written."""
    return "".join(part.capitalize() for part in name.split("-"))


def name_fault(name: str) -> Fault | None:
    """Return what is wrong with a model's name, and the next action."""
    if not _NAME.fullmatch(name):
        meant = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        hint = f"Call it `{meant}`." if _NAME.fullmatch(meant) else "Such as disease-progress."
        return f"{name!r} is no name of a model: small letters, digits and hyphens are", hint
    if len(name) > LONGEST:
        return f"`{name}` has {len(name)} letters, more than {LONGEST}", "Find a shorter name."
    return None


def package_fault(package: Any) -> Fault | None:
    """Return what is wrong with the name of a model's folder, and the next action."""
    if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
        return (
            f"{package!r} is no package's name: small letters, digits and _ are",
            "Name the model's folder in models/ and services/, not a path.",
        )
    if keyword.iskeyword(package):
        return f"`{package}` is a word of Python's, and no package's name", "Call the folder otherwise."
    return None


def new_fault(name: str) -> Fault | None:
    """Return what keeps a new model from being called so: its name is also written into Python and YAML."""
    wrong = name_fault(name)
    if wrong:
        return wrong
    hint = f"Call it `{name}-model`."
    wrong = package_fault(package_of(name))
    if wrong:
        return wrong[0], hint
    if keyword.iskeyword(class_of(name)):
        return f"`{class_of(name)}` is a word of Python's, and no class's name", hint
    if yaml.safe_load(name) != name:
        return f"`{name}` is read as {yaml.safe_load(name)!r} in YAML, and no text", hint
    return None
