"""How long somebody waits for what a rollout.yaml would do: the defaults of `tidegate replay`, all cores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from bench.registry import Goal, Measured, entries
from tidegate.config import parse_rollout
from tidegate.core.traffic_models import Traffic
from tidegate.core.trials import MINUTES, OWN, jobs
from tidegate.replays import cores, rows, simulate_all

ROLLOUT = Path("envs/canary/rollout.yaml")
HEALTHY_RUNS, SICK_RUNS, SEED = 80, 20, 1


@entries(replay_default=("s", Goal(at_most=60)))
def default_replay() -> Mapping[str, Measured]:
    """The whole table for this repository's canary: each scenario, under it and under three common rules."""
    plan, _ = parse_rollout(ROLLOUT.read_text(), str(ROLLOUT), "canary")
    made = jobs(plan, "canary", Traffic(), HEALTHY_RUNS, SICK_RUNS, SEED, 60 * MINUTES)
    began = time.perf_counter()
    runs = simulate_all(made)
    took = time.perf_counter() - began
    found = {row.scenario: row for row in rows(made, runs) if row.policy == OWN}
    healthy, sick = found["healthy"], found["10% errors"]
    note = f"{len(made)} rollouts of {MINUTES:g} minutes on {cores()} cores; of the own ones "
    note += f"{healthy.left}/{healthy.runs} healthy were left, 10% errors in {sick.median or 0:.0f} s"
    return {"replay-default": Measured(took, note=note)}
