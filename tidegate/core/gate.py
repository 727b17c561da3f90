"""Thresholds + results → findings: every comparison that a gate makes.

A number that is missing or not finite is ERROR, whatever the limit; so is a limit of that kind. No
function here returns PASS without having compared two numbers; what there is nothing to compare with is
NOT_APPLICABLE and says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from tidegate.core.exhibits import Comparison, Word, word
from tidegate.core.verdict import Finding, Verdict

Number = float | int | None
REFUSALS = frozenset({400, 413, 415, 422})


def show(value: float) -> str:
    """Return a number as a person reads it: whole ones in full, others with four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def error(name: str, reason: str) -> Finding:
    """Return the finding that says why nobody could look."""
    return Finding(name, Verdict.ERROR, None, None, reason)


def not_applicable(name: str, reason: str, observed: float | str | None = None) -> Finding:
    """Return why there was nothing to compare; it neither passes nor fails a gate, and is shown as such."""
    return Finding(name, Verdict.NOT_APPLICABLE, observed, None, reason)


def at_most(name: str, observed: Number, limit: Number, unit: str = "") -> Finding:
    """PASS when observed ≤ limit, FAIL when above it; both in `unit`."""
    return _bound(name, observed, limit, unit, "≤", ">")


def at_least(name: str, observed: Number, limit: Number, unit: str = "") -> Finding:
    """PASS when observed ≥ limit, FAIL when below it; both in `unit`."""
    return _bound(name, observed, limit, unit, "≥", "<")


def within(name: str, observed: Number, low: Number, high: Number, unit: str = "") -> Finding:
    """PASS when low ≤ observed ≤ high, else FAIL; all in `unit`."""
    missing = _missing(name, observed, low) or _missing(name, observed, high)
    if missing or observed is None or low is None or high is None:
        return missing or error(name, "no number")
    limit = f"{show(low)} to {show(high)}{_gap(unit)}"
    inside = low <= observed <= high
    text = f"{name} {show(observed)}{_gap(unit)} is {'' if inside else 'not '}within {limit}"
    return Finding(name, Verdict.PASS if inside else Verdict.FAIL, float(observed), limit, text)


def ratio(name: str, observed: Number, before: Number, low: Number, high: Number) -> Finding:
    """PASS when low ≤ observed ÷ before ≤ high, else FAIL; both numbers are in the reason."""
    missing = _missing(name, observed, low) or _missing(name, before, high)
    if missing or not before or observed is None:
        return missing or error(name, f"{name}: {show(observed or 0)} beside 0 has no ratio")
    found = within(name, observed / before, low, high)
    text = f"{name}: {show(observed)} beside {show(before)}, ratio {found.reason.removeprefix(f'{name} ')}"
    return Finding(name, found.verdict, found.observed, found.limit, text)


def enough(name: str, observed: Number, minimum: Number, unit: str = "") -> Finding:
    """PASS when a sample is large enough to decide on, INCONCLUSIVE when not, ERROR when it is empty."""
    found = at_least(name, observed, minimum, unit)
    if observed == 0:
        return Finding(name, Verdict.ERROR, 0.0, found.limit, f"{name} 0{_gap(unit)}: nothing to look at")
    if found.verdict is Verdict.FAIL:
        return Finding(name, Verdict.INCONCLUSIVE, found.observed, found.limit, found.reason)
    return found


def hold_back(sample: Finding, findings: Iterable[Finding]) -> list[Finding]:
    """Return the sample's finding and the others, which decide nothing unless the sample is enough."""
    if sample.verdict is Verdict.PASS:
        return [sample, *findings]
    return [sample, *(_undecided(f, sample) for f in findings)]


def beside(
    name: str,
    candidate: Number,
    production: Number,
    interval: tuple[float, float],
    margin: Number,
    *,
    higher_is_better: bool,
    scale: Literal["difference", "ratio"] = "difference",
    confidence: float = 0.99,
    unit: str = "",
    hint: str = "",
) -> tuple[Finding, Comparison | None]:
    """Compare a candidate with what runs now: is it worse by more than `margin`?

    `interval` bounds candidate − production, or their ratio. PASS when even its worse end stays within the
    margin, FAIL when even its better end is beyond it, INCONCLUSIVE between, with `hint` added (what it would
    take to tell). Numbers in `unit`. A missing or unusable number is ERROR, and nothing is compared.
    """
    missing = _missing(name, candidate, margin) or _missing(name, production, margin)
    if missing or candidate is None or production is None or margin is None:
        return missing or error(name, "no number"), None
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        return error(name, f"{name}: the {scale} has no usable interval ({low} to {high})"), None
    if margin < 0:
        return error(name, f"{name}: the margin {show(margin)} is negative"), None
    said = word(low, high, margin, higher_is_better=higher_is_better, scale=scale)
    verdict = _WORDS[said]
    middle = f"{candidate / production:.4g}" if scale == "ratio" and production else ""
    middle = middle or f"{candidate - production:+.4g}"
    form = ".4g" if scale == "ratio" else "+.4g"
    limit = f"{show(margin * 100)}%" if scale == "ratio" else show(margin)
    says = {
        "better": "better",
        "no worse": f"no worse, within {limit}",
        "worse": f"worse by more than {limit}",
        "cannot tell": f"may be worse by more than {limit}",
    }[said]
    text = (
        f"{name}: {show(candidate)} beside {show(production)}{_gap(unit)}, {scale} {middle} "
        f"({low:{form}} to {high:{form}}): {says}"
    )
    if verdict is Verdict.INCONCLUSIVE and hint:
        text += f"; {hint}"
    shown = Comparison(
        name=name,
        word=said,
        candidate=float(candidate),
        production=float(production),
        low=float(low),
        high=float(high),
        margin=float(margin),
        higher_is_better=higher_is_better,
        scale=scale,
        confidence=confidence,
        unit=unit,
    )
    return Finding(name, verdict, float(candidate), float(production), text), shown


