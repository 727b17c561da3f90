"""Values of a status document as short words, and read from whatever an agent of another age wrote. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tidegate.core.telling import one_line


def short(log_evidence: float) -> str:
    """Return evidence in a few characters, from its natural logarithm: `0.02`, `11`, `1.4e5`, `1e300`."""
    tens = log_evidence / math.log(10)
    if tens >= 4:
        power = math.floor(tens)
        return f"{10 ** (tens - power):.1f}e{power}" if power < 100 else f"1e{min(power, 9999)}"
    value = math.exp(max(-13.8, log_evidence))
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "<0.01"


def duration(seconds: float) -> str:
    """Return a time span in at most two units: `12s`, `3m 12s`, `1h 02m`, `2d 3h`."""
    left = max(0, math.ceil(min(seconds, 1e9)))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m {left % 60:02}s"
    if left < 86400:
        return f"{left // 3600}h {left % 3600 // 60:02}m"
    return f"{left // 86400}d {left % 86400 // 3600}h"


# ---------------------------------------------------------------- reading
def mapping_of(raw: Any) -> Mapping[str, Any]:
    """Return a mapping, or an empty one for anything else."""
    return raw if isinstance(raw, Mapping) else {}


def items_of(raw: Any) -> Sequence[Any]:
    """Return a list, or an empty one for anything else."""
    return raw if isinstance(raw, list | tuple) else ()


def mappings_of(raw: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list."""
    return [each for each in items_of(raw) if isinstance(each, Mapping)]


def text_of(raw: Any) -> str:
    """Return a value as one line of printable text."""
    return "" if raw is None else one_line(str(raw))


def number_of(raw: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    known = isinstance(raw, int | float) and not isinstance(raw, bool) and math.isfinite(raw)
    return raw if known else None


def percent_of(raw: Any) -> int:
    """Return a whole percentage from 0 to 100."""
    return round(min(100.0, max(0.0, number_of(raw) or 0.0)))


def join(parts: Iterable[str]) -> str:
    """Return what there is, side by side."""
    return " · ".join(part for part in parts if part)
