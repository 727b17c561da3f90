"""What PrometheusMeasures asks, and what it makes of every answer; tests/contract/test_measures.py has a
real server beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.planes import eventually
from tests.prometheus import Pages, pages_up, prometheus_up
from tidegate.adapters.prometheus import SERIES, PrometheusMeasures, filled
from tidegate.core.plan import Check, Plan, Query, Ratio
from tidegate.errors import ConfigError, NoData, Unreachable
from tidegate.ports import Asked

A, B = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
EVENTS = 'sum by (pod) (failed_total{release="{{release}}",model="{{ model }}",plane="{{plane}}"})'
QUERY = Query(EVENTS, 'sum by (pod) (all_total{release="{{release}}",in="{{environment}}"})')
PLAN = Plan(checks=(Check("asked", "prometheus", Ratio(0.05), query=QUERY),))
ASKED = Asked("toy", "canary", A, B, 0.0, PLAN, {A: ("a:1",), B: ("b:1",)})
ONE = Asked("toy", "canary", A, None, 0.0, PLAN, {A: ("a:1",)})


@pytest.fixture
def pages() -> Iterator[Pages]:
    with pages_up() as pages:
        yield pages


def _answer(pages: Pages, *values: str, events: tuple[str, ...] | None = None) -> None:
    """Answer every query by a series for each value; `events` has those of `total` where not given."""
    parts = {"total": values, "events": values if events is None else events}
    made = [
        {"metric": {"__name__": "x", "pod": str(n), "tidegate": part}, "value": [0, value]}
        for part, found in parts.items()
        for n, value in enumerate(found)
    ]
    _raw(pages, {"status": "success", "data": {"resultType": "vector", "result": made}})


def _raw(pages: Pages, document: Any, status: int = 200) -> None:
    pages.pages = {"/api/v1/query": (status, json.dumps(document).encode())}


def _tallies(measures: PrometheusMeasures, asked: Asked = ONE) -> list[tuple[int, int]]:
    return [tally for measured in measures.read(asked).values() for tally in measured.tallies.values()]


def test_the_queries_are_those_of_the_plan(pages: Pages) -> None:
    """Each release's events and total are asked in one query, with everything filled in."""
    _answer(pages, "1")
    PrometheusMeasures(pages.url, plane="production").read(ASKED)
    wanted = """label_replace((
sum by (pod) (failed_total{{release="{0}",model="toy",plane="production"}})
), "tidegate", "events", "", "") or label_replace((
sum by (pod) (all_total{{release="{0}",in="canary"}})
), "tidegate", "total", "", "")"""
    assert pages.queries == [wanted.format(A), wanted.format(B)]


@pytest.mark.parametrize(("plane", "key"), [("p", "relase"), ("p", ""), ("", "plane")])
def test_an_unknown_key_is_fatal(pages: Pages, plane: str, key: str) -> None:
    """A query with a hole in it would count everybody's requests: it is never asked."""
    check = Check("asked", "prometheus", Ratio(0.05), query=Query("x{{%s}}" % key, "x"))  # noqa: UP031
    asked = Asked("toy", "canary", A, None, 0.0, Plan(checks=(check,)), {A: ("a:1",)})
    with pytest.raises(ConfigError, match="Correct"):
        PrometheusMeasures(pages.url, plane).read(asked)
    assert pages.queries == []


def test_a_name_stays_within_its_quotes() -> None:
    """What is filled in can't end the string that it stands in."""
    assert filled('x{a="{{release}}"}', {"release": 'a"} or vector(1) #\\'}) == (
        'x{a="a\\"} or vector(1) #\\\\"}'
    )


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "word"])
def test_what_is_no_count_is_no_data(pages: Pages, value: str) -> None:
    """A NaN, an infinity or a negative number is never taken for none."""
    _answer(pages, value)
    with pytest.raises(NoData, match="counters"):
        PrometheusMeasures(pages.url, "p").read(ONE)


def test_fractions_are_rounded_down(pages: Pages) -> None:
    """A sum of floats counts whole events only."""
    measures = PrometheusMeasures(pages.url, "p")
    _answer(pages, "1.9")
    measures.read(ONE)
    _answer(pages, "3.99999")
    assert _tallies(measures) == [(2, 2)]


def test_series_are_followed_one_by_one(pages: Pages) -> None:
    """One that restarts is no restart of all, and one out of sight keeps what it had."""
    measures = PrometheusMeasures(pages.url, "p")
    _answer(pages, "10", "20")
    measures.read(ONE)
    _answer(pages, "15", "2")
    measures.read(ONE)
    _answer(pages, "16")
    assert sorted(_tallies(measures)) == [(0, 0), (6, 6)]


def test_without_series_there_is_no_data(pages: Pages) -> None:
    """An empty answer for the candidate is an error; stable without any is only left out."""
    _answer(pages)
    with pytest.raises(NoData, match=A):
        PrometheusMeasures(pages.url, "p").read(ASKED)


