"""`tidegate ui` in a real browser: by keyboard only, on a phone, live, and in the dark."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ui.plane import Plane, Served, checkout, healthy, paused, with_history
from tests.ui.test_pages import EVIL, LINES, NAME
from tidegate.adapters.recordings import FileRecorder

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("CI"),
    reason="chromium is not installed: apt-get install chromium",
)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A plane with a canary that waits for an approval, and a recorded rollout."""
    made = Plane(checkout(tmp_path))
    FileRecorder(made.home / "recordings").append(NAME, LINES)
    line = {**paused(time.time()), "recording": NAME}
    made.tell("flight-delay", ("canary: weight 5 → 25",), canary=line, production=healthy(75))
    yield made
    made.close()


@pytest.fixture
def served(plane: Plane) -> Iterator[Served]:
    made = Served(plane.checkout)
    yield made
    made.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of a fresh profile; what its console calls an error fails the test, but for a refusal."""
    context = browser.new_context(**getattr(request, "param", {"viewport": DESK}))
    made = context.new_page()
    made.set_default_timeout(15_000)
    wrong: list[str] = []
    made.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    yield made
    said = [text for text in wrong if "401" not in text]
    context.close()  # what is asked for meanwhile is cut off, and may be called an error
    assert said == []


def focus(page: Any) -> str:
    """The id of what has the focus, or its text."""
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))


def tab_to(page: Any, wanted: str) -> None:
    """Press Tab until something has the focus; every stop on the way must be visible to the eye."""
    for _ in range(60):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"no focus to be seen on {focus(page)}"
        if focus(page) == wanted:
            return
    raise AssertionError(f"{wanted} can't be reached by Tab")


APPROVE = "approve-production-canary-flight-delay"


def test_a_paused_rollout_is_approved_by_keyboard(page, served, plane):
    """Tab, Enter, a reason and Enter approve: the agent is asked, and the page shows what follows."""
    page.goto(served.link)
    page.wait_for_selector(f"#{APPROVE}")
    with plane.agent():
        tab_to(page, APPROVE)
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        assert focus(page) == "ask-go"
        page.keyboard.press("Shift+Tab")
        page.keyboard.type("seen it")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=50% follows")
        page.wait_for_selector("#line-production-canary-flight-delay[data-phase=Progressing]")
    ((kind, payload),) = plane.asked
    assert (kind, payload["reason"], payload["model"]) == ("approve", "seen it", "flight-delay")
    assert page.locator("#pause-production-canary-flight-delay").is_visible()


def test_the_first_tab_skips_to_the_content(page, served):
    """The first stop of the keyboard skips what is on every page."""
    page.goto(served.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert focus(page) == "main" or page.evaluate("location.hash") == "#main"


def test_escape_asks_nothing(page, served, plane):
    """Escape closes the question, nothing is asked, and the focus is where it was."""
    page.goto(served.link)
    page.locator(f"#{APPROVE}").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    assert focus(page) == APPROVE
    assert plane.inbox.pending("production") == []


def test_without_the_link_nothing_can_be_done(page, served):
    """A reader sees no button, but the command that does the same."""
    page.goto(served.url)
    assert page.locator("#mode").inner_text() == "read only"
    assert page.locator("button.act:visible").count() == 0
    assert page.locator("text=tidegate approve canary flight-delay").is_visible()


def test_the_token_leaves_the_address_at_once(page, served):
    """The link's secret is neither kept in the address nor in the history, nor ever sent in one."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.link)
    page.wait_for_selector("text=may act")
    assert served.token.value not in page.url
    assert not [url for url in asked if served.token.value in url.partition("#")[0]]
    assert page.context.cookies() == []


def test_a_token_of_another_server_is_forgotten(page, served, plane):
    """When the token is refused the page says so and becomes read-only."""
    page.goto(f"{served.url}/#token=old")
    page.wait_for_selector("text=may act")
    with page.expect_response("**/ask") as answered:
        page.locator(f"#{APPROVE}").click()
        page.locator("#ask-go").click()
    assert answered.value.status == 401
    page.wait_for_selector("text=open the link that")
    assert page.locator("#mode").inner_text() == "read only"
    assert plane.inbox.pending("production") == []


