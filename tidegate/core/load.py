"""What a load run says: error rates with their intervals, two releases side by side, the highest rate.

Pure functions over what `adapters/locust.py` measured; chance enters by a seed only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.core import gate
from tidegate.core.verdict import Finding, Verdict

Floats = NDArray[np.float64]
Blame = Literal["", "service", "generator"]


# ---------------------------------------------------------------- errors
def share_interval(failures: int, total: int, confidence: float) -> tuple[float, float]:
    """Return a share's two-sided interval by Clopper and Pearson (Biometrika 26, 1934): never too narrow."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    tail = (1 - confidence) / 2
    low = float(betaincinv(failures, total - failures + 1, tail)) if failures else 0.0
    high = float(betaincinv(failures + 1, total - failures, 1 - tail)) if failures < total else 1.0
    return low, high


def error_rate(name: str, failures: int, total: int, limit: float, confidence: float = 0.99) -> Finding:
    """Is the share of failed requests above `limit`? A failure in thousands is no proof of that.

    PASS when the observed share keeps the limit, FAIL when even the lower end of its interval is above it,
    INCONCLUSIVE between; ERROR without requests, or with a limit that is no share.
    """
    if not total:
        return gate.error(name, f"{name}: there were no requests")
    found = gate.within(f"{name}: the limit", limit, 0, 1)
    if found.verdict is not Verdict.PASS:
        return Finding(name, Verdict.ERROR, failures / total, None, found.reason)
    share, (low, high) = failures / total, share_interval(failures, total, confidence)
    sign = "≤" if share <= limit else ">"
    told = f"{name} {failures:,} of {total:,} ({low:.2%} to {high:.2%}) {sign} limit {limit:.4g}"
    if share <= limit:
        return Finding(name, Verdict.PASS, share, limit, told)
    if low > limit:
        return Finding(name, Verdict.FAIL, share, limit, told)
    more = math.ceil(failures / limit) if limit else 0
    hint = (
        f"too few to tell; as many failures among {more:,} would keep it" if more else "chance can't be told"
    )
    return Finding(name, Verdict.INCONCLUSIVE, share, limit, f"{told}: {hint}")


# ---------------------------------------------------------------- two releases in one run
@dataclass(frozen=True)
class Side:
    """One release's answers while two took turns.

    `latencies` in milliseconds of good answers, `blocks` the number of the time block of each, `cpu` the
    CPU milliseconds that its process used in each block (NaN where nobody could tell), `failures` the rest.
    """

    latencies: Floats
    blocks: NDArray[np.int64]
    cpu: Floats
    failures: int = 0

    @classmethod
    def none(cls) -> Side:
        """Return a side that nobody asked yet."""
        return cls(np.empty(0), np.empty(0, dtype=np.int64), np.empty(0))

    def and_then(self, more: Side) -> Side:
        """Return both runs as one; the later one's blocks come after."""
        return Side(
            np.concatenate([self.latencies, more.latencies]),
            np.concatenate([self.blocks, more.blocks + len(self.cpu)]),
            np.concatenate([self.cpu, more.cpu]),
            self.failures + more.failures,
        )


@dataclass(frozen=True)
class Ratio:
    """Candidate ÷ production with its interval; both numbers in the measure's own unit."""

    candidate: float
    production: float
    low: float
    high: float


def whole(candidate: Side, production: Side, limit: float, minimum: int) -> tuple[Finding, Finding]:
    """Return whether both gave enough good answers, and whether they failed too often to be compared.

    Too few are INCONCLUSIVE. A candidate's copy that fails is judged like the endpoint; a failing copy of
    production is ERROR: there is nothing to compare with.
    """
    answers = min(len(candidate.latencies), len(production.latencies))
    sample = gate.enough("good answers of each copy", answers, minimum)
    totals = [len(side.latencies) + side.failures for side in (candidate, production)]
    errors = error_rate("error rate of the candidate's copy", candidate.failures, totals[0], limit)
    theirs = error_rate("error rate of production's copy", production.failures, totals[1], limit)
    if errors.verdict is Verdict.PASS and theirs.verdict.holds_back:
        errors = gate.error(theirs.name, f"nothing to compare with: {theirs.reason}")
    return sample, errors


