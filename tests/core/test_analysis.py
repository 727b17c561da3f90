"""From counters to verdicts: what fails, what passes, what can't be judged, and what is remembered."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core import analysis
from tidegate.core.analysis import Counts, Window
from tidegate.core.plan import AgainstStable, Check, Milliseconds, Ratio
from tidegate.core.verdict import Verdict

ALPHA = 0.01
ERRORS = Check("errors", "error-rate", Ratio(0.02), against_stable=AgainstStable(Ratio(0.25)))
LATENCY = Check("latency", "latency", Milliseconds(200), against_stable=AgainstStable(Ratio(0.2)))
BOTH = (ERRORS, LATENCY)
BOUNDS = (10.0, 20.0, 40.0, 50.0, 100.0, 200.0, 400.0, math.inf)


def arm(requests: int, errors: int = 0, ms: float = 8.0, slow: int = 0, slow_ms: float = 8.0) -> Counts:
    """Return counts whose answers take `ms`, but `slow` of them `slow_ms`."""
    latency = dict.fromkeys(BOUNDS, 0)
    latency[next(b for b in BOUNDS if ms <= b)] += requests - slow
    latency[next(b for b in BOUNDS if slow_ms <= b)] += slow
    return Counts(requests, errors, tuple(latency.items()))


def after(
    *windows: Window, checks: tuple[Check, ...] = BOTH, alpha: float = ALPHA
) -> dict[str, analysis.CheckResult]:
    """Return the results by name after some looks."""
    evidence = analysis.start(checks)
    for window in windows:
        evidence = analysis.update(evidence, checks, window, alpha)
    return {result.name: result for result in analysis.judge(evidence, checks, alpha)}


HEALTHY = [Window(arm(50), arm(450), 0.1)] * 20


def test_alpha_is_split_over_every_part() -> None:
    """Two checks with a part against stable each are four chances to be wrong: 4/alpha each."""
    assert analysis.threshold(BOTH, 0.01) == 400
    assert {r.threshold for r in after(*HEALTHY).values()} == {400}


def test_a_healthy_canary_passes_its_limits() -> None:
    """A thousand clean answers prove both limits; parts against stable hold nothing up."""
    results = after(*HEALTHY)
    assert results["errors"].verdict is Verdict.PASS
    assert results["latency"].verdict is Verdict.PASS


def test_clean_arms_are_no_proof_that_they_are_equal() -> None:
    """Without one error on either arm, the part against stable is INCONCLUSIVE, not PASS."""
    result = after(*HEALTHY)["errors-vs-stable"]
    assert (result.verdict, result.applicable, result.blocking) == (Verdict.INCONCLUSIVE, True, False)


def test_a_few_requests_are_not_enough() -> None:
    """Ten clean requests pass nothing: the bound is far above the limit."""
    results = after(Window(arm(10), arm(90), 0.1))
    assert results["errors"].verdict is Verdict.INCONCLUSIVE
    assert results["errors"].bound is not None
    assert results["errors"].bound > 0.02


def test_nothing_counted_is_an_error() -> None:
    """No requests at all, and requests without latencies, are ERROR: nobody looked."""
    assert after()["errors"].verdict is Verdict.ERROR
    blind = after(*[Window(Counts(500, 0), Counts(500, 0), 0.5)] * 3)
    assert blind["errors"].verdict is Verdict.PASS
    assert blind["latency"].verdict is Verdict.ERROR


def replace_check(check: Check, **changes: object) -> Check:
    fields = {name: getattr(check, name) for name in check.__struct_fields__}
    return Check(**{**fields, **changes})


def test_a_dead_release_is_failed_within_a_few_requests() -> None:
    """Five answers of five are errors: FAIL, with both numbers in the reason."""
    results = after(*[Window(arm(1, 1), arm(9), 0.1)] * 5)
    assert results["errors"].verdict is Verdict.FAIL
    assert results["errors"].reason.startswith("error rate 100% (5/5) > limit 2%: evidence ")
    assert results["errors"].reason.endswith("≥ 400")
    assert (results["errors"].observed, results["errors"].limit) == (1.0, 0.02)


def test_worse_than_stable_fails_below_the_absolute_limit() -> None:
    """1.5% errors break no 2% limit, but against a stable at 0.05% they are a breach."""
    looks = [Window(arm(200, 3), arm(1800, 1), 0.1)] * 12
    results = after(*looks)
    assert results["errors"].verdict is not Verdict.FAIL
    assert results["errors-vs-stable"].verdict is Verdict.FAIL
    assert "1.25 × stable's 0.06% (12/21600)" in results["errors-vs-stable"].reason


def test_errors_of_both_arms_do_not_blame_the_canary_against_stable() -> None:
    """Half of all requests fail on both: the limit is broken, but not in comparison."""
    results = after(*[Window(arm(20, 10), arm(180, 90), 0.1)] * 10)
    assert results["errors"].verdict is Verdict.FAIL
    assert results["errors-vs-stable"].verdict is Verdict.INCONCLUSIVE


def test_slow_answers_break_the_latency_limit() -> None:
    """Ten in a hundred slower than 200 ms, where one is allowed."""
    result = after(*[Window(arm(20, slow=2, slow_ms=300), arm(180), 0.1)] * 10)["latency"]
    assert result.verdict is Verdict.FAIL
    assert "share of answers over 200 ms 10% (20/200) > limit 1%" in result.reason


def test_a_bucket_that_straddles_the_limit_neither_fails_nor_passes() -> None:
    """Answers of 200 to 400 ms may or may not be over 300 ms: not evidence, and not proof either."""
    check = Check("latency", "latency", Milliseconds(300))
    result = after(*[Window(arm(100, slow=50, slow_ms=250), arm(100), 0.5)] * 20, checks=(check,))["latency"]
    assert result.verdict is Verdict.INCONCLUSIVE


def test_slower_than_stable_fails() -> None:
    """Stable's p99 is 10 ms; a canary with a tenth of its answers at 50 ms is slower than 1.2 times that."""
    looks = [Window(arm(20, slow=2, slow_ms=45), arm(180), 0.1)] * 30
    results = after(*looks)
    assert results["latency"].verdict is Verdict.PASS
    assert results["latency-vs-stable"].verdict is Verdict.FAIL
    assert "over 20 ms (1.2 × stable's)" in results["latency-vs-stable"].reason