def test_what_changes_appears_without_a_reload(page, served, plane):
    """Weights, phases and events appear as they are stored; focus stays where it is."""
    page.goto(served.link)
    page.wait_for_selector(f"#{APPROVE}")
    page.evaluate("window.stays = true")
    page.locator("#abort-production-canary-flight-delay").focus()
    line = {**paused(time.time()), "weight": 33, "seen": 4711}
    plane.tell("flight-delay", ("something new happened",), canary=line, production=healthy(67))
    page.wait_for_selector("text=4711 requests")
    page.wait_for_selector("text=something new happened")
    assert page.locator("#line-production-canary-flight-delay .shares").inner_text().count("33%") == 1
    assert focus(page) == "abort-production-canary-flight-delay"
    assert page.evaluate("window.stays") is True
    plane.tell("sentiment", canary=paused(time.time()))
    page.wait_for_selector("#line-production-canary-sentiment")
    order = page.evaluate("[...document.querySelectorAll('article')].map(e => e.id)")
    assert order == sorted(order, key=lambda each: ("canary" not in each, each))


@pytest.mark.parametrize(
    "page", [{"viewport": PHONE}, {"viewport": PHONE, "color_scheme": "dark"}], indirect=True
)
def test_a_phone_shows_every_page_without_scrolling_sideways(page, served, plane):
    """At 390 pixels no page is wider than the screen, with long names too, and buttons are large enough."""
    with_history(plane.checkout)
    long = {**paused(time.time()), "release": "f" * 60, "reason": "x" * 300, "recording": NAME}
    plane.tell("a-model-with-a-very-long-name-" * 3, ("x" * 200,), ("y" * 200,), canary=long)
    for path in ("/", "/events", "/rollouts", f"/rollouts/{NAME}", "/history", "/reports"):
        page.goto(f"{served.link.replace('/#', path + '#')}")
        page.wait_for_load_state("networkidle") if path != "/" else page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
    page.goto(served.link)
    page.wait_for_selector(f"#{APPROVE}")
    boxes = [each.bounding_box() for each in page.locator("button.act:visible").all()]
    assert boxes
    assert min(box["height"] for box in boxes) >= 44


CONTRAST = """() => {
  const part = x => x / 255 <= .03928 ? x / 255 / 12.92 : ((x / 255 + .055) / 1.055) ** 2.4;
  const light = c => .2126 * part(c[0]) + .7152 * part(c[1]) + .0722 * part(c[2]);
  const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > .99) return c;
  } return [255, 255, 255] };
  const read = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const found = [];
  for (const e of document.querySelectorAll('main *')) {
    if (!read(e) || !e.checkVisibility() || e.closest('svg, .hidden')) continue;
    const both = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (both[0] + .05) / (both[1] + .05);
    if (ratio < 4.5) found.push([e.className, e.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return found }"""


@pytest.mark.parametrize(
    "page",
    [{"viewport": DESK}, {"viewport": DESK, "color_scheme": "dark"}],
    indirect=True,
    ids=["light", "dark"],
)
def test_text_can_be_read(page, served, plane):
    """In light and in dark all text has a contrast of 4.5 at least, in each phase."""
    with_history(plane.checkout)
    for number, phase in enumerate(("Progressing", "RolledBack", "Verified", "Degraded", "Pending")):
        plane.tell(
            f"model-{number}", ("told",), ("a problem",), canary={**paused(time.time()), "phase": phase}
        )
    for path in ("/", "/history", "/events", f"/rollouts/{NAME}"):
        page.goto(f"{served.link.replace('/#', path + '#')}")
        page.wait_for_selector("h1", state="attached")
        assert page.evaluate(CONTRAST) == [], path


