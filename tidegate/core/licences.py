"""What a package's metadata says about its licence, as SPDX, and whether a policy takes it.

Fails closed: what can't be told, and what is on no list, is unknown, which is not the same as allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Literal

Standing = Literal["allowed", "denied", "unknown"]
# Words that packages use in the free field `License`, which are no SPDX. "BSD" alone names no licence.
WORDS = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "mit license": "MIT",
    "the mit license": "MIT",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd license": "BSD-3-Clause",
    "2-clause bsd license": "BSD-2-Clause",
    "psf": "PSF-2.0",
    "isc license": "ISC",
    "gplv3": "GPL-3.0-only",
    "gpl v3": "GPL-3.0-only",
}
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
}


def spdx(expression: str | None, text: str | None, classifiers: Sequence[str]) -> str | None:
    """Return an SPDX expression for `License-Expression`, else `License`, else the classifiers; or None.

    Several classifiers are taken together (AND): which of them may be chosen, they don't say.
    """
    for said in (expression, text):
        if said and (found := _parsed(WORDS.get(said.strip().lower(), said.strip()))):
            return found
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::")]
    told = [CLASSIFIERS[one] for one in named if one in CLASSIFIERS]
    return " AND ".join(sorted(set(told))) if told and len(told) == len(named) else None


def standing(expression: str | None, allowed: Collection[str], denied: Collection[str]) -> Standing:
    """Return how a policy stands to an expression: of OR the best part counts, of AND the worst.

    A licence is denied by its identifier, with or without an exception (`… WITH …`).
    """
    if expression is None or (parsed := _parse(expression)) is None:
        return "unknown"
    return _stands(parsed, frozenset(allowed), frozenset(denied))


_ORDER: tuple[Standing, ...] = ("allowed", "unknown", "denied")


def _stands(node: Any, allowed: frozenset[str], denied: frozenset[str]) -> Standing:
    parts = [_stands(part, allowed, denied) for part in getattr(node, "args", ())]
    if parts:
        best = node.operator.strip() == "OR"
        return (min if best else max)(parts, key=_ORDER.index)
    whole = node.render()
    plain = whole.partition(" WITH ")[0]
    if whole in allowed:
        return "allowed"
    if whole in denied or plain in denied:
        return "denied"
    return "allowed" if plain in allowed else "unknown"


def known(identifiers: Collection[str]) -> list[str]:
    """Return those that are no SPDX expression: a misspelt one in a policy would allow, or deny, nothing."""
    return sorted(one for one in identifiers if _parse(one) is None)


def _parsed(text: str) -> str | None:
    found = _parse(text) if len(text) < 200 else None  # longer ones are the licence itself
    return None if found is None else str(found.render())


def _parse(text: str) -> Any:
    from license_expression import ExpressionError, ExpressionParseError

    try:
        return _licensing().parse(text, validate=True, strict=True)
    except (ExpressionError, ExpressionParseError):
        return None


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()
