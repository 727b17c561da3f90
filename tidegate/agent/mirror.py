"""The registry's aliases mirror Git: what they should say, and how they are moved without carrying MLflow.

MLflow takes seconds and hundreds of megabytes to import. An agent that idles for months must not pay for
it, so the aliases are moved by a process of its own, at low priority so that it slows no request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from tidegate.config import Desired
from tidegate.errors import Unreachable

PATIENCE = 300  # seconds for a registry that is slow to start


def aliases(desired: Desired, plane: str) -> dict[str, dict[str, int | None]]:
    """Return model → environment → version as Git wants it on a plane; None where it wants nothing."""
    mine = [env for env in desired.environments.values() if env.platform.plane == plane]
    found: dict[str, dict[str, int | None]] = {}
    for model in desired.models():
        records = {env.name: desired.records.get(env.releases.get(model, "")) for env in mine}
        found[model] = {name: record.registry.version if record else None for name, record in records.items()}
    return {model: names for model, names in found.items() if any(names.values())}


def mirror(plane: str) -> Callable[[Desired], None]:
    """Return what makes the aliases say what Git says; raises Unreachable when they could not be moved."""

    def run(desired: Desired) -> None:
        wanted = aliases(desired, plane)
        if not wanted:
            return
        # Ends with this agent: one that is left behind would later undo what the next one has moved.
        mine = ["--parent", str(os.getpid())]
        command = ["nice", "-n", "19", sys.executable, "-m", "tidegate", "mirror", json.dumps(wanted), *mine]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"aliases not moved: {error}", "It is tried again, with back-off.") from error
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise Unreachable(f"aliases not moved: {last}", "It is tried again, with back-off.")

    return run
