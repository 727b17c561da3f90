"""Envoy as the router: xDS files that it watches, and its admin interface on a unix socket."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tidegate.core import routes as routing
from tidegate.core import xds
from tidegate.errors import NoData, PlatformError, Refused, Unreachable
from tidegate.files import write_atomic
from tidegate.machine import unix_http
from tidegate.ports import Counters, Route, RouteTable

CLUSTERS_FILE = "clusters.json"
ROUTES_FILE = "routes.json"
JOURNAL_FILE = "journal.jsonl"


class _Served:
    """What Envoy says that it serves: active clusters by name, and its route configuration."""

    def __init__(self, clusters: Mapping[str, xds.Json], routes: xds.Json, fault: str) -> None:
        self.clusters = {name: dict(clusters[name]) for name in sorted(clusters)}
        self.routes = routes
        self.fault = fault  # why Envoy refused the newest files, if it did


class EnvoyRouter:
    """A Router. `folder` holds the xDS files, `admin` is Envoy's socket.

    `patience` is how many seconds Envoy has to confirm one file: warming a cluster takes a health check.
    """

    def __init__(self, folder: Path, admin: Path, patience: float = 10.0) -> None:
        self._folder = folder
        self._admin = admin
        self._patience = patience
        self._known: tuple[tuple[bytes, bytes], RouteTable] | None = None  # what was read last, and how

    def prepare(self) -> None:
        """Write the files of an empty table where there are none, so that Envoy can start."""
        for name, text in (
            (CLUSTERS_FILE, _clusters_text({})),
            (ROUTES_FILE, _routes_text(routing.routes({}))),
        ):
            if not (self._folder / name).is_file():
                self._write(name, text)

    def read(self) -> RouteTable:
        """Return the table that Envoy reports; raises Unreachable."""
        bodies = self._bodies()
        if self._known is None or self._known[0] != bodies:
            served = _served(*bodies)
            read = routing.found(_typeless(served.clusters), _untyped(served.routes))
            table = {
                model: Route(r.weights, r.endpoints, r.mirror, r.matches, r.affinity, r.salt, r.journal)
                for model, r in read.items()
            }
            self._known = bodies, table
        return dict(self._known[1])

    def shows(self) -> bool:
        """Tell whether Envoy has any routes yet, be they empty ones; raises Unreachable."""
        return bool(self._served().routes)

    def apply(self, table: RouteTable) -> None:
        """Serve `table`. Raises Refused for an impossible table, Unreachable without confirmation.

        In an order in which no request meets a route without its cluster: new clusters, then routes,
        then the removal of clusters that no route names. A crash in between is finished by the next call.
        """
        problem = xds.fault(table)
        if problem:
            raise Refused(problem, "Give every served release an endpoint, and weights that sum to 100.")
        clusters, routes = xds.clusters(table), routing.routes(table)
        served = self._served()
        if self._in_place(served, clusters, routes):
            return
        both = dict(sorted({**_typeless(served.clusters), **clusters}.items()))
        self._put(CLUSTERS_FILE, _clusters_text(both), lambda now: _typeless(now.clusters) == both)
        self._put(ROUTES_FILE, _routes_text(routes), lambda now: _untyped(now.routes) == routes)
        if both != clusters:
            self._put(
                CLUSTERS_FILE, _clusters_text(clusters), lambda now: _typeless(now.clusters) == clusters
            )

    def _in_place(self, served: _Served, clusters: Mapping[str, xds.Json], routes: xds.Json) -> bool:
        # The files count too: one edited in place is not loaded now, but would be after a restart.
        return (
            _typeless(served.clusters) == clusters
            and _untyped(served.routes) == routes
            and _holds(self._folder / CLUSTERS_FILE, clusters.values())
            and _holds(self._folder / ROUTES_FILE, [routes])
        )

    def _text(self, name: str) -> str:
        try:
            return (self._folder / name).read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def _write(self, name: str, text: str) -> None:
        try:
            write_atomic(self._folder / name, text)
        except OSError as error:
            raise PlatformError(
                f"can't write {self._folder / name}: {error.strerror}",
                "Make room or give access; Envoy goes on with the file before.",
            ) from error

    def _put(self, name: str, text: str, confirmed: Callable[[_Served], bool]) -> None:
        """Write one file and wait until Envoy serves it."""
        deadline = time.monotonic() + self._patience
        served = self._served()
        if confirmed(served) and self._text(name) == text:
            return
        self._write(name, text)
        pause = 0.002
        while True:
            served = self._served()
            if confirmed(served):
                return
            if time.monotonic() > deadline:
                break
            time.sleep(pause)
            pause = min(pause * 2, 0.1)
        reason = f": {served.fault}" if served.fault else ""
        raise Unreachable(
            f"Envoy did not confirm {name} within {self._patience:g} s{reason}",
            f"Look at {self._folder.parent / 'logs' / 'envoy.log'}.",
        )

    def _served(self) -> _Served:
        return _served(*self._bodies())

    def _bodies(self) -> tuple[bytes, bytes]:
        return self._dump("dynamic_active_clusters"), self._dump("dynamic_route_configs")

    def _dump(self, resource: str) -> bytes:
        return unix_http.get(self._admin, f"/config_dump?resource={resource}")


def _served(clusters_dump: bytes, routes_dump: bytes) -> _Served:
    clusters: dict[str, xds.Json] = {}
    faults = []
    for item in _parsed(clusters_dump).get("configs", []):
        clusters[item["cluster"]["name"]] = item["cluster"]
    routes: xds.Json = {}
    for item in _parsed(routes_dump).get("configs", []):
        faults.append(item.get("error_state", {}).get("details", ""))
        if item.get("route_config", {}).get("name") == routing.ROUTES:
            routes = item["route_config"]
    return _Served(clusters, routes, "; ".join(f for f in faults if f))


def _parsed(body: bytes) -> dict[str, Any]:
    """Return Envoy's answer; raises Unreachable for one that is not whole, as when it is just ending."""
    try:
        found = json.loads(body)
    except ValueError as error:
        raise Unreachable(
            f"Envoy's admin interface answered no JSON ({error})",
            "If it does not come right by itself, look at envoy.log.",
        ) from error
    return found if isinstance(found, dict) else {}


