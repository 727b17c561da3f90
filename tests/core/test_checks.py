"""Every metric of a check: what fails it, what proves it, what is no data, and what is remembered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core import analysis
from tidegate.core.analysis import CheckResult, Counts, Window
from tidegate.core.counts import SCORE_BINS
from tidegate.core.plan import AgainstStable, Check, FailureLimit, Milliseconds, Query, Ratio, Seconds
from tidegate.core.verdict import Verdict

ALPHA = 0.01
STABLE = AgainstStable(Ratio(0.25))
MISSING = Check("missing", "missing-features", Ratio(0.05), against_stable=STABLE)
DISAGREE = Check("disagree", "disagreement", Ratio(0.05))
APART = Check("apart", "score-difference", Ratio(0.05), difference=0.1)
QUEUE = Check("queue", "prometheus", Ratio(0.05), query=Query("a", "b"), against_stable=STABLE)
COMPLAINED = Check("complained", "outcome", Ratio(0.05), outcome="complained", against_stable=STABLE)
BOUGHT = Check("bought", "outcome", Ratio(0.05), outcome="bought", better="higher", against_stable=STABLE)
SPLIT = Check("split", "sample-ratio")
DRIFT = Check("drift", "prediction-drift", Ratio(0.1), distribution=Ratio(0.2))
TALLIED = (MISSING, DISAGREE, APART, QUEUE, COMPLAINED)
ALL = (
    Check("errors", "error-rate", Ratio(0.02), against_stable=STABLE, failure_limit=FailureLimit(2)),
    Check("latency", "latency", Milliseconds(200), against_stable=STABLE),
    *TALLIED,
    BOUGHT,
    SPLIT,
    DRIFT,
    Check("bursts", "error-rate", Ratio(0.05), burst=Seconds(5)),
)
SCORES = tuple(int(i < 10) * 2 for i in range(SCORE_BINS))  # mean 0.1, twenty scores
HIGHER = tuple(int(30 <= i < 40) * 2 for i in range(SCORE_BINS))


def tallied(check: Check, n: int, k: int, requests: int = 10) -> Counts:
    return Counts(requests, 0, (), {check.name: (n, k)})


def results_after(
    checks: Sequence[Check], windows: Sequence[Window], every: float = 1.0
) -> dict[str, CheckResult]:
    """Return the results by name after looks `every` so many seconds."""
    checks, evidence = tuple(checks), analysis.start(checks)
    for index, window in enumerate(windows, start=1):
        evidence = analysis.update(evidence, checks, window, ALPHA, every * index)
    return {result.name: result for result in analysis.judge(evidence, checks, ALPHA)}


# ---------------------------------------------------------------- what others count
@pytest.mark.parametrize("check", TALLIED, ids=lambda check: check.metric)
def test_a_tally_over_its_limit_fails_and_one_under_it_passes(check: Check) -> None:
    """Half of the trials are bad: FAIL, with both numbers. One in a hundred of many: PASS."""
    bad = results_after([check], [Window(tallied(check, 10, 5), tallied(check, 90, 0, 90), 0.1)] * 10)
    assert bad[check.name].verdict is Verdict.FAIL
    assert "50% (50/100) > limit 5%: evidence" in bad[check.name].reason
    good = results_after([check], [Window(tallied(check, 100, 1), tallied(check, 900, 9, 90), 0.1)] * 20)
    assert good[check.name].verdict is Verdict.PASS
    assert good[check.name].bound is not None
    assert good[check.name].bound <= 0.05


@pytest.mark.parametrize("check", [*TALLIED, BOUGHT, DRIFT], ids=lambda check: check.metric)
def test_nothing_counted_is_an_error_that_holds(check: Check) -> None:
    """Requests without the counts that a check needs are ERROR, and hold a step: nobody looked."""
    result = results_after([check], [Window(Counts(50), Counts(450), 0.1)] * 20)[check.name]
    assert (result.verdict, result.blocking, result.applicable) == (Verdict.ERROR, True, True)
    assert "counted yet" in result.reason


@pytest.mark.parametrize("check", [MISSING, QUEUE, COMPLAINED], ids=lambda check: check.metric)
def test_a_tally_worse_than_stables_fails_below_its_limit(check: Check) -> None:
    """4% against stable's 0.5% break no 5% limit, but the comparison; it never holds a step."""
    looks = [Window(tallied(check, 100, 4), tallied(check, 900, 4, 90), 0.1)] * 12
    results = results_after([check], looks)
    assert results[check.name].verdict is not Verdict.FAIL
    against = results[f"{check.name}-vs-stable"]
    assert against.verdict is Verdict.FAIL
    assert not against.blocking
    assert "1.25 × stable's 0.4% (48/10800)" in against.reason


