"""Always-valid evidence: never too easily against a healthy release, never lost, never order-dependent."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core import evidence as ev

rates = st.floats(0.001, 0.9)
counts = st.integers(0, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
fewer = settings(max_examples=40, deadline=None)


def follow(batches: list[tuple[int, int]], bets: ev.Bets) -> float:
    """Return the log evidence after batches of (trials, events)."""
    wealth, seen = ev.begin(), 0
    for trials, events in batches:
        wealth = ev.advance(wealth, seen, trials, events, bets)
        seen += trials
    return ev.log_evidence(wealth, seen)


def crossings(
    draw: Callable[[random.Random], list[tuple[int, int, ev.Bets]]], runs: int, level: float
) -> int:
    """Return in how many seeded runs the evidence ever reached `level`."""
    crossed = 0
    for seed in range(runs):
        wealth, seen = ev.begin(), 0
        for trials, events, bets in draw(random.Random(seed)):
            wealth = ev.advance(wealth, seen, trials, events, bets)
            seen += trials
            if ev.log_evidence(wealth, seen) >= math.log(level):
                crossed += 1
                break
    return crossed


def events_in(rng: random.Random, trials: int, rate: float) -> int:
    return sum(rng.random() < rate for _ in range(trials))


@pytest.mark.parametrize("null", [0.01, 0.2])
def test_a_rate_at_the_limit_is_seldom_failed(null: float) -> None:
    """At the null itself, the evidence ever reaches 10 in no more than a tenth of the runs (Ville)."""

    def run(rng: random.Random) -> list[tuple[int, int, ev.Bets]]:
        sizes = [rng.randint(0, 12) for _ in range(150)]
        return [(n, events_in(rng, n, null), ev.rate_bets(null)) for n in sizes]

    # 200 runs at 10%: more than 33 have a chance of 1 in 500 even for a test that is exactly at its level.
    assert crossings(run, 200, 10) <= 33


def test_equal_arms_are_seldom_failed_while_the_share_changes() -> None:
    """Pooling over steps of 5, 25 and 50% keeps the error: Ville holds with bets that follow the share."""

    def run(rng: random.Random) -> list[tuple[int, int, ev.Bets]]:
        looks = []
        for share in (0.05, 0.25, 0.5):
            for _ in range(40):
                errors = rng.randint(0, 3)
                mine = events_in(rng, errors, ev.share_at(1.25, share))
                looks.append((errors, mine, ev.risk_bets(1.25, share)))
        return looks

    assert crossings(run, 200, 10) <= 33


@given(null=rates, n=st.integers(1, 30))
@fewer
def test_evidence_is_a_martingale_at_the_null(null: float, n: int) -> None:
    """Averaged over all outcomes of a batch at the null rate, the evidence stays what it was: 1."""
    bets = ev.rate_bets(null)
    mean = sum(
        math.comb(n, k) * null**k * (1 - null) ** (n - k) * math.exp(follow([(n, k)], bets))
        for k in range(n + 1)
    )
    assert mean == pytest.approx(1, rel=1e-9)


@given(null=rates, better=st.floats(0.05, 1), n=st.integers(1, 30))
@fewer
def test_evidence_never_grows_on_average_below_the_null(null: float, better: float, n: int) -> None:
    """For every rate under the limit the mean of the evidence is at most 1."""
    rate, bets = null * better, ev.rate_bets(null)
    mean = sum(
        math.comb(n, k) * rate**k * (1 - rate) ** (n - k) * math.exp(follow([(n, k)], bets))
        for k in range(n + 1)
    )
    assert mean <= 1 + 1e-9


@given(null=rates, batches=st.lists(counts, min_size=1, max_size=8))
@fewer
def test_a_likelihood_does_not_depend_on_how_trials_are_cut(
    null: float, batches: list[tuple[int, int]]
) -> None:
    """What a bet placed at the start has won is the same for one batch and for many."""
    bets = ev.rate_bets(null)
    n, k = sum(b[0] for b in batches), sum(b[1] for b in batches)
    for hit, miss in bets:
        whole = k * hit + (n - k) * miss
        assert math.isclose(
            sum(e * hit + (t - e) * miss for t, e in batches), whole, rel_tol=1e-9, abs_tol=1e-6
        )


@given(null=rates, batches=st.lists(counts, min_size=1, max_size=8))
@fewer
def test_empty_looks_change_nothing(null: float, batches: list[tuple[int, int]]) -> None:
    """Looks without a trial leave the evidence exactly as it was."""
    bets = ev.rate_bets(null)
    padded = [look for batch in batches for look in ((0, 0), batch, (0, 0))]
    assert follow(padded, bets) == follow(batches, bets)


@given(null=rates, batch=counts)
@fewer
def test_evidence_grows_with_events(null: float, batch: tuple[int, int]) -> None:
    """Of the same trials, one event more is never less evidence."""
    n, k = batch
    if k < n:
        bets = ev.rate_bets(null)
        assert follow([(n, k + 1)], bets) >= follow([(n, k)], bets)


@given(null=rates, batch=counts)
@fewer
def test_evidence_stays_finite(null: float, batch: tuple[int, int]) -> None:
    """A hundred thousand bad answers overflow nothing."""
    n, k = batch
    assert math.isfinite(follow([(n * 1000, k * 1000)], ev.rate_bets(null)))


def test_a_late_breach_is_not_diluted() -> None:
    """A third of errors after 3000 good requests is evidence of 400 within 40 requests, as at the start."""
    bets = ev.rate_bets(0.02)
    late = [(1, 0)] * 3000 + [(3, 1)] * 13
    assert follow(late, bets) > math.log(400)
    assert follow([(3000 + 39, 13)], bets) < math.log(400)  # all in one look: 0.4%, nothing to see


@given(batch=counts, alpha=st.floats(0.001, 0.3))
@fewer
def test_the_rate_bound_inverts_the_test(batch: tuple[int, int], alpha: float) -> None:
    """Above the bound a limit is proven to be held, below it is not, and the bound is above the rate."""
    n, k = batch
    bound = ev.rate_bound(n, k, alpha)
    assert bound >= (k / n if n else 1)
    goal = -math.log(alpha)
    if bound < 1:
        assert ev.log_evidence_below(min(bound * 1.001, 0.5 + bound / 2), n, k) >= goal
        below = bound - 2e-5
        assert below <= (k / n) or ev.log_evidence_below(below, n, k) < goal


@given(batch=counts, values=st.tuples(rates, rates))
@fewer
def test_a_looser_limit_is_easier_to_prove(batch: tuple[int, int], values: tuple[float, float]) -> None:
    """The evidence of being below a value grows with the value; else the bound would not be one."""
    low, high = sorted(values)
    assert ev.log_evidence_below(low, *batch) <= ev.log_evidence_below(high, *batch) + 1e-9


@given(
    sums=st.lists(st.tuples(st.sampled_from((0.05, 0.25, 0.5)), counts), min_size=1, max_size=3),
    alpha=st.floats(0.01, 0.2),
)
@fewer
def test_the_risk_bound_inverts_the_test(sums: list[tuple[float, tuple[int, int]]], alpha: float) -> None:
    """The same for the relative risk, pooled over shares; without events there is no bound."""
    flat = [(share, n, k) for share, (n, k) in sums]
    bound = ev.risk_bound(flat, alpha)
    if math.isinf(bound):
        assert ev.log_evidence_risk_below(1e6, flat) < -math.log(alpha)
    else:
        assert ev.log_evidence_risk_below(bound * 1.001, flat) >= -math.log(alpha)
    assert math.isinf(ev.risk_bound([], alpha))


def test_the_rate_bound_seldom_lies_below_the_truth() -> None:
    """Looked at after every batch, a 90% bound is ever wrong in no more than a tenth of the runs."""
    wrong = 0
    for seed in range(150):
        rng = random.Random(seed)
        n = k = 0
        for _ in range(60):
            size = rng.randint(1, 10)
            n, k = n + size, k + events_in(rng, size, 0.1)
            if ev.log_evidence_below(0.1, n, k) >= math.log(10):
                wrong += 1
                break
    assert wrong <= 26


def test_a_quantile_is_not_known_before_there_is_data_for_it() -> None:
    """A few fast answers say nothing about the slowest in a hundred."""
    assert math.isinf(ev.quantile_bound([], 0.99, 0.01))
    assert math.isinf(ev.quantile_bound([(10.0, 100), (math.inf, 0)], 0.99, 0.01))
    assert ev.quantile_bound([(10.0, 5000), (math.inf, 0)], 0.99, 0.01) == 10.0


def test_the_quantile_bound_seldom_lies_below_the_quantile() -> None:
    """Where 1.1% are slower than 20 ms, 20 ms is seldom called an upper bound of p99, at any look."""
    wrong = 0
    for seed in range(150):
        rng = random.Random(seed)
        fast = slow = 0
        for _ in range(60):
            size = rng.randint(1, 40)
            late = events_in(rng, size, 0.011)
            fast, slow = fast + size - late, slow + late
            if ev.quantile_bound([(20.0, fast), (40.0, slow), (math.inf, 0)], 0.99, 0.1) <= 20:
                wrong += 1
                break
    assert wrong <= 26


@pytest.mark.parametrize("null", [0.0, 1.0, -0.1, 1.5])
def test_a_null_must_be_a_rate(null: float) -> None:
    """A limit of 0 or 1 can't be tested, and says so."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        ev.rate_grid(null)


