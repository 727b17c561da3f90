"""Route table → Envoy's xDS resources and back, as plain JSON values; no I/O.

Resources are written in the very form in which Envoy's config_dump shows them (snake_case, durations
as text, no field that has its default), so that what Envoy serves can be compared with what should be.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

Json = dict[str, Any]
ROUTES = "tidegate"  # the name of the one route configuration

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
        if not model or set(model) & set("/|?#% "):
            return f"`{model}` can't be a model's name: it is the first part of a URL's path"
        if route.weights and (sum(route.weights.values()) != 100 or min(route.weights.values()) < 0):
            return f"the weights of {model} are {dict(route.weights)}; they must sum to 100"
        for release, weight in route.weights.items():
            if weight > 0 and not route.endpoints.get(release):
                return f"{model} gives {weight}% to {release}, which has no endpoint"
    return ""


def cluster_name(model: str, release: str) -> str:
    """Return the name of a release's cluster, also the name of its statistics."""
    return f"{model}|{release}"


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
ROUTE = "envoy.config.route.v3.RouteConfiguration"


# ---------------------------------------------------------------- clusters
def clusters(table: Mapping[str, Split]) -> dict[str, Json]:
    """Return name → cluster of every release that has endpoints, in name order."""
    made = {
        cluster_name(model, release): _cluster(cluster_name(model, release), endpoints)
        for model, route in table.items()
        for release, endpoints in route.endpoints.items()
        if endpoints
    }
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


# ---------------------------------------------------------------- routes
# A prediction has no side effect, so a request whose replica died under it may be sent to another
# (`reset-before-request` would lose those in flight: measured, see docs/operate.md).
# `max_retries` of the cluster bounds the storm; the chosen release never changes in a retry.
_POLICY: Json = {
    "retry_on": "connect-failure,refused-stream,reset",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": "5",
    "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.200s"},
}
RELEASE_HEADER = "x-tidegate-release"


def routes(table: Mapping[str, Split]) -> Json:
    """Return the route configuration: a prefix a model, and 404 for the rest."""
    answers = [_route(model, table[model].weights) for model in sorted(table)]
    missing = {"error": {"reason": "no such model here; paths are /<model>/..."}}
    answers.append({"match": {"prefix": "/"}, **_answer(404, missing)})
    return {"name": ROUTES, "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": answers}]}


def _route(model: str, weights: Mapping[str, int]) -> Json:
    match = {"prefix": f"/{model}/"}
    if not weights:
        reason = f"no release of {model} is being served now"
        return {"match": match, **_answer(503, {"error": {"reason": reason}})}
    split = [
        {
            "name": cluster_name(model, release),
            "weight": weight,
            "response_headers_to_add": [_header(RELEASE_HEADER, release)],
        }
        for release, weight in sorted(weights.items())
    ]
    action = {
        "prefix_rewrite": "/",
        "timeout": "30s",
        "retry_policy": _POLICY,
        "weighted_clusters": {"clusters": split},
    }
    return {"match": match, "route": action}


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _answer(status: int, body: Json) -> Json:
    return {
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def weights_of(configuration: Json) -> dict[str, dict[str, int]]:
    """Return model → release → weight of a route configuration, whoever wrote it.

    A cluster that is not one of the model's releases appears under its whole name, so that it is seen.
    """
    found: dict[str, dict[str, int]] = {}
    for host in configuration.get("virtual_hosts", []):
        for route in host.get("routes", []):
            match = route.get("match", {})
            path = match.get("prefix") or match.get("path") or match.get("path_separated_prefix") or "?"
            if path == "/" and "direct_response" in route:
                continue
            model = path.strip("/")
            found.setdefault(model, {})  # the first match wins in Envoy, so later ones are not merged
            if not found[model]:
                found[model] = {_release(model, name): weight for name, weight in _targets(route)}
    return found


def _targets(route: Json) -> list[tuple[str, int]]:
    action = route.get("route", {})
    if "cluster" in action:
        return [(action["cluster"], 100)]
    split = action.get("weighted_clusters", {}).get("clusters", [])
    return [(item.get("name", "?"), int(item.get("weight", 0))) for item in split]


def _release(model: str, name: str) -> str:
    owner, release = split_name(name)
    return release if owner == model and release else name


# ---------------------------------------------------------------- bootstrap
def bootstrap(plane: str, port: int, admin: str, clusters_file: str, routes_file: str) -> Json:
    """Return Envoy's start-up configuration: one listener on 127.0.0.1:`port`, files for the rest.

    `admin` is the path of the admin socket, made with mode 0600.
    """
    return {
        "node": {"id": plane, "cluster": "tidegate"},
        "admin": {"address": {"pipe": {"path": admin, "mode": 0o600}}},
        # Histograms move only at a flush (counters are live): decisions are made by the second.
        "stats_flush_interval": "0.250s",
        "stats_config": {
            "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": list(BUCKETS)}]
        },
        "dynamic_resources": {"cds_config": _file(clusters_file)},
        "static_resources": {"listeners": [_listener(port, routes_file)]},
    }


def _file(path: str) -> Json:
    return {"path_config_source": {"path": path}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}


def _listener(port: int, routes_file: str) -> Json:
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "router",
        "server_name": "tidegate",
        "rds": {"route_config_name": ROUTES, "config_source": _file(routes_file)},
        # Callers never decide how Envoy treats them: time-outs and retries asked for by x-envoy-* headers
        # are dropped unless the caller is "internal", which is told by the connection's own address (not by
        # x-forwarded-for) and is nobody. An empty list would mean the private networks (seen with 1.40).
        "use_remote_address": True,
        "internal_address_config": {
            "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}],
        },
        # A caller's request id is kept, a missing one made, and either is told in the answer.
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    return {
        "name": "router",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        # Otherwise a second Envoy could share the port, and take half of the requests, without an error.
        "enable_reuse_port": False,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