def test_a_least_rate_is_failed_from_below() -> None:
    """1% of 2000 bought where at least 5% must: FAIL, told in those who bought."""
    low = results_after([BOUGHT], [Window(tallied(BOUGHT, 100, 1), tallied(BOUGHT, 900, 9), 0.1)] * 20)
    assert low["bought"].verdict is Verdict.FAIL
    assert low["bought"].reason.startswith("rate of bought 1% (20/2000) < limit 5%: evidence")
    assert low["bought"].limit == pytest.approx(0.05)
    high = results_after([BOUGHT], [Window(tallied(BOUGHT, 100, 10), tallied(BOUGHT, 900, 90), 0.1)] * 20)
    assert high["bought"].verdict is Verdict.PASS
    assert high["bought"].bound is not None
    assert 0.05 <= high["bought"].bound <= 0.1


def test_a_least_rate_is_held_against_stables_too() -> None:
    """Half as many buy as of stable: the comparison fails, and turned round it does not."""
    worse = Window(tallied(BOUGHT, 100, 8), tallied(BOUGHT, 900, 144), 0.1)
    result = results_after([BOUGHT], [worse] * 20)["bought-vs-stable"]
    assert result.verdict is Verdict.FAIL
    assert "8% (160/2000) < limit 0.8 × stable's 16% (2880/18000)" in result.reason
    better = Window(tallied(BOUGHT, 100, 16), tallied(BOUGHT, 900, 72), 0.1)
    assert results_after([BOUGHT], [better] * 10)["bought-vs-stable"].verdict is not Verdict.FAIL


def test_more_events_than_trials_are_so_many_trials() -> None:
    """Two sources read a moment apart may say 3 of 2; a look survives it."""
    result = results_after([QUEUE], [Window(tallied(QUEUE, 2, 3), tallied(QUEUE, 1, 2), 0.5)])["queue"]
    assert result.observed == 1.0


def test_a_dry_run_fails_nothing() -> None:
    """A dry run is judged and shown; nothing fails or is held by it."""
    check = Check("missing", "missing-features", Ratio(0.05), dry_run=True)
    windows = [Window(tallied(check, 10, 9), tallied(check, 90, 0), 0.1)] * 10
    result = results_after([check], windows)["missing"]
    assert (result.verdict, result.dry_run, result.blocking) == (Verdict.FAIL, True, False)


# ---------------------------------------------------------------- the split
def test_a_broken_split_fails_on_either_side() -> None:
    """13% or 7% of ten thousand requests where the weight says 10%; 10% is left alone."""
    for mine, verdict in ((13, Verdict.FAIL), (7, Verdict.FAIL), (10, Verdict.INCONCLUSIVE)):
        result = results_after([SPLIT], [Window(Counts(mine), Counts(100 - mine), 0.1)] * 100)["split"]
        assert result.verdict is verdict
        assert (result.blocking, result.applicable) == (False, True)
    broken = results_after([SPLIT], [Window(Counts(13), Counts(87), 0.1)] * 100)["split"]
    assert "share of requests 13% (" in broken.reason
    assert "≠ limit 10% by weight" in broken.reason