def ratios(
    candidate: Side,
    production: Side,
    *,
    seed: int,
    confidence: float = 0.99,
    resolution: float = 0.0,
    resamples: int = 1000,
) -> dict[str, Ratio]:
    """Return `p50`, `p95` (ms), `throughput` (answers/s of one connection) and `cpu` (ms an answer).

    The interval is a percentile bootstrap over time blocks (Künsch 1989), the same blocks for both sides: a
    stall of the machine is drawn, or not drawn, for both. It is widened by `resolution`, by which two
    processes of one and the same release may differ (layout in memory, core, port). Throughput counts the
    slowest twentieth of all answers as if they were the fastest of them: a stall of a second would outweigh a
    thousand answers, and p95 tells the tail. Empty without two blocks in which both answered.
    """
    shared = np.intersect1d(candidate.blocks, production.blocks)
    if len(shared) < 2:
        return {}
    draws = np.random.default_rng(seed).multinomial(len(shared), [1 / len(shared)] * len(shared), resamples)
    cap = float(np.quantile(np.concatenate([candidate.latencies, production.latencies]), 0.95))
    sides = [_measures(side, shared, draws, cap) for side in (candidate, production)]
    found = {}
    for name, (one, of_one) in sides[0].items():
        other, of_other = sides[1][name]
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = of_one / of_other
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail]) if np.isfinite(drawn).all() else (math.nan, math.nan)
        found[name] = Ratio(one, other, float(low) / (1 + resolution), float(high) * (1 + resolution))
    return found


def _measures(
    side: Side, shared: NDArray[np.int64], draws: NDArray[np.int64], cap: float
) -> dict[str, tuple[float, Floats]]:
    """Return each measure of a side, and its value in each resample of the shared blocks."""
    inside = np.isin(side.blocks, shared)
    order = np.argsort(side.latencies[inside], kind="stable")
    latencies = side.latencies[inside][order]
    place = np.searchsorted(shared, side.blocks[inside][order])
    answers = np.bincount(place, minlength=len(shared)).astype(float)
    times = np.bincount(place, weights=np.minimum(latencies, cap), minlength=len(shared))
    cpu = side.cpu[shared]
    found: dict[str, tuple[float, Floats]] = {}
    for name, share in (("p50", 0.50), ("p95", 0.95)):
        drawn = np.array([_quantile(latencies, draw[place], share) for draw in draws])
        found[name] = _quantile(latencies, np.ones(len(latencies)), share), drawn
    count = draws @ answers
    found["throughput"] = 1000 * float(answers.sum() / times.sum()), 1000 * count / (draws @ times)
    found["cpu"] = float(cpu.sum() / answers.sum()), (draws @ cpu) / count
    return found


def _quantile(ordered: Floats, weights: NDArray[np.float64] | NDArray[np.int64], share: float) -> float:
    """Return the smallest value with at least `share` of the weight at or below it."""
    running = np.cumsum(weights)
    return float(ordered[int(np.searchsorted(running, share * running[-1]))])