def test_a_stable_without_series_is_left_out(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody counted of stable does not stop the candidate's own check."""
    measures, one = PrometheusMeasures(pages.url, "p"), {(("pod", "0"),): 5}
    monkeypatch.setattr(measures, "_series", lambda check, query: ({}, {}) if B in query else (one, one))
    assert set(measures.read(ASKED)) == {A}


def test_events_without_a_total_are_refused(pages: Pages) -> None:
    """A misspelt counter has no series: it must not look like a release without an error."""
    _answer(pages, "5", events=())
    with pytest.raises(NoData, match=r"or 0 \* <total>"):
        PrometheusMeasures(pages.url, "p").read(ONE)


def test_more_events_than_requests_are_refused(pages: Pages) -> None:
    """Two queries that count different things are told, not divided."""
    measures = PrometheusMeasures(pages.url, "p")
    _answer(pages, "0")
    measures.read(ONE)
    _answer(pages, "3", events=("9",))
    with pytest.raises(NoData, match="a part of"):
        measures.read(ONE)


def test_too_many_series_are_refused(pages: Pages) -> None:
    """A query without an aggregation could give thousands: memory is bounded."""
    _answer(pages, *["1"] * (SERIES + 1))
    with pytest.raises(NoData, match="sum by"):
        PrometheusMeasures(pages.url, "p").read(ONE)


@pytest.mark.parametrize(
    ("status", "document", "error"),
    [
        (400, {"status": "error", "errorType": "bad_data", "error": "parse error"}, NoData),
        (422, {"status": "error", "errorType": "execution", "error": "many-to-many"}, NoData),
        (503, {"status": "error", "errorType": "timeout", "error": "query timed out"}, Unreachable),
        (500, {"status": "error", "errorType": "internal", "error": "oh"}, Unreachable),
        (
            200,
            {"status": "success", "data": {"result": [{"metric": {}}]}},
            Unreachable,
        ),
        (200, {"status": "success", "data": {}}, Unreachable),
        (200, {"status": "success"}, Unreachable),
        (200, {"status": "success", "data": {"resultType": "vector", "result": [1]}}, Unreachable),
        (200, [], Unreachable),
        (200, "hello", Unreachable),
        (404, None, Unreachable),
    ],
)
def test_every_refusal_is_an_error(pages: Pages, status: int, document: Any, error: type[Exception]) -> None:
    """A query that is wrong, a server that can't, and what is no Prometheus: each says what to do."""
    _raw(pages, document, status)
    with pytest.raises(error) as told:
        PrometheusMeasures(pages.url, "p").read(ONE)
    assert getattr(told.value, "action", "")


def test_a_page_that_is_no_json_is_no_prometheus(pages: Pages) -> None:
    """A proxy's page is said to be one."""
    pages.pages = {"/api/v1/query": (200, b"<html>")}
    with pytest.raises(Unreachable, match="no Prometheus"):
        PrometheusMeasures(pages.url, "p").read(ONE)


@pytest.mark.parametrize("url", ["", "not a url", "http://", "ftp://x"])
def test_what_is_no_address_is_told(url: str) -> None:
    """A wrong `prometheus.url` is an error that names it, now or at the first question."""
    with pytest.raises((ConfigError, Unreachable), match=r"prometheus\.url"):
        PrometheusMeasures(url, "p").read(ONE)


def test_a_prefix_of_the_path_is_kept(pages: Pages) -> None:
    """A Prometheus behind `/prometheus` is asked there."""
    _answer(pages, "1")
    pages.pages["/prometheus/api/v1/query"] = pages.pages.pop("/api/v1/query")
    assert _tallies(PrometheusMeasures(f"{pages.url}/prometheus", "p")) == [(0, 0)]


def test_a_real_server_understands_the_query(tmp_path: Path, pages: Pages) -> None:
    """Comments, sums by label, a filled-in zero and an expression without labels are as PromQL has them."""
    text = "".join(f'failed_total{{release="{A}",pod="{n}"}} {n}\n' for n in (1, 2))
    text += "".join(f'all_total{{release="{A}",pod="{n}"}} 9\n' for n in (0, 1, 2))
    pages.pages = {"/metrics": (200, text.encode())}
    total = 'sum by (pod) (all_total{release="{{release}}"})  # every request'
    queries = [
        (Query(f'sum by (pod) (failed_total{{release="{{{{release}}}}"}}) or 0 * {total}', total), 3),
        (Query("sum(failed_total)", "sum(all_total)"), 1),
        (Query("sum(nothing_total) or vector(0)", "sum(all_total)"), 1),
    ]
    with prometheus_up(tmp_path / "prom", pages.endpoint) as server:
        for query, series in queries:
            check = Check("asked", "prometheus", Ratio(0.05), query=query)
            asked = Asked("toy", "canary", A, None, 0.0, Plan(checks=(check,)), {A: ("a:1",)})
            measures = PrometheusMeasures(server.url)
            eventually(lambda: _found(measures, asked) == [(0, 0)] * series)  # noqa: B023
        check = Check("asked", "prometheus", Ratio(0.05), query=Query("up[5m]", "up"))
        asked = Asked("toy", "canary", A, None, 0.0, Plan(checks=(check,)), {A: ("a:1",)})
        with pytest.raises(NoData, match=r"refused the query of asked.*range vector"):
            PrometheusMeasures(server.url).read(asked)


def _found(measures: PrometheusMeasures, asked: Asked) -> list[tuple[int, int]]:
    try:
        return _tallies(measures, asked)
    except NoData:  # not scraped yet
        return []