@pytest.mark.parametrize(
    "window", [Window(Counts(50), Counts(50), 0.5, exact=False), Window(Counts(90), Counts(), 1.0)]
)
def test_a_split_that_nobody_makes_is_not_judged(window: Window) -> None:
    """Mirrored requests, and full weight, say nothing of the router's split."""
    result = results_after([SPLIT], [window] * 50)["split"]
    assert (result.verdict, result.applicable, result.blocking) == (Verdict.INCONCLUSIVE, False, False)


def test_a_changing_weight_is_no_broken_split() -> None:
    """Looks in which the weight moved are left out; each share is held to its own weight."""
    looks = [Window(Counts(10), Counts(90), 0.1)] * 30
    looks += [Window(Counts(30), Counts(70), 0.5, exact=False), Window(Counts(50), Counts(50), 0.5)] * 1
    looks += [Window(Counts(50), Counts(50), 0.5)] * 30
    assert results_after([SPLIT], looks)["split"].verdict is Verdict.INCONCLUSIVE


def test_units_are_split_where_there_are_units() -> None:
    """In an experiment users are assigned, not requests: one user's thousand requests break nothing."""
    one = Counts(900, 0, (), {"units": (10, 0)})
    other = Counts(100, 0, (), {"units": (10, 0)})
    result = results_after([SPLIT], [Window(one, other, 0.5)] * 50)["split"]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "share of units 50%" in result.reason
    worse = Counts(100, 0, (), {"units": (30, 0)})
    assert results_after([SPLIT], [Window(one, worse, 0.5)] * 50)["split"].verdict is Verdict.FAIL


# ---------------------------------------------------------------- drift
def scored(*bins: tuple[int, ...]) -> Counts:
    return Counts(20, 0, (), {}, {"drift": tuple(map(sum, zip(*bins, strict=True)))})


def test_scores_that_moved_fail_both_parts() -> None:
    """A mean of 0.7 against stable's 0.1: both parts fail, with both means in the reason."""
    results = results_after([DRIFT], [Window(scored(HIGHER), scored(SCORES, SCORES), 0.3)] * 20)
    assert results["drift"].verdict is Verdict.FAIL
    assert results["drift-distribution"].verdict is Verdict.FAIL
    assert "0.700 of 400, stable's 0.100 of 800" in results["drift"].reason
    assert "> limit 0.1: evidence" in results["drift"].reason
    assert not results["drift"].blocking


def test_equal_scores_are_proven_equal() -> None:
    """Thousands of equal scores prove that the mean moved by less than the limit, and no shape changed."""
    results = results_after([DRIFT], [Window(scored(*[SCORES] * 10), scored(*[SCORES] * 30), 0.25)] * 30)
    assert results["drift"].verdict is Verdict.PASS
    assert results["drift-distribution"].verdict is Verdict.PASS


def test_a_late_drift_is_found() -> None:
    """After two thousand scores as stable's, other ones are found within a few hundred."""
    calm, gone = Window(scored(SCORES), scored(SCORES), 0.5), Window(scored(HIGHER), scored(SCORES), 0.5)
    assert results_after([DRIFT], [calm] * 100)["drift"].verdict is not Verdict.FAIL
    assert results_after([DRIFT], [calm] * 100 + [gone] * 25)["drift"].verdict is Verdict.FAIL


def test_drift_without_stable_does_not_apply() -> None:
    """At full weight there is nothing to compare the scores with, and nothing is held up."""
    result = results_after([DRIFT], [Window(scored(SCORES), Counts(), 1.0)] * 10)["drift"]
    assert (result.verdict, result.applicable) == (Verdict.INCONCLUSIVE, False)


