"""The simulation of thousands of rollouts is the arithmetic that the agent runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.crowd import Blocks, Rates, Risks, Second
from bench.rollouts import Traffic
from tidegate.core import analysis
from tidegate.core import evidence as ev
from tidegate.core.plan import AgainstStable, Check, Ratio, Seconds

RUNS, LOOKS, ALPHA = 6, 150, 0.01
BOTH = (Check("errors", "error-rate", Ratio(0.02), against_stable=AgainstStable(Ratio(0.25))),)
BURSTS = (Check("errors", "error-rate", Ratio(0.02), burst=Seconds(20)),)


def windows(second: Second) -> list[analysis.Window]:
    """Return what each rollout sees in a second."""
    return [
        analysis.Window(
            analysis.Counts(int(second.requests[i]), int(second.errors[i])),
            analysis.Counts(int(second.stable_requests[i]), int(second.stable_errors[i])),
            second.share,
        )
        for i in range(RUNS)
    ]


@pytest.mark.parametrize("errors", [0.01, 0.1, 1.0])
def test_a_crowd_is_weighed_as_each_rollout_is(errors: float) -> None:
    """Look by look, over changing weights, every rollout's evidence is that of `analysis.update`."""
    traffic = Traffic(errors=errors, shares=(0.1, 0.5), burst=0.02)
    rates, risks = Rates(RUNS, 200, 0.02), Risks(RUNS, 200, 1.25)
    alone = [analysis.start(BOTH)] * RUNS
    for now, second in enumerate(traffic.seconds(RUNS, LOOKS, 7), start=1):
        rates.look(now, second)
        risks.look(now, second)
        alone = [
            analysis.update(one, BOTH, window, ALPHA, float(now))
            for one, window in zip(alone, windows(second), strict=True)
        ]
        for name, crowd in (("errors", rates), ("errors-vs-stable", risks)):
            parts = [one.parts[name] for one in alone]
            assert [part.trials for part in parts] == crowd.trials.tolist()
            mine = [ev.log_evidence(part.wealth, part.trials) for part in parts]
            assert np.log(crowd.evidence()) == pytest.approx(mine, rel=1e-9, abs=1e-9)
            failed = [part.peak >= math.log(200) for part in parts]
            assert failed == np.isfinite(crowd.failed).tolist()


def test_a_crowds_bursts_are_weighed_as_each_rollouts_are() -> None:
    """The same for stretches of time that each count as one value."""
    traffic, blocks = Traffic(errors=0.05, burst=0.02, alone=True), Blocks(RUNS, 100, 0.02, 20)
    alone = [analysis.start(BURSTS)] * RUNS
    for now, second in enumerate(traffic.seconds(RUNS, LOOKS, 8), start=1):
        blocks.look(now, second)
        alone = [
            analysis.update(one, BURSTS, window, ALPHA, float(now))
            for one, window in zip(alone, windows(second), strict=True)
        ]
        parts = [one.parts["errors"] for one in alone]
        assert [part.trials for part in parts] == blocks.trials.tolist()
        mine = [ev.log_evidence(part.wealth, part.trials) for part in parts]
        assert np.log(blocks.evidence()) == pytest.approx(mine, rel=1e-9, abs=1e-9)
