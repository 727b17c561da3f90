"""Route table → Envoy's route configuration and back, as plain JSON values; no I/O.

Each model has up to three kinds of entries, the first that fits a request wins: those matched by a header or
cookie, those that carry the unit of an affinity, and the rest. What can't be told from the entries alone
is kept in the metadata of the model's last one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from tidegate.core.plan import Key, Match
from tidegate.core.xds import (
    Json,
    Split,
    apart_name,
    base_of,
    cluster_name,
    endpoints_of,
    fault,
    is_apart,
    needs_unit,
    split_name,
)
from tidegate.core.xds import clusters as made

ROUTE = "envoy.config.route.v3.RouteConfiguration"
ROUTES = "tidegate"  # the name of the one route configuration
RELEASE_HEADER = "x-tidegate-release"
JOURNAL_HEADER = "x-tidegate-journal"
UNIT_HEADER = "x-tidegate-unit"
ARM_HEADER = "x-tidegate-arm"  # how a request came to a release: `20%` of all, `match`, or `apart`
FOREIGN = "?"  # the salt of a route that is not what would be written for it: no table can ask for it

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


@dataclass(frozen=True)
class Found:
    """What a route configuration says of one model; the fields are those of `ports.Route`."""

    weights: Mapping[str, int] = field(default_factory=dict)
    endpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirror: Mapping[str, int] = field(default_factory=dict)
    matches: tuple[tuple[Match, str], ...] = ()
    affinity: Key | None = None
    salt: str = ""
    journal: bool = False


# ---------------------------------------------------------------- writing
def routes(table: Mapping[str, Split]) -> Json:
    """Return the route configuration: a prefix a model, and 404 for the rest and for what is the plane's."""
    answers = [_private(), *(entry for model in sorted(table) for entry in entries(model, table[model]))]
    missing = {"error": {"reason": "no such model here; paths are /<model>/..."}}
    answers.append({"match": {"prefix": "/"}, **_answer(404, missing)})
    return {"name": ROUTES, "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": answers}]}


def _private() -> Json:
    """The entry that keeps from callers what a release tells of its counts: they are for this machine."""
    said = {"error": {"reason": "this is told on the release's own address only"}}
    return {"match": {"safe_regex": {"regex": r"/[^/]+/(?:measures|metrics)/?"}}, **_answer(404, said)}


def entries(model: str, route: Split) -> list[Json]:
    """Return a model's entries in the order in which Envoy tries them."""
    prefix = {"prefix": f"/{model}/"}
    first = [
        _apart({**prefix, "headers": [_matcher(match)]}, model, release, "match")
        for match, release in route.matches
    ]
    if not route.weights:
        reason = f"no release of {model} is being served now"
        return [*first, {"match": prefix, **_answer(503, {"error": {"reason": reason}}), **_metadata(route)}]
    if route.affinity:
        carrying = {**prefix, "headers": [_unit_matcher(route.affinity)]}
        first.append(_split(carrying, model, route, route.affinity))
    stays_out = needs_unit(route)
    last = _apart(prefix, model, base_of(route), "apart") if stays_out else _split(prefix, model, route, None)
    return [*first, {**last, **_metadata(route)}]


def _split(match: Json, model: str, route: Split, affinity: Key | None) -> Json:
    """The entry that shares requests out by weight; by the hash of the unit, where there is one."""
    shares = [
        {
            "name": cluster_name(model, release),
            "weight": route.weights[release],
            "request_headers_to_add": [_header(ARM_HEADER, f"{route.weights[release]}%%")],
            "response_headers_to_add": [_header(RELEASE_HEADER, release)],
        }
        for release in (_ordered(route) if route.affinity else sorted(route.weights))
    ]
    action: Json = {**_ACTION, "weighted_clusters": {"clusters": shares}}
    if affinity:
        action["weighted_clusters"]["use_hash_policy"] = True
        action["hash_policy"] = [_hashed(affinity, route.salt)]
    if route.mirror:
        action["request_mirror_policies"] = [
            {
                "cluster": cluster_name(model, release),
                "runtime_fraction": {"default_value": {"numerator": percent}},
            }
            for release, percent in sorted(route.mirror.items())
        ]
    entry: Json = {"match": match, "route": action, **_UNTOLD}
    if route.journal:
        told = [_header(JOURNAL_HEADER, "1")]
        if affinity:
            told.append(_header(UNIT_HEADER, f"%REQ({_key(affinity)})%"))
        entry["request_headers_to_add"] = told
    return entry


# A release may repeat what it was told; callers learn of the release that answered, and of nothing else.
_UNTOLD: Json = {"response_headers_to_remove": [JOURNAL_HEADER, UNIT_HEADER, ARM_HEADER]}
_ACTION: Json = {"prefix_rewrite": "/", "timeout": "30s", "retry_policy": _POLICY}


def _apart(match: Json, model: str, release: str, arm: str) -> Json:
    """The entry of requests that go to one release without being counted for it."""
    return {
        "match": match,
        "route": {**_ACTION, "cluster": apart_name(model, release)},
        **_UNTOLD,
        "request_headers_to_add": [_header(ARM_HEADER, arm)],
        "response_headers_to_add": [_header(RELEASE_HEADER, release)],
    }


def _ordered(route: Split) -> list[str]:
    """Return the releases in the order in which they share the hash's range.

    Each has the stretch that follows the one before it, so an arm keeps all of its users as it grows when it
    only ever takes from the base, and the base lies between: the tried release at the lower end, the base,
    the others from the upper end. With two or three arms nobody leaves one that grows; with more, those
    that are neither first nor last move along as the ones above them change.
    """
    base = base_of(route)
    others = [release for release in sorted(route.weights) if release not in (route.salt, base)]
    tried = [route.salt] if route.salt in route.weights and route.salt != base else []
    return [*tried, base, *others]


