"""Route tables as Envoy's resources: pure values in, pure values out."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import routes, xds
from tidegate.core.bootstrap import bootstrap
from tidegate.core.plan import Key, Match
from tidegate.core.release import copy_of
from tidegate.ports import Route

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
AT = {A: ("127.0.0.1:1", "127.0.0.1:2"), B: ("127.0.0.1:3",), C: ("127.0.0.1:4",)}
RELEASES = st.sampled_from([A, B, C])
ENDPOINTS = st.lists(
    st.integers(1, 65535).map(lambda p: f"127.0.0.1:{p}"), min_size=1, max_size=3, unique=True
)


def _tuple(endpoints: list[str]) -> tuple[str, ...]:
    return tuple(endpoints)


VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=";"), max_size=6)
MATCHES = st.builds(Match, header=st.just("X-Try"), value=VALUES) | st.builds(
    Match, cookie=st.sampled_from(["try", "a.b", "$x"]), value=VALUES
)
KEYS = st.sampled_from([Key(header="X-User"), Key(cookie="sid"), Key(cookie="s.id*")])


@st.composite
def sound_routes(draw: st.DrawFn) -> Route:
    """A route whose weights sum to 100, or has none; with all that a release with endpoints can have."""
    endpoints = draw(st.dictionaries(RELEASES, ENDPOINTS.map(_tuple), max_size=3))
    if not endpoints:
        return Route()
    names, weights = list(endpoints), {}
    served = st.sampled_from(names)
    if draw(st.booleans()):
        cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(names) - 1, max_size=len(names) - 1)))
        shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
        weights = dict(zip(names, shares, strict=True))
    return Route(
        weights,
        endpoints,
        mirror=draw(st.dictionaries(served, st.integers(1, 100), max_size=2)) if weights else {},
        matches=tuple(draw(st.lists(st.tuples(MATCHES, served), max_size=2))),
        affinity=draw(st.none() | KEYS),
        salt=draw(st.just("") | RELEASES),
        journal=draw(st.booleans()),
    )


TABLES = st.dictionaries(st.sampled_from(["flight-delay", "sentiment", "a.b"]), sound_routes(), max_size=3)


def _read(table: dict[str, Route]) -> dict[str, Route]:
    """Write a table as resources, through JSON, and read it back."""
    clusters, written = json.loads(json.dumps([xds.clusters(table), routes.routes(table)]))
    return {model: Route(**vars(found)) for model, found in routes.found(clusters, written).items()}


@given(TABLES)
def test_a_sound_table_survives_the_round_trip(table: dict[str, Route]) -> None:
    """Every part of a route can be read back from what was rendered."""
    assert xds.fault(table) == ""
    assert _read(table) == table


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every leaf of a JSON value."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*path, key))
    else:
        yield path


FULL = Route(
    {A: 60, B: 40},
    AT,
    mirror={C: 20},
    matches=((Match(header="x-try", value="b"), B), (Match(cookie="try"), C)),
    affinity=Key(header="x-user"),
    salt=B,
    journal=True,
)
NEXT_TO_IT = {"one": FULL, "two": replace(FULL, mirror={}), "three": Route({}, AT)}


@given(st.data())
def test_an_edit_by_hand_is_a_difference(data: st.DataObject) -> None:
    """Whatever leaf of the resources somebody changes or removes, the table that is read back differs."""
    resources = json.loads(json.dumps([xds.clusters(NEXT_TO_IT), routes.routes(NEXT_TO_IT)]))
    ours = [
        p for p in _places(resources) if p[0] == 0 or (p[1:3] == ("virtual_hosts", 0) and p[3] == "routes")
    ]
    ours = [p for p in ours if p[4:5] != (len(resources[1]["virtual_hosts"][0]["routes"]) - 1,)]  # the 404
    place = data.draw(st.sampled_from(ours))
    at = resources
    for key in place[:-1]:
        at = at[key]
    if data.draw(st.booleans()) and isinstance(at, dict):
        del at[place[-1]]
    else:
        at[place[-1]] = at[place[-1]] + 1 if isinstance(at[place[-1]], int) else "edited"
    found = {m: Route(**vars(r)) for m, r in routes.found(*resources).items()}
    assert found != NEXT_TO_IT


@pytest.mark.parametrize("change", ["insert", "drop", "swap"])
def test_an_entry_too_many_or_too_few_is_a_difference(change: str) -> None:
    """Whole entries that were added, removed or moved are seen, with the weights that then come first."""
    configuration = copy.deepcopy(routes.routes({"one": FULL}))
    written = configuration["virtual_hosts"][0]["routes"]
    if change == "insert":
        written.insert(0, {"match": {"prefix": "/one/"}, "route": {"cluster": "one|" + C}})
    elif change == "drop":
        del written[0]
    else:
        written[0], written[1] = written[1], written[0]
    found = routes.found(xds.clusters({"one": FULL}), configuration)["one"]
    assert found.salt == routes.FOREIGN
    assert found.weights == ({C: 100} if change == "insert" else FULL.weights)


def test_a_cluster_too_many_or_too_few_is_a_difference() -> None:
    """A release whose uncounted cluster is missing, or one that nothing leads to, is seen."""
    whole, configuration = xds.clusters({"one": FULL}), routes.routes({"one": FULL})
    assert f"one|{B}|apart" in whole
    less = {name: cluster for name, cluster in whole.items() if not name.endswith("|apart")}
    more = {**whole, f"one|{A}|apart": {**whole[f"one|{A}"], "name": f"one|{A}|apart"}}
    for clusters in (less, more):
        assert routes.found(clusters, configuration)["one"].salt == routes.FOREIGN
    assert routes.found(whole, configuration)["one"] == routes.Found(**asdict(FULL) | vars(FULL))


@given(st.dictionaries(RELEASES, st.integers(-50, 150), min_size=1, max_size=3))
def test_weights_are_sound_or_named(weights: dict[str, int]) -> None:
    """A fault is found exactly when the weights don't share 100 among themselves."""
    route = Route(weights, dict.fromkeys(weights, ("127.0.0.1:1",)))
    sound = sum(weights.values()) == 100 and min(weights.values()) >= 0
    assert (xds.fault({"toy": route}) == "") is sound


