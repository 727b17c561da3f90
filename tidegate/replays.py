"""Many replays on all cores: the same jobs give the same runs, however many processes there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from tidegate.core.replay import Run
from tidegate.core.trials import Job, Row, simulate, summarise

AT_ONCE = 4  # jobs handed to a process together


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def simulate_all(
    jobs: Sequence[Job], workers: int = 0, told: Callable[[int], None] = lambda done: None
) -> list[Run]:
    """Return the run of each job, in their order; `told` hears how many more are done.

    `workers` is the number of processes (0: one a core; 1: this one).
    """
    workers = min(workers or cores(), len(jobs) or 1)
    if workers == 1:
        return [_told(simulate(job), told) for job in jobs]
    found: dict[int, Run] = {}
    # The long ones first, so that no process has one left when the others are done.
    order = sorted(range(len(jobs)), key=lambda place: _length(jobs[place]), reverse=True)
    pool = ProcessPoolExecutor(workers)
    try:
        waiting: dict[Future[list[Run]], list[int]] = {}
        for start in range(0, len(order), AT_ONCE):
            places = order[start : start + AT_ONCE]
            waiting[pool.submit(_simulate, [jobs[place] for place in places])] = places
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                places = waiting.pop(future)
                found.update(zip(places, future.result(), strict=True))
                told(len(places))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # Ctrl-C ends it at once, too
    return [found[place] for place in range(len(jobs))]


def _simulate(jobs: Sequence[Job]) -> list[Run]:
    return [simulate(job) for job in jobs]


def _told(run: Run, told: Callable[[int], None]) -> Run:
    told(1)
    return run


def _length(job: Job) -> float:
    """Return about how long a job takes: what is noticed late is looked at for long."""
    errors = job.scenario.candidate.errors
    return job.seconds / (1.0 if errors is None else 100 * errors)


def rows(jobs: Sequence[Job], runs: Sequence[Run]) -> list[Row]:
    """Return one row for each scenario and policy, in the order of the jobs."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for job, run in zip(jobs, runs, strict=True):
        grouped.setdefault((job.scenario.name, job.policy), []).append(run)
    return [summarise(scenario, policy, found) for (scenario, policy), found in grouped.items()]
