"""What every Notifier promises, asked of the fake and of the log file."""

from __future__ import annotations

import json
import logging
import smtplib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.adapters import apprise as adapter
from tidegate.adapters.apprise import AppriseNotifier, filled
from tidegate.adapters.system import BothNotifier, LogNotifier
from tidegate.core import telling
from tidegate.errors import ConfigError, Unreachable
from tidegate.ports import Event
from tidegate.testing import FakeNotifier

ONE = Event(1.5, "production", "flight-delay", "3f9c02a7b51e", "breach", "5% > 2%\nä", {"observed": 0.05})


class FakeCase:
    """The fake, its events as JSON, and how it is broken."""

    def __init__(self, root: Path) -> None:
        self.notifier = FakeNotifier()

    def told(self) -> list[str]:
        return [event.text for event in self.notifier.events]

    def break_it(self) -> None:
        self.notifier.fail_next(Unreachable("no answer"))


class LogCase:
    """The log file, read back line by line."""

    def __init__(self, root: Path) -> None:
        self.path = root / "logs" / "events.jsonl"
        self.notifier = LogNotifier(self.path)

    def told(self) -> list[str]:
        return [json.loads(line)["text"] for line in self.path.read_text().split("\n") if line]

    def break_it(self) -> None:
        self.path.unlink(missing_ok=True)
        self.path.mkdir(parents=True)


class Hook(ThreadingHTTPServer):
    """A webhook on this machine: what was posted, and how often it was called; `statuses` are its answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.posts: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.calls = 0
        self.slow = 0.0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/hook"


class _Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls += 1
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        time.sleep(self.server.slow)
        if status == 200:
            self.server.posts.append({"path": self.path, **body})
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.shutdown()
    server.server_close()


def notifier(url: str, **more: Any) -> AppriseNotifier:
    return AppriseNotifier([url], ["breach", "problem"], environ={}, pause=0.01, **more)


class AppriseCase:
    """A webhook told by apprise."""

    def __init__(self, root: Path) -> None:
        self.hook = Hook()
        self.notifier = notifier(self.hook.url)

    def told(self) -> list[str]:
        self.notifier.close(10)
        self.hook.shutdown()
        return [post["message"].split("\n\n")[0] for post in self.hook.posts]

    def break_it(self) -> None:
        self.hook.shutdown()
        self.hook.server_close()


class BothCase(LogCase):
    """Two at once, the first of which raises at each event although it must not."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.notifier = BothNotifier(_Raising(), self.notifier)


class _Raising:
    def notify(self, event: Event) -> None:
        raise RuntimeError("a defect")


Case = FakeCase | LogCase | AppriseCase | BothCase


