"""The pages of `tidegate ui`, asked by a program: what they show, and what they refuse."""

from __future__ import annotations

import asyncio
import re
import stat
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ui.plane import CANDIDATE, STABLE, Plane, checkout, healthy, paused, with_history
from tidegate.adapters.recordings import FileRecorder
from tidegate.ui import guard, source
from tidegate.ui.app import make
from tidegate.ui.source import Source

HOST = "127.0.0.1:9000"


class Client:
    """Asks the application as a browser or a program of this machine would."""

    def __init__(self, folder: Path) -> None:
        self.source = Source(folder)
        self.token = guard.Token(folder / ".tidegate")
        self.app = make(self.source, self.token, guard.names(9000))

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                return await client.request(method, path, **more)

        return asyncio.run(once())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, document: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        given = {"x-tidegate-token": self.token.value} if headers is None else headers
        return self.ask("POST", path, json=document, headers=given)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A plane with a canary that waits for an approval."""
    made = Plane(checkout(tmp_path))
    made.tell("flight-delay", ("canary: weight 5 → 25",), canary=paused(time.time()), production=healthy(75))
    yield made
    made.close()


@pytest.fixture
def client(plane: Plane) -> Iterator[Client]:
    made = Client(plane.checkout)
    yield made
    made.source.close()


APPROVE = {
    "verb": "approve",
    "plane": "production",
    "environment": "canary",
    "model": "flight-delay",
    "reason": "looks well",
}


# ---------------------------------------------------------------- what is shown
def test_the_first_page_shows_what_runs(client):
    """Environments, models, releases, steps, weights, checks with numbers, and what is waited for."""
    text = client.get("/").text
    told = (
        "canary, step 2 of 3",
        CANDIDATE,
        STABLE,
        "25%",
        "75%",
        "errors-vs-stable",
        "3.1%",
        "11/400",
        "Waits:",
    )
    assert [each for each in told if each not in text] == []
    assert "canary: weight 5 → 25" in text
    assert 'data-verb="approve"' in text
    assert "agent stopped: tidegate up" in text


def test_every_page_is_there_with_nothing_to_show(tmp_path):
    """A checkout where nothing ever ran has all pages, and each says what to do."""
    made = Client(with_history(checkout(tmp_path)))
    for path in ("/", "/events", "/rollouts", "/reports", "/history?env=staging"):
        answer = made.get(path)
        assert answer.status_code == 200, path
        assert 'class="empty"' in answer.text, path
    made.source.close()


def test_the_live_part_is_sent_only_when_it_changed(client, plane):
    """Asked again with the mark of what it has, a page gets nothing until something changes."""
    plane.tell("flight-delay", canary={**paused(time.time()), "deadline": None, "pause_until": None})
    first = client.get("/live")
    mark = first.headers["x-tidegate-mark"]
    assert client.get(f"/live?seen={mark}").status_code == 204
    plane.tell("flight-delay", canary={**paused(time.time()), "weight": 26})
    assert "26%" in client.get(f"/live?seen={mark}").text


def test_history_is_told_by_day(client, plane):
    """Promotions and rollbacks as Git says, the newest first, with the numbers of a rollback."""
    with_history(plane.checkout)
    text = client.get("/history").text
    assert re.search(r"<h2 id=\"day-1\">\w+day, \d+ \w+ 20\d\d</h2>", text)
    assert text.index("rolled-back") < text.index("promoted")
    assert "observed 4%, limit 1%" in text
    assert f'href="/reports/flight-delay/{STABLE}"' in text


def test_a_remote_that_does_not_answer_is_said(client, plane):
    """History shows what is here when the remote is gone, and says so."""
    with_history(plane.checkout)
    (plane.checkout.parent / "origin.git").rename(plane.checkout.parent / "gone")
    text = client.get("/history").text
    assert 'class="problem"' in text
    assert CANDIDATE in text


LINES = [
    {
        "kind": "rollout",
        "model": "flight-delay",
        "environment": "canary",
        "release": CANDIDATE,
        "stable": STABLE,
        "started": 1e9,
        "plan": {"steps": [{"setWeight": 5}]},
    },
    *(
        {
            "kind": "look",
            "at": 1e9 + second,
            "step": 0,
            "phase": "Progressing",
            "weight": 5,
            "mirror": 0,
            "share": 0.05,
            "candidate": {"requests": 10, "errors": 1, "latency": []},
            "stable": {"requests": 200, "errors": 1, "latency": []},
            "checks": [
                {
                    "name": "errors",
                    "verdict": "INCONCLUSIVE",
                    "observed": 0.1,
                    "limit": 0.02,
                    "log_evidence": 0.3 * second,
                    "threshold": 100.0,
                    "bound": 0.2,
                    "trials": 10 * second,
                }
            ],
        }
        for second in range(1, 20)
    ),
    {"kind": "event", "at": 1e9, "event": "weight", "release": CANDIDATE, "text": "canary: weight 0 → 5"},
]
NAME = f"production/flight-delay/canary-{CANDIDATE}-20010909T014640Z"


def test_a_rollout_has_its_plot_and_its_words(client, plane):
    """A recorded rollout is listed, drawn, told in words, and followed while it is under way."""
    FileRecorder(plane.home / "recordings").append(NAME, LINES)
    assert f"/rollouts/{NAME}" in client.get("/rollouts").text
    text = client.get(f"/rollouts/{NAME}").text
    assert "<svg" in text
    assert "<style" not in text
    assert "canary: weight 0 → 5" in text
    assert "It is under way." in text
    plane.tell("flight-delay", canary={**paused(time.time()), "recording": NAME})
    text = client.get("/").text
    assert f'href="/rollouts/{NAME}"' in text
    assert "Evidence on its way to the threshold that fails a check: errors at 100%" in text
    live = client.get(f"/live/rollouts/{NAME}")
    assert "<svg" in live.text
    mark = live.headers["x-tidegate-mark"]
    assert client.get(f"/live/rollouts/{NAME}?seen={mark}").status_code == 204


def test_a_damaged_recording_is_said(client, plane):
    """A recording whose lines no agent wrote is an error page that names it; what runs is shown without."""
    FileRecorder(plane.home / "recordings").append(NAME, [{"kind": "nonsense"}])
    answer = client.get(f"/rollouts/{NAME}")
    assert answer.status_code == 422
    assert NAME in answer.text
    plane.tell("flight-delay", canary={**paused(time.time()), "recording": NAME})
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/history?env=../..",
        f"/rollouts/{NAME}x",
        "/rollouts/../../etc/passwd",
        "/rollouts/%2e%2e/%2e%2e/x",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/kept/" + "0" * 40,
        "/reports/flight-delay/x",
    ],
)
def test_what_is_not_there_is_not_found(client, plane, path):
    """An unknown or hostile path is answered 404 or 422, with a page and without a trace."""
    with_history(plane.checkout)
    answer = client.get(path)
    assert answer.status_code in (404, 422)
    assert "Traceback" not in answer.text


# ---------------------------------------------------------------- hostile text
EVIL = "<script>alert(1)</script>'\"><img src=x onerror=alert(1)>{{7*7}}"


def test_hostile_text_is_only_text(client, plane):
    """Names, reasons, checks, events and problems from anywhere are escaped wherever they are shown."""
    with_history(plane.checkout)
    line = {
        **paused(time.time()),
        "release": EVIL,
        "reason": EVIL,
        "paused": EVIL,
        "stable": EVIL,
        "strategy": EVIL,
    }
    line["findings"] = [{**line["findings"][0], "name": EVIL, "observed_text": EVIL, "limit_text": EVIL}]
    line["arms"] = [{"release": EVIL, "weight": 5, "out": EVIL}]
    line["recording"] = NAME
    plane.tell(EVIL, (EVIL,), (EVIL,), canary=line)
    hostile = [*LINES[:-1], {**LINES[-1], "text": EVIL, "event": EVIL}]
    hostile[0] = {**hostile[0], "model": EVIL}
    hostile[1] = {**hostile[1], "checks": [{**LINES[2]["checks"][0], "name": EVIL}]}  # type: ignore[index]
    FileRecorder(plane.home / "recordings").append(NAME, hostile)
    for path in ("/", "/live", "/events", f"/rollouts/{NAME}", "/history", "/rollouts/" + EVIL):
        text = client.get(path).text
        seen = _Seen(text)
        assert [value for value in seen.sources if not value.startswith("/static/")] == [], path
        assert seen.handlers == [], path
        assert not re.search(r"\b49\b", text), path


class _Seen(HTMLParser):
    """What a browser would load or run of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.handlers += [name for name in named if name.startswith("on")]
        if tag in ("script", "img", "iframe", "object", "embed"):
            self.sources.append(named.get("src") or "inline")


