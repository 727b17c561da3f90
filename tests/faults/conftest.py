"""How often each fault is done: FAULT_RUNS, once by default. What the tests of this room share."""

from __future__ import annotations

import os

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Do each fault several times."""
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", range(int(os.environ.get("FAULT_RUNS", "1"))))


@pytest.fixture
def properties(request: pytest.FixtureRequest) -> list[tuple[str, object]]:
    """What the table at the end is made of."""
    found: list[tuple[str, object]] = request.node.user_properties
    return found