def test_more_events_than_trials_are_refused() -> None:
    """Impossible counts are an error, not evidence."""
    with pytest.raises(ValueError, match="3 events in 2 trials"):
        ev.advance(ev.begin(), 0, 2, 3, ev.rate_bets(0.1))


# ---------------------------------------------------------------- two arms whose trials are known
def binomial(n: int, p: float) -> list[float]:
    """Return the probability of each number of events."""
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@given(
    trials=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    base=st.floats(0.001, 0.99),
    less=st.floats(0.05, 1),
    times=st.floats(1.0, 3.0),
)
@fewer
def test_arms_with_known_trials_are_never_blamed_on_average(
    trials: tuple[int, int], base: float, less: float, times: float
) -> None:
    """By exact enumeration: at a risk of at most θ0 the mean of each bet is at most 1, whatever the rates."""
    (n, m), mine = trials, min(1.0, base * times * less)
    base = min(base, mine / (times * less)) if mine == 1.0 else base
    bets = ev.risk_bets(times, ev.trial_share(n, m, up=True))
    total = [0.0] * ev.GRID
    for k, p in enumerate(binomial(n, mine)):
        for s, q in enumerate(binomial(m, base)):
            for j, factor in enumerate(bets.factors(k + s, k)):
                total[j] += p * q * factor
    assert max(total) <= 1 + 1e-9