def _typeless(clusters: Mapping[str, xds.Json]) -> dict[str, xds.Json]:
    return {name: _untyped(cluster) for name, cluster in clusters.items()}


def _untyped(resource: xds.Json) -> xds.Json:
    return {key: value for key, value in resource.items() if key != "@type"}


def _clusters_text(clusters: Mapping[str, xds.Json]) -> str:
    return xds.document(clusters.values(), xds.CLUSTER)


def _routes_text(routes: xds.Json) -> str:
    return xds.document([routes], routing.ROUTE)


def _holds(path: Path, resources: Collection[xds.Json]) -> bool:
    """Tell whether a file says just this (parsing is cheaper than writing it anew to compare texts)."""
    try:
        found = json.loads(path.read_bytes())["resources"]
        return [_untyped(item) for item in found] == list(resources)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


_FAILED = ("upstream_rq_5xx", "upstream_rq_429")  # nothing is in both
_COUNTED = ("upstream_rq_completed", *_FAILED, "upstream_rq_active", "upstream_rq_time")


class EnvoyMetrics:
    """Counts of Envoy's, one of each request however often it was retried.

    Seen by experiment with Envoy 1.40 (tests/contract/test_metrics.py holds it to this):
    `upstream_rq_completed` and `upstream_rq_5xx` count the answer that the caller got, those that Envoy
    made itself included (503 without a healthy host, connection refused, 504 after the time-out); the
    answers that were retried are counted elsewhere, under `retry.`. `upstream_rq_429`, which is there from
    the first 429 on, counts in the same way, as an error: a release that sheds its load answers quickly, and
    serves nobody. Envoy makes no 429 of its own here, and retries none.

    Requests that the caller gave up are not counted: only `upstream_cx_destroy_local_with_active_rq` moves,
    which also moves for a time-out, an answer that is no HTTP and a 413 before the body's end, all of which
    are counted already; and a caller who hangs up at once would vote a sound release out. The histogram holds
    only requests that a replica answered, and moves every `stats_flush_interval` (250 ms), so it lags behind
    the counters.
    """

    def __init__(self, admin: Path) -> None:
        self._admin = admin
        self._target = "/stats?format=json&histogram_buckets=cumulative&filter=" + quote(
            r"^cluster\.[^|]+\|[^.|]+\.(" + "|".join(_COUNTED) + ")$", safe=""
        )

    def read(self) -> Mapping[tuple[str, str], Counters]:
        """Return counters by (model, release); raises Unreachable or NoData.

        They start at 0 when Envoy or the release's cluster is made anew.
        """
        counts: dict[tuple[str, str], dict[str, int]] = {}
        latency: dict[tuple[str, str], tuple[tuple[float, int], ...]] = {}
        for item in _parsed(unix_http.get(self._admin, self._target)).get("stats", []):
            if "histograms" in item:
                latency |= {_owner(h["name"])[0]: _cumulative(h["buckets"]) for h in item["histograms"]}
            elif "value" in item:
                owner, counted = _owner(item["name"])
                counts.setdefault(owner, {})[counted] = int(item["value"])
        if not counts:
            raise NoData("Envoy has no release to count", "Wait until one is routed.")
        return {
            owner: Counters(
                requests=found.get("upstream_rq_completed", 0),
                errors=sum(found.get(name, 0) for name in _FAILED),
                latency=latency.get(owner, ()),
                active=found.get("upstream_rq_active", 0),
            )
            for owner, found in sorted(counts.items())
        }


def _owner(stat: str) -> tuple[tuple[str, str], str]:
    """`cluster.model|release.counted` → ((model, release), counted)."""
    name, _, counted = stat.removeprefix("cluster.").rpartition(".")
    return xds.split_name(name), counted


def _cumulative(buckets: list[Any]) -> tuple[tuple[float, int], ...]:
    found = [
        (xds.BUCKETS.get(b["upper_bound"], float(b["upper_bound"])), int(b["cumulative"])) for b in buckets
    ]
    # Nothing takes longer than the route's time-out, which lies below the last bound.
    return (*found, (math.inf, found[-1][1] if found else 0))
