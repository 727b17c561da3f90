"""Pins, locks and digests, compared."""

from __future__ import annotations

import pytest

from tidegate.core import artifact
from tidegate.core.verdict import Verdict, worst

HASH = "    --hash=sha256:" + "0" * 64
LOCK = artifact.read_pins(
    f"a==1.0 \\\n{HASH}\n    # via b\nB_c==2.0 ; sys_platform == 'win32' \\\n{HASH}\nd==3.0\n"
)


def verdict(requirements: str) -> Verdict:
    return worst(f.verdict for f in artifact.locked(artifact.read_pins(requirements), LOCK))


def test_a_lock_is_read_with_its_hashes() -> None:
    """Names are PEP 503's, markers are kept, and a pin without a hash is known as such."""
    assert LOCK.versions == {"a": "1.0", "b-c": "2.0", "d": "3.0"}
    assert LOCK.conditions["b-c"] == "sys_platform == 'win32'"
    assert LOCK.hashed == {"a", "b-c"}
    assert LOCK.loose == ()


def test_locked_pins_pass() -> None:
    """Every line pinned, of the lock's version, with a hash there."""
    assert verdict("# pins\na==1.0\nb.c==2.0; sys_platform == 'win32'\n") is Verdict.PASS


@pytest.mark.parametrize(
    "line",
    ["a", "a>=1.0", "a~=1.0", "a==1.*", "a==1.0,<2", "a @ https://example.org/a.whl", "-e .", "-r other.txt",
     "--find-links https://example.org", "git+https://example.org/a", "a===1.0", "d==3.0", "a==1.1", "x==1.0",
     "a==1.0\na==1.1"],
)  # fmt: skip
def test_what_is_no_pin_of_the_lock_fails(line: str) -> None:
    """Ranges, addresses, options, other versions, unknown packages, and pins that the lock has no hash of."""
    assert verdict(f"b-c==2.0\n{line}\n") is Verdict.FAIL


def test_no_requirements_are_an_error() -> None:
    """Nothing to look at is never a pass, on either side."""
    assert verdict("# nothing\n") is Verdict.ERROR
    (found,) = artifact.locked(artifact.read_pins("a==1.0"), artifact.read_pins(""))
    assert found.verdict is Verdict.ERROR


def test_digests_are_the_same_or_not() -> None:
    """Equal passes, unequal fails with both, and a missing one is an error on either side."""
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert artifact.same("files", one, one, "here").verdict is Verdict.PASS
    found = artifact.same("files", one, two, "here")
    assert found.verdict is Verdict.FAIL
    assert found.observed == one
    assert "sha256:111111111111… is here, sha256:222222222222… is recorded" in found.reason
    assert artifact.same("files", "", one, "here").verdict is Verdict.ERROR
    assert artifact.same("files", one, "", "here").verdict is Verdict.ERROR


def test_a_limit_of_some_things() -> None:
    """As many as the limit pass, one more fails; of none, and with a negative limit, nobody can tell."""
    assert artifact.some("licences", ["a"], 3, "unknown", 1).verdict is Verdict.PASS
    assert artifact.some("licences", ["a", "b"], 3, "unknown", 1).verdict is Verdict.FAIL
    assert artifact.some("licences", [], 0, "unknown").verdict is Verdict.ERROR
    assert artifact.some("licences", [], 3, "unknown", -1).verdict is Verdict.ERROR