@given(
    trials=st.tuples(st.integers(1, 7), st.integers(1, 7)), base=st.floats(0.001, 0.3), risk=st.floats(0.3, 3)
)
@fewer
def test_the_bound_of_a_risk_with_known_trials_holds_on_average(
    trials: tuple[int, int], base: float, risk: float
) -> None:
    """By exact enumeration: evidence that the risk lies below its true value has a mean of at most 1."""
    (n, m), mine = trials, base * risk
    share = ev.trial_share(n, m, up=False)
    mean = sum(
        p * q * math.exp(ev.log_evidence_risk_below(risk, [(share, k + s, k)]))
        for k, p in enumerate(binomial(n, mine))
        for s, q in enumerate(binomial(m, base))
    )
    assert mean <= 1 + 1e-9


@given(n=st.integers(1, 10_000), m=st.integers(1, 10_000))
@fewer
def test_a_share_is_rounded_to_its_side(n: int, m: int) -> None:
    """Up it is never smaller than the share of the trials, down never larger, and both are near."""
    up, down = ev.trial_share(n, m, up=True), ev.trial_share(n, m, up=False)
    assert down <= n / (n + m) * (1 + 1e-6)
    assert up >= n / (n + m) * (1 - 1e-6)
    assert up / (1 - up) <= 1.051 * n / m
    assert down / (1 - down) >= n / m / 1.51


