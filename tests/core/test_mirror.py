"""What the registry's aliases should say is computed from Git alone."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.builders import A, B, envs
from tidegate.agent import mirror
from tidegate.config import parse_desired
from tidegate.errors import Unreachable


def test_aliases_follow_each_environment_of_the_plane() -> None:
    """A plane's environments each name the version of the release that Git wants there, or nothing."""
    desired = parse_desired("c" * 40, envs(production=A, canary=B))
    (names,) = mirror.aliases(desired, "production").values()
    versions = {r.id: r.registry.version for r in desired.records.values()}
    assert names == {"production": versions[A], "canary": versions[B]}
    assert mirror.aliases(desired, "staging") == {}


def test_a_registry_that_hangs_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end is an error of ours, which an agent outlives."""

    def hang(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(Unreachable, match="aliases not moved"):
        mirror.mirror("production")(parse_desired("c" * 40, envs(production=A)))