@pytest.mark.parametrize("model", ["", "a/b", "a|b", "a b", "a?b"])
def test_a_name_that_no_path_can_have_is_a_fault(model: str) -> None:
    """A model's name is the first part of a URL's path and of a cluster's name."""
    assert model in xds.fault({model: Route()})


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (Route(mirror={B: 0}), "0%"),
        (Route(mirror={B: 101}), "101%"),
        (Route(mirror={"gone": 5}), "gone"),
        (Route(matches=((Match(header="x-try"), "gone"),)), "gone"),
        (Route(affinity=Key(header="x-user"), salt="a|b"), "salt"),
        (Route(affinity=Key(header="x-user"), salt=routes.FOREIGN), "salt"),
    ],
)
def test_what_envoy_would_refuse_or_misread_is_a_fault(beside: Route, said: str) -> None:
    """A mirror, match, affinity or salt that can't be kept is named before it reaches the router."""
    assert said in xds.fault({"toy": replace(beside, weights={A: 100}, endpoints=AT)})


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"header": "x try"}, "x try"),
        ({"header": ":path"}, ":path"),
        ({"header": "a)%"}, "a)%"),
        ({"header": "x-try", "value": "a\nb"}, "printable"),
        ({"cookie": "a;b"}, "a;b"),
        ({"cookie": "a", "value": "b; c=d"}, "printable"),
        ({"header": "X-Tidegate-Release"}, "own"),
        ({"header": "a", "cookie": "b"}, "either"),
        ({}, "either"),
    ],
)
def test_a_key_that_no_router_could_look_for_is_no_key(named: dict[str, str], said: str) -> None:
    """What can't be a header or cookie is refused where it is written, long before it could block a table."""
    with pytest.raises(ValueError, match=re.escape(said)):
        Match(**named)
    if "value" not in named:
        with pytest.raises(ValueError, match=re.escape(said)):
            Key(**named)


def test_the_version_is_the_contents() -> None:
    """Equal tables have equal files, whatever their order; another weight has another version."""
    a, b = ("127.0.0.1:1",), ("127.0.0.1:2",)
    one = Route({A: 60, B: 40}, {A: a, B: b})
    same = Route({B: 40, A: 60}, {B: b, A: a})
    other = Route({A: 61, B: 39}, one.endpoints)
    text = [xds.document([routes.routes({"toy": route})], routes.ROUTE) for route in (one, same, other)]
    assert text[0] == text[1]
    assert json.loads(text[0])["version_info"] != json.loads(text[2])["version_info"]