def test_scores_before_an_edit_are_not_held_against_the_new_limit() -> None:
    """A drift limit that was edited begins with the scores that come after it."""
    loose = Check("drift", "prediction-drift", Ratio(0.9))
    strict = Check("drift", "prediction-drift", Ratio(0.1))
    evidence = analysis.start((loose,))
    for _ in range(30):
        evidence = analysis.update(evidence, (loose,), Window(scored(HIGHER), scored(SCORES), 0.5), ALPHA)
    evidence = analysis.update(evidence, (strict,), Window(Counts(1), Counts(1), 0.5), ALPHA)
    assert not analysis.breached(evidence, (strict,), ALPHA)
    for _ in range(30):
        evidence = analysis.update(evidence, (strict,), Window(scored(SCORES), scored(SCORES), 0.5), ALPHA)
    assert not analysis.breached(evidence, (strict,), ALPHA)


# ---------------------------------------------------------------- plain limits and bursts
PLAIN = Check("errors", "error-rate", Ratio(0.5), failure_limit=FailureLimit(2, Seconds(10)))


def test_a_failure_limit_fails_after_so_many_windows() -> None:
    """Two windows over the limit are allowed, the third is not; the reason has both numbers."""
    bad, good = Window(Counts(10, 6), Counts(90), 0.1), Window(Counts(10, 0), Counts(90), 0.1)
    allowed = results_after([PLAIN], [good] * 40 + [bad] * 20 + [good] * 40)["errors"]
    assert allowed.verdict is not Verdict.FAIL
    failed = results_after([PLAIN], [good] * 41 + [bad] * 10 + [good] * 20 + [bad] * 20)["errors"]
    assert failed.verdict is Verdict.FAIL
    assert failed.log_evidence < math.log(failed.threshold)
    assert (
        "error rate above 50% in 3 of 9 windows of 10 s > failureLimit 2; the last such 60%" in failed.reason
    )


def test_windows_without_requests_are_no_failures() -> None:
    """An hour of silence passes no plain limit, and is no window either."""
    result = results_after([PLAIN], [Window(Counts(), Counts(90), 0.1)] * 100)["errors"]
    assert result.verdict is Verdict.ERROR


def test_a_clock_that_was_set_back_stops_no_window() -> None:
    """After the clock went back by a day windows are counted again from there."""
    evidence, bad = analysis.start((PLAIN,)), Window(Counts(10, 6), Counts(90), 0.1)
    for now in [*range(86_400, 86_405), *range(40)]:
        evidence = analysis.update(evidence, (PLAIN,), bad, ALPHA, float(now))
    assert analysis.breached(evidence, (PLAIN,), ALPHA)


BURSTS = Check("errors", "error-rate", Ratio(0.02), burst=Seconds(10))


def test_a_burst_is_no_evidence_and_a_broken_release_is() -> None:
    """Forty errors in two seconds of ten minutes fail a plain limit, not one with `burst`; all bad does."""
    calm, burst = Window(Counts(20, 0), Counts(180), 0.1), Window(Counts(20, 20), Counts(180), 0.1)
    looks = [calm] * 300 + [burst] * 2 + [calm] * 300
    plain = Check("errors", "error-rate", Ratio(0.02))
    assert results_after([plain], looks)["errors"].verdict is Verdict.FAIL
    assert results_after([BURSTS], looks)["errors"].verdict is not Verdict.FAIL
    assert results_after([BURSTS], [calm] * 50 + [burst] * 40)["errors"].verdict is Verdict.FAIL


def test_bursts_are_proven_by_their_stretches() -> None:
    """What one stretch holds is one value: a thousand clean requests in a minute prove little."""
    calm = Window(Counts(20, 0), Counts(180), 0.1)
    assert results_after([BURSTS], [calm] * 100)["errors"].verdict is Verdict.INCONCLUSIVE
    assert results_after([BURSTS], [calm] * 3000)["errors"].verdict is Verdict.PASS


