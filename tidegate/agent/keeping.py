"""The log of predictions is put in order by a process of its own: Parquet is nothing that an agent carries.

It takes hundreds of megabytes and, after a busy minute, seconds of a processor: at low priority, and not
where rollbacks are decided.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tidegate.errors import Unreachable

PATIENCE = 1800  # seconds for a log that was left alone for long
_FAILED = "the log of predictions could not be put in order"
REST_SECONDS = 3600.0  # after which old days are looked for although nothing is new


def keeping(
    folder: Path, settle: float, days: float, outcomes: Path | None = None
) -> Callable[[float], None]:
    """Return what converts, merges and forgets at `now`; raises Unreachable when that did not work.

    The file of `outcomes` forgets with the log. Nothing is started while no segment waits.
    """
    looked = float("-inf")

    def run(now: float) -> None:
        nonlocal looked
        # What can't be read stays there by another name: it waits for nothing.
        waiting = any(any((folder / "segments").glob(f"*/*{end}")) for end in (".open", ".closed"))
        if not folder.is_dir() or (not waiting and 0 <= now - looked < REST_SECONDS):
            return
        # Ends with this agent, as it is killed: the next one goes on with what was left.
        mine = ["--settle", str(settle), "--days", str(days), "--parent", str(os.getpid())]
        mine += ["--outcomes", str(outcomes)] if outcomes else []
        command = ["nice", "-n", "19", sys.executable, "-m", "tidegate", "predictions", "keep", str(folder)]
        try:
            done = subprocess.run(
                [*command, *mine], capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"{_FAILED}: {error}", "It is tried again.") from error
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise Unreachable(f"{_FAILED}: {last}", "It is tried again.")
        looked = now

    return run
