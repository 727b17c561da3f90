"""What people look at of a running service: `/docs`, `/metrics`, the dashboard and the alerts on it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from tests.builders import flight_row
from tests.planes import eventually, plane_up
from tests.prometheus import Prometheus, prometheus_up
from tests.service.running import ROOT, Built, build, free_port, ready, start
from tidegate.machine.placements import Placed
from tidegate.machine.targets import Targets
from tidegate.ports import Route
from tidegate.selftest.gpu import compile_stub

CHROMIUM = Path("/usr/bin/chromium")
PROMETHEUS = ROOT / "envs" / "prometheus"
DASHBOARD = json.loads((ROOT / "envs" / "grafana" / "dashboard.json").read_text())
EVERYTHING = """
cache: {entries: 100}
batching: {maxRows: 4}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("bento"))


@pytest.fixture(scope="module")
def port(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service with every part and a GPU (NVML's stub) switched on, and a few requests asked of it."""
    folder, found = tmp_path_factory.mktemp("looking"), free_port()
    (folder / "settings.yaml").write_text(EVERYTHING)
    process = start(
        built,
        found,
        TIDEGATE_SETTINGS=str(folder / "settings.yaml"),
        TIDEGATE_PREDICTIONS=str(folder / "predictions"),
        TIDEGATE_FEATURES=f"sqlite:///{folder}/features.db",
        LD_LIBRARY_PATH=str(compile_stub(folder / "nvml")),
        NVML_STUB="healthy",
    )
    try:
        assert ready(process, found), process.stdout.read().decode() if process.stdout else ""
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client


# ---------------------------------------------------------------- /docs
def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        yield path, methods["post"]


def test_every_example_works_as_it_is(client: httpx.Client) -> None:
    """Each example, sent unchanged, is answered 200 as shown, and request and answer keep the schemas."""
    document = client.get("/openapi.json").json()
    asked = 0
    for path, operation in _operations(document):
        taken = operation["requestBody"]["content"]["application/json"]
        given = operation["responses"]["200"]["content"]["application/json"]
        for key, example in taken["examples"].items():
            jsonschema.validate(example["value"], taken["schema"] | {"components": document["components"]})
            answer = client.post(path, json=example["value"])
            assert answer.status_code == 200, answer.text
            promised = given["schema"] | {"components": document["components"]}
            jsonschema.validate(answer.json(), promised)
            shown = given["examples"][key]["value"]
            jsonschema.validate(shown, promised)
            own = {"request_id", "source"}
            assert {k: v for k, v in answer.json().items() if k not in own} == {
                k: v for k, v in shown.items() if k not in own
            }
            asked += 1
    assert asked >= len(document["paths"])


def test_what_is_refused_is_shown_as_it_is(client: httpx.Client) -> None:
    """The example of a refusal is what a request like that gets, but for its id."""
    document = client.get("/openapi.json").json()
    for path, operation in _operations(document):
        for status, body in ((400, b"{"), (422, b"{}")):
            shown = operation["responses"][str(status)]["content"]["application/json"]["example"]
            answer = client.post(path, content=body)
            assert answer.status_code == status
            assert answer.json()["error"] == shown["error"]


def test_promised_headers_come(client: httpx.Client) -> None:
    """Each header that is promised for an answer is there: the id always, the method with a 405."""
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    answers = {
        "200": client.post("/predict", json=flight_row(), headers={"x-request-timeout-ms": "20000"}),
        "405": client.get("/predict"),
        "422": client.post("/predict", json={}),
    }
    for status, answer in answers.items():
        assert str(answer.status_code) == status
        assert [
            name for name in operation["responses"][status]["headers"] if name not in answer.headers
        ] == []
    assert "Retry-After" in operation["responses"]["429"]["headers"]


def test_the_page_loads_only_what_the_service_has(client: httpx.Client) -> None:
    """The page names relative addresses alone, each is answered, and the browser may ask nobody else."""
    page = client.get("/docs")
    assert (page.status_code, client.head("/docs").content) == (200, b"")
    assert client.get("/").text == page.text  # in place of BentoML's own, which tells others who looks at it
    assert "default-src 'self'" in page.headers["content-security-policy"]
    named = re.findall(r"(?:src|href|url)(?:=|: )\"([^\"]+)\"", page.text)
    assert len(named) >= 4
    assert [address for address in named if not address.startswith("./")] == []
    assert {client.get(address.removeprefix(".")).status_code for address in named} == {200}
    assert "http" not in page.text


@pytest.fixture(scope="module")
def routed(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service's address behind a real router."""
    with plane_up(tmp_path_factory.mktemp("plane")) as plane:
        plane.router().apply({"late": Route({"r": 100}, {"r": (f"127.0.0.1:{port}",)})})
        url = f"{plane.url}/late"
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, 30)
        yield url


def test_counts_are_kept_from_callers_and_the_page_is_not(routed: str) -> None:
    """Through the router there are no counts, but there is the page and its document."""
    found = {path: httpx.get(routed + path).status_code for path in ("/metrics", "/measures", "/docs")}
    assert found == {"/metrics": 404, "/measures": 404, "/docs": 200}


@pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("CI"),
    reason="chromium is not installed: apt-get install chromium",
)
def test_the_page_works_in_a_browser_behind_the_router(routed: str) -> None:
    """It shows each path, sends an example where its model is, and asks for nothing that fails."""
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(f"{routed}/docs")
        page.wait_for_selector("text=/predict")
        page.click("#operations-default-predict .opblock-summary-control")
        page.click("#operations-default-predict .execute")
        page.wait_for_selector(
            "#operations-default-predict .live-responses-table .response-col_status >> text=200"
        )
        browser.close()
    assert wrong == []
    assert f"{routed}/predict" in asked
    assert {url for url in asked if not url.startswith((f"{routed}/", "data:"))} == set()


# ---------------------------------------------------------------- /metrics
def test_every_metric_is_documented(client: httpx.Client) -> None:
    """docs/monitoring.md's table is the page of a service with every part switched on: all of it, no more."""
    assert _table() == _families(client)


def _table() -> dict[str, str]:
    """Name → kind, of docs/monitoring.md's table."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    return dict(re.findall(r"^\| `(tidegate_\w+)` \| (\w+)", text, re.M))


def _families(client: httpx.Client) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (tidegate_\w+) (\w+)$", client.get("/metrics").text, re.M))


# ---------------------------------------------------------------- Prometheus
def test_promtool_accepts_the_configuration() -> None:
    """The scrape configuration and the rules are valid, and each alert fires and is silent as is shown."""
    if not shutil.which("promtool") and not os.environ.get("CI"):
        pytest.skip("no promtool here: apt-get install prometheus")
    for words in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = subprocess.run(
            ["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_has_its_tests_and_its_page() -> None:
    """Each alert is shown to fire and to be silent, and its runbook is a heading of the page it names."""
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    expected = [(t["alertname"], bool(t["exp_alerts"])) for test in tests for t in test["alert_rule_test"]]
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "monitoring.md").read_text(), re.M)
    names = [rule["alert"] for rule in _alerts()]
    assert headings == names
    for rule in _alerts():
        assert {(rule["alert"], True), (rule["alert"], False)} <= set(expected)
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"


def test_rules_and_panels_ask_for_metrics_that_exist() -> None:
    """Each name in a rule or a panel is a documented metric's, with the suffix that its kind has."""
    table = _table()
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    known = {name + suffix for name, kind in table.items() for suffix in suffixes[kind]}
    queries = [rule["expr"] for rule in _alerts()] + [query for _, query in _queries()]
    used = {name for query in queries for name in re.findall(r"\btidegate_\w+", query)}
    assert used - known == set()
    quiet = {"tidegate_cache_evictions_total", "tidegate_cache_errors_total", "tidegate_cache_entries"}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert set(table) - shown == quiet & set(table)


def _queries() -> list[tuple[str, str]]:
    """Every panel's title and query."""
    return [(p["title"], t["expr"]) for p in DASHBOARD["panels"] for t in p.get("targets", [])]


@pytest.fixture(scope="module")
def server(
    built: Built, port: int, client: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus with the repository's own configuration, hurried, that has scraped a little traffic."""
    folder = tmp_path_factory.mktemp("prometheus")
    Targets(folder / "targets" / "production.json").tell([Placed(built.record, (port,))])
    text = (PROMETHEUS / "prometheus.yml").read_text().replace("15s", "250ms")
    text = text.replace("../../.tidegate/targets", str(folder / "targets"))
    text = text.replace("[alerts.yml]", f"[{PROMETHEUS}/alerts.yml]")
    with prometheus_up(folder / "data", "", text) as server:
        for number in range(4):
            _traffic(client, number)
            seen = _value(server, "count_over_time(up[10m])")
            eventually(lambda seen=seen: _value(server, "count_over_time(up[10m])") >= seen + 2, 30)
        yield server


def _traffic(client: httpx.Client, number: int) -> None:
    """Ask for what each panel shows something of."""
    for minute in (number, number, 30 + number):  # twice the same, so that one is kept
        client.post("/predict", json=flight_row(sched_dep_time=f"17:{minute:02}", recent=None))
    client.post("/predict", json={})
    document = client.get("/openapi.json").json()["paths"]["/predict/many"]["post"]["requestBody"]
    client.post("/predict/many", json=document["content"]["application/json"]["examples"]["1"]["value"])


def _ask(server: Prometheus, query: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{server.url}/api/v1/query", params={"query": query}, timeout=30).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    return list(answer["data"]["result"])


def _value(server: Prometheus, query: str) -> float:
    found = _ask(server, query)
    return float(found[0]["value"][1]) if found else 0.0


VARIABLES = {"$plane": "production", "$model": ".*", "$release": ".*", "$__rate_interval": "1m"}


@pytest.mark.parametrize("title", list(dict.fromkeys(title for title, _ in _queries())))
def test_each_panel_shows_something(server: Prometheus, title: str) -> None:
    """Each query of the dashboard, asked of a Prometheus that scrapes a service, finds numbers."""
    for query in [query for name, query in _queries() if name == title]:
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        assert "$" not in query
        found = _ask(server, query)
        assert found, f"{title}: nothing for {query}"
        numbers = [float(each["value"][1]) for each in found]
        assert [number for number in numbers if math.isfinite(number)], f"{title}: {found}"


def test_each_variable_has_values(server: Prometheus, built: Built) -> None:
    """Plane, model and release can be chosen, and the panels' job and labels are those of the targets."""
    names = {
        each["name"]: each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"
    }
    wanted = {"plane": "production", "model": "flight-delay", "release": built.record.id}
    assert set(names) == set(wanted)
    for name, query in names.items():
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        assert {each["metric"][label] for each in _ask(server, selector)} == {wanted[name]}


def test_every_rule_can_be_computed(server: Prometheus) -> None:
    """Prometheus computes each alert over the service's own series without a fault, and none fires."""

    def rules() -> list[dict[str, Any]]:
        groups = httpx.get(f"{server.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    eventually(lambda: rules() and all(rule["health"] != "unknown" for rule in rules()), 30)
    assert {rule["name"]: (rule["health"], rule["state"]) for rule in rules()} == {
        rule["alert"]: ("ok", "inactive") for rule in _alerts()
    }
