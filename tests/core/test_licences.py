"""From a package's metadata to SPDX, and from SPDX to what a policy says of it."""

from __future__ import annotations

import pytest

from tidegate.core import licences

ALLOWED, DENIED = ("MIT", "Apache-2.0", "MPL-2.0"), ("GPL-3.0-only", "AGPL-3.0-only")
OSI = "License :: OSI Approved :: "


@pytest.mark.parametrize(
    ("expression", "text", "classifiers", "wanted"),
    [
        ("Apache-2.0 AND MIT", "BSD", [], "Apache-2.0 AND MIT"),
        (None, "Apache 2.0", [], "Apache-2.0"),
        (None, "MIT License", [f"{OSI}Apache Software License"], "MIT"),
        (None, "", [f"{OSI}MIT License"], "MIT"),
        (None, None, [f"{OSI}MIT License", f"{OSI}Apache Software License"], "Apache-2.0 AND MIT"),
        (None, "Permission is hereby granted" * 20, [f"{OSI}MIT License"], "MIT"),
        (None, "BSD", [f"{OSI}BSD License"], None),  # which of them it is, nobody says
        (None, None, [f"{OSI}MIT License", f"{OSI}BSD License"], None),
        (None, "Proprietary", [], None),
        ("No-Such-Licence", None, [], None),
        (None, None, [], None),
    ],
)
def test_metadata_becomes_spdx_or_nothing(
    expression: str | None, text: str | None, classifiers: list[str], wanted: str | None
) -> None:
    """The expression first, then the free field, then the classifiers together; else None."""
    assert licences.spdx(expression, text, classifiers) == wanted


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("MIT", "allowed"),
        ("GPL-3.0-only", "denied"),
        ("ISC", "unknown"),
        (None, "unknown"),
        ("no licence at all", "unknown"),
        ("MIT OR GPL-3.0-only", "allowed"),
        ("MIT AND GPL-3.0-only", "denied"),
        ("MIT AND ISC", "unknown"),
        ("ISC OR GPL-3.0-only", "unknown"),
        ("MIT AND (Apache-2.0 OR GPL-3.0-only)", "allowed"),
        ("GPL-3.0-only WITH GCC-exception-3.1", "denied"),
        ("Apache-2.0 WITH LLVM-exception", "allowed"),
    ],
)
def test_a_policy_takes_the_best_of_or_and_the_worst_of_and(expression: str | None, wanted: str) -> None:
    """What may be chosen counts by its best part, what holds together by its worst; no list is no yes."""
    assert licences.standing(expression, ALLOWED, DENIED) == wanted


def test_without_lists_nothing_is_allowed() -> None:
    """An empty policy allows nothing and denies nothing."""
    assert licences.standing("MIT", (), ()) == "unknown"


def test_an_exception_may_be_allowed_by_name() -> None:
    """`… WITH …` on the list of the allowed is allowed, though the licence itself is denied."""
    whole = "GPL-3.0-only WITH GCC-exception-3.1"
    assert licences.standing(whole, (whole,), ("GPL-3.0-only",)) == "allowed"


def test_a_misspelt_identifier_is_found() -> None:
    """A name that is no SPDX would allow, or deny, nothing, and nobody would notice."""
    assert licences.known(["MIT", "GPL3", "Apache-2"]) == ["Apache-2", "GPL3"]