# ---------------------------------------------------------------- the other kinds of bets
@given(share=st.floats(0.01, 0.99), above=st.booleans(), n=st.integers(1, 20))
@fewer
def test_evidence_of_another_split_is_a_martingale(share: float, above: bool, n: int) -> None:
    """Of requests split as configured, the mean of each bet is exactly 1, on both sides."""
    bets = ev.split_bets(share, above)
    total = [0.0] * ev.GRID
    for k, p in enumerate(binomial(n, share)):
        for j, factor in enumerate(bets.factors(n, k)):
            total[j] += p * factor
    assert total == pytest.approx([1.0] * ev.GRID)


@given(
    null=st.floats(0.01, 0.9), values=st.lists(st.floats(0, 1), min_size=1, max_size=6), less=st.floats(0, 1)
)
@fewer
def test_a_mean_in_the_limit_is_never_blamed_on_average(
    null: float, values: list[float], less: float
) -> None:
    """Whatever a stretch's rates are, as long as their mean is at most the limit: a mean of at most 1."""
    mean = sum(values) / len(values)
    shrunk = [value * min(1.0, null * less / mean) if mean else 0.0 for value in values]
    found = [ev.mean_factors(null, value) for value in shrunk]
    for column in zip(*found, strict=True):
        assert sum(column) / len(column) <= 1 + 1e-9
        assert min(column) >= 0


@given(null=rates, batches=st.lists(counts, min_size=1, max_size=6))
@fewer
def test_waiting_for_an_event_never_wins(null: float, batches: list[tuple[int, int]]) -> None:
    """Eventless batches weighed as one are at most what they are one by one: the reserve goes in sooner."""
    bets = ev.rate_bets(null)
    split = [look for t, e in batches for look in ([(1, 0)] * t if e == 0 else [(t, e)])]
    assert follow(batches, bets) <= follow(split, bets) + 1e-9


def test_a_purse_never_overflows() -> None:
    """A million bad answers in one look, again and again, stay a number that JSON can hold."""
    wealth, seen = ev.begin(), 0
    for _ in range(5):
        wealth = ev.advance(wealth, seen, 10**6, 10**6, ev.rate_bets(0.01))
        seen += 10**6
    assert max(wealth) <= ev.RICHEST
    assert math.isfinite(ev.log_evidence(wealth, seen))


@given(batch=st.tuples(st.integers(1, 4000), st.floats(0, 1)), alpha=st.floats(0.001, 0.3))
@fewer
def test_the_rate_bound_agrees_with_bisection(batch: tuple[int, float], alpha: float) -> None:
    """False position ends where halving the interval does, and never below it."""
    n, k = batch[0], int(batch[0] * batch[1])
    bound, low, high = ev.rate_bound(n, k, alpha), k / n, 1.0
    if bound >= 1:
        assert k == n or ev.log_evidence_below(1 - 1e-9, n, k) < -math.log(alpha) + 1e-3
        return
    for _ in range(60):
        middle = (low + high) / 2
        if ev.log_evidence_below(middle, n, k) >= -math.log(alpha):
            high = middle
        else:
            low = middle
    assert high * (1 - 1e-9) <= bound <= high * (1 + 1e-4) + 1e-9
