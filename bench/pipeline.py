"""The pipeline when there is nothing to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.registry import CannotRun, Goal, Measured, entries


@entries(dvc_noop=("s", Goal(at_most=10)))
def noop() -> Mapping[str, Measured]:
    """Seconds of `dvc repro` where every stage is up to date; the better of two."""
    programs = Path(sys.executable).parent
    dvc, environment = str(programs / "dvc"), {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    if not Path("dvc.yaml").is_file() or not Path("dvc.lock").is_file():
        raise CannotRun("there is no dvc.yaml with a dvc.lock: run `dvc repro` once")
    # Looked at before: measuring must not train, and a half-built checkout has nothing to measure.
    status = subprocess.run([dvc, "status", "--json"], capture_output=True, text=True, check=False)
    if status.returncode != 0:
        raise CannotRun(f"`dvc status` failed: {status.stderr.strip().splitlines()[-1:]}")
    todo = sorted(stage for stage, why in json.loads(status.stdout).items() if why != ["always changed"])
    if todo:
        raise CannotRun(f"the pipeline has something to do ({', '.join(todo)}): run `dvc repro` first")
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        done = subprocess.run([dvc, "repro"], capture_output=True, text=True, check=False, env=environment)
        seconds.append(time.perf_counter() - began)
        if done.returncode != 0:
            raise CannotRun(f"`dvc repro` failed: {done.stderr.strip().splitlines()[-1:]}")
        ran = re.findall(r"Running stage '([^']+)'", done.stdout)
        # They always look, at what lies outside of DVC's sight: the stores, and the Bento in one of them.
        if {stage.partition("@")[0] for stage in ran} != {"stores", "gate-artifact"}:
            raise CannotRun(f"`dvc repro` ran {', '.join(ran) or 'not even `stores`'}")
    return {
        "dvc-noop": Measured(
            min(seconds),
            note=f"{len(seconds)} runs, nothing trained or built; nearly all of it looks at the Bento",
        )
    }