def test_a_stall_of_the_machine_does_not_blame_the_canary() -> None:
    """After a calm minute both arms stall alike: no evidence against the canary in comparison."""
    calm = [Window(arm(5), arm(45), 0.1)] * 60
    stall = [Window(arm(5, slow=5, slow_ms=150), arm(45, slow=45, slow_ms=150), 0.1)] * 20
    assert after(*calm, *stall)["latency-vs-stable"].verdict is not Verdict.FAIL


def test_a_breach_against_stable_outlives_the_knowledge_of_stable() -> None:
    """When the router's buckets change after a breach, the breach stays, with the numbers it had."""
    looks = [Window(arm(20, slow=2, slow_ms=45), arm(180), 0.1)] * 30
    other = Counts(5, 0, ((7.0, 5), (math.inf, 0)))
    result = after(*looks, Window(other, other, 0.1))["latency-vs-stable"]
    assert result.verdict is Verdict.FAIL
    assert "over 20 ms" in result.reason


def test_a_late_breach_is_told_with_its_own_numbers() -> None:
    """After 3000 good requests a third fails: FAIL in seconds, and the reason shows the third."""
    late = [Window(arm(6, 2), arm(54), 0.1)] * 8
    results = after(*[Window(arm(60), arm(540), 0.1)] * 50, *late)
    assert results["errors"].verdict is Verdict.FAIL
    assert "33.3% (16 of the last 48)" in results["errors"].reason


def test_a_breach_is_never_taken_back() -> None:
    """What reached the threshold once stays FAIL, however good the next thousand answers are."""
    results = after(*[Window(arm(5, 5), arm(45), 0.1)] * 2, *HEALTHY)
    assert results["errors"].verdict is Verdict.FAIL


@pytest.mark.parametrize("window", [Window(arm(100), Counts(), 1.0), Window(arm(100), Counts(), 0.1)])
def test_without_stable_the_comparison_does_not_apply(window: Window) -> None:
    """At full weight, or with a silent stable, there is nothing to compare with, and nothing held up."""
    results = after(*[window] * 20)
    for name in ("errors-vs-stable", "latency-vs-stable"):
        assert results[name].verdict is Verdict.INCONCLUSIVE
        assert not results[name].applicable


def test_dry_run_checks_change_no_conclusion() -> None:
    """A dry run is judged and shown, and neither fails nor holds a step."""
    checks = (replace_check(ERRORS, dry_run=True), LATENCY)
    looks = [Window(arm(50, 25), arm(450), 0.1)] * 20
    results = after(*looks, checks=checks)
    assert results["errors"].verdict is Verdict.FAIL
    assert results["errors"].dry_run
    evidence = analysis.start(checks)
    for look in looks:
        evidence = analysis.update(evidence, checks, look, ALPHA)
    assert not analysis.breached(evidence, checks, ALPHA)