@pytest.fixture(params=[FakeCase, LogCase, AppriseCase, BothCase], ids=["fake", "log", "apprise", "both"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return request.param(tmp_path)


def test_every_event_is_told_in_order(case):
    """Each event is delivered whole, in the order in which they came."""
    case.notifier.notify(ONE)
    case.notifier.notify(Event(2.0, "production", "", "", "problem", "two"))
    assert case.told() == ["5% > 2%\nä", "two"]


def test_a_failure_to_deliver_does_not_raise(case):
    """A notifier that can't deliver stops nobody: traffic matters more than a message."""
    case.break_it()
    case.notifier.notify(ONE)


def test_the_log_holds_the_event_s_fields(tmp_path, capsys):
    """A line of the log is the event as JSON, numbers included."""
    LogNotifier(tmp_path / "log").notify(ONE)
    assert json.loads((tmp_path / "log").read_text()) == {
        "at": 1.5,
        "plane": "production",
        "model": "flight-delay",
        "release": "3f9c02a7b51e",
        "kind": "breach",
        "text": "5% > 2%\nä",
        "data": {"observed": 0.05},
    }


def test_a_log_that_cannot_be_written_is_said_once_on_stderr(tmp_path, capsys):
    """What could not be written is said where the agent's own log sees it."""
    LogNotifier(tmp_path).notify(ONE)
    assert str(tmp_path) in capsys.readouterr().err


# ---------------------------------------------------------------- apprise
FINDING = {
    "name": "errors",
    "verdict": "FAIL",
    "observed_text": "4.1% (37/902)",
    "limit_text": "1%",
    "evidence": 2.1e5,
    "threshold": 100.0,
    "dry_run": False,
}
BREACH = Event(
    1.5,
    "production",
    "flight-delay",
    "3f9c02a7b51e",
    "breach",
    "canary: error rate 4.1% (37/902) > limit 1%",
    {"verdict": "FAIL", "findings": [{**FINDING, "dry_run": True, "limit_text": "x"}, FINDING], "weight": 25},
)


def test_a_webhook_is_told_with_the_numbers(hook):
    """The message has release, verdict, observed, limit, weight, what was done and the next command."""
    told = notifier(hook.url)
    told.notify(BREACH)
    told.close(10)
    (post,) = hook.posts
    assert post["title"] == "canary/flight-delay: 3f9c02a7b51e breached its objectives"
    assert post["type"] == "failure"
    for line in (
        "canary: error rate 4.1% (37/902) > limit 1%",
        "release   3f9c02a7b51e of flight-delay",
        "verdict   FAIL",
        "observed  4.1% (37/902)",
        "limit     1%",
        "evidence  2.1e+05 of 100 that decide",
        "weight    25%",
        "done      its weight goes to 0 at once, requests go to the release before it",
        "next      tidegate status --watch",
    ):
        assert line in post["message"].split("\n")
    assert post["observed"] == "4.1% (37/902)"
    assert (post["environment"], post["kind"], post["release"]) == ("canary", "breach", "3f9c02a7b51e")


def test_what_speaks_like_slack_is_told(hook):
    """A Slack-compatible incoming webhook gets `text` with the numbers."""
    token = "a1b2c3d4e5f6a1b2c3d4e5f6ab"
    told = notifier(f"mmost://127.0.0.1:{hook.server_port}/{token}")
    told.notify(BREACH)
    told.close(10)
    (post,) = hook.posts
    assert post["path"] == f"/hooks/{token}"
    assert "observed  4.1% (37/902)" in post["text"]
    assert "3f9c02a7b51e breached its objectives" in post["text"]


def test_only_what_was_asked_for_is_told(hook):
    """An event whose kind is not in `events` is not sent."""
    told = notifier(hook.url)
    told.notify(Event(1.0, "production", "m", "r", "weight", "5 → 25"))
    told.notify(ONE)
    told.close(10)
    assert [post["kind"] for post in hook.posts] == ["breach"]


def test_a_refused_message_is_tried_again(hook):
    """A webhook that answers 503 twice gets the message once it is well, once."""
    hook.statuses = [503, 503]
    told = notifier(hook.url)
    told.notify(ONE)
    deadline = time.monotonic() + 10
    while not hook.posts and time.monotonic() < deadline:
        time.sleep(0.01)
    told.close(10)
    assert (hook.calls, len(hook.posts)) == (3, 1)


def test_the_agent_is_never_held_up(hook):
    """Telling returns at once while the address takes seconds; a full queue loses the oldest messages."""
    hook.slow = 0.3
    told = notifier(hook.url)
    began = time.monotonic()
    for number in range(10 * adapter.QUEUED):
        told.notify(Event(1.0, "production", "m", "r", "problem", f"number {number}"))
    assert time.monotonic() - began < hook.slow * adapter.QUEUED / 10
    told.close(0.0)
    assert len(hook.posts) <= 1


def test_what_waits_is_delivered_at_the_end(hook):
    """Closing delivers what is queued, and is over in time when the address hangs."""
    told = notifier(hook.url)
    for number in range(20):
        told.notify(Event(1.0, "production", "m", "r", "problem", f"number {number}"))
    told.close(10)
    assert len(hook.posts) == 20


def test_closing_ends_in_time_when_nobody_answers(caplog):
    """A server that takes the connection and says nothing keeps nobody longer than the patience."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told = notifier(f"json://127.0.0.1:{silent.getsockname()[1]}/hook")
        told.notify(ONE)
        began = time.monotonic()
        told.close(0.3)
    assert time.monotonic() - began < 3
    assert "notify.urls[0] did not take 1 messages in time" in caplog.text


@pytest.fixture
def agents_log() -> Iterator[list[str]]:
    """What the agent's log would hold: the root logger's lines from INFO on."""
    lines: list[str] = []
    root, handler = logging.getLogger(), logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lines
    root.setLevel(before)
    root.removeHandler(handler)


def test_no_secret_is_logged(agents_log):
    """What is said of a failure names the address's place, never the address or a part that is secret."""
    secret = "s3cr3t-t0ken"
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    told = AppriseNotifier(
        [f"json://user:$PASS@127.0.0.1:{port}/$PASS?token=another-secret"],
        ["breach"],
        environ={"PASS": secret},
        pause=0.01,
        patience=0.1,
    )
    told.notify(ONE)
    deadline = time.monotonic() + 10
    while not agents_log and time.monotonic() < deadline:
        time.sleep(0.02)
    told.close(5)
    assert any("notify.urls[0] was not told" in line for line in agents_log)
    assert not [line for line in agents_log if secret in line or "another-secret" in line]


def test_a_missing_variable_is_named():
    """`$NAME` that is not set is an error which names it, and says where to set it."""
    with pytest.raises(ConfigError, match=r"notify\.urls\[1\] needs \$HOOK.*Set HOOK"):
        AppriseNotifier(["json://localhost/", "$HOOK"], ["breach"], environ={"HOOK": ""})


def test_an_unknown_address_is_refused_without_being_shown():
    """An address that apprise does not know is refused; only its scheme is shown."""
    with pytest.raises(ConfigError) as caught:
        AppriseNotifier(["nonsense://top-secret"], ["breach"], environ={})
    assert "notify.urls[0] (scheme: nonsense)" in str(caught.value)
    assert "top-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        ("$URL", "https://hooks.slack.com/services/T/B/X", "https://hooks.slack.com/services/T/B/X"),
        ("mailtos://me:${URL}@mail.example", "a/b@c:d", "mailtos://me:a%2Fb%40c%3Ad@mail.example"),
        ("json://$URL/hook", "host:8080", "json://host:8080/hook"),
        ("slack://$URL", "A/B/C", "slack://A/B/C"),
        ("json://host/a?b=100$", "x", "json://host/a?b=100$"),
    ],
)
def test_variables_are_filled_in(template, value, expected):
    """A whole address, a host or a path is filled in as it stands; a password can't break the address."""
    assert filled(template, {"URL": value}) == expected