# ---------------------------------------------------------------- what is kept
def one_look(rng: np.random.Generator, rate: float, bad: float) -> Counts:
    n = int(rng.poisson(rate))
    slow = int(rng.binomial(n, bad))
    tallies = {check.name: (n, int(rng.binomial(n, bad))) for check in (*TALLIED, BOUGHT)}
    scores, _ = np.histogram(rng.beta(2, 5, n), SCORE_BINS, (0, 1))
    latency = ((50.0, n - slow), (200.0, 0), (250.0, 0), (400.0, slow), (math.inf, 0))
    return Counts(n, int(rng.binomial(n, bad)), latency, tallies, {"drift": tuple(scores.tolist())})


def look_at(seed: int, bad: float) -> Window:
    rng = np.random.default_rng(seed)
    return Window(one_look(rng, 5, bad), one_look(rng, 20, 0.02), float(rng.choice((0.2, 0.2, 0.5))))


@given(seeds=st.lists(st.integers(0, 10**6), max_size=12), cut=st.integers(0, 12), bad=st.floats(0, 0.6))
@settings(max_examples=40, deadline=None)
def test_a_restart_loses_nothing_of_any_check(seeds: list[int], cut: int, bad: float) -> None:
    """Evidence of every metric, stored as JSON at any look, goes on and judges as if nothing had been."""
    straight = broken = analysis.start(ALL)
    for index, seed in enumerate(seeds):
        window = look_at(seed, bad)
        if index == cut:
            broken = analysis.Evidence.from_dict(json.loads(json.dumps(broken.to_dict(), allow_nan=False)))
        straight = analysis.update(straight, ALL, window, ALPHA, float(index))
        broken = analysis.update(broken, ALL, window, ALPHA, float(index))
    assert broken == straight
    assert analysis.Evidence.from_dict(straight.stored()) is straight
    assert straight.stored() == straight.to_dict()
    results = analysis.judge(straight, ALL, ALPHA)
    assert analysis.judge(broken, ALL, ALPHA) == results
    json.dumps([result.as_dict() for result in results], allow_nan=False)
    failed = any(r.verdict is Verdict.FAIL for r in results)
    assert (
        analysis.breached(straight, ALL, ALPHA) == failed == analysis.Judgement(straight, ALL, ALPHA).failed
    )


@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_no_data_is_never_a_pass(seeds: list[int]) -> None:
    """Looks that counted nothing of the candidate leave every part unproven."""
    evidence = analysis.start(ALL)
    for index, seed in enumerate(seeds):
        window = Window(Counts(), look_at(seed, 0.1).stable, 0.2)
        evidence = analysis.update(evidence, ALL, window, ALPHA, float(index))
    verdicts = {result.verdict for result in analysis.judge(evidence, ALL, ALPHA)}
    assert verdicts <= {Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.FAIL}
    assert not analysis.breached(evidence, tuple(c for c in ALL if c is not SPLIT), ALPHA)


def test_one_look_may_be_many() -> None:
    """Without events, looks of one request and one look of them all say nearly the same."""
    checks = (Check("errors", "error-rate", Ratio(0.02)),)
    one = results_after(checks, [Window(Counts(600), Counts(900), 0.4)])["errors"]
    many = results_after(checks, [Window(Counts(1), Counts(1), 0.4)] * 600)["errors"]
    assert one.bound == pytest.approx(many.bound)
    assert one.observed == many.observed
    assert one.trials == many.trials == 600