def test_a_foreign_route_is_seen() -> None:
    """What somebody else wrote is not taken for ours: its cluster appears under its whole name."""
    action = {"weighted_clusters": {"clusters": [{"name": f"other|{A}", "weight": 100}]}}
    foreign = {"virtual_hosts": [{"routes": [{"match": {"prefix": "/toy/"}, "route": action}]}]}
    assert routes.found({}, foreign)["toy"].weights == {f"other|{A}": 100}
    single = {"virtual_hosts": [{"routes": [{"match": {"prefix": "/toy/"}, "route": {"cluster": "x"}}]}]}
    assert routes.found({}, single)["toy"].weights == {"x": 100}


def _stretches(route: Route) -> dict[str, set[int]]:
    """Release → which of the hash's hundred values it has, as Envoy deals them out."""
    written = routes.entries("one", replace(route, journal=False))[0]
    shares = written["route"]["weighted_clusters"]["clusters"]
    dealt = [xds.split_name(share["name"])[1] for share in shares for _ in range(share["weight"])]
    return {release: {i for i, owner in enumerate(dealt) if owner == release} for release in dealt}


@given(st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_nobody_leaves_an_arm_that_grows(small: int, large: int, copied: bool) -> None:
    """With two arms, and with a third that is a copy of stable, growth only ever takes from stable."""
    small, large = sorted((small, large))
    before, after = (
        _stretches(
            Route(
                {B: w, A: 100 - w - w * copied} | ({copy_of(A): w} if copied else {}),
                {A: ("h:1",), B: ("h:2",), copy_of(A): ("h:3",)},
                affinity=Key(header="x-user"),
                salt=B,
            )
        )
        for w in (small, large)
    )
    for release in (B, copy_of(A)):
        assert before.get(release, set()) <= after.get(release, set())


@given(VALUES.filter(str.strip), VALUES)
def test_a_cookie_is_found_among_others_and_no_other_for_it(value: str, other: str) -> None:
    """A match by cookie looks at that cookie alone, wherever it stands in the header."""
    value, other = value.replace(";", ""), other.replace(";", "")
    (entry, *_) = routes.entries("one", Route(matches=((Match(cookie="try", value=value), B),)))
    (matcher,) = entry["match"]["headers"]
    fits = re.compile(matcher["string_match"]["safe_regex"]["regex"], re.ASCII).fullmatch
    assert fits(f"try={value}")
    assert fits(f"a={other}; try={value}; b=1")
    assert not fits(f"retry={value}")
    assert not fits(f"a={other.replace('try', '')}")
    if value.strip():
        assert not fits(f"try={value}x")


def test_only_what_is_journaled_is_told_to_the_service() -> None:
    """With users to tell apart, the rest goes uncounted to stable; without, every request is journaled."""

    def journaled(entry: dict[str, Any]) -> bool:
        added = [header["header"]["key"] for header in entry.get("request_headers_to_add", [])]
        return routes.JOURNAL_HEADER in added

    hand, cookie, unit, rest = routes.entries("one", replace(FULL, mirror={}))
    assert list(map(journaled, (hand, cookie, unit, rest))) == [0, 0, 1, 0]
    assert rest["route"]["cluster"] == f"one|{A}|apart"
    keys = [h["header"]["key"] for h in unit["request_headers_to_add"]]
    assert keys == [routes.JOURNAL_HEADER, routes.UNIT_HEADER]
    paired = routes.entries("one", FULL)
    assert list(map(journaled, paired)) == [0, 0, 1, 1]


def test_the_listener_takes_own_headers_away_before_it_journals_by_one() -> None:
    """What decides whether a request is written down can only have come from a route."""
    (listener,) = bootstrap("p", 1, "a", "c", "r", "j")["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (removed,) = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    decides = manager["access_log"][0]["filter"]["header_filter"]["header"]["name"]
    assert decides.startswith(removed["remove_on_match"]["key_matcher"]["prefix"])


def test_bounds_are_close_and_hold_the_round_numbers() -> None:
    """From 1 ms to 60 s, above 10 ms never more than 12.5% apart; objectives' usual numbers are bounds."""
    bounds = xds.LATENCY_BOUNDS_MS
    assert (bounds[0], bounds[-1]) == (1.0, 60_000.0)
    above = [b for b in bounds if b >= 10]
    assert max(b / a for a, b in itertools.pairwise(above)) <= 1.125 + 1e-9
    assert {20.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 500.0, 1000.0, 1500.0, 2000.0} <= set(bounds)
    assert list(xds.BUCKETS) == sorted(xds.BUCKETS)
    assert all(bucket < bound for bucket, bound in xds.BUCKETS.items())