_WORDS: dict[Word, Verdict] = {
    "better": Verdict.PASS,
    "no worse": Verdict.PASS,
    "worse": Verdict.FAIL,
    "cannot tell": Verdict.INCONCLUSIVE,
}


def surely_at_most(
    name: str, observed: Number, interval: tuple[float, float], limit: Number, unit: str = ""
) -> Finding:
    """PASS when even the upper end of a number's interval is ≤ limit, FAIL when even the lower end is above.

    Between the two it is INCONCLUSIVE. All in `unit`; a number or an interval that is none is ERROR.
    """
    missing = _missing(name, observed, limit)
    if missing or observed is None or limit is None:
        return missing or error(name, "no number")
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        return error(name, f"{name}: no usable interval ({low} to {high})")
    verdict, sign = Verdict.INCONCLUSIVE, "may be over"
    if high <= limit:
        verdict, sign = Verdict.PASS, "≤"
    elif low > limit:
        verdict, sign = Verdict.FAIL, ">"
    seen = f"{show(observed)}{_gap(unit)} ({show(low)} to {show(high)})"
    text = f"{name} {seen} {sign} limit {show(limit)}{_gap(unit)}"
    return Finding(name, verdict, float(observed), float(limit), text)


def none_of(name: str, failing: Number, total: Number, what: str, first: str = "") -> Finding:
    """PASS when none of `total` things failed; `what` says which things, `first` how the first of them did.

    Zero things are ERROR.
    """
    if not total:
        return error(name, f"{name}: there were no {what} to look at")
    found = at_most(name, failing, 0)
    if found.observed is None:
        return found
    reason = f"{name}: {show(found.observed)} of {show(total)} {what} failed, limit 0"  # type: ignore[arg-type]
    reason += f"; the first: {first}" if first and found.verdict is Verdict.FAIL else ""
    return Finding(name, found.verdict, found.observed, 0.0, reason)


def expected(name: str, observed: Sequence[str], wanted: Sequence[str], what: str) -> Finding:
    """PASS when the two sets of names are equal; the reason lists what is missing and what is extra."""
    if not wanted:
        return error(name, f"{name}: no {what} was asked for, so nothing was compared")
    missing, extra = sorted(set(wanted) - set(observed)), sorted(set(observed) - set(wanted))
    parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"not known: {', '.join(extra)}"] * bool(
        extra
    )
    verdict = Verdict.FAIL if parts else Verdict.PASS
    reason = f"{name}: {'; '.join(parts) or f'all {len(set(wanted))} {what} as asked'}"
    return Finding(name, verdict, float(len(set(observed))), float(len(set(wanted))), reason)


def precedes(name: str, last: str | None, first: str | None) -> Finding:
    """PASS when `last` sorts before `first`: what was held out must come after what was trained on."""
    if not last or not first:
        return error(name, f"{name}: one of the two ends is missing ({last!r}, {first!r})")
    fine = last < first
    text = f"{name}: train ends at {last}, holdout begins at {first}" + ("" if fine else ": they overlap")
    return Finding(name, Verdict.PASS if fine else Verdict.FAIL, first, last, text)


def refusal(name: str, status: int, named: object, field: str) -> Finding:
    """PASS when a bad row was refused with a 4xx that blames `field` (any field where it is empty).

    Other 4xx answers than those in REFUSALS (unknown path, too many requests) refuse something else.
    """
    refused = status in REFUSALS
    blamed = refused and (not field or named == field)
    verdict = Verdict.PASS if blamed else Verdict.FAIL
    wanted = f"4xx for `{field}`" if field else "4xx"
    saw = f"{status or 'no answer'}" + (f" for `{named}`" if named else "")
    return Finding(name, verdict, saw, wanted, f"{name}: answered {saw}, wanted {wanted}")


def _bound(name: str, observed: Number, limit: Number, unit: str, fine: str, broken: str) -> Finding:
    missing = _missing(name, observed, limit)
    if missing or observed is None or limit is None:
        return missing or error(name, "no number")
    passed = observed <= limit if fine == "≤" else observed >= limit
    sign = fine if passed else broken
    text = f"{name} {show(observed)}{_gap(unit)} {sign} limit {show(limit)}{_gap(unit)}"
    return Finding(name, Verdict.PASS if passed else Verdict.FAIL, float(observed), float(limit), text)


def _missing(name: str, observed: Number, limit: Number) -> Finding | None:
    if observed is None or not math.isfinite(observed):
        shown = float(limit) if limit is not None and math.isfinite(limit) else None
        return Finding(name, Verdict.ERROR, None, shown, f"{name}: there is no number ({observed})")
    if limit is None or not math.isfinite(limit):
        return Finding(
            name, Verdict.ERROR, float(observed), None, f"{name}: the limit is no number ({limit})"
        )
    return None


def _undecided(finding: Finding, sample: Finding) -> Finding:
    if finding.verdict not in (Verdict.PASS, Verdict.FAIL) or finding.limit is None:
        return finding
    verdict = Verdict.ERROR if sample.verdict is Verdict.ERROR else Verdict.INCONCLUSIVE
    reason = f"not decided, since {sample.reason}; {finding.reason}"
    return Finding(finding.name, verdict, finding.observed, finding.limit, reason)


def _gap(unit: str) -> str:
    return f" {unit}" if unit else ""