def test_evidence_of_an_earlier_release_is_read() -> None:
    """What was stored before purses were plain numbers keeps its counts and breaches, and begins anew."""
    old = {
        "candidate": {"requests": 900, "errors": 9, "latency": []},
        "stable": {"requests": 9000, "errors": 90, "latency": [[10.0, 5], [None, 1]]},
        "share": 0.1,
        "parts": {
            name: {
                "spec": spec,
                "trials": 900,
                "wealth": [-3.4] * 24,
                "guard": [],
                "guard_trials": 0,
                "pooled": [900, 9, 0, 0],
                "possible": 9,
                "run": [0, 0, 0, 0],
                "excess": 0.0,
                "sums": [],
                "level": -1.0,
                "peak": peak,
                "limit": 0.02,
            }
            for name, spec, peak in (("errors", "error-rate<0.02", 0.5), ("other", "error-rate<0.1", 99.0))
        },
    }
    checks = (Check("errors", "error-rate", Ratio(0.02)), Check("other", "error-rate", Ratio(0.1)))
    evidence = analysis.Evidence.from_dict(json.loads(json.dumps(old)))
    evidence = analysis.update(evidence, checks, Window(Counts(10), Counts(90), 0.1), ALPHA)
    errors, other = analysis.judge(evidence, checks, ALPHA)
    assert (errors.verdict, errors.trials) == (Verdict.INCONCLUSIVE, 910)
    assert errors.log_evidence <= 0.01
    assert other.verdict is Verdict.FAIL


def test_anything_else_is_not_read() -> None:
    """A document that is no evidence is refused, not taken for an empty one."""
    for document in ({}, {"parts": {"a": 3}, "form": 2}, {"parts": {"a": {"spec": 3}}, "form": 2}):
        with pytest.raises((KeyError, TypeError)):
            analysis.Evidence.from_dict(document)


# ---------------------------------------------------------------- how seldom a healthy release is failed
def healthy_tallies(rng: np.random.Generator) -> tuple[Sequence[Check], list[Window]]:
    """Arms with one rate, whose numbers of trials have nothing to do with the weight."""
    check = Check(
        "bought", "outcome", Ratio(0.6), outcome="bought", against_stable=AgainstStable(Ratio(0.01))
    )
    looks = []
    for _ in range(120):
        n, m, rate = rng.integers(0, 9), rng.integers(0, 9), rng.uniform(0.05, 0.5)
        mine, theirs = int(rng.binomial(n, rate)), int(rng.binomial(m, rate))
        looks.append(Window(tallied(check, int(n), mine), tallied(check, int(m), theirs), 0.1))
    return (check,), looks


def healthy_split(rng: np.random.Generator) -> tuple[Sequence[Check], list[Window]]:
    """A router that splits as configured, with weights that move now and then."""
    looks = []
    for index in range(120):
        share = (0.1, 0.5, 0.25)[index // 40]
        mine = int(rng.binomial(30, share))
        looks.append(Window(Counts(mine), Counts(30 - mine), share, exact=index % 40 > 0))
    return (SPLIT,), looks


def bursting(rng: np.random.Generator) -> tuple[Sequence[Check], list[Window]]:
    """Stretches of ten seconds with a rate each, from 0 to 20%, whose mean is the limit."""
    check = Check("errors", "error-rate", Ratio(0.1), burst=Seconds(10))
    looks: list[Window] = []
    for _ in range(40):
        rate = float(rng.choice((0.0, 0.2)))
        looks += [Window(Counts(8, int(rng.binomial(8, rate))), Counts(30), 0.2) for _ in range(10)]
    return (check,), looks


@pytest.mark.parametrize("traffic", [healthy_tallies, healthy_split, bursting])
def test_the_promise_holds_for_every_kind_of_part(
    traffic: Callable[[np.random.Generator], tuple[Sequence[Check], list[Window]]],
) -> None:
    """With alpha 20%, no more than a fifth of the healthy rollouts are ever failed, chance allowed for."""
    failed = 0
    for seed in range(60):
        checks, looks = traffic(np.random.default_rng(seed))
        evidence = analysis.start(checks)
        for index, window in enumerate(looks, start=1):
            evidence = analysis.update(evidence, checks, window, 0.2, float(index))
        failed += analysis.breached(evidence, checks, 0.2)
    assert failed <= 21  # more than 21 of 60 at 20%: one chance in 300
