"""Route tables as Envoy's resources: pure values in, pure values out."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core import xds
from tidegate.ports import Route

RELEASES = st.sampled_from(["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"])
ENDPOINTS = st.lists(
    st.integers(1, 65535).map(lambda p: f"127.0.0.1:{p}"), min_size=1, max_size=3, unique=True
)


@st.composite
def sound_routes(draw: st.DrawFn) -> Route:
    """A route whose weights sum to 100, or has none."""
    endpoints = draw(st.dictionaries(RELEASES, ENDPOINTS.map(tuple), max_size=3))
    if not endpoints or draw(st.booleans()):
        return Route({}, endpoints)
    names = list(endpoints)
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(names) - 1, max_size=len(names) - 1)))
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    return Route(dict(zip(names, shares, strict=True)), endpoints)


@given(st.dictionaries(st.sampled_from(["flight-delay", "sentiment", "a.b"]), sound_routes(), max_size=3))
def test_a_sound_table_survives_the_round_trip(table: dict[str, Route]) -> None:
    """Weights and endpoints can be read back from what was rendered."""
    assert xds.fault(table) == ""
    assert xds.weights_of(xds.routes(table)) == {m: dict(r.weights) for m, r in table.items()}
    read = {xds.split_name(n): xds.endpoints_of(c) for n, c in xds.clusters(table).items()}
    assert read == {(m, r): e for m, route in table.items() for r, e in route.endpoints.items()}


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


def test_the_version_is_the_contents() -> None:
    """Equal tables have equal files, whatever their order; another weight has another version."""
    a, b = ("127.0.0.1:1",), ("127.0.0.1:2",)
    one = Route({"aaaaaaaaaaaa": 60, "bbbbbbbbbbbb": 40}, {"aaaaaaaaaaaa": a, "bbbbbbbbbbbb": b})
    same = Route({"bbbbbbbbbbbb": 40, "aaaaaaaaaaaa": 60}, {"bbbbbbbbbbbb": b, "aaaaaaaaaaaa": a})
    other = Route({"aaaaaaaaaaaa": 61, "bbbbbbbbbbbb": 39}, one.endpoints)
    text = [xds.document([xds.routes({"toy": route})], xds.ROUTE) for route in (one, same, other)]
    assert text[0] == text[1]
    assert json.loads(text[0])["version_info"] != json.loads(text[2])["version_info"]


def test_a_foreign_route_is_seen() -> None:
    """What somebody else wrote is not taken for ours: its cluster appears under its whole name."""
    action = {"weighted_clusters": {"clusters": [{"name": "other|aaaaaaaaaaaa", "weight": 100}]}}
    foreign = {"virtual_hosts": [{"routes": [{"match": {"prefix": "/toy/"}, "route": action}]}]}
    assert xds.weights_of(foreign) == {"toy": {"other|aaaaaaaaaaaa": 100}}
    single = {"virtual_hosts": [{"routes": [{"match": {"prefix": "/toy/"}, "route": {"cluster": "x"}}]}]}
    assert xds.weights_of(single) == {"toy": {"x": 100}}


def test_bounds_are_close_and_hold_the_round_numbers() -> None:
    """From 1 ms to 60 s, above 10 ms never more than 12.5% apart; objectives' usual numbers are bounds."""
    bounds = xds.LATENCY_BOUNDS_MS
    assert (bounds[0], bounds[-1]) == (1.0, 60_000.0)
    above = [b for b in bounds if b >= 10]
    assert max(b / a for a, b in itertools.pairwise(above)) <= 1.125 + 1e-9
    assert {20.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 500.0, 1000.0, 1500.0, 2000.0} <= set(bounds)
    assert list(xds.BUCKETS) == sorted(xds.BUCKETS)
    assert all(bucket < bound for bucket, bound in xds.BUCKETS.items())