def _key(key: Key) -> str:
    return (key.header or "cookie").lower()


def _hashed(affinity: Key, salt: str) -> Json:
    # Envoy's hash (xxHash64, without a seed) of the rewritten value: the same in every process. The salt in
    # the value makes each experiment's assignment independent of those before it.
    pattern = f"^.*?{_cookie(affinity.cookie)}([^;]*).*$" if affinity.cookie else "^(.*)$"
    rewrite = {"pattern": {"regex": pattern}, "substitution": rf"\1|{salt}"}
    return {"header": {"header_name": _key(affinity), "regex_rewrite": rewrite}}


def _cookie(name: str) -> str:
    return rf"(?:^|;)\s*{re.escape(name)}="


def _unit_matcher(key: Key) -> Json:
    """What fits a request that says whose it is."""
    regex = f"(?:.*;)?\\s*{re.escape(key.cookie)}=[^;]+(?:;.*)?" if key.cookie else ".+"
    return {"name": _key(key), "string_match": {"safe_regex": {"regex": regex}}}


def _matcher(match: Match) -> Json:
    if match.header:
        found = {"string_match": {"exact": match.value}} if match.value else {"present_match": True}
        return {"name": match.header.lower(), **found}
    value = rf"{re.escape(match.value)}\s*(?:;.*)?" if match.value else ".*"
    regex = rf"(?:.*;)?\s*{re.escape(match.cookie)}={value}"
    return {"name": "cookie", "string_match": {"safe_regex": {"regex": regex}}}


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _answer(status: int, body: Json) -> Json:
    return {
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


class _Beside(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model's metadata hold: the parts of a Route that can't be told from its entries."""

    matches: tuple[tuple[Match, str], ...] = ()
    affinity: Key | None = None
    salt: str = ""
    journal: bool = False


def _metadata(route: Split) -> Json:
    # Through JSON, since what is read back has lists where there were tuples.
    beside = json.loads(
        msgspec.json.encode(_Beside(route.matches, route.affinity, route.salt, route.journal))
    )
    return {"metadata": {"filter_metadata": {ROUTES: beside}}} if beside else {}


# ---------------------------------------------------------------- reading
def found(clusters: Mapping[str, Json], configuration: Json) -> dict[str, Found]:
    """Return the table that clusters (by name) and a route configuration stand for, whoever wrote them.

    A cluster that is not one of the model's releases appears under its whole name, so that it is seen, and a
    model whose clusters and entries are not just what would be written for it has the salt FOREIGN; all have
    it when the rest of the configuration is not.
    """
    written: dict[str, list[Json]] = {}
    for host in configuration.get("virtual_hosts", []):
        for entry in host.get("routes", []):
            if entry == _private():
                continue
            match = entry.get("match", {})
            path = match.get("prefix") or match.get("path") or match.get("path_separated_prefix") or "?"
            if path != "/" or "direct_response" not in entry:
                written.setdefault(path.strip("/"), []).append(entry)
    owned: dict[str, dict[str, Json]] = {}
    for name in sorted(clusters):
        owned.setdefault(split_name(name)[0], {})[name] = clusters[name]
    models = sorted({*written, *owned})
    read = {model: _read(model, written.get(model, []), owned.get(model, {})) for model in models}
    if not fault(read) and routes(read) == configuration and made(read) == clusters:
        return read
    ours = {m for m in models if _is_ours(m, read[m], written.get(m, []), owned.get(m, {}))}
    if len(ours) == len(models):
        ours = set()  # what was edited belongs to no model: all are to be written anew
    return {
        m: r if m in ours else Found(r.weights, r.endpoints, r.mirror, salt=FOREIGN) for m, r in read.items()
    }


def _is_ours(model: str, read: Found, written: list[Json], owned: Mapping[str, Json]) -> bool:
    table = {model: read}
    return not fault(table) and entries(model, read) == written and made(table) == owned


def _read(model: str, written: list[Json], owned: Mapping[str, Json]) -> Found:
    endpoints = {split_name(n)[1]: endpoints_of(c) for n, c in owned.items() if not is_apart(n)}
    weights, mirror = _shared_out(model, written)
    try:
        kept = written[-1]["metadata"]["filter_metadata"][ROUTES] if "metadata" in written[-1] else {}
        beside = msgspec.convert(kept, _Beside)
    except (msgspec.ValidationError, LookupError, TypeError):
        beside = _Beside(salt=FOREIGN)
    return Found(weights, endpoints, mirror, beside.matches, beside.affinity, beside.salt, beside.journal)


def _shared_out(model: str, written: list[Json]) -> tuple[dict[str, int], dict[str, int]]:
    """Weights and mirrors of the first entry that shares requests out (in Envoy, too, the first one wins)."""
    for entry in written:
        action = entry.get("route", {})
        targets = _targets(action)
        if targets and not is_apart(targets[0][0]):
            mirrors = {
                _release(model, str(policy.get("cluster", "?"))): _percent(policy)
                for policy in action.get("request_mirror_policies", [])
            }
            return {_release(model, name): weight for name, weight in targets}, mirrors
    return {}, {}


def _targets(action: Json) -> list[tuple[str, int]]:
    if "cluster" in action:
        return [(action["cluster"], 100)]
    shares = action.get("weighted_clusters", {}).get("clusters", [])
    return [(item.get("name", "?"), int(item.get("weight", 0))) for item in shares]


def _percent(policy: Json) -> int:
    fraction = policy.get("runtime_fraction", {}).get("default_value")
    return 100 if fraction is None else int(fraction.get("numerator", 0))


def _release(model: str, name: str) -> str:
    owner, release = split_name(name)
    return release if owner == model and release else name