# ---------------------------------------------------------------- who may ask
def test_every_answer_is_hardened(client):
    """No answer allows a foreign or inline script, framing, sniffing or keeping."""
    for path in ("/", "/live", "/static/live.js", "/nope", "/kept/x"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert not re.search(r"script-src[^;]*(unsafe|\*|http|data:)", policy)
        assert "frame-ancestors" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "set-cookie" not in headers


def test_pages_need_nothing_from_elsewhere(client):
    """Every address that a page loads is its own: no CDN, no inline script, no handler."""
    text = client.get("/").text
    assert re.findall(r'(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1)', text) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    for name in ("live.js", "style.css", "icon.svg"):
        found = client.get(f"/static/{name}").text
        assert not re.search(r"https?://(?!www\.w3\.org)", found), name


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9000", "127.0.0.1:9001", "127.0.0.1", "localhost.evil:9000", ""]
)
def test_a_foreign_name_is_refused(client, host):
    """A name that was pointed at this machine (DNS rebinding) gets neither pages nor actions."""
    assert client.get("/", headers={"host": host}).status_code == 421
    headers = {"host": host, "x-tidegate-token": client.token.value}
    assert client.post("/ask", APPROVE, headers).status_code == 421


def test_localhost_is_this_machine(client):
    """The server answers to both names of the loopback."""
    assert client.get("/", headers={"host": "localhost:9000"}).status_code == 200