def test_every_picture_has_its_colours(page, served, plane):
    """Each class that colours a bar or a line is known to the style sheet: none is left black."""
    arms = [{"release": f"{n}" * 12, "weight": 5, "out": ""} for n in range(4)]
    arms.append({"release": "88d0417c2a90-baseline", "weight": 5, "out": ""})
    plane.tell("flight-delay", canary={**paused(time.time()), "arms": arms, "recording": NAME})
    page.goto(served.link)
    page.wait_for_selector(".spark polyline")
    black = page.evaluate(
        """() => [...document.querySelectorAll('main rect, main polyline, main line')].filter(e => {
          const style = getComputedStyle(e);
          return (e.tagName === 'rect' ? style.fill : style.stroke).match(/^(rgb.0, 0, 0.|none)$/);
        }).map(e => e.outerHTML)"""
    )
    assert black == []


def test_everything_has_a_name(page, served, plane):
    """Every link, button, picture, frame and field can be told by a screen reader; no id is there twice."""
    with_history(plane.checkout)
    for path in ("/", "/history", f"/rollouts/{NAME}"):
        page.goto(f"{served.link.replace('/#', path + '#')}")
        bare = page.evaluate(
            """() => [...document.querySelectorAll('a, button, iframe, input, svg[role=img]')].filter(e =>
              !(e.textContent.trim() || e.title || e.getAttribute('aria-label') || e.labels?.length
                || e.getAttribute('aria-labelledby') || e.id === 'ask-go')).map(e => e.outerHTML)"""
        )
        assert bare == [], path
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids)), path


def test_hostile_text_runs_nothing(page, served, plane):
    """Names and texts with markup are shown as they are, in the first page and in its live part."""
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    line = {**paused(time.time()), "release": EVIL, "reason": EVIL, "paused": EVIL, "recording": ""}
    page.goto(served.link)
    plane.tell(EVIL, (EVIL,), (EVIL,), canary=line)
    page.wait_for_selector("article h3:has-text('onerror')")
    page.reload()
    page.wait_for_selector("article h3:has-text('onerror')")
    page.locator("article:has(h3:has-text('onerror')) button").first.click()
    page.wait_for_selector("dialog[open]")
    assert page.locator("main img").count() == 0


def test_a_page_says_when_it_is_not_up_to_date(page, served):
    """When the server is gone the page says so instead of showing old numbers as new."""
    page.goto(served.url)
    page.wait_for_selector("article")
    page.route("**/live*", lambda route: route.fulfill(status=200, body="<p id='x'>there</p>"))
    page.wait_for_selector("text=there")
    page.unroute("**/live*")
    page.route("**/live*", lambda route: route.fulfill(status=299, body=""))
    page.wait_for_selector("text=not up to date")


# ---------------------------------------------------------------- the command
def test_the_command_serves_the_loopback_and_ends_cleanly(plane):
    """`tidegate ui` prints its link, listens on 127.0.0.1 only, and Ctrl-C ends it with code 0."""
    command = [sys.executable, "-m", "tidegate", "ui", "--json"]
    process = subprocess.Popen(
        command, cwd=plane.checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        told = json.loads(process.stdout.readline())
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                answer = httpx.get(told["url"], timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        assert answer.status_code == 200
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=\S{40,}", told["link"])
        token = (plane.home / "ui.token").read_text().strip()
        assert told["link"].endswith(token)
        port = int(told["url"].rstrip("/").rpartition(":")[2])
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        rows = [row.split() for row in listening.splitlines() if f":{port:04X} " in row and " 0A " in row]
        assert [row[1] for row in rows if row[1].endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert not (plane.home / "ui.token").exists()
    finally:
        process.kill()
        process.wait()


def test_a_port_that_is_taken_is_said(plane, served):
    """A port that somebody has is an error of one line which says what to do."""
    command = [sys.executable, "-m", "tidegate", "ui", "--port", str(served.port)]
    done = subprocess.run(command, cwd=plane.checkout, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(
        r"tidegate: port \d+ can't be listened on: .*\. Name another by --port.*\n", done.stderr
    )
