"""Envoy's start-up configuration as plain JSON values: one listener, its filters and its journal; no I/O."""

from __future__ import annotations

from tidegate.core.keys import OWN_HEADERS
from tidegate.core.routes import JOURNAL_HEADER, ROUTES, UNIT_HEADER
from tidegate.core.xds import BUCKETS, Json

_TYPES = "type.googleapis.com/envoy.extensions"


def bootstrap(
    plane: str, port: int, admin: str, clusters_file: str, routes_file: str, journal_file: str
) -> Json:
    """Return Envoy's start-up configuration: one listener on 127.0.0.1:`port`, files for the rest.

    `admin` is the path of the admin socket, made with mode 0600; `journal_file` gets one JSON line for each
    request of a journaled route.
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
        "static_resources": {"listeners": [_listener(port, routes_file, journal_file)]},
    }


def _file(path: str) -> Json:
    return {"path_config_source": {"path": path}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}


def _listener(port: int, routes_file: str, journal_file: str) -> Json:
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
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
        # No path of ours has a slash to hide: a release decodes it, and sees another path than routes do.
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "early_header_mutation_extensions": [_without_own_headers()],
        "access_log": [_journal(journal_file)],
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPES}.filters.http.router.v3.Router",
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


def _without_own_headers() -> Json:
    """Take a caller's own x-tidegate-* headers away, before any route is looked for.

    Otherwise a caller could have itself journaled as somebody else, or not be counted by the service.
    """
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": f"{_TYPES}.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove_on_match": {"key_matcher": {"prefix": OWN_HEADERS, "ignore_case": True}}}],
        },
    }


def _journal(path: str) -> Json:
    """One line for each request whose route asks for it by a header, written when it was answered."""
    fields = {
        "at": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        "id": "%REQ(X-REQUEST-ID)%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "status": "%RESPONSE_CODE%",
        "ms": "%DURATION%",
        "unit": f"%REQ({UNIT_HEADER})%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "filter": {
            "header_filter": {"header": {"name": JOURNAL_HEADER, "string_match": {"exact": "1"}}},
        },
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": fields},
        },
    }