@pytest.mark.parametrize("path", ["/ask", "/outcomes"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-tidegate-token": "x"}, 401),
        ({"x-tidegate-token": ""}, 401),
        ({"x-tidegate-token": "ü".encode("latin-1")}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"cookie": "x-tidegate-token=TOKEN"}, 401),
        ({"x-tidegate-token": "TOKEN", "origin": "http://evil.example"}, 403),
        ({"x-tidegate-token": "TOKEN", "origin": "http://127.0.0.1:9001"}, 403),
        ({"x-tidegate-token": "TOKEN", "origin": "null"}, 403),
        ({"x-tidegate-token": "TOKEN", "sec-fetch-site": "cross-site"}, 403),
        ({"x-tidegate-token": "TOKEN", "content-type": "text/plain"}, 415),
        ({"x-tidegate-token": "TOKEN", "content-length": str(guard.LARGEST + 1)}, 413),
    ],
)
def test_acting_needs_the_token_and_the_own_origin(client, plane, path, headers, status):
    """Without the token, from another page, or as a form would send it, nothing is asked or kept."""
    sent = {
        name: value.replace("TOKEN", client.token.value) if isinstance(value, str) else value
        for name, value in headers.items()
    }
    assert client.post(path, APPROVE, sent).status_code == status
    assert plane.inbox.pending("production") == []