def test_an_edited_limit_starts_its_part_anew() -> None:
    """Evidence gathered against one limit is not used against another; the other parts go on."""
    evidence = analysis.start(BOTH)
    for _ in range(3):
        evidence = analysis.update(evidence, BOTH, Window(arm(10, 5), arm(90), 0.1), ALPHA)
    edited = (replace_check(ERRORS, limit=Ratio(0.9)), LATENCY)
    results = {r.name: r for r in analysis.judge(evidence, edited, ALPHA)}
    assert results["errors"].verdict is Verdict.ERROR
    assert results["errors-vs-stable"].verdict is Verdict.FAIL


small = st.integers(0, 30)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    def one() -> Counts:
        n = draw(small)
        slow = draw(st.integers(0, n))
        return arm(n, draw(st.integers(0, n)), slow=slow, slow_ms=draw(st.sampled_from((30.0, 90.0, 900.0))))

    return Window(one(), one(), draw(st.sampled_from((0.05, 0.25, 0.5, 1.0))))


@given(looks=st.lists(windows(), max_size=12), cut=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_a_restart_loses_nothing(looks: list[Window], cut: int) -> None:
    """Evidence written as JSON at any look and read back judges exactly as if nothing had happened."""
    straight = broken = analysis.start(BOTH)
    for index, look in enumerate(looks):
        if index == cut:
            broken = analysis.Evidence.from_dict(json.loads(json.dumps(broken.to_dict(), allow_nan=False)))
        straight = analysis.update(straight, BOTH, look, ALPHA)
        broken = analysis.update(broken, BOTH, look, ALPHA)
    assert broken == straight
    assert analysis.judge(broken, BOTH, ALPHA) == analysis.judge(straight, BOTH, ALPHA)
    for result in analysis.judge(straight, BOTH, ALPHA):
        json.dumps(result.as_dict(), allow_nan=False)


@given(looks=st.lists(windows(), max_size=12))
@settings(max_examples=60, deadline=None)
def test_breached_is_what_judge_says(looks: list[Window]) -> None:
    """The cheap question and the full judgement never disagree."""
    evidence = analysis.start(BOTH)
    for look in looks:
        evidence = analysis.update(evidence, BOTH, look, ALPHA)
    results = analysis.judge(evidence, BOTH, ALPHA)
    assert analysis.breached(evidence, BOTH, ALPHA) == any(r.verdict is Verdict.FAIL for r in results)


def test_the_stored_evidence_stays_small() -> None:
    """Four parts with 60 latency buckets and five weights take less than 4 KB a check."""
    bounds = (*(1.1**i for i in range(60)), math.inf)
    rng = random.Random(1)
    evidence = analysis.start(BOTH)
    for share in (0.05, 0.1, 0.25, 0.5, 0.75):
        for _ in range(20):
            latency = tuple((b, rng.randint(0, 900)) for b in bounds)
            counts = Counts(sum(n for _, n in latency), rng.randint(0, 99), latency)
            evidence = analysis.update(evidence, BOTH, Window(counts, counts, share), ALPHA)
    assert len(json.dumps(evidence.to_dict())) < 8192


def cumulative(counts: Counts) -> Counts:
    total, latency = 0, []
    for bound, count in counts.latency:
        total += count
        latency.append((bound, total))
    return replace(counts, latency=tuple(latency))


def test_a_delta_is_what_came_between_two_readings() -> None:
    """Cumulative buckets become the counts of the look alone."""
    before, look = arm(10, 1), arm(5, 2, slow=2, slow_ms=90)
    assert analysis.delta(cumulative(before), cumulative(before.plus(look))) == look
    assert analysis.delta(None, cumulative(before)) == before


@pytest.mark.parametrize(
    "before",
    [arm(100, 0), Counts(1, 5, ()), Counts(1, 0, arm(40, slow=1, slow_ms=30).latency)],
    ids=["requests", "errors", "a bucket"],
)
def test_a_counter_that_went_down_was_reset(before: Counts) -> None:
    """After a restart of the router everything it has counted since is new, and nothing is negative."""
    assert analysis.delta(cumulative(before), cumulative(arm(7, 1))) == arm(7, 1)


def test_other_buckets_give_no_latency_for_that_look() -> None:
    """When the bucket bounds changed, a look's answers can't be placed, so none are."""
    before = Counts(10, 0, ((10.0, 10), (math.inf, 10)))
    after_ = Counts(30, 1, ((10.0, 20), (25.0, 29), (math.inf, 30)))
    assert analysis.delta(before, after_) == Counts(20, 1, ())


@pytest.mark.parametrize("share", [0.0, 1.01, -1.0])
def test_a_share_is_a_share(share: float) -> None:
    """A window without candidate weight can't be judged, and says so."""
    with pytest.raises(ValueError, match="share"):
        Window(arm(1), arm(1), share)
