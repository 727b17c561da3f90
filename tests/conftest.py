"""Isolation: tests run as on a fresh machine, whatever hook, workflow or plane they were started from."""

from __future__ import annotations

import os

# At import, before any test module reads its environment: a hook's GIT_DIR would send every git command
# to another repository, a workflow's GITHUB_ACTIONS would stop the local forge from running anything.
for _name in list(os.environ):
    if _name.startswith(("GIT_", "GITHUB_", "TIDEGATE_", "SUPERVISOR_", "BENTOML_", "DVC_", "MLFLOW_")):
        del os.environ[_name]

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from tests.faults.table import pytest_terminal_summary  # noqa: E402, F401

# How long an example takes is the machine's doing, and no property of ours.
settings.register_profile(
    "busy", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes: at the end it would leave one of two workers with nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