def test_a_body_without_a_length_is_bounded(client):
    """A body that does not say how long it is, is read only so far."""

    async def endless() -> Any:
        for _ in range(guard.LARGEST // 65536 + 2):
            yield b" " * 65536

    headers = {"x-tidegate-token": client.token.value, "content-type": "application/json"}
    assert client.ask("POST", "/outcomes", content=endless(), headers=headers).status_code == 413


def test_reading_changes_nothing(client, plane):
    """No page can be asked by GET to do anything, and what acts takes POST only."""
    for path in ("/ask", "/outcomes"):
        assert client.get(path).status_code == 405
    assert client.ask("DELETE", "/", headers={"x-tidegate-token": client.token.value}).status_code in (
        405,
        415,
    )
    assert plane.inbox.pending("production") == []


def test_the_token_is_private(client, plane):
    """It lies in a file of mode 0600, is new for each server, and goes with the server that made it."""
    path = plane.home / guard.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() == client.token.value
    other = guard.Token(plane.home)
    assert other.value != client.token.value
    client.token.forget()
    assert path.exists()
    other.forget()
    assert not path.exists()


def test_no_page_holds_the_token(client):
    """Nothing that is sent to a reader has the token in it."""
    for path in ("/", "/live", "/events", "/static/live.js"):
        assert client.token.value not in client.get(path).text


# ---------------------------------------------------------------- acting
def test_an_approval_reaches_the_agent(client, plane):
    """What is asked goes to the plane's agent with the user's name and reason; its answer comes back."""
    with plane.agent():
        answer = client.post("/ask", APPROVE)
    assert answer.status_code == 200
    assert answer.json() == {"accepted": True, "text": "50% follows"}
    ((kind, payload),) = plane.asked
    assert kind == "approve"
    assert payload["by"]
    assert {k: payload[k] for k in ("environment", "model", "reason")} == {
        "environment": "canary",
        "model": "flight-delay",
        "reason": "looks well",
    }
    assert "50%" in client.get("/").text


def test_a_bearer_s_token_is_taken(client, plane):
    """Programs may send the token as they send others."""
    with plane.agent():
        answer = client.post("/ask", APPROVE, {"authorization": f"Bearer {client.token.value}"})
    assert answer.status_code == 200


def test_what_the_agent_refuses_is_told(client, plane):
    """A verb that fits nothing comes back as a refusal, with the agent's words."""
    with plane.agent():
        answer = client.post("/ask", {**APPROVE, "verb": "resume"})
    assert (answer.status_code, answer.json()["text"]) == (409, "nothing waits for resume")


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({**APPROVE, "verb": "poke"}, 409),
        ({**APPROVE, "plane": "nope"}, 409),
        ({**APPROVE, "model": 7}, 422),
        ([], 422),
        (APPROVE, 500),
    ],
)
def test_a_wrong_request_is_not_sent(client, plane, document, status):
    """An unknown verb or plane, a wrong document, or a plane without an agent: nothing is sent."""
    answer = client.post("/ask", document)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert plane.inbox.pending("production") == []


def test_an_agent_that_is_slow_is_not_waited_for_long(client, plane, monkeypatch):
    """When the agent has not answered in time the request stays with it, and that is said."""
    monkeypatch.setattr(source, "ANSWER", 0.2)
    monkeypatch.setattr(source, "agent_runs", lambda folder: True)
    answer = client.post("/ask", APPROVE)
    assert (answer.status_code, answer.json()["accepted"]) == (202, None)
    assert len(plane.inbox.pending("production")) == 1


def test_outcomes_are_kept(client):
    """Outcomes sent over HTTP are kept once; a wrong one is refused, and says which."""
    rows = [{"id": f"r{number}", "name": "converted", "value": number % 2} for number in range(3)]
    first, again = (client.post("/outcomes", sent).json() for sent in (rows, {"outcomes": rows}))
    assert (first["accepted"], first["known"], again["accepted"], again["known"]) == (3, 0, 0, 3)
    other = client.post("/outcomes", {"id": "r1", "name": "converted", "value": 0}).json()
    assert other["conflicting"] == {"count": 1, "first": ["r1"]}
    assert (other["unknown"], "can't be told" in other["note"]) == (None, True)
    wrong = client.post("/outcomes", [*rows, {"id": "x", "name": "converted", "value": "often"}])
    assert wrong.status_code == 422
    assert "outcome 4" in wrong.json()["error"]
    headers = {"x-tidegate-token": client.token.value, "content-type": "application/json"}
    assert client.ask("POST", "/outcomes", content=b"{nonsense", headers=headers).status_code == 422
    deep = b"[" * 100_000
    assert client.ask("POST", "/outcomes", content=deep, headers=headers).status_code == 422