# ---------------------------------------------------------------- e-mail
class _Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that takes every mail: as much of RFC 5321 as a client needs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.mails: list[bytes] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class _Session(socketserver.StreamRequestHandler):
    server: _Mailbox

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(b"".join(lines))
            if verb == b"AUTH":
                self.wfile.write(b"235 fine\r\n")
            elif verb == b"EHLO":
                self.wfile.write(b"250-here\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n")
            else:
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
            if verb == b"QUIT":
                return


def test_a_mail_is_sent():
    """An e-mail address gets a mail whose subject says what happened and whose text has the numbers."""
    with _Mailbox() as server:
        port = server.server_address[1]
        assert smtplib.SMTP("127.0.0.1", port).noop()[0] == 250
        told = notifier(f"mailto://127.0.0.1:{port}?from=gate@example.org&to=ops@example.org&mode=insecure")
        told.notify(BREACH)
        told.close(10)
        server.shutdown()
    (raw,) = server.mails
    mail = message_from_bytes(raw, policy=policy.default)
    assert mail["Subject"] == "canary/flight-delay: 3f9c02a7b51e breached its objectives"
    assert "ops@example.org" in mail["To"]
    body = mail.get_body(("plain", "html"))
    assert body is not None
    assert "4.1% (37/902)" in body.get_content()


# ---------------------------------------------------------------- messages
def test_a_good_end_is_told_with_its_numbers_too():
    """Each check of a verified release is told with what was observed and its limit."""
    findings = [
        {**FINDING, "verdict": "PASS"},
        {**FINDING, "name": "dry", "dry_run": True},
        {**FINDING, "name": "x", "verdict": "INCONCLUSIVE", "observed_text": "–"},
    ]
    data = {"environment": "canary", "weight": 50, "findings": findings}
    told = telling.message("verified", "production", "m", "r", "canary: r is verified", data)
    assert "checks    errors 4.1% (37/902), limit 1%\n" in told.body
    assert "weight    50%" in told.body
    assert told.tone == "good"


@given(
    kind=st.sampled_from([*telling.KINDS, "other"]),
    texts=st.lists(st.text(max_size=40), min_size=4, max_size=4),
    data=st.dictionaries(
        st.sampled_from(["findings", "weight", "verdict", "observed", "environment", "recording", "stable"]),
        st.one_of(
            st.none(), st.text(max_size=20), st.integers(), st.lists(st.dictionaries(st.text(), st.text()))
        ),
    ),
)
def test_every_event_can_be_told(kind, texts, data):
    """Any event makes a message: a title of one line, no control character, a next command."""
    told = telling.message(kind, *texts, data)
    assert "\n" not in told.title
    assert all(c == "\n" or ord(c) >= 32 for c in told.body)
    assert "next      tidegate " in told.body
