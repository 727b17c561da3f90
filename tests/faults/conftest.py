"""How often each fault is done: FAULT_RUNS, once by default."""

from __future__ import annotations

import os

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Do each fault several times."""
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", range(int(os.environ.get("FAULT_RUNS", "1"))))
