"""What every Notifier promises, asked of the fake and of the log file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidegate.adapters.system import LogNotifier
from tidegate.errors import Unreachable
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


@pytest.fixture(params=[FakeCase, LogCase], ids=["fake", "log"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> FakeCase | LogCase:
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