# ---------------------------------------------------------------- the highest rate
@dataclass(frozen=True)
class Rung:
    """One short step at `rate` requests a second: what was sent and answered, and how busy the sender was.

    `seconds` it lasted, `p95` in milliseconds, `busy` the generator's share of a core, `late` by how many
    milliseconds it sent behind its own schedule (95th percentile) though no answer held it up.
    """

    rate: float
    seconds: float
    p95: float
    requests: int
    failures: int
    busy: float
    late: float

    @property
    def answered(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Objective:
    """What a rung must keep: `p95` in milliseconds, a share of failed requests."""

    p95: float
    error_rate: float


FULL = 0.95  # share of the rate that must be sent and answered, or the rate was not reached
BUSY = 0.85  # share of a core from which a generator of one thread is at its end
LATE = 25.0  # milliseconds behind its schedule from which what it measures is its own waiting


def kept(rung: Rung, objective: Objective) -> bool:
    """Tell whether a rate was reached, answered in time, and without too many failures."""
    # The first and the last request may fall outside of a short step.
    whole = rung.requests > 0 and rung.requests + 2 >= FULL * rung.rate * rung.seconds
    failing = share_interval(rung.failures, rung.requests, 0.99)[0] if rung.requests else 1.0
    return whole and rung.p95 <= objective.p95 and failing <= objective.error_rate


def shown(rungs: Sequence[Rung], objective: Objective) -> list[tuple[Rung, int]]:
    """Return each rate once, in order, and how often it was tried: the try that kept it, else the last."""
    found = []
    for rate in sorted({rung.rate for rung in rungs}):
        tries = [rung for rung in rungs if rung.rate == rate]
        found.append((next((rung for rung in tries if kept(rung, objective)), tries[-1]), len(tries)))
    return found


def blame(rung: Rung) -> Blame:
    """Return who was at its end at a rate that was not kept."""
    return "generator" if rung.busy >= BUSY or rung.late >= LATE else "service"


def next_rate(
    rungs: Sequence[Rung], objective: Objective, *, first: float, top: float, halvings: int = 3
) -> float | None:
    """Return the next rate to try, or None when the climb is over.

    Doubling from `first` up to `top`, then halving the gap (on a logarithmic scale) `halvings` times between
    the highest rate that was kept and the lowest that was not; below `first` by halves, three times. A rate
    counts as not kept when it was missed twice: a hiccup of the machine is not the end of a service.
    """
    if not rungs:
        return first
    good = max((rung.rate for rung in rungs if kept(rung, objective)), default=0.0)
    missed = [rung.rate for rung in rungs if not kept(rung, objective) and rung.rate > good]
    if not missed:
        return min(2 * good, top) if good < top else None
    bad = min(missed)
    if missed.count(bad) < 2:
        return bad
    if not good:
        return bad / 2 if bad > first / 8 else None
    tried = {rung.rate for rung in rungs if rung.rate < 2 * first * 2 ** _doublings(rungs, first)}
    between = sum(not _doubled(rate, first, top) for rate in tried)
    return None if between >= halvings or bad / good < 1.1 else math.sqrt(good * bad)


def step_seconds(rate: float, step: float) -> float:
    """Return how long to try a rate: `step` seconds, and longer (five times at most) for twenty requests."""
    return min(max(step, 20 / rate), 5 * step)


def _doubled(rate: float, first: float, top: float) -> bool:
    steps = math.log2(rate / first)
    return rate == top or abs(steps - round(steps)) < 1e-9


def _doublings(rungs: Sequence[Rung], first: float) -> int:
    return max(0, math.ceil(math.log2(max(rung.rate for rung in rungs) / first)))


@dataclass(frozen=True)
class Capacity:
    """The highest rate that was kept, as it was answered; 0 when none was. `limit` says who set it."""

    rate: float
    limit: Literal["service", "generator", "top"]
    words: str


def capacity(rungs: Sequence[Rung], objective: Objective) -> Capacity:
    """Return the highest rate that keeps the objective, and in plain words what stopped the climb."""
    best = max((rung for rung in rungs if kept(rung, objective)), key=lambda r: r.rate, default=None)
    rate = min(best.rate, best.answered) if best else 0.0
    above = [rung for rung in rungs if not kept(rung, objective) and rung.rate > (best.rate if best else 0)]
    told = f"{rate:,.0f} requests/s" if best else "no rate that was tried"
    if not above:
        return Capacity(
            rate, "top", f"{told} is kept, and no higher rate was tried: the service may carry more"
        )
    stop = min(above, key=lambda rung: rung.rate)
    tries = [rung for rung in above if rung.rate == stop.rate]
    at = f"at {stop.rate:,.0f} requests/s"
    if all(blame(rung) == "generator" for rung in tries):
        why = f"{at} the generator was the limit ({stop.busy:.0%} of a core): the service may carry more"
        return Capacity(rate, "generator", f"{told} is kept; {why}")
    why = (
        f"p95 was {stop.p95:.4g} ms (limit {objective.p95:g}), {stop.answered:,.0f} requests/s were answered"
    )
    failed = f", {stop.failures:,} of {stop.requests:,} failed" if stop.failures else ""
    return Capacity(rate, "service", f"{told} is kept; {at} {why}{failed}")


def enough_capacity(name: str, found: Capacity, minimum: float) -> Finding:
    """Is the highest rate at least `minimum`? If not, and nobody asked for more: INCONCLUSIVE."""
    told = gate.at_least(name, found.rate, minimum, "requests/s")
    verdict = told.verdict
    if verdict is Verdict.FAIL and found.limit != "service":
        verdict = Verdict.INCONCLUSIVE
    return Finding(name, verdict, told.observed, told.limit, f"{told.reason}: {found.words}")
