"""Is the staging endpoint quick and whole under load? Locust replays rows of the holdout."""

from __future__ import annotations

import json
import sys

from tidegate import gating
from tidegate.adapters import locust
from tidegate.core import gate
from tidegate.core.scores import percentile


class LoadSettings(gating.Settings, frozen=True):
    """The `load` section: `rate` is requests a second over all users; latencies in milliseconds."""

    users: int
    rate: float
    duration: float  # seconds, after the warm-up
    warmup: float
    min_requests: int
    p50: float
    p95: float
    p99: float
    min_throughput: float
    error_rate: float


def look(subject: gating.Subject[LoadSettings]) -> gating.Looked:
    """Send the load and compare what came back."""
    limits = subject.settings
    rows = json.loads(subject.built("model/examples.json").read_text())
    seen = locust.measure(
        f"{subject.endpoint}/predict",
        rows,
        users=limits.users,
        rate=limits.rate,
        seconds=limits.duration,
        warmup=limits.warmup,
    )
    throughput = seen.requests / seen.seconds
    quantiles = {name: percentile(seen.latencies, share) for name, share in _QUANTILES.items()}
    times = [gate.at_most(name, quantiles[name], getattr(limits, name), "ms") for name in _QUANTILES]
    sample = gate.enough("requests", seen.requests, limits.min_requests)
    findings = gate.hold_back(sample, times)
    # One failed request says something at any number of requests; few of them without one says little.
    findings.append(gate.at_most("error rate", seen.failures / seen.requests, limits.error_rate))
    findings.append(gate.at_least("throughput", throughput, limits.min_throughput, "requests/s"))
    measurements = {
        **quantiles,
        "requests": seen.requests,
        "failures": seen.failures,
        "failure_reasons": dict(seen.reasons),
        "throughput": throughput,
        "users": limits.users,
        "rows": len(rows),
    }
    return gating.Looked(findings, measurements)


_QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

GATE = gating.Gate(
    "load",
    LoadSettings,
    look,
    needs="endpoint",
    inputs="The staging endpoint, and the request rows of the model's examples.json.",
    fix="Profile the service; the report says which quantile broke its objective.",
)

if __name__ == "__main__":
    sys.exit(GATE.main())
