"""Route table → Envoy's xDS resources and back, as plain JSON values; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

# Two significant digits, about 10% apart: Envoy's histograms keep no more, so any other bound would be
# an approximation. Latencies are recorded in whole milliseconds, so there is nothing between 1 and 2.
_DECADE = (10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 25, 26, 29, 30, 32, 35, 39, 40, 43, 47, 50, 52, 57, 60,
           63, 69, 75, 76, 80, 84, 92)  # fmt: skip
LATENCY_BOUNDS_MS: tuple[float, ...] = tuple(
    sorted({*range(1, 10), *(b * s for s in (1, 10, 100, 1000) for b in _DECADE if b * s <= 60_000)})
)


class Split(Protocol):
    """What this module reads of a `ports.Route`."""

    @property
    def weights(self) -> Mapping[str, int]:
        """Release → percent."""

    @property
    def endpoints(self) -> Mapping[str, tuple[str, ...]]:
        """Release → `host:port` of its replicas."""


def fault(table: Mapping[str, Split]) -> str:
    """Return what is wrong with a route table in one sentence, or an empty string."""
    for model, route in table.items():
        if route.weights and (sum(route.weights.values()) != 100 or min(route.weights.values()) < 0):
            return f"the weights of {model} are {dict(route.weights)}; they must sum to 100"
        for release, weight in route.weights.items():
            if weight > 0 and not route.endpoints.get(release):
                return f"{model} gives {weight}% to {release}, which has no endpoint"
    return ""
