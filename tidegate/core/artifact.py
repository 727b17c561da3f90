"""Does what is on disk agree with what a release's record says? Digests, pins and licences, compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidegate.core import gate
from tidegate.core.verdict import Finding, Verdict

_PIN = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([A-Za-z0-9][^\s;\\,*]*)\s*(?:;\s*(.+?))?\s*\\?$"
)
_HASH = re.compile(r"\s+--hash=sha256:[0-9a-f]{64}\b")


def same(name: str, here: str, recorded: str, where: str) -> Finding:
    """PASS when two digests (or versions) are equal; both are named in the reason. A missing one is ERROR."""
    if not here or not recorded:
        return gate.error(name, f"{name}: there is nothing to compare ({here!r} here, {recorded!r} recorded)")
    fine = here == recorded
    text = f"{_short(here)} is {where}" + ("" if fine else f", {_short(recorded)} is recorded")
    verdict = Verdict.PASS if fine else Verdict.FAIL
    return Finding(name, verdict, here, recorded, f"{name}: {text}{', as recorded' if fine else ''}")


def _short(value: str) -> str:
    return f"{value[:19]}…" if value.startswith("sha256:") else value


@dataclass(frozen=True)
class Pins:
    """The lines of a requirements file: name → version, the lines that are no pin, and what has hashes."""

    versions: Mapping[str, str]
    conditions: Mapping[str, str]
    loose: tuple[str, ...]
    hashed: frozenset[str]


def read_pins(text: str) -> Pins:
    """Read a requirements file. Anything but `name==version`, hashes and comments is loose."""
    versions: dict[str, str] = {}
    conditions: dict[str, str] = {}
    loose: list[str] = []
    hashed: set[str] = set()
    current = ""
    for line in text.splitlines():
        bare = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if not bare:
            continue
        if current and _HASH.match(bare):
            hashed.add(current)
            continue
        pin = _PIN.match(bare)
        if pin is None:
            loose.append(bare.strip())
            continue
        current = normal(pin[1])
        if versions.get(current, pin[2]) != pin[2]:
            loose.append(f"{bare.strip()} (and {versions[current]} before)")
        versions[current] = pin[2]
        conditions[current] = pin[3] or ""
    return Pins(versions, conditions, tuple(loose), frozenset(hashed))


def normal(name: str) -> str:
    """Return a package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(pins: Pins, lock: Pins) -> list[Finding]:
    """Return whether a Bento's pins are pins, and those of the lock, whose own lines have hashes."""
    if not pins.versions and not pins.loose:
        return [gate.error("dependencies", "dependencies: the Bento names none, so nothing was compared")]
    if not lock.versions:
        return [gate.error("dependencies", "dependencies: requirements.lock pins nothing to compare with")]
    other = {
        f"{name}=={version} (locked: {lock.versions.get(name, 'nothing')})"
        for name, version in pins.versions.items()
        if lock.versions.get(name) != version
    }
    bare = {name for name in pins.versions if name in lock.versions and name not in lock.hashed}
    total = len(pins.versions) + len(pins.loose)
    return [
        some("dependencies pinned", pins.loose, total, "lines without =="),
        some("dependencies as locked", other, total, "not as in requirements.lock"),
        some("dependencies with hashes", bare, total, "without a sha256 in requirements.lock"),
    ]


def some(name: str, found: Sequence[str] | set[str], total: int, what: str, limit: int = 0) -> Finding:
    """PASS when at most `limit` of `total` things are such, the first of them by name; of none, ERROR."""
    if not total:
        return gate.error(name, f"{name}: there was nothing to look at")
    if limit < 0:
        return gate.error(name, f"{name}: the limit {limit} is negative")
    listed = sorted(found)
    shown = f": {', '.join(listed[:6])}{f' and {len(listed) - 6} more' if len(listed) > 6 else ''}"
    verdict = Verdict.PASS if len(listed) <= limit else Verdict.FAIL
    reason = f"{name}: {len(listed)} of {total} {what}, limit {limit}{shown if listed else ''}"
    return Finding(name, verdict, float(len(listed)), float(limit), reason)
