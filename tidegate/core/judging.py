"""One part of a check in words and numbers: what was observed, the limit, and how sure that is. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from tidegate.core import drift
from tidegate.core import evidence as ev
from tidegate.core.aims import UNITS, Aim, Kind, floored
from tidegate.core.parts import Evidence, Part
from tidegate.core.plan import Check


@dataclass(slots=True)
class View:
    """One part as people read it.

    `seen` are the counts in words, `sign` how a breach relates to the limit, `holds` whether the bound
    proves the limit. `missing` says why there is nothing to judge, `error` whether that is an ERROR.
    """

    what: str
    observed: float | None
    observed_text: str
    seen: str
    limit: float
    limit_text: str
    sign: str = ">"
    bound: float | None = None
    bound_text: str = ""
    holds: bool = False
    missing: str = ""
    error: bool = False


def view(aim: Aim, part: Part, evidence: Evidence, goal: float, confidence: float) -> View:
    """Return one part in words; `goal` is the log evidence of FAIL."""
    failed = part.peak >= goal
    if aim.kind in (Kind.MEAN, Kind.GAP):
        return _scores(aim, part, evidence, confidence)
    if aim.kind is Kind.SPLIT:
        return _split(part, evidence)
    if aim.kind is Kind.SLOWER:
        return _slower(aim, part, failed, confidence)
    if aim.kind in (Kind.RISK, Kind.TRIALS):
        return _risk(aim, part, failed, confidence)
    return _absolute(aim, part, failed, confidence)


_WORDS = {
    "error-rate": "error rate",
    "missing-features": "share of predictions with a feature missing",
    "disagreement": "share of pairs that disagree",
}


@lru_cache(maxsize=1024)
def _what(metric: str, name: str, outcome: str, difference: float | None) -> str:
    if metric == "outcome":
        return f"rate of {outcome}"
    if metric == "score-difference":
        return f"share of pairs whose scores are more than {difference:g} apart"
    return _WORDS.get(metric, name)


def what(check: Check) -> str:
    """Return what a check counts, in words."""
    return _what(check.metric, check.name, check.outcome, check.difference)


def _absolute(aim: Aim, part: Part, failed: bool, confidence: float) -> View:
    check, limit = aim.check, aim.null
    over = f" over {check.ceiling:g} ms" if check.metric == "latency" else ""
    words = f"share of answers{over}" if over else what(check)
    if not part.pooled[0]:
        none = f"{words}: nothing was counted yet"
        return View(words, None, "–", "", limit, percent(limit) + over, missing=none, error=True)
    n, k, of = _shown(part, failed, limit)
    bound = _bound(part, confidence)
    stretches = f" in {part.trials} × {check.burst:g} s" if check.burst else ""
    found = View(words, k / n, percent(k / n) + over, of + stretches, limit, percent(limit) + over)
    if bound is not None:
        found.bound, found.bound_text, found.holds = bound, percent(bound), bound <= limit
    return _turned(found, n, k, stretches) if floored(check) else found


def _turned(found: View, n: int, k: int, tail: str) -> View:
    """Return the same in successes: the limit is the least rate, and what was counted are the others."""
    found.observed, found.limit, found.sign = 1 - k / n, 1 - found.limit, "<"
    found.seen, found.observed_text, found.limit_text = (
        f"{n - k}/{n}{tail}",
        percent(1 - k / n),
        percent(found.limit),
    )
    if found.bound is not None:
        found.bound = 1 - found.bound
        found.bound_text = percent(found.bound)
    return found


def _bound(part: Part, confidence: float) -> float | None:
    """Return the anytime-valid upper bound of the rate."""
    return ev.rate_bound(part.trials, part.possible, 1 - confidence) if part.trials else None


def _slower(aim: Aim, part: Part, failed: bool, confidence: float) -> View:
    limit, quantile = aim.check.slow_share, 100 * aim.check.quantile
    if part.limit is None:
        why = f"stable's p{quantile:g} is not known well enough yet"
        return View("share of answers", None, "–", "", limit, "–", missing=why)
    over = f" over {part.limit:g} ms ({aim.null:g} × stable's)"
    if not part.pooled[0]:
        why = f"share of answers{over}: nothing was counted yet"
        return View("share of answers", None, "–", "", limit, percent(limit) + over, missing=why)
    n, k, of = _shown(part, failed, limit)
    found = View(f"share of answers{over}", k / n, percent(k / n) + over, of, limit, percent(limit) + over)
    bound = _bound(part, confidence)
    if bound is not None:
        found.bound, found.bound_text, found.holds = bound, percent(bound), bound <= limit
    return found


def _risk(aim: Aim, part: Part, failed: bool, confidence: float) -> View:
    run = _latest(part, failed, None)
    n, k, m, s = run
    base, words = (s / m if m else 0.0), what(aim.check)
    factor = 1 / aim.null if aim.swapped else aim.null
    limit, text = factor * base, f"{factor:.4g} × stable's {percent(base)} ({s}/{m})"
    if not n:
        why = f"{words}: nothing was counted yet to compare with stable"
        return View(words, None, "–", "", limit, text, missing=why)
    of = f"{k} of the last {n}" if run is not part.pooled else f"{k}/{n}"
    found = View(words, k / n, percent(k / n), of, limit, text, "<" if aim.swapped else ">")
    risk = ev.risk_bound(part.sums, 1 - confidence)
    bound = risk if math.isfinite(risk) else None
    found.bound_text = "anything"
    if bound is not None:
        found.holds = bound <= aim.null
        found.bound = 1 / bound if aim.swapped else bound
        found.bound_text = f"{found.bound:.2g} × stable's"
    elif aim.swapped:
        found.bound_text = "nothing"
    return found


def _shown(part: Part, failed: bool, limit: float) -> tuple[int, int, str]:
    """Return the counts that a reason shows, and how it says them."""
    run = _latest(part, failed, limit)
    n, k, _, _ = run
    return n, k, f"{k} of the last {n}" if run is not part.pooled else f"{k}/{n}"


def _latest(part: Part, failed: bool, limit: float | None) -> tuple[int, int, int, int]:
    """Return the counts that a reason shows: of a FAIL the latest, if they tell more than all of them.

    A release that broke late has a harmless rate over all its requests; the reason must show the breach.
    """
    n, k, m, s = part.run
    if not failed or not n or n >= part.pooled[0]:
        return part.pooled
    floor = limit if limit is not None else s / m if m else 0.0
    return part.run if k / n > floor and k / n > part.pooled[1] / max(1, part.pooled[0]) else part.pooled


def _split(part: Part, evidence: Evidence) -> View:
    both, mine, _, _ = part.pooled
    units = UNITS in evidence.candidate.tallies or UNITS in evidence.stable.tallies
    words = f"share of {'units' if units else 'requests'}"
    if not both:
        why = f"{words}: no look yet at a weight that stood still"
        return View(words, None, "–", "", evidence.share, percent(evidence.share), ">", missing=why)
    meant = part.possible / part.trials if part.trials else evidence.share
    return View(
        words, mine / both, percent(mine / both), f"{mine}/{both}", meant, f"{percent(meant)} by weight", "≠"
    )


def _scores(aim: Aim, part: Part, evidence: Evidence, confidence: float) -> View:
    name, limit = aim.check.name, aim.null
    mine, theirs = evidence.candidate.bins.get(name, ()), evidence.stable.bins.get(name, ())
    if part.bins[0] and len(part.bins[0]) == len(mine):
        mine = tuple(max(0, a - b) for a, b in zip(mine, part.bins[0], strict=True))
    n, m = sum(mine), sum(theirs)
    # Of a probability, a share of its range is the score itself.
    words = (
        "mean score, as a share of its range,"
        if aim.kind is Kind.MEAN
        else "largest gap of the scores' distributions"
    )
    blank = View(words, None, "–", "", limit, f"{limit:g}", error=not n)
    if not n or not m or len(mine) != len(theirs):
        blank.missing = f"{words}: {'nothing was' if not n else 'of stable nothing was'} counted yet"
        return blank
    if aim.kind is Kind.MEAN:
        ours, stable = drift.mean(mine), drift.mean(theirs)
        moved, bound = abs(ours - stable), drift.mean_bound(mine, theirs, 1 - confidence)
        seen = f"{ours:.3f} of {n}, stable's {stable:.3f} of {m}"
        words += " moved by"
    else:
        signed, at = drift.gap(mine, theirs)
        moved, bound = abs(signed), drift.gap_bound(mine, theirs, 1 - confidence)
        seen = f"below {at / len(mine):g}; {n} scores, stable's {m}"
    return View(
        words, moved, f"{moved:.3f}", seen, limit, f"{limit:g}", ">", bound, f"{bound:.3f}", bound <= limit
    )


@lru_cache(maxsize=4096)
def percent(value: float) -> str:
    """Write a share as people read it: 0%, 0.05%, 1.2%, 33.3%."""
    digits = 1 if value >= 0.001 or value == 0 else 2
    return f"{100 * value:.{digits}f}".rstrip("0").rstrip(".") + "%" if value else "0%"


def number(log: float) -> str:
    """Write exp(log) as people read it: 0.4, 137, 2.1e5, even far beyond a float's range."""
    if -5 < log < math.log(9999):
        return f"{math.exp(log):.2g}" if log < math.log(99) else f"{math.exp(log):.0f}"
    power = math.floor(log / math.log(10))
    return f"{math.exp(log - power * math.log(10)):.1f}e{power}"
