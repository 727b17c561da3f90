"""What a policy would do to healthy and sick candidates: seeded runs, beside the common rules. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.core.plan import Plan
from tidegate.core.replay import Course, Run, every, run, run_rule
from tidegate.core.rules import RULES
from tidegate.core.traffic_models import Candidate, Simulated, Traffic

MINUTES = 30.0  # how long a candidate is looked at, if it is not left or settled before


@dataclass(frozen=True)
class Scenario:
    """A candidate that a policy is tried on; `metric` is what has to be watched to notice it."""

    name: str
    candidate: Candidate
    metric: str = ""


HEALTHY = Scenario("healthy", Candidate())
SICK = (
    *(Scenario(f"{100 * rate:g}% errors", Candidate(errors=rate), "error-rate")
      for rate in (0.02, 0.03, 0.05, 0.1, 0.3, 1.0)),
    *(Scenario(f"{factor:g}× latency", Candidate(slower=factor), "latency") for factor in (1.2, 1.5, 2.0)),
)  # fmt: skip
SCENARIOS = (HEALTHY, *SICK)
OWN = "this rollout.yaml"
POLICIES = (OWN, *(rule.name for rule in RULES))


@dataclass(frozen=True)
class Job:
    """One run to make: all that a process needs to know."""

    plan: Plan
    environment: str
    traffic: Traffic
    scenario: Scenario
    policy: str
    seed: int
    seconds: float


def simulate(job: Job) -> Run:
    """Make one run; the same job gives the same run, and the same seed the same luck to each policy."""
    plan = job.plan
    source = Simulated(job.traffic, job.scenario.candidate, plan, job.seed)
    course = Course(every(float(plan.interval)), job.seconds, even=True)
    rule = next((rule for rule in RULES if rule.name == job.policy), None)
    if rule is None:
        return run(plan, job.environment, source, course)
    return run_rule(rule, plan, job.environment, source, course)


def jobs(
    plan: Plan, environment: str, traffic: Traffic, runs: int, sick: int, seed: int, seconds: float
) -> list[Job]:
    """Return every run of the table: `runs` of a healthy candidate, `sick` of each other, for each policy."""
    metrics = {check.metric for stage in plan.stages for check in stage.checks}
    made = []
    for place, scenario in enumerate(SCENARIOS):
        if scenario.metric and scenario.metric not in metrics:
            continue
        if scenario.candidate.errors is not None and scenario.candidate.errors <= traffic.errors:
            continue  # no worse than stable
        for policy in POLICIES:
            made += [
                Job(plan, environment, traffic, scenario, policy, seed + 1_000_003 * place + turn, seconds)
                for turn in range(sick if scenario.metric else runs)
            ]
    return made


# ---------------------------------------------------------------- summaries
@dataclass(frozen=True)
class Row:
    """What became of one scenario under one policy. Times in seconds, medians over all runs that had one.

    `left` are the runs in which the candidate was rolled back, with a 95% interval of their share; `late`
    those of them that were only left because nothing was proven until `progressDeadline`. `median` counts
    a run that never was as infinite: None when that is most of them. `lost` is the mean of failed answers.
    """

    scenario: str
    policy: str
    runs: int
    left: int
    low: float
    high: float
    late: int
    median: float | None
    caught_median: float | None
    verified: int
    verified_median: float | None
    lost: float
    lost_median: float

    @property
    def share(self) -> float:
        """The share of runs that were left."""
        return self.left / self.runs if self.runs else 0.0


def summarise(scenario: str, policy: str, runs: Sequence[Run]) -> Row:
    """Return the row of some runs; at least one."""
    left = [each for each in runs if each.left is not None]
    times = sorted(each.left if each.left is not None else math.inf for each in runs)
    middle = statistics.median(times)
    passed = [each.verified for each in runs if each.verified is not None]
    low, high = wilson(len(left), len(runs))
    return Row(
        scenario,
        policy,
        len(runs),
        len(left),
        low,
        high,
        sum(each.verdict == "INCONCLUSIVE" for each in left),
        middle if math.isfinite(middle) else None,
        statistics.median(t for t in times if math.isfinite(t)) if left else None,
        len(passed),
        statistics.median(passed) if passed else None,
        statistics.fmean(each.lost for each in runs),
        statistics.median(each.lost for each in runs),
    )


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson 1927)."""
    p, square = successes / trials, z * z / trials
    middle, half = p + square / 2, z * math.sqrt(p * (1 - p) / trials + square / (4 * trials))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
