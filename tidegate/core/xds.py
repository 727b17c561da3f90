"""Route table → Envoy's clusters and back, as plain JSON values, and what a table may ask for; no I/O.

Resources are written in the very form in which Envoy's config_dump shows them (snake_case, durations
as text, no field that has its default), so that what Envoy serves can be compared with what should be.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from tidegate.core.plan import Key, Match
from tidegate.core.release import original

Json = dict[str, Any]

# At most 12.5% apart, with the round numbers in which objectives are written; no more than two
# significant digits, since Envoy's histograms keep no more.
_DECADE = (10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 25, 27, 30, 33, 35, 36, 40, 44, 45, 48, 50, 55, 60, 65,
           70, 75, 80, 85, 90)  # fmt: skip
LATENCY_BOUNDS_MS: tuple[float, ...] = tuple(
    float(bound)
    for bound in sorted(
        {*range(1, 10), *(b * s for s in (1, 10, 100, 1000) for b in _DECADE if b * s <= 60_000)}
    )
)


def _bin_below(bound: float) -> float:
    # Envoy counts a whole bin of its histogram as "at or below" the bin's lower end: a bucket configured
    # at 200 holds 209 too (seen by experiment), and one at 190 holds exactly what is faster than 200.
    return round(bound - 10.0 ** (math.floor(math.log10(bound - 1)) - 1), 3) if bound > 1 else 0.9


# What Envoy is given as a bucket → the latency that nothing in it reaches.
BUCKETS: dict[float, float] = {_bin_below(bound): bound for bound in LATENCY_BOUNDS_MS}


class Split(Protocol):
    """What these modules read of a `ports.Route`, which says what each field means."""

    @property
    def weights(self) -> Mapping[str, int]:
        """Release → percent."""

    @property
    def endpoints(self) -> Mapping[str, tuple[str, ...]]:
        """Release → `host:port` of its replicas."""

    @property
    def mirror(self) -> Mapping[str, int]:
        """Release → percent of the requests copied to it."""

    @property
    def matches(self) -> tuple[tuple[Match, str], ...]:
        """Requests that go to a release whatever its weight."""

    @property
    def affinity(self) -> Key | None:
        """What keeps a caller on one side."""

    @property
    def salt(self) -> str:
        """What the affinity is mixed with: the release that is being tried."""

    @property
    def journal(self) -> bool:
        """Whether each request is written down."""


# ---------------------------------------------------------------- what can be asked for
_SALT = re.compile(r"[A-Za-z0-9._-]*")


def fault(table: Mapping[str, Split]) -> str:
    """Return what is wrong with a route table in one sentence, or an empty string."""
    for model, route in table.items():
        if not model or set(model) & set("/|?#% "):
            return f"`{model}` can't be a model's name: it is the first part of a URL's path"
        if route.weights and (sum(route.weights.values()) != 100 or min(route.weights.values()) < 0):
            return f"the weights of {model} are {dict(route.weights)}; they must sum to 100"
        for release, weight in route.weights.items():
            if weight > 0 and not route.endpoints.get(release):
                return f"{model} gives {weight}% to {release}, which has no endpoint"
        wrong = _fault_beside(route)
        if wrong:
            return f"{model}: {wrong}"
    return ""


def _fault_beside(route: Split) -> str:
    """What is wrong with a route's parts beside its weights."""
    for release, percent in route.mirror.items():
        if not 1 <= percent <= 100:
            return f"{percent}% of the requests can't be mirrored to {release}; 1 to 100 can"
        if not route.endpoints.get(release):
            return f"requests are mirrored to {release}, which has no endpoint"
    for _, release in route.matches:
        if not route.endpoints.get(release):
            return f"a match leads to {release}, which has no endpoint"
    return "" if _SALT.fullmatch(route.salt) else f"`{route.salt}` can't be a salt: take letters and digits"


def base_of(route: Split) -> str:
    """Return the release that traffic rests on: the heaviest that is neither the tried one nor a copy."""
    others = [r for r in route.weights if r != route.salt and route.endpoints.get(r)]
    return min(
        others or list(route.weights), key=lambda r: (original(r) != r, -route.weights[r], r), default=""
    )


def needs_unit(route: Split) -> bool:
    """Tell whether requests that don't say whose they are stay out: those of users who are journaled.

    A mirror's journal pairs answers, not users, so there nobody stays out.
    """
    return bool(route.journal and route.affinity and route.weights and not route.mirror)


# ---------------------------------------------------------------- names
_APART = "|apart"


def cluster_name(model: str, release: str) -> str:
    """Return the name of a release's cluster, also the name of its statistics."""
    return f"{model}|{release}"


def apart_name(model: str, release: str) -> str:
    """Return the name of the cluster for those requests to a release that don't count as the release's."""
    return cluster_name(model, release) + _APART


def is_apart(name: str) -> bool:
    """Tell whether a cluster is one of those whose requests don't count."""
    return name.endswith(_APART) and name.count("|") > 1


def split_name(name: str) -> tuple[str, str]:
    """Return (model, release) of a cluster's name; a foreign name is a model without a release."""
    model, _, release = name.partition("|")
    return model, release


def document(resources: Iterable[Json], kind: str) -> str:
    """Return the text of an xDS file. Its version is its content's digest."""
    typed = [{"@type": f"type.googleapis.com/{kind}", **resource} for resource in resources]
    return json.dumps({"version_info": version(typed), "resources": typed}, indent=1) + "\n"


def version(resources: Sequence[Json]) -> str:
    """Return the version of a list of resources (with their @type)."""
    return hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]


CLUSTER = "envoy.config.cluster.v3.Cluster"


# ---------------------------------------------------------------- clusters
def clusters(table: Mapping[str, Split]) -> dict[str, Json]:
    """Return name → cluster of every release that has endpoints, in name order.

    A release has a second one if some of its requests don't count.
    """
    made = {}
    for model, route in table.items():
        apart = {release for _, release in route.matches} | ({base_of(route)} if needs_unit(route) else set())
        for release, endpoints in route.endpoints.items():
            names = [cluster_name(model, release)] + [apart_name(model, release)] * (release in apart)
            made.update({name: _cluster(name, endpoints) for name in names if endpoints})
    return dict(sorted(made.items()))


def _cluster(name: str, endpoints: Sequence[str]) -> Json:
    # A health check by /readyz takes a hung replica out; retries (see _POLICY) cover the time until it
    # does. Envoy's panic threshold stays at its default of 50%: when most replicas are too busy to answer
    # their probe, requests are still better tried than refused.
    thresholds = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
    return {
        "name": name,
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{**thresholds, "max_retries": 1024}]},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz"},
                "no_traffic_interval": "1s",  # the default of 60 s would leave a warm release unchecked
                "unhealthy_interval": "0.500s",
            }
        ],
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [_endpoint(e) for e in endpoints]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                # Shorter than a replica's keep-alive (`serve.KEEP_ALIVE_SECONDS`, and uvicorn's own 5 s), so
                # that it is Envoy who closes a connection and no request meets one being closed.
                "common_http_protocol_options": {"idle_timeout": "4s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _endpoint(address: str) -> Json:
    host, _, port = address.rpartition(":")
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


def endpoints_of(cluster: Json) -> tuple[str, ...]:
    """Return the `host:port` of each endpoint of a cluster."""
    found = []
    for locality in cluster.get("load_assignment", {}).get("endpoints", []):
        for item in locality.get("lb_endpoints", []):
            address = item.get("endpoint", {}).get("address", {}).get("socket_address", {})
            found.append(f"{address.get('address', '')}:{address.get('port_value', 0)}")
    return tuple(found)
